"""Every experiment runs through with `smoke=True`, and `python -m experiments` lists it."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import arjax
from arjax.data import Dataset, Sequences, Windows, files
from arjax.distributions import Bernoulli, Categorical
from arjax.layers.conditioning import Upsampling
from arjax.models import Histogram, WaveNet
from experiments import common, provenance, toys


def check_toys(scores):
    assert {name: list(rows) for name, rows in scores.items()} == {
        "dset1": ["true", "histogram", "mixture"],
        "warm-up": ["true", "histogram", "mixture"],
        "galaxy": ["true", "chain", "edge dropped"],
    }
    for rows in scores.values():
        true, *learned = (row["expected"] for row in rows.values())
        assert np.isfinite(learned).all()
        assert min(learned) > true, "nothing beats the truth"


def check_scores(nats):
    assert len(nats) >= 2
    assert all(np.isfinite(value) and value > 0 for value in nats.values())


def check_nats(nats):
    """Of densities, which may be below 0."""
    assert len(nats) >= 3
    assert np.isfinite(list(nats.values())).all()


def check_planes(found):
    for nats in found.values():
        check_nats(nats)
        assert min(nats, key=nats.get) == "true"


def check_fields(shares):
    names = ["PixelCNN", "Gated PixelCNN", "PixelCNN++", "Row LSTM", "Diagonal BiLSTM", "MADE"]
    assert list(shares) == names
    for name, share in shares.items():
        assert share["never seen"] == pytest.approx(share["predicted"]), name
        assert share["seen"] + share["never seen"] == pytest.approx(1)
        assert (share["never seen"] > 0) == (name in ("PixelCNN", "Row LSTM"))


def check_auroc(results):
    assert list(results) == ["negatives", "constant images"]
    for scores in results.values():
        assert list(scores) == ["likelihood", "ratio", "complexity", "typicality"]
        assert all(0 <= value <= 1 for value in scores.values())


def check_accuracy(results):
    assert list(results) == ["pixels", "mean activations", "Fisher scores"]
    assert all(0 < value <= 1 for value in results.values())


def check_record(found, scores, folder):
    """What results.json says of a run, of which `scores` were returned."""
    assert list(found) == [
        *("settings", "earlier", "scores", "training", "data", "command", "commit", "machine", "versions"),
    ]
    assert found["scores"] == scores
    assert found["settings"]["smoke"] is True
    assert Path(found["settings"]["directory"]) in (folder, *folder.parents)
    logs = {str(path.parent.relative_to(folder)): path for path in folder.rglob("metrics.jsonl")}
    assert found["training"].keys() == logs.keys()
    for name, path in logs.items():
        last = json.loads(path.read_text().splitlines()[-1])
        assert found["training"][name] == {"step": last["step"], "seconds": last["seconds"]}
    for split in found["data"]:
        assert split["examples"] > 0
        assert len(split["digest"]) == 16


CHECKS = {
    "toys": check_toys,
    "digits": check_scores,
    "coloured_mnist": check_scores,
    "own_network": check_scores,
    "made_mnist 1hl": check_scores,
    "made_mnist visible": check_scores,
    "mnist_completions": check_scores,
    "cifar10 pixelcnn": check_scores,
    "cifar10 gated": check_scores,
    "cifar10 pixelcnnpp-small": check_scores,
    "transformer text": check_scores,
    "transformer digits": check_scores,
    "order_agnostic": check_scores,
    "pixelsnail digits-zigzag": check_scores,
    "pixelrnn digits": check_scores,
    "pixelrnn mnist-diagonal": check_scores,
    "pixelrnn cifar10-row": check_scores,
    "gray_then_colour coloured-digits": check_scores,
    "gray_then_colour cifar10-partial": check_scores,
    "multiscale": check_scores,
    "subscale mnist": check_scores,
    "subscale depth": check_scores,
    "moving_digits": check_scores,
    "receptive_fields": check_fields,
    "autoencoder": check_scores,
    "anomaly": check_auroc,
    "fisher": check_accuracy,
    "char_rnn": check_scores,
    "pixel_rnn_positions": check_scores,
    "wavenet_speech": check_scores,
    "wavenet_vocoder": check_scores,
    "flows_1d": check_nats,
    "flows_2d": check_planes,
    "flows_tabular": check_nats,
    "flows_images digits": check_scores,
}
"""Experiments by name and variant, each with a check of what its `main` returns."""
SLOW = set(CHECKS) - {
    *(
        "toys",
        "digits",
        "own_network",
        "made_mnist 1hl",
        "cifar10 gated",
        "transformer text",
    ),
    *("pixelrnn digits", "gray_then_colour coloured-digits", "subscale mnist"),
    *(
        "autoencoder",
        "anomaly",
        "char_rnn",
        "wavenet_speech",
        "flows_1d",
        "flows_images digits",
    ),
}
"""Those whose code others run too, or that take long."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Noise in the form of MNIST, as it is and binarized, CIFAR-10 in batches of 64, partial too, Shakespeare."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    for split in ("train", "valid", "test"):
        rows = rng.integers(0, 2, (64, 784))
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        (folder / f"binarized_mnist_{split}.amat").write_text(text)
    for stem, count in (("train", 10_064), ("t10k", 64)):  # of which the last 10,000 are for validation
        for kind, shape, levels in (("images-idx3", (count, 28, 28), 256), ("labels-idx1", (count,), 10)):
            header = bytes((0, 0, 8, len(shape))) + np.array(shape, ">i4").tobytes()
            values = rng.integers(0, levels, shape, np.uint8).tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + values)
    batches = folder / "cifar-10-batches-bin"
    batches.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (64, 3073), np.uint8)
        records[:, 0] %= 10
        (batches / f"{name}.bin").write_bytes(records.tobytes())
    for i in range(4):
        sprite = Image.fromarray(rng.integers(0, 256, (1000, 1024, 3), np.uint8))
        sprite.save(folder / f"cifar10_batch_{i}.png", compress_level=0)
    (folder / "input.txt").write_text("To be, or not to be, that is the question.\n" * 100)
    (folder / "labels_0000-3999.txt").write_text("".join(f"{i % 10}\n" for i in range(4000)))
    return folder


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CHECKS]
)
def test_smoke(command, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ARJAX_DATA_DIR", str(data_dir))
    monkeypatch.setattr(files, "CIFAR10_BATCH", 64)
    name, *variant = command.split()
    experiment = importlib.import_module(f"experiments.{name}")
    config = experiment.VARIANTS[variant[0]][1] if variant else experiment.Config()
    scores = experiment.main(dataclasses.replace(config, smoke=True, directory=tmp_path))
    CHECKS[command](scores)
    [path] = tmp_path.rglob("results.json")
    check_record(json.loads(path.read_text()), scores, path.parent)
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as image:
            image.verify()


def test_listing():
    command = [sys.executable, "-m", "experiments"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in {*(command.split()[0] for command in CHECKS), "compression", "export", "use"}:
        title, _, _ = importlib.import_module(f"experiments.{name}").__doc__.partition("\n")
        assert any(f"python -m experiments.{name} " in line and title in line for line in listed.splitlines())


@pytest.mark.parametrize(("toy", "train", "test"), [(toys.dset1, 2.448, 2.543), (toys.warm_up, 4.038, 4.032)])
def test_toys_are_the_data_of_the_course(toy, train, test):
    toy = toy()
    frequencies = np.bincount(toy.train[:, 0], minlength=len(toy.true)) / len(toy.train)
    scores = toys.score(toy, np.log(np.maximum(frequencies, 1e-9)))
    assert scores["train"] == pytest.approx(train, abs=5e-4)
    assert scores["test"] == pytest.approx(test, abs=5e-4)
    assert toy.true.sum() == pytest.approx(1)
    assert np.abs(frequencies - toy.true).max() < 5 / np.sqrt(len(toy.train)) / 2


def test_galaxy_is_known():
    toy = toys.galaxy(draws=800, hidden=(4,), seed=0)
    assert [x.shape for x in (toy.train, toy.valid, toy.test)] == [(800, 2), (100, 2), (200, 2)]
    entropies = [-(p * np.log(p)).sum() for p in (toy.true.sum(1), toy.true.sum(0), toy.true)]
    assert entropies[2] == pytest.approx(6.0868, abs=1e-4)
    assert toys.mutual_information(toy.true) == pytest.approx(entropies[0] + entropies[1] - entropies[2])


def test_completions(tmp_path, monkeypatch):
    pictures = []
    monkeypatch.setattr(
        common.plotting, "image_grid", lambda images, path, **kwargs: pictures.append((images, kwargs))
    )
    x = np.random.default_rng(0).integers(0, 2, (40, 4, 6, 1))
    test = Dataset(x, levels=2)
    model = Histogram((4, 6, 1), Bernoulli())
    variables = model.init(jax.random.key(0), x)
    parts = (common.LOWER_HALF, common.RIGHT_HALF, common.CENTRE)
    common.draw_completions(model, variables, tmp_path, test, seed=0, count=5, occlusions=parts)
    ((images, kwargs),) = pictures
    assert kwargs == {"levels": 256, "columns": 3 * 8 - 1}
    rows = np.concatenate([images.reshape(10, 23, 4, 6, 3), np.full((10, 1, 4, 6, 3), 255)], 1).reshape(
        10, 3, 8, 4, 6, 3
    )
    hidden = np.zeros((3, 4, 6), bool)
    hidden[0, 2:], hidden[1, :, 3:], hidden[2, 1:3, 2:4] = True, True, True
    for row, index in zip(rows, range(2, 40, 4), strict=True):
        for (occluded, *completions, original, gap), mask in zip(row, hidden, strict=True):
            np.testing.assert_array_equal(original, np.broadcast_to(x[index] * 255, original.shape))
            np.testing.assert_array_equal(occluded[~mask], original[~mask])
            assert (occluded[mask] == common.HIDDEN).all()
            assert (gap == 255).all()
            for completion in completions:
                np.testing.assert_array_equal(completion[~mask], original[~mask])
    assert len(np.unique(rows[:, :, 1:6].reshape(150, -1), axis=0)) > 100, "completions differ"


def test_streams_are_samples():
    model = WaveNet(
        Categorical(8), (1, 2), features=2, gate_features=2, skip_features=2, conditioning=Upsampling(3, (2, 2))
    )
    frames = np.random.default_rng(0).random((2, 7, 3), np.float32)
    padded = np.pad(frames, ((0, 0), (0, 2), (0, 0)))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((2, 36), np.int32), padded)
    x = common.stream(model, variables, jax.random.key(1), (2, 26), frames, chunk=12, hop=4)
    noise = [jax.random.uniform(jax.random.fold_in(jax.random.key(1), k), (2, 12)) for k in (0, 12, 24)]
    whole = arjax.sample_from_noise(model, variables, np.concatenate(noise, 1), padded)
    np.testing.assert_array_equal(x, whole[:, :26])


@dataclasses.dataclass(frozen=True)
class Settings:
    directory: Path
    steps: int = 3
    smoke: bool = False


def test_record(tmp_path, monkeypatch):
    """Models that an earlier run left in the folder are not of this one."""
    other, own = tmp_path / "other/metrics.jsonl", tmp_path / "own/metrics.jsonl"
    for path, seconds in ((other, 7.0), (own, 8.0)):
        path.parent.mkdir()
        path.write_text("".join(json.dumps({"step": k, "seconds": k * seconds}) + "\n" for k in (1, 2)))
    os.utime(other, (0, 0))
    monkeypatch.setattr(provenance, "commit", lambda: "0123abc")
    config = common.prepared(Settings(tmp_path))
    own.touch()
    scores, train = {"of": {"one": 1.5}}, Dataset(np.zeros((4, 3), int), levels=2, name="zeros")
    assert common.record(config, scores, train) is scores
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["settings"] == {"directory": str(tmp_path), "steps": 3, "smoke": False}
    assert found["scores"] == scores
    assert found["training"] == {"own": {"step": 2, "seconds": 16.0}}
    assert found["commit"] == "0123abc"
    digest = provenance.digest(train)
    assert found["data"] == [
        {"name": "zeros", "split": "train", "examples": 4, "event": [3], "digest": digest},
    ]
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["results.json", "settings.json"]


def test_record_of_a_resumed_run(tmp_path):
    """What other settings may have trained is told, of all calls before; those of a folder without models not."""
    for steps in (1, 3):
        common.prepared(Settings(tmp_path, steps))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 2, "seconds": 1.0}) + "\n")
    for steps in (3, 4, 4, 5):
        config = common.prepared(Settings(tmp_path, steps))
    common.record(config, {})
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["settings"]["steps"] == 5
    assert found["earlier"] == [{"steps": 3}, {"steps": 4}]
    assert common.settings_of(tmp_path / "model" / "part")["steps"] == 5
    assert common.settings_of(tmp_path / "model" / "part" / "deeper") == {}


def test_digest_is_of_the_arrays():
    x = np.arange(6).reshape(2, 3)
    base = provenance.digest(Dataset(x, levels=6, name="a"))
    assert provenance.digest(Dataset(x.astype(np.int32), levels=6, name="b")) == base
    others = Dataset(x[::-1], levels=6), Dataset(x.reshape(3, 2), levels=6), Dataset(x, np.array([0, 1]), levels=6)
    assert len({base, *map(provenance.digest, others)}) == 4
    text = Sequences(x.ravel(), np.array([2, 4]), 6)
    assert provenance.digest(Windows(text, 2)) == provenance.digest(Windows(text, 3))
    assert provenance.digest(Windows(text, 2)) != provenance.digest(Windows(text, 2).take(slice(1)))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit.__wrapped__() is None, "no repository"
    (tmp_path / "file").write_text("a")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True)
    commit = provenance.commit.__wrapped__()
    assert head.startswith(commit)
    (tmp_path / "file").write_text("b")
    assert provenance.commit.__wrapped__() == f"{commit}-dirty"


def test_one_of_each():
    x = np.arange(30)[:, None]
    assert common.one_of_each(Dataset(x)).x[:, 0].tolist() == list(range(1, 30, 3))
    labels = np.array([7, 7, 2, 0, 2] * 6)
    assert common.one_of_each(Dataset(x, labels)).x[:, 0].tolist() == [3, 2, 0]
