"""Causal convolutions in time, along either axis of an image, and over an image in raster order."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from arjax.layers.dense import dense
from arjax.layers.shift import shift


class CausalConv(nn.Module):
    """A convolution that sees the present and the past along one axis, and both sides along the others.

    Attributes:
        features: number of output channels.
        kernel_size: taps along each spatial axis; along `axis` the last one is the present.
        axis: the causal axis of `x` (1: time or rows, 2: columns).
        dilation: distance of the taps along `axis`.
        use_bias: whether to add a bias.
        present_mask: boolean `(in, features)`, which channels of the present an output sees; None for all.
        dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: Sequence[int]
    axis: int = 1
    dilation: int = 1
    use_bias: bool = True
    present_mask: np.ndarray | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `Float[b, *spatial, in]` to `Float[b, *spatial, features]`."""
        if x.ndim != len(self.kernel_size) + 2:
            raise ValueError(
                f"x: (batch, {len(self.kernel_size)} axes, channels) is wanted for a kernel of "
                f"{tuple(self.kernel_size)}, got shape {x.shape}"
            )
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self._masked(self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32))
        y = causal_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.axis, self.dilation)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y

    def _masked(self, kernel: Array) -> Array:
        if self.present_mask is None:
            return kernel
        mask = np.ones(kernel.shape, bool)
        mask.swapaxes(0, self.axis - 1)[-1] = self.present_mask
        return jnp.where(mask, kernel, 0)


class RasterConv(nn.Module):
    """A convolution of an image that sees what comes before a pixel in raster order, and the pixel itself.

    With `kernel_size` k the masked k x k convolution of PixelCNN (van den Oord et al., 2016a, figure 2, mask B).

    Attributes:
        features: number of output channels.
        kernel_size: k, odd; at least 3.
        present_mask: boolean `(in, features)`, which channels of the present an output sees; None for all.
        dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: int
    present_mask: np.ndarray | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `Float[b, h, w, in]` to `Float[b, h, w, features]`."""
        past = self.kernel_size // 2
        above = CausalConv(self.features, (past, self.kernel_size), use_bias=False, dtype=self.dtype, name="above")
        row = CausalConv(
            self.features, (1, past + 1), 2, present_mask=self.present_mask, dtype=self.dtype, name="row"
        )
        return row(x) + above(shift(x, axis=1))


def causal_conv(x: Array, kernel: Array, axis: int, dilation: int = 1, stride: int = 1) -> Array:
    """`CausalConv` with a given kernel `(*kernel_size, in, out)`; with `stride`, every so many-th output."""

    def convolution(x: Array, kernel: Array) -> Array:
        return _convolution(x, kernel, axis, dilation, stride)

    def patches(x: Array, kernel: Array) -> Array:
        return _patches(x, kernel, axis, dilation, stride)

    # On a CPU the kernel's gradient of a convolution along columns takes half as long again.
    return lax.platform_dependent(x, kernel, cpu=patches if axis == 2 else convolution, default=convolution)


def _padding(sizes: Sequence[int], axis: int, dilation: int) -> list[tuple[int, int]]:
    padding = [(size // 2, (size - 1) // 2) for size in sizes]
    padding[axis - 1] = ((sizes[axis - 1] - 1) * dilation, 0)
    return padding


def _convolution(x: Array, kernel: Array, axis: int, dilation: int, stride: int) -> Array:
    sizes = kernel.shape[:-2]
    spatial = "HW"[-len(sizes) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        [stride] * len(sizes),
        _padding(sizes, axis, dilation),
        rhs_dilation=[dilation if i == axis else 1 for i in range(1, x.ndim - 1)],
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )


def _patches(x: Array, kernel: Array, axis: int, dilation: int, stride: int) -> Array:
    """One matrix product over all taps."""
    sizes = kernel.shape[:-2]
    padded = jnp.pad(x, [(0, 0), *_padding(sizes, axis, dilation), (0, 0)])
    taps = []
    for place in np.ndindex(sizes):
        starts = [k * (dilation if i == axis else 1) for i, k in enumerate(place, 1)]
        stops = [start + size for start, size in zip(starts, x.shape[1:-1], strict=True)]
        spatial = tuple(slice(start, stop, stride) for start, stop in zip(starts, stops, strict=True))
        taps.append(padded[:, *spatial])
    return dense(jnp.concatenate(taps, -1), kernel.reshape(-1, kernel.shape[-1]))
