"""CIFAR-10 in every original form, tiny and damaged; sprites; grey sets in generated colours; the real files."""

import gzip
import io
import os
import pickle
import re
import struct
import sys
import tarfile

import numpy as np
import pytest

from arjax.data import SPLITS, Dataset, colour, files, load, read_cifar10, read_labels, read_sprites, sets

RNG = np.random.default_rng(0)
N = 4
NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
IMAGES = RNG.integers(0, 256, (len(NAMES), N, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, (len(NAMES), N))


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch, request):
    if "real" not in request.node.name:
        monkeypatch.delenv("ARJAX_DATA_DIR", raising=False)
        monkeypatch.setattr(files, "CIFAR10_BATCH", N)


def refuses(kind, message, read, *arguments, **settings):
    """Asserts that the call raises one line with the message in it."""
    with pytest.raises(kind, match=re.escape(message)) as error:
        read(*arguments, **settings)
    assert "\n" not in str(error.value)


# --- CIFAR-10 ---


def binary(images, labels):
    channels_first = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.column_stack([labels, channels_first]).astype(np.uint8).tobytes()


def python2(images, labels, order="C"):
    """The pickle of Python 2 and its numpy, opcode by opcode: Python 3 cannot write its byte strings."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    raw = pixels.tobytes(order)

    def text(string):
        return b"U" + bytes([len(string)]) + string

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
    dtype = b"cnumpy\ndtype\n(U\2u1K\0K\1tR(K\3U\1|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb"
    shape = b"(" + b"".join(b"M" + struct.pack("<H", size) for size in pixels.shape) + b"t"
    by_columns = b"\x88" if order == "F" else b"\x89"
    state = b"(K\1" + shape + dtype + by_columns + b"T" + struct.pack("<I", len(raw)) + raw + b"t"
    items = {
        b"batch_label": text(b"training batch 1 of 5"),
        b"labels": b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
        b"data": array + state + b"b",
        b"filenames": b"](" + text(b"frog_s_000001.png") * len(images) + b"e",
    }
    return b"\x80\2}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


FORMS = {
    "bin": ("cifar-10-batches-bin", ".bin", binary),
    "py": ("cifar-10-batches-py", "", python2),
    "binary.tar.gz": ("cifar-10-batches-bin", ".bin", binary),
    "python.tar.gz": ("cifar-10-batches-py", "", python2),
}


def write_cifar10(root, form, **changes):
    """Writes the set in one of its forms, `changes` being the bytes of some files; None leaves a file out."""
    folder, suffix, encode = FORMS[form]
    contents = {name: encode(*pair) for name, *pair in zip(NAMES, IMAGES, LABELS, strict=True)} | changes
    contents = {f"{folder}/{name}{suffix}": data for name, data in contents.items() if data is not None}
    if "tar" not in form:
        (root / folder).mkdir(parents=True)
        for name, data in contents.items():
            (root / name).write_bytes(data)
        return root / folder
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"cifar-10-{form}", "w:gz") as tar:
        for name, data in ({f"{folder}/readme.html": b"<html>"} | contents).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return root / f"cifar-10-{form}"


@pytest.mark.parametrize("folder", ["", "cifar10"])
@pytest.mark.parametrize("form", FORMS)
def test_cifar10_splits(tmp_path, form, folder):
    write_cifar10(tmp_path / folder, form)
    before = sorted(tmp_path.rglob("*"))
    parts = [load("cifar10", split, data_dir=tmp_path) for split in SPLITS]
    assert [len(part) for part in parts] == [18, 2, 4]
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), IMAGES.reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), LABELS.ravel())
    for part in parts:
        assert (part.event, part.levels, part.num_classes) == ((32, 32, 3), 256, 10)
        assert part.x.dtype == np.uint8
        assert part.x.flags.c_contiguous
    assert sorted(tmp_path.rglob("*")) == before


def test_cifar10_pickle_by_columns(tmp_path):
    path = write_cifar10(tmp_path, "py", test_batch=python2(IMAGES[-1], LABELS[-1], order="F"))
    np.testing.assert_array_equal(read_cifar10(path, ["test_batch"])[0], IMAGES[-1])


def test_python2_writes_what_an_ordinary_unpickler_reads():
    batch = pickle.loads(python2(IMAGES[0], LABELS[0]).replace(b"numpy.core.", b"numpy._core."), encoding="latin1")
    np.testing.assert_array_equal(batch["data"].reshape(N, 3, 32, 32).transpose(0, 2, 3, 1), IMAGES[0])
    assert batch["labels"] == LABELS[0].tolist()


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


BINARY, PYTHON = binary(IMAGES[-1], LABELS[-1]), python2(IMAGES[-1], LABELS[-1])
WANTED = "bytes, wanted 12292: a label and 3072 pixels for each of 4 images"
DAMAGED = {
    "binary cut short": ("bin", BINARY[:-1], f"test_batch.bin has 12291 {WANTED}"),
    "binary with an image less": ("bin", BINARY[:-3073], f"test_batch.bin has 9219 {WANTED}"),
    "binary empty": ("bin", b"", f"test_batch.bin has 0 {WANTED}"),
    "binary shifted": ("bin", b"\x99" + BINARY[:-1], "test_batch.bin has the label "),
    "binary gz cut short": ("bin", gzip.compress(BINARY)[:-9], "test_batch.bin is a truncated or damaged gzip"),
    "pickle cut short": ("py", PYTHON[:-99], "test_batch is not a readable pickle of data and labels: Unpick"),
    "pickle empty": ("py", b"", "test_batch is not a readable pickle of data and labels: EOFError"),
    "pickle of a list": ("py", pickle.dumps([1]), "test_batch is not a readable pickle of data and labels: TypeE"),
    "pickle without labels": ("py", PYTHON.replace(b"U\6labels", b"U\6fables"), "KeyError('labels')"),
    "pickle of floats": ("py", PYTHON.replace(b"U\2u1", b"U\2f4").replace(b"M\0\x0c", b"M\0\3"), "ValueError"),
    "pickle of texts": ("py", pickle.dumps({"data": "text", "labels": [1]}), "AttributeError"),
    "pickle with an image less": ("py", python2(IMAGES[-1, 1:], LABELS[-1, 1:]), f"test_batch has 9219 {WANTED}"),
    "pickle with a label less": ("py", python2(IMAGES[-1], LABELS[-1, 1:]), "test_batch is not a readable pickle"),
    "pickle of label 10": ("py", python2(IMAGES[-1], [1, 10, 2, 3]), "test_batch has the label 10, wanted 0..9"),
    "tar of short file": ("binary.tar.gz", BINARY[:-1], f"binary.tar.gz/test_batch.bin has 12291 {WANTED}"),
    "tar without the file": ("python.tar.gz", None, "data_batch_5, wanted test_batch"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_cifar10_damaged(tmp_path, case):
    form, data, message = DAMAGED[case]
    path = write_cifar10(tmp_path, form, test_batch=data)
    refuses(ValueError, message, load, "cifar10", "test", data_dir=tmp_path)
    refuses(ValueError, str(path), load, "cifar10", "test", data_dir=tmp_path)
    assert len(load("cifar10", data_dir=tmp_path)) == 18


def test_cifar10_damaged_archives(tmp_path):
    path = write_cifar10(tmp_path, "python.tar.gz")
    packed, tar = path.read_bytes(), gzip.decompress(path.read_bytes())
    for data, message in {
        packed[:-20]: "is a truncated or damaged gzip file",
        gzip.compress(tar[:20_000]): "is not a readable tar archive: unexpected end of data",
        b"<html>": "is not a readable tar archive: truncated header",
        gzip.compress(b""): "is not a readable tar archive: empty file",
        gzip.compress(bytes(10240)): "holds nothing, wanted data_batch_1",
    }.items():
        path.write_bytes(data)
        refuses(ValueError, f"{path} {message}", load, "cifar10", data_dir=tmp_path)
        assert path.read_bytes() == data


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar10_pickle_calls_nothing(tmp_path, protocol):
    written = tmp_path / "written"
    data = pickle.dumps({"data": Malicious(written), "labels": []}, protocol)
    write_cifar10(tmp_path, "py", test_batch=data)
    refuses(ValueError, "it names ", load, "cifar10", "test", data_dir=tmp_path)
    assert not written.exists()
    pickle.loads(data)["data"].close()
    assert written.exists()


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    missing = (
        "no cifar-10-batches-bin/data_batch_1.bin or cifar-10-batches-py/data_batch_1 or cifar-10-binary.tar.gz"
    )
    refuses(FileNotFoundError, f"cifar10: {missing}", load, "cifar10", data_dir=tmp_path)
    refuses(FileNotFoundError, "pip install 'arjax[tfds]'", load, "cifar10", "test")
    write_cifar10(tmp_path, "bin", data_batch_3=None)
    lacking = str(tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin")
    refuses(FileNotFoundError, lacking, load, "cifar10", data_dir=tmp_path)
    assert len(load("cifar10", "valid", data_dir=tmp_path)) == 2
    refuses(FileNotFoundError, "coloured_mnist: mnist: no train-images-idx3-ubyte[.gz] in", load, "coloured_mnist")
    partial = f"cifar10_partial: no cifar10_batch_0.png in {tmp_path}, "
    refuses(FileNotFoundError, partial, load, "cifar10_partial", data_dir=tmp_path)
    refuses(FileNotFoundError, "convnetjs has the sprites", load, "cifar10_partial")


def test_cifar10_is_taken_from_tfds_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sets, "_tfds", lambda *arguments: calls.append(arguments))
    load("cifar10", "valid", data_dir=tmp_path)
    assert [(name, split, holdout) for name, split, _, holdout in calls] == [("tfds:cifar10", "valid", "5000")]


# --- sprites ---


@pytest.fixture
def partial(tmp_path):
    """A folder of four sprites: pixels of image i have the red i // 256, the green i % 256 and the blue row."""
    from PIL import Image

    x = np.zeros((4000, 32, 32, 3), np.uint8)
    x[..., :2] = np.stack(np.divmod(np.arange(4000), 256), -1)[:, None, None]
    x[..., 2] = np.arange(32)[:, None]
    for i, sprite in enumerate(np.split(x.reshape(4000, 1024, 3), 4)):
        Image.fromarray(sprite).save(tmp_path / f"cifar10_batch_{i}.png", compress_level=1)
    (tmp_path / "labels_0000-3999.txt").write_text("".join(f"{i % 10}\n" for i in range(4000)))
    return tmp_path


def test_cifar10_partial(partial):
    parts = [load("cifar10_partial", split, data_dir=partial) for split in SPLITS]
    assert [len(part) for part in parts] == [3200, 400, 400]
    x, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "labels"))
    np.testing.assert_array_equal(x[:, 5, 7, 0].astype(int) * 256 + x[:, 9, 0, 1], np.arange(4000))
    np.testing.assert_array_equal(x[17, ..., 2], np.repeat(np.arange(32), 32).reshape(32, 32))
    np.testing.assert_array_equal(labels, np.arange(4000) % 10)
    for part in parts:
        assert (part.event, part.levels, part.num_classes) == ((32, 32, 3), 256, 10)
        assert part.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cifar10_batch_2.png", lambda data: data[: len(data) // 2], "is not a readable image"),
        ("labels_0000-3999.txt", lambda data: data[:-2], "has 3999 labels, wanted 4000"),
        (
            "labels_0000-3999.txt",
            lambda data: data.replace(b"7", b"dog", 1),
            "is not a text of one integer a line: in",
        ),
        (
            "labels_0000-3999.txt",
            lambda data: data.replace(b"\n", b" "),
            "is not a text of one integer a line: inv",
        ),
    ],
)
def test_cifar10_partial_damaged(partial, name, change, message):
    path = partial / name
    path.write_bytes(change(path.read_bytes()))
    refuses(ValueError, f"{path} {message}", load, "cifar10_partial", data_dir=partial)


def test_cifar10_partial_lacks_a_file(partial):
    (partial / "cifar10_batch_3.png").unlink()
    refuses(FileNotFoundError, "no cifar10_batch_3.png in", load, "cifar10_partial", data_dir=partial)


def test_read_sprites_and_labels(tmp_path):
    from PIL import Image

    images, path = RNG.integers(0, 256, (5, 2, 3, 3), dtype=np.uint8), tmp_path / "sprite.png"
    Image.fromarray(images.reshape(5, 6, 3)).save(path)
    np.testing.assert_array_equal(read_sprites(path, images.shape), images)
    refuses(ValueError, f"{path} has shape (5, 6, 3), wanted (4, 6, 3)", read_sprites, path, (4, 2, 3, 3))
    refuses(ValueError, f"{path} has shape (5, 6, 3), wanted (5, 6, 1)", read_sprites, path, (5, 2, 3, 1))
    labels = tmp_path / "labels.txt.gz"
    labels.write_bytes(gzip.compress(b"3\r\n1\r\n2"))
    assert read_labels(labels, 3).tolist() == [3, 1, 2]


# --- generated colours ---


def test_coloured_digits():
    grey, coloured = ([load(name, split) for split in SPLITS] for name in ("digits", "coloured_digits"))
    assert [len(part) for part in coloured] == [1200, 200, 397]
    for a, b in zip(grey, coloured, strict=True):
        assert (b.event, b.levels, b.num_classes, b.x.dtype) == ((8, 8, 3), 4, 10, np.uint8)
        assert (b.name, b.split) == ("coloured_digits", a.split)
        np.testing.assert_array_equal(b.labels, a.labels)
        np.testing.assert_array_equal(b.x, load("coloured_digits", a.split).x)
        ink, paper = (np.argmax(a.flat().x == value, 1) for value in (16, 0))
        colours = b.x.reshape(len(b), 64, 3)
        inks, papers = colours[np.arange(len(b)), ink], colours[np.arange(len(b)), paper]
        assert ((inks.max(1) == 3) & (inks.min(1) == 0))[(a.flat().x == 16).any(1)].all()
        assert papers.max() == 1
        assert len(np.unique(papers, axis=0)) == 8
        assert len(np.unique(inks[(a.flat().x == 16).any(1)], axis=0)) == 18
    assert not np.array_equal(coloured[0].x[:200].max((1, 2)), coloured[1].x.max((1, 2)))


def test_coloured_digits_stay_what_they_are():
    x = load("coloured_digits").x
    assert "".join(map(str, x[0, 3].ravel())) == "111122033111111122122111"
    assert x.sum((0, 1, 2)).tolist() == [63916, 61558, 64195]


def test_colour_goes_from_paper_to_ink_in_step_with_the_grey():
    ramp = np.tile(np.arange(17)[:, None, None], (50, 1, 1, 1))
    x = colour(Dataset(ramp, levels=17, split="valid"), "ramp").x[:, :, 0].astype(int)
    paper, ink, weight = x[:, :1], x[:, -1:], np.arange(17)[:, None] / 16
    np.testing.assert_array_equal(x, np.floor(paper * (1 - weight) + ink * weight + 0.5))
    assert (ink.max(-1) > paper.max(-1)).all()
    few = colour(Dataset(ramp[:7], levels=17, split="valid"), "few").x
    np.testing.assert_array_equal(few[:, :, 0], x[:7])


@pytest.mark.parametrize("event", [(4,), (4, 4), (4, 4, 3)])
def test_colour_refuses(event):
    data = Dataset(np.zeros((2, *event), int), name="mine")
    refuses(ValueError, f"mine has examples of shape {event}, wanted (height, width, 1)", colour, data, "coloured")


@pytest.mark.parametrize("folder", ["", "mnist"])
def test_coloured_mnist(tmp_path, folder):
    images, labels = RNG.integers(0, 256, (20, 28, 28)), np.arange(20) % 10
    (tmp_path / folder).mkdir(exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / folder / f"t10k-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    data, grey = (load(name, "test", data_dir=tmp_path) for name in ("coloured_mnist", "mnist"))
    assert (data.event, data.levels, data.num_classes, data.name) == ((28, 28, 3), 4, 10, "coloured_mnist")
    np.testing.assert_array_equal(data.x, colour(grey, "").x)
    np.testing.assert_array_equal(data.labels, labels)


# --- the real files ---

FIRST_LABELS = [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
FIRST_REDS = [59, 43, 50, 68, 98, 119, 139, 145, 149, 149, 131, 125, 142]


@pytest.mark.skipif("ARJAX_DATA_DIR" not in os.environ, reason="ARJAX_DATA_DIR names no folder of real data")
@pytest.mark.parametrize(
    ("name", "sizes"), [("cifar10", [45_000, 5_000, 10_000]), ("cifar10_partial", [3200, 400, 400])]
)
def test_real_files(name, sizes):
    try:
        parts = [load(name, split) for split in SPLITS]
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert [len(part) for part in parts] == sizes
    assert parts[0].labels[:10].tolist() == FIRST_LABELS
    assert parts[0].x[0, 0, :13, 0].tolist() == FIRST_REDS
    if name == "cifar10":
        assert np.bincount(np.concatenate([part.labels for part in parts[:2]])).tolist() == [5000] * 10
        assert np.bincount(parts[2].labels).tolist() == [1000] * 10
