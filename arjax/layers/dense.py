"""Dense layers, also such whose connections are masked."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


@jax.custom_jvp
def dense(x: Array, kernel: Array) -> Array:
    """`x @ kernel`: `Float[..., in]` and `Float[in, out]` to `Float[..., out]`.

    The kernel's derivative is a product of matrices. Of arrays with more axes XLA makes a transposed copy first,
    which on a CPU costs half as much as the product.
    """
    return x @ kernel


@dense.defjvp
def _dense_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = dense(x, kernel)
    of_kernel = x.reshape(-1, x.shape[-1]) @ kernel_dot
    return y, x_dot @ kernel + of_kernel.reshape(y.shape)


class MaskedDense(nn.Module):
    """`y = x (kernel * mask) + bias`, without a mask `y = x kernel + bias`.

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

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Maps `Float[..., in]` to `Float[..., features]`; `mask` is boolean of shape `(in, features)`."""
        y = dense(x.astype(self.dtype), self.masked_kernel(mask))
        if not self.use_bias:
            return y
        return y + self.bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def masked_kernel(self, mask: Array | None) -> Array:
        """The kernel with zeros where `mask` is false. Shape `(in, features)`."""
        kernel = self.kernel if mask is None else jnp.where(mask, self.kernel, 0)
        return kernel.astype(self.dtype)
