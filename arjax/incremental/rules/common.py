"""How rules are registered, and what several of them say.

A rule is `rule(level, eqn, ins) -> outs`; some operand is a `Tracked` array, none is `Late`. It raises `NoRule`
with the reason where an operation cannot be done. Rules registered with `local_rule` hold for loops and for parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from arjax.incremental.level import Flip, Level, Loop, NoRule
from arjax.incremental.parts import Parts
from arjax.incremental.values import Tracked, Value

Rule = Callable[[Any, Any, Any], list[Value]]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule of loops for primitives."""

    def register(function: Rule) -> Rule:
        Loop.rules.update(dict.fromkeys(names, function))
        return function

    return register


def local_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for loops and for parts."""

    def register(function: Rule) -> Rule:
        Parts.rules.update(dict.fromkeys(names, function))
        return rule(*names)(function)

    return register


def only_axis(ins: Sequence[Value]) -> Any:
    """The axis of all operands that have one."""
    axes = {a.axis for a in ins if isinstance(a, Tracked) and a.axis is not None}
    if len(axes) > 1:
        raise NoRule(f"arrays meet whose positions are on different axes, {sorted(axes)}")
    return axes.pop() if axes else None


def dropped(axis: int | None, axes: Sequence[int]) -> int | None:
    """Where an axis is once `axes` are gone."""
    return None if axis is None else axis - sum(i < axis for i in axes)


def flipped(level: Any, a: Tracked) -> None:
    """Starts again with the product's other operand as the one with the axis of positions, if there is one."""
    if a.history is not None and a.product not in level.flips:
        raise Flip(a.product)


def without_history(level: Level, eqn: Any, ins: Sequence[Value]) -> None:
    """Refuses operands with scores against all positions."""
    if any(isinstance(a, Tracked) and a.history is not None for a in ins):
        raise NoRule(f"{level.where(eqn)}: there is no rule for scores against all positions")


def finished(level: Any, a: Tracked, eqn: Any) -> None:
    """Notes that a history is summed over of which it is not known that it hides the positions to come."""
    if not a.clean:
        level.exposed(f"{level.where(eqn)} reduces scores")


def blamed(level: Level, eqn: Any, out: Tracked, ahead: bool, what: str) -> Tracked:
    """The array, with a word on the operation if it is the first that looks ahead."""
    return replace(out, blame=f"{level.where(eqn)} {what}") if ahead and out.blame is None else out
