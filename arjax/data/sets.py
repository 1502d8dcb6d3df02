"""Data sets by name or path, their splits kept apart."""

import os
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from arjax.data.colour import colour
from arjax.data.dataset import Dataset
from arjax.data.files import (
    IMAGE_SUFFIXES,
    read_bits,
    read_cifar10,
    read_idx,
    read_images,
    read_labels,
    read_npz,
    read_sprites,
    subsets,
)
from arjax.data.moving import move
from arjax.data.places import find, places, prepared, split_file, split_files, where
from arjax.data.splits import WANTED, checked_split, divide, named_split, own_splits, share
from arjax.extras import require


def load(
    name: str | os.PathLike[str], split: str = "train", *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Loads one split of a data set. Nothing is downloaded or written.

    Args:
        name: one of

            - `"digits"`: scikit-learn's 8x8 digits, 17 levels: the first 1,200, the next 200, the last 397;
            - `"mnist"`: idx files, 256 levels; the last 10,000 of the 60,000 are for validation;
            - `"binarized_mnist"`: Larochelle's fixed binarization, amat files; the test file goes by digit;
            - the name of any of the binary density-estimation sets, such as `"nltcs"`, whose files
              `NAME.{train,valid,test}.data` (or `.data.gz`) are there;
            - `"cifar10"`: the binary or the python version, in its folder or its tar.gz, 256 levels; the last
              5,000 of the 50,000 are for validation;
            - `"cifar10_partial"`: its first 4,000 training images, as four sprites and a text of labels: the
              first 3,200, the next 400, the last 400; comparable with nothing published;
            - `"coloured_digits"`, `"coloured_mnist"`: the same examples as digits and mnist in generated
              colours, 4 levels (`colour`);
            - `"moving_digits"`: digits in 4 levels that move through 8 frames of 16x16, the channels of an image
              (`move`);
            - `"tfds:NAME"`: features `image` and `label` of what tensorflow-datasets has prepared as
              array_record; without a validation split, the last tenth of the training split. Splits besides
              these three, such as `extra`, are left aside;
            - an npz file of `x` (and `y`, `levels`), or of `x_train`, `x_valid`, `x_test` (and
              `y_train` ...), and of nothing else; or a folder of images, its subfolders being classes, or splits
              that may hold classes. After one fixed permutation, what has no splits is divided 8:1:1 and what has
              no validation split 9:1.

            Levels that are not stated are None, for real numbers, where all arrays are of floats, 2 where all
            values of all splits are 0 or 1, else 256.
        split: `"train"`, `"valid"` or `"test"`. Here and wherever data name their splits, `"val"`, `"validation"`
            and `"dev"` are other names of `"valid"`, `"training"` and `"testing"` of the others.
        data_dir: the folder of the files, or of a subfolder of that name; by default `$ARJAX_DATA_DIR`.
            MNIST and CIFAR-10 not found there are taken from tensorflow-datasets, in its own order.

    Raises:
        ValueError: an unknown set or split, a damaged file, two splits that are the same, a split of another name
            beside them, or images or arrays that would be left out.
        FileNotFoundError: the folder or the files are missing.
        ImportError: an extra is missing.
    """
    name, split = os.fspath(name), checked_split(split)
    folders = places(name, data_dir)
    if name in SETS:
        try:
            return SETS[name](name, split, folders)
        except FileNotFoundError as missing:
            return _elsewhere(name, split, folders, missing)
    if name.startswith("tfds:"):
        return _tfds(name, split, folders)
    if split_files(folders, f"{name}.*.data"):
        return _binary(name, split, folders)
    path = Path(name)
    if path.is_dir():
        return _folder(path, split)
    if path.suffix != ".npz":
        known, files = ", ".join(SETS), f"{name}.train.data[.gz]"
        raise ValueError(
            f"unknown data set {name!r}, wanted {known}, tfds:NAME, an npz file, a folder of images, or a binary "
            f"set, of which there is no {files} in {where(folders)} "
            "(https://github.com/UCLA-StarAI/Density-Estimation-Datasets has some)"
        )
    return _npz(path, split)


def _digits(name: str, split: str, folders: list[Path]) -> Dataset:
    digits = require("sklearn.datasets", "experiments").load_digits()
    whole = Dataset(digits.images[..., None].astype(np.uint8), digits.target, 17, name, split, num_classes=10)
    return whole.take({"train": slice(1200), "valid": slice(1200, 1400), "test": slice(1400, None)}[split])


def _mnist(name: str, split: str, folders: list[Path]) -> Dataset:
    stem = "t10k" if split == "test" else "train"
    images = read_idx(find(folders, f"{stem}-images-idx3-ubyte[.gz]"), ndim=3)
    labels = read_idx(find(folders, f"{stem}-labels-idx1-ubyte[.gz]"), ndim=1)
    whole = Dataset(images[..., None], labels, 256, name, split, num_classes=10)
    return whole.take({"train": slice(-10_000), "valid": slice(-10_000, None), "test": slice(None)}[split])


def _binarized_mnist(name: str, split: str, folders: list[Path]) -> Dataset:
    path = split_file(folders, f"{name}_*.amat", split)
    x = read_bits(path)
    if x.shape[1] != 784:
        raise ValueError(f"{path} has {x.shape[1]} values a row, wanted 784")
    return Dataset(x.reshape(-1, 28, 28, 1), None, 2, name, split)


def _binary(name: str, split: str, folders: list[Path]) -> Dataset:
    return Dataset(read_bits(split_file(folders, f"{name}.*.data", split)), None, 2, name, split)


def _cifar10(name: str, split: str, folders: list[Path]) -> Dataset:
    training = [f"data_batch_{i}" for i in range(1, 6)]
    batches = {"train": training, "valid": training[-1:], "test": ["test_batch"]}[split]
    unpacked = f"cifar-10-batches-bin/{batches[0]}.bin", f"cifar-10-batches-py/{batches[0]}"
    path = find(folders, *unpacked, "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
    x, labels = read_cifar10(path if path.suffix == ".gz" else path.parent, batches)
    half = len(x) // len(batches) // 2
    whole = Dataset(x, labels, 256, name, split, num_classes=10)
    return whole.take({"train": slice(-half), "valid": slice(-half, None), "test": slice(None)}[split])


def _cifar10_partial(name: str, split: str, folders: list[Path]) -> Dataset:
    sprites = [find(folders, f"cifar10_batch_{i}.png") for i in range(4)]
    x = np.concatenate([read_sprites(path, (1000, 32, 32, 3)) for path in sprites])
    labels = read_labels(find(folders, "labels_0000-3999.txt"), len(x))
    whole = Dataset(x, labels, 256, name, split, num_classes=10)
    return whole.take({"train": slice(3200), "valid": slice(3200, 3600), "test": slice(3600, None)}[split])


def _coloured(name: str, split: str, folders: list[Path]) -> Dataset:
    return colour(load(name.removeprefix("coloured_"), split, data_dir=folders[0] if folders else None), name)


def _moving_digits(name: str, split: str, folders: list[Path]) -> Dataset:
    return move(load("digits", split).quantize(4), name)


SETS: dict[str, Callable[[str, str, list[Path]], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "binarized_mnist": _binarized_mnist,
    "cifar10": _cifar10,
    "cifar10_partial": _cifar10_partial,
    **dict.fromkeys(("coloured_digits", "coloured_mnist"), _coloured),
    "moving_digits": _moving_digits,
}
HOLDOUTS = {"mnist": "10000", "binarized_mnist": "10%", "cifar10": "5000"}
SOURCES = {
    "cifar10_partial": "; https://github.com/karpathy/convnetjs has the sprites at 39afa8c, in demo/cifar10",
}


def _elsewhere(name: str, split: str, folders: list[Path], missing: FileNotFoundError) -> Dataset:
    if name not in HOLDOUTS:
        raise FileNotFoundError(f"{name}: {missing}{SOURCES.get(name, '')}") from None
    try:
        return _tfds(f"tfds:{name}", split, folders, HOLDOUTS[name])
    except (FileNotFoundError, ImportError) as error:
        raise FileNotFoundError(f"{name}: {missing}; {error}") from None


def _tfds(name: str, split: str, folders: list[Path], holdout: str = "10%") -> Dataset:
    builder = prepared(name.removeprefix("tfds:"), folders)
    features, own = builder.info.features, own_splits(name, filter(named_split, builder.info.splits))
    if "image" not in features:
        raise ValueError(f"{name} has the features {', '.join(features)}, wanted image (and label)")
    if not own:
        raise ValueError(f"{name} has the splits {', '.join(builder.info.splits)}, {WANTED}")
    part, *_ = share(name, own, split)
    held_out = part == "train" and "valid" not in own
    piece = own[part] + held_out * (f"[:-{holdout}]" if split == "train" else f"[-{holdout}:]")
    examples = list(builder.as_data_source(split=piece))
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise ValueError(f"{name} has images of unequal size: {sorted(shapes)[:2]}")
    x, labels, num_classes = np.stack([example["image"] for example in examples]), None, None
    if "label" in features:
        labels = np.array([example["label"] for example in examples])
        num_classes = getattr(features["label"], "num_classes", None)
    others = (example["image"] for part in own.values() for example in builder.as_data_source(split=part))
    return Dataset(x, labels, _levels(x, others), name, split, num_classes)


def _npz(path: Path, split: str) -> Dataset:
    arrays = read_npz(path)
    keys = [key for key in arrays if key != "levels"]
    x_parts, y_parts = (_parts(path, [key for key in keys if key[0] == axis]) for axis in "xy")
    unknown = set(keys).difference(x_parts.values(), y_parts.values())
    if unknown or not x_parts:
        holds = ", ".join(sorted(unknown or arrays)) or "nothing"
        raise ValueError(f"{path} holds {holds}, wanted x (and y, levels) or x_train (and y_train) ...")
    if surplus := set(y_parts) - set(x_parts):
        raise ValueError(f"{path} has the labels {y_parts[min(surplus)]} of no images, wanted their x as well")
    xs, ys = ({part: arrays[key] for part, key in parts.items()} for parts in (x_parts, y_parts))
    if "levels" not in arrays and all(np.issubdtype(x.dtype, np.floating) for x in xs.values()):
        return divide(str(path), set(xs) - {""}, split, lambda part: _real(xs[part], ys.get(part), path, split))
    levels = arrays.get("levels", np.array(max(_levels(x) for x in xs.values())))
    if levels.size != 1:
        raise ValueError(f"{path}: levels has shape {levels.shape}, wanted one number")
    num_classes = 1 + max((int(y.max(initial=0)) for y in ys.values()), default=0)

    def read(part: str) -> Dataset:
        x = xs[part][..., None] if xs[part].ndim == 3 else xs[part]
        return Dataset(x, ys.get(part), levels.item(), str(path), split, num_classes)

    return divide(str(path), set(xs) - {""}, split, read)


def _real(x: np.ndarray, labels: np.ndarray | None, path: Path, split: str) -> Dataset:
    return Dataset(x, labels, None, str(path), split)


def _parts(path: Path, keys: list[str]) -> dict[str, str]:
    """The array of each split, such as `x_train`; or of the whole, `x`, which has none."""
    return {"": keys[0]} if keys in (["x"], ["y"]) else own_splits(str(path), keys, lambda key: key[2:])


def _folder(folder: Path, split: str) -> Dataset:
    parts, classes = subsets(folder, IMAGE_SUFFIXES)

    def read(part: str) -> Dataset:
        x, labels = read_images(parts.get(part, folder), classes)
        others = (read_images(other, classes)[0] for other in parts.values())
        return Dataset(x, labels, _levels(x, others), str(folder), split, len(classes))

    return divide(str(folder), parts, split, read)


def _levels(x: np.ndarray, others: Iterable[np.ndarray] = ()) -> int:
    """Of images whose other splits, unless they are not needed to tell, are `others`."""
    return 2 if all(images.max(initial=0) <= 1 for images in chain([x], others)) else 256
