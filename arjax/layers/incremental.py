"""The memory of layers that mix positions: the one place that knows whether a pass is parallel or incremental.

In the parallel pass a layer sees the whole event. In the incremental pass it sees the next slice (one position
or a chunk of them) and finds what came before in the `cache` collection. A pass is incremental exactly when
`cache` is mutable and the module is not initialising:

    params = model.apply(variables, x)                                                          # parallel
    params, updates = model.apply(variables | {"cache": cache}, x_t, mutable=["cache"])         # incremental

Every cache starts as zeros, which is what the parallel pass pads with.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

ABSENT = -1


def is_incremental(module: nn.Module) -> bool:
    """Whether `module` is being applied to the next slice of an event instead of to a whole event."""
    return module.is_mutable_collection("cache") and not module.is_initializing()


def entry_shift(module: nn.Module, x: Array, axis: int) -> Array:
    """What is known before each slice of `x` along `axis`: the slice before it, `ABSENT` before the first.

    The one shift of an autoregressive network, on its integer input; every layer after it sees the present.
    The incremental pass is fed the previous slice by the sampler, so it has nothing to shift.
    """
    if is_incremental(module):
        return x
    return lax.slice_in_dim(_pad_before(x, 1, axis, ABSENT), 0, x.shape[axis], axis=axis)


def delays(module: nn.Module, x: Array, count: int, dilation: int, axis: int) -> list[Array]:
    """`x` delayed by `(count-1) * dilation, ..., dilation, 0` positions along `axis`, zeros before the start.

    The incremental pass keeps the last `(count-1) * dilation` positions: in a sliding window if dilation is 1,
    else in a ring buffer, whose cost per step does not grow with the dilation.
    """
    span = (count - 1) * dilation
    if span == 0:
        return [x]
    if not is_incremental(module):
        window = _pad_before(x, span, axis, 0)
    elif dilation == 1:
        window = _slide(module, x, span, axis)
    elif x.shape[axis] > 1:
        window = _ring_chunk(module, x, span, axis)
    else:
        return _ring_step(module, x, count, dilation, axis)
    starts = range(0, span + 1, dilation)
    return [lax.slice_in_dim(window, start, start + x.shape[axis], axis=axis) for start in starts]


def _pad_before(x: Array, amount: int, axis: int, value: int) -> Array:
    padding = [(amount if i == axis else 0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.asarray(value, x.dtype), padding)


def _memory(module: nn.Module, x: Array, slots: int, axis: int):
    shape = (*x.shape[:axis], slots, *x.shape[axis + 1 :])
    return module.variable("cache", "memory", jnp.zeros, shape, x.dtype)


def _slide(module: nn.Module, x: Array, span: int, axis: int) -> Array:
    memory = _memory(module, x, span, axis)
    window = jnp.concatenate([memory.value, x], axis)
    memory.value = lax.slice_in_dim(window, x.shape[axis], None, axis=axis)
    return window


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
