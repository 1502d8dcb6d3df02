"""Sequences a part at a time: what a loop remembers, kept from call to call."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from arjax.incremental.level import Loop
from arjax.incremental.loops import Context, Draw, Stepper, looped, merged
from arjax.incremental.values import compute


def _looped(
    function: Any, example: Any, of_part: Sequence[Any], bounded: bool, draw: Draw, prompt: bool = False
) -> Stepper:
    context = Context(draw, of_part=of_part)
    if prompt:
        level = Loop(function, example, 1, context.facts, prompt=True)
    else:
        level = looped(function, example, 1, context.facts, False, False)
    if level.bounded and not bounded:
        raise ValueError(
            "the length of a sequence is wanted for a network that tells positions apart or attends to all of them"
        )
    if level.width > 1:
        raise ValueError(f"a network without strides is wanted, got one with a period of {level.width} positions")
    return Stepper(level, (), [], context)


def _nothing(params: Array, plan: Any) -> tuple[Array, Any]:
    raise AssertionError("a prompt is known, nothing of it is drawn")


def begin(
    function: Any, prompt: Array, length: int | None, of_part: Sequence[Any] = (), known: int | None = None
) -> list[Array]:
    """What is remembered after a prompt, from one parallel pass over it.

    Args:
        function: the parallel pass.
        prompt: data `(batch, t)`.
        length: positions of a whole sequence, for a network that wants to know; None for any number.
        of_part: constants of the function that are given for the prompt alone.
        known: how many positions of the prompt are known, all by default.
    """
    shape = prompt.shape if length is None else (prompt.shape[0], length)
    whole = jax.ShapeDtypeStruct(shape, prompt.dtype)
    memories = _looped(function, whole, of_part, length is not None, _nothing).memories
    if known == 0:
        return [memory.initial() for memory in memories]
    stepper = _looped(function, prompt, of_part, length is not None, _nothing, prompt=True)
    assert stepper.level.whole_input is not None
    memo = {stepper.level.whole_input: prompt}
    return [
        memory.after(compute([of_prompt.whole], memo)[0], prompt.shape[1])  # type: ignore[list-item]
        for memory, of_prompt in zip(memories, stepper.memories, strict=True)
    ]


def advance(
    function: Any,
    example: Any,
    memory: list[Array],
    position: Array,
    draw: Draw,
    plan: Any,
    length: int | None,
    of_part: Sequence[Any] = (),
    lead: int = 0,
) -> tuple[list[Array], Any]:
    """The memory after the next positions, and what `draw` hands out for them.

    Args:
        function: the parallel pass.
        example: shape and dtype of what it takes: of a whole sequence where there is a `length`, else of a part.
        memory: as `begin` or `advance` left it.
        position: how many positions there were before.
        draw: see `arjax.incremental.loops`.
        plan: arrays `(batch, t)` of the next positions.
        length: as for `begin`.
        of_part: constants of the function that are given for this part alone.
        lead: positions before the part that `example` and `of_part` also have.
    """
    stepper = _looped(function, example, of_part, length is not None, draw)
    count = jax.tree.leaves(plan)[0].shape[1]
    steps = jnp.arange(count, dtype=jnp.int32)
    slices = jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, None], 1, 0), plan)
    memory, (_, kept, _) = lax.scan(stepper, memory, ((position + steps, lead + steps), slices))
    return memory, jax.tree.map(lambda leaf: merged(leaf, 1), kept)
