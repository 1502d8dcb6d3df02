"""Samples as deterministic functions of uniform noise: `x_i = F^-1(u_i | x_<i)`.

The naive, the cached and the fixed-point sampler turn the same noise into the same sample, up to ties (see
`sample_from_noise`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from arjax import incremental, orderings
from arjax.checks import check_cond, check_draw, check_plan, check_shape
from arjax.decoding import Draw, Drawn, Plan, kind
from arjax.modules import forward, hashable

Method = Literal["cached", "naive", "fixed_point", "rows", "blocks"]
COUNTED = ("fixed_point", "rows", "blocks")
"""Methods that count their parallel passes."""


def sample(
    model: Any,
    variables: Any,
    key: Array,
    shape: tuple[int, ...],
    cond: Any = None,
    **options: Any,
) -> Any:
    """Draws `Int32[batch, *event]` from the model, `Float32` if it is continuous; `shape` is `(batch, *event)`.

    The noise is `jax.random.uniform(key, shape, jnp.float32)`; of a model whose samples have several parts a
    dictionary of such arrays, each with a key of its own. The options are those of `sample_from_noise`.
    """
    shape = check_shape(shape)
    noise: Any
    if hasattr(model, "parts"):
        parts = hashable(model).parts(shape)
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        noise = {name: jax.random.uniform(keys[name], part.shape, jnp.float32) for name, part in parts.items()}
    else:
        noise = jax.random.uniform(key, shape, jnp.float32)
    return sample_from_noise(model, variables, noise, cond, **options)


def sample_from_noise(
    model: Any,
    variables: Any,
    noise: Any,
    cond: Any = None,
    *,
    method: Method = "cached",
    block: int = 16,
    temperature: ArrayLike = 1.0,
    top_p: ArrayLike | None = None,
    evidence: tuple[Any, Any] | None = None,
    return_log_prob: bool = False,
    return_iterations: bool = False,
    assume_causal: bool = False,
) -> Any:
    """The sample that belongs to `noise`, uniform in [0, 1) of shape `(batch, *event)`. Compiled once per shape.

    All methods give the same sample, up to ties: they do not round alike, so noise within rounding of the boundary
    between two levels may give either (a few integers in 10,000 of a large, ill-conditioned network), and what
    follows in that example is drawn given the one it gave.

    Within `jit` no value can be checked. What should have been refused (noise outside of [0, 1), a temperature of
    0, a label without a class) is drawn as -1 there (as NaN if continuous), as is what has NaN for parameters; an
    example with such a value is no sample, and its log-probability is NaN.

    Args:
        model: a Linen module with an `output` distribution, whose call is its parallel pass; or `arjax.Causal`.
            One that has a `log_prob` of its own has `generate(draw, plan, cond)` too, which draws its parts one
            after the other, each by `method`.
        variables: its variables, such as `{"params": ...}`.
        noise: one uniform number per data dimension, of any float dtype. Of a model that draws more than the data,
            which it says by `parts(shape)`, a dictionary of arrays, the data's being `x`; samples and evidence are
            such dictionaries then.
        cond: conditioning as the model wants it, one per example.
        method: "cached" evaluates every activation once, by a sampler derived from the parallel pass (see
            `arjax.incremental`); "naive" evaluates the network anew for each dimension and is the oracle;
            "fixed_point" draws all at once, `x <- quantile(params(x), noise)`, until no integer changes; "rows"
            and "blocks" are between the last and the first: cached from row to row of an image in raster order,
            or from block to block of a sequence or of a model's own order, each of them by the fixed point, in
            parallel passes over it instead of a step for each of its positions. They pay where a step costs the
            same however little it does, on an accelerator at a small batch, and not on a CPU; and where few
            passes settle it: of 16 positions, at batch 1, 4 in a Transformer of binary digits, but 15 in an LSTM
            of text and 16 in a WaveNet of speech, which gain nothing.
        block: with "blocks", the positions of a block; the last one has what is left.
        temperature: below 1 sharpens and above 1 flattens every conditional; a number or one per example.
        top_p: draw from the most probable levels alone whose probabilities sum to this, a number or one per
            example; None for all.
        evidence: `(values, known)`, both of the sample's shape: positions where the boolean `known` holds keep
            their value. A conditional sees the past alone, so evidence acts on the positions after it in the
            order of generation and on none before it: a completion is exact if all its evidence comes first.
        return_log_prob: return `(sample, log_prob)`, the latter `Float[b]` in nats, found while drawing: that of
            `arjax.log_prob`, to rounding. Evidence counts nothing (it is the log-probability of what was drawn,
            given what came before), and with `temperature` or `top_p` it is under the distribution drawn from.
        return_iterations: with "fixed_point", "rows" or "blocks", return `(sample, iterations)` or `(sample,
            log_prob, iterations)`, the parallel passes that were made one after the other: over the whole event,
            at most dimensions + 1, or over single rows or blocks, at most dimensions + 1 for each of them. The
            last pass only confirms.
        assume_causal: take for causal what cannot be proved to be, such as attention with a mask that is computed
            from variables.

    Raises:
        NotCausal: with "cached", "rows" or "blocks", a conditional depends on its own dimension or on later ones,
            or may.
        ValueError: an unknown method, noise that is not of floats in [0, 1) or not of the model's event, a `cond`
            or evidence that does not fit, a temperature of 0 or less, a top_p outside of (0, 1] or for an output
            without `nucleus`, a label the model has no class for, `return_iterations` with another method, "rows"
            without an image `(batch, height, width, channels)` in raster order, "blocks" without a sequence
            `(batch, t)` or a model with an order of its own, or with a network with strides.
    """
    model = hashable(model)
    if method not in list(_METHODS):
        raise ValueError(f"method is one of {', '.join(_METHODS)}, got {method!r}")
    if return_iterations and method not in COUNTED:
        raise ValueError(f"only the methods {', '.join(COUNTED)} count iterations, got method={method!r}")
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"block: an integer of 1 or more is wanted, got {block!r}")
    plan = check_plan(model, noise, evidence)
    batch = len(jax.tree.leaves(plan.noise)[0])
    limits = check_draw(model.output, temperature, top_p, batch)
    cond, block = check_cond(model, cond, batch), block if method == "blocks" else 0
    drawn = _sample(model, variables, plan, cond, *limits, method, block, return_log_prob, assume_causal)
    asked = (drawn.log_probs,) * return_log_prob + (drawn.iterations,) * return_iterations
    return (drawn.values, *asked) if asked else drawn.values


@partial(jax.jit, static_argnames=("model", "method", "block", "with_log_probs", "assume_causal"))
def _sample(
    model, variables, plan, cond, temperature, top_p, method, block=0, with_log_probs=False, assume_causal=False
):
    options = {"block": block} if block else {}
    if assume_causal and method in ("cached", "rows", "blocks"):
        options["assume_causal"] = True
    sampler = partial(_by, partial(_METHODS[method], **options))
    draw = Draw(model.output, temperature, top_p, with_log_probs, sampler)
    return sampler(model, variables, plan, cond, draw).summed()


def _by(method, model, variables, plan, cond, draw):
    """By this method, or by the model's own sampler where it is not one pass of conditionals."""
    if hasattr(model, "log_prob"):
        return model.apply(variables, draw, plan, cond, method="generate")
    # Whatever the model refuses, such as an event of another shape, it refuses with every method.
    x = jnp.zeros(plan.noise.shape, kind(model.output.levels))
    jax.eval_shape(partial(forward, model), variables, x, cond)
    return method(model, variables, plan, cond, draw)


def _naive(model, variables, plan, cond, draw, steps=None):
    """A forward pass and a draw for each dimension (the first `steps` of them, for benchmarks)."""
    shape = plan.noise.shape
    order = jnp.asarray(_order(model, variables, math.prod(shape[1:])))

    def flat(array):
        return array.reshape(shape[0], -1, *array.shape[len(shape) :])

    def dimension(i, drawn):
        place = order[i]
        params = flat(forward(model, variables, drawn.values, cond))[:, place]
        new = draw(params, plan.map(lambda array: flat(array)[:, place]))
        return jax.tree.map(lambda old, new: flat(old).at[:, place].set(new).reshape(shape), drawn, new)

    return lax.fori_loop(0, order.size if steps is None else steps, dimension, draw.nothing(shape))


def _order(model, variables, size):
    """The dimensions in the order of generation; an event may be shorter than those of a model in raster order."""
    ranks = model.apply(variables, method="ranks") if hasattr(model, "ranks") else np.arange(size)
    return jnp.asarray(orderings.inverse(ranks), jnp.int32)[:size]


def _fixed_point(model, variables, plan, cond, draw):
    drawn, _ = _converged(lambda x: (forward(model, variables, x, cond), ()), plan, draw)
    return drawn


def _converged(function, plan, draw):
    """What is drawn once it no longer changes, and what the `aux` of `function(x) -> (params, aux)` then is."""

    def unfinished(state):
        _, _, changed, _ = state
        return changed

    def body(state):
        drawn, _, _, iterations = state
        params, aux = function(drawn.values)
        update = draw(params, plan)
        same = (update.values == drawn.values) | (jnp.isnan(update.values) & jnp.isnan(drawn.values))
        return update, aux, ~same.all(), iterations + 1

    nothing = draw.nothing(plan.noise.shape)
    _, aux = jax.eval_shape(function, nothing.values)
    aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), aux)
    drawn, aux, _, iterations = lax.while_loop(unfinished, body, (nothing, aux, True, jnp.int32(0)))
    return drawn._replace(iterations=iterations), aux


def _rows(model, variables, plan, cond, draw, assume_causal=False):
    if plan.noise.ndim != 4 or hasattr(model, "ranks") or hasattr(model, "generate"):
        raise ValueError(
            "images (batch, height, width, channels) in raster order and no sampler of the model's own are wanted "
            f"for method='rows', got {type(model).__name__} and noise of shape {plan.noise.shape}"
        )

    return _together(partial(forward, model, variables, cond=cond), plan, draw, assume_causal)


def _blocks(model, variables, plan, cond, draw, block, assume_causal=False):
    if hasattr(model, "generate") or (plan.noise.ndim != 2 and not hasattr(model, "in_order")):
        raise ValueError(
            "sequences (batch, t) or a model with an order of its own, and no sampler of its own, are wanted for "
            f"method='blocks', got {type(model).__name__} and noise of shape {plan.noise.shape}"
        )

    def sampler(function, plan):
        return _together(function, plan, draw, assume_causal, block)

    return _in_order(model, variables, plan, cond, sampler)


def _together(function, plan, draw, assume_causal, block=None):
    """By fixed points of rows, or of blocks, and the parallel passes over all of them."""

    def draw_row(function, plan):
        drawn, aux = _converged(function, plan, draw)
        return drawn.values, drawn._replace(iterations=drawn.iterations.reshape(1, 1)), aux

    drawn = derived(function, plan, draw, assume_causal, draw_row, block)
    return drawn._replace(iterations=drawn.iterations.sum())


def _cached(model, variables, plan, cond, draw, assume_causal=False):
    """By the model's own sampler if it has one, else by the one derived from its parallel pass.

    A model that handles its data in an order of its own does so in `in_order`, of which the sampler is derived.
    """
    if hasattr(model, "generate"):
        return model.apply(variables, draw, plan, cond, method="generate")

    def sampler(function, plan):
        return derived(function, plan, draw, assume_causal)

    return _in_order(model, variables, plan, cond, sampler)


def _in_order(model, variables, plan, cond, sampler):
    """What `sampler(function, plan)` draws in the order of generation, where it belongs."""
    if not hasattr(model, "ranks"):
        return sampler(partial(forward, model, variables, cond=cond), plan)
    shape = plan.noise.shape
    channels = shape[-1:] if getattr(model, "channels", 0) else ()
    size, each = math.prod(shape[1:]), math.prod(channels)
    order = _order(model, variables, size)[::each] // each

    def in_order(x):
        return model.apply(variables, x, cond, method="in_order")

    plan = plan.map(lambda array: array.reshape(shape[0], -1, *channels)[:, order])
    drawn = sampler(in_order, plan)
    return jax.tree.map(lambda leaf: leaf[:, jnp.argsort(order)].reshape(shape) if leaf.ndim else leaf, drawn)


cached = partial(_by, _cached)
"""`cached(model, variables, plan, cond, draw)`: the sampler of a `Draw`, for use within a model."""


def derived(
    function: Any, plan: Plan, draw: Draw, assume_causal: bool, draw_row: Any = None, block: int | None = None
) -> Drawn:
    """The cached sample of the conditionals whose parameters are `function(x)`."""

    def kept(params: Array, plan: Plan) -> tuple[Array, Drawn]:
        drawn = draw(params, plan)
        return drawn.values, drawn

    x = jax.ShapeDtypeStruct(plan.noise.shape, kind(draw.output.levels))
    return incremental.sample(function, x, kept, plan, assume_causal, draw_row, block)


_METHODS: dict[str, Callable[..., Drawn]] = {
    "cached": _cached,
    "naive": _naive,
    "fixed_point": _fixed_point,
    "rows": _rows,
    "blocks": _blocks,
}
