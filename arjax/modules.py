"""Models as the public functions take them: what can be called, hashed and compared."""

import contextlib
import dataclasses
import inspect
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import FrozenDict


@dataclasses.dataclass(frozen=True)
class Causal:
    """A causal function as a model, for all that takes one.

    Attributes:
        apply: `apply(variables, x)` or `apply(variables, x, cond)`, the parallel pass: the parameters
            `(batch, *event, num_params)` of every conditional of integers `(batch, *event)`.
        output: what the parameters mean, one of `arjax.distributions`.
    """

    apply: Callable[..., Any]
    output: Any


def forward(model: Any, variables: Any, x: Any, cond: Any = None, *, train: bool = False, **options: Any) -> Any:
    """The parallel pass: the parameters of every conditional of `x`.

    Args:
        model: a Linen module, or `Causal`.
        variables: its variables.
        x: data `(batch, *event)`.
        cond: conditioning, for a model that takes it.
        train: passed on to a model that takes it.
        options: of `nn.Module.apply`.

    Raises:
        ValueError: the model takes no `cond`.
    """
    function = type(model).__call__ if isinstance(model, nn.Module) else model.apply
    return model.apply(variables, x, *_given(model, function, cond), **_training(function, train), **options)


def log_probs(model: Any, variables: Any, x: Any, cond: Any = None, *, train: bool = False, **options: Any) -> Any:
    """The log-probabilities of `x`, in nats, whatever kind of model it is; arguments as `forward`.

    `Float[b, *event]`, of each dimension given those before it; or of each example, `Float[b]`, by a model that
    has a `log_prob` of its own because it is not one pass of conditionals. With `mutable` collections a pair, as
    of `nn.Module.apply`.
    """
    if hasattr(model, "log_prob"):
        function = type(model).log_prob
        options |= {"method": "log_prob"} | _training(function, train)
        return model.apply(variables, x, *_given(model, function, cond), **options)
    params = forward(model, variables, x, cond, train=train, **options)
    if "mutable" in options:
        params, updated = params
        return model.output.log_prob(params, x), updated
    return model.output.log_prob(params, x)


def init(model: Any, key: Any, *batch: Any, **options: Any) -> Any:
    """The variables a Linen module begins with; of `batch`, `x` and `cond`, what is None is left out."""
    method = "log_prob" if hasattr(model, "log_prob") else "__call__"
    return model.init(key, *(part for part in batch if part is not None), method=method, **options)


@contextlib.contextmanager
def rematerialised() -> Iterator[None]:
    """Within this context a model's layers forget their inner activations, which their gradient finds anew.

    Layers are the items of its lists of submodules, such as `blocks_3`: of each only what it is given stays in
    memory, for one more forward pass of arithmetic (Chen et al. 2016, arXiv:1604.06174). Nothing else changes. It
    pays where a layer is a block of several operations; that of a WaveNet is a mere convolution.
    """
    inside = False

    def layer(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal inside
        method, path = context.method_name, context.module.path
        if inside or method != "__call__" or not path or not re.search(r"_\d+$", path[-1]):
            return following(*args, **kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]

        def call(module: Any, arrays: list[Any]) -> Any:
            given = [leaf if array is None else array for leaf, array in zip(leaves, arrays, strict=True)]
            args, kwargs = jax.tree.unflatten(structure, given)
            return getattr(module, method)(*args, **kwargs)

        inside = True
        try:
            return nn.remat(call)(context.module, arrays)
        finally:
            inside = False

    with nn.intercept_methods(layer):
        yield


def _given(model: Any, function: Any, cond: Any) -> tuple[Any, ...]:
    """What is passed to `function(model or variables, x, ...)` after `x`."""
    _, _, *taken = inspect.signature(function).parameters.values()
    if cond is not None and (not taken or taken[0].name == "train"):
        raise ValueError(f"cond: {type(model).__name__} takes none")
    return () if cond is None else (cond,)


def _training(function: Any, train: bool) -> dict[str, bool]:
    taken = inspect.signature(function).parameters.values()
    takes = any(parameter.name == "train" or parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
    return {"train": True} if train and takes else {}


def hashable(model: Any) -> Any:
    """An equal module that can be hashed, or `model` itself where there is nothing to change.

    In its fields, those of modules and dataclasses in them included, lists and arrays become tuples, dictionaries
    and sets frozen ones, and numpy's scalars Python's numbers. What two calls return is equal, so that a function
    compiled for one is not compiled again for the other.

    Args:
        model: a Linen module.

    Raises:
        ValueError: a field holds something else that cannot be hashed.
    """
    return _hashable(model, type(model).__name__)


def _hashable(value: Any, name: str) -> Any:
    """`value`, which the field `name` holds."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and not isinstance(value, jax.core.Tracer):
        return _hashable(np.asarray(value).tolist(), name)
    if isinstance(value, (list, tuple)):
        items = [_hashable(item, name) for item in value]
        if isinstance(value, tuple) and all(map(operator.is_, items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, (dict, FrozenDict)):
        return FrozenDict({key: _hashable(item, name) for key, item in value.items()})
    if isinstance(value, set):
        return frozenset(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = _with_hashable_fields(value, name)
    try:
        hash(value)
    except TypeError as error:
        kind = type(value).__name__
        raise ValueError(
            f"{name}: a value that can be hashed is wanted (a dataclass is frozen), got {kind}"
        ) from error
    return value


def _with_hashable_fields(value: Any, name: str) -> Any:
    names = [
        field.name for field in dataclasses.fields(value) if field.init and field.name not in ("parent", "name")
    ]
    held = {field: getattr(value, field) for field in names}
    given = {field: _hashable(item, f"{name}.{field}") for field, item in held.items()}
    changed = {field: item for field, item in given.items() if item is not held[field]}
    if not changed:
        return value
    return value.clone(**changed) if isinstance(value, nn.Module) else dataclasses.replace(value, **changed)
