"""Where data sets lie, by name."""

import os
import re
from pathlib import Path
from typing import Any

from arjax.data.splits import own_splits
from arjax.extras import require


def places(name: str, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Folders in which the files of a set may lie, the first of them `data_dir` or `$ARJAX_DATA_DIR`.

    Raises:
        FileNotFoundError: the data folder does not exist.
    """
    root = data_dir or os.environ.get("ARJAX_DATA_DIR")
    if root and not Path(root).is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    return [Path(root), Path(root, name), Path(root, "debd"), Path(root, "debd", name)] if root else []


def find(folders: list[Path], *names: str) -> Path:
    """The first file of these names, or of names that fit these patterns; `[.gz]` means with or without.

    Raises:
        FileNotFoundError: there is none.
    """
    plain = [name.replace("[.gz]", suffix) for name in names for suffix in ("", ".gz")]
    for path in (path for folder in folders for name in plain for path in sorted(folder.glob(name))):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {' or '.join(names)} in {where(folders)}")


def where(folders: list[Path]) -> str:
    """The folders in words."""
    return ", ".join(map(str, folders)) or "any folder: neither data_dir nor ARJAX_DATA_DIR is set"


def split_files(folders: list[Path], pattern: str) -> dict[str, Path]:
    """The file of each split, in the first folder that has any of them.

    Args:
        folders: the folders.
        pattern: the files' names, `*` being the split's, gzipped or not.

    Raises:
        ValueError: two files of the same split, or one of no split beside them.
    """
    before, _, after = map(re.escape, pattern.rpartition("*"))
    named = re.compile(rf"{before}([^.]+){after}(?:\.gz)?")
    for folder in folders:
        matches = [
            match for path in sorted(folder.glob("*"), reverse=True) if (match := named.fullmatch(path.name))
        ]
        files = {match[1]: folder / match[0] for match in matches}  # of one gzipped and one not, the latter
        if own := own_splits(f"{folder} ({pattern})", files):
            return {split: files[name] for split, name in own.items()}
    return {}


def split_file(folders: list[Path], pattern: str, split: str) -> Path:
    """The file of a split, as `split_files` has it.

    Raises:
        ValueError: as `split_files`.
        FileNotFoundError: there is none.
    """
    files = split_files(folders, pattern)
    if split not in files:
        before, _, after = pattern.rpartition("*")
        raise FileNotFoundError(f"no {before}{split}{after}[.gz] in {where(folders)}")
    return files[split]


def prepared(name: str, folders: list[Path]) -> Any:
    """The builder of a set that tensorflow-datasets has prepared, in the data folder or its own.

    Raises:
        ValueError: an unknown name, or a set prepared in a format that only TensorFlow reads.
        FileNotFoundError: the set is not prepared.
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
