"""The memory of layers that mix positions: the one place that knows whether a pass is parallel or incremental.

In the parallel pass a layer sees the whole event. In the incremental pass it sees the next slice (one position
or a chunk of them) and finds what came before in the `cache` collection. A pass is incremental exactly when
`cache` is mutable and the module is not initialising:

    params = model.apply(variables, x)                                                          # parallel
    params, updates = model.apply(variables | {"cache": cache}, x_t, mutable=["cache"])         # incremental

Every cache starts as zeros, which is what the parallel pass pads with.

Images proceed along two axes. The pass over pixels, with the collection `present` mutable as well, is the one
that is incremental along the columns. What such a pass needs of the rows above is computed for a whole row at
once, before the first of its pixels: see `from_above`.

What depends on parameters alone, such as a masked kernel, a sampler computes before its loop: see `once`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

ABSENT = -1


def is_incremental(module: nn.Module, axis: int = 1) -> bool:
    """Whether `module` is being applied to the next slice along `axis` instead of to a whole event."""
    if not module.is_mutable_collection("cache") or module.is_initializing():
        return False
    return axis == 1 or module.is_mutable_collection("present")


def once(module: nn.Module, name: str, function: Callable[[], Array]) -> Array:
    """`function()`, which depends on parameters alone: kept in the collection `fixed` where a sampler has one."""
    if module.has_variable("fixed", name):
        return module.get_variable("fixed", name)
    value = function()
    if module.is_mutable_collection("fixed") and not module.is_initializing():
        module.put_variable("fixed", name, value)
    return value


def entry_shift(module: nn.Module, x: Array, axis: int) -> Array:
    """What is known before each slice of `x` along `axis`: the slice before it, `ABSENT` before the first.

    The one shift of an autoregressive network, on its integer input; every layer after it sees the present.
    The incremental pass is fed the previous slice by the sampler, so it has nothing to shift.
    """
    return x if is_incremental(module, axis) else _shift(x, axis, ABSENT)


def from_above(module: nn.Module, x: Array, function: Callable[[Array], Array]) -> Array:
    """`function` of the row above of `x`, `Float[b, h, w, c]`; zeros stand above the first row.

    What makes a layer of the horizontal pass see its own features in the rows above; it has to `leave_below` them.
    Before the pixels of a row, a pass over the whole of it with the mutable collection `above` applies `function`
    to the features that the row before left; all else in that pass is dead code, which the compiler drops.
    """
    if not is_incremental(module):
        return function(_shift(x, 1, 0))
    if module.is_mutable_collection("above"):
        row = module.get_variable("present", "row", jnp.zeros_like(x))
        module.put_variable("above", "row", function(row))
    return module.get_variable("above", "row")


def leave_below(module: nn.Module, x: Array) -> None:
    """Leaves `x`, features of the present pixel, to `from_above` in the next row."""
    if is_incremental(module, axis=2):
        module.put_variable("present", "row", x)


def delays(module: nn.Module, x: Array, count: int, dilation: int, axis: int) -> list[Array]:
    """`x` delayed by `(count-1) * dilation, ..., dilation, 0` positions along `axis`, zeros before the start.

    The incremental pass keeps the last `(count-1) * dilation` positions: in a sliding window if dilation is 1,
    else in a ring buffer, whose cost per step does not grow with the dilation.
    """
    span = (count - 1) * dilation
    if span == 0:
        return [x]
    if not is_incremental(module, axis):
        window = _pad_before(x, span, axis, 0)
    elif dilation == 1:
        window = remembered(module, x, span, axis)
    elif x.shape[axis] > 1:
        window = _ring_chunk(module, x, span, axis)
    else:
        return _ring_step(module, x, count, dilation, axis)
    starts = range(0, span + 1, dilation)
    return [lax.slice_in_dim(window, start, start + x.shape[axis], axis=axis) for start in starts]


def remembered(module: nn.Module, x: Array, span: int, axis: int) -> Array:
    """The slice `x` of an incremental pass with the `span` positions before it."""
    if span == 0:
        return x
    memory = _memory(module, x, span, axis)
    window = jnp.concatenate([memory.value, x], axis)
    memory.value = lax.slice_in_dim(window, x.shape[axis], None, axis=axis)
    return window


def _shift(x: Array, axis: int, value: int) -> Array:
    return lax.slice_in_dim(_pad_before(x, 1, axis, value), 0, x.shape[axis], axis=axis)


def _pad_before(x: Array, amount: int, axis: int, value: int) -> Array:
    padding = [(amount if i == axis else 0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.asarray(value, x.dtype), padding)


def _memory(module: nn.Module, x: Array, slots: int, axis: int):
    shape = (*x.shape[:axis], slots, *x.shape[axis + 1 :])
    return module.variable("cache", "memory", jnp.zeros, shape, x.dtype)


def _ring(module: nn.Module, x: Array, span: int, axis: int):
    """A ring of `span + 1` slots, so that the newest position is written before the oldest one is read."""
    position = module.variable("cache", "position", jnp.zeros, (), jnp.int32)
    return _memory(module, x, span + 1, axis), position


def _ring_step(module: nn.Module, x: Array, count: int, dilation: int, axis: int) -> list[Array]:
    span = (count - 1) * dilation
    memory, position = _ring(module, x, span, axis)
    now = position.value
    memory.value = lax.dynamic_update_slice_in_dim(memory.value, x, now % (span + 1), axis)
    position.value = now + 1
    past = [
        lax.dynamic_slice_in_dim(memory.value, (now + 1 + j * dilation) % (span + 1), 1, axis)
        for j in range(count - 1)
    ]
    return [*past, x]


def _ring_chunk(module: nn.Module, x: Array, span: int, axis: int) -> Array:
    memory, position = _ring(module, x, span, axis)
    slots, length, now = span + 1, x.shape[axis], position.value
    past = jnp.take(memory.value, (now - span + jnp.arange(span)) % slots, axis)
    window = jnp.concatenate([past, x], axis)
    newest = lax.slice_in_dim(window, length - 1, None, axis=axis)
    targets = (now + length - slots + jnp.arange(slots)) % slots
    memory.value = jnp.take(newest, jnp.argsort(targets), axis)
    position.value = now + length
    return window
