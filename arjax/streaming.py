"""Sequences a chunk at a time, with a memory that does not grow: texts without end, hours of audio.

A state holds what a model remembers of all that came before. `start` absorbs a prompt in one parallel pass,
`extend` goes on for as many positions as it is given noise: chunks of any sizes make the sequence that a single
call makes, up to ties (see `arjax.sample_from_noise`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Int32

from arjax import incremental
from arjax.checks import check_cond, check_draw, check_noise, check_prompt
from arjax.decoding import Draw, Drawn, Plan, kind, undrawn
from arjax.layers import check_length
from arjax.modules import forward, hashable


class State(struct.PyTreeNode):
    """What a model of sequences remembers.

    Attributes:
        memory: what its operations remember.
        position: how many positions there were.
        frames: of each series in `cond` the latest frames that the next part of it is seen with.
        batch: examples.
        length: positions that a sequence may have, None for any number.
    """

    memory: list[Array]
    position: Int32[Array, ""]
    frames: Any
    batch: int = struct.field(pytree_node=False)
    length: int | None = struct.field(pytree_node=False)


def start(
    model: Any, variables: Any, prompt: Int[ArrayLike, "b t"], cond: Any = None, *, length: int | None = None
) -> State:
    """The state after `prompt`, which is absorbed in one parallel pass; its length may be 0.

    Args:
        model: a model of sequences with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        prompt: integers `0..levels-1`; of a model with an order of its own, in the order of generation.
        cond: conditioning of the prompt as the model wants it; of a series, the part that belongs to the prompt.
        length: positions that a sequence may have, prompt included: for a network that tells positions apart or
            attends to all of them, by default the model's `size`. None for one that does neither: no end.

    Raises:
        ValueError: the prompt is not of shape `(batch, length)` or not of integers in range, `cond` does not fit,
            the network is not one of sequences or wants a `length`.
        NotCausal: it is not causal.
    """
    model = hashable(model)
    if hasattr(model, "generate") or getattr(model, "channels", False):
        raise ValueError(f"a model of sequences is wanted, got {type(model).__name__}")
    given = check_prompt(prompt, model.output.levels)
    cond = check_cond(model, cond, len(given))
    length = getattr(model, "size", None) if length is None else length
    _check_room(length, 0, given.shape[1])
    return _start(model, variables, given, cond, length)


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

    Compiled once per length of a chunk. Within `jit`, where no value can be checked, positions past the end of a
    sequence are drawn as -1 (and see `arjax.sample_from_noise`).

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
    model = hashable(model)
    if not isinstance(state, State):
        raise ValueError(f"state: what start or extend returned is wanted, got {type(state).__name__}")
    plan = Plan(check_noise(noise))
    if plan.noise.ndim != 2 or len(plan.noise) != state.batch:
        raise ValueError(f"noise of shape ({state.batch}, length of 1 or more) is wanted, got {plan.noise.shape}")
    cond = check_cond(model, cond, state.batch)
    _check_room(state.length, state.position, plan.noise.shape[1])
    limits = check_draw(model.output, temperature, top_p, state.batch)
    state, drawn = _extend(model, variables, state, plan, cond, *limits, return_log_prob)
    return (state, drawn.values, drawn.log_probs) if return_log_prob else (state, drawn.values)


@partial(jax.jit, static_argnames=("model", "length"))
def _start(model, variables, prompt, cond, length):
    batch, known = prompt.shape
    prompt = prompt.astype(kind(model.output.levels))
    hop, latest = hop_and_past(model)

    def begin(prompt: Array, cond: Any, known: int) -> list[Array]:
        function = _conditionals(model, variables, cond)
        return incremental.begin(function, prompt, length, jax.tree.leaves(cond), known)

    frames = 2 if length is None else 1  # what belongs to each position cannot be told from one of them
    if known == 0 or (length is None and known < frames * hop):  # any other part serves to see what is remembered
        other = jax.tree.map(
            lambda leaf: jnp.zeros((batch, frames, *leaf.shape[2:]), leaf.dtype) if is_series(leaf) else leaf, cond
        )
        memory = begin(jnp.zeros((batch, min(frames * hop, length or frames * hop)), prompt.dtype), other, 0)
    if known:
        memory = begin(prompt, cond, known)
    none = jax.tree.map(
        lambda leaf: jnp.zeros((batch, latest, *leaf.shape[2:]) if is_series(leaf) else (0,), leaf.dtype), cond
    )
    return State(memory, jnp.int32(known), _latest(none, cond), batch, length)


@partial(jax.jit, static_argnames=("model", "with_log_probs"))
def _extend(model, variables, state, plan, cond, temperature, top_p, with_log_probs):
    draw = Draw(model.output, temperature, top_p, with_log_probs)
    state, drawn = extended(model, variables, state, plan, cond, draw)
    return state, drawn.summed()


def extended(model: Any, variables: Any, state: State, plan: Plan, cond: Any, draw: Draw) -> tuple[State, Drawn]:
    """The state after the next positions, and what `draw` makes of them."""
    count = plan.noise.shape[1]
    hop, latest = hop_and_past(model)
    lead, part = latest * hop if state.length is None else 0, cond
    if lead:
        series = [leaf for leaf in jax.tree.leaves(cond) if is_series(leaf)]
        check_length([jnp.repeat(leaf, hop, axis=1) for leaf in series], plan.noise)
        part = _joined(state.frames, cond)
        variables = {**variables, "frames": {"absent": jnp.maximum(latest - state.position // hop, 0)}}
    function = _conditionals(model, variables, part)

    def kept(params: Array, plan: Plan) -> tuple[Array, Drawn]:
        drawn = draw(params, plan)
        return drawn.values, drawn

    example = jax.ShapeDtypeStruct(
        (state.batch, lead + count if state.length is None else state.length), kind(model.output.levels)
    )
    memory, drawn = incremental.advance(
        function, example, state.memory, state.position, kept, plan, state.length, jax.tree.leaves(part), lead
    )
    if state.length is not None:
        there = (state.position + jnp.arange(count, dtype=jnp.int32) < state.length)[None]
        drawn = drawn._replace(values=jnp.where(there, drawn.values, undrawn(model.output.levels)))
    state = state.replace(memory=memory, position=state.position + count, frames=_latest(state.frames, cond))
    return state, drawn


def _conditionals(model: Any, variables: Any, cond: Any) -> Any:
    """The parallel pass over a sequence in the order of generation."""
    if hasattr(model, "ranks"):
        return lambda x: model.apply(variables, x, cond, method="in_order")
    return partial(forward, model, variables, cond=cond)


def hop_and_past(model: Any) -> tuple[int, int]:
    """Positions for each frame of a series in `cond`, and earlier frames that the features of one depend on."""
    conditioning = getattr(model, "conditioning", None)
    return getattr(conditioning, "hop", 1), getattr(conditioning, "past", 0)


def is_series(leaf: Any) -> bool:
    """Whether a part of `cond` has a frame for some positions each."""
    return leaf.ndim > 2


def _joined(frames: Any, cond: Any) -> Any:
    """The series of the next part after the latest frames."""
    return jax.tree.map(
        lambda leaf, held: jnp.concatenate([held.astype(leaf.dtype), leaf], 1) if is_series(leaf) else leaf,
        cond,
        frames,
    )


def _latest(frames: Any, cond: Any) -> Any:
    """The latest frames once those of `cond` have come."""
    return jax.tree.map(
        lambda leaf, held: (
            jnp.concatenate([held, leaf.astype(held.dtype)], 1)[:, leaf.shape[1] :] if is_series(leaf) else held
        ),
        cond,
        frames,
    )


def _check_room(length: int | None, taken: Any, more: int) -> None:
    """Raises `ValueError` if so many `more` positions do not fit a sequence of which `taken` are known."""
    if length is None or isinstance(taken, jax.core.Tracer):
        return
    if int(taken) + more > length:
        raise ValueError(f"an event has {length} positions, got {int(taken)} and {more} more")
