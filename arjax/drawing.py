"""Drawing values from conditionals: the part of sampling that knows neither networks nor orders."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Plan(NamedTuple):
    """What is fixed before sampling begins, position by position; each array has the shape of the sample.

    Attributes:
        noise: uniform noise in [0, 1).
        values: evidence where `known`, or None without evidence.
        known: boolean mask of the evidence, or None.
    """

    noise: Array
    values: Array | None = None
    known: Array | None = None

    def map(self, function: Callable[[Array], Array]) -> "Plan":
        """The plan of rearranged positions: `function` applied to every array."""
        return jax.tree.map(function, self)

    def at(self, index: Any) -> "Plan":
        """The plan of some positions: every array indexed alike."""
        return self.map(lambda array: array[index])


class Draw(NamedTuple):
    """`draw(params, plan)`: the values of some positions from the parameters of their conditionals.

    Attributes:
        output: the output distribution.
        temperature: a positive number, 1 for the model itself.
    """

    output: Any
    temperature: Array

    def __call__(self, params: Array, plan: Plan) -> Array:
        """Evidence where it is known, elsewhere the quantile of the noise. Int32 of the plan's shape."""
        x = self.output.quantile(self.output.temper(params, self.temperature), plan.noise)
        if plan.known is None or plan.values is None:
            return x
        return jnp.where(plan.known, plan.values, x)
