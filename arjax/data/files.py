"""Readers of original file formats, compressed or not; none of them writes anything."""

import codecs
import gzip
import io
import math
import pickle
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num, UInt8

from arjax.data.splits import own_splits
from arjax.extras import require

IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
CIFAR10_BATCH = 10_000


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or damaged gzip file: {error}") from error


def read_plain(path: Path) -> bytes:
    """Reads the bytes of a text, gzipped or not, without the byte-order mark of utf-8.

    Raises:
        ValueError: a truncated or damaged gzip file.
    """
    return _read_bytes(path).removeprefix(codecs.BOM_UTF8)


def read_idx(path: Path, ndim: int) -> UInt8[np.ndarray, "..."]:
    """Reads unsigned bytes in the idx format of MNIST, gzipped or not.

    Args:
        path: the file.
        ndim: the rank wanted: 3 for images, 1 for labels.

    Raises:
        ValueError: another magic number, or a size that its header does not announce.
    """
    data = _read_bytes(path)
    header = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path} starts with {data[:4].hex()}, wanted the magic number 000008{ndim:02x}")
    if len(data) < header:
        raise ValueError(f"{path} is truncated: its header has {len(data)} bytes, wanted {header}")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    if len(data) != header + math.prod(shape):
        raise ValueError(f"{path} has {len(data)} bytes, wanted {header + math.prod(shape)} for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_bits(path: Path) -> UInt8[np.ndarray, "n d"]:
    """Reads a text of zeros and ones, a row a line, gzipped or not.

    Covers `.amat` (between spaces) and the `.data` files of the binary density-estimation sets (commas).

    Raises:
        ValueError: anything but separate zeros and ones, rows of unequal length, or no rows.
    """
    text = read_plain(path).rstrip()
    ones = text.replace(b"0", b"1")
    if b"11" in ones or ones.translate(None, b"1 ,\t\r\n") or not ones:
        wrong = next(re.finditer(rb"[01]{2}.*|[^01 ,\t\r\n].*|$", text))
        line, found = 1 + text.count(b"\n", 0, wrong.start()), wrong.group()[:10].decode("ascii", "replace")
        raise ValueError(f"{path}, line {line}: separate 0s and 1s are wanted, found {found!r}")
    rows = [line.translate(None, b" ,\t\r") for line in text.split(b"\n")]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}, line {number}: {len(row)} values, wanted {len(rows[0])} as in line 1")
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1) & 1


def read_npz(path: Path) -> dict[str, Num[np.ndarray, "..."]]:
    """Reads the arrays of an npz file.

    Raises:
        ValueError: the file is truncated, damaged, not an npz file, or holds anything but integers and floats.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as npz:
                arrays = dict(npz)
        except Exception as error:  # on damaged bytes zipfile and numpy raise a dozen different ones
            raise ValueError(f"{path} is not a readable npz file: {error}") from error
    for key, array in arrays.items():
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{path}: {key} has dtype {array.dtype}, wanted integers or real numbers")
    return arrays


def read_cifar10(path: Path, batches: list[str]) -> tuple[UInt8[np.ndarray, "n 32 32 3"], UInt8[np.ndarray, "n"]]:
    """Reads batches of CIFAR-10 in its binary or its python version, whichever the path names.

    Args:
        path: the folder `cifar-10-batches-bin` or `cifar-10-batches-py`, or the original archive
            `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`, which is not unpacked.
        batches: `"data_batch_1"` to `"data_batch_5"` or `"test_batch"`.

    Returns:
        The images and their labels, in the order of the files.

    Raises:
        ValueError: a file is truncated or damaged, does not hold 10,000 images, has a label above 9, or is a
            pickle that names anything but numpy's arrays; nothing that it names is called.
        FileNotFoundError: the folder lacks a file.
    """
    binary = "bin" in path.name
    names = [f"{batch}.bin" if binary else batch for batch in batches]
    files = [_read_bytes(path / name) for name in names] if path.is_dir() else _read_members(path, names)
    records = np.empty((len(batches), CIFAR10_BATCH, 1 + 3 * 32 * 32), np.uint8)
    for name, data, batch in zip(names, files, records, strict=True):
        values = np.frombuffer(data, np.uint8) if binary else _unpickle(path / name, data)
        if values.size != batch.size:
            wanted = f"{batch.size}: a label and 3072 pixels for each of {CIFAR10_BATCH} images"
            raise ValueError(f"{path / name} has {values.size} bytes, wanted {wanted}")
        batch[:] = values.reshape(batch.shape)
        if batch[:, 0].max() > 9:
            raise ValueError(f"{path / name} has the label {batch[:, 0].max()}, wanted 0..9")
    images = records[..., 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), records[..., 0].ravel()


def _read_members(path: Path, names: list[str]) -> list[bytes]:
    archive = io.BytesIO(_read_bytes(path))
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            members = {Path(member.name).name: tar.extractfile(member) for member in tar}
            files = {name: file.read() for name, file in members.items() if file and name in names}
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a readable tar archive: {error}") from error
    for name in names:
        if name not in files:
            raise ValueError(f"{path} holds {', '.join(members) or 'nothing'}, wanted {name}")
    return [files[name] for name in names]


class _State:
    """Stands in for what a pickle names, and keeps the state that it would set there."""

    state: tuple[Any, ...] = ()

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_State]:
        if f"{module}.{name}" not in ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _State


def _unpickle(path: Path, data: bytes) -> UInt8[np.ndarray, "n d"]:
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        _, shape, _, by_columns, text = batch["data"].state
        pixels = np.frombuffer(text.encode("latin1"), np.uint8).reshape(shape, order="F" if by_columns else "C")
        return np.column_stack([np.array(batch["labels"], np.uint8), pixels])
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a readable pickle of data and labels: {error!r}") from error


def read_sprites(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n h w c"]:
    """Reads an image whose rows are images themselves, flattened.

    Args:
        path: the file.
        shape: the shape wanted, `(n, h, w, c)`.

    Raises:
        ValueError: the file is truncated or damaged, or its size does not fit the shape.
    """
    rows, (n, h, w, c) = read_image(path), shape
    if rows.shape != (n, h * w, c):
        raise ValueError(f"{path} has shape {rows.shape}, wanted {(n, h * w, c)}")
    return rows.reshape(shape)


def read_labels(path: Path, count: int) -> Int[np.ndarray, "n"]:
    """Reads a text of integers, one a line, gzipped or not.

    Raises:
        ValueError: anything but integers, or another number of them than `count`.
    """
    try:
        labels = [int(line) for line in read_plain(path).splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is not a text of one integer a line: {error}") from error
    if len(labels) != count:
        raise ValueError(f"{path} has {len(labels)} labels, wanted {count}")
    return np.array(labels)


def read_image(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """Reads an image, 0 and 1 if black and white, else 0..255.

    Raises:
        ValueError: it is not readable, has several frames, or is neither black and white, grey nor RGB.
    """
    pillow = require("PIL.Image", "experiments")
    try:
        with pillow.open(path) as image:
            mode, pixels, frames = image.mode, np.asarray(image), getattr(image, "n_frames", 1)
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if frames > 1:
        raise ValueError(f"{path} has {frames} frames, wanted one image")
    if mode not in ("1", "L", "RGB"):
        raise ValueError(f"{path} has pixels of mode {mode}, wanted black and white (1), grey (L) or RGB")
    return pixels.astype(np.uint8).reshape(*pixels.shape[:2], -1)


def read_images(
    folder: Path, classes: list[str] | None = None
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"] | None]:
    """Reads the images of a folder, or of its subfolders, in the order of their paths.

    Args:
        folder: the folder.
        classes: subfolders to read, in the order of their labels. By default all, sorted.

    Returns:
        The images, 0 and 1 if black and white, else 0..255; and their labels, or None without subfolders.

    Raises:
        ValueError: no images, one in another place than the others, an unreadable or truncated one, unequal sizes
            or numbers of channels.
    """
    paths, labels = listed(folder, subfolders(folder) if classes is None else classes, IMAGE_SUFFIXES, "images")
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(f"{path} has shape {image.shape}, wanted {images[0].shape} as {paths[0]}")
    return np.stack(images), labels


def subfolders(folder: Path) -> list[str]:
    """Names of the subfolders, sorted, hidden ones left out."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def subsets(folder: Path, suffixes: set[str]) -> tuple[dict[str, Path], list[str]]:
    """The folders of a set's splits, none if it has none, and the names of its classes, which are subfolders.

    Raises:
        ValueError: two folders of the same split; or a folder of no split, or files of these suffixes, beside one.
    """
    own = own_splits(str(folder), subfolders(folder))
    if own and (loose := _files(folder, "*", suffixes)):
        raise ValueError(f"{loose[0]} lies beside {', '.join(own.values())}, wanted it in one of them")
    parts = {split: folder / name for split, name in own.items()}
    return parts, sorted({name for part in parts.values() or [folder] for name in subfolders(part)})


def listed(
    folder: Path, classes: list[str], suffixes: set[str], what: str
) -> tuple[list[Path], Int[np.ndarray, "n"] | None]:
    """The files of a folder, or by class of its subfolders, in the order of their paths.

    Args:
        folder: the folder.
        classes: subfolders, in the order of their labels.
        suffixes: those of the files wanted; others, and hidden files and folders, are left aside.
        what: what the files are, in messages.

    Returns:
        The files, and their labels, or None without classes.

    Raises:
        ValueError: there are none, or one in another place, which would be left out.
    """
    places = [folder / name for name in classes] or [folder]
    paths, deeper = (
        [p for place in places for p in _files(place, pattern, suffixes)] for pattern in ("*", "**/*")
    )
    if stray := {*_files(folder, "*", suffixes), *deeper}.difference(paths):
        where = folder / "CLASS" if classes else folder
        raise ValueError(f"{min(stray)} would be left out, wanted all {what} in {where}")
    if not paths:
        raise ValueError(f"{folder} holds no {what} ({', '.join(sorted(suffixes))})")
    return paths, np.array([classes.index(path.parent.name) for path in paths]) if classes else None


def _files(folder: Path, pattern: str, suffixes: set[str]) -> list[Path]:
    paths = [path for path in folder.glob(pattern) if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts))
