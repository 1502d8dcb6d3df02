"""Dense layers whose connections are masked."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class MaskedDense(nn.Module):
    """`y = x (kernel * mask) + bias`.

    Attributes:
        in_features: number of inputs.
        features: number of outputs.
        use_bias: whether to add a bias.
        bias_init: its initial values.
        dtype: dtype of the computation; parameters are float32.
    """

    in_features: int
    features: int
    use_bias: bool = True
    bias_init: Any = dataclasses.field(default_factory=lambda: nn.initializers.zeros)  # else read as a method
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the parameters."""
        self.kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (self.in_features, self.features), jnp.float32
        )
        if self.use_bias:
            self.bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)

    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps `Float[..., in]` to `Float[..., features]`; `mask` is boolean of shape `(in, features)`."""
        y = x.astype(self.dtype) @ self.masked_kernel(mask)
        if not self.use_bias:
            return y
        return y + self.bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def masked_kernel(self, mask: Array) -> Array:
        """The kernel with zeros where `mask` is false. Shape `(in, features)`."""
        return jnp.where(mask, self.kernel, 0).astype(self.dtype)
