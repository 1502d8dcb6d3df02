"""Output distributions over the integers `0..levels-1`: what a network's parameters mean.

Each is a frozen, hashable dataclass that knows nothing of networks. Its parameters lie on the last axis of an
array `(..., num_params)`, and its methods give one value for each place of the leading axes:

- `log_prob(params, x)` in nats, stable and with finite gradients however extreme the parameters are; NaN for an x
  that is no level;
- `quantile(params, u)`, the inverse CDF: the smallest x with `CDF(x) > u`, for u in [0, 1). It never falls as
  u grows, and rounding never takes it to a level of probability 0, such as the last one for u near 1. It is -1,
  which is no level, where a parameter is NaN or u is not in [0, 1);
- `mean(params)` in levels, and `mode(params)`, the most probable level (the lowest of equals);
- `temper(params, temperature)`, the parameters of a sharper (temperature < 1) or flatter (> 1) distribution;
- `nucleus(params, top_p)`, those of the most probable levels alone (not of mixtures). `temperature` and `top_p`
  are positive, a scalar or an array that broadcasts to the parameters; NaN makes the parameters NaN.

Parameters and u of any float dtype are computed with in float32; `x` may have any integer dtype. Parameters of the
wrong length raise a `ValueError`.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""The greatest float32 below 1."""


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """One logit for each binary value: `p(1) = sigmoid(logit)`."""

    levels: ClassVar[int] = 2
    num_params: ClassVar[int] = 1

    def log_prob(self, params: Float[Array, "... 1"], x: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability of `x` in nats."""
        logit = _checked(self, params)[..., 0]
        return _of_levels(jax.nn.log_sigmoid(jnp.where(x == 1, logit, -logit)), x, self.levels)

    def log_probs(self, params: Float[Array, "... 1"]) -> Float[Array, "... 2"]:
        """Log-probabilities of both values in nats."""
        logit = _checked(self, params)
        return jax.nn.log_sigmoid(jnp.concatenate([-logit, logit], axis=-1))

    def quantile(self, params: Float[Array, "... 1"], u: Float[Array, "..."]) -> Int32[Array, "..."]:
        """The smallest x with `CDF(x) > u`: 1 where `u >= p(0)`."""
        below, u = jax.nn.sigmoid(-_checked(self, params)[..., 0]), _noise(u)
        return jnp.where(jnp.isnan(below + u), -1, (u >= below).astype(jnp.int32))

    def mean(self, params: Float[Array, "... 1"]) -> Float[Array, "..."]:
        """`p(1)`."""
        return jax.nn.sigmoid(_checked(self, params)[..., 0])

    def mode(self, params: Float[Array, "... 1"]) -> Int32[Array, "..."]:
        """The more probable value."""
        return (_checked(self, params)[..., 0] > 0).astype(jnp.int32)

    def temper(self, params: Float[Array, "... 1"], temperature: float | Array) -> Float[Array, "... 1"]:
        """The logit divided by `temperature`."""
        return _checked(self, params) / jnp.asarray(temperature, jnp.float32)

    def nucleus(self, params: Float[Array, "... 1"], top_p: float | Array) -> Float[Array, "... 1"]:
        """The logit, infinite where the more probable value has a probability of `top_p` or more."""
        logit = _checked(self, params)
        top_p = jnp.asarray(top_p, jnp.float32)
        sure = jax.nn.sigmoid(jnp.abs(logit)) >= top_p
        kept = jnp.where(sure, jnp.where(logit > 0, jnp.inf, -jnp.inf), logit)
        return jnp.where(jnp.isnan(top_p), jnp.nan, kept)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """One logit for each level: `p(x) = softmax(logits)[x]`."""

    levels: int

    def __post_init__(self) -> None:
        _require("levels", self.levels, 2)

    @property
    def num_params(self) -> int:
        """Length of the parameters' last axis: `levels`."""
        return self.levels

    def log_prob(self, params: Float[Array, "... p"], x: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability of `x` in nats."""
        log_probs = jax.nn.log_softmax(_checked(self, params))
        index = x[..., None].astype(jnp.int32)
        taken = jnp.take_along_axis(log_probs, index, axis=-1, mode="clip")[..., 0]
        return _of_levels(taken, x, self.levels)

    def log_probs(self, params: Float[Array, "... p"]) -> Float[Array, "... levels"]:
        """Log-probabilities of all levels in nats."""
        return jax.nn.log_softmax(_checked(self, params))

    def quantile(self, params: Float[Array, "... p"], u: Float[Array, "..."]) -> Int32[Array, "..."]:
        """The smallest x with `CDF(x) > u`, by search over the levels (see `_invert_cdf`)."""
        probs = jax.nn.softmax(_checked(self, params))

        def is_below(x: Array) -> Array:
            level = jax.lax.broadcasted_iota(jnp.int32, (*x.shape, self.levels), x.ndim)
            return (level <= x[..., None]).astype(jnp.float32)

        return _invert_cdf(probs, is_below, u, self.levels, digit=1)

    def mean(self, params: Float[Array, "... p"]) -> Float[Array, "..."]:
        """Expected level."""
        probs = jax.nn.softmax(_checked(self, params))
        return jnp.sum(probs * jax.lax.broadcasted_iota(jnp.float32, probs.shape, probs.ndim - 1), axis=-1)

    def mode(self, params: Float[Array, "... p"]) -> Int32[Array, "..."]:
        """The most probable level."""
        return jnp.argmax(_checked(self, params), axis=-1).astype(jnp.int32)

    def temper(self, params: Float[Array, "... p"], temperature: float | Array) -> Float[Array, "... p"]:
        """The logits divided by `temperature`, but for a constant."""
        return _tempered(_checked(self, params), temperature)

    def nucleus(self, params: Float[Array, "... p"], top_p: float | Array) -> Float[Array, "... p"]:
        """Logits of the fewest levels, the most probable first, that have `top_p` or more; the others -inf.

        Holtzman et al. (2019), arXiv 1904.09751. Levels as probable as the last one of them are kept too.
        """
        logits = _checked(self, params)
        ranked = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
        before = jnp.cumsum(ranked, axis=-1) - ranked
        least = jnp.min(
            jnp.where(before < jnp.asarray(top_p, jnp.float32), ranked, jnp.inf), axis=-1, keepdims=True
        )
        return jnp.where(jax.nn.softmax(logits) >= least, logits, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogisticMixture:
    """Mixture of discretized logistics (PixelCNN++, Salimans et al. 2017, arXiv 1701.05517).

    The parameters are `[logits K | means K | log_scales K]`, in units in which the levels are spread evenly
    over [-1, 1]. A level has the mass of each logistic between its edges, half a level width on either side;
    the first and the last level take the tails. Log-scales are bounded below at the same fraction of a level
    width for any number of levels: -7 for 256, as published, and -12.5 for 65,536.
    """

    num_mixtures: int = 10
    levels: int = 256

    def __post_init__(self) -> None:
        _require("num_mixtures", self.num_mixtures, 1)
        _require("levels", self.levels, 2)

    @property
    def num_params(self) -> int:
        """Length of the parameters' last axis: `3 * num_mixtures`."""
        return 3 * self.num_mixtures

    def log_prob(self, params: Float[Array, "... p"], x: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability of `x` in nats."""
        logits, means, log_scales = self._components(params)
        x = x.astype(jnp.int32)
        log_masses = _log_mass(x[..., None], means, log_scales, self.levels)
        log_probs = jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_masses, axis=-1)
        return _of_levels(log_probs, x, self.levels)

    def masses(
        self, params: Float[Array, "... p"], low: Int[Array, "..."], size: int, count: int
    ) -> Float[Array, "... n"]:
        """Probabilities of `count` ranges of `size` levels each, from the level `low` on.

        A range costs no more than a level. Levels beyond the last have none. The smallest probabilities underflow
        to 0, where `log_prob` is still finite.
        """
        logits, means, log_scales = (part[..., None, :] for part in self._components(params))
        number = jax.lax.broadcasted_iota(jnp.int32, (*low.shape, count + 1, 1), low.ndim)
        edges = low[..., None, None] + size * number
        edge = _upper_edge(edges - 1, means, log_scales, self.levels)
        nearer = jnp.exp(-jnp.abs(edge))
        below = jnp.where(edges >= self.levels, 1, jnp.where(edge >= 0, 1, nearer) / (1 + nearer))
        above = jnp.where(edges <= 0, 1, jnp.where(edge >= 0, nearer, 1) / (1 + nearer))
        inner = -jnp.expm1(-_width(size, log_scales, self.levels))
        first, last = edges[..., :-1, :], edges[..., 1:, :]
        inner = jnp.where((first <= 0) | (last >= self.levels), 1, inner)
        masses = jnp.sum(jax.nn.softmax(logits) * below[..., 1:, :] * above[..., :-1, :] * inner, axis=-1)
        return jnp.where(first[..., 0] >= self.levels, 0, masses)

    def quantile(self, params: Float[Array, "... p"], u: Float[Array, "..."]) -> Int32[Array, "..."]:
        """The smallest x with `CDF(x) > u`: the mixture's own inverse CDF, by a search (see `_invert_cdf`).

        For 256 levels it takes two evaluations of the mixture's CDF, each at the upper edges of 15 levels.
        """
        logits, means, log_scales = self._components(params)

        def component_cdfs(x: Array) -> Array:
            edge = _upper_edge(x[..., None], means[..., None, :], log_scales[..., None, :], self.levels)
            return jax.nn.sigmoid(edge)

        return _invert_cdf(jax.nn.softmax(logits), component_cdfs, u, self.levels, digit=4)

    def num_joint_params(self, channels: int) -> int:
        """Parameters of one mixture for all `channels` of a pixel, as `of_channels` takes them: 10 K for RGB."""
        return self.num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)

    def of_channels(self, joint: Float[Array, "... j"], x: Int[Array, "... c"]) -> Float[Array, "... c p"]:
        """Parameters of each channel of a pixel given the channels before it (section 2.2 of the paper).

        A pixel has one component for all its channels, and the mean of a channel is shifted by a linear function
        of the channels before it (equation 3). With the component summed out, what is left for a channel is a
        mixture again, whose weights are the posterior of the components:
        `log w_ck = log pi_k + sum_{d<c} log P_k(x_d) - const`.

        Args:
            joint: `[logits K | means CK | log_scales CK | coefficients C(C-1)/2 K]`, the coefficients before
                their tanh, in the order (1, 0), (2, 0), (2, 1), ... of (channel, channel before it).
            x: the pixel's C channels; channel c of the result depends on those before c only.
        """
        channels = x.shape[-1]
        _check_params(joint, self.num_joint_params(channels), f"{self} of {channels} channels")
        joint = joint.astype(jnp.float32).reshape(*joint.shape[:-1], -1, self.num_mixtures)
        sizes = 1, channels, channels, channels * (channels - 1) // 2
        parts = jnp.split(joint, list(itertools.accumulate(sizes[:-1])), axis=-2)
        (weights,), means, log_scales, coefficients = (
            [part[..., i, :] for i in range(n)] for part, n in zip(parts, sizes, strict=True)
        )
        values = x.astype(jnp.float32) * (2 / (self.levels - 1)) - 1
        coefficient = iter(coefficients)
        result = []
        for channel, (mean, log_scale) in enumerate(zip(means, log_scales, strict=True)):
            for before in range(channel):
                mean = mean + jnp.tanh(next(coefficient)) * values[..., before, None]
            result.append(jnp.concatenate([weights, mean, log_scale], axis=-1))
            if channel + 1 < channels:
                bounded = jnp.maximum(log_scale, _min_log_scale(self.levels))
                value = x[..., channel, None].astype(jnp.int32)
                weights = weights + _log_mass(value, mean, bounded, self.levels)
        return jnp.stack(result, axis=-2)

    def mean(self, params: Float[Array, "... p"]) -> Float[Array, "..."]:
        """Expected level, summed over all levels: memory `levels` times the result."""
        probs = jnp.exp(self._log_probs(params))
        return jnp.sum(probs * jax.lax.broadcasted_iota(jnp.float32, probs.shape, 0), axis=0)

    def mode(self, params: Float[Array, "... p"]) -> Int32[Array, "..."]:
        """The most probable of all levels: memory `levels` times the result."""
        return jnp.argmax(self._log_probs(params), axis=0).astype(jnp.int32)

    def temper(self, params: Float[Array, "... p"], temperature: float | Array) -> Float[Array, "... p"]:
        """Logits divided (but for a constant), scales multiplied by `temperature`."""
        logits, means, log_scales = self._components(params)
        log_scales = log_scales + jnp.log(jnp.asarray(temperature, jnp.float32))
        return jnp.concatenate([_tempered(logits, temperature), means, log_scales], axis=-1)

    def _components(self, params: Array) -> tuple[Array, Array, Array]:
        logits, means, log_scales = jnp.split(_checked(self, params), 3, axis=-1)
        return logits, means, jnp.maximum(log_scales, _min_log_scale(self.levels))

    def _log_probs(self, params: Array) -> Array:
        """Log-probabilities of all levels, on a new first axis."""
        shape = params.shape[:-1]
        return jax.lax.map(
            lambda x: self.log_prob(params, jnp.full(shape, x)), jnp.arange(self.levels, dtype=jnp.int32)
        )


def _checked(distribution: Bernoulli | Categorical | DiscretizedLogisticMixture, params: Array) -> Array:
    _check_params(params, distribution.num_params, str(distribution))
    return params.astype(jnp.float32)


def _check_params(params: Array, count: int, what: str) -> None:
    if params.shape[-1:] != (count,):
        raise ValueError(f"{what} needs parameters (..., {count}), got shape {params.shape}")


def _require(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _tempered(logits: Array, temperature: float | Array) -> Array:
    """The logits divided by `temperature`, the greatest of them 0.

    Were it not, a softmax compiled together with the division would subtract its rounded value from the unrounded
    one: an error that grows with 1 / temperature, and overflows.
    """
    return (logits - logits.max(-1, keepdims=True)) / jnp.asarray(temperature, jnp.float32)


def _of_levels(log_probs: Array, x: Array, levels: int) -> Array:
    """`log_probs`, NaN where `x` is no level."""
    x = x.astype(jnp.int32)
    return jnp.where((x >= 0) & (x < levels), log_probs, jnp.nan)


def _noise(u: Array) -> Array:
    """`u` in float32, where rounding does not take it to 1; NaN where it is not in [0, 1)."""
    return jnp.where((u >= 0) & (u < 1), jnp.minimum(u.astype(jnp.float32), BELOW_ONE), jnp.nan)


def _invert_cdf(weights: Array, cdfs: Callable[[Array], Array], u: Array, levels: int, digit: int) -> Array:
    """The number of levels with `CDF(x) <= u`, found `digit` binary digits at a time; -1 where anything is NaN.

    The CDF is a mixture of `cdfs(x)`, F, by `weights`, w: `(..., n) -> (..., n, k)` and `(..., k)`. Each question
    is whether `sum(w * (F - u)) <= 0`, and a digit is that of the last yes before the first no. Once every F is 1
    the answer is no for any u < 1, however the sum is rounded, and where no F changes the answer stays the same:
    no level without mass is chosen. A larger u only turns answers to yes.
    """
    u = _noise(u)
    x = jnp.zeros(u.shape, jnp.int32)
    bits = (levels - 1).bit_length()
    for low in reversed(range(0, bits, digit)):
        count = 2 ** min(digit, bits - low) - 1
        number = jax.lax.broadcasted_iota(jnp.int32, (*u.shape, count), u.ndim)
        above = x[..., None] + (number + 1) * 2**low
        excess = jnp.sum(weights[..., None, :] * (cdfs(above - 1) - u[..., None, None]), axis=-1)
        yes = (above < levels) & (excess <= 0)
        x = x + jnp.min(jnp.where(yes, count, number), axis=-1) * 2**low
    return jnp.where(jnp.isnan(excess[..., 0]), -1, x)


def _min_log_scale(levels: int) -> float:
    return -7.0 - math.log((levels - 1) / 255)


def _upper_edge(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """The upper edge of level `x`, standardized: (edge - mean) / scale. The lower edge is that of `x - 1`."""
    # In half level widths the edges are integers: neighbours share theirs exactly, at any number of levels.
    edge = (2 * x + 2 - levels).astype(jnp.float32)
    return (edge - (levels - 1) * mean) * (jnp.exp(-log_scale) / (levels - 1))


def _width(size: int, log_scale: Array, levels: int) -> Array:
    """Of so many levels, standardized."""
    # The bound keeps the logarithm finite under scales so large that a level's width vanishes beside them.
    return jnp.maximum(size * (2 / (levels - 1)) * jnp.exp(-log_scale), 1e-30)


def _log_mass(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """Log-mass of the level `x` under a logistic with `mean` and `exp(log_scale)` in [-1, 1], in nats.

    With p and q the standardized edges, `F(p) - F(q) = F(p) (1 - F(q)) (1 - exp(q - p))`: no cancellation.
    """
    log_cdf = jax.nn.log_sigmoid(_upper_edge(x, mean, log_scale, levels))
    log_survival = jax.nn.log_sigmoid(-_upper_edge(x - 1, mean, log_scale, levels))
    log_cdf = jnp.where(x >= levels - 1, 0, log_cdf)
    log_survival = jnp.where(x <= 0, 0, log_survival)
    inner = jnp.where((x <= 0) | (x >= levels - 1), 0, _log1mexp(_width(1, log_scale, levels)))
    return log_cdf + log_survival + inner


def _log1mexp(x: Array) -> Array:
    """`log(1 - exp(-x))` for x > 0, to within a rounding of 1. No branch, so no NaN in its derivative."""
    return jnp.log(-jnp.expm1(-x))
