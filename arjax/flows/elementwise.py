"""Bijections that treat variables alike or one by one: elementwise maps, permutations, normalisation."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from arjax import orderings
from arjax.continuous import Normal
from arjax.decoding import Draw, Drawn
from arjax.flows.flow import CACHED


class Elementwise(nn.Module):
    """Each variable by a map of its own, the CDF of a distribution followed by the normal quantile.

    Of `Normal` it is affine, of a `Mixture` the mixture's CDF: a flow of one layer is the mixture itself.

    Attributes:
        event: shape of an event.
        output: the distribution, one of `arjax.continuous`.
        params_init: initial parameters; a mixture wants its components told apart.
    """

    event: tuple[int, ...]
    output: Any = Normal()
    params_init: nn.initializers.Initializer = nn.initializers.normal(1.0)
    conditioning: ClassVar[None] = None

    def setup(self):
        """Creates the parameters."""
        self.params = self.param("params", self.params_init, (*self.event, self.output.num_params), jnp.float32)

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The normal number with the same mass below it, of each variable."""
        z, log_slopes = self.output.to_normal(self._params(x), x)
        return z, log_slopes.sum(range(1, x.ndim))

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """The inverse of the very same map: closed or by search."""
        x = self.output.from_normal(self._params(z), z)
        return Drawn(x, self.output.to_normal(self._params(x), x)[1])

    def _params(self, x: Array) -> Array:
        if x.shape[1:] != self.event:
            raise ValueError(f"events of shape {self.event} are wanted, got {x.shape[1:]}")
        return jnp.broadcast_to(self.params, (*x.shape, self.output.num_params))


class Logit(nn.Module):
    """`logit(margin + (1 - 2 margin) x / levels)` of data in [0, levels] (Dinh et al., 2017, section 4.1).

    The paper prints `margin + (1 - margin) x`, which is infinite at the upper end.

    Attributes:
        levels: the upper end of the data, such as 256 for dequantised 8-bit images; 1 for the unit interval.
        margin: what is left free on either side, in (0, 0.5).
    """

    levels: int = 256
    margin: float = 0.05
    conditioning: ClassVar[None] = None

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """Logits. Data outside of [0, levels] give NaN."""
        if not 0 < self.margin < 0.5:
            raise ValueError(f"a margin between 0 and 0.5 is wanted, got {self.margin}")
        share = 1 - 2 * self.margin
        p = self.margin + share * x / self.levels
        p = jnp.where((x >= 0) & (x <= self.levels), p, jnp.nan)
        z = jnp.log(p) - jnp.log1p(-p)
        log_slopes = math.log(share / self.levels) - jnp.log(p) - jnp.log1p(-p)
        return z, log_slopes.sum(range(1, x.ndim))

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """Data; noise whose sigmoid lies in a margin gives data outside of [0, levels]."""
        share = 1 - 2 * self.margin
        log_slopes = math.log(share / self.levels) - jax.nn.log_sigmoid(z) - jax.nn.log_sigmoid(-z)
        return Drawn((jax.nn.sigmoid(z) - self.margin) * (self.levels / share), log_slopes)


class Permutation(nn.Module):
    """The variables of an event in another order.

    Attributes:
        ranks: the place of each variable in it, flattened (see `arjax.orderings`): each of `0..n-1` once.
    """

    ranks: tuple[int, ...]
    conditioning: ClassVar[None] = None

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """Variables in their places. Raises `ValueError` if the ranks are no permutation of them."""
        ranks = orderings.check(self.ranks, (math.prod(x.shape[1:]),))
        z = x.reshape(len(x), -1)[:, orderings.inverse(ranks)].reshape(x.shape)
        return z, jnp.zeros(len(x), jnp.float32)

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """Variables back in theirs."""
        ranks = orderings.check(self.ranks, (math.prod(z.shape[1:]),))
        return Drawn(z.reshape(len(z), -1)[:, ranks].reshape(z.shape), jnp.zeros(len(z), jnp.float32))


class ActNorm(nn.Module):
    """`x exp(log_scale) + bias` of each channel (Kingma and Dhariwal, 2018, arXiv 1807.03039, section 3.1).

    Channels are the last axis. At initialisation each has mean 0 and standard deviation 1 over the batch.
    """

    conditioning: ClassVar[None] = None

    @nn.compact
    def _parameters(self, x: Array) -> tuple[Array, Array]:
        axes = tuple(range(x.ndim - 1))
        deviation = jnp.sqrt(x.var(axes) + 1e-6)
        log_scale = self.param("log_scale", lambda _: -jnp.log(deviation))
        bias = self.param("bias", lambda _: -x.mean(axes) / deviation)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return log_scale.reshape(shape), bias.reshape(shape)

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """Channels scaled and moved."""
        log_scale, bias = self._parameters(x)
        return x * jnp.exp(log_scale) + bias, _of_all(log_scale, x)

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """Channels moved and scaled back."""
        log_scale, bias = self._parameters(z)
        return Drawn((z - bias) * jnp.exp(-log_scale), _of_all(log_scale, z))


class BatchNorm(nn.Module):
    """`(x - mean) / sqrt(variance + 1e-5) * exp(log_scale) + bias` (Dinh et al., 2017, section 3.7).

    Each channel, the last axis, by the mean and the variance of the batch in training, and elsewhere by their
    running averages, which are parameters that `arjax.training` updates; they begin as those of the first batch.

    Attributes:
        momentum: what a running average keeps at each step.
    """

    momentum: float = 0.95
    conditioning: ClassVar[None] = None

    @nn.compact
    def _parameters(self, x: Array, train: bool) -> tuple[Array, ...]:
        shape, axes = x.shape[-1:], tuple(range(x.ndim - 1))
        log_scale = self.param("log_scale", nn.initializers.zeros, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        own = {"mean": x.mean(axes), "variance": x.var(axes)}
        running = {name: self.param(name, lambda _, name=name: own[name]) for name in own}
        if train and self.is_mutable_collection("averages"):
            for name, value in own.items():
                average = self.momentum * running[name] + (1 - self.momentum) * value
                self.put_variable("averages", name, jax.lax.stop_gradient(average))
        used = own if train else running
        log_scale = log_scale - 0.5 * jnp.log(jnp.maximum(used["variance"], 0) + 1e-5)
        return tuple(part.reshape((1,) * (x.ndim - 1) + (-1,)) for part in (used["mean"], log_scale, bias))

    def forward(self, x: Array, cond: None = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """Channels normalised."""
        mean, log_scale, bias = self._parameters(x, train)
        return (x - mean) * jnp.exp(log_scale) + bias, _of_all(log_scale, x)

    def inverse(self, z: Array, cond: None = None, draw: Draw = CACHED) -> Drawn:
        """By the running averages."""
        mean, log_scale, bias = self._parameters(z, train=False)
        return Drawn((z - bias) * jnp.exp(-log_scale) + mean, _of_all(log_scale, z))


def _of_all(log_slope: Array, x: Array) -> Float[Array, "b"]:
    """The log-determinant of a map with this slope at every place of each example."""
    return jnp.broadcast_to(log_slope, x.shape).sum(range(1, x.ndim))
