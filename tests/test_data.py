"""Every format written by hand, read back and damaged; splits kept apart; batches resumed; the real files."""

import gzip
import itertools
import os
import re
import shutil
import struct
import sys

import numpy as np
import pytest

from arjax.data import (
    SETS,
    SPLITS,
    Dataset,
    batches,
    epoch_batches,
    load,
    load_audio,
    load_text,
    read_bits,
    read_idx,
    read_images,
    read_labels,
    read_npz,
    read_text,
    write_audio,
)

RNG = np.random.default_rng(0)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def rows(bits, separator, end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in bits).encode()


def write(path, data):
    """Writes bytes, gzipped where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_images(folder, images, mode="L", suffix=".png"):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).convert(mode).save(folder / f"{i:03}{suffix}")
    return folder


def values(*parts):
    """The first value of every example: its identity in the tests of splits."""
    return np.concatenate([part.x.reshape(len(part), -1)[:, 0] for part in parts]).tolist()


def one_line(error):
    return "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch, request):
    if "real" not in request.node.name:
        monkeypatch.delenv("ARJAX_DATA_DIR", raising=False)


# --- Dataset and batches ---


def test_dataset_checks_shapes_flat_quantize_take():
    x = RNG.integers(0, 256, (5, 4, 3, 1))
    data = Dataset(x, np.arange(5), name="x")
    assert (len(data), data.event, data.levels, data.num_classes) == (5, (4, 3, 1), 256, 5)
    assert data.x.dtype == np.uint8
    assert data.labels.dtype == np.int32
    assert Dataset(x * 300, levels=90_000).x.max() > 255
    np.testing.assert_array_equal(data.flat().x, x.reshape(5, 12))
    coarse = data.quantize(16)
    np.testing.assert_array_equal(coarse.x, x // 16)
    assert coarse.levels == 16
    np.testing.assert_array_equal(data.quantize(256).x, x)
    part = data.take(np.array([3, 1]))
    np.testing.assert_array_equal(part.x, x[[3, 1]])
    assert part.labels.tolist() == [3, 1]
    assert part.num_classes == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2))}, "dtype float64, wanted integers"),
        ({"x": np.zeros((3, 2), bool)}, "dtype bool, wanted integers"),
        ({"x": np.full((3, 2), 256)}, "values 256..256, wanted 0..levels-1 = 255"),
        ({"x": np.full((3, 2), -1)}, "values -1..-1, wanted 0"),
        ({"x": np.zeros((0, 2), int)}, "at least one example"),
        ({"x": np.zeros(3, int)}, "wanted (n, *event)"),
        ({"levels": 2, "x": np.full((3, 2), 2)}, "levels-1 = 1"),
        ({"labels": np.zeros(4, int)}, "labels of shape (4,) do not fit 3 examples"),
        ({"labels": np.zeros((3, 1), int)}, "labels of shape (3, 1)"),
        ({"labels": np.zeros(3)}, "labels has dtype float64"),
        ({"labels": np.array([0, 1, 7]), "num_classes": 7}, "values 0..7, wanted 0..num_classes-1 = 6"),
        ({"labels": np.array([0, -1, 1])}, "values -1..1"),
        (
            {"split": "holdout"},
            "unknown split 'holdout', wanted train or training, valid or validation or val or dev",
        ),
    ],
)
def test_dataset_refuses(change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Dataset(**{"x": np.zeros((3, 2), int), "name": "mine"} | change)
    assert one_line(error)
    assert "mine" in str(error.value)


@pytest.mark.parametrize("levels", [1, 300])
def test_quantize_refuses(levels):
    with pytest.raises(ValueError, match=f"cannot quantize 256 levels to {levels}"):
        Dataset(np.zeros((3, 2), int)).quantize(levels)


def test_batches_are_a_function_of_seed_and_step():
    data = Dataset(np.arange(22).reshape(11, 2), np.arange(11))
    run = list(itertools.islice(batches(data, 3, seed=1), 12))
    for batch in run:
        assert batch["x"].shape == (3, 2)
        assert batch["x"].dtype == batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["label"])
    epochs = [np.concatenate([b["label"] for b in run[i : i + 3]]) for i in (0, 3, 6, 9)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for step in range(12):
        resumed = next(batches(data, 3, seed=1, step=step))
        np.testing.assert_array_equal(resumed["x"], run[step]["x"])
        np.testing.assert_array_equal(resumed["label"], run[step]["label"])
    resumed = list(itertools.islice(batches(data, 3, seed=1, step=5), 7))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(resumed, run[5:], strict=True))
    assert not np.array_equal(next(batches(data, 11, seed=2))["x"], next(batches(data, 11, seed=1))["x"])
    assert set(next(batches(Dataset(data.x), 3, seed=0))) == {"x"}


def test_epoch_batches_show_every_example_once_in_order():
    data = Dataset(np.arange(22).reshape(11, 2), np.arange(11))
    run = list(epoch_batches(data, 4))
    assert [len(batch["x"]) for batch in run] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in run]), data.x)
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in run]), data.labels)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": 12}, {"seed": -1}, {"step": -1}])
def test_batches_refuse_before_the_first_batch(settings):
    with pytest.raises(ValueError, match=r"batch size|negative"):
        batches(Dataset(np.zeros((11, 2), int)), **{"batch_size": 4, "seed": 0} | settings)
    with pytest.raises(ValueError, match="less than 1"):
        epoch_batches(Dataset(np.zeros((11, 2), int)), 0)


# --- formats ---


@pytest.mark.parametrize("name", ["images.idx", "images.idx.gz"])
def test_idx(tmp_path, name):
    images = RNG.integers(0, 256, (7, 4, 5))
    np.testing.assert_array_equal(read_idx(write(tmp_path / name, idx(images)), ndim=3), images)


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n", "\n\n"])
@pytest.mark.parametrize("name", ["a.amat", "a.amat.gz", "a.data", "a.data.gz"])
def test_bits(tmp_path, name, end):
    bits = RNG.integers(0, 2, (1 if end == "\n\n" else 6, 9))
    data = rows(bits, " " if "amat" in name else ",", end)
    np.testing.assert_array_equal(read_bits(write(tmp_path / name, data)), bits)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3)])
def test_image_folder(tmp_path, mode, channels):
    images = RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    x, labels = read_images(write_images(tmp_path, images, mode))
    assert x.shape == (3, 4, 5, channels)
    assert labels is None
    assert x.max() <= (1 if mode == "1" else 255)
    if mode == "RGB":
        np.testing.assert_array_equal(x, images)


IMAGES = idx(np.zeros((2, 3, 3)))
DAMAGED = {
    "idx cut short": (lambda p: read_idx(p, 3), IMAGES[:-1], "has 33 bytes, wanted 34 for shape (2, 3, 3)"),
    "idx with a tail": (lambda p: read_idx(p, 3), IMAGES + b"0", "has 35 bytes, wanted 34"),
    "idx header cut short": (
        lambda p: read_idx(p, 3),
        IMAGES[:9],
        "truncated: its header has 9 bytes, wanted 16",
    ),
    "idx magic": (lambda p: read_idx(p, 1), IMAGES, "starts with 00000803, wanted the magic number 00000801"),
    "idx of floats": (lambda p: read_idx(p, 3), b"\0\0\x0d\3" + IMAGES[4:], "starts with 00000d03"),
    "idx empty": (lambda p: read_idx(p, 3), b"", "wanted the magic number"),
    "gz cut short": (lambda p: read_idx(p, 3), gzip.compress(IMAGES)[:-9], "truncated or damaged gzip"),
    "gz damaged": (
        read_bits,
        gzip.compress(b"0 1 0 1\n" * 99)[:20] + b"damaged",
        "truncated or damaged gzip",
    ),
    "row cut short": (read_bits, b"0 1 0\n1 1 0\n1 0", "line 3: 2 values, wanted 3 as in line 1"),
    "a blank line": (read_bits, b"0 1\n\n1 0\n", "line 2: 0 values"),
    "a two": (read_bits, b"0 1 0\n1 2 0\n", "line 2: separate 0s and 1s are wanted, found '2 0'"),
    "a float": (read_bits, b"0,1\n0,0.5\n", "line 2: separate 0s and 1s are wanted, found '.5'"),
    "bits not separate": (read_bits, b"0 1 0\n1 10\n", "line 2: separate 0s and 1s are wanted, found '10'"),
    "no bits": (read_bits, b" \n", "found ''"),
    "npz empty": (read_npz, b"", "not a readable npz file"),
    "npz foreign": (read_npz, b"PK\3\4 but no archive", "not a readable npz file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(tmp_path, case):
    read, data, message = DAMAGED[case]
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(path)
    assert one_line(error)
    assert str(path) in str(error.value)
    assert path.read_bytes() == data


def test_npz_refuses(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=RNG.integers(0, 256, (50, 4)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="not a readable npz file"):
        read_npz(path)
    np.savez(path, x=np.zeros((5, 4), complex))
    with pytest.raises(ValueError, match="x has dtype complex128, wanted integers or real numbers"):
        read_npz(path)
    np.savez(path, x=np.array([None, 1]))
    with pytest.raises(ValueError, match="not a readable npz file"):
        read_npz(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_image(tmp_path, suffix):
    write_images(tmp_path, RNG.integers(0, 256, (3, 32, 32), dtype=np.uint8), suffix=suffix)
    path = tmp_path / f"001{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"001{suffix} is not a readable image") as error:
        load(tmp_path)
    assert one_line(error)


def test_image_folder_refuses(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        load(tmp_path)
    write_images(tmp_path / "a", np.zeros((2, 4, 4), np.uint8))
    write_images(tmp_path / "b", np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(ValueError, match=re.escape("has shape (4, 5, 1), wanted (4, 4, 1) as ")):
        load(tmp_path)
    write_images(tmp_path / "b", np.zeros((2, 4, 4), np.uint8), "RGBA")
    with pytest.raises(ValueError, match="pixels of mode RGBA, wanted black and white"):
        load(tmp_path)


# --- named sets ---


def test_digits():
    from sklearn.datasets import load_digits

    parts = [load("digits", split) for split in SPLITS]
    assert [len(part) for part in parts] == [1200, 200, 397]
    for part in parts:
        assert (part.event, part.levels, part.num_classes) == ((8, 8, 1), 17, 10)
        assert part.x.dtype == np.uint8
    digits = load_digits()
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts])[..., 0], digits.images)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), digits.target)


@pytest.mark.parametrize("folder", ["", "mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path, monkeypatch, folder, suffix):
    images, labels = RNG.integers(0, 256, (10_030, 2, 2)), np.arange(10_030) % 10
    for stem, n in (("train", 10_030), ("t10k", 20)):
        write(tmp_path / folder / f"{stem}-images-idx3-ubyte{suffix}", idx(images[:n]))
        write(tmp_path / folder / f"{stem}-labels-idx1-ubyte{suffix}", idx(labels[:n]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setenv("ARJAX_DATA_DIR", str(tmp_path))
    for split, part in (("train", slice(30)), ("valid", slice(30, None)), ("test", slice(20))):
        data = load("mnist", split)
        np.testing.assert_array_equal(data.x, images[part][..., None])
        np.testing.assert_array_equal(data.labels, labels[part])
        assert (data.levels, data.num_classes, data.split) == (256, 10, split)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    write(tmp_path / folder / f"train-labels-idx1-ubyte{suffix}", idx(labels[:-1]))
    with pytest.raises(ValueError, match=re.escape("labels of shape (10029,) do not fit 10030 examples")):
        load("mnist", "valid")
    write(tmp_path / folder / f"train-labels-idx1-ubyte{suffix}", idx(labels + 1))
    with pytest.raises(ValueError, match=re.escape("labels has values 1..10, wanted 0..num_classes-1 = 9")):
        load("mnist", "train")


@pytest.mark.parametrize("folder", ["", "binarized_mnist"])
def test_binarized_mnist_files(tmp_path, folder):
    bits = RNG.integers(0, 2, (3, 6, 784))
    for split, part, suffix in zip(SPLITS, bits, ("", ".gz", ".gz"), strict=True):
        write(tmp_path / folder / f"binarized_mnist_{split}.amat{suffix}", rows(part, " ", " \n"))
    for split, part in zip(SPLITS, bits, strict=True):
        data = load("binarized_mnist", split, data_dir=tmp_path)
        np.testing.assert_array_equal(data.x, part.reshape(6, 28, 28, 1))
        assert (data.levels, data.labels, data.num_classes) == (2, None, None)
    write(tmp_path / folder / "binarized_mnist_train.amat", rows(bits[0, :, 1:], " "))
    with pytest.raises(ValueError, match="has 783 values a row, wanted 784"):
        load("binarized_mnist", data_dir=tmp_path)


@pytest.mark.parametrize("folder", ["", "nltcs", "debd", "debd/nltcs"])
def test_debd_files(tmp_path, folder):
    bits = RNG.integers(0, 2, (3, 6, 16))
    for split, part in zip(SPLITS, bits, strict=True):
        write(tmp_path / folder / f"nltcs.{split}.data.gz", rows(part, ","))
    for split, part in zip(SPLITS, bits, strict=True):
        data = load("nltcs", split, data_dir=tmp_path)
        np.testing.assert_array_equal(data.x, part)
        assert (data.levels, data.event) == (2, (16,))


def test_unknown_and_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    cases = [
        (ValueError, "unknown data set 'mnits', wanted digits, mnist, binarized_mnist, cifar10", ("mnits",)),
        (ValueError, "there is no [dna*].train.data[.gz] in " + str(tmp_path), ("[dna*]", "train", tmp_path)),
        (ValueError, "UCLA-StarAI/Density-Estimation-Datasets has some", ("dna",)),
        (ValueError, "unknown split 'holdout', wanted train or training, valid", ("digits", "holdout")),
        (FileNotFoundError, "nowhere does not exist", ("mnist", "test", tmp_path / "nowhere")),
        (
            FileNotFoundError,
            "no t10k-images-idx3-ubyte[.gz] in " + str(tmp_path),
            ("mnist", "test", tmp_path),
        ),
        (FileNotFoundError, "neither data_dir nor ARJAX_DATA_DIR is set; tensorflow_datasets", ("mnist",)),
        (FileNotFoundError, "pip install 'arjax[tfds]'", ("binarized_mnist", "train", tmp_path)),
        (FileNotFoundError, "a.npz", (tmp_path / "a.npz",)),
    ]
    for kind, message, (name, split, data_dir) in ((k, m, (*a, "train", None, None)[:3]) for k, m, a in cases):
        arguments = {"split": split or "train", "data_dir": data_dir}
        with pytest.raises(kind, match=re.escape(message)) as error:
            load(name, **arguments)
        assert one_line(error)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("digits", "sklearn.datasets", "experiments"),
        ("images", "PIL.Image", "experiments"),
        ("tfds:mnist", "tensorflow_datasets", "tfds"),
    ],
)
def test_missing_extra(tmp_path, monkeypatch, name, module, extra):
    write_images(tmp_path / "images", np.zeros((2, 4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'arjax[{extra}]'")) as error:
        load(tmp_path / "images" if name == "images" else name)
    assert one_line(error)


# --- splits that data bring along ---


def images(folder, n):
    write_images(folder, np.zeros((n, 2, 2), np.uint8))


def sounds(folder, n):
    for i in range(n):
        write_audio(write(folder / f"{i}.wav", b""), np.zeros(50), 8000)


def bits(path, n):
    separator, width = (",", 9) if ".data" in path.name else (" ", 784)
    write(path, rows(np.eye(n, width, dtype=int), separator))


def text(path, n):
    write(path, b"a" * n)


def characters_of(path, split, data_dir):
    return load_text(path, split)[0].x


FORMS = {
    "images": (images, "{}", load),
    "images by class": (images, "{}/a", load),
    "binary": (bits, "my_set.{}.data.gz", load),
    "amat": (bits, "binarized_mnist_{}.amat", load),
    "sounds": (sounds, "{}", load_audio),
    "sounds by class": (sounds, "{}/a", load_audio),
    "texts": (text, "ptb.{}.txt", characters_of),
    "texts in folders": (text, "{}/a.txt", characters_of),
    "npz": (None, "", load),
}
NAMES = {"binary": "my_set", "amat": "binarized_mnist"}


def lay(form, root, **sizes):
    """Writes splits of these names and sizes. Returns what gives the size of a split."""
    put, path, read = FORMS[form]
    if form == "npz":
        np.savez(root / "a.npz", **{f"x_{name}": np.zeros((n, 2), int) for name, n in sizes.items()})
        return lambda split: len(read(root / "a.npz", split))
    for name, n in sizes.items():
        put(root / path.format(name), n)
    return lambda split: len(read(NAMES.get(form, root), split, data_dir=root))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "names", ["train valid test", "training validation testing", "Train val TEST", "train dev test"]
)
def test_splits_of_every_name(tmp_path, form, names):
    size = lay(form, tmp_path, **dict(zip(names.split(), (10, 4, 3), strict=True)))
    for asked in (
        SPLITS,
        ("training", "val", "testing"),
        ("TRAIN", "Validation", "Test"),
        ("train", "dev", "test"),
    ):
        assert [size(split) for split in asked] == [10, 4, 3]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train val valid", "wanted one valid split"),
        ("train holdout", "holdout.* beside .*train.*: no name of a split, wanted train or training, valid or"),
        ("test eval", "eval.* beside .*test"),
    ],
)
def test_splits_refused(tmp_path, form, names, message):
    size = lay(form, tmp_path, **dict.fromkeys(names.split(), 5))
    for split in SPLITS:
        with pytest.raises(ValueError, match=message) as error:
            size(split)
        assert one_line(error)
        assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in NAMES])
def test_a_split_is_cut_off_train_or_missing(tmp_path, form):
    size = lay(form, tmp_path, train=20)
    assert [size("train"), size("val")] == [18, 2]
    with pytest.raises(ValueError, match="has no test split, it has train"):
        size("test")


@pytest.mark.parametrize("form", ["images", "sounds"])
@pytest.mark.parametrize(
    ("kept", "left_out", "split"),
    [
        ("train", "", "train"),
        ("train/a", "", "test"),
        ("train/a", "train", "train"),
        ("train/a", "test", "test"),
        ("a", "", "train"),
        ("a", "a/deeper", "train"),
    ],
)
def test_files_left_out_are_refused(tmp_path, form, kept, left_out, split):
    put, _, read = FORMS[form]
    put(tmp_path / kept, 3)
    put(tmp_path / ".hidden", 1)
    (tmp_path / "notes.md").write_text("of another kind")
    assert len(read(tmp_path)) == 2
    put(tmp_path / left_out, 1)
    with pytest.raises(ValueError, match=r"0\.\w+ (lies beside train|would be left out), wanted ") as error:
        read(tmp_path, split)
    assert one_line(error)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ("x extra", "holds extra, wanted x (and y, levels) or x_train"),
        ("x_train x", "has x beside x_train: no name of a split"),
        ("x x_holdout", "holds x, x_holdout, wanted x (and y"),
        ("x y_train", "has the labels y_train of no images, wanted their x as well"),
        ("x_train y", "has the labels y of no images"),
        ("x_train y_train y_test", "has the labels y_test of no images"),
        ("X_train", "holds X_train, wanted x"),
        ("images", "holds images, wanted x"),
    ],
)
def test_arrays_left_out_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{name: np.zeros(9, int) for name in arrays.split()})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(tmp_path / "a.npz")
    assert one_line(error)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_byte_order_mark_is_no_character(tmp_path, zipped):
    def path(name, text):
        return write(tmp_path / (f"{name}.gz" if zipped else name), b"\xef\xbb\xbf" + text)

    assert read_text(path("a.txt", b"abc")) == "abc"
    path("b.txt", b"def")
    assert read_text(tmp_path) == "abcdef"
    assert read_bits(path("a.data", b"0,1\n1,0\n")).tolist() == [[0, 1], [1, 0]]
    assert read_labels(path("labels", b"3\n1\n"), 2).tolist() == [3, 1]


# --- npz files and folders of images ---


def test_npz_with_splits(tmp_path):
    path = tmp_path / "a.npz"
    train, test = RNG.integers(0, 2, (20, 4, 4)), RNG.integers(0, 2, (6, 4, 4))
    np.savez(path, x_train=train, y_train=np.arange(20), x_test=test)
    assert [len(load(path, split)) for split in SPLITS] == [18, 2, 6]
    assert sorted(np.concatenate([load(path, s).labels for s in ("train", "valid")])) == list(range(20))
    data = load(path, "test")
    np.testing.assert_array_equal(data.x, test[..., None])
    assert (data.levels, data.labels) == (2, None)
    np.savez(path, x_train=train, x_valid=test, levels=16)
    np.testing.assert_array_equal(load(path, "train").x, train[..., None])
    assert load(path, "valid").levels == 16
    np.savez(path, x=train, levels=[2, 2])
    with pytest.raises(ValueError, match=re.escape("levels has shape (2,), wanted one number")):
        load(path)
    np.savez(path, x=np.full((20, 4), 256))
    with pytest.raises(ValueError, match=re.escape("has values 256..256, wanted 0..levels-1 = 255")):
        load(path)
    np.savez(path, x=np.zeros((20, 4), int), y=np.zeros(19, int))
    with pytest.raises(ValueError, match="do not fit 20 examples"):
        load(path)


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_what_has_no_splits_is_divided(tmp_path, form):
    x, path = (
        np.arange(40, dtype=np.uint8).repeat(9).reshape(40, 3, 3),
        tmp_path / ("a.npz" if form == "npz" else ""),
    )
    if form == "npz":
        np.savez(path, x=x, y=np.arange(40) // 20)
    else:
        write_images(path / "cat", x[:20])
        write_images(path / "dog", x[20:])
        (path / ".hidden").mkdir()
        (path / "cat" / "notes.txt").write_text("not an image")
    parts = [load(path, split) for split in SPLITS]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(values(*parts)) == list(range(40))
    for part in parts:
        np.testing.assert_array_equal(part.labels, part.x[:, 0, 0, 0] // 20)
        assert (part.levels, part.num_classes, part.event) == (256, 2, (3, 3, 1))
    assert values(load(str(path))) == values(parts[0])


def test_folder_with_splits(tmp_path):
    write_images(tmp_path / "train" / "cat", np.zeros((9, 3, 3), np.uint8), "1")
    write_images(tmp_path / "train" / "dog", np.full((11, 3, 3), 255, np.uint8), "1")
    write_images(tmp_path / "test" / "dog", np.full((2, 3, 3), 255, np.uint8), "1")
    write_images(tmp_path / ".cache", np.zeros((1, 2, 2), np.uint8))
    parts = [load(tmp_path, split) for split in SPLITS]
    assert [len(part) for part in parts] == [18, 2, 2]
    for part in parts:
        np.testing.assert_array_equal(part.labels, part.x[:, 0, 0, 0])
        assert (part.levels, part.num_classes) == (2, 2)
    write_images(tmp_path / "train" / "cat", np.full((1, 3, 3), 9, np.uint8))
    assert {load(tmp_path, split).levels for split in SPLITS} == {256}, "splits have the same levels"


# --- tensorflow-datasets, prepared without TensorFlow ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of sets that ``tfds.builder`` finds by name."""
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    root = tmp_path_factory.mktemp("tfds")
    ramp = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    png = write_images(root / "png", ramp)
    bit = write_images(root / "bits", np.eye(28, dtype=np.uint8)[None]) / "000.png"

    def prepare(name, features, **splits):
        class Custom(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = None

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, manager):
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples):
                yield from enumerate(examples)

        Custom.name = name
        Custom(data_dir=root, file_format="array_record").download_and_prepare()

    prepare(
        "pictures",
        {"image": tfds.features.Image(shape=(4, 5, 1)), "label": tfds.features.ClassLabel(num_classes=3)},
        train=[{"image": str(png / f"{i:03}.png"), "label": i % 2} for i in range(30)],
        test=[{"image": str(png / f"{i:03}.png"), "label": i % 2} for i in range(30, 40)],
    )
    bits = {split: [{"image": str(bit)}] * n for split, n in (("train", 8), ("validation", 3), ("test", 1))}
    prepare("binarized_mnist", {"image": tfds.features.Image(shape=(28, 28, 1))}, **bits)
    prepare(
        "tensors",
        {"image": tfds.features.Tensor(shape=(3,), dtype=np.int64)},
        train=[{"image": [7, 8, 9]}] * 9,
    )
    prepare("texts", {"text": tfds.features.Tensor(shape=(), dtype=np.int64)}, train=[{"text": 1}])
    ragged = tfds.features.Tensor(shape=(None, 2, 1), dtype=np.uint8)
    sizes = [{"image": np.zeros((height, 2, 1), np.uint8)} for height in (2, 3) * 5]
    prepare("ragged", {"image": ragged}, train=sizes)
    prepare(
        "named", {"image": ragged}, train=sizes[::2], dev=[{"image": np.full((2, 2, 1), 9, np.uint8)}], extra=sizes
    )
    prepare("named_otherwise", {"image": ragged}, extra=sizes)
    prepare("doubled", {"image": ragged}, train=sizes, dev=sizes, val=sizes)
    return root


def test_tfds_pictures(prepared):
    parts = [load("tfds:pictures", split, data_dir=prepared) for split in SPLITS]
    assert [len(part) for part in parts] == [27, 3, 10]
    assert sorted(values(*parts)) == list(range(40))
    for part in parts:
        assert (part.event, part.levels, part.num_classes) == ((4, 5, 1), 256, 3)
        np.testing.assert_array_equal(part.labels, part.x[:, 0, 0, 0] % 2)
    assert "tensorflow" not in sys.modules


def test_tfds_with_splits_of_other_names(prepared):
    train, valid = (load("tfds:named", split, data_dir=prepared) for split in ("training", "val"))
    assert (len(train), len(valid), valid.x.min()) == (5, 1, 9)
    assert train.levels == valid.levels == 256, "black images are of the levels of the others"


def test_tfds_tensors(prepared):
    data = load("tfds:tensors", data_dir=prepared)
    assert (data.event, data.labels, data.levels, data.x.dtype) == ((3,), None, 256, np.uint8)
    assert data.x[0].tolist() == [7, 8, 9]


def test_tfds_prepared_in_another_format(prepared, tmp_path):
    shutil.copytree(prepared / "pictures", tmp_path / "pictures")
    info = tmp_path / "pictures" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"tfrecord.*tfds build pictures --file_format=array_record") as error:
        load("tfds:pictures", data_dir=tmp_path)
    assert one_line(error)


def test_tfds_stands_in_for_missing_files(prepared, monkeypatch):
    monkeypatch.setenv("ARJAX_DATA_DIR", str(prepared))
    parts = [load("binarized_mnist", split) for split in SPLITS]
    assert [len(part) for part in parts] == [8, 3, 1]
    for part in parts:
        assert (part.event, part.levels, part.labels, part.x.dtype) == ((28, 28, 1), 2, None, np.uint8)
        np.testing.assert_array_equal(part.x[0, :, :, 0], np.eye(28))


@pytest.mark.parametrize(
    ("name", "split", "kind", "message"),
    [
        ("no_such_set", "train", ValueError, "unknown data set 'tfds:no_such_set'"),
        (
            "binary_alpha_digits",
            "train",
            FileNotFoundError,
            "tfds build binary_alpha_digits --file_format=array_record",
        ),
        ("texts", "train", ValueError, "has the features text, wanted image"),
        ("ragged", "train", ValueError, "images of unequal size: [(2, 2, 1), (3, 2, 1)]"),
        ("ragged", "test", ValueError, "has no test split, it has train"),
        ("named_otherwise", "train", ValueError, "has the splits extra, wanted train or training"),
        ("doubled", "train", ValueError, "has both dev and val, wanted one valid split"),
    ],
)
def test_tfds_refuses(prepared, name, split, kind, message):
    before = sorted(prepared.rglob("*"))
    with pytest.raises(kind, match=re.escape(message)) as error:
        load(f"tfds:{name}", split, data_dir=prepared)
    assert one_line(error)
    assert sorted(prepared.rglob("*")) == before


# --- the real files ---

REAL = {
    "mnist": (50_000, 10_000, 10_000),
    "binarized_mnist": (50_000, 10_000, 10_000),
    "adult": (5_000, 1_414, 26_147),
    "dna": (1_600, 400, 1_186),
    "jester": (9_000, 1_000, 4_116),
    "nltcs": (16_181, 2_157, 3_236),
    "ocr_letters": (32_152, 10_000, 10_000),
    "plants": (17_412, 2_321, 3_482),
}
MEANS = {
    "binarized_mnist": (0.13056, 0.13113, 0.13251),
    "adult": (0.1127, 0.1128, 0.1128),
    "dna": (0.2535, 0.2532, 0.2514),
    "jester": (0.6099, 0.6051, 0.6057),
    "nltcs": (0.3317, 0.3354, 0.3278),
    "ocr_letters": (0.2197, 0.22057, 0.21874),
    "plants": (0.1798, 0.1808, 0.1799),
}


@pytest.mark.skipif("ARJAX_DATA_DIR" not in os.environ, reason="ARJAX_DATA_DIR names no folder of real data")
@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    parts = [load(name, split) for split in SPLITS]
    assert tuple(map(len, parts)) == REAL[name]
    if name == "mnist":
        counts = sum(np.bincount(part.labels) for part in parts[:2])
        assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        counts = np.bincount(parts[2].labels)
        assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        np.testing.assert_allclose([part.x.mean() for part in parts], MEANS[name], rtol=0, atol=6e-5)


def test_every_file_set_has_a_real_check():
    elsewhere = {"cifar10", "cifar10_partial", "coloured_digits", "coloured_mnist", "moving_digits"}
    assert set(SETS) <= {*REAL, "digits", *elsewhere}
