"""Down- and upsampling by 2 that keep an image causal, after PixelCNN++ (Salimans et al., 2017).

A coarse row stands for two rows of the finer level and is computed at the first of them, from it and the row
before; likewise columns. All functions take a kernel `(rows, columns, in, out)`.
"""

import jax.numpy as jnp
from jax import Array, lax

from arjax.layers.conv import causal_conv


def raster_conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Sees the row above and the present one up to the pixel; kernel `(2, k, in, out)`, k 1 or 2."""
    return causal_conv(x, kernel, axis=1, stride=stride)  # an even kernel reaches further to the left


def shrink_rows(x: Array, kernel: Array) -> Array:
    """Stride 2 after rows above; `Float[b, h, w, in] -> Float[b, h/2, w/2, out]`, kernel `(2, k, in, out)`."""
    return causal_conv(x, kernel, axis=1, stride=2)


def shrink_pixels(x: Array, kernel: Array) -> Array:
    """Stride 2 in raster order; `Float[b, h, w, in] -> Float[b, h/2, w/2, out]`, kernel `(2, k, in, out)`."""
    return raster_conv(x, kernel, stride=2)


def grow_rows(y: Array, kernel: Array) -> Array:
    """Each row of `y` makes two: `Float[b, h, w, in] -> Float[b, 2h, 2w, out]`, kernel `(2, 3, in, out)`."""
    products = jnp.einsum("bhwi,rcio->bhwrco", y, kernel)
    left = jnp.pad(products[:, :, 1:, :, 0], ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)))
    pairs = jnp.stack([products[..., 1, :], products[..., 2, :] + left], axis=4)
    return _interleave([_flat_columns(pairs[:, :, :, i]) for i in range(2)], axis=1)


def grow_pixels(y: Array, kernel: Array) -> Array:
    """Each pixel of `y` makes four: `Float[b, h, w, in] -> Float[b, 2h, 2w, out]`, kernel `(2, 2, in, out)`."""
    rows = [_flat_columns(jnp.einsum("bhwi,cio->bhwco", y, kernel[i])) for i in range(2)]
    return _interleave(rows, axis=1)


def _flat_columns(pairs: Array) -> Array:
    """`[b, h, w, 2, c] -> [b, h, 2w, c]`."""
    return pairs.reshape(*pairs.shape[:2], -1, pairs.shape[-1])


def _interleave(arrays: list[Array], axis: int) -> Array:
    stacked = jnp.stack(arrays, axis + 1)
    return lax.collapse(stacked, axis, axis + 2)
