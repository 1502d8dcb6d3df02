"""Output distributions over the real numbers: densities instead of probabilities.

They stand beside those of `arjax.distributions` and have the same methods, with `levels = None`: parameters on the
last axis of an array `(..., num_params)`, all computed in float32, one value for each place of the other axes.

- `log_prob(params, x)`, the log-density in nats; NaN for an x that is not finite;
- `log_cdf(params, x)` and `log_survival(params, x)`, the logarithms of the masses below and above x, each exact to
  rounding in its own tail;
- `quantile(params, u)`, the x with `CDF(x) = u`, for u in [0, 1). It never falls as u grows (of a normal
  distribution by a rounding at most) and is always finite: u below 2**-24, half a step of `jax.random.uniform`,
  counts as 2**-24. NaN where a parameter is NaN or u is not in [0, 1). It is differentiable in both arguments;
- `to_normal(params, x)`, the z with `Phi(z) = CDF(x)` and the log-derivative of z by x; `from_normal(params, z)`,
  its inverse. With them a conditional is a map between data and standard normal noise: an autoregressive model is
  a flow (Papamakarios et al., 2017, arXiv 1705.07057, section 3.1);
- `mean(params)`;
- `temper(params, temperature)`: scales multiplied by the temperature, logits of a mixture divided by it.

Log-likelihoods and gradients are finite for any finite parameters and data: log-scales count as the nearest number
in [-15, 40], and deviations from a mean of more than 1e15, or 1e15 scales, as that many.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Array, Float

from arjax.distributions import BELOW_ONE

LOG_SCALES = -15.0, 40.0
"""The least and the greatest log-scale."""
FARTHEST = 1e15
"""Deviations from a mean up to which numbers are told apart."""
LEAST = np.float32(2**-24)
"""The least mass that noise leaves on either side."""


class _Real(abc.ABC):
    """What all distributions over the real numbers share."""

    levels: ClassVar[None] = None
    num_params: Any
    num_scales: Any

    def bounded(self, params: Float[Array, "... p"], bound: float) -> Float[Array, "... p"]:
        """Parameters whose log-scales, the last ones, are within `bound` of 0, by a scaled tanh."""
        params = self._checked(params)
        others, log_scales = jnp.split(params, [self.num_params - self.num_scales], axis=-1)
        return jnp.concatenate([others, bound * jnp.tanh(log_scales / bound)], -1)

    @abc.abstractmethod
    def log_prob(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density of `x` in nats."""

    @abc.abstractmethod
    def log_cdf(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass below `x`."""

    @abc.abstractmethod
    def log_survival(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass above `x`."""

    def num_joint_params(self, channels: int) -> int:
        """Parameters of all `channels` of a position, as `of_channels` takes them."""
        return channels * self.num_params

    def of_channels(self, joint: Float[Array, "... j"], x: Float[Array, "... c"]) -> Float[Array, "... c p"]:
        """Parameters of each channel of a position, which are independent given the positions before it."""
        return joint.reshape(*joint.shape[:-1], x.shape[-1], self.num_params)

    def to_normal(
        self, params: Float[Array, "... p"], x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The standard normal number z with the mass of `x` below it, and `log dz/dx`."""
        below, above = self.log_cdf(params, x), self.log_survival(params, x)
        z = _log_quantile(jnp.where(below < above, below, above))
        return jnp.where(below < above, z, -z), self.log_prob(params, x) - NORMAL.standard_log_prob(z)

    def _checked(self, params: Array) -> Array:
        if params.shape[-1:] != (self.num_params,):
            raise ValueError(f"{self} needs parameters (..., {self.num_params}), got shape {params.shape}")
        return params.astype(jnp.float32)


class _LocationScale(_Real):
    """A symmetric distribution that is moved and stretched. The parameters are `[mean, log_scale]`."""

    num_params = 2
    num_scales = 1

    @abc.abstractmethod
    def standard_log_prob(self, z: Array) -> Array:
        """Log-density of the standard distribution."""

    @abc.abstractmethod
    def standard_cdf(self, z: Array) -> Array:
        """Mass of the standard distribution below z, exact to rounding for z < 0."""

    @abc.abstractmethod
    def standard_log_cdf(self, z: Array) -> Array:
        """Its logarithm, exact to rounding for any z."""

    @abc.abstractmethod
    def standard_quantile(self, u: Array) -> Array:
        """The inverse of `standard_cdf`, for u in (0, 1)."""

    def log_prob(self, params: Float[Array, "... 2"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density of `x` in nats."""
        z, log_scale = self._standardised(params, x)
        return jnp.where(jnp.isfinite(x), self.standard_log_prob(z) - log_scale, jnp.nan)

    def log_cdf(self, params: Float[Array, "... 2"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass below `x`."""
        return self.standard_log_cdf(self._standardised(params, x)[0])

    def log_survival(self, params: Float[Array, "... 2"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass above `x`."""
        return self.standard_log_cdf(-self._standardised(params, x)[0])

    def quantile(self, params: Float[Array, "... 2"], u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The x with `CDF(x) = u`."""
        mean, log_scale = self._parts(params)
        return mean + jnp.exp(log_scale) * self.standard_quantile(_noise(u))

    def mean(self, params: Float[Array, "... 2"]) -> Float[Array, "..."]:
        """The mean."""
        return self._checked(params)[..., 0]

    def temper(self, params: Float[Array, "... 2"], temperature: float | Array) -> Float[Array, "... 2"]:
        """The scale multiplied by `temperature`."""
        mean, log_scale = jnp.split(self._checked(params), 2, axis=-1)
        return jnp.concatenate([mean, log_scale + jnp.log(jnp.asarray(temperature, jnp.float32))], -1)

    def _parts(self, params: Array) -> tuple[Array, Array]:
        mean, log_scale = jnp.moveaxis(self._checked(params), -1, 0)
        return mean, jnp.clip(log_scale, *LOG_SCALES)

    def _standardised(self, params: Array, x: Array) -> tuple[Array, Array]:
        mean, log_scale = self._parts(params)
        deviation = jnp.clip(x.astype(jnp.float32) - mean, -FARTHEST, FARTHEST)
        return jnp.clip(deviation * jnp.exp(-log_scale), -FARTHEST, FARTHEST), log_scale


@dataclasses.dataclass(frozen=True)
class Normal(_LocationScale):
    """The normal distribution. The parameters are `[mean, log_scale]`."""

    def standard_log_prob(self, z: Array) -> Array:
        """Log-density of the standard normal distribution."""
        return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)

    def standard_cdf(self, z: Array) -> Array:
        """Mass of the standard normal distribution below z."""
        return special.ndtr(z)

    def standard_log_cdf(self, z: Array) -> Array:
        """Its logarithm; far from the centre the asymptotic series, whose derivative does not cancel."""
        far = jnp.minimum(z, -10)
        series = 1 - far**-2 + 3 * far**-4 - 15 * far**-6
        tail = self.standard_log_prob(far) - jnp.log(-far) + jnp.log(series)
        return jnp.where(z < -10, tail, special.log_ndtr(jnp.maximum(z, -10)))

    def standard_quantile(self, u: Array) -> Array:
        """Its inverse."""
        return special.ndtri(u)

    def to_normal(
        self, params: Float[Array, "... 2"], x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`(x - mean) / scale` and `-log_scale`."""
        z, log_scale = self._standardised(params, x)
        return z, -log_scale

    def from_normal(self, params: Float[Array, "... 2"], z: Float[Array, "..."]) -> Float[Array, "..."]:
        """`mean + scale z`."""
        mean, log_scale = self._parts(params)
        return mean + jnp.exp(log_scale) * z.astype(jnp.float32)


NORMAL = Normal()


@dataclasses.dataclass(frozen=True)
class Logistic(_LocationScale):
    """The logistic distribution, with heavier tails. The parameters are `[mean, log_scale]`."""

    def standard_log_prob(self, z: Array) -> Array:
        """Log-density of the standard logistic distribution."""
        return jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)

    def standard_cdf(self, z: Array) -> Array:
        """Mass of the standard logistic distribution below z."""
        return jax.nn.sigmoid(z)

    def standard_log_cdf(self, z: Array) -> Array:
        """Its logarithm."""
        return jax.nn.log_sigmoid(z)

    def standard_quantile(self, u: Array) -> Array:
        """Its inverse."""
        return jnp.log(u) - jnp.log1p(-u)

    def from_normal(self, params: Float[Array, "... 2"], z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The inverse of `to_normal`."""
        mean, log_scale = self._parts(params)
        z = z.astype(jnp.float32)
        return mean + jnp.exp(log_scale) * (NORMAL.standard_log_cdf(z) - NORMAL.standard_log_cdf(-z))


@dataclasses.dataclass(frozen=True)
class Mixture(_Real):
    """A mixture. The parameters are `[logits K | means K | log_scales K]`.

    Attributes:
        component: the distribution of every component, `Normal` or `Logistic`.
        num_mixtures: number of components K.
    """

    component: Normal | Logistic = Normal()
    num_mixtures: int = 10

    def __post_init__(self) -> None:
        if self.num_mixtures < 1:
            raise ValueError(f"num_mixtures must be at least 1, got {self.num_mixtures}")

    @property
    def num_params(self) -> int:
        """Length of the parameters' last axis: `3 * num_mixtures`."""
        return 3 * self.num_mixtures

    @property
    def num_scales(self) -> int:
        """One for each component."""
        return self.num_mixtures

    def log_prob(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density of `x` in nats."""
        return self._mixed(self.component.log_prob, params, x)

    def log_cdf(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass below `x`."""
        return self._mixed(self.component.log_cdf, params, x)

    def log_survival(self, params: Float[Array, "... p"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the mass above `x`."""
        return self._mixed(self.component.log_survival, params, x)

    def quantile(self, params: Float[Array, "... p"], u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The x with `CDF(x) = u`, by a search over all float32 numbers (see `_search`)."""
        u = _noise(u)
        return _quantile(self, self._checked(params), u, 1 - u)

    def from_normal(self, params: Float[Array, "... p"], z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The inverse of `to_normal`, where z is within 12 of 0."""
        z = z.astype(jnp.float32)
        return _quantile(self, self._checked(params), special.ndtr(z), special.ndtr(-z))

    def mean(self, params: Float[Array, "... p"]) -> Float[Array, "..."]:
        """The mean."""
        logits, means, _ = jnp.split(self._checked(params), 3, axis=-1)
        return jnp.sum(jax.nn.softmax(logits) * means, axis=-1)

    def temper(self, params: Float[Array, "... p"], temperature: float | Array) -> Float[Array, "... p"]:
        """Logits divided (but for a constant), scales multiplied by `temperature`."""
        logits, means, log_scales = jnp.split(self._checked(params), 3, axis=-1)
        temperature = jnp.asarray(temperature, jnp.float32)
        logits = (logits - logits.max(-1, keepdims=True)) / temperature
        return jnp.concatenate([logits, means, log_scales + jnp.log(temperature)], axis=-1)

    def _mixed(self, of_component, params: Array, x: Array) -> Array:
        """The logarithm of the mixture of what `of_component` gives the logarithm of."""
        logits, means, log_scales = jnp.split(self._checked(params), 3, axis=-1)
        each = of_component(jnp.stack([means, log_scales], -1), x[..., None])
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)

    def _excess(self, params: Array, x: Array, below: Array, above: Array) -> Array:
        """The mass below each of several x, `(..., n)`, less `below`, which is 1 - `above`."""
        logits, means, log_scales = jnp.split(params[..., None, :], 3, axis=-1)
        z, _ = self.component._standardised(jnp.stack([means, log_scales], -1), x[..., None])
        mass = self.component.standard_cdf(-jnp.abs(z))
        excess = jnp.where(z < 0, mass - below[..., None, None], above[..., None, None] - mass)
        return jnp.sum(jax.nn.softmax(logits) * excess, axis=-1)


def _noise(u: Array) -> Array:
    """`u` in float32, with `LEAST` or more on either side; NaN where it is not in [0, 1)."""
    return jnp.where((u >= 0) & (u < 1), jnp.clip(u.astype(jnp.float32), LEAST, BELOW_ONE), jnp.nan)


def _log_quantile(log_mass: Array) -> Array:
    """The z <= 0 with that mass of the standard normal distribution below it, by Newton's method."""
    far = jnp.maximum(-log_mass, 2.0)
    asymptote = -jnp.sqrt(2 * far - jnp.log(4 * math.pi * far))
    z = jnp.where(log_mass > -50, special.ndtri(jnp.exp(log_mass)), asymptote)
    for _ in range(2):
        z = jax.lax.stop_gradient(z)
        value, slope = jax.jvp(NORMAL.standard_log_cdf, (z,), (jnp.ones_like(z),))
        z = z - (value - log_mass) / slope
    return z


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _quantile(distribution: Mixture, params: Array, below: Array, above: Array) -> Array:
    """The x with the mass `below` it, which is 1 - `above`."""
    return _search(partial(distribution._excess, params, below=below, above=above), below.shape)


@_quantile.defjvp
def _implicit(distribution: Mixture, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Of `F(x; params) = u` follows `p(x) dx = du - dF`, here from the side that has less of the mass."""
    params, below, above = primals
    params_dot, below_dot, above_dot = tangents
    x = _quantile(distribution, params, below, above)
    log_density = distribution.log_prob(params, x)

    def side(log_mass, dot):
        log_mass, log_mass_dot = jax.jvp(lambda params: log_mass(params, x), (params,), (params_dot,))
        return dot * jnp.exp(-log_density) - log_mass_dot * jnp.exp(log_mass - log_density)

    lower, upper = side(distribution.log_cdf, below_dot), side(distribution.log_survival, above_dot)
    return x, jnp.where(below < above, lower, -upper)


def _search(excess: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """The least float32 number with `excess(x) > 0`, found 4 binary digits at a time; NaN where that is NaN.

    `excess` takes `(*shape, n)` and rises with x. The float32 numbers in their order are numbered by their bits. A
    question is the same for any noise, and more noise only turns answers to yes: a quantile never falls.
    """

    def digit(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        number, _ = state
        low = 28 - 4 * i.astype(jnp.uint32)
        count = jax.lax.broadcasted_iota(jnp.uint32, (*shape, 15), len(shape))
        found = excess(_numbered(number[..., None] + ((count + 1) << low) - 1))
        return number + (jnp.where(found <= 0, jnp.uint32(15), count).min(-1) << low), found[..., 0]

    number, found = jax.lax.fori_loop(0, 8, digit, (jnp.zeros(shape, jnp.uint32), jnp.zeros(shape)))
    return jnp.where(jnp.isnan(found), jnp.nan, _numbered(number))


def _numbered(number: Array) -> Array:
    """The float32 number with that place in their order; the least and the greatest for what is not finite."""
    number = jnp.clip(number, np.uint32(0x00800000), np.uint32(0xFF7FFFFF))
    bits = jnp.where(number >> 31 == 1, number ^ np.uint32(0x80000000), ~number)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
