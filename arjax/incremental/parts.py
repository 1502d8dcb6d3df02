"""A level without a loop: the channels of a pixel, or any few positions, each array as parts known at their times.

What has no rule takes all parts at once, and is known when the last of them is.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Level, NoRule, bind, dtype_of, free_axes, shape_of
from arjax.incremental.values import Const, Facts, Node, Tracked, Value, along, fixed, resized


class Parts(Level):
    """A function of a few positions along `axis`, all in one step."""

    rules: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, function: Callable[[Any], Any], example: Any, axis: int, facts: Facts):
        """Interprets `function`."""
        super().__init__(function, example, axis, facts)
        self.inputs = [Node(None, last=p) for p in range(self.length)]
        x = Tracked(list(self.inputs), axis, 0, tuple(example.shape), example.dtype)
        self.outs = self.interpret(self.closed.jaxpr, [facts.constant(c) for c in self.closed.consts], [x])

    def without_rule(self, eqn: Any, ins: list[Any], refusal: NoRule) -> list[Value]:
        """All parts at once."""
        return self.joined_rule(eqn, ins)

    def joined_rule(self, eqn: Any, ins: Sequence[Any]) -> list[Value]:
        """The equation of whole arrays."""
        both = Node(lambda *v: bind(eqn, *v), [joined(a) for a in ins])
        many = eqn.primitive.multiple_results
        return [
            Tracked(
                [Node(lambda v, i=i: v[i], [both]) if many else both], None, 0, tuple(v.aval.shape), v.aval.dtype
            )
            for i, v in enumerate(eqn.outvars)
        ]

    def aligned(self, operands: Sequence[Any], places: Sequence[int | None]) -> list[Any]:
        """Operands cut at the same places."""
        cut = [a for a in operands if isinstance(a, Tracked) and a.axis is not None]
        if not cut:
            return list(operands)
        ends = sorted({end for a in cut for end in itertools.accumulate(a.piece_sizes())})
        sizes = tuple(int(n) for n in np.diff([0, *ends]))
        out = []
        for a, place in zip(operands, places, strict=True):
            if isinstance(a, Tracked) and a.axis is None:
                if place is not None:
                    a = refined(replace(a, axis=place, sizes=(a.shape[place],)), sizes)
                else:
                    a = replace(a, pieces=a.pieces * len(sizes), sizes=sizes)
            elif isinstance(a, Tracked):
                a = refined(a, sizes)
            out.append(a)
        return out

    def parts(self, const: Const, axis: int, like: Tracked) -> list[Node]:
        """The slices of a constant."""
        starts = [0, *itertools.accumulate(like.piece_sizes())]
        return [fixed(const.slice(axis, start, n)) for start, n in zip(starts, like.piece_sizes(), strict=False)]


def joined(a: Value) -> Node:
    """The whole array as one node."""
    if isinstance(a, Const):
        return fixed(a.value)
    assert isinstance(a, Tracked)
    if a.axis is None or len(a.pieces) == 1:
        return a.pieces[0]
    return Node(lambda *v: jnp.concatenate(v, a.axis), a.pieces)


def refined(a: Tracked, sizes: tuple[int, ...]) -> Tracked:
    """The array cut into pieces of `sizes`, which are parts of its own."""
    assert a.axis is not None
    if a.piece_sizes() == sizes:
        return a
    pieces, wanted = [], iter(sizes)
    for piece, size in zip(a.pieces, a.piece_sizes(), strict=True):
        start = 0
        while start < size:
            n = next(wanted)
            cut = along(a.axis, start, start + n)
            pieces.append(piece if n == size else Node(lambda x, cut=cut: x[cut], [piece]))
            start += n
    return replace(a, pieces=pieces, sizes=sizes)


def part_rule(*names: str) -> Callable[[Any], Any]:
    """Registers a rule of parts for primitives."""

    def register(function: Any) -> Any:
        Parts.rules.update(dict.fromkeys(names, function))
        return function

    return register


@part_rule("reshape")
def reshape(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """The axis stays whole, or the parts are of whole groups of it, or groups become its elements."""
    a, new = ins[0], tuple(eqn.params["new_sizes"])
    if a.axis is None or a.shape[a.axis] == 1:
        return level.joined_rule(eqn, ins)
    n, before = a.shape[a.axis], int(np.prod(a.shape[: a.axis], dtype=int))
    after = int(np.prod(a.shape[a.axis + 1 :], dtype=int))
    for j, m in enumerate(new):
        if m == 1 or int(np.prod(new[:j], dtype=int)) != before:
            continue
        rest = int(np.prod(new[j + 1 :], dtype=int))
        if n % m == 0 and rest == after * (n // m) and all(size % (n // m) == 0 for size in a.piece_sizes()):
            sizes = tuple(size * m // n for size in a.piece_sizes())
        elif m % n == 0 and after == rest * (m // n):
            sizes = tuple(size * (m // n) for size in a.piece_sizes())
        else:
            continue
        pieces = [
            Node(lambda x, j=j, size=size: x.reshape(resized(new, j, size)), [piece])
            for piece, size in zip(a.pieces, sizes, strict=True)
        ]
        return [replace(a, pieces=pieces, axis=j, shape=new, sizes=sizes)]
    return level.joined_rule(eqn, ins)


@part_rule("slice", "split")
def slice_(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """The parts within the slice."""
    (a,), p = ins, eqn.params
    if eqn.primitive.name == "split":
        ends = np.cumsum((0, *p["sizes"])).tolist()
        ranges = [
            (
                [ends[i] if k == p["axis"] else 0 for k in range(len(a.shape))],
                resized(a.shape, p["axis"], ends[i + 1]),
            )
            for i in range(len(eqn.outvars))
        ]
    elif p["strides"] and any(stride != 1 for stride in p["strides"]):
        return level.joined_rule(eqn, ins)
    else:
        ranges = [(list(p["start_indices"]), p["limit_indices"])]
    if a.axis is None:
        return level.joined_rule(eqn, ins)
    return [sliced(a, list(start), list(limit), shape_of(eqn, i)) for i, (start, limit) in enumerate(ranges)]


def sliced(a: Tracked, start: list[int], limit: list[int], shape: tuple[int, ...]) -> Tracked:
    """A slice of an array with parts."""
    assert a.axis is not None
    first, last, place = start[a.axis], limit[a.axis], 0
    pieces, sizes = [], []
    for piece, size in zip(a.pieces, a.piece_sizes(), strict=True):
        low, high = max(first - place, 0), min(last - place, size)
        place += size
        if low >= high:
            continue
        own_start, own_limit = resized(start, a.axis, low), resized(limit, a.axis, high)
        everything = resized(a.shape, a.axis, size)
        if (own_start, own_limit) != ((0,) * len(start), everything):
            piece = Node(lambda x, s=own_start, e=own_limit: lax.slice(x, s, e), [piece])
        pieces.append(piece)
        sizes.append(high - low)
    return replace(a, pieces=pieces, sizes=tuple(sizes), shape=shape)


@part_rule("pad")
def pad(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """Along the axis new parts, known before."""
    a, value = ins
    config = list(eqn.params["padding_config"])
    if not isinstance(a, Tracked) or not isinstance(value, Const) or a.axis is None:
        return level.joined_rule(eqn, ins)
    before, after, between = config[a.axis]
    if between or min(before, after) < 0:
        return level.joined_rule(eqn, ins)
    config[a.axis] = (0, 0, 0)
    shape = shape_of(eqn)

    def filled(size: int) -> Node:
        return fixed(jnp.full(resized(shape, a.axis, size), value.value, a.dtype))

    pieces = [Node(lambda x: lax.pad(x, value.value, config), [piece]) for piece in a.pieces]
    sizes = [before, *a.piece_sizes(), after]
    pieces = [filled(before), *pieces, filled(after)]
    kept = [(piece, size) for piece, size in zip(pieces, sizes, strict=True) if size]
    return [replace(a, pieces=[k[0] for k in kept], sizes=tuple(k[1] for k in kept), shape=shape)]


@part_rule("concatenate", "stack")
def concatenate(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """Parts after parts, or of each operand the same part: what is known earlier."""
    p, shape = eqn.params, shape_of(eqn)
    stacked = eqn.primitive.name == "stack"
    dimension = p["axis"] if stacked else p["dimension"]
    axes = {a.axis for a in ins if isinstance(a, Tracked) and a.axis is not None}
    found = [after_each_other(ins, dimension, shape, eqn, stacked)]
    if len(axes) == 1 and (stacked or axes != {dimension}):
        (axis,) = axes
        place = axis + (stacked and dimension <= axis)
        found.append(
            level.local(ins, [axis] * len(ins), place, shape, found[0].dtype, lambda _, *v: bind(eqn, *v))
        )
    return [min(found, key=waiting)]


def waiting(a: Tracked) -> float:
    """How long the elements of an array are waited for, in sum."""
    return sum(piece.last * size for piece, size in zip(a.pieces, a.piece_sizes(), strict=True)) / sum(
        a.piece_sizes()
    )


def after_each_other(ins: list[Any], dimension: int, shape: tuple[int, ...], eqn: Any, stacked: bool) -> Tracked:
    """The operands as parts along `dimension`."""
    pieces: list[Node] = []
    sizes: list[int] = []
    for a in ins:
        if isinstance(a, Tracked) and a.axis == dimension and not stacked:
            pieces += a.pieces
            sizes += a.piece_sizes()
            continue
        node = joined(a)
        pieces.append(Node(lambda x: jnp.expand_dims(x, dimension), [node]) if stacked else node)
        sizes.append(1 if stacked else a.shape[dimension])
    return Tracked(pieces, dimension, 0, shape, dtype_of(eqn), sizes=tuple(sizes))


@part_rule("gather")
def gather(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """Rows of a constant table."""
    a, index = ins
    d, shape = eqn.params["dimension_numbers"], shape_of(eqn)
    if isinstance(a, Tracked) or d.operand_batching_dims or index.axis in (None, len(index.shape) - 1):
        return level.joined_rule(eqn, ins)
    axis = [i for i in range(len(shape)) if i not in d.offset_dims][index.axis]
    return [level.local(ins, [None, None], axis, shape, a.dtype, lambda _, *v: bind(eqn, *v))]


@part_rule("dot_general")
def dot_general(level: Parts, eqn: Any, ins: list[Any]) -> list[Value]:
    """A product with a constant; a sum over the parts leaves those that a masked kernel keeps apart."""
    (contract, batch), shape = eqn.params["dimension_numbers"], shape_of(eqn)
    tracked = [k for k, a in enumerate(ins) if isinstance(a, Tracked)]
    if len(tracked) > 1 or ins[tracked[0]].axis is None:
        return level.joined_rule(eqn, ins)
    (k,) = tracked
    a, other = ins[k], ins[1 - k]
    free = free_axes(eqn, ins)
    if a.axis in contract[k]:
        if len(contract[k]) > 1 or batch[k] or len(free[1 - k]) != 1:
            return level.joined_rule(eqn, ins)
        return [masked_product(level, eqn, a, other, k, shape)]
    axis = list(batch[k]).index(a.axis) if a.axis in batch[k] else len(batch[0]) + free[k].index(a.axis)
    if k and a.axis not in batch[k]:
        axis += len(free[0])
    places: list[int | None] = [None, None]
    if a.axis in batch[k]:
        places[1 - k] = batch[1 - k][list(batch[k]).index(a.axis)]
    return [level.local(ins, places, axis, shape, dtype_of(eqn), lambda _, *v: bind(eqn, *v))]


def masked_product(level: Parts, eqn: Any, a: Tracked, other: Const, k: int, shape: tuple[int, ...]) -> Tracked:
    """The product with a masked kernel: the columns that become known at the same time by one product each."""
    (contract, _), kernel = eqn.params["dimension_numbers"], other.value
    rows = contract[1 - k][0]
    columns = 1 - rows
    zeros = other.zeros(level.facts)
    seen = np.ones(other.shape, bool) if zeros is None else ~zeros
    seen = np.moveaxis(seen, rows, 0)
    starts = [0, *itertools.accumulate(a.piece_sizes())]
    uses = np.stack([seen[s:e].any(0) for s, e in itertools.pairwise(starts)])  # (pieces, columns)
    lasts = np.array([piece.last for piece in a.pieces])
    known = np.where(uses, lasts[:, None], -1).max(0)
    products, offsets = {}, {}
    axis = 0 if k else len(shape) - 1
    for last in np.unique(known):
        members = np.flatnonzero(known == last)
        used = np.flatnonzero(uses[:, members].any(1))
        offsets[last] = np.cumsum(known == last) - 1
        if not len(used):
            nothing = jnp.zeros(resized(shape, axis, len(members)), dtype_of(eqn))
            products[last] = fixed(nothing)
            continue
        part = _taken(kernel, rows, [i for u in used for i in range(starts[u], starts[u + 1])])
        part = _taken(part, columns, members.tolist())

        def product(*v: Any, part: Any = part) -> Any:
            x = v[0] if len(v) == 1 else jnp.concatenate(v, a.axis)
            return bind(eqn, *((part, x) if k else (x, part)))

        products[last] = Node(product, [a.pieces[u] for u in used])
    ends = [0, *(np.flatnonzero(np.diff(known)) + 1).tolist(), len(known)]
    pieces = []
    for start, end in itertools.pairwise(ends):
        last = known[start]
        first = int(offsets[last][start])
        cut = along(axis, first, first + end - start)
        whole = end - start == int((known == last).sum())
        pieces.append(products[last] if whole else Node(lambda x, cut=cut: x[cut], [products[last]]))
    sizes = tuple(end - start for start, end in itertools.pairwise(ends))
    return Tracked(pieces, axis, 0, shape, dtype_of(eqn), sizes=sizes)


def _taken(kernel: Any, axis: int, places: list[int]) -> Any:
    """Rows or columns of a kernel, as slices of runs."""
    if len(places) == kernel.shape[axis]:
        return kernel
    cuts = [0, *(np.flatnonzero(np.diff(places) > 1) + 1).tolist(), len(places)]
    runs = [kernel[along(axis, places[s], places[e - 1] + 1)] for s, e in itertools.pairwise(cuts)]
    return runs[0] if len(runs) == 1 else jnp.concatenate(runs, axis)
