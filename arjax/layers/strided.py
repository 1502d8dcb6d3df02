"""Down- and upsampling by 2 that keep an image causal, after PixelCNN++ (Salimans et al., 2017).

A coarse row stands for two rows of the finer level and is computed at the first of them, from it and the row
before; likewise columns. In an incremental pass the phase of a row or a column, its number modulo the period, is
static; None stands for a pass that has all of them before it. What is shown to a layer at an odd phase it
remembers; what it has computed for two rows or columns at an even phase it hands out one by one.

All functions take a kernel `(rows, columns, in, out)`, whose memory is `module`'s.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from arjax.layers.conv import causal_conv
from arjax.layers.incremental import from_above, is_incremental, leave_below

Phase = int | None


def runs(*phases: Phase) -> bool:
    """Whether the coarse level computes something at these phases of row and column."""
    return all(phase is None or phase % 2 == 0 for phase in phases)


def coarser(phase: Phase) -> Phase:
    """The phase of the coarse level."""
    return phase if phase is None else phase // 2


def raster_conv(module: nn.Module, x: Array, kernel: Array) -> Array:
    """Sees the row above, the columns on the left and the pixel itself; kernel `(2, k, in, out)`."""

    def above(row: Array) -> Array:
        return causal_conv(module, row, kernel[:1], axis=1)

    leave_below(module, x)
    return causal_conv(module, x, kernel[1:], axis=2) + from_above(module, x, above)


def shrink_rows(module: nn.Module, x: Array, kernel: Array) -> Array:
    """Stride 2 after rows above; `Float[b, h, w, in] -> Float[b, h/2, w/2, out]`, kernel `(2, k, in, out)`."""
    return causal_conv(module, x, kernel, axis=1, stride=2)


def shrink_pixels(module: nn.Module, x: Array, kernel: Array, row: Phase) -> Array:
    """Stride 2 in raster order; `Float[b, h, w, in] -> Float[b, h/2, w/2, out]`, kernel `(2, k, in, out)`."""

    def above(row: Array) -> Array:
        return causal_conv(module, row, kernel[:1], axis=1, stride=2)

    leave_below(module, x)
    y = causal_conv(module, x, kernel[1:], axis=2, stride=2)
    return y + from_above(module, x, above) if runs(row) else y


def grow_rows(module: nn.Module, y: Array, kernel: Array, row: Phase) -> Array:
    """Each row of `y` makes two: `Float[b, h, w, in] -> Float[b, 2h, 2w, out]`, kernel `(2, 3, in, out)`."""
    if row is not None and not runs(row):
        return module.get_variable("cache", "second")
    products = jnp.einsum("bhwi,rcio->bhwrco", y, kernel)
    left = jnp.pad(products[:, :, 1:, :, 0], ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)))
    pairs = jnp.stack([products[..., 1, :], products[..., 2, :] + left], axis=4)
    rows = [_flat_columns(pairs[:, :, :, i]) for i in range(2)]
    if row is None:
        return _interleave(rows, axis=1)
    module.put_variable("cache", "second", rows[1])
    return rows[0]


def grow_pixels(module: nn.Module, y: Array, kernel: Array, row: Phase, column: Phase) -> Array:
    """Each pixel of `y` makes four: `Float[b, h, w, in] -> Float[b, 2h, 2w, out]`, kernel `(2, 2, in, out)`."""

    def pair(y: Array, i: int) -> Array:
        return _flat_columns(jnp.einsum("bhwi,cio->bhwco", y, kernel[i]))

    if row is None:
        return _interleave([pair(y, 0), pair(y, 1)], axis=1)
    if not runs(row):
        return from_above(module, y, lambda y: pair(y, 1))
    if not is_incremental(module, axis=2):
        return pair(y, 0)
    if not runs(column):
        return module.get_variable("cache", "second")
    leave_below(module, y)
    first, second = jnp.split(pair(y, 0), 2, axis=2)
    module.put_variable("cache", "second", second)
    return first


def _flat_columns(pairs: Array) -> Array:
    """`[b, h, w, 2, c] -> [b, h, 2w, c]`."""
    return pairs.reshape(*pairs.shape[:2], -1, pairs.shape[-1])


def _interleave(arrays: list[Array], axis: int) -> Array:
    stacked = jnp.stack(arrays, axis + 1)
    return lax.collapse(stacked, axis, axis + 2)
