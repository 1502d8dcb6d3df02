"""Where data sets lie, by name, and how what has no splits is divided."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from arjax.data.dataset import SPLITS
from arjax.extras import require


class _Divisible(Protocol):
    def __len__(self) -> int: ...

    def take(self, index: Any) -> Self: ...


D = TypeVar("D", bound=_Divisible)


def places(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Folders in which the files of a set may lie, the first of them `data_dir` or `$ARJAX_DATA_DIR`.

    Raises:
        ValueError: An unknown split.
        FileNotFoundError: The data folder does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, wanted one of {', '.join(SPLITS)}")
    root = data_dir or os.environ.get("ARJAX_DATA_DIR")
    if root and not Path(root).is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    return [Path(root), Path(root, name), Path(root, "debd", name)] if root else []


def find(folders: list[Path], *names: str) -> Path:
    """The first file of these names, or of names that fit these patterns; `[.gz]` means with or without.

    Raises:
        FileNotFoundError: There is none.
    """
    plain = [name.replace("[.gz]", suffix) for name in names for suffix in ("", ".gz")]
    for path in (path for folder in folders for name in plain for path in sorted(folder.glob(name))):
        if path.is_file():
            return path
    where = ", ".join(map(str, folders)) or "any folder: neither data_dir nor ARJAX_DATA_DIR is set"
    raise FileNotFoundError(f"no {' or '.join(names)} in {where}")


def prepared(name: str, folders: list[Path]) -> Any:
    """The builder of a set that tensorflow-datasets has prepared, in the data folder or its own.

    Raises:
        ValueError: An unknown name, or a set prepared in a format that only TensorFlow reads.
        FileNotFoundError: The set is not prepared.
        ImportError: tensorflow-datasets is missing.
    """
    tfds = require("tensorflow_datasets", "tfds")
    builder = None
    how = f"pip install tensorflow && tfds build {name} --file_format=array_record"
    for folder in (*folders[:1], None):
        try:
            builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            continue
        except ValueError as error:
            raise ValueError(f"tfds:{name} cannot be read: {error} Try {how}, in a new --data_dir") from error
        if builder.info.splits:
            return builder
    if builder is None:
        raise ValueError(f"unknown data set 'tfds:{name}': tensorflow-datasets has none of that name")
    raise FileNotFoundError(f"tfds:{name} is not prepared in {builder.data_dir}: {how}")


def divide(name: str, parts: set[str], split: str, read: Callable[[str], D]) -> D:
    """Reads a split. What has no splits is divided 8:1:1, what has no validation split 9:1, after a permutation.

    Args:
        name: What the set is called in messages.
        parts: Names of the splits there are, or `{""}`.
        split: The one wanted.
        read: Reads one of the parts.

    Raises:
        ValueError: There is no such split.
    """
    if split in parts and (split != "train" or "valid" in parts):
        return read(split)
    if parts == {""}:
        whole, tenths = read(""), {"train": (0, 8), "valid": (8, 9), "test": (9, 10)}
    elif "train" in parts and split != "test":
        whole, tenths = read("train"), {"train": (0, 9), "valid": (9, 10)}
    else:
        raise ValueError(f"{name} has no {split} split; it has {', '.join(sorted(parts))}")
    start, stop = (len(whole) * tenth // 10 for tenth in tenths[split])
    return whole.take(np.random.default_rng(0).permutation(len(whole))[start:stop])
