"""Sequences a chunk at a time, with a memory that does not grow: texts without end, hours of audio.

A state holds what a model remembers of all that came before. `start` absorbs a prompt in one parallel pass,
`extend` goes on for as many positions as it is given noise: chunks of any sizes make the sequence that a single
call makes, up to ties (see `arjax.sample_from_noise`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import unfreeze
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Int32

from arjax.checks import check_cond, check_draw, check_noise, check_prompt
from arjax.drawing import Draw, Drawn, Plan, draw_colours
from arjax.layers.conditioning import check_length
from arjax.layers.incremental import ABSENT, BLOCK, commit, merge
from arjax.modules import hashable


class State(NamedTuple):
    """What a model of sequences remembers.

    Attributes:
        last: the last position, `Int32[b, 1]`, of pixels `Int32[b, 1, c]`; -1 before the first one.
        cache: the memory of the layers, with the collection's name.
    """

    last: Int32[Array, "b 1 ..."]
    cache: dict[str, Any]


def start(model: Any, variables: Any, prompt: Int[ArrayLike, "b t"], cond: Any = None) -> State:
    """The state after `prompt`, which is absorbed in one parallel pass; its length may be 0.

    Args:
        model: a Linen module of sequences with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        prompt: integers `0..levels-1`.
        cond: conditioning of the prompt as the model wants it; of a series, the part that belongs to the prompt.

    Raises:
        ValueError: the prompt is not of shape `(batch, length)` or not of integers in range, the model keeps no
            memory, or `cond` does not fit.
    """
    model, variables = hashable(model), unfreeze(variables)
    if any(hasattr(model, name) for name in ("vertical", "generate")) or getattr(model, "channels", False):
        raise ValueError(f"a model of sequences is wanted, got {type(model).__name__}")
    given = check_prompt(prompt, model.output.levels)
    cond = check_cond(model, cond, len(given))
    _check_room(model, 0, given.shape[1])
    return _start(model, variables, given, cond)


def extend(
    model: Any,
    variables: Any,
    state: State,
    noise: Float[ArrayLike, "b t"],
    cond: Any = None,
    *,
    temperature: ArrayLike = 1.0,
    top_p: ArrayLike | None = None,
    return_log_prob: bool = False,
) -> Any:
    """The next positions of a sequence, one for each number of `noise`, and the state after them.

    Compiled once per length of a chunk; lengths that 16 divides compile in half the time. Within `jit`, where no
    value can be checked, positions past the end of an event are drawn as -1 (and see `arjax.sample_from_noise`).

    Args:
        model: as given to `start`.
        variables: as given to `start`.
        state: what `start` or `extend` returned.
        noise: uniform in [0, 1).
        cond: conditioning; of a series, the part that belongs to this chunk.
        temperature: below 1 sharpens and above 1 flattens every conditional; a number or one per example.
        top_p: draw from the most probable levels alone whose probabilities sum to this, a number or one per
            example; None for all.
        return_log_prob: return `(state, x, log_prob)`, with the log-probability of each example's chunk given all
            before it in nats, `Float[b]`, as `arjax.sample_from_noise` does.

    Returns:
        The state, and `Int32[b, t]`.

    Raises:
        ValueError: shapes do not fit, the model has events of a fixed size and this goes past their end, or as
            `arjax.sample_from_noise`.
    """
    model, variables = hashable(model), unfreeze(variables)
    if not isinstance(state, State):
        raise ValueError(f"state: what start or extend returned is wanted, got {type(state).__name__}")
    plan, batch = Plan(check_noise(noise)), len(state.last)
    if plan.noise.ndim != 2 or len(plan.noise) != batch:
        raise ValueError(f"noise of shape ({batch}, length of 1 or more) is wanted, got {plan.noise.shape}")
    cond = check_cond(model, cond, batch)
    _check_room(model, state.cache.get("cache", {}).get("counted"), plan.noise.shape[1])
    limits = check_draw(model.output, temperature, top_p, batch)
    state, drawn = _extend(model, variables, state, plan, cond, *limits, return_log_prob)
    return (state, *drawn) if return_log_prob else (state, drawn.values)


def empty_state(model: Any, variables: Any, batch: int, cond: Any = None, channels: tuple[int, ...] = ()) -> State:
    """The state before the first position, which has so many `channels` if it is a pixel."""
    last = jnp.full((batch, 1, *channels), ABSENT, jnp.int32)

    def slices(last, cond):
        context, updates = _condition(model, variables, cond)
        context = jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0], 1, *leaf.shape[2:]), leaf.dtype), context)
        _, cache = conditionals(model, variables, last, context, mutable=["cache"])
        return merge(updates, cache)

    shapes = jax.eval_shape(slices, last, cond)
    return State(last, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))


def conditionals(model: Any, variables: Any, x: Array, context: Any, **options: Any) -> Any:
    """`model.apply` to the next slice, given what came before each of its positions."""
    method = "conditionals" if hasattr(model, "conditionals") else None
    return model.apply(variables, x, context, method=method, **options)


def draw_chunk(model: Any, variables: Any, state: State, plan: Plan, cond: Any, draw: Draw) -> tuple[State, Drawn]:
    """`extend` for any plan: nested scans over blocks of positions and the positions of a block.

    Of a plan `(batch, length, channels)` the positions are pixels, whose channels are drawn one after the other
    from what `model.colours` makes of the joint parameters.
    """
    batch, length, *channels = plan.noise.shape
    context, updates = _condition(model, variables | state.cache, cond)
    check_length(context, plan.noise)
    cache = merge(state.cache, updates)
    leaves, structure = jax.tree.flatten((context, plan))
    series = [leaf for leaf in leaves if leaf.shape[1] == length]

    def at(slices):
        """Context and plan of the positions that `slices` of the series are of; all else is the same for all."""
        own = iter(slices)
        return jax.tree.unflatten(structure, [next(own) if leaf.shape[1] == length else leaf for leaf in leaves])

    def draw_position(params, plan):
        if not channels:
            return draw(params, plan)
        return draw_colours(lambda x: model.apply(variables, params, x, method="colours"), draw, plan, ABSENT)

    def next_position(past, carry, slices):
        last, memory = carry
        slices, before = jax.tree.map(lambda leaf: leaf[:, None], slices)
        context, plan = at(slices)
        mutable = ["cache", "block", "present"]
        params, memory = conditionals(model, variables | past | memory | before, last, context, mutable=mutable)
        present = memory.pop("present", {})
        drawn = draw_position(params, plan)
        return (drawn.values, memory), jax.tree.map(lambda leaf: leaf[:, 0], (drawn, present))

    def next_block(carry, slices):
        last, cache = carry
        context, plan = at(slices)
        nothing = jnp.full(plan.noise.shape, ABSENT, jnp.int32)
        _, block = conditionals(model, variables | cache, nothing, context, mutable=["cache", "before", "past"])
        past = {"past": block.get("past", {})}
        by_position = jax.tree.map(_swapped, (slices, {"before": block.get("before", {})}))
        first = jax.tree.map(lambda leaf: leaf[0], by_position)
        (_, touched), _ = jax.eval_shape(partial(next_position, past), (last, {}), first)
        own = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), {"block": touched.pop("block", {})})
        memory = merge(_part(cache, touched), own)
        (last, memory), left = lax.scan(partial(next_position, past), (last, memory), by_position)
        memory.pop("block", None)
        drawn, present = jax.tree.map(_swapped, left)
        return (last, {"cache": commit(merge(cache, memory).get("cache", {}), present)}), drawn

    _, fixed = conditionals(
        model, variables | cache, state.last, at([leaf[:, :1] for leaf in series])[0], mutable=["cache", "fixed"]
    )
    variables = variables | {"fixed": fixed.get("fixed", {})}
    carry, chunks = (state.last, cache), []
    whole = length // BLOCK * BLOCK
    if whole:
        blocks = [leaf[:, :whole].reshape(leaf.shape[0], -1, BLOCK, *leaf.shape[2:]) for leaf in series]
        carry, drawn = lax.scan(next_block, carry, list(map(_swapped, blocks)))
        chunks.append(jax.tree.map(lambda leaf: _swapped(leaf).reshape(batch, whole, *channels), drawn))
    if whole < length:
        carry, drawn = next_block(carry, [leaf[:, whole:] for leaf in series])
        chunks.append(drawn)
    return State(*carry), jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *chunks)


@partial(jax.jit, static_argnames="model")
def _start(model, variables, prompt, cond):
    prompt = prompt.astype(jnp.int32)
    state = empty_state(model, variables, prompt.shape[0], cond)
    if not jax.tree.leaves(state.cache):
        raise ValueError(f"{type(model).__name__} keeps no memory, a model of sequences is wanted")
    if prompt.shape[1] == 0:
        return state
    context, updates = _condition(model, variables | state.cache, cond)
    check_length(context, prompt)
    before = jnp.concatenate([state.last, prompt[:, :-1]], 1)
    variables = variables | merge(state.cache, updates)
    _, cache = conditionals(model, variables, before, context, mutable=["cache"])
    return State(prompt[:, -1:], cache)


@partial(jax.jit, static_argnames=("model", "with_log_probs"))
def _extend(model, variables, state, plan, cond, temperature, top_p, with_log_probs):
    draw = Draw(model.output, temperature, top_p, with_log_probs)
    state, drawn = draw_chunk(model, variables, state, plan, cond, draw)
    return state, drawn.summed()


def _check_room(model: Any, taken: Any, more: int) -> None:
    """Raises `ValueError` if so many `more` positions do not fit an event of which `taken` are known."""
    size = getattr(model, "size", None)
    if size is None or taken is None or isinstance(taken, jax.core.Tracer):
        return
    if int(taken) + more > size:
        raise ValueError(f"an event has {size} positions, got {int(taken)} and {more} more")


def _condition(model: Any, variables: Any, cond: Any) -> tuple[Any, dict[str, Any]]:
    """The features of the next part of `cond`, and the cache of what made them."""
    if not hasattr(model, "conditionals"):
        return cond, {}
    return model.apply(variables, cond, method="condition", mutable=["cache"])


def _part(cache: Any, touched: Any) -> Any:
    """The entries of `cache` that `touched` has."""
    flat = traverse_util.flatten_dict(cache)
    return traverse_util.unflatten_dict({name: flat[name] for name in traverse_util.flatten_dict(touched)})


def _swapped(leaf: Array) -> Array:
    """The batch and the axis of positions or blocks in each other's place."""
    return jnp.moveaxis(leaf, 1, 0)
