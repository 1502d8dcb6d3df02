"""RealNVP, Dinh, Sohl-Dickstein and Bengio (2017), "Density estimation using Real NVP", arXiv 1605.08803.

Affine couplings (section 3.2): what a mask keeps decides how the rest is scaled and moved, so that both
directions are one pass. Masks are checkerboards and halves of the channels (section 3.4, figure 3), a squeeze
turns 2 x 2 squares into channels, and half of the variables are factored out at each scale (section 3.6).

Deviations: residual blocks have no batch nor weight normalisation; their last layer begins at zero, so that each
coupling begins as the identity; couplings are followed by `ActNorm` unless `BatchNorm`, the paper's, is asked for.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from arjax.decoding import Draw, Drawn
from arjax.flows.elementwise import ActNorm
from arjax.flows.flow import CACHED, Chain, Flow


class Perceptron(nn.Module):
    """A network for couplings of vectors.

    Attributes:
        hidden: widths of the hidden layers.
        dtype: dtype of the computation; parameters are float32.
    """

    hidden: tuple[int, ...] = (128, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`Float[b, d]` to `Float[b, 2d]`, zeros at first."""
        h = x
        for width in self.hidden:
            h = nn.relu(nn.Dense(width, dtype=self.dtype)(h))
        return nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)


class ResNet(nn.Module):
    """A network for couplings of images: residual blocks of 3 x 3 convolutions.

    Attributes:
        features: channels.
        num_blocks: residual blocks.
        dtype: dtype of the computation; parameters are float32.
    """

    features: int = 32
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`Float[b, h, w, c]` to `Float[b, h, w, 2c]`, zeros at first."""
        h = nn.Conv(self.features, (3, 3), dtype=self.dtype)(x)
        for _ in range(self.num_blocks):
            y = nn.Conv(self.features, (3, 3), dtype=self.dtype)(nn.relu(h))
            h = h + nn.Conv(self.features, (3, 3), dtype=self.dtype)(nn.relu(y))
        return nn.Conv(2 * x.shape[-1], (1, 1), kernel_init=nn.initializers.zeros, dtype=self.dtype)(nn.relu(h))


class Coupling(nn.Module):
    """`z = b x + (1 - b) (x exp(s(b x)) + t(b x))`, equation 9.

    Attributes:
        network: of what is kept, 0 elsewhere, to `[raw s | t]`, twice the channels; `s` is a learned multiple of
            `tanh(raw s)`.
        mask: what is kept: every other place in a "checkerboard" (of a vector every other variable), or the first
            half of the "channels".
        flipped: whether the mask is the other way round.
    """

    network: nn.Module
    mask: Literal["checkerboard", "channels"]
    flipped: bool = False
    conditioning: ClassVar[None] = None

    def setup(self):
        """Creates the multiple. Raises `ValueError` for an unknown mask."""
        if self.mask not in ("checkerboard", "channels"):
            raise ValueError(f"mask is 'checkerboard' or 'channels', got {self.mask!r}")
        self.multiple = self.param("multiple", nn.initializers.ones, (1,), jnp.float32)

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """Noise, in one pass."""
        s, t = self._map(x)
        return x * jnp.exp(s) + t, s.sum(range(1, x.ndim))

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """Data, in one pass."""
        s, t = self._map(z)
        return Drawn((z - t) * jnp.exp(-s), s)

    def _map(self, x: Array) -> tuple[Array, Array]:
        """`s` and `t` from what is kept, 0 there."""
        kept = kept_by(self.mask, x.shape[1:], self.flipped)[None]
        raw, t = jnp.split(self.network(jnp.where(kept, x, 0)).astype(jnp.float32), 2, axis=-1)
        s = jnp.tanh(raw) * self.multiple.reshape((1,) * x.ndim)
        return jnp.where(kept, 0, s), jnp.where(kept, 0, t)


def kept_by(mask: str, event: tuple[int, ...], flipped: bool) -> np.ndarray:
    """Which variables of an event a coupling keeps: boolean of shape `event`.

    Raises `ValueError` for half of an odd number of channels.
    """
    if mask == "channels":
        kept = np.arange(event[-1]) < half(event[-1])
    else:
        places = np.indices(event[:-1] or event).sum(0) % 2 == 1
        kept = places[..., None] if len(event) > 1 else places
    return np.broadcast_to(kept != flipped, event)


def half(channels: int) -> int:
    """Half of them. Raises `ValueError` for an odd number."""
    if channels % 2:
        raise ValueError(f"an even number of channels is wanted to split, got {channels}")
    return channels // 2


class Squeezed(nn.Module):
    """A bijection of images whose squares of pixels are channels: `(h, w, c) -> (h / k, w / k, k k c)`.

    Attributes:
        inner: the bijection.
        size: side k of a square.
    """

    inner: nn.Module
    size: int = 2

    @property
    def conditioning(self) -> Any:
        """What `cond` is."""
        return self.inner.conditioning

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The inner noise in the form of an image."""
        z, log_det = self.inner.forward(squeeze(x, self.size), cond, train=train)
        return unsqueeze(z, self.size), log_det

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """The inner data in the form of an image."""
        drawn = self.inner.inverse(squeeze(z, self.size), cond, draw).summed()
        return drawn._replace(values=unsqueeze(drawn.values, self.size))


def squeeze(x: Array, size: int) -> Array:
    """Squares of pixels to channels. Raises `ValueError` unless `size` divides both sides of the images."""
    if x.ndim != 4 or x.shape[1] % size or x.shape[2] % size:
        raise ValueError(f"squares of {size} x {size} do not divide events of shape {x.shape[1:]}")
    b, h, w, c = x.shape
    squares = jnp.moveaxis(x.reshape(b, h // size, size, w // size, size, c), 2, 3)
    return squares.reshape(b, h // size, w // size, size * size * c)


def unsqueeze(x: Array, size: int) -> Array:
    """Channels to squares of pixels."""
    b, h, w, c = x.shape
    squares = jnp.moveaxis(x.reshape(b, h, w, size, size, c // size**2), 3, 2)
    return squares.reshape(b, h * size, w * size, c // size**2)


class FactoredOut(nn.Module):
    """A bijection of the first half of the channels; the others are noise already.

    Attributes:
        inner: the bijection.
    """

    inner: nn.Module

    @property
    def conditioning(self) -> Any:
        """What `cond` is."""
        return self.inner.conditioning

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The inner noise and the other half."""
        inner, out = jnp.split(x, [half(x.shape[-1])], axis=-1)
        z, log_det = self.inner.forward(inner, cond, train=train)
        return jnp.concatenate([z, out], -1), log_det

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """The inner data and the other half."""
        inner, out = jnp.split(z, [half(z.shape[-1])], axis=-1)
        drawn = self.inner.inverse(inner, cond, draw).summed()
        return drawn._replace(values=jnp.concatenate([drawn.values, out], -1))


def real_nvp(
    event: tuple[int, ...],
    *,
    num_scales: int = 2,
    features: int = 32,
    num_blocks: int = 2,
    norm: Callable[..., Any] | None = ActNorm,
    entry: tuple[nn.Module, ...] = (),
    dtype: DTypeLike = jnp.float32,
) -> Flow:
    """RealNVP for images `Float[b, h, w, c]` (section 3.6).

    Args:
        event: shape of an image.
        num_scales: scales: of each but the last 3 checkerboard couplings, a squeeze, 3 channel couplings, and half
            factored out; of the last 4 checkerboard couplings.
        features: channels of the residual networks at the first scale, doubled at each following one.
        num_blocks: residual blocks of each network.
        norm: what follows each coupling: `ActNorm`, `BatchNorm` or None.
        entry: bijections before all others, such as `Logit(256)`.
        dtype: dtype of the networks; parameters and variables are float32.

    Raises:
        ValueError: squeezes do not divide the sides of the image.
    """
    if len(event) != 3 or any(side % 2 ** (num_scales - 1) for side in event[:2]):
        raise ValueError(f"{num_scales - 1} squeezes do not divide events of shape {event}")

    def couplings(mask: Any, count: int, width: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for i in range(count):
            network = ResNet(width, num_blocks, dtype)
            layers += [Coupling(network, mask, i % 2 == 1), *([] if norm is None else [norm()])]
        return layers

    layers = couplings("checkerboard", 4, features * 2 ** (num_scales - 1))
    for i in reversed(range(num_scales - 1)):
        width = features * 2**i
        squeezed = [*couplings("channels", 3, 2 * width), FactoredOut(Chain(tuple(layers)))]
        layers = [*couplings("checkerboard", 3, width), Squeezed(Chain(tuple(squeezed)))]
    return Flow(Chain((*entry, *layers)))


def real_nvp_of_vectors(
    *,
    num_layers: int = 6,
    hidden: tuple[int, ...] = (128, 128),
    norm: Callable[..., Any] | None = ActNorm,
    dtype: DTypeLike = jnp.float32,
) -> Flow:
    """RealNVP for vectors, with alternating masks of every other variable (as in Papamakarios et al., 2017).

    Args:
        num_layers: couplings.
        hidden: widths of the hidden layers of each.
        norm: what follows each coupling: `ActNorm`, `BatchNorm` or None.
        dtype: dtype of the networks; parameters and variables are float32.
    """
    layers: list[nn.Module] = []
    for i in range(num_layers):
        coupling = Coupling(Perceptron(hidden, dtype), "checkerboard", i % 2 == 1)
        layers += [coupling, *([] if norm is None else [norm()])]
    return Flow(Chain(tuple(layers)))
