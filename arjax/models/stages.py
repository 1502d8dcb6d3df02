"""Stages one after the other: what the models that generate an image part by part have in common.

`p(x) = prod_k p(part_k | parts before it)`, the chain rule over parts (`arjax.parts`). The model of a part is any
model of the zoo, and its `cond` the features that a network without masks, `arjax.layers.Context`, makes of the
parts before it. The condition of the whole, such as a class, is given to the first stage as it is, and stands
beside what the networks of the others are given.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from arjax.checks import readable
from arjax.decoding import Drawn, Plan
from arjax.layers import condition


def log_prob(model: Any, x: Array, cond: Any = None, *, train: bool = False) -> Array:
    """The log-probability of each example of a part under a bound module, `Float[b]`, in nats."""
    if hasattr(model, "log_prob"):
        return model.log_prob(x, cond, train=train)
    log_probs = model.output.log_prob(model(x, cond, train=train), x)
    return log_probs.sum(range(1, x.ndim))


def with_cond(h: Array, first: Any, cond: Any) -> Array:
    """The features `Float[b, *places, c]`, and beside them those of `cond`, by the conditioning of a first stage.

    Raises:
        ValueError: `cond` is not what the first stage wants, or has a location.
    """
    s = condition(first.conditioning if hasattr(first, "conditioning") else None, cond, axes=h.ndim - 2)
    if s is None:
        return h
    if any(side != 1 for side in s.shape[1:-1]):
        raise ValueError(f"cond: what has no location is wanted, got a map of shape {s.shape}")
    return jnp.concatenate([h, jnp.broadcast_to(s, (*h.shape[:-1], s.shape[-1])).astype(h.dtype)], -1)


def chained(values: Any, *drawn: Drawn) -> Drawn:
    """What was drawn in stages: `values`, the log-probabilities of all stages, their passes added up."""
    passes = [jnp.max(stage.iterations) for stage in drawn if stage.iterations is not None]
    return Drawn(values, [stage.log_probs for stage in drawn], sum(passes[1:], passes[0]) if passes else None)


def total(log_probs: dict[str, Array]) -> Array:
    """The sum over stages, `Float[b]`."""
    return functools.reduce(jnp.add, log_probs.values())


def completed(plan: Plan, views: Sequence[Any]) -> Plan:
    """Evidence on `x` and on its `views`, each of the one before, with what it tells of views filled in."""
    if plan.values is None:
        return plan
    values, known, before = dict(plan.values), dict(plan.known), "x"
    for view in views:
        told = view.known(known[before])
        values[view.name] = jnp.where(told, view(values[before]), values[view.name])
        known[view.name] = told | known[view.name]
        before = view.name
    return plan._replace(values=values, known=known)


def check_views(plan: Plan, views: Sequence[Any]) -> None:
    """Raises `ValueError` where evidence on a view contradicts that on what it is a view of.

    Traced evidence is not checked: what the view is of then counts.
    """
    if plan.values is None or not all(map(readable, jax.tree.leaves((plan.values, plan.known)))):
        return
    for name in (view.name for view in views):
        given, told = np.asarray(plan.values[name]), np.asarray(completed(plan, views).values[name])
        wrong = np.argwhere(np.asarray(plan.known[name]) & (given != told))
        if len(wrong):
            place = tuple(map(int, wrong[0]))
            raise ValueError(
                f"evidence: {name}{list(place)} is {told[place]} by the evidence that it is a view of, got "
                f"{given[place]}"
            )
