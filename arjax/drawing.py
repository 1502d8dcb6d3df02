"""Drawing values from conditionals: the part of sampling that knows neither networks nor orders."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


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
        top_p: draw from the most probable levels alone whose probabilities sum to this, or None.
    """

    output: Any
    temperature: Array
    top_p: Array | None = None

    def __call__(self, params: Array, plan: Plan) -> Array:
        """Evidence where it is known, elsewhere the quantile of the noise. Int32 of the plan's shape."""
        params = self.output.temper(params, self.temperature)
        if self.top_p is not None:
            params = self.output.nucleus(params, self.top_p)
        x = self.output.quantile(params, plan.noise)
        if plan.known is None or plan.values is None:
            return x
        return jnp.where(plan.known, plan.values, x)


def check_draw(output: Any, temperature: ArrayLike, top_p: ArrayLike | None) -> tuple[Array, Array | None]:
    """Temperature and `top_p` as arrays; `ValueError` unless they (if concrete) and `output` fit."""
    if not isinstance(temperature, jax.core.Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"a temperature above 0 is wanted, got {temperature}")
    if top_p is None:
        return jnp.asarray(temperature, jnp.float32), None
    if not hasattr(output, "nucleus"):
        raise ValueError(f"top_p wants an output with a nucleus, such as Categorical, got {output}")
    if not isinstance(top_p, jax.core.Tracer) and not 0 < np.asarray(top_p) <= 1:
        raise ValueError(f"a top_p above 0 and at most 1 is wanted, got {top_p}")
    return jnp.asarray(temperature, jnp.float32), jnp.asarray(top_p, jnp.float32)


def draw_colours(colours: Callable[[Array], Array], draw: Draw, plan: Plan, absent: int) -> Array:
    """Pixels channel by channel, where `colours(pixels)` are the parameters of each channel given those before it.

    What is not yet drawn is `absent`. Int32 of the plan's shape, the last axis of which is that of the channels.
    """
    pixels = jnp.full(plan.noise.shape, absent, jnp.int32)
    for channel in range(pixels.shape[-1]):
        params = colours(pixels)[..., channel, :]
        drawn = draw(params, plan.at(np.s_[..., channel]))
        pixels = pixels.at[..., channel].set(drawn)
    return pixels
