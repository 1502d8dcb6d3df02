"""The names of splits, wherever data bring their own, and how what has none is divided."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, Self, TypeVar

import numpy as np

SPLITS = ("train", "valid", "test")
SYNONYMS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
"""What each split is called in folders, files, arrays and arguments, in letters of either case."""
WANTED = "wanted " + ", ".join(" or ".join(names) for names in SYNONYMS.values())


class _Divisible(Protocol):
    def __len__(self) -> int: ...

    def take(self, index: Any) -> Self: ...


D = TypeVar("D", bound=_Divisible)


def named_split(name: str) -> str | None:
    """`"train"`, `"valid"` or `"test"`, whichever is meant; None if it is the name of no split."""
    return next((split for split, names in SYNONYMS.items() if str(name).lower() in names), None)


def checked_split(name: str, what: str | None = None) -> str:
    """The split that is meant; `what` is what has it, in messages.

    Raises:
        ValueError: an unknown split.
    """
    split = named_split(name)
    if split is None:
        raise ValueError(f"{f'{what}: ' if what else ''}unknown split {name!r}, {WANTED}")
    return split


def own_splits(what: str, names: Iterable[str], word: Callable[[str], str] = str) -> dict[str, str]:
    """The splits that data bring along.

    Args:
        what: what has them, in messages.
        names: the names of its folders, files or arrays.
        word: from such a name to the part of it that may be the name of a split; by default all of it.

    Returns:
        Whose name is that of which split; nothing if none is.

    Raises:
        ValueError: two are names of the same split, or one of no split stands beside them.
    """
    names, splits = list(names), dict[str, str]()
    for name in names:
        split = named_split(word(name))
        if split in splits:
            raise ValueError(f"{what} has both {splits[split]} and {name}, wanted one {split} split")
        if split is not None:
            splits[split] = name
    if splits and (unknown := sorted(set(names) - set(splits.values()))):
        has, beside = (", ".join(some) for some in (unknown[:10], splits.values()))
        raise ValueError(f"{what} has {has} beside {beside}: no name of a split, {WANTED}")
    return splits


def share(name: str, parts: Collection[str], split: str, test: int = 2) -> tuple[str, int, int]:
    """Where a split lies: what has no validation split has one in the last tenth of its training split.

    Args:
        name: what the set is called in messages.
        parts: the splits there are, none if it is one whole.
        split: the one wanted.
        test: twentieths of a whole that are for testing, as many for validation.

    Returns:
        The part that holds it, `""` being the whole, and the twentieths of that part where it starts and stops.

    Raises:
        ValueError: there is no such split.
    """
    if split in parts and (split != "train" or "valid" in parts):
        return split, 0, 20
    if not parts:
        start = 20 - 2 * test
        return "", *{"train": (0, start), "valid": (start, start + test), "test": (start + test, 20)}[split]
    if "train" in parts and split != "test":
        return "train", *{"train": (0, 18), "valid": (18, 20)}[split]
    raise ValueError(f"{name} has no {split} split, it has {', '.join(sorted(parts))}")


def divide(name: str, parts: Collection[str], split: str, read: Callable[[str], D]) -> D:
    """Reads a split. What has no splits is divided 8:1:1, what has no validation split 9:1, after a permutation.

    Args:
        name: what the set is called in messages.
        parts: the splits there are, none if it is one whole.
        split: the one wanted.
        read: reads one of the parts, or the whole, `""`.

    Raises:
        ValueError: there is no such split.
    """
    part, *ends = share(name, parts, split)
    examples = read(part)
    if ends == [0, 20]:
        return examples
    start, stop = (len(examples) * twentieths // 20 for twentieths in ends)
    return examples.take(np.random.default_rng(0).permutation(len(examples))[start:stop])
