"""Flows: data as an invertible function of noise, with the density that the change of variables gives.

`log p(x) = log p(z) + log |det dz/dx|`, `z = f(x)` (Rezende and Mohamed, 2015, arXiv 1505.05770; the direction is
that of Dinh et al., 2017: `forward` goes from the data to the noise). A bijection is a Linen module with

- `forward(x, cond=None, *, train=False) -> (z, log_det)`, the noise of data and `log |det dz/dx|`, `Float[b]`;
- `inverse(z, cond=None, draw=CACHED) -> Drawn`, the data of noise as `values`, with `log |det dz/dx|` there as
  `log_probs` and the parallel passes that it took as `iterations`; `draw` has the method of sampling;
- `conditioning`, what `cond` is (see `arjax.layers.conditioning`), None if it takes none.

`z` has the shape of `x`. A `Flow` is a model as any other: the arjax functions take it, and its noise is uniform.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from arjax.continuous import Normal
from arjax.decoding import Draw, Drawn, Plan
from arjax.sampling import cached

CACHED = Draw(Normal(), with_log_probs=True, sampler=cached)
"""Draws by the cached samplers, with log-probabilities."""


class Standard(nn.Module):
    """Independent variables without parameters: the base of a flow.

    Attributes:
        output: the distribution of a variable, all of whose parameters are 0.
    """

    output: Any = Normal()

    def __call__(self, x: Array, cond: None = None, *, train: bool = False) -> Array:
        """Zeros, `Float[b, *event, num_params]`."""
        return jnp.zeros((*x.shape, self.output.num_params), jnp.float32)

    def generate(self, draw: Draw, plan: Plan, cond: None = None) -> Drawn:
        """All variables at once."""
        return draw(self(plan.noise), plan)


class Chain(nn.Module):
    """Bijections one after the other, the first next to the data.

    Attributes:
        layers: the bijections.
    """

    layers: tuple[nn.Module, ...]

    @property
    def conditioning(self) -> Any:
        """What `cond` is: that of the first layer that takes it."""
        return next((layer.conditioning for layer in self.layers if layer.conditioning is not None), None)

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The noise, and the sum of all log-determinants."""
        total = jnp.zeros(len(x), jnp.float32)
        for layer in self.layers:
            x, log_det = layer.forward(x, cond, train=train)
            total = total + log_det
        return x, total

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """The data, from the last layer to the first."""
        drawn = Drawn(z)
        for layer in reversed(self.layers):
            drawn = after(drawn, layer.inverse(drawn.values, cond, draw))
        return drawn


class Inverse(nn.Module):
    """A bijection the other way round.

    Attributes:
        layer: the bijection.
    """

    layer: nn.Module

    @property
    def conditioning(self) -> Any:
        """What `cond` is."""
        return self.layer.conditioning

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The inverse of the layer, by its cached sampler; no dropout."""
        if self.is_initializing():  # parameters come from a forward pass
            return self.layer.forward(x, cond)
        drawn = self.layer.inverse(x, cond).summed()
        return drawn.values, -drawn.log_probs

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """The layer as it is."""
        x, log_det = self.layer.forward(z, cond)
        return Drawn(x, -log_det)


class Flow(nn.Module):
    """A bijection and the distribution of its noise.

    Attributes:
        bijection: from the data `Float[b, *event]` to noise of the same shape.
        base: the model of the noise; a `MADE` of `Mixture` makes of a MAF a MAF MoG.
    """

    bijection: nn.Module
    base: Any = Standard()

    @property
    def output(self) -> Any:
        """The distribution of a variable of the noise: of real numbers, as the data."""
        return self.base.output

    @property
    def conditioning(self) -> Any:
        """What `cond` is, None for an unconditional model."""
        return self.bijection.conditioning

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """The noise of data, and `log |det dz/dx|`. Raises `ValueError` for a surplus `cond`."""
        if cond is not None and self.conditioning is None:
            raise ValueError("cond: this flow takes none")
        z, log_det = self.bijection.forward(x, cond, train=train)
        return z, log_det

    def inverse(self, z: Array, cond: Any = None) -> Array:
        """The data of noise, by the cached samplers."""
        return self.bijection.inverse(z, cond).values

    def log_prob(self, x: Array, cond: Any = None, *, train: bool = False) -> Float[Array, "b"]:
        """Log-density of each example, in nats."""
        z, log_det = self.forward(x, cond, train=train)
        log_probs = self.base.output.log_prob(self.base(z, train=train), z)
        return log_probs.sum(range(1, z.ndim)) + log_det

    def check_plan(self, plan: Plan) -> None:
        """Raises `ValueError` for evidence: a variable of the data depends on all of the noise."""
        if plan.values is not None:
            raise ValueError("evidence: a flow takes none, got some (a model of continuous conditionals does)")

    def generate(self, draw: Draw, plan: Plan, cond: Any = None) -> Drawn:
        """Noise from the base, then the inverse of the bijection; a temperature is that of the base."""
        self.check_plan(plan)
        if cond is not None and self.conditioning is None:
            raise ValueError("cond: this flow takes none")
        drawn = draw.stage(self.base, plan)
        found = after(drawn, self.bijection.inverse(drawn.values, cond, draw))
        return found if draw.with_log_probs else found._replace(log_probs=None)


def after(drawn: Drawn, following: Drawn) -> Drawn:
    """What was drawn in two stages: the values of the second, log-probabilities and iterations of both."""
    drawn, following = drawn.summed(), following.summed()

    def added(*terms: Any) -> Any:
        known = [term for term in terms if term is not None]
        return sum(known[1:], known[0]) if known else None

    return Drawn(
        following.values,
        added(drawn.log_probs, following.log_probs),
        added(drawn.iterations, following.iterations),
    )
