"""What an interpreted function's arrays are: constants, arrays with a causal axis, and what is known too late.

A step of a sampler is a graph of `Node`s, of which those are computed that are asked for, when they are asked for.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

KNOWN = 1 << 22
"""Elements at most of a constant whose zeros are looked at."""


class Node:
    """A value of a step: `function` of the values of `deps`.

    Attributes:
        last: the latest position of the step's input that it depends on; -1 for none of them.
    """

    __slots__ = ("deps", "function", "last", "many", "number")
    made = 0

    def __init__(
        self,
        function: Callable[..., Any] | None,
        deps: Iterable["Node"] = (),
        last: int | None = None,
        many: bool = False,
    ):
        """A source has no function: it is given its value."""
        self.function, self.deps, self.many = function, tuple(deps), many
        self.last: int = max((dep.last for dep in self.deps), default=-1) if last is None else last
        Node.made += 1
        self.number = Node.made


Memo = dict[Node, Any]
"""The values of nodes."""


def fixed(value: Any) -> Node:
    """A node of what is known before."""
    return Node(lambda: value)


def demanded(targets: Iterable[Node], memo: Memo | None = None) -> list[Node]:
    """The nodes that `targets` need, themselves included, up to those with values, in an order to compute them."""
    memo = memo or {}
    seen: set[Node] = set()
    todo = list(targets)
    while todo:
        node = todo.pop()
        if node not in seen and node not in memo:
            seen.add(node)
            todo.extend(node.deps)
    return sorted(seen, key=lambda node: node.number)


def compute(targets: Iterable[Node], memo: Memo) -> list[Any]:
    """The values of `targets`; what is computed on the way is kept in `memo`."""
    targets = list(targets)
    for node in demanded(targets, memo):
        assert node.function is not None
        memo[node] = node.function(*[memo[dep] for dep in node.deps])
    return [memo[node] for node in targets]


class Facts:
    """What is known of traced constants whatever their values.

    Where they are zero, as masked kernels are; and whether they are of the present part of a stream, whose
    positions they count from its first.
    """

    def __init__(self, of_part: Iterable[Any] = ()) -> None:
        """`of_part` are the constants of the present part of a stream."""
        self._zeros: dict[int, tuple[Any, np.ndarray]] = {}
        self._of_part = {id(value): value for value in of_part}

    def constant(self, value: Any) -> "Const":
        """A value from outside of the function."""
        return Const(value, of_part=id(value) in self._of_part)

    def note(self, value: Any, zeros: np.ndarray | None) -> None:
        """Remembers that `value` is zero where `zeros` holds."""
        if zeros is not None and isinstance(value, jax.core.Tracer):
            self._zeros[id(value)] = (value, zeros)

    def zeros(self, value: Any) -> np.ndarray | None:
        """Where `value` is known to be zero: boolean, or None if that is not known of any element."""
        if isinstance(value, jax.core.Tracer):
            return self._zeros.get(id(value), (None, None))[1]
        if not hasattr(value, "dtype") or jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return None
        if value.dtype == jnp.bool_ or np.size(value) > KNOWN:
            return None
        return np.asarray(value) == 0


class Const:
    """A value that does not depend on the input. A broadcast is not carried out before it must be."""

    def __init__(
        self,
        value: Any = None,
        source: tuple["Const", tuple[int, ...], tuple[int, ...]] | None = None,
        of_part: bool = False,
    ):
        """Of a `value`, or of `(operand, shape, dimensions)` of a broadcast."""
        self._value, self.source = value, source
        self.of_part: bool = of_part or (source is not None and source[0].of_part)
        if source is None:
            self.shape, self.dtype = tuple(np.shape(value)), jnp.result_type(value)
        else:
            self.shape, self.dtype = tuple(source[1]), source[0].dtype

    @property
    def value(self) -> Any:
        """The array."""
        if self._value is None:
            assert self.source is not None
            operand, shape, dims = self.source
            with at_once([operand], math.prod(shape)):
                self._value = lax.broadcast_in_dim(operand.value, shape, dims)
        return self._value

    @property
    def concrete(self) -> bool:
        """Whether the value is known at trace time."""
        if self._value is None and self.source is not None:
            return self.source[0].concrete
        return not isinstance(self._value, jax.core.Tracer)

    def zeros(self, facts: Facts) -> np.ndarray | None:
        """Where it is known to be zero."""
        if self._value is not None or self.source is None:
            return facts.zeros(self._value)
        operand, shape, dims = self.source
        zeros = operand.zeros(facts)
        if zeros is None or math.prod(shape) > KNOWN:
            return None
        at = [1] * len(shape)
        for i, d in enumerate(dims):
            at[d] = zeros.shape[i]
        return np.broadcast_to(zeros.reshape(at), shape)

    def varies(self, axis: int) -> bool:
        """Whether its slices along `axis` may differ."""
        if self.shape[axis] == 1:
            return False
        if self.source is None:
            return True
        operand, _, dims = self.source
        return axis in dims and operand.varies(dims.index(axis))

    def slice(self, axis: int, start: Any, width: int) -> Any:
        """Indices `start .. start+width-1` of an axis; `start` may be traced."""
        if self.shape[axis] == width and not isinstance(start, jax.core.Tracer):
            return self.value
        if not self.varies(axis) and self.source is not None:
            operand, shape, dims = self.source
            shape = (*shape[:axis], width, *shape[axis + 1 :])
            if axis in dims and operand.shape[dims.index(axis)] != 1:
                operand = Const(operand.slice(dims.index(axis), 0, width))
            with at_once([operand], math.prod(shape)):
                return lax.broadcast_in_dim(operand.value, shape, dims)
        if isinstance(start, int):
            return lax.slice_in_dim(self.value, start, start + width, axis=axis)
        return lax.dynamic_slice_in_dim(self.value, start, width, axis, allow_negative_indices=False)


@contextlib.contextmanager
def at_once(consts: Iterable[Const], size: int) -> Iterator[None]:
    """Evaluates at trace time what is known then and has no large `size`; NaN is a constant like others."""
    if size < KNOWN and all(const.concrete for const in consts):
        with jax.ensure_compile_time_eval(), jax.debug_nans(False):
            yield
    else:
        yield


@dataclasses.dataclass
class Tracked:
    """An array that depends on the input, as its pieces along one axis, each known at its own time.

    In a loop a step has `len(pieces)` of its indices: at step t those from `t * len(pieces) - lag` on; a step that
    is a block has one piece of as many indices. Without a loop the pieces are all there is, of any `sizes`; an
    array with a single time is one piece, and its axis None.

    Attributes:
        pieces: nodes, each of an index (or `sizes` of them) along `axis`.
        axis: where the positions lie; None of an array with a single time.
        lag: how many indices it lags behind the input; below 0 the first ones are known before the first step.
        shape: of the whole array.
        dtype: of the array.
        prefix: the first `-lag` indices, if `lag < 0`.
        sizes: of the pieces along the axis; None where all are 1.
        history: an axis with an index for every position, of which those that are not yet known hold anything.
        product: what made that axis: the name of a product of two tracked arrays.
        hidden: what it holds at those: anything (None), what does not depend on them ("fixed"), numbers so low
            that a softmax makes 0 of them ("low"), or 0 ("zero").
        seen: boolean `[t, s]`, which are not hidden for certain; None for all that are known.
        lead: an index is computed when so many more positions than its own of the history are known.
        blame: the first operation that looks ahead, in words.
        whole: a node of the whole array, where a prompt is known.
    """

    pieces: list[Node]
    axis: Any
    lag: int
    shape: tuple[int, ...]
    dtype: Any
    prefix: Any = None
    sizes: tuple[int, ...] | None = None
    history: int | None = None
    product: int | None = None
    hidden: str | None = "fixed"
    seen: np.ndarray | None = None
    lead: int = 0
    blame: str | None = None
    whole: Node | None = None

    def piece_sizes(self) -> tuple[int, ...]:
        """Of each piece along the axis."""
        return self.sizes or (1,) * len(self.pieces)


class Late:
    """What is known only after the last position, or not by this level: `why`."""

    def __init__(self, why: str):
        """`why` is what a refusal says."""
        self.why = why


Value = Const | Tracked | Late


def resized(shape: Iterable[int], axis: int | None, width: int) -> tuple[int, ...]:
    """`shape` with another length of an axis."""
    return tuple(width if i == axis else size for i, size in enumerate(shape))


def taken(x: Any, places: Any, axis: int) -> Any:
    """The indices at `places` of an axis, the nearest one for those out of range."""
    return jnp.take(x, places, axis, mode="clip")


def along(axis: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    """The index of a slice along an axis."""
    return (slice(None),) * axis + (slice(start, stop),)
