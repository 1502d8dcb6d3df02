"""The learned histogram: one distribution per position and no input, the chain rule's first factor."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from arjax.decoding import Draw, Drawn, Plan


class Histogram(nn.Module):
    """Independent positions whose parameters are free; trained to the maximum they are a histogram.

    Attributes:
        event: shape of an event; a single variable has the event `(1,)`.
        output: the distribution of a position.
        kernel_init: initial parameters; a mixture wants its components told apart.
    """

    event: tuple[int, ...]
    output: Any
    kernel_init: nn.initializers.Initializer = dataclasses.field(  # else read as a method
        default_factory=lambda: nn.initializers.zeros
    )

    @nn.compact
    def __call__(self, x: Array, cond: None = None, *, train: bool = False) -> Array:
        """Data `Int[b, *event]` to parameters `Float[b, *event, num_params]`, the same for every example."""
        if cond is not None:
            raise ValueError("a histogram takes no cond")
        if x.shape[1:] != self.event:
            raise ValueError(f"events of shape {self.event} are wanted, got {x.shape[1:]}")
        params = self.param("logits", self.kernel_init, (*self.event, self.output.num_params), jnp.float32)
        return jnp.broadcast_to(params, (*x.shape, self.output.num_params))

    def generate(self, draw: Draw, plan: Plan, cond: None = None) -> Drawn:
        """All positions at once."""
        return draw(self(plan.noise, cond), plan)


def count(x: np.ndarray, levels: int, pseudo_count: float = 1.0) -> dict:
    """The variables of a categorical `Histogram` with the greatest likelihood of `Int[n, *event]`, in one pass.

    `pseudo_count` is added to every count, so that a level never seen keeps some probability.
    """
    counts = np.stack([(x == level).sum(0) for level in range(levels)], -1) + pseudo_count
    return {"params": {"logits": jnp.asarray(np.log(counts / counts.sum(-1, keepdims=True)), jnp.float32)}}
