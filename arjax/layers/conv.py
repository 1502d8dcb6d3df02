"""Causal convolutions in time, along either axis of an image, and over an image in raster order."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from arjax.layers.incremental import (
    BLOCK,
    delays,
    from_above,
    from_before,
    is_incremental,
    leave_below,
    once,
    remembered,
)


class CausalConv(nn.Module):
    """A convolution that sees the present and the past along one axis, and both sides along the others.

    Attributes:
        features: number of output channels.
        kernel_size: taps along each spatial axis; along `axis` the last one is the present.
        axis: the causal axis of `x` (1: time or rows, 2: columns), along which incremental passes proceed.
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
                f"a kernel of {tuple(self.kernel_size)} wants (batch, {len(self.kernel_size)} axes, channels), "
                f"got x of shape {x.shape}"
            )
        shape = (*self.kernel_size, x.shape[-1], self.features)
        parameter = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        kernel = once(self, "kernel", lambda: self._masked(parameter).astype(self.dtype))
        y = causal_conv(self, x.astype(self.dtype), kernel, self.axis, self.dilation)
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

    def setup(self):
        """Creates the layers."""
        past = self.kernel_size // 2
        self.above = CausalConv(self.features, (past, self.kernel_size), use_bias=False, dtype=self.dtype)
        self.row = CausalConv(
            self.features, (1, past + 1), axis=2, present_mask=self.present_mask, dtype=self.dtype
        )

    def __call__(self, x: Array) -> Array:
        """Maps `Float[b, h, w, in]` to `Float[b, h, w, features]`."""
        leave_below(self, x)
        return self.row(x) + from_above(self, x, self.above)


def causal_conv(
    module: nn.Module, x: Array, kernel: Array, axis: int, dilation: int = 1, stride: int = 1
) -> Array:
    """`CausalConv` with a given kernel `(*kernel_size, in, out)`; the memory is `module`'s.

    With `stride`, every so many-th output along each axis that the pass has before it whole.
    """
    span = (kernel.shape[axis - 1] - 1) * dilation

    def matmul(x: Array, kernel: Array) -> Array:
        return _matmul(module, x, kernel, axis, dilation, stride)

    def convolution(x: Array, kernel: Array) -> Array:
        return _convolution(x, kernel, axis, dilation, stride, span)

    if not is_incremental(module, axis):
        # On a CPU the kernel's gradient of a convolution along columns takes 3 times as long.
        return lax.platform_dependent(x, kernel, cpu=matmul if axis == 2 else convolution, default=convolution)
    if x.ndim == 3 and dilation >= BLOCK and kernel.shape[0] > 1:
        # Sliced before the loop of a sampler: in it, each slice would be a copy at every step.
        present = once(module, "present", lambda: kernel[-1])
        past = once(module, "past", lambda: kernel[:-1].reshape(-1, kernel.shape[-1]))
        before = from_before(module, x, kernel.shape[0], dilation, lambda taps: jnp.concatenate(taps, -1) @ past)
        return x @ present + before
    if x.ndim == 3 or axis == 2 or dilation > 1:
        return matmul(x, kernel)
    return _convolution(remembered(module, x, span, axis), kernel, axis, dilation, stride, 0)


def _convolution(x: Array, kernel: Array, axis: int, dilation: int, stride: int, before: int) -> Array:
    sizes = kernel.shape[:-2]
    padding = [(size // 2, (size - 1) // 2) for size in sizes]
    padding[axis - 1] = (before, 0)
    spatial = "HW"[-len(sizes) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        [stride] * len(sizes),
        padding,
        rhs_dilation=[dilation if i == axis else 1 for i in range(1, x.ndim - 1)],
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )


def _matmul(module: nn.Module, x: Array, kernel: Array, axis: int, dilation: int, stride: int) -> Array:
    """One matrix product over all taps."""
    sizes, shape = kernel.shape[:-2], x.shape
    others = [i for i in range(1, x.ndim - 1) if i != axis]
    padding = [(sizes[i - 1] // 2, (sizes[i - 1] - 1) // 2) if i in others else (0, 0) for i in range(x.ndim)]
    taps = delays(module, jnp.pad(x, padding), sizes[axis - 1], dilation, axis)
    for i in others:
        taps = [lax.slice_in_dim(tap, k, k + shape[i], axis=i) for tap in taps for k in range(sizes[i - 1])]
    for i in range(1, x.ndim - 1):
        if stride > 1 and not is_incremental(module, i):
            taps = [lax.slice_in_dim(tap, 0, None, stride, axis=i) for tap in taps]
    kernel = jnp.moveaxis(kernel, axis - 1, 0)
    return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])
