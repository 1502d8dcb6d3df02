"""Rules of convolutions."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from arjax.incremental.level import Loop, NoRule, bind, dtype_of, shape_of
from arjax.incremental.memories import FAR, Window
from arjax.incremental.rules.common import (
    blamed,
    rule,
    without_history,
)
from arjax.incremental.values import Const, Facts, Node, Tracked, Value, along, resized


@rule("conv_general_dilated")
def convolution(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Taps at earlier positions; what depends on earlier steps alone is summed apart from the rest."""
    a, kernel = ins
    p, d = eqn.params, eqn.params["dimension_numbers"]
    without_history(level, eqn, ins)
    if not isinstance(kernel, Const) or p["batch_group_count"] != 1:
        raise NoRule(f"{level.where(eqn)}: there is no rule for a kernel that depends on the input")
    if a.axis == d.lhs_spec[0]:
        return [
            level.local(
                ins, [None, None], d.out_spec[0], shape_of(eqn), dtype_of(eqn), lambda _, *v: bind(eqn, *v)
            )
        ]
    if a.axis == d.lhs_spec[1]:
        raise NoRule(f"{level.where(eqn)} sums over {level.named_axis(ins)}")
    return [Convolution(level, eqn, a, kernel).result()]


class Convolution:
    """One convolution along the axis of positions, which is its spatial axis number `s`."""

    def __init__(self, level: Loop, eqn: Any, a: Tracked, kernel: Const):
        """Without the taps at the kernel's ends that are known to be zero."""
        p, d = eqn.params, eqn.params["dimension_numbers"]
        self.level, self.eqn, self.a, self.p, self.d = level, eqn, a, p, d
        self.s = d.lhs_spec[2:].index(a.axis)
        self.taps_axis = d.rhs_spec[2 + self.s]
        self.kernel, self.padding = cropped(level.facts, kernel, d.rhs_spec[2:], p["padding"], p["rhs_dilation"])
        self.stride, self.up = p["window_strides"][self.s], p["lhs_dilation"][self.s]
        self.dilation = p["rhs_dilation"][self.s]

    def result(self) -> Tracked:
        """The array of the convolution."""
        level, a, (before, after) = self.level, self.a, self.padding[self.s]
        taps, up, stride = self.kernel.shape[self.taps_axis], self.up, self.stride
        rate = level.rate(a)
        if rate * stride % up:
            raise NoRule(f"{level.where(self.eqn)} makes more of {level.named_axis([a])}, than there are")
        level.count(rate * stride)  # asks for a period that the strides divide
        a = level.masked(a, 0, before > 0 or a.lag > 0, after > 0)
        n = len(a.pieces)
        count = n * up // stride
        if count * stride != n * up:
            raise NoRule(f"{level.where(self.eqn)}: strides do not divide each other")
        ahead = (count - 1) * stride - before + (taps - 1) * self.dilation + (a.lag - n) * up + 1
        lag = max(int(-(-ahead // stride)), 0)
        pieces = []
        for j in range(count):
            first = j * stride - lag * stride - before + a.lag * up
            places = [(k, first + k * self.dilation) for k in range(taps)]
            pieces.append(self.piece(a, [(k, q // up) for k, q in places if q % up == 0]))
        shape, axis = shape_of(self.eqn), self.d.out_spec[2 + self.s]
        out = replace(
            a, pieces=pieces, axis=axis, lag=lag, shape=shape, dtype=dtype_of(self.eqn), prefix=None, whole=None
        )
        lookahead = (taps - 1) * self.dilation - before
        return blamed(
            level,
            self.eqn,
            level.ended(out),
            lookahead > 0 and up == 1,
            f"sees {lookahead} position{'s' * (lookahead > 1)} ahead along {level.named_axis([self.a])} "
            f"(padding {self.p['padding'][self.s]})",
        )

    def piece(self, a: Tracked, places: list[tuple[int, int]]) -> Node:
        """One index, of the taps `(number in the kernel, place from the first of the step)`."""
        if not places:
            shape = resized(shape_of(self.eqn), self.d.out_spec[2 + self.s], 1)
            return Node(lambda: jnp.zeros(shape, dtype_of(self.eqn)))
        if self.level.block is not None and not self.flat(a):
            return self.of_block(a, places)
        nodes = self.level.taps(a, [j for _, j in places])
        last = max(node.last for node in nodes) if self.level.inner else -1
        groups = itertools.groupby(zip(places, nodes, strict=True), key=lambda item: item[1].last >= last)
        sums = []
        for _, group in groups:
            members = list(group)
            ks = tuple(k for (k, _), _ in members)
            run = self.run_of(a, [j for (_, j), _ in members]) if len(members) > 1 else None
            sums.append(self.product(ks, [run] if run is not None else [node for _, node in members]))
        total = sums[0]
        for more in sums[1:]:
            total = Node(lax.add, [total, more])
        return total

    def of_block(self, a: Tracked, places: list[tuple[int, int]]) -> Node:
        """A block, of all that its taps reach."""
        start, reach = places[0][1], places[-1][1] - places[0][1] + (self.level.block or 1)
        window: Window = self.level.memory(Window, a)
        padding = [(0, 0) if i == self.s else sides for i, sides in enumerate(self.padding)]
        before = [window.read_run(start)] if start < 0 else []

        def convolve(*parts: Array) -> Array:
            x = jnp.concatenate(parts, a.axis)[along(a.axis, 0, reach)]
            return bind(self.eqn, x, self.kernel.value, padding=tuple(padding))

        return Node(convolve, [*before, *a.pieces])

    def run_of(self, a: Tracked, places: list[int]) -> Node | None:
        """The neighbouring places of a window as one array."""
        start = places[0]
        if self.flat(a) or places != list(range(start, 0)) or -start >= FAR:
            return None
        window: Window = self.level.memory(Window, a)
        return window.read_run(start)

    def flat(self, a: Tracked) -> bool:
        """Whether a step is a product of a matrix with the channels of all taps."""
        d, others = self.d, [i for i in range(len(self.padding)) if i != self.s]
        return (
            d.lhs_spec == d.out_spec
            and d.lhs_spec[1] == len(d.lhs_spec) - 1
            and self.p["feature_group_count"] == 1
            and all(
                a.shape[d.lhs_spec[2 + i]] == 1
                and self.kernel.shape[d.rhs_spec[2 + i]] == 1
                and self.padding[i] == (0, 0)
                and self.p["window_strides"][i] == self.p["lhs_dilation"][i] == 1
                for i in others
            )
        )

    def product(self, ks: tuple[int, ...], nodes: list[Node]) -> Node:
        """The sum over the taps `ks` of their products with the kernel."""
        p, d, facts = self.p, self.d, self.level.facts
        kernel, zeros = picked(self.kernel, self.kernel.zeros(facts), self.taps_axis, ks)
        if self.flat(self.a):
            order = [self.taps_axis, d.rhs_spec[1], d.rhs_spec[0]]
            order = [i for i in range(kernel.ndim) if i not in order] + order

            def matrix(k: Any) -> Any:
                return k.transpose(order).reshape(-1, kernel.shape[d.rhs_spec[0]])

            weights = matrix(kernel)
            facts.note(weights, None if zeros is None else matrix(zeros))

            def multiply(*v: Array) -> Array:
                x = v[0] if len(v) == 1 else jnp.concatenate(v, -1)
                dims = (((x.ndim - 1,), (0,)), ((), ()))
                return lax.dot_general(x, weights, dims, p["precision"], p["preferred_element_type"])

            return Node(multiply, nodes)
        part, padding = cropped(
            facts, Const(kernel), d.rhs_spec[2:], self.padding, p["rhs_dilation"], self.s, zeros
        )
        padding[self.s] = (0, 0)
        changed = {
            name: tuple(1 if i == self.s else n for i, n in enumerate(p[name]))
            for name in ("window_strides", "lhs_dilation", "rhs_dilation")
        }

        def convolve(*v: Array) -> Array:
            x = v[0] if len(v) == 1 else jnp.concatenate(v, self.a.axis)
            return bind(self.eqn, x, part.value, padding=tuple(padding), **changed)

        return Node(convolve, nodes)


def picked(
    kernel: Const, zeros: np.ndarray | None, axis: int, ks: tuple[int, ...]
) -> tuple[Any, np.ndarray | None]:
    """The taps `ks` of a kernel, and where they are known to be zero."""
    if ks == tuple(range(kernel.shape[axis])):
        return kernel.value, zeros
    if len(ks) > 1 and len(set(np.diff(ks))) > 1:
        parts = [lax.slice_in_dim(kernel.value, k, k + 1, axis=axis) for k in ks]
        return jnp.concatenate(parts, axis), None if zeros is None else zeros.take(ks, axis)
    step = ks[1] - ks[0] if len(ks) > 1 else 1
    value = lax.slice_in_dim(kernel.value, ks[0], ks[-1] + 1, step, axis)
    return value, None if zeros is None else zeros.take(ks, axis)


def cropped(
    facts: Facts,
    kernel: Const,
    axes: Sequence[int],
    padding: Any,
    dilation: Any,
    but: int | None = None,
    zeros: np.ndarray | None = None,
) -> tuple[Const, list[tuple[int, int]]]:
    """A kernel without the taps at its ends that are known to be zero, and the padding that makes up for it."""
    z = kernel.zeros(facts) if zeros is None else zeros
    padding = list(padding)
    if z is None:
        return kernel, padding
    value = None
    for i, axis in enumerate(axes):
        empty = np.asarray(z.all(tuple(j for j in range(z.ndim) if j != axis)))
        if i == but or empty.all() or not (empty[0] or empty[-1]):
            continue
        first, last = (int(n) for n in np.flatnonzero(~empty)[[0, -1]])
        before, after = padding[i]
        padding[i] = (before - first * dilation[i], after - (len(empty) - 1 - last) * dilation[i])
        value = lax.slice_in_dim(kernel.value if value is None else value, first, last + 1, axis=axis)
        z = z[along(axis, first, last + 1)]
    if value is None:
        return kernel, padding
    facts.note(value, z)
    return Const(value), padding
