"""A function interpreted along one axis: what a step of it computes, and what is remembered between steps."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

from arjax.incremental.custom import RULES as CUSTOM
from arjax.incremental.memories import FAR, Memory, Ring, Window
from arjax.incremental.values import (
    KNOWN,
    Const,
    Facts,
    Late,
    Node,
    Tracked,
    Value,
    along,
    at_once,
    demanded,
    fixed,
    resized,
    taken,
)

INLINE = frozenset(
    {"pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
    | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
)
"""Primitives that call a jaxpr."""
CALLEES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class NoRule(Exception):
    """This operation cannot be done along this axis: why."""


class Flip(Exception):
    """The other operand of a product has the axis of positions."""


class LongerPeriod(Exception):
    """A step has to have a multiple of so many positions."""


class Level:
    """A function interpreted along `axis` of its input; its outputs are `outs`.

    Attributes:
        inputs: sources, the input's pieces.
        outs: the outputs, flat.
        block: indices of each piece, of a loop whose steps are blocks; else None, and a piece is an index.
    """

    rules: ClassVar[dict[str, Callable[..., Any]]]
    block: int | None = None
    inputs: list[Node]
    outs: list[Value]

    def __init__(self, function: Callable[[Any], Any], example: Any, axis: int, facts: Facts):
        """Traces `function` at `example`, an array or its shape and dtype."""
        self.example, self.axis, self.facts = example, axis, facts
        self.path: list[str] = []
        self.closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(example.shape, example.dtype))

    @property
    def length(self) -> int:
        """Of the axis."""
        return self.example.shape[self.axis]

    def entered(self) -> Tracked:
        """The input."""
        sizes = None if self.block is None else (self.block,)
        return Tracked(list(self.inputs), self.axis, 0, tuple(self.example.shape), self.example.dtype, sizes=sizes)

    def interpret(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        """The outputs of `jaxpr`, equation by equation."""
        env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(v: Any) -> Value:
            return Const(v.val) if isinstance(v, jex.Literal) else env[v]

        for eqn in jaxpr.eqns:
            ins = [read(v) for v in eqn.invars]
            self.path.append(str(eqn.source_info.name_stack))
            outs = self.equation(eqn, ins)
            self.path.pop()
            for v, out in zip(eqn.outvars, outs, strict=True):
                assert not isinstance(out, Tracked) or out.shape == tuple(v.aval.shape), (eqn, out.shape)
                env[v] = out
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, ins: list[Value]) -> list[Value]:
        """The outputs of one equation."""
        name = eqn.primitive.name
        if name == "cond" and eqn.params.get("branches_platforms"):
            return self.call(_branch(eqn), ins[1:])
        if eqn.params.get("name") in CUSTOM and any(isinstance(a, Tracked) for a in ins):
            try:
                return self.with_whole(eqn, ins, CUSTOM[eqn.params["name"]](self, ins))
            except NoRule:
                pass  # by the rules of its own operations
        if name in INLINE:
            return self.call(next(eqn.params[k] for k in CALLEES if k in eqn.params), ins)
        if all(isinstance(a, Const) for a in ins):
            return evaluated(eqn, ins, self.facts)
        late = next((a for a in ins if isinstance(a, Late)), None)
        try:
            if late is not None:
                raise NoRule(late.why)
            if name not in self.rules:
                raise NoRule(f"{self.where(eqn)}: there is no rule for it along {self.named_axis(ins)}")
            outs = self.rules[name](self, eqn, ins)
        except NoRule as refusal:
            return self.without_rule(eqn, ins, refusal)
        return self.with_whole(eqn, ins, outs)

    def call(self, callee: Any, ins: Sequence[Value]) -> list[Value]:
        """The outputs of a jaxpr that an equation calls."""
        closed = callee if hasattr(callee, "consts") else jex.ClosedJaxpr(callee, ())
        consts = [self.facts.constant(c) for c in closed.consts]
        return self.interpret(getattr(closed, "jaxpr", closed), consts, ins)

    def without_rule(self, eqn: Any, ins: list[Value], refusal: NoRule) -> list[Value]:
        """What is made of an equation that no rule fits."""
        return [Late(str(refusal))] * len(eqn.outvars)

    def with_whole(self, eqn: Any, ins: list[Value], outs: list[Value]) -> list[Value]:
        """The outputs, with the whole arrays of a prompt."""
        return outs

    def where(self, eqn: Any) -> str:
        """The operation and its module, as refusals name them."""
        parts = [part for part in self.path if part]
        path = "/".join(a for a, b in itertools.zip_longest(parts, parts[1:]) if not b or not b.startswith(a))
        return f"`{eqn.primitive.name}`" + (f" in {path}" if path else "")

    def named_axis(self, ins: Iterable[Value]) -> str:
        """The axis of positions of an equation's operands."""
        axes = {a.axis for a in ins if isinstance(a, Tracked) and a.axis is not None}
        return f"axis {' and '.join(map(str, sorted(axes)))}, which has the positions"

    def aligned(self, operands: Sequence[Any], places: Sequence[int | None]) -> list[Any]:
        """Operands whose pieces belong together one by one."""
        raise NotImplementedError

    def parts(self, const: Const, axis: int, like: Tracked) -> list[Node]:
        """The slices of a constant that belong to the pieces of an array."""
        raise NotImplementedError

    def local(
        self,
        operands: Sequence[Any],
        places: Sequence[int | None],
        axis: int | None,
        shape: Iterable[int],
        dtype: Any,
        function: Callable[..., Any],
        history: int | None = None,
    ) -> Tracked:
        """A result each of whose indices along `axis` is made of the same index of its operands.

        Args:
            operands: constants and tracked arrays.
            places: where the axis is in a constant, None where it has none; of no meaning for tracked arrays.
            axis: where the axis is in the result.
            shape: of the result.
            dtype: of the result.
            function: `function(width, *values)` of pieces with so many indices.
            history: the result's axis of the history, if it has one.
        """
        operands = self.aligned(operands, places)
        tracked = [a for a in operands if isinstance(a, Tracked)]
        if history is None and any(a.history is not None and a.hidden is None for a in tracked):
            self.exposed()
        like = tracked[0]
        columns = []
        for a, place in zip(operands, places, strict=True):
            if isinstance(a, Tracked):
                columns.append(a.pieces)
            elif place is not None:
                columns.append(self.parts(a, place, like))
            else:
                columns.append([fixed(a.value)] * len(like.pieces))
        pieces = [
            Node(lambda *values, width=width: function(width, *values), deps)
            for width, deps in zip(like.piece_sizes(), zip(*columns, strict=True), strict=True)
        ]
        prefix = None
        if like.lag < 0:
            firsts = [
                a.prefix if isinstance(a, Tracked) else a.value if place is None else a.slice(place, 0, -like.lag)
                for a, place in zip(operands, places, strict=True)
            ]
            prefix = function(-like.lag, *firsts)
        of_history = next((a for a in tracked if a.history is not None), like)
        return Tracked(
            pieces,
            axis,
            like.lag,
            tuple(shape),
            dtype,
            prefix,
            like.sizes,
            history,
            of_history.product,
            of_history.hidden,
            of_history.seen,
            of_history.lead,
            next((a.blame for a in tracked if a.blame), None),
        )

    def exposed(self) -> None:
        """Notes that a result may depend on positions to come."""


class Loop(Level):
    """A level with a step for every position, for every period of a network with strides, or for every block.

    A step that is a `block` of positions, which are drawn together, has one piece of each array, of as many
    indices. Rules are the same; where they count, they do so by `clock` and `spread`.

    Attributes:
        width: positions of a step: the period.
        inner: whether the positions of a step have loops of their own, or are drawn together.
        clock: a source, the number of the step; of a block that of its first position.
        part_clock: a source, its number in the present part of a stream.
        memories: what is carried from step to step.
        bounded: whether it holds for `length` positions alone, since something is known for each of them.
        assumed: what could not be proved, in words, or None.
    """

    rules: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self,
        function: Callable[[Any], Any],
        example: Any,
        axis: int,
        facts: Facts,
        inner: bool = False,
        prompt: bool = False,
        block: int | None = None,
    ):
        """Interprets `function`, again where that shows the period, or which operand of a product is which.

        `prompt` says that the input is known as a whole: see `whole_input`.
        """
        super().__init__(function, example, axis, facts)
        self.inner, self.width, self.block, self.flips = inner, 1, block, set[int]()
        self.whole_input = Node(None, last=-1) if prompt else None
        while True:
            self.clock, self.part_clock = Node(None, last=-1), Node(None, last=-1)
            self.inputs = [Node(None, last=p) for p in range(self.width)]
            self.memories: list[Memory] = []
            self.readers: dict[Any, Any] = {}
            self.products, self.bounded = 0, False
            self.assumed: str | None = None
            x = replace(self.entered(), whole=self.whole_input)
            try:
                self.outs = self.interpret(self.closed.jaxpr, [facts.constant(c) for c in self.closed.consts], [x])
                break
            except Flip as flip:
                self.flips.add(flip.args[0])
            except LongerPeriod as period:
                if block is not None:
                    raise ValueError(
                        "a network without strides is wanted to be sampled in blocks, got one with a period of "
                        f"{period.args[0]} positions"
                    ) from None
                self.width = math.lcm(self.width, period.args[0])
                if self.length % self.width:
                    raise ValueError(
                        f"an axis {axis} that the network's period of {self.width} positions divides is wanted, "
                        f"got {self.length}"
                    ) from None
        self.outs = [self.ended(out) if isinstance(out, Tracked) else out for out in self.outs]

    def exposed(self, what: str = "an operation takes a part of the scores") -> None:
        """Notes that a result may depend on positions to come, since `what` does so before a mask hides them."""
        if self.assumed is None:
            self.assumed = (
                f"{what} against all positions, of which no mask known at trace time hides those to come"
            )

    def rate(self, a: Tracked) -> int:
        """Positions for each index of an array."""
        return self.width // len(a.pieces)

    def count(self, rate: int) -> int:
        """Indices at a step of an array with so many positions for each."""
        if self.width % rate:
            raise LongerPeriod(math.lcm(self.width, rate))
        return self.width // rate

    def with_whole(self, eqn: Any, ins: list[Value], outs: list[Value]) -> list[Value]:
        """Each output with the node of the whole array, made by the equation itself."""
        if self.whole_input is None:
            return outs
        wholes = [whole(a) for a in ins]
        both = Node(lambda *values: bind(eqn, *values), wholes)
        many = eqn.primitive.multiple_results
        return [
            replace(out, whole=Node(lambda v, i=i: v[i], [both]) if many else both)
            if isinstance(out, Tracked) and out.whole is None
            else out
            for i, out in enumerate(outs)
        ]

    def aligned(self, operands: Sequence[Any], places: Sequence[int | None]) -> list[Any]:
        """Tracked operands with the same lag."""
        tracked = [a for a in operands if isinstance(a, Tracked)]
        if len({len(a.pieces) for a in tracked}) > 1:
            raise NoRule("arrays with different strides meet along the axis of positions")
        lag = max(a.lag for a in tracked)
        return [self.delayed(a, lag - a.lag) if isinstance(a, Tracked) else a for a in operands]

    def spread(self, first: Any, axis: int, rank: int = 1) -> Any:
        """The number `first`; of a block the numbers from it on, along `axis` of so many."""
        if self.block is None:
            return first
        return first + jnp.arange(self.block, dtype=jnp.int32).reshape(resized((1,) * rank, axis, self.block))

    def parts(self, const: Const, axis: int, like: Tracked) -> list[Node]:
        """The slices of a constant for the present step."""
        count = len(like.pieces)
        if not const.varies(axis) and (self.block is None or const.source is not None):
            return [fixed(const.slice(axis, 0, self.block or 1))] * count
        self.bounded = self.bounded or not const.of_part
        clock = self.part_clock if const.of_part else self.clock
        if self.block is not None:
            of_block = self.block
            if like.lag == 0 and const.shape[axis] >= self.length:
                return [Node(lambda t: const.slice(axis, t, of_block), [clock])]
            return [Node(lambda t: taken(const.value, self.spread(t - like.lag, 0), axis), [clock])]

        def at(t: Any, j: int, width: int) -> Any:
            index = t * count + int(j - like.lag)
            return const.slice(axis, jnp.maximum(index, 0) if like.lag > j else index, width)

        if count == 1 or like.lag:
            return [Node(lambda t, j=j: at(t, j, 1), [clock]) for j in range(count)]
        step = Node(lambda t: at(t, 0, count), [clock])
        return [Node(lambda x, j=j: x[along(axis, j, j + 1)], [step]) for j in range(count)]

    def taps(self, a: Tracked, places: Sequence[int]) -> list[Node]:
        """The pieces at `places`, counted from the first of the step; those below 0 from a memory.

        Of a block the piece at place -k is the block as it lies k indices earlier.
        """
        past = sorted({j for j in places if j < 0})
        read: dict[int, Node] = {}
        if past:
            kind = Ring if -past[0] >= FAR and self.block is None else Window
            read = dict(zip(past, self.memory(kind, a).read(past), strict=True))
        return [read[j] if j < 0 else a.pieces[j] for j in places]

    def memory(self, kind: type, a: Tracked) -> Any:
        """The memory of an array, one of each kind."""
        key = kind, a.axis, a.lag, *a.pieces
        if key not in self.readers:
            self.readers[key] = kind(self, a)
        return self.readers[key]

    def delayed(self, a: Tracked, steps: int) -> Tracked:
        """The array, lagging so many indices more behind the input."""
        if steps == 0:
            return a
        lag = a.lag + steps
        prefix = a.prefix[along(a.axis, 0, -lag)] if lag < 0 else None
        return replace(a, pieces=self.taps(a, [j - steps for j in range(len(a.pieces))]), lag=lag, prefix=prefix)

    def ended(self, a: Tracked) -> Tracked:
        """Nothing is early that need not be: an array no longer than the event waits for its positions."""
        assert a.axis is not None
        early = a.lag < 0 and a.shape[a.axis] * self.rate(a) <= self.length
        return self.delayed(a, -a.lag) if early else a

    def strided(self, a: Tracked, start: int, stride: int) -> tuple[int, list[int]]:
        """For indices `start`, `start + stride`, ... of an array: the lag, and the places of those of a step.

        Nothing is early unless the array is: then it waits for its positions or to be used.
        """
        count = self.count(self.rate(a) * stride)
        ahead = start + a.lag + (count - 1) * stride - (len(a.pieces) - 1)
        lag = int(-(-ahead // stride))
        return lag, [start + a.lag - lag * stride + j * stride for j in range(count)]

    def masked(self, a: Tracked, value: Any, before: bool, after: bool) -> Tracked:
        """The array with `value` at indices that it does not have, where a step may compute such."""
        assert a.axis is not None
        length, count = a.shape[a.axis], len(a.pieces)
        low, high = before and a.lag > 0, after and (length + a.lag) * self.rate(a) < self.length
        if not (low or high):
            return a

        def function(t: Any, x: Any, j: int) -> Any:
            index = self.spread(t * count - a.lag + j, a.axis, len(a.shape))
            there = index >= 0 if low else index < length
            if low and high:
                there &= index < length
            return jnp.where(there, x, jnp.asarray(value, x.dtype))

        pieces = [
            Node(lambda t, x, j=j: function(t, x, j), [self.clock, piece]) for j, piece in enumerate(a.pieces)
        ]
        return replace(a, pieces=pieces)

    def padded(self, a: Tracked, before: int, after: int, value: Any) -> Tracked:
        """The array with `value` before and after it along its axis; negative amounts crop."""
        assert a.axis is not None
        axis, length = a.axis, a.shape[a.axis] + before + after
        a = self.masked(a, value, before > 0, after > 0)
        lag, prefix, entire = a.lag - before, None, a.whole
        if lag < 0:
            first = jnp.full(resized(a.shape, axis, min(max(before, 0), -lag)), value, a.dtype)
            if a.prefix is not None:
                first = jnp.concatenate([first, a.prefix[along(axis, max(-before, 0), None)]], axis)
            prefix = first[along(axis, 0, -lag)]
        if entire is not None:
            config = [(before, max(after, 0), 0) if i == axis else (0, 0, 0) for i in range(len(a.shape))]
            entire = Node(lambda x: lax.pad(x, jnp.asarray(value, x.dtype), config), [entire])
        out = self.ended(
            replace(a, lag=lag, prefix=prefix, shape=resized(a.shape, axis, length), whole=entire)
        )  # its memory may hold what is cropped
        if entire is None or after >= 0:
            return out
        return replace(out, whole=Node(lambda x: lax.slice_in_dim(x, 0, length, axis=axis), [entire]))

    def next_product(self) -> int:
        """The number of the next product, the same each time that the function is interpreted."""
        self.products += 1
        return self.products

    # Running it -------------------------------------------------------------------------------------------------

    def carried(self, targets: Iterable[Node]) -> list[Memory]:
        """The memories that `targets` read, and those that these read to be kept up."""
        needed: list[Memory] = []
        targets = list(targets)
        while True:
            nodes = set(demanded([*targets, *(m.new for m in needed)]))
            more = [m for m in self.memories if m.node in nodes and m not in needed]
            if not more:
                return [m for m in self.memories if m in needed]
            needed += more


def whole(a: Value) -> Node:
    """The node of a whole array."""
    if isinstance(a, Const):
        return fixed(a.value)
    assert isinstance(a, Tracked)
    assert a.whole is not None
    return a.whole


def evaluated(eqn: Any, ins: Sequence[Any], facts: Facts) -> list[Value]:
    """An equation of constants."""
    name, params = eqn.primitive.name, eqn.params
    if name == "broadcast_in_dim" and len(ins) == 1:
        return [Const(source=(ins[0], params["shape"], params["broadcast_dimensions"]))]
    size = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    with at_once(ins, size):
        outs = bind(eqn, *[a.value for a in ins])
    outs = outs if eqn.primitive.multiple_results else [outs]
    if size <= KNOWN and isinstance(outs[0], jax.core.Tracer):
        facts.note(outs[0], _zeros(eqn, ins, facts))
    return [Const(out, of_part=any(a.of_part for a in ins)) for out in outs]


def _zeros(eqn: Any, ins: Sequence[Const], facts: Facts) -> np.ndarray | None:
    """Zeros that a masked kernel has whatever its parameters are."""
    name, params = eqn.primitive.name, eqn.params
    shape = eqn.outvars[0].aval.shape
    if name == "mul":
        known = [z for z in (a.zeros(facts) for a in ins) if z is not None]
        return np.logical_or.reduce([np.broadcast_to(z, shape) for z in known]) if known else None
    if name == "select_n" and len(ins) == 3 and ins[0].concrete:
        cases = [a.zeros(facts) for a in ins[1:]]
        if all(z is None for z in cases):
            return None
        first, second = (np.zeros(shape, bool) if z is None else z for z in cases)
        return np.where(np.asarray(ins[0].value), second, first)
    if len(ins) != 1 or (z := ins[0].zeros(facts)) is None:
        return None
    if name in ("convert_element_type", "copy", "neg", "square", "reduce_precision"):
        return z
    if name == "reshape":
        return z.reshape(params["new_sizes"])
    if name == "transpose":
        return z.transpose(params["permutation"])
    if name == "squeeze":
        return z.squeeze(params["dimensions"])
    if name == "slice":
        steps = params["strides"] or [1] * z.ndim
        return z[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]
    return None


def bind(eqn: Any, *values: Any, **changed: Any) -> Any:
    """The equation's primitive applied to other values, with `changed` parameters."""
    with jax.named_scope(str(eqn.source_info.name_stack)):
        return eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params | changed))


def shape_of(eqn: Any, i: int = 0) -> tuple[int, ...]:
    """Of an output."""
    return tuple(eqn.outvars[i].aval.shape)


def dtype_of(eqn: Any, i: int = 0) -> Any:
    """Of an output."""
    return eqn.outvars[i].aval.dtype


def free_axes(eqn: Any, ins: Sequence[Any]) -> list[list[int]]:
    """Of each operand of a product, the axes that are neither contracted nor a batch."""
    kept = [{*contracted, *batch} for contracted, batch in zip(*eqn.params["dimension_numbers"], strict=True)]
    return [[i for i in range(len(a.shape)) if i not in axes] for a, axes in zip(ins, kept, strict=True)]


def _branch(eqn: Any) -> Any:
    """The branch for the platform at hand, of a choice between platforms."""
    here = jax.default_backend()
    platforms = eqn.params["branches_platforms"]
    return eqn.params["branches"][next(i for i, p in enumerate(platforms) if p is None or here in p)]
