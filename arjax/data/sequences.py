"""Sequences of different lengths in memory, checked once at the door, and the windows that training reads."""

import dataclasses
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Float32, Int, Int32, Integer

from arjax.data.dataset import Batch, check_range, checked_labels
from arjax.data.splits import checked_split


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one split, as integers.

    Attributes:
        x: integers `0..levels-1`, all sequences end to end; held as uint8, uint16 or int32, as the levels allow.
        lengths: the number of positions of each sequence, `(s,)`.
        levels: number of values a position can take.
        labels: classes of the sequences, `(s,)`; or a tuple of such arrays, as of digit and speaker; or None.
        num_classes: number of classes, a tuple where `labels` are; the largest label plus one where it is not
            given; None without labels.
        features: a second series at a lower rate, all sequences end to end, or None. Sequence `i` has
            `ceil(lengths[i] / hop)` frames of `d` numbers.
        hop: number of positions of a frame.
        name: what the set is called in messages.
        split: `"train"`, `"valid"` or `"test"`, also by another name of it, such as `"val"`.

    Raises:
        ValueError: not integers, no sequences, an empty one, a value out of range, lengths, labels or features
            that do not fit the sequences, or features that are not finite.
    """

    x: Integer[np.ndarray, "n"]
    lengths: Int[np.ndarray, "s"]
    levels: int
    labels: Any = None
    num_classes: Any = None
    features: Float32[np.ndarray, "f d"] | None = None
    hop: int = 1
    name: str = "sequences"
    split: str = "train"

    def __post_init__(self):
        object.__setattr__(self, "split", checked_split(self.split, self.name))
        name, levels, lengths = f"{self.name} ({self.split})", self.levels, np.asarray(self.lengths)
        x = np.asarray(self.x)
        if x.ndim != 1 or x.size == 0:
            raise ValueError(f"{name}: x has shape {x.shape}, wanted (n,) with at least one position")
        check_range(f"{name}: x", x, levels, f"levels-1 = {levels - 1}")
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.min(initial=1) < 1:
            raise ValueError(f"{name}: lengths are {lengths.dtype} {lengths.shape}, wanted positive integers (s,)")
        if lengths.sum() != len(x):
            raise ValueError(f"{name}: lengths add up to {lengths.sum()}, wanted the {len(x)} positions of x")
        dtype = np.uint8 if levels <= 256 else np.uint16 if levels <= 65_536 else np.int32
        object.__setattr__(self, "x", x.astype(dtype, copy=False))
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        self._check_labels(name)
        if self.hop < 1:
            raise ValueError(f"{name}: hop is {self.hop}, wanted 1 or more")
        if self.features is not None:
            count = int(self._frames.sum())
            if self.features.ndim != 2 or len(self.features) != count:
                raise ValueError(f"{name}: features have shape {self.features.shape}, wanted ({count}, d)")
            features = self.features.astype(np.float32, copy=False)
            if not np.isfinite(features).all():
                raise ValueError(f"{name}: features are not finite, wanted finite numbers")
            object.__setattr__(self, "features", features)

    def _check_labels(self, name: str) -> None:
        labels, num_classes = self.labels, self.num_classes
        if labels is None:
            num_classes = None
        elif isinstance(labels, tuple):
            wanted = num_classes or (None,) * len(labels)
            if not isinstance(wanted, tuple) or len(wanted) != len(labels):
                raise ValueError(
                    f"{name}: num_classes is {wanted}, wanted a tuple of {len(labels)}, as labels are"
                )
            checked = [checked_labels(name, *each, len(self)) for each in zip(labels, wanted, strict=True)]
            labels, num_classes = zip(*checked, strict=True)
        else:
            labels, num_classes = checked_labels(name, labels, num_classes, len(self))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "num_classes", num_classes)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Int[np.ndarray, "s"]:
        """Where each sequence starts in `x`."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def _frames(self) -> Int[np.ndarray, "s"]:
        return -(-self.lengths // self.hop)

    @cached_property
    def frame_starts(self) -> Int[np.ndarray, "s"]:
        """Where the frames of each sequence start in `features`."""
        return np.cumsum(self._frames) - self._frames

    def sequence(self, i: int) -> Int32[np.ndarray, "n"]:
        """Sequence `i`."""
        return self.x[self.starts[i] :][: self.lengths[i]].astype(np.int32)

    def frames(self, i: int) -> Float32[np.ndarray, "f d"]:
        """The features of sequence `i`.

        Raises:
            ValueError: there are none.
        """
        if self.features is None:
            raise ValueError(f"{self.name} ({self.split}) has no features")
        return self.features[self.frame_starts[i] :][: self._frames[i]]

    def take(self, index: slice | Integer[np.ndarray, "m"]) -> Self:
        """The sequences at `index`, with their labels and features."""
        chosen = np.arange(len(self))[index]
        pieces = [self.x[:0], *(self.x[self.starts[i] :][: self.lengths[i]] for i in chosen)]
        return dataclasses.replace(
            self,
            x=np.concatenate(pieces),
            lengths=self.lengths[chosen],
            labels=jax.tree.map(lambda labels: labels[chosen], self.labels),
            features=None if self.features is None else np.concatenate([self.frames(i) for i in chosen]),
        )

    def head(self, n: int) -> Self:
        """The first `n` positions of all; the sequence they end in is cut, those behind it are left out."""
        lengths = np.clip(n - self.starts, 0, self.lengths)
        whole = self.take(slice(int((lengths > 0).sum())))
        lengths = lengths[: len(whole)]
        features = None if self.features is None else self.features[: int((-(-lengths // self.hop)).sum())]
        return dataclasses.replace(whole, x=self.x[:n], lengths=lengths, features=features)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of sequences, of one size: what training reads.

    Window `k` of a sequence scores its positions from `k * length` to `(k + 1) * length`, so an epoch scores
    every position once. Its example has the size `context + length`; it starts `context` positions before the
    window, or at the start of the sequence, and is padded with 0 behind the end of the sequence.

    With `carry`, for truncated back-propagation through time, what is cut instead is all sequences end to end,
    into as many equal streams as a batch has rows: row `b` of a batch goes on where row `b` of the last ended.
    Training leaves out the tail that fills no batch of windows; evaluation covers everything.

    Attributes:
        sequences: what is cut.
        length: number of positions of a window.
        context: number of positions before a window that its example shows.
        carry: whether a recurrent state goes from one batch to the next.
        kept: numbers of the windows kept, or None for all.

    Raises:
        ValueError: a length or context out of range or no multiple of the hop; or `carry` with a context,
            labels, features or a selection of windows.
    """

    sequences: Sequences
    length: int
    context: int = 0
    carry: bool = False
    kept: Int[np.ndarray, "m"] | None = None

    def __post_init__(self):
        name, hop = f"{self.name} ({self.split})", self.sequences.hop
        if self.length < 1 or self.context < 0:
            raise ValueError(
                f"{name}: got length {self.length} and context {self.context}, wanted a length of 1 or more and a "
                "context of 0 or more"
            )
        if self.length % hop or self.context % hop:
            raise ValueError(
                f"{name}: got length {self.length} and context {self.context}, wanted multiples of the hop, {hop}"
            )
        if not self.carry:
            return
        surplus = {"context": self.context or None, "labels": self.sequences.labels}
        surplus |= {"features": self.sequences.features, "a selection of windows": self.kept}
        for what, value in surplus.items():
            if value is not None:
                raise ValueError(f"{name}: got {what} together with carry=True, wanted one or the other")

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.context + self.length,)

    @property
    def levels(self) -> int:
        """Number of values a position can take."""
        return self.sequences.levels

    @property
    def name(self) -> str:
        """What the set is called in messages."""
        return self.sequences.name

    @property
    def split(self) -> str:
        """`"train"`, `"valid"` or `"test"`."""
        return self.sequences.split

    @property
    def num_classes(self) -> Any:
        """Number of classes, as of the sequences."""
        return self.sequences.num_classes

    @property
    def labels(self) -> Any:
        """Classes of the windows, which are those of their sequences."""
        return jax.tree.map(lambda labels: labels[self._table[0]], self.sequences.labels)

    @property
    def features(self) -> Any:
        """The series at a lower rate, as of the sequences."""
        return self.sequences.features

    @cached_property
    def _table(self) -> tuple[Int[np.ndarray, "w"], Int[np.ndarray, "w"]]:
        """Of each window, its sequence and where it starts there."""
        counts = -(-self.sequences.lengths // self.length)
        sequence = np.repeat(np.arange(len(counts)), counts)
        start = self.length * (np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts))
        kept = slice(None) if self.kept is None else self.kept
        return sequence[kept], start[kept]

    def __len__(self) -> int:
        """Number of windows; of whole ones with `carry`."""
        return len(self.sequences.x) // self.length if self.carry else len(self._table[0])

    def take(self, index: slice | Integer[np.ndarray, "m"]) -> Self:
        """The windows at `index`.

        Raises:
            ValueError: with `carry`: take or cut the sequences then.
        """
        kept = np.arange(len(self)) if self.kept is None else self.kept
        return dataclasses.replace(self, kept=kept[index])

    def plan(self, batch_size: int, rng: np.random.Generator | None = None) -> list[Any]:
        """What `batch` takes for each batch of an epoch.

        With `rng` for training: whole batches, shuffled unless a state is carried. Else everything in order.
        """
        if not self.carry:
            order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
            stop = len(self) if rng is None else len(self) // batch_size * batch_size
            return [order[i : i + batch_size] for i in range(0, stop, batch_size)]
        total, rows = len(self.sequences.x), np.arange(batch_size)
        stream = -(-total // batch_size) if rng is None else len(self) // batch_size * self.length
        starts, ends = rows * stream, np.minimum((rows + 1) * stream, total)
        return [np.stack([starts + k, starts, ends], axis=1) for k in range(0, stream, self.length)]

    def batch(self, index: slice | Integer[np.ndarray, "b"] | Integer[np.ndarray, "b 3"]) -> Batch:
        """The windows at `index`; with `carry`, those that start and whose streams start and end there in `x`.

        Returns:
            `"x"`, int32 `(b, context + length)`, and `"scored"`, bool of that shape, true on the window;
            with labels `"label"`, int32 `(b,)` or a tuple of such; with features `"features"`, float32
            `(b, (context + length) / hop, d)`, 0 behind the end of the sequence; with `carry` `"before"`,
            int32 `(b, 1)`, the value before each row, -1 at the start of a stream, and `"fresh"`, bool `()`,
            true on the first batch of an epoch.
        """
        if self.carry:
            first, start, end = np.asarray(index).T
            batch = self._cut(first, first, end)
            fresh = first[0] == start[0]
            before = self.sequences.x[np.minimum(first, len(self.sequences.x)) - 1].astype(np.int32)
            return batch | {"before": np.where(fresh, np.int32(-1), before)[:, None], "fresh": np.array(fresh)}
        sequences, (sequence, first) = self.sequences, (column[index] for column in self._table)
        start, offset = np.maximum(first - self.context, 0), sequences.starts[sequence]
        batch = self._cut(offset + start, offset + first, offset + sequences.lengths[sequence])
        if sequences.labels is not None:
            batch["label"] = jax.tree.map(lambda labels: labels[sequence], sequences.labels)
        if sequences.features is not None:
            frame = (start // sequences.hop)[:, None] + np.arange(self.event[0] // sequences.hop)
            inside = frame < sequences._frames[sequence][:, None]
            frame = np.where(inside, sequences.frame_starts[sequence][:, None] + frame, 0)
            batch["features"] = np.where(inside[..., None], sequences.features[frame], np.float32(0))
        return batch

    def _cut(self, start: np.ndarray, first: np.ndarray, end: np.ndarray) -> Batch:
        """Examples from `start` to `end` of `x`, scored from `first`."""
        at = start[:, None] + np.arange(self.event[0])
        inside = at < end[:, None]
        x = np.where(inside, self.sequences.x[np.where(inside, at, 0)], 0).astype(np.int32)
        return {"x": x, "scored": inside & (at >= first[:, None]) & (at < first[:, None] + self.length)}
