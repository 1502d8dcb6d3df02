"""Decoding: what parameters of conditionals, noise and evidence become, position by position.

The part of sampling that knows neither networks nor orders: temperature, nucleus, evidence, and the quantile of
the noise. A sampler asks a `Draw` for the values of some positions, of a `Plan` that was made before it began, and
is given what was `Drawn`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the arrays that a sample consists of, where it is more than the data.

    A model says of which by `parts(shape)`, a dictionary that has the data as `x`.

    Attributes:
        shape: `(batch, ...)`.
        levels: number of values of its integers, or None for floats.
    """

    shape: tuple[int, ...]
    levels: int | None


def kind(levels: int | None) -> Any:
    """The dtype of data of so many levels: int32, or float32 for None, which is continuous."""
    return jnp.float32 if levels is None else jnp.int32


def undrawn(levels: int | None) -> Any:
    """What stands where nothing could be drawn: -1, which is no level, or NaN."""
    return jnp.float32(jnp.nan) if levels is None else jnp.int32(-1)


def check_nucleus(output: Any) -> None:
    """Raises `ValueError` unless `top_p` can be asked of an output distribution."""
    if not hasattr(output, "nucleus"):
        raise ValueError(f"top_p: an output with a nucleus, such as Categorical, is wanted, got {output}")


class Plan(NamedTuple):
    """What is fixed before sampling begins, position by position; each array has the shape of the sample.

    Of a model whose samples have several parts (see `Part`) each is a dictionary of arrays.

    Attributes:
        noise: uniform noise in [0, 1).
        values: evidence where `known`, or None without evidence.
        known: boolean mask of the evidence, or None.
    """

    noise: Any
    values: Any = None
    known: Any = None

    def map(self, function: Callable[[Array], Array]) -> "Plan":
        """The plan of rearranged positions: `function` applied to every array."""
        return jax.tree.map(function, self)

    def at(self, index: Any) -> "Plan":
        """The plan of some positions: every array indexed alike."""
        return self.map(lambda array: array[index])


class Drawn(NamedTuple):
    """What was drawn of some positions, each array of the plan's shape.

    Attributes:
        values: Int32, of a level each, but -1 where noise or parameters are NaN; Float32 if continuous, or NaN.
        log_probs: Float32, in nats: of what was drawn, under the distribution it was drawn from; 0 for evidence.
            None unless asked for. A model's own sampler may give those of each example, `Float[b]`.
        iterations: parallel passes one after the other, counted by the fixed-point sampler; else None.
    """

    values: Any
    log_probs: Any = None
    iterations: Any = None

    def summed(self) -> "Drawn":
        """With the log-probability of each example, `Float[b]`, instead of each position."""
        found = [leaf.sum(range(1, leaf.ndim)) for leaf in jax.tree.leaves(self.log_probs)]
        return self._replace(log_probs=sum(found[1:], found[0]) if found else None)


class Draw(NamedTuple):
    """`draw(params, plan)`: the values of some positions from the parameters of their conditionals.

    Attributes:
        output: the output distribution.
        temperature: a positive number or one for each example, 1 for the model itself.
        top_p: draw from the most probable levels alone whose probabilities sum to this, likewise, or None.
        with_log_probs: whether what is drawn comes with its log-probabilities.
        sampler: `sampler(model, variables, plan, cond, draw)`, the method of sampling in use.
    """

    output: Any
    temperature: ArrayLike = np.float32(1)
    top_p: ArrayLike | None = None
    with_log_probs: bool = False
    sampler: Callable[..., Drawn] | None = None

    def of(self, output: Any) -> "Draw":
        """The same from another output distribution. Raises as `check_nucleus`."""
        if self.top_p is not None:
            check_nucleus(output)
        return self._replace(output=output)

    def stage(self, module: nn.Module, plan: Plan, cond: Any = None) -> Drawn:
        """What a bound submodule draws, a model in itself, by the method in use.

        For the sampler of a model that consists of others, its `generate`. Raises `ValueError` if the submodule's
        samples have several parts.
        """
        if hasattr(module, "parts"):
            raise ValueError(f"a stage whose samples are one array is wanted, got {type(module).__name__}")
        model, variables = module.unbind()
        assert self.sampler is not None, "a draw of the public samplers has one"
        return self.sampler(model, variables, plan, cond, self.of(model.output))

    def nothing(self, shape: tuple[int, ...]) -> Drawn:
        """Zeros of the form of what is drawn, for a sampler to begin with."""
        return Drawn(
            jnp.zeros(shape, kind(self.output.levels)),
            jnp.zeros(shape, jnp.float32) if self.with_log_probs else None,
        )

    def __call__(self, params: Array, plan: Plan) -> Drawn:
        """Evidence where it is known, elsewhere the quantile of the noise.

        `params` are `(*shape, num_params)` for a plan of `shape`, whose first axis is that of the examples.
        """
        params = self.output.temper(params, _by_example(self.temperature, params))
        if self.top_p is not None:
            params = self.output.nucleus(params, _by_example(self.top_p, params))
        values = self.output.quantile(params, plan.noise)
        log_probs = self.output.log_prob(params, values) if self.with_log_probs else None
        if plan.known is None or plan.values is None:
            return Drawn(values, log_probs)
        if log_probs is not None:
            log_probs = jnp.where(plan.known, 0, log_probs)
        return Drawn(jnp.where(plan.known, plan.values, values), log_probs)


def _by_example(setting: ArrayLike, params: Array) -> Array:
    """A scalar as it is; one number an example with axes of length 1 for all other axes of `params`."""
    array = jnp.asarray(setting, jnp.float32)
    return array.reshape(-1, *[1] * (params.ndim - 1)) if array.ndim else array
