"""Samples as deterministic functions of uniform noise: `x_i = F^-1(u_i | x_<i)`.

The naive, the cached and the fixed-point sampler turn the same noise into the same sample.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from arjax import orderings
from arjax.drawing import Draw, Plan
from arjax.layers.incremental import ABSENT

Method = Literal["cached", "naive", "fixed_point"]


def sample(
    model: Any,
    variables: Any,
    key: Array,
    shape: tuple[int, ...],
    cond: Any = None,
    **options: Any,
) -> Any:
    """Draws `Int32[batch, *event]` from the model; `shape` is `(batch, *event)`.

    The noise is `jax.random.uniform(key, shape)`; the options are those of `sample_from_noise`.
    """
    return sample_from_noise(model, variables, jax.random.uniform(key, shape), cond, **options)


def sample_from_noise(
    model: Any,
    variables: Any,
    noise: Array,
    cond: Any = None,
    *,
    method: Method = "cached",
    temperature: ArrayLike = 1.0,
    evidence: tuple[ArrayLike, ArrayLike] | None = None,
    return_iterations: bool = False,
) -> Any:
    """The sample that belongs to `noise`, uniform in [0, 1) of shape `(batch, *event)`. Compiled once per shape.

    Args:
        model: a Linen module with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        noise: one uniform number per data dimension.
        cond: conditioning as the model wants it, one per example.
        method: "cached" evaluates every activation once (for a model without memory it is "naive"); "naive"
            evaluates the network anew for each position and is the oracle; "fixed_point" draws all positions
            at once, `x <- quantile(params(x), noise)`, until no integer changes.
        temperature: below 1 sharpens and above 1 flattens every conditional.
        evidence: `(values, known)`, both of the sample's shape: positions where the boolean `known` holds keep
            their value. A conditional sees the past alone, so evidence acts on the positions after it in the
            order of generation and on none before it: a completion is exact if all its evidence comes first.
        return_iterations: with "fixed_point", return `(sample, iterations)`; at most dimensions + 1 iterations,
            the last of which only confirms.

    Raises:
        ValueError: an unknown method, evidence that does not fit, a temperature of 0 or less, `return_iterations`
            with another method.
    """
    if method not in _METHODS:
        raise ValueError(f"method is one of {', '.join(_METHODS)}, got {method!r}")
    if return_iterations and method != "fixed_point":
        raise ValueError(f"only method='fixed_point' counts iterations, got method={method!r}")
    if not isinstance(temperature, jax.core.Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"a temperature above 0 is wanted, got {temperature}")
    plan = Plan(noise) if evidence is None else _with_evidence(noise, evidence, model.output.levels)
    x, iterations = _sample(model, variables, plan, cond, jnp.float32(temperature), method)
    return (x, iterations) if return_iterations else x


def empty_cache(model: Any, variables: Any, *slices: Any, method: str | None = None) -> Any:
    """The `cache` collection before the first slice, for `step` with arguments like `slices`. All zeros."""
    apply = partial(model.apply, method=method, mutable=["cache"])
    _, updates = jax.eval_shape(apply, variables, *slices)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), updates.get("cache", {}))


def step(model: Any, variables: Any, cache: Any, *slices: Any, method: str | None = None) -> tuple[Any, Any]:
    """The incremental pass over the next slices: their output and the cache after them."""
    output, updates = model.apply(variables | {"cache": cache}, *slices, method=method, mutable=["cache"])
    return output, updates["cache"]


@partial(jax.jit, static_argnames=("model", "method"))
def _sample(model, variables, plan, cond, temperature, method):
    # Whatever the model refuses, such as an event of another shape, it refuses with every method.
    jax.eval_shape(model.apply, variables, jnp.zeros(plan.noise.shape, jnp.int32), cond)
    return _METHODS[method](model, variables, plan, cond, Draw(model.output, temperature))


def _naive(model, variables, plan, cond, draw, steps=None):
    """A forward pass and a draw for each position (the first `steps` of them, for benchmarks)."""
    x = jnp.zeros(plan.noise.shape, jnp.int32)
    positions = jax.eval_shape(model.apply, variables, x, cond).shape[1:-1]
    size = math.prod(positions)
    ranks = model.apply(variables, method="ranks") if hasattr(model, "ranks") else jnp.arange(size)
    order = jnp.asarray(orderings.inverse(ranks))

    def flat(array):
        return array.reshape(array.shape[0], size, *array.shape[1 + len(positions) :])

    def body(t, x):
        i = order[t]
        drawn = draw(flat(model.apply(variables, x, cond))[:, i], plan.map(lambda array: flat(array)[:, i]))
        return flat(x).at[:, i].set(drawn).reshape(x.shape)

    return lax.fori_loop(0, size if steps is None else steps, body, x), size


def _fixed_point(model, variables, plan, cond, draw):
    def unfinished(state):
        _, changed, _ = state
        return changed

    def body(state):
        x, _, iterations = state
        update = draw(model.apply(variables, x, cond), plan)
        return update, jnp.any(update != x), iterations + 1

    x, _, iterations = lax.while_loop(unfinished, body, (jnp.zeros(plan.noise.shape, jnp.int32), True, 0))
    return x, iterations


def _cached(model, variables, plan, cond, draw):
    if hasattr(model, "generate"):
        return model.apply(variables, draw, plan, cond, method="generate"), 1
    if hasattr(model, "vertical"):
        return _cached_image(model, variables, plan, cond, draw), 1
    first = jnp.full_like(plan.noise[:, :1], ABSENT, jnp.int32)
    cache = empty_cache(model, variables, jnp.zeros(plan.noise.shape, jnp.int32), cond)
    if not jax.tree.leaves(cache):
        return _naive(model, variables, plan, cond, draw)
    return _cached_sequence(model, variables, cache, first, plan, cond, draw), 1


def _cached_sequence(model, variables, cache, first, plan, cond, draw):
    def body(carry, plan):
        x, cache = carry
        params, cache = step(model, variables, cache, x, cond)
        x = draw(params, plan)
        return (x, cache), x

    slices = plan.map(lambda array: jnp.moveaxis(array, 1, 0)[:, :, None])
    _, xs = lax.scan(body, (first, cache), slices)
    return jnp.moveaxis(xs[:, :, 0], 0, 1)


def _cached_image(model, variables, plan, cond, draw):
    """Two nested scans: the vertical stack once per row, the horizontal one once per pixel."""
    context = model.apply(variables, cond, method="condition")
    no_row = jnp.full_like(plan.noise[:, :1], ABSENT, jnp.int32)
    no_pixel = no_row[:, :, :1]
    rows_cache = empty_cache(model, variables, no_row, context, method="vertical")
    links = jax.eval_shape(
        lambda: step(model, variables, rows_cache, no_row, context, method="vertical")[0],
    )
    pixel_links = jax.tree.map(lambda link: jnp.zeros((*link.shape[:2], 1, *link.shape[3:]), link.dtype), links)
    pixels_cache = empty_cache(model, variables, no_pixel, pixel_links, method="horizontal")

    def columns(array):
        return jnp.moveaxis(array, 2, 0)[:, :, :, None]

    def row_body(carry, plan):
        row, cache = carry
        links, cache = step(model, variables, cache, row, context, method="vertical")

        def pixel_body(carry, slices):
            pixel, cache = carry
            links, plan = slices
            params, cache = step(model, variables, cache, pixel, links, method="horizontal")
            pixel = draw(params, plan)
            return (pixel, cache), pixel

        slices = jax.tree.map(columns, (links, plan))
        _, pixels = lax.scan(pixel_body, (no_pixel, pixels_cache), slices)
        row = jnp.moveaxis(pixels[:, :, :, 0], 0, 2)
        return (row, cache), row

    rows = plan.map(lambda array: jnp.moveaxis(array, 1, 0)[:, :, None])
    _, rows = lax.scan(row_body, (no_row, rows_cache), rows)
    return jnp.moveaxis(rows[:, :, 0], 0, 1)


_METHODS = {"cached": _cached, "naive": _naive, "fixed_point": _fixed_point}


def _with_evidence(noise: Array, evidence: tuple[ArrayLike, ArrayLike], levels: int) -> Plan:
    values, known = (jnp.asarray(array) for array in evidence)
    for name, array, kind in (("values", values, jnp.integer), ("mask", known, jnp.bool_)):
        if array.shape != noise.shape or not jnp.issubdtype(array.dtype, kind):
            raise ValueError(
                f"evidence {name}: {kind.__name__} of the sample's shape {noise.shape} is wanted, "
                f"got {array.dtype} of {array.shape}"
            )
    if not isinstance(values, jax.core.Tracer) and not isinstance(known, jax.core.Tracer):
        seen = np.asarray(values)[np.asarray(known)]
        if seen.size and (seen.min() < 0 or seen.max() >= levels):
            raise ValueError(f"evidence values: 0..{levels - 1} are wanted, got {seen.min()}..{seen.max()}")
    return Plan(noise, values.astype(jnp.int32), known)
