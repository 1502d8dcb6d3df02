"""Autoregressive flows: MAF, Papamakarios et al. (2017), arXiv 1705.07057; IAF, Kingma et al. (2016), 1606.04934.

An autoregressive model with continuous conditionals is a flow: `z_i` is the standard normal number with the mass
of `x_i` below it (MAF, section 3.1). Of `Normal` conditionals that is `z_i = (x_i - mu_i) exp(-alpha_i)`, both
functions of `x_<i`; of a `Mixture` it is the mixture's CDF. One pass gives `z` of `x`; `x` of `z` takes one
dimension after the other, by the samplers of the model. An inverse autoregressive flow is the same layer the other
way round (MAF, section 3.2): samples take one pass, the density of given data one dimension after the other.

Deviations: log-scales are bounded by a tanh (`Autoregressive.bound`); layers are normalised by `ActNorm` unless
`BatchNorm`, the paper's, is asked for; log-scales are parameters where the paper's code has log-precisions; IAF's
gated update is not used.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from arjax.continuous import NORMAL
from arjax.decoding import Draw, Drawn, Plan
from arjax.flows.elementwise import ActNorm
from arjax.flows.flow import CACHED, Chain, Flow, Inverse
from arjax.models import MADE


@dataclasses.dataclass(frozen=True)
class ToNormal:
    """A continuous distribution as a map between its variable and standard normal noise, for samplers.

    What is drawn from noise is `from_normal` of it, and its `log_prob` is `log dz/dx`.

    Attributes:
        distribution: one of `arjax.continuous`.
        bound: of its log-scales, see `Autoregressive`.
    """

    distribution: Any
    bound: float | None = None
    levels: None = None

    @property
    def num_params(self) -> int:
        """Parameters of the distribution."""
        return self.distribution.num_params

    @property
    def num_mixtures(self) -> int:
        """Components of the distribution."""
        return getattr(self.distribution, "num_mixtures", 1)

    def num_joint_params(self, channels: int) -> int:
        """As the distribution's."""
        return self.distribution.num_joint_params(channels)

    def of_channels(self, joint: Array, x: Array) -> Array:
        """As the distribution's."""
        return self.distribution.of_channels(joint, x)

    def quantile(self, params: Array, z: Array) -> Array:
        """The value that belongs to the noise `z`, not uniform but standard normal."""
        return self.distribution.from_normal(self._bounded(params), z)

    def to_normal(self, params: Array, x: Array) -> tuple[Array, Array]:
        """The noise that belongs to the value, and `log dz/dx`."""
        return self.distribution.to_normal(self._bounded(params), x)

    def log_prob(self, params: Array, x: Array) -> Array:
        """`log dz/dx`."""
        return self.to_normal(params, x)[1]

    def temper(self, params: Array, temperature: Any) -> Array:
        """The same parameters: a temperature is that of the noise."""
        return params

    def _bounded(self, params: Array) -> Array:
        return params if self.bound is None else self.distribution.bounded(params, self.bound)


class Autoregressive(nn.Module):
    """The flow of an autoregressive model.

    Attributes:
        conditioner: any model with a continuous `output`, such as `MADE((6,), Normal())`.
        bound: what the log-scales are kept within, softly; None for no bound. Without one a chain of layers may
            run away in training.
    """

    conditioner: Any
    bound: float | None = 3.0

    def setup(self):
        """Creates the model, whose samplers take standard normal noise. Raises `ValueError` if it is discrete."""
        if self.conditioner.output.levels is not None:
            raise ValueError(f"conditioner: a continuous output is wanted, got {self.conditioner.output}")
        self.network = self.conditioner.clone(output=ToNormal(self.conditioner.output, self.bound))

    @property
    def conditioning(self) -> Any:
        """What `cond` is."""
        return getattr(self.conditioner, "conditioning", None)

    def forward(self, x: Array, cond: Any = None, *, train: bool = False) -> tuple[Array, Float[Array, "b"]]:
        """One parallel pass."""
        params = self.network(x, *self._given(cond), train=train)
        z, log_slopes = self.network.output.to_normal(params, x)
        return z, log_slopes.sum(range(1, x.ndim))

    def inverse(self, z: Array, cond: Any = None, draw: Draw = CACHED) -> Drawn:
        """By the model's samplers."""
        return draw.stage(self.network, Plan(z), *self._given(cond))

    def _given(self, cond: Any) -> tuple[Any, ...]:
        return () if self.conditioning is None else (cond,)


def maf(
    event: tuple[int, ...],
    *,
    num_layers: int = 5,
    hidden: tuple[int, ...] = (512,),
    output: Any = NORMAL,
    norm: Callable[..., Any] | None = ActNorm,
    activation: Any = nn.relu,
    dtype: DTypeLike = jnp.float32,
) -> Flow:
    """A masked autoregressive flow of events of any shape, `Float[b, *event]`.

    Args:
        event: shape of an event, such as `(D,)`.
        num_layers: layers, in alternating orders.
        hidden: widths of the hidden layers of each.
        output: the conditionals: `Normal()` for the paper's affine ones, a `Mixture` for its CDF.
        norm: what follows each layer: `ActNorm`, `BatchNorm` or None.
        activation: nonlinearity of the hidden units.
        dtype: dtype of the networks; parameters and variables are float32.
    """
    orders = [None, tuple(reversed(range(math.prod(event))))]
    made = partial(MADE, event, output, hidden, activation=activation, dtype=dtype)
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [Autoregressive(made(ordering=orders[i % 2])), *([] if norm is None else [norm()])]
    return Flow(Chain(tuple(layers)))


def iaf(event: tuple[int, ...], *, norm: Callable[..., Any] | None = None, **settings: Any) -> Flow:
    """An inverse autoregressive flow of events of any shape, settings as of `maf`."""
    flow = maf(event, norm=norm, **settings)
    return Flow(Inverse(flow.bijection), flow.base)
