"""TarFlow, Zhai et al. (2024), "Normalizing flows are capable generative models", arXiv 2412.06329.

An image is a sequence of patches. Each block is an affine autoregressive flow over them whose conditioner is a
causal transformer over all channels of a patch, in alternating directions. One pass gives the density; samples
take one patch after the other, in every block, with the keys and values cached.

Deviations: the network is `arjax.models.Transformer`, which is told the place that it reads and the one to come,
and which scales and moves the first patch too (the paper leaves it as it is); its last layer begins small, not at
zero; data are normalised by `ActNorm` at the entry. Noise augmentation, denoising and guidance, which are for
pictures that look better, are left out: what they give are no samples of the density.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from arjax.continuous import Normal
from arjax.decoding import Draw, Drawn
from arjax.flows.autoregressive import Autoregressive
from arjax.flows.elementwise import ActNorm
from arjax.flows.flow import CACHED, Chain, Flow
from arjax.flows.realnvp import squeeze, unsqueeze
from arjax.models import Transformer


class Patches(nn.Module):
    """A bijection of sequences of patches, `Float[b, t, k k c]` in raster order.

    Attributes:
        inner: the bijection.
        size: side k of a patch.
    """

    inner: nn.Module
    size: int

    @property
    def conditioning(self) -> Any:
        """What `cond` is."""
        return self.inner.conditioning

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The inner noise in the form of an image."""
        patches = squeeze(x, self.size)
        z, log_det = self.inner.forward(patches.reshape(len(x), -1, patches.shape[-1]), cond, train=train)
        return unsqueeze(z.reshape(patches.shape), self.size), log_det

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """The inner data in the form of an image."""
        patches = squeeze(z, self.size)
        drawn = self.inner.inverse(patches.reshape(len(z), -1, patches.shape[-1]), cond, draw).summed()
        return drawn._replace(values=unsqueeze(drawn.values.reshape(patches.shape), self.size))


def tarflow(
    event: tuple[int, ...],
    *,
    patch: int = 4,
    features: int = 128,
    num_blocks: int = 4,
    num_layers: int = 2,
    num_heads: int = 4,
    conditioning: Any = None,
    dropout: float = 0.0,
    entry: tuple[nn.Module, ...] = (ActNorm(),),
    dtype: DTypeLike = jnp.float32,
) -> Flow:
    """TarFlow for images `Float[b, h, w, c]`.

    Args:
        event: shape of an image.
        patch: side of a patch, which divides those of the image.
        features: channels of the transformers.
        num_blocks: flow blocks, in alternating directions.
        num_layers: attention layers of each.
        num_heads: heads of their attention.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout, in training.
        entry: bijections before all others.
        dtype: dtype of the networks; parameters and variables are float32.

    Raises:
        ValueError: patches do not divide the image.
    """
    if len(event) != 3 or event[0] % patch or event[1] % patch:
        raise ValueError(f"squares of {patch} x {patch} do not divide events of shape {event}")
    length, channels = event[0] * event[1] // patch**2, event[2] * patch**2
    network = partial(
        Transformer,
        (length, channels),
        Normal(),
        channels,
        features,
        num_layers,
        num_heads,
        conditioning=conditioning,
        dropout=dropout,
        dtype=dtype,
    )
    orders = [None, tuple(reversed(range(length)))]
    blocks = tuple(Autoregressive(network(ordering=orders[i % 2])) for i in range(num_blocks))
    return Flow(Chain((*entry, Patches(Chain(blocks), patch))))
