"""What a loop remembers of the arrays of a step: windows, ring buffers, key and value caches, states.

A memory is a source of the step, read through `node`, and `new`, what it holds at the next step. It begins as
`initial()`, or, where a prompt is known, as `after(whole, steps)` from the parallel pass over it.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from arjax.incremental.values import Node, Tracked, along, resized, taken

if TYPE_CHECKING:
    from arjax.incremental.level import Loop

FAR = 16
"""A past as long as this is a ring buffer, a shorter one a sliding window."""


class Memory:
    """Of `array`; what is read of it turns out while a function is interpreted, its size is known afterwards."""

    new: Node

    def __init__(self, loop: "Loop", array: Tracked):
        """Registers itself with the `loop`."""
        self.loop, self.array, self.node = loop, array, Node(None, last=-1)
        self.whole = array.whole
        loop.memories.append(self)

    @property
    def axis(self) -> int:
        """Where the positions lie."""
        assert self.array.axis is not None
        return self.array.axis

    @property
    def count(self) -> int:
        """Indices for each step."""
        return len(self.array.pieces)

    def initial(self) -> Any:
        """What it holds before the first step."""
        raise NotImplementedError

    def after(self, whole: Array, steps: int) -> Any:
        """What it holds after so many `steps` of which `whole` has all indices."""
        raise NotImplementedError

    def _empty(self, length: int) -> Array:
        return jnp.zeros(resized(self.array.shape, self.axis, length), self.array.dtype)

    def _latest(self, whole: Array, end: int, count: int) -> Array:
        """The `count` indices before `end`, zeros where there are none."""
        start = end - count
        part = whole[along(self.axis, max(start, 0), max(end, 0))]
        missing = count - part.shape[self.axis]
        return jnp.concatenate([self._empty(missing), part], self.axis) if missing else part


class Window(Memory):
    """The latest `span` indices in order, moved on at every step."""

    def __init__(self, loop: "Loop", array: Tracked):
        """Remembers nothing until it is read."""
        super().__init__(loop, array)
        self.span = 0
        self.new = Node(self._moved, [self.node, *array.pieces])

    def read(self, places: Sequence[int]) -> list[Node]:
        """The indices at `places` below 0, counted from the first of the step."""
        self.span = max(self.span, -min(places))
        size = self.loop.block or 1

        def piece(held: Array, *own: Array, j: int) -> Array:
            past = held[along(self.axis, self.span + j, min(self.span + j + size, self.span))]
            return jnp.concatenate([past, own[0][along(self.axis, 0, size + j)]], self.axis) if own else past

        return [
            Node(partial(piece, j=j), [self.node] if j <= -size else [self.node, *self.array.pieces])
            for j in places
        ]

    def read_run(self, start: int) -> Node:
        """All indices from `start`, below 0, to the latest, as one array."""
        self.span = max(self.span, -start)
        return Node(lambda held: held[along(self.axis, self.span + start, None)], [self.node])

    def _moved(self, held: Array, *pieces: Array) -> Array:
        parts = pieces[-self.span :] if len(pieces) >= self.span else (held, *pieces)
        latest = parts[0] if len(parts) == 1 else jnp.concatenate(parts, self.axis)
        return latest if latest.shape[self.axis] == self.span else latest[along(self.axis, -self.span, None)]

    def initial(self) -> Array:
        """Zeros, and what is known before the first step."""
        a = self.array
        known = self._empty(0) if a.lag >= 0 else a.prefix
        return self._latest(known, -a.lag if a.lag < 0 else 0, self.span)

    def after(self, whole: Array, steps: int) -> Array:
        """The latest indices of `whole`."""
        return self._latest(whole, steps * self.count - self.array.lag, self.span)


class Ring(Memory):
    """The latest indices, each at its number modulo `slots`; the cost of a step does not grow with the span.

    Written in place, see `written`.
    """

    def __init__(self, loop: "Loop", array: Tracked):
        """Remembers nothing until it is read."""
        super().__init__(loop, array)
        self.span = 0
        self.new = Node(self._written, [self.node, loop.clock, loop.inputs[-1], *array.pieces])

    @property
    def slots(self) -> int:
        """Indices that there is room for."""
        return -(-self.span // self.count) * self.count

    def read(self, places: Sequence[int]) -> list[Node]:
        """The indices at `places` below 0, counted from the first of the step."""
        self.span = max(self.span, -min(places))
        return [
            Node(lambda held, t, j=j: self._at(held, t * self.count + j), [self.node, self.loop.clock])
            for j in places
        ]

    def read_from(self, table: np.ndarray, lag: int) -> Node:
        """The index `table[t - lag]` of all so far, the present one included."""
        self.span = max(self.array.shape[self.axis], self.loop.length)  # of a cropped array, what is cropped too
        places = jnp.asarray(table)

        def of_block(held: Array, t: Array, piece: Array) -> Array:
            known = lax.dynamic_update_slice_in_dim(held, piece, t, self.axis)
            return taken(known, taken(places, self.loop.spread(t - lag, 0), 0) + self.array.lag, self.axis)

        def at(held: Array, t: Array, piece: Array) -> Array:
            place = places[t - lag]
            return jnp.where(place == t - self.array.lag, piece, self._at(held, place + self.array.lag))

        return Node(at if self.loop.block is None else of_block, [self.node, self.loop.clock, *self.array.pieces])

    def read_rows(self, table: np.ndarray, span: int) -> Node:
        """The indices `table[t]`, at most `span` before the present one, as one array; anything where below 0."""
        self.span = max(self.span, span, 1)
        return Node(
            lambda held, t: jnp.take(held, jnp.asarray(table)[t] % self.slots, axis=self.axis, mode="clip"),
            [self.node, self.loop.clock],
        )

    def _at(self, held: Array, index: Array) -> Array:
        return lax.dynamic_slice_in_dim(held, index % self.slots, 1, self.axis, allow_negative_indices=False)

    def _written(self, held: Array, t: Array, drawn: Array, *pieces: Array) -> Array:
        new = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, self.axis)
        return written(held, new, t * self.count, self.slots, self.axis, drawn)

    def _arranged(self, latest: Array, end: int) -> Array:
        """The `slots` indices before the number `end` at their places."""
        places = np.arange(end - self.slots, end) % self.slots
        return jnp.take(latest, np.argsort(places), self.axis)

    def initial(self) -> Array:
        """Zeros, and what is known before the first step."""
        a = self.array
        known = self._empty(0) if a.lag >= 0 else a.prefix
        return self._arranged(self._latest(known, -a.lag if a.lag < 0 else 0, self.slots), 0)

    def after(self, whole: Array, steps: int) -> Array:
        """The latest indices of `whole`."""
        end = steps * self.count
        return self._arranged(self._latest(whole, end - self.array.lag, self.slots), end)


class KVCache(Memory):
    """The keys or the values of all positions so far, or of the latest that there is room for.

    One for each step, written after it is read; zeros stand for those to come. Kept as a batch of matrices that
    products read as they are, in which an index has `stride` rows or columns.
    """

    def __init__(self, loop: "Loop", array: Tracked, axis: int, shape: tuple[int, ...], stride: int, arrange: Any):
        """`arrange` makes of any number of indices what is kept of them, along `axis` of `shape`."""
        super().__init__(loop, array)
        self.place, self.shape, self.stride, self.arrange = axis, shape, stride, arrange
        self.new = Node(self._written, [self.node, loop.clock, loop.inputs[-1], *array.pieces])

    def _written(self, held: Array, t: Array, drawn: Array, piece: Array) -> Array:
        start = (t - self.array.lag) * self.stride
        return written(held, self.arrange(piece), start, self.shape[self.place], self.place, drawn)

    def initial(self) -> Array:
        """Zeros."""
        return jnp.zeros(self.shape, self.array.dtype)

    def after(self, whole: Array, steps: int) -> Array:
        """The indices of `whole` that are known."""
        end, slots = max(steps - self.array.lag, 0), self.shape[self.place] // self.stride
        held = self.initial()
        for first in range(0, end, slots):  # at most two of these remain, of each slot the latest
            if first + 2 * slots > end:
                known = self.arrange(whole[along(self.axis, first, min(first + slots, end))])
                held = lax.dynamic_update_slice_in_dim(held, known, 0, self.place)
        return held


def written(held: Array, new: Array, start: Array, size: int, axis: int, drawn: Array) -> Array:
    """`held` with `new` from index `start` modulo `size` on, after all that was read of it in this step.

    The index depends on what was drawn (0 is added), and that on what was read, so that XLA knows the order and
    writes in place: else it copies all that is held, at every step.
    """
    nothing = jnp.maximum(-2 - jnp.min(jnp.where(drawn < 0, jnp.int32(-1), jnp.int32(0))), 0)
    index = (start + nothing) % size
    starts = [index if i == axis else jnp.zeros_like(index) for i in range(held.ndim)]
    return lax.dynamic_update_slice(held, new, starts, allow_negative_indices=False)


class RecurrentState(Memory):
    """The state of a recurrence, from `first`; `new` is set by who computes it, `whole` is the last state."""

    def __init__(self, loop: "Loop", first: Any):
        """Begins as `first`."""
        super().__init__(loop, Tracked([], None, 0, jnp.shape(first), jnp.result_type(first)))
        self.first = first

    def initial(self) -> Any:
        """The first state."""
        return self.first

    def after(self, whole: Array, steps: int) -> Array:
        """The last state of the pass over a prompt."""
        return whole
