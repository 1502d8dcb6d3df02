"""A data set in memory, checked once at the door, and its batches."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Int32, Integer, Num

from arjax.data.splits import checked_split

Batch = dict[str, Any]


class Examples(Protocol):
    """What `batches` and `epoch_batches` read: a `Dataset` or `Windows` of sequences."""

    @property
    def name(self) -> str:
        """What the set is called in messages."""

    def __len__(self) -> int:
        """Number of examples; a training epoch has as many batches as there are whole ones."""

    def plan(self, batch_size: int, rng: np.random.Generator | None = None) -> Sequence[Any]:
        """What `batch` takes for each batch of an epoch: of whole ones in training, with `rng`; else of all."""

    def batch(self, index: Any) -> Batch:
        """The examples at `index`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one split, as integers; or, with `levels=None`, as real numbers.

    Attributes:
        x: integers `0..levels-1`, `(n, *event)`, held as uint8 wherever the levels allow; or finite floats, held
            as float32.
        labels: classes `0..num_classes-1`, `(n,)`, or None.
        levels: number of values a dimension can take, None for real numbers.
        name: what the set is called in messages.
        split: `"train"`, `"valid"` or `"test"`, also by another name of it, such as `"val"`.
        num_classes: number of classes; the largest label plus one where it is not given; None without labels.

    Raises:
        ValueError: not integers or not finite floats, no examples, a value out of range, or labels that do not fit
            the examples.
    """

    x: Num[np.ndarray, "n *event"]
    labels: Integer[np.ndarray, "n"] | None = None
    levels: Any = 256
    name: str = "data"
    split: str = "train"
    num_classes: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "split", checked_split(self.split, self.name))
        name, levels = f"{self.name} ({self.split})", self.levels
        x = np.asarray(self.x)
        if x.ndim < 2 or x.size == 0:
            raise ValueError(f"{name}: x has shape {x.shape}, wanted (n, *event) with at least one example")
        if levels is None:
            check_real(f"{name}: x", x)
            object.__setattr__(self, "x", x.astype(np.float32, copy=False))
        else:
            check_range(f"{name}: x", x, levels, f"levels-1 = {levels - 1}")
            object.__setattr__(self, "x", x.astype(np.uint8, copy=False) if levels <= 256 else x)
        if self.labels is None:
            object.__setattr__(self, "num_classes", None)
            return
        labels, num_classes = checked_labels(name, self.labels, self.num_classes, len(x))
        object.__setattr__(self, "num_classes", num_classes)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.x.shape[1:]

    def plan(self, batch_size: int, rng: np.random.Generator | None = None) -> list[Any]:
        """Index of each batch of an epoch: whole ones in the order `rng` draws, or all examples in order."""
        if rng is None:
            return [slice(i, i + batch_size) for i in range(0, len(self), batch_size)]
        return [*rng.permutation(len(self))[: len(self) // batch_size * batch_size].reshape(-1, batch_size)]

    def batch(self, index: slice | Integer[np.ndarray, "b"]) -> Batch:
        """The examples at `index`: `"x"`, int32 or float32 `(b, *event)`; with labels `"label"`, int32 `(b,)`."""
        batch = {"x": self.x[index].astype(np.float32 if self.levels is None else np.int32)}
        return batch if self.labels is None else batch | {"label": self.labels[index]}

    def take(self, index: slice | Integer[np.ndarray, "m"]) -> Self:
        """The examples at `index`, with their labels."""
        labels = None if self.labels is None else self.labels[index]
        return dataclasses.replace(self, x=self.x[index], labels=labels)

    def flat(self) -> Self:
        """The same examples with the event flattened to `(D,)`, as MADE reads them."""
        return dataclasses.replace(self, x=self.x.reshape(len(self), math.prod(self.event)))

    def quantize(self, levels: int) -> Self:
        """The same examples on a coarser grid: value `v` becomes `v * levels // self.levels`.

        Raises:
            ValueError: `levels` is not in `2..self.levels`, or there are none.
        """
        if self.levels is None:
            raise ValueError(f"{self.name}: cannot quantize real numbers, wanted integers")
        if not 2 <= levels <= self.levels:
            raise ValueError(f"{self.name}: cannot quantize {self.levels} levels to {levels}")
        table = (np.arange(self.levels) * levels // self.levels).astype(np.min_scalar_type(levels - 1))
        return dataclasses.replace(self, x=table[self.x], levels=levels)


def check_range(what: str, values: np.ndarray, size: int, limit: str) -> None:
    """Raises `ValueError` unless `values` are integers `0..size-1`; `limit` says what the last one is."""
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what} has dtype {values.dtype}, wanted integers")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        raise ValueError(f"{what} has values {low}..{high}, wanted 0..{limit}")


def check_real(what: str, values: np.ndarray) -> None:
    """Raises `ValueError` unless `values` are finite floats."""
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{what} has dtype {values.dtype}, wanted floats for levels=None")
    if not (finite := np.isfinite(values)).all():
        raise ValueError(f"{what} has {values[~finite].ravel()[0]}, wanted finite floats")


def checked_labels(
    name: str, labels: Integer[np.ndarray, "m"], num_classes: int | None, n: int
) -> tuple[Int32[np.ndarray, "n"], int]:
    """Labels of `n` examples and the number of classes, by default the largest label plus one.

    Raises:
        ValueError: the labels do not fit the examples, or are not integers `0..num_classes-1`.
    """
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"{name}: labels of shape {labels.shape} do not fit {n} examples")
    num_classes = num_classes or int(labels.max()) + 1
    check_range(f"{name}: labels", labels, num_classes, f"num_classes-1 = {num_classes - 1}")
    return labels.astype(np.int32), num_classes


def batches(
    dataset: Examples, batch_size: int, *, seed: int, step: int = 0, rows: Any = slice(None)
) -> Iterator[Batch]:
    """Endless batches from batch number `step` on, each a pure function of `(seed, step)`.

    Epoch `e` is planned with `default_rng((seed, e))`, which shuffles the examples unless a state is carried
    from one to the next, and leaves out only the last, incomplete batch. Of a batch only `rows` are read, an
    index; of several processes each reads its own.

    Yields:
        What `dataset.batch` gives: `"x"`, int32 or float32 `(batch_size, *event)`; with labels `"label"`, int32
        `(batch_size,)`; and more from `Windows`.

    Raises:
        ValueError: the batch size is not in `1..n`, or the seed or step is negative.
    """
    if not 1 <= batch_size <= len(dataset):
        raise ValueError(f"batch size {batch_size} does not fit the {len(dataset)} examples of {dataset.name}")
    if seed < 0 or step < 0:
        raise ValueError(f"seed and step must not be negative; got seed {seed} and step {step}")

    def generate():
        epoch, start = divmod(step, len(dataset) // batch_size)
        while True:
            plan = dataset.plan(batch_size, np.random.default_rng((seed, epoch)))
            yield from (dataset.batch(index[rows]) for index in plan[start:])
            epoch, start = epoch + 1, 0

    return generate()


def epoch_batches(dataset: Examples, batch_size: int) -> Iterator[Batch]:
    """Every example once, in order, for evaluation; the last batch may be smaller.

    Raises:
        ValueError: the batch size is less than one.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} is less than 1")
    return map(dataset.batch, dataset.plan(batch_size))
