"""Networks as JSON: what a checkpoint records of a model, and how the model is made of it again.

A description holds the names of classes and functions and the values of fields. To build a model from one imports
modules, but only such as are allowed, and runs nothing of what a file holds: no pickle, no code. Of a description

    {"class": "arjax.models.made:MADE", "fields": {"event": {"tuple": [8]}, "activation": {"name": "jax.nn:relu"}}}

a class is a Linen module, a dataclass or a named tuple; `name` is a function or a class as a value. What cannot be
told by name, such as a lambda, is `unnamed`: it can be compared, but not built.
"""

import dataclasses
import functools
import importlib
import operator
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from arjax.modules import hashable

Description = Any
"""A JSON value."""

PACKAGES = ("arjax", "jax", "flax")
"""Whose classes and functions a description may name."""
PUBLIC = ("jax.nn", "jax.nn.initializers", "jax.numpy", "flax.linen")
"""Where functions are looked for first: they stay there from version to version."""


def describe(model: Any) -> Description:
    """The description of a model; that of an equal one, in any process, is equal."""
    return _describe(hashable(model))


def build(description: Description, modules: Sequence[str] = ()) -> Any:
    """The model of a description.

    Args:
        description: what `describe` returned.
        modules: names of modules or packages that it may name besides `PACKAGES`.

    Raises:
        ValueError: it names something else, or something that is not there or cannot be told by name, or the
            fields are not those of the class.
    """
    return _build(description, (*PACKAGES, *modules))


def _describe(value: Any) -> Description:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if (dtype := _dtype(value)) is not None:
        return {"dtype": dtype.name}
    if isinstance(value, functools.partial):
        return {"partial": list(map(_describe, (value.func, value.args, FrozenDict(value.keywords))))}
    if (dataclasses.is_dataclass(value) and not isinstance(value, type)) or hasattr(value, "_fields"):
        fields = {name: _describe(getattr(value, name)) for name in _names(value)}
        return {"class": _path(type(value)), "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_describe(item) for item in value]}
    if isinstance(value, FrozenDict):
        return {"dict": [[_describe(key), _describe(item)] for key, item in value.items()]}
    if isinstance(value, frozenset):
        return {"set": sorted(map(_describe, value), key=str)}
    path = _public(value) or _path(value)
    return {"name": path} if _found(path) is value else {"unnamed": re.sub(r" at 0x[0-9a-f]+", "", repr(value))}


def _build(description: Description, packages: Sequence[str]) -> Any:
    def each(descriptions: Any) -> tuple[Any, ...]:
        return tuple(_build(item, packages) for item in descriptions)

    match description:
        case {"class": path, "fields": fields}:
            return _instance(_named(path, packages), {name: _build(fields[name], packages) for name in fields})
        case {"name": path}:
            return _named(path, packages)
        case {"dtype": name}:
            dtype = jnp.dtype(name)
            return getattr(jnp, dtype.name, dtype)
        case {"partial": parts}:
            function, args, keywords = each(parts)
            return functools.partial(function, *args, **keywords)
        case {"tuple": items}:
            return each(items)
        case {"dict": items}:
            return FrozenDict(map(each, items))
        case {"set": items}:
            return frozenset(each(items))
        case {"unnamed": text}:
            raise ValueError(f"the network holds {text}, wanted a function that can be told by its name")
        case None | bool() | int() | float() | str():
            return description
    raise ValueError(f"a description of a network is wanted, got {description!r}")


def _instance(kind: Any, fields: dict[str, Any]) -> Any:
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        raise ValueError(f"{_path(kind)}: a module, a dataclass or a named tuple is wanted")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{_path(kind)} does not have the fields {', '.join(fields)}: {error}") from error


def _names(value: Any) -> list[str]:
    """The fields that make a value; of a module's name only one that was given."""
    if hasattr(value, "_fields"):
        return list(value._fields)
    names = [field.name for field in dataclasses.fields(value) if field.init]
    if isinstance(value, nn.Module):
        return [name for name in names if name != "parent" and (name != "name" or value.name is not None)]
    return names


def _dtype(value: Any) -> np.dtype | None:
    """The dtype that a value such as `jnp.bfloat16` or `np.float32` is, or None."""
    if isinstance(value, type):
        value = np.dtype(value) if issubclass(value, np.generic) else getattr(value, "dtype", None)
    return value if isinstance(value, np.dtype) else None


def _path(value: Any) -> str:
    """`module:name` of a class or a function; of the module that runs as a program, its own name."""
    module = getattr(value, "__module__", None)
    if module == "__main__":
        module = _main() or module
    return f"{module}:{getattr(value, '__qualname__', None)}"


def _public(value: Any) -> str | None:
    """The name in one of the `PUBLIC` modules."""
    name = getattr(value, "__name__", "")
    found = (module for module in PUBLIC if name and getattr(sys.modules.get(module), name, None) is value)
    return next((f"{module}:{name}" for module in found), None)


def _main() -> str | None:
    """The name of the module that runs as a program, by which others import it."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(getattr(main, "__spec__", None), "name", None) or (Path(file).stem if file else None)


def _found(path: str) -> Any:
    """What `module:name` names, None if it is not there."""
    module, _, name = path.partition(":")
    try:
        place = sys.modules["__main__"] if module == _main() else importlib.import_module(module)
        return operator.attrgetter(name)(place)
    except (ImportError, AttributeError, ValueError):
        return None


def _named(path: str, packages: Sequence[str]) -> Any:
    """The class or function `module:name` of one of the packages."""

    def allowed(module: str) -> bool:
        return any(module == package or module.startswith(f"{package}.") for package in packages)

    module = path.partition(":")[0]
    if not allowed(module):
        raise ValueError(
            f"the network holds {path}, wanted one of {', '.join(packages)}: modules=({module!r},) adds"
        )
    value = _found(path)
    if value is None:
        raise ValueError(f"the network holds {path}, which cannot be found, wanted a name that can be imported")
    if not allowed(_path(value).partition(":")[0]):
        raise ValueError(
            f"the network holds {path}, which is of {_path(value)}, wanted one of {', '.join(packages)}"
        )
    return value
