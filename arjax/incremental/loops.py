"""Nested loops over the axes of an event: rows, columns, the channels of a pixel; positions of a sequence."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from arjax.incremental import rules as rules
from arjax.incremental.level import Level, Loop
from arjax.incremental.memories import Memory
from arjax.incremental.parts import Parts, joined, refined
from arjax.incremental.values import Const, Facts, Late, Memo, Node, Tracked, compute, demanded, resized

FEW = 4
"""Positions at most along an axis that are taken one after the other without a loop, where a loop would do too."""
MANY = 64
"""Channels at most of a pixel: an axis that has no loop, since its positions meet in masked products."""
UNROLL = 1
"""Steps of a loop that are compiled as one (see `benchmarks.accelerator`)."""

Draw = Callable[[Array, Any], tuple[Array, Any]]
"""`draw(params, plan) -> (x, kept)`: values of some positions, and arrays of their shape to hand out."""

DrawRow = Callable[[Callable[[Array], tuple[Array, Any]], Any], tuple[Array, Any, Any]]
"""`draw_row(function, plan) -> (x, kept, aux)` of a row, or a block, of which `function(x) -> (params, aux)`."""


class NotCausal(ValueError):
    """A conditional depends on its own position or on later ones, or it cannot be proved that it does not."""


def axes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes of data `(batch, *event)` in the order of their loops."""
    return tuple(range(1, len(shape)))


def interpreted(function: Any, example: Any, axes: Sequence[int], facts: Facts, assume_causal: bool) -> Level:
    """The level of the first of `axes`, whose first output is known to be causal along it."""
    axis, *inner = axes
    last = len(example.shape) - 1
    size = example.shape[axis]

    def by_parts() -> Level:
        parts = Parts(function, example, axis, facts)
        check(parts, False)
        return parts

    def by_loop() -> Level:
        return looped(function, example, axis, facts, bool(inner), assume_causal)

    if axis != last or size > (MANY if last > 1 else 1):
        return by_loop()
    # a short axis may be of positions, and a longer one of channels
    first, second = (by_parts, by_loop) if size <= FEW else (by_loop, by_parts)
    try:
        return first()
    except NotCausal as refusal:
        try:
            return second()
        except NotCausal:
            raise refusal from None


def looped(function: Any, example: Any, axis: int, facts: Facts, inner: bool, assume_causal: bool) -> Loop:
    """The same for a loop."""
    level = Loop(function, example, axis, facts, inner)
    if level.assumed and not assume_causal:
        raise NotCausal(f"not known to be causal: {level.assumed} (assume_causal=True takes it as it is)")
    check(level, inner)
    return level


def check(level: Level, inner: bool) -> None:
    """Raises `NotCausal` unless each conditional sees earlier positions alone, or its own by its `inner` axes."""
    out = level.outs[0]
    if isinstance(out, Late):
        raise NotCausal(f"not causal: {out.why}")
    if out.shape[: len(level.example.shape)] != level.example.shape:
        raise ValueError(
            f"parameters of the data's shape {level.example.shape} and more are wanted, got shape {out.shape}"
        )
    if isinstance(out, Const):
        return
    if isinstance(level, Loop) and out.axis != level.axis:
        raise NotCausal(
            f"the parameters have the positions on axis {out.axis}, wanted axis {level.axis} of the input"
        )
    if out.lag > 0:
        seen = out.lag - (out.pieces[0].last < 0)
        what = f"position i + {seen}" if seen else "itself"
        raise NotCausal(f"not causal along axis {level.axis}: position i sees {what}; {out.blame}")
    for p, target in enumerate(targets_of(level)):
        if target.last > p or (target.last == p and not inner):
            word = "channel" if isinstance(level, Parts) else "position"
            why = out.blame or (
                f"shift the input once along axis {level.axis} where it enters, so that it is known before"
            )
            what = f"{word} i sees itself" if target.last == p else f"{word} {p} sees {word} {target.last}"
            raise NotCausal(f"not causal along axis {level.axis}: {what}; {why}")


def targets_of(level: Level) -> list[Node]:
    """The parameters of each position of a step."""
    out = level.outs[0]
    if isinstance(out, Const):
        return level.parts(out, level.axis, level.entered())
    assert isinstance(out, Tracked)
    if isinstance(level, Loop):
        return out.pieces
    n = level.length
    if out.axis != level.axis:
        out = Tracked([joined(out)], level.axis, 0, out.shape, out.dtype, sizes=(n,))
    return refined(out, (1,) * n).pieces


def emitted(level: Level, out: Any) -> bool:
    """Whether an output is handed out piece by piece."""
    if isinstance(level, Parts):
        return isinstance(out, Tracked)
    return (
        isinstance(out, Tracked)
        and isinstance(level, Loop)
        and out.lag == 0
        and out.history is None
        and out.shape[out.axis] * level.rate(out) == level.length
    )


def sampled(
    level: Level, axes: Sequence[int], plan: Any, wanted: Sequence[int], context: "Context"
) -> tuple[Array, Any, list[Array]]:
    """The values along the level's axis and those in `axes`, what is handed out, and the outputs `wanted`."""
    if isinstance(level, Parts):
        memo: Memo = {}
        period = Period(level, axes, targets_of(level), [], memo, context)
        nodes = [joined(level.outs[i]) for i in wanted]
        x, kept = period.positions(plan)
        return x, kept, compute(nodes, memo)
    assert isinstance(level, Loop)
    stepper = Stepper(level, axes, wanted, context)
    steps = level.length // level.width
    xs = jnp.arange(steps, dtype=jnp.int32), jax.tree.map(lambda leaf: cut(leaf, level.axis, level.width), plan)
    _, (x, kept, values) = lax.scan(stepper, stepper.initial(), xs, unroll=UNROLL)
    x, kept = jax.tree.map(lambda leaf: merged(leaf, level.axis), (x, kept))
    return x, kept, stepper.outputs(values)


def in_blocks(function: Any, example: Any, plan: Any, block: int, context: "Context") -> Any:
    """What is handed out for all positions of a causal function, so many of which are drawn together.

    What remains after the last whole block is a shorter one.
    """
    axis, *inner = axes_of(example.shape)
    length = example.shape[axis]
    whole = length - length % block

    def drawn(carry: Any, start: int, stop: int, size: int) -> tuple[Any, Any]:
        level = Loop(function, example, axis, context.facts, True, block=size)
        if isinstance(level.outs[0], Late):
            raise ValueError(f"a network that can be sampled in blocks is wanted: {level.outs[0].why}")
        stepper = Stepper(level, inner, [], context)
        of_blocks = jax.tree.map(
            lambda leaf: cut(lax.slice_in_dim(leaf, start, stop, axis=axis), axis, size), plan
        )
        steps = jnp.arange(start, stop, size, dtype=jnp.int32), of_blocks
        carry, (_, kept, _) = lax.scan(stepper, stepper.initial() if carry is None else carry, steps)
        return carry, jax.tree.map(lambda leaf: merged(leaf, axis), kept)

    carry, parts = None, []
    for start, stop, size in ((0, whole, block), (whole, length, length - whole)):
        if start < stop:
            carry, kept = drawn(carry, start, stop, size)
            parts.append(kept)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *parts)


class Context:
    """What the levels of one function share."""

    def __init__(
        self, draw: Draw, assume_causal: bool = False, of_part: Sequence[Any] = (), draw_row: DrawRow | None = None
    ):
        """`of_part` are constants of the present part of a stream; `draw_row` draws instead of an inner loop."""
        self.facts, self.assume_causal = Facts(of_part), assume_causal
        self.draw, self.draw_row = draw, draw_row


class Stepper:
    """The body of a loop: `stepper(carry, (t, plan)) -> (carry, (x, kept, outputs))`.

    `t` is the number of the step; in a stream a pair, with its number in the present part.
    """

    def __init__(self, level: Loop, axes: Sequence[int], wanted: Sequence[int], context: Context):
        """`wanted` are the numbers of the outputs to hand out."""
        self.level, self.axes, self.context = level, axes, context
        self.targets = targets_of(level)
        self.wanted = [level.outs[i] for i in wanted]
        handed = [node for out in self.wanted if isinstance(out, Tracked) for node in out.pieces]
        self.memories: list[Memory] = level.carried([*self.targets, *handed])
        news = [m.new for m in self.memories]
        self.after = [
            *(n for new in news for n in ([new] if any(d.many for d in new.deps) else new.deps)),
            *handed,
        ]

    def initial(self) -> list[Any]:
        """The carry before the first step."""
        return [memory.initial() for memory in self.memories]

    def __call__(self, carry: Any, step: Any) -> Any:
        """One period."""
        level = self.level
        t, plan = step
        clocks = t if isinstance(t, tuple) else (t, t)
        memo: Memo = dict(zip((level.clock, level.part_clock), clocks, strict=True))
        memo.update(zip((m.node for m in self.memories), carry, strict=True))
        x, kept = Period(level, self.axes, self.targets, self.after, memo, self.context).positions(plan)
        carry = compute([m.new for m in self.memories], memo)
        values = [
            jnp.concatenate(compute(out.pieces, memo), out.axis)
            if len(out.pieces) > 1
            else memo_of(out.pieces[0], memo)
            for out in self.wanted
            if isinstance(out, Tracked)
        ]
        return carry, (x, kept, values)

    def outputs(self, values: list[Array]) -> list[Array]:
        """The outputs wanted, of what the steps handed out."""
        handed = iter(values)
        wanted: list[Any] = self.wanted
        return [merged(next(handed), out.axis) if isinstance(out, Tracked) else out.value for out in wanted]


class Period:
    """The positions of one step of a level, one after the other."""

    def __init__(
        self,
        level: Level,
        axes: Sequence[int],
        targets: list[Node],
        after: list[Node],
        memo: Memo,
        context: Context,
    ):
        """`targets` are their parameters; `memo` gets their values, and what `after` needs of their loops."""
        self.level, self.axes, self.targets, self.after = level, axes, targets, after
        self.memo, self.context = memo, context

    def positions(self, plan: Any) -> tuple[Array, Any]:
        """The values of the positions, and what is handed out."""
        axis, found, n = self.level.axis, [], self.level.block or 1
        together, blocks = self.context.draw_row is not None, self.level.block is not None
        for p, source in enumerate(self.level.inputs):
            own = jax.tree.map(lambda leaf, p=p: lax.slice_in_dim(leaf, p * n, (p + 1) * n, axis=axis), plan)
            # else what lies along the other axes is independent
            if blocks or (self.axes and (together or self.targets[p].last == p)):
                x, kept = self._by_inner_loop(p, own)
            else:
                x, kept = self.context.draw(memo_of(self.targets[p], self.memo), own)
            self.memo[source] = x.astype(self.level.example.dtype)
            found.append((x, kept))
        return found[0] if len(found) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *found)

    def _by_inner_loop(self, p: int, plan: Any) -> tuple[Array, Any]:
        """One position by the loops over the other axes, or what is drawn together by `draw_row`.

        Of what depends on it and is needed after it, what the parameters need as well (or what comes with it, such
        as the cell of an LSTM) is handed out by these loops; the rest is computed of the whole position once that
        is known.
        """
        memo, context = self.memo, self.context
        target, source = self.targets[p], self.level.inputs[p]
        after = [*self.targets[p + 1 :], *self.after]
        roots = {d for n in demanded(after, memo) if n.last > p for d in n.deps if d.last == p}
        roots |= {n for n in after if n.last == p and n not in memo}
        roots -= {source}
        needed = {n for n in demanded([target], memo) if n.last == p}
        compute([d for n in needed for d in n.deps if d.last < p] if needed else [target], memo)
        later = [n for n in demanded(roots, memo) if n.last == p and n is not source and not n.many]
        arrays = [n for n in later if n in needed or any(d.many and d in needed for d in n.deps)]

        def position(x: Array) -> list[Array]:
            return compute([target, *arrays], {**memo, source: x})

        def row(x: Array) -> tuple[Array, list[Array]]:
            params, *aux = position(x)
            return params, aux

        example = self.level.example
        part = jax.ShapeDtypeStruct(resized(example.shape, self.level.axis, 1), example.dtype)
        inner = partial(interpreted, position, part, self.axes, context.facts, context.assume_causal)
        if context.draw_row:
            if self.level.block is None:
                inner()  # it is causal
            x, kept, values = context.draw_row(row, plan)
            memo.update(zip(arrays, values, strict=True))
        else:
            level = inner()
            wanted = self._handed_out(level, p, arrays, roots)
            x, kept, values = sampled(level, self.axes[1:], plan, list(wanted.values()), context)
            memo.update(zip(wanted, values, strict=True))
        memo[source] = x.astype(part.dtype)
        compute(roots, memo)
        return x, kept

    def _handed_out(self, level: Level, p: int, arrays: list[Node], roots: set[Node]) -> dict[Node, int]:
        """The outputs of an inner level, by number, that spare most of the work for `roots`; constants at once."""
        outs = dict(zip(arrays, enumerate(level.outs[1:], 1), strict=True))
        wanted: dict[Node, int] = {}
        todo, seen = list(roots), set[Node]()
        while todo:
            node = todo.pop()
            if node in seen or node.last != p:
                continue
            seen.add(node)
            i, out = outs.get(node, (0, None))
            if isinstance(out, Const):
                self.memo[node] = out.value
            elif emitted(level, out):
                wanted[node] = i
            else:
                todo.extend(node.deps)
        return wanted


def memo_of(node: Node, memo: Memo) -> Any:
    """The value of one node."""
    return compute([node], memo)[0]


def cut(leaf: Array, axis: int, width: int) -> Array:
    """`[..., n * width, ...] -> [n, ..., width, ...]`."""
    shape = (*leaf.shape[:axis], leaf.shape[axis] // width, width, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(leaf.reshape(shape), axis, 0)


def merged(leaf: Array, axis: int | None) -> Array:
    """`[n, ..., width, ...] -> [..., n * width, ...]`."""
    assert axis is not None
    leaf = jnp.moveaxis(leaf, 0, axis)
    return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])


def check_causal(function: Callable[[Array], Any], example: Any, *, assume_causal: bool = False) -> None:
    """Raises `NotCausal` unless each conditional depends on nothing but what comes before it.

    In raster order, channels last: a function of a sequence `(batch, t)`, of an image `(batch, h, w, channels)`.
    Nothing is computed: the operations of `function` are looked at.

    Args:
        function: from data `(batch, *event)` to the parameters `(batch, *event, ...)` of their conditionals,
            such as `lambda x: module.apply(variables, x)`.
        example: data, or their shape and dtype.
        assume_causal: let pass what cannot be proved, such as attention with a mask that is computed of variables.

    Raises:
        NotCausal: with the operation, its module and its axis.
    """

    def draw(params: Array, plan: Array) -> tuple[Array, Array]:
        return plan, plan

    example = jax.ShapeDtypeStruct(example.shape, example.dtype)
    jax.eval_shape(lambda x: sample(function, example, draw, x, assume_causal), example)


def sample(
    function: Any,
    example: Any,
    draw: Draw,
    plan: Any,
    assume_causal: bool = False,
    draw_row: DrawRow | None = None,
    block: int | None = None,
) -> Any:
    """What `draw` hands out for all positions of `example`'s shape, whose parameters are `function(x)`.

    With `draw_row` the rows of an image, all positions of each, are what that hands out; or, along the first axis,
    blocks of so many positions.
    """
    if block is not None:
        check_causal(function, example, assume_causal=assume_causal)
        return in_blocks(function, example, plan, block, Context(draw, assume_causal, draw_row=draw_row))
    context, axes = Context(draw, assume_causal, draw_row=draw_row), axes_of(example.shape)
    if len(axes) > 1 and example.shape[axes[-1]] == 1:
        axes = axes[:-1]
    level = interpreted(function, example, axes, context.facts, assume_causal)
    _, kept, _ = sampled(level, axes[1:], plan, [], context)
    return kept
