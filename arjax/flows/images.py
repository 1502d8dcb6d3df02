"""Images of integers by flows: uniform dequantisation (Theis et al., 2016, arXiv 1511.01844).

An integer v has the mass of the density over [v, v + 1). The mean of `log p(v + u)` over uniform u bounds its
logarithm from below (Jensen), so that nats and bits/dim of a dequantised flow are upper bounds of its own, which
stand beside those of models of integers as they are: pixels are 1 wide, no constant is left to add.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from arjax.decoding import Draw, Drawn, Plan


@dataclasses.dataclass(frozen=True)
class Integers:
    """The support of a dequantised flow.

    Attributes:
        levels: number of values.
    """

    levels: int


class Dequantised(nn.Module):
    """A flow as a model of integers `Int[b, *event]`.

    Attributes:
        flow: the model of the real numbers in [0, levels).
        levels: number of values of a dimension.
    """

    flow: Any
    levels: int = 256

    @property
    def output(self) -> Any:
        """The support."""
        return Integers(self.levels)

    @property
    def conditioning(self) -> Any:
        """What `cond` is, None for an unconditional model."""
        return self.flow.conditioning

    def log_prob(self, x: Array, cond: Any = None, *, train: bool = False) -> Float[Array, "b"]:
        """An estimate of a lower bound of the log-probability of each example, in nats, without bias.

        Training draws the noise from the rng stream "masks"; elsewhere it is a function of the example, so that
        an evaluation can be repeated.
        """
        if train and self.has_rng("masks"):
            noise = jax.random.uniform(self.make_rng("masks"), x.shape)
        else:
            noise = _of_example(x)
        inside = (x >= 0) & (x < self.levels)
        return self.flow.log_prob(jnp.where(inside, x.astype(jnp.float32) + noise, jnp.nan), cond, train=train)

    def check_plan(self, plan: Plan) -> None:
        """Raises `ValueError` for evidence, of which a flow takes none."""
        self.flow.check_plan(plan)

    def generate(self, draw: Draw, plan: Plan, cond: Any = None) -> Drawn:
        """The integers below what the flow draws, which is clipped to the levels; `log_probs` are densities."""
        drawn = draw.stage(self.flow, plan, cond)
        whole = jnp.clip(jnp.floor(drawn.values), 0, self.levels - 1)
        return drawn._replace(values=jnp.where(jnp.isnan(whole), -1, whole).astype(jnp.int32))


def _of_example(x: Array) -> Float[Array, "b *event"]:
    """Uniform noise that depends on the values of each example alone."""
    flat = x.reshape(len(x), -1).astype(jnp.uint32)
    weights = jax.random.bits(jax.random.key(0), flat.shape[1:], jnp.uint32)
    seeds = (flat * weights[None]).sum(1, dtype=jnp.uint32)
    return jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), x.shape[1:]))(seeds)
