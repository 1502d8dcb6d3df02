"""What users pass in, checked at the door: every public function refuses the same, in the same words.

The dtype and the shape of an array are always known. Its values are read unless it is traced (within `jit`,
`vmap`, `grad`) or spread over several hosts; what cannot be read and is wrong becomes NaN where it is used, and of
NaN no distribution draws a level (see `arjax.distributions`).
"""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from arjax.decoding import Plan, check_nucleus, kind
from arjax.distributions import BELOW_ONE
from arjax.layers import ABSENT, Several

COLDEST = 1e-30
"""Temperatures below this draw as this one does: the modes, without overflow."""


def check_data(x: Any, levels: int | None, name: str = "x") -> Any:
    """`x` as an array; `ValueError` unless it is of integers `0..levels-1` and of shape `(batch, *event)`.

    With None for `levels`, of finite floats.
    """
    array = _array(x)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name}: one example or more, (batch, *event), is wanted, got {_got(x)}")
    _check_support(array, levels, name)
    return array


def check_prompt(prompt: Any, levels: int | None) -> Any:
    """`prompt` as an array of shape `(batch, length)`; `ValueError` unless its values are as in `check_data`."""
    array = _array(prompt)
    if array.ndim != 2 or len(array) == 0:
        raise ValueError(f"a prompt of shape (batch, length) is wanted, got {_got(prompt)}")
    _check_support(array, levels, "prompt")
    return array


def check_cond(model: Any, cond: Any, batch: int) -> Any:
    """`cond` with lists of numbers as arrays; `ValueError` unless it is one for each of `batch` examples.

    And unless labels are in the range of the model's classes. What else a model wants of `cond` it checks itself.
    """
    cond = jax.tree.map(_array, cond, is_leaf=_is_list)
    for leaf in jax.tree.leaves(cond):
        if leaf.ndim == 0 or len(leaf) != batch:
            got = len(leaf) if leaf.ndim else f"{leaf}"
            raise ValueError(f"cond: one for each of {batch} examples is wanted, got {got}")
        if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise ValueError(f"cond: an array of numbers is wanted, got dtype {leaf.dtype}")
    conditioning: Any = getattr(model, "conditioning", None)
    several = isinstance(conditioning, Several) and isinstance(cond, (tuple, list))
    parts = zip(conditioning.parts, cond, strict=False) if several else [(conditioning, cond)]
    for part, own in parts:
        classes = getattr(part, "num_classes", None)
        if classes is not None and hasattr(own, "dtype") and jnp.issubdtype(own.dtype, jnp.integer):
            _check_integers(own, 0, classes - 1, "cond: labels")
    return cond


def check_seeds(seeds: Any) -> Any:
    """`seeds` as an array; `ValueError` unless they are one integer or more."""
    array = _array(seeds)
    if array.ndim != 1 or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"seeds: one integer or more is wanted, got {_got(seeds)}")
    return array


def check_batch(model: Any, batch: Any) -> dict[str, Any]:
    """A batch of `arjax.training` with arrays as parts; `ValueError` unless they fit `model` and each other."""
    if not isinstance(batch, Mapping) or "x" not in batch:
        got = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch with x is wanted, as in {{'x': x}}, got {got}")
    x = check_data(batch["x"], model.output.levels)
    checked = {**batch, "x": x, "cond": check_cond(model, batch.get("cond"), len(x))}
    if hasattr(model, "log_prob") and (unfit := {"scored", "before"} & set(batch)):
        raise ValueError(f"a batch of x and cond is wanted for {type(model).__name__}, got {', '.join(unfit)}")
    if "scored" in batch:
        checked["scored"] = _of_shape(batch["scored"], x.shape, jnp.bool_, "scored: booleans of the shape of x,")
    if "before" in batch:
        checked["before"] = _of_shape(batch["before"], (len(x), 1), jnp.integer, "before: integers of shape")
        _check_integers(checked["before"], ABSENT, model.output.levels - 1, "before: integers")
    return checked


def check_shape(shape: Any) -> tuple[int, ...]:
    """The shape of a batch of samples; `ValueError` unless it is `(batch, *event)` of integers of 1 or more."""
    sizes = _array(shape)
    if sizes.ndim != 1 or len(sizes) < 2 or not np.issubdtype(sizes.dtype, np.integer) or min(sizes) < 1:
        raise ValueError(f"a shape (batch, *event) of integers of 1 or more is wanted, got {shape}")
    return tuple(map(int, sizes))


def check_plan(model: Any, noise: Any, evidence: Any) -> Plan:
    """The plan of `noise` and `evidence`; `ValueError` unless they fit `model` and each other."""
    if not hasattr(model, "parts"):
        plan = check_evidence(check_noise(noise), evidence, model.output.levels)
    else:
        plan = _plan_of_parts(model, noise, evidence)
    if hasattr(model, "check_plan"):
        model.check_plan(plan)
    return plan


def _plan_of_parts(model: Any, noise: Any, evidence: Any) -> Plan:
    if not isinstance(noise, Mapping) or "x" not in noise:
        raise ValueError(f"noise: a dictionary with x among its parts is wanted, got {_keys(noise)}")
    parts = model.parts(np.shape(noise["x"]))
    given = () if evidence is None else _pair(evidence)
    for name, tree in zip(("noise", "evidence values", "evidence mask"), (noise, *given), strict=False):
        if not isinstance(tree, Mapping) or set(tree) != set(parts):
            raise ValueError(f"{name}: a dictionary of {', '.join(parts)} is wanted, got {_keys(tree)}")
    plans = {}
    for name, part in parts.items():
        own = check_noise(noise[name])
        if own.shape != part.shape:
            raise ValueError(f"noise: {name} of shape {part.shape} is wanted, got {own.shape}")
        plans[name] = check_evidence(own, tuple(tree[name] for tree in given) or None, part.levels)
    return Plan(*({name: plan[i] for name, plan in plans.items()} for i in range(1 + len(given))))


def check_noise(noise: Any) -> Any:
    """`noise` as an array; `ValueError` unless it holds floats in [0, 1) of shape `(batch, *event)`, none empty.

    Rounding to float32 leaves it below 1.
    """
    array = _array(noise)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"noise: one example or more, (batch, *event), is wanted, got {_got(noise)}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"noise: floats in [0, 1) are wanted, got dtype {array.dtype}")
    values = _values(array)
    if values is not None and not ((values >= 0) & (values < 1)).all():
        raise ValueError(f"noise: floats in [0, 1) are wanted, got values {values.min()}..{values.max()}")
    if isinstance(array, np.ndarray):  # as float64 it would be rounded on its way into `jit`
        return np.minimum(array.astype(np.float64), BELOW_ONE).astype(np.float32)
    return array


def check_evidence(noise: Any, evidence: Any, levels: int | None) -> Plan:
    """The plan of `noise` and `evidence`; `ValueError` unless its values and its mask fit."""
    if evidence is None:
        return Plan(noise)
    given, mask = _pair(evidence)
    numbers, name = (jnp.floating, "floats") if levels is None else (jnp.integer, "integers")
    values = _of_shape(given, noise.shape, numbers, f"evidence values: {name} of the sample's shape")
    known = _of_shape(mask, noise.shape, jnp.bool_, "evidence mask: booleans of the sample's shape")
    read, where = _values(values), _values(known)
    if read is not None and where is not None:
        _check_support(read[where], levels, "evidence values")
    return Plan(noise, values.astype(kind(levels)), known)


def _pair(evidence: Any) -> tuple[Any, Any]:
    if not isinstance(evidence, (tuple, list)) or len(evidence) != 2:
        got = f"{len(evidence)}" if isinstance(evidence, (tuple, list)) else type(evidence).__name__
        raise ValueError(f"evidence: a pair (values, mask) is wanted, got {got}")
    return evidence[0], evidence[1]


def check_draw(output: Any, temperature: Any, top_p: Any, batch: int) -> tuple[ArrayLike, ArrayLike | None]:
    """Temperature and `top_p` as `arjax.decoding.Draw` takes them; `ValueError` unless they and `output` fit."""
    most = np.finfo(np.float32).max
    temperature = _setting(temperature, batch, most, "temperature", "a finite temperature above 0")
    if top_p is None:
        return temperature, None
    check_nucleus(output)
    return temperature, _setting(top_p, batch, np.float32(1), "top_p", "a top_p above 0 and at most 1")


def _setting(value: Any, batch: int, most: np.float32, name: str, wanted: str) -> ArrayLike:
    """A scalar or one number per example in float32, `0 < value <= most`; NaN for a traced one that is not."""
    array = _array(value)
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise ValueError(f"{wanted} is wanted, got {value!r}")
    if array.shape not in ((), (batch,)):
        raise ValueError(
            f"{name}: a scalar or one for each of {batch} examples is wanted, got shape {array.shape}"
        )
    values = _values(array)
    if values is None:
        array = array.astype(jnp.float32)
        return jnp.where((array > 0) & (array <= most), jnp.maximum(array, COLDEST), jnp.nan)
    fits = (values > 0) & (values <= most)
    if not fits.all():
        raise ValueError(f"{wanted} is wanted, got {values[~fits].ravel()[0]}")
    return np.maximum(values.astype(np.float64), COLDEST).astype(np.float32)


def _check_support(x: Any, levels: int | None, name: str) -> None:
    if levels is not None:
        _check_integers(x, 0, levels - 1, f"{name}: integers")
        return
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: finite floats are wanted, got dtype {x.dtype}")
    values = _values(x)
    if values is not None and not (finite := np.isfinite(values)).all():
        raise ValueError(f"{name}: finite floats are wanted, got {values[~finite].ravel()[0]}")


def _check_integers(x: Any, low: int, high: int, what: str) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{what} {low}..{high} are wanted, got dtype {x.dtype}")
    values = _values(x)
    if values is not None and values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{what} {low}..{high} are wanted, got values {values.min()}..{values.max()}")


def _of_shape(value: Any, shape: tuple[int, ...], kind: Any, wanted: str) -> Any:
    array = _array(value)
    if array.shape != shape or not jnp.issubdtype(array.dtype, kind):
        raise ValueError(f"{wanted} {shape} are wanted, got {_got(value)}")
    return array


def _array(value: Any) -> Any:
    if isinstance(value, Array | np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)
    return array if array.size else array.astype(np.int32)  # of an empty list numpy makes floats


def _keys(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__


def _got(value: Any) -> str:
    """The dtype and the shape of an array or of nested lists, the type of all else."""
    array = _array(value)
    return f"{array.dtype} of {array.shape}" if hasattr(value, "dtype") or array.ndim else type(value).__name__


def readable(array: Any) -> bool:
    """Whether values can be read: not of what is traced or spread over several hosts."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def _values(array: Any) -> np.ndarray | None:
    """The values of `array`, or None where they cannot be read."""
    return np.asarray(array) if readable(array) else None


def _is_list(node: Any) -> bool:
    """Whether `node` is a list of numbers, perhaps a nested one."""
    return isinstance(node, list) and all(isinstance(item, Number) or _is_list(item) for item in node)
