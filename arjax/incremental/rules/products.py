"""Rules of matrix products, of which attention is made."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from arjax.incremental.level import Loop, NoRule, bind, dtype_of, free_axes, shape_of
from arjax.incremental.memories import KVCache
from arjax.incremental.rules.common import (
    finished,
    flipped,
    mixed,
    rule,
)
from arjax.incremental.values import Node, Tracked, Value


def place_of(eqn: Any, frees: list[list[int]], k: int, axis: int) -> int:
    """Where an axis of operand `k` is in the product."""
    _, batch = eqn.params["dimension_numbers"]
    if axis in batch[k]:
        return list(batch[k]).index(axis)
    return len(batch[0]) + (len(frees[0]) if k else 0) + frees[k].index(axis)


@rule("dot_general")
def dot_general(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """A product with constants, of the same positions, or of each position with all so far."""
    (contract, batch), frees = eqn.params["dimension_numbers"], free_axes(eqn, ins)
    number, shape, dtype = level.next_product(), shape_of(eqn), dtype_of(eqn)
    tracked = [k for k, a in enumerate(ins) if isinstance(a, Tracked)]

    def function(_: int, *v: Any) -> Any:
        return bind(eqn, *v)

    def paired(k: int, axis: int) -> int:
        return batch[1 - k][list(batch[k]).index(axis)]

    if len(tracked) == 1:
        (k,) = tracked
        a = ins[k]
        other = ins[1 - k]
        if a.axis in contract[k] and a.history is None:
            summed = contract[1 - k][list(contract[k]).index(a.axis)]
            zeros = other.zeros(level.facts)
            for free in frees[1 - k]:
                if other.shape[free] == other.shape[summed] > 1 and triangular(zeros, free, summed):
                    pieces = level.parts(other, free, level.delayed(a, max(-a.lag, 0)))
                    mixing = Tracked(
                        pieces, free, 0, other.shape, other.dtype, sizes=a.sizes, history=summed, hidden="zero"
                    )
                    return dot_general(level, eqn, [mixing if i != k else a for i in range(2)])
        if a.axis in contract[k]:
            flipped(level, a)
            raise NoRule(f"{level.where(eqn)} sums over {level.named_axis(ins)}")
        if a.history in contract[k]:
            finished(level, a, eqn)
        history = None if a.history is None or a.history in contract[k] else place_of(eqn, frees, k, a.history)
        places: list[int | None] = [None, None]
        if a.axis in batch[k]:
            places[1 - k] = paired(k, a.axis)
        out = level.local(ins, places, place_of(eqn, frees, k, a.axis), shape, dtype, function, history)
        return [mixed(out) if out.hidden == "low" else out]
    x, y = ins
    if x.axis in batch[0]:
        if paired(0, x.axis) != y.axis or x.history is not None or y.history is not None:
            raise NoRule(f"{level.where(eqn)}: the positions of its operands are on different axes")
        return [level.local(ins, [None, None], place_of(eqn, frees, 0, x.axis), shape, dtype, function)]
    if len(x.pieces) > 1 or len(y.pieces) > 1:
        raise NoRule(f"{level.where(eqn)}: there is no rule for attention in a network with strides")
    for k, (a, other) in enumerate([(x, y), (y, x)]):
        if a.history in contract[k] and contract[1 - k][list(contract[k]).index(a.history)] == other.axis:
            if a.axis in contract[k]:
                raise NoRule(f"{level.where(eqn)} sums over {level.named_axis(ins)}")
            finished(level, a, eqn, "zero")
            a, node = with_cache(level, eqn, ins, k, frees)
            axis = place_of(eqn, frees, k, a.axis)
            return [Tracked([node], axis, a.lag, shape, dtype, sizes=a.sizes, blame=a.blame)]
    if x.history is None and y.history is None and x.axis in frees[0] and y.axis in frees[1]:
        k = 1 if number in level.flips else 0
        other = ins[1 - k]
        a, node = with_cache(level, eqn, ins, k, frees)
        axis, history = place_of(eqn, frees, k, a.axis), place_of(eqn, frees, 1 - k, other.axis)
        out = Tracked([node], axis, a.lag, shape, dtype, sizes=a.sizes, blame=a.blame)
        return [replace(out, history=history, product=number, hidden=None, lead=a.lag - other.lag)]
    for k, a in enumerate(ins):
        if a.axis in contract[k]:
            flipped(level, a)
    raise NoRule(f"{level.where(eqn)} sums over {level.named_axis(ins)}")


def triangular(zeros: np.ndarray | None, rows: int, columns: int) -> bool:
    """Whether a constant is known to be zero beyond the diagonal of two of its axes."""
    return zeros is not None and not np.triu(~np.moveaxis(zeros, (rows, columns), (-2, -1)), 1).any()


def with_cache(level: Loop, eqn: Any, ins: Sequence[Any], k: int, frees: list[list[int]]) -> tuple[Tracked, Node]:
    """The product of operand `k` with all positions so far of the other one, and zeros for those to come.

    They are kept as a batch of matrices `[batch, contracted, free]`; the product with the present one is added.
    """
    a, other = ins[k], ins[1 - k]
    other = level.delayed(other, max(-other.lag, 0))
    a = level.delayed(a, max(other.lag - a.lag, 0))
    if level.block is not None and other.lag:
        raise NoRule(f"{level.where(eqn)}: there is no rule in blocks for attention to what lags behind")
    contract, batch = eqn.params["dimension_numbers"]
    pairs = sorted(zip(contract[1 - k], contract[k], strict=True), key=lambda pair: pair[0] != other.axis)
    theirs, own = ([int(axis) for axis in axes] for axes in zip(*pairs, strict=True))
    free = sorted(frees[1 - k], key=lambda i: i != other.axis)
    order, own_order = [*batch[1 - k], *theirs, *free], [*batch[k], *frees[k], *own]
    b, n, inner = (math.prod(other.shape[i] for i in axes) for axes in (batch[1 - k], free, theirs))
    axis = 1 if other.axis in theirs else 2
    stride = (inner if axis == 1 else n) // other.shape[other.axis]
    spare = max(level.length - other.shape[other.axis], 0) * stride  # where what is cropped is written, not read

    def matrices(x: Array) -> Array:
        sizes = [b, inner, n]
        sizes[axis] = x.shape[other.axis] * stride
        return lax.transpose(x, order).reshape(sizes)

    key = "cache", tuple(order), axis, other.lag, *other.pieces
    if key not in level.readers:
        shape = (b, inner + spare, n) if axis == 1 else (b, inner, n + spare)
        level.readers[key] = KVCache(level, other, axis, shape, stride, matrices)
    memory = level.readers[key]
    level.bounded = True
    first = len(batch[0])
    mine = [first + i for i in range(len(frees[k]))]
    yours = [first + len(mine) + free.index(i) for i in frees[1 - k]]
    places = [*range(first), *(mine + yours if k == 0 else yours + mine)]
    p = eqn.params

    def dot(x: Array, y: Array) -> Array:
        return lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), p["precision"], p["preferred_element_type"])

    def product(t: Array, x: Array, held: Array, own: Array) -> Array:
        sizes = [x.shape[i] for i in (*batch[k], *frees[k])] + [other.shape[i] for i in free]
        x, own = lax.transpose(x, own_order).reshape(b, -1, inner), matrices(own)
        here = (t - other.lag) * stride
        if axis == 1:
            x = jnp.pad(x, ((0, 0), (0, 0), (0, spare))) if spare else x
            out = dot(x, held) + dot(lax.dynamic_slice_in_dim(x, here, own.shape[1], 2), own)
        else:
            out = lax.dynamic_update_slice_in_dim(dot(x, held), dot(x, own), here, 2)
            out = lax.slice_in_dim(out, 0, n, axis=2) if spare else out
        return lax.transpose(out.reshape(sizes), places)

    return a, Node(product, [level.clock, a.pieces[0], memory.node, other.pieces[0]])
