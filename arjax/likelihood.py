"""Likelihoods by teacher forcing: every conditional of every example in one parallel pass."""

import math
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from arjax.checks import check_cond, check_data, check_seeds
from arjax.decoding import kind
from arjax.modules import hashable, log_probs


def log_prob(model: Any, variables: Any, x: Array | np.ndarray, cond: Any = None) -> Float[Array, "b"]:
    """Log-probability of each example, in nats: the sum of the log-probabilities of its conditionals.

    Args:
        model: a Linen module with an `output` distribution, whose call is the parallel pass; or, if it is not one
            pass of conditionals (a hierarchy, a flow), with a `log_prob(x, cond)` of its own, which is used.
        variables: its variables, such as `{"params": ...}`.
        x: integers `0..levels-1` of shape `(batch, *event)`; finite floats for a continuous `output`, which has
            None for `levels`, and the result is a log-density.
        cond: conditioning as the model wants it, one per example.

    Raises:
        ValueError: `x` is not of such numbers or empty, `cond` is not one for each example, or (checked outside of
            `jit`, within which the result is NaN) `x` or labels in `cond` are out of range.
    """
    model = hashable(model)
    return _log_prob(model, variables, *_checked(model, x, cond))


def bits_per_dim(model: Any, variables: Any, x: Array | np.ndarray, cond: Any = None) -> Float[Array, "b"]:
    """Negative log-likelihood of each example in bits per data dimension; arguments as `log_prob`."""
    return nats_to_bits_per_dim(-log_prob(model, variables, x, cond), np.shape(x)[1:])


def nats_to_bits_per_dim(nats, event: tuple[int, ...]):
    """Nats per example to bits per dimension of an event of shape `event`."""
    return nats / (math.log(2) * math.prod(event))


def ensemble_log_prob(
    model: Any,
    variables: Any,
    seeds: Array | np.ndarray,
    x: Array | np.ndarray,
    cond: Any = None,
    *,
    chunk: int = 4,
) -> Float[Array, "b"]:
    """Log-probability under the uniform mixture of a mask-agnostic model's members, in nats.

    `log 1/S sum_s p_s(x)` of joint probabilities (averaging conditionals or logits over members with different
    orders is no likelihood). Members are evaluated `chunk` at a time by `vmap` over the seeds.

    Args:
        model: a model that reads `variables["masks"]["seed"]`, such as `MADE`.
        variables: its variables.
        seeds: `Int[S]`, one per member.
        x: integers of shape `(batch, *event)`.
        cond: conditioning as the model wants it.
        chunk: members evaluated at once.

    Raises:
        ValueError: as `log_prob`, `seeds` are not integers of shape `(S,)`, or `chunk` is less than 1.
    """
    model = hashable(model)
    if chunk < 1:
        raise ValueError(f"chunk: 1 member or more is wanted, got {chunk}")
    return _ensemble_log_prob(model, variables, check_seeds(seeds), *_checked(model, x, cond), chunk)


def score(model: Any, variables: Any, x: Array | np.ndarray, cond: Any = None) -> Any:
    """Gradient of each example's log-probability with respect to the parameters (the Fisher score).

    A pytree like `variables["params"]` whose leaves have the batch as their first axis. Raises as `log_prob`.
    """
    model = hashable(model)
    x, cond = _checked(model, x, cond)

    def one(params, x, cond):
        batch = jax.tree.map(lambda leaf: leaf[None], (x, cond))
        return _log_prob(model, {**variables, "params": params}, *batch)[0]

    return jax.vmap(jax.grad(one), in_axes=(None, 0, 0))(variables["params"], x, cond)


def _checked(model: Any, x: Any, cond: Any) -> tuple[Any, Any]:
    x = check_data(x, model.output.levels)
    return x, check_cond(model, cond, len(x))


@partial(jax.jit, static_argnames="model")
def _log_prob(model, variables, x, cond):
    found = log_probs(model, variables, x.astype(kind(model.output.levels)), cond)
    return found.sum(range(1, found.ndim))


@partial(jax.jit, static_argnames=("model", "chunk"))
def _ensemble_log_prob(model, variables, seeds, x, cond, chunk):
    def member(seed):
        return _log_prob(model, {**variables, "masks": {"seed": seed}}, x, cond)

    members = jax.lax.map(member, seeds, batch_size=chunk)
    return jax.nn.logsumexp(members, axis=0) - math.log(seeds.shape[0])
