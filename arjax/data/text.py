"""Text as integers."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32

from arjax.data.dataset import check_range
from arjax.data.files import listed, read_plain
from arjax.data.splits import named_split, own_splits

TEXT_SUFFIXES = {".gz", ".txt"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Characters as integers.

    Attributes:
        symbols: the characters, in the order of their integers.

    Raises:
        ValueError: there are none, or one stands twice.
    """

    symbols: str

    def __post_init__(self):
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise ValueError(
                f"got {len(self.symbols)} symbols, {len(set(self.symbols))} different, wanted all different"
            )

    @property
    def levels(self) -> int:
        """Number of characters."""
        return len(self.symbols)

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """Text as integers `0..levels-1`.

        Raises:
            ValueError: it has other characters.
        """
        if unknown := sorted(set(text) - set(self.symbols)):
            names = ", ".join(map(repr, unknown[:10])) + ", ..." * (len(unknown) > 10)
            raise ValueError(f"characters {names} are not among the {self.levels} of the vocabulary")
        codes = {symbol: code for code, symbol in enumerate(self.symbols)}
        return np.array([codes[symbol] for symbol in text], np.int32)

    def decode(self, x: Int[np.ndarray, "n"]) -> str:
        """Integers as text.

        Raises:
            ValueError: anything but integers `0..levels-1`.
        """
        return "".join(self.symbols[code] for code in _checked(x, self.levels))


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The bytes of utf-8 as integers: a vocabulary for any text."""

    @property
    def levels(self) -> int:
        """Number of values of a byte."""
        return 256

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """Text as integers `0..255`, of which a character has one to four."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, x: Int[np.ndarray, "n"]) -> str:
        """Integers as text; what is not utf-8 becomes the replacement character.

        Raises:
            ValueError: anything but integers `0..255`.
        """
        return _checked(x, 256).astype(np.uint8).tobytes().decode(errors="replace")


def _checked(x: Int[np.ndarray, "n"], levels: int) -> Int[np.ndarray, "n"]:
    x = np.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"got integers of shape {x.shape}, wanted (n,)")
    if x.size:
        check_range("text", x, levels, f"levels-1 = {levels - 1}")
    return x.astype(np.int32)


def characters(text: str) -> Vocabulary:
    """The vocabulary of a text's own characters, sorted."""
    return Vocabulary("".join(sorted(set(text))))


def read_text(path: Path) -> str:
    """Reads a utf-8 text, gzipped or not, or those of a folder (`.txt`, `.gz`) end to end, in order of name.

    A byte-order mark is no part of a text.

    Raises:
        ValueError: a file is empty, damaged or not utf-8, or the folder holds none, or some in a subfolder.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        return "".join(map(read_text, listed(path, [], TEXT_SUFFIXES, "texts")[0]))
    if not path.is_file():
        raise FileNotFoundError(f"text file {path} does not exist")
    try:
        text = read_plain(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a utf-8 text: {error}") from error
    if not text:
        raise ValueError(f"{path} is empty, wanted a text")
    return text


def read_texts(path: Path) -> dict[str, str]:
    """Reads a text by split, that of a folder whose files or subfolders are its splits; else all of it, as `""`.

    Raises:
        ValueError: as `read_text`; or two are the same split, or one of no split stands beside them.
        FileNotFoundError: there is no such file.
    """
    names = [p.name for p in sorted(path.glob("*")) if p.is_dir() or p.suffix.lower() in TEXT_SUFFIXES]
    own = own_splits(str(path), [name for name in names if name[0] != "."], _split_word)
    return {split: read_text(path / name) for split, name in own.items()} or {"": read_text(path)}


def _split_word(name: str) -> str:
    """The word of a file's name that names a split, if any does."""
    return next(filter(named_split, re.split(r"[\W_]+", name)), name)
