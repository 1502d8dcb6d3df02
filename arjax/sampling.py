"""Samples as deterministic functions of uniform noise: `x_i = F^-1(u_i | x_<i)`.

The naive, the cached and the fixed-point sampler turn the same noise into the same sample, up to ties (see
`sample_from_noise`).
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze
from jax import Array, lax
from jax.typing import ArrayLike

from arjax import orderings, streaming
from arjax.checks import check_cond, check_draw, check_evidence, check_noise, check_shape
from arjax.drawing import Draw, draw_colours
from arjax.layers.incremental import ABSENT, merge
from arjax.modules import hashable

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

    The noise is `jax.random.uniform(key, shape, jnp.float32)`; the options are those of `sample_from_noise`.
    """
    noise = jax.random.uniform(key, check_shape(shape), jnp.float32)
    return sample_from_noise(model, variables, noise, cond, **options)


def sample_from_noise(
    model: Any,
    variables: Any,
    noise: ArrayLike,
    cond: Any = None,
    *,
    method: Method = "cached",
    temperature: ArrayLike = 1.0,
    top_p: ArrayLike | None = None,
    evidence: tuple[ArrayLike, ArrayLike] | None = None,
    return_log_prob: bool = False,
    return_iterations: bool = False,
) -> Any:
    """The sample that belongs to `noise`, uniform in [0, 1) of shape `(batch, *event)`. Compiled once per shape.

    All methods give the same sample, up to ties: they do not round alike, so noise within rounding of the boundary
    between two levels may give either (a few integers in 10,000 of a large, ill-conditioned network), and what
    follows in that example is drawn given the one it gave.

    Within `jit` no value can be checked. What should have been refused (noise outside of [0, 1), a temperature of
    0, a label without a class) is drawn as -1 there, as is what has NaN for parameters; an example with a -1 is no
    sample, and its log-probability is NaN.

    Args:
        model: a Linen module with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        noise: one uniform number per data dimension, of any float dtype.
        cond: conditioning as the model wants it, one per example.
        method: "cached" evaluates every activation once (for a model without memory it is "naive"); "naive"
            evaluates the network anew for each position and is the oracle; "fixed_point" draws all positions
            at once, `x <- quantile(params(x), noise)`, until no integer changes.
        temperature: below 1 sharpens and above 1 flattens every conditional; a number or one per example.
        top_p: draw from the most probable levels alone whose probabilities sum to this, a number or one per
            example; None for all.
        evidence: `(values, known)`, both of the sample's shape: positions where the boolean `known` holds keep
            their value. A conditional sees the past alone, so evidence acts on the positions after it in the
            order of generation and on none before it: a completion is exact if all its evidence comes first.
        return_log_prob: return `(sample, log_prob)`, the latter `Float[b]` in nats, found while drawing: that of
            `arjax.log_prob`, to rounding. Evidence counts nothing (it is the log-probability of what was drawn,
            given what came before), and with `temperature` or `top_p` it is under the distribution drawn from.
        return_iterations: with "fixed_point", return `(sample, iterations)` or `(sample, log_prob, iterations)`;
            at most dimensions + 1 iterations, the last of which only confirms.

    Raises:
        ValueError: an unknown method, noise that is not of floats in [0, 1) or not of the model's event, a `cond`
            or evidence that does not fit, a temperature of 0 or less, a top_p outside of (0, 1] or for an output
            without `nucleus`, a label the model has no class for, `return_iterations` with another method.
    """
    model, variables = hashable(model), unfreeze(variables)
    if method not in list(_METHODS):
        raise ValueError(f"method is one of {', '.join(_METHODS)}, got {method!r}")
    if return_iterations and method != "fixed_point":
        raise ValueError(f"only method='fixed_point' counts iterations, got method={method!r}")
    plan = check_evidence(check_noise(noise), evidence, model.output.levels)
    batch = len(plan.noise)
    limits = check_draw(model.output, temperature, top_p, batch)
    drawn, iterations = _sample(
        model, variables, plan, check_cond(model, cond, batch), *limits, method, return_log_prob
    )
    asked = (drawn.log_probs,) * return_log_prob + (iterations,) * return_iterations
    return (drawn.values, *asked) if asked else drawn.values


@partial(jax.jit, static_argnames=("model", "method", "with_log_probs"))
def _sample(model, variables, plan, cond, temperature, top_p, method, with_log_probs=False):
    # Whatever the model refuses, such as an event of another shape, it refuses with every method.
    jax.eval_shape(model.apply, variables, jnp.zeros(plan.noise.shape, jnp.int32), cond)
    draw = Draw(model.output, temperature, top_p, with_log_probs)
    drawn, iterations = _METHODS[method](model, variables, plan, cond, draw)
    return drawn.summed(), iterations


def _naive(model, variables, plan, cond, draw, steps=None):
    """A forward pass and a draw for each position (the first `steps` of them, for benchmarks).

    An image's position is a pixel; only what depends on its earlier channels is evaluated for each channel.
    """
    shape = plan.noise.shape
    order, channels = _order(model, variables, shape[1:])

    def flat(array):
        return array.reshape(array.shape[0], order.size, *channels, *array.shape[plan.noise.ndim :])

    def draw_position(i, params, drawn, part=()):
        new = draw(flat(params)[:, i, *part], plan.map(lambda array: flat(array)[:, i, *part]))
        return jax.tree.map(lambda old, new: flat(old).at[:, i, *part].set(new).reshape(shape), drawn, new)

    def pixel(t, drawn):
        features = model.apply(variables, drawn.values, cond, method=_features)
        for channel in range(shape[-1]):
            params = model.apply(variables, features, drawn.values, method="colours")
            drawn = draw_position(order[t], params, drawn, (channel,))
        return drawn

    def position(t, drawn):
        return draw_position(order[t], model.apply(variables, drawn.values, cond), drawn)

    body = pixel if channels else position
    return lax.fori_loop(0, order.size if steps is None else steps, body, draw.nothing(shape)), order.size


def _order(model, variables, event):
    """The positions in the order of generation, and the channels of each, `()` unless positions are pixels.

    An event may be shorter than those that a model in raster order has ranks for.
    """
    channels = event[-1:] if getattr(model, "channels", None) else ()
    ranks = model.apply(variables, method="ranks") if hasattr(model, "ranks") else np.arange(math.prod(event))
    per_position = math.prod(channels)
    inverse = jnp.asarray(orderings.inverse(ranks), jnp.int32)
    return inverse[: math.prod(event) : per_position] // per_position, channels


def _features(model, x, cond):
    if not hasattr(model, "vertical"):
        return model.joint(x, cond)
    return model.horizontal(x, model.vertical(x, model.condition(cond)))


def _fixed_point(model, variables, plan, cond, draw):
    def unfinished(state):
        _, changed, _ = state
        return changed

    def body(state):
        drawn, _, iterations = state
        update = draw(model.apply(variables, drawn.values, cond), plan)
        return update, jnp.any(update.values != drawn.values), iterations + 1

    start = draw.nothing(plan.noise.shape), True, jnp.int32(0)
    drawn, _, iterations = lax.while_loop(unfinished, body, start)
    return drawn, iterations


def _cached(model, variables, plan, cond, draw):
    if hasattr(model, "generate"):
        return model.apply(variables, draw, plan, cond, method="generate"), 1
    if hasattr(model, "vertical"):
        return _cached_image(model, variables, plan, cond, draw), 1
    x = jnp.zeros(plan.noise.shape, jnp.int32)
    _, updates = jax.eval_shape(partial(model.apply, mutable=["cache"]), variables, x, cond)
    if not jax.tree.leaves(updates):
        return _naive(model, variables, plan, cond, draw)
    order, channels = _order(model, variables, x.shape[1:])
    state = streaming.empty_state(model, variables, len(x), cond, channels)
    plan = plan.map(lambda array: array.reshape(len(x), order.size, *channels)[:, order])
    _, drawn = streaming.draw_chunk(model, variables, state, plan, cond, draw)
    return jax.tree.map(lambda leaf: leaf[:, jnp.argsort(order)].reshape(x.shape), drawn), 1


def _cached_image(model, variables, plan, cond, draw):
    """Nested scans: the vertical stack once per row, the horizontal one once per pixel, then channel by channel.

    A model whose layers run every 1, 2, 4 ... rows and columns has a `period`: the scans go over blocks of one
    period, within which the phase of a row or a pixel is static.
    """
    period = getattr(model, "period", 1)
    context = model.apply(variables, cond, method="condition")
    batch, height, width, channels = plan.noise.shape
    no_row = jnp.full((batch, 1, width, channels), ABSENT, jnp.int32)

    def context_of(row):
        """A map's row; what has no rows is the same in all."""
        return jax.tree.map(
            lambda leaf: leaf if leaf.shape[1] == 1 else lax.dynamic_slice_in_dim(leaf, row, 1, 1), context
        )

    def next_row(phase, row, memory, number, plan):
        """The row after `row`; `memory` has the collections of the vertical stack, of the turn, of the pixels."""
        static = {} if period == 1 else {"phase": phase}
        apply = partial(model.apply, **static)
        links, vertical = apply(
            variables | memory["vertical"], row, context_of(number), method="vertical", mutable=["cache"]
        )
        turn_variables = variables | memory["turn"] | memory["pixels"]
        _, turn = apply(turn_variables, no_row, links, method=_row_turn, mutable=["cache", "above"])
        above = {"above": turn.pop("above", {})}
        drawn, pixels = _next_pixels(model, variables, phase, period, (links, above), plan, draw)
        return drawn, {"vertical": vertical, "turn": turn, "pixels": merge(memory["pixels"], pixels)}

    def next_rows(carry, block):
        row, memory = carry
        number, plan = block
        rows = []
        for phase in range(period):
            own = plan.map(lambda array, phase=phase: array[:, phase : phase + 1])
            drawn, memory = next_row(phase, row, memory, number + phase, own)
            row = drawn.values
            rows.append(drawn)
        return (row, memory), jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *rows)

    blocks = plan.map(
        lambda array: jnp.moveaxis(array.reshape(batch, height // period, period, width, channels), 1, 0)
    )
    nothing: dict[str, dict[str, Any]] = {"vertical": {}, "turn": {}, "pixels": {}}
    first = plan.map(lambda array: array[:, :1])
    variables = variables | _fixed(model, variables, context_of(0), no_row, period)
    _, memory = jax.eval_shape(partial(next_row, 0), no_row, nothing, 0, first)
    carry = no_row, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), memory)
    _, rows = lax.scan(next_rows, carry, (jnp.arange(0, height, period, dtype=jnp.int32), blocks))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(plan.noise.shape), rows)


def _next_pixels(model, variables, phase, period, slices, plan, draw):
    """The pixels of a row one after the other, and what they leave in the collection `present`.

    `slices` are what the row has to say to its pixels. Of a coarse layer's features, which are fewer than the
    pixels, several pixels get the same one.
    """
    columns = math.gcd(phase, period)  # after so many, all layers that run in this row have run
    batch, _, width, channels = plan.noise.shape
    no_pixel = jnp.full((batch, 1, 1, channels), ABSENT, jnp.int32)

    leaves, structure = jax.tree.flatten((slices, plan))
    by_column = [leaf.shape[2] > 1 for leaf in leaves]  # the others are the same for all pixels

    def blocks(leaf):
        shape = (leaf.shape[0], 1, width // columns, leaf.shape[2] * columns // width, *leaf.shape[3:])
        return jnp.moveaxis(leaf.reshape(shape), 2, 0)

    def next_pixels(carry, block):
        pixel, cache = carry
        sliced = iter(block)
        block = [next(sliced) if varies else leaf for leaf, varies in zip(leaves, by_column, strict=True)]
        pixels, presents = [], []
        for column in range(columns):
            at = partial(_column, index=column, columns=columns)
            (links, above), own = jax.tree.unflatten(structure, map(at, block))
            static = {} if period == 1 else {"phase": (phase, column)}
            drawn, cache, present = _next_pixel(model, variables | above, cache, pixel, links, own, draw, static)
            pixel = drawn.values
            pixels.append(drawn)
            presents.append(present)
        pixels = jax.tree.map(lambda *parts: jnp.concatenate(parts, 2), *pixels)
        return (pixel, cache), (pixels, _concatenate(presents))

    xs = [blocks(leaf) for leaf, varies in zip(leaves, by_column, strict=True) if varies]
    (_, cache), _ = jax.eval_shape(next_pixels, (no_pixel, {}), [leaf[0] for leaf in xs])
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)
    _, (row, present) = lax.scan(next_pixels, (no_pixel, cache), xs, length=width // columns)

    def whole(leaf):
        leaf = jnp.moveaxis(leaf, 0, 2)
        return leaf.reshape(batch, 1, -1, *leaf.shape[4:])

    return jax.tree.map(whole, (row, present))


def _next_pixel(model, variables, cache, pixel, links, plan, draw, static):
    mutable = ["cache", "present"]
    features, state = model.apply(variables | cache, pixel, links, method="horizontal", mutable=mutable, **static)
    before = state

    def colours(pixel):
        nonlocal state
        params, state = model.apply(variables | before, features, pixel, method="colours", mutable=mutable)
        return params

    drawn = draw_colours(colours, draw, plan, ABSENT)
    present = {"present": state.pop("present", {})}
    return drawn, state, present


def _row_turn(model, pixels, links, **static):
    features = model.horizontal(pixels, links, **{name: (phase, None) for name, phase in static.items()})
    return model.colours(features, pixels)


def _fixed(model, variables, context, row, period):
    """What the stacks compute of parameters alone."""
    static = {} if period == 1 else {"phase": 0}
    apply = partial(model.apply, variables, **static)
    links, vertical = apply(row, context, method="vertical", mutable=["cache", "fixed"])
    _, horizontal = apply(row, links, method=_row_turn, mutable=["cache", "above", "fixed"])
    return merge({"fixed": vertical.get("fixed", {})}, {"fixed": horizontal.get("fixed", {})})


def _concatenate(trees):
    """Each leaf of nested dictionaries along the columns; a leaf may be missing in some."""
    flat = [traverse_util.flatten_dict(tree) for tree in trees]
    names = {name for tree in flat for name in tree}
    return traverse_util.unflatten_dict(
        {name: jnp.concatenate([tree[name] for tree in flat if name in tree], 2) for name in names}
    )


def _column(leaf, index, columns):
    return lax.slice_in_dim(leaf, start := index * leaf.shape[2] // columns, start + 1, axis=2)


_METHODS = {"cached": _cached, "naive": _naive, "fixed_point": _fixed_point}
