"""`experiments.use` on the folders that experiments leave: files in, files out, errors in one line."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tyro
from helpers import integers, random_variables
from PIL import Image

import arjax
from arjax import checkpoints, data
from arjax.distributions import Categorical
from arjax.models import MADE, RNN
from experiments import compression, digits, use

RATE = 2000


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    digits.main(digits.Config(directory=folder, smoke=True))
    return folder / "smoke"


def saved(folder, model, x, event):
    variables = random_variables(model, x)
    about = {"name": "noise", "event": event, "levels": model.output.levels}
    history = [{"step": 1, "valid_nats": 1.0}]
    checkpoints.save(folder, {"ema_params": variables["params"]}, history, model, about)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("text"), RNN(Categorical(3), features=3), integers(3, 1, 6), (6,))
    (folder / "vocabulary.json").write_text(json.dumps("ab\n"))
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "settings.json").write_text(json.dumps({"rate": RATE}))
    return saved(folder / "run", RNN(Categorical(256), features=3), integers(256, 1, 6), (6,))


def command(run, *args):
    use.main(tyro.cli(use.Config, args=[str(run), *map(str, args)]))


def test_images(images, tmp_path, capsys):
    npz, packed, again = (tmp_path / name for name in ("s.npz", "s.arjax", "again.npz"))
    command(images, "sample", npz, "--count", 12)
    x, labels = np.load(npz)["x"], np.load(npz)["label"]
    assert x.shape == (12, 8, 8, 1)
    assert labels.tolist() == [*range(10), 0, 1]
    command(images, "compress", npz, packed)
    command(images, "decompress", packed, again)
    np.testing.assert_array_equal(np.load(again)["x"], x)
    np.testing.assert_array_equal(np.load(again)["label"], labels)
    capsys.readouterr()
    command(images, "score", npz)
    model, variables = checkpoints.load(images)
    log_probs = np.asarray(arjax.log_prob(model, variables, x, labels))
    lines = capsys.readouterr().out.splitlines()
    assert [float(line.split()[1]) for line in lines[1:-1]] == pytest.approx(log_probs.tolist(), abs=1e-3)
    assert float(lines[-1].split()[1]) == pytest.approx(log_probs.mean(), abs=1e-3)
    command(images, "features", npz, tmp_path / "f.npz", "--size", 16)
    assert np.load(tmp_path / "f.npz")["features"].shape == (12, 16)


def test_pictures_come_back(images, tmp_path):
    """Levels of 17 to a PNG of 256 and back; several images are a folder."""
    x = np.arange(3 * 64).reshape(3, 8, 8, 1).astype(np.int32) % 17
    np.savez(tmp_path / "x.npz", x=x)
    run = use.open_run(images)
    use.write(run, tmp_path / "x.png", x)
    np.testing.assert_array_equal(use.read(run, tmp_path / "x")[0], x)
    np.testing.assert_array_equal(use.read(run, tmp_path / "x" / "00001.png")[0], x[1:2])
    Image.fromarray(x[0, ..., 0] > 8).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(use.read(run, tmp_path / "bits.png")[0], 16 * (x[:1] > 8))


def test_completions(images, tmp_path):
    x = integers(17, 2, 8, 8, 1)
    np.savez(tmp_path / "x.npz", x=x)
    command(
        images, "complete", tmp_path / "x.npz", tmp_path / "c.npz", "--label", 3, "--known", 0.25, "--count", 3
    )
    done = np.load(tmp_path / "c.npz")["x"].reshape(2, 3, 8, 8, 1)
    np.testing.assert_array_equal(done[:, :, :2], np.repeat(x[:, None, :2], 3, 1))
    assert (done[:, :, 2:] != x[:, None, 2:]).any()
    command(images, "complete", tmp_path / "x.npz", tmp_path / "c.png", "--label", 3)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 5 * 64


def test_text(text, tmp_path):
    command(text, "sample", tmp_path / "s.txt", "--count", 1, "--length", 300)
    written = (tmp_path / "s.txt").read_text()
    assert len(written) == 300
    command(text, "compress", tmp_path / "s.txt", tmp_path / "s.arjax")
    command(text, "decompress", tmp_path / "s.arjax", tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == written
    command(text, "complete", tmp_path / "s.txt", tmp_path / "c.txt", "--count", 1, "--known", 0.1, "--length", 40)
    completed = (tmp_path / "c.txt").read_text()
    assert len(completed) == 40
    assert completed[:30] == written[:30]


def test_sounds(sounds, tmp_path):
    command(sounds, "sample", tmp_path / "s.wav", "--count", 1, "--length", 200)
    wave = data.read_audio(tmp_path / "s.wav", RATE)
    assert len(wave) == 200
    command(sounds, "compress", tmp_path / "s.wav", tmp_path / "s.arjax")
    command(sounds, "decompress", tmp_path / "s.arjax", tmp_path / "again.wav")
    np.testing.assert_array_equal(data.read_audio(tmp_path / "again.wav", RATE), wave)


def test_other_events(tmp_path):
    """Of what is neither an image nor a sequence without end, integers as npz."""
    run = saved(tmp_path, MADE((5,), hidden=(4,)), integers(2, 1, 5), (5,))
    command(run, "sample", tmp_path / "s.npz", "--count", 3)
    assert np.load(tmp_path / "s.npz")["x"].shape == (3, 5)
    with pytest.raises(ValueError, match=r"s\.wav: a file of npz is wanted"):
        command(run, "sample", tmp_path / "s.wav")


def test_errors(images, text, tmp_path):
    np.savez(tmp_path / "x.npz", x=integers(17, 2, 8, 8, 1))
    np.savez(tmp_path / "y.npz", y=integers(17, 2, 8, 8, 1))
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    for args, message in [
        ((images, "score", tmp_path / "x.npz"), r"has classes 0\.\.9: --label or an npz with label is wanted"),
        ((images, "score", tmp_path / "y.npz"), "an array x is wanted, got y"),
        ((images, "score", tmp_path / "wide.png"), r"images of shape \(8, 8, 1\) are wanted, got \(8, 9, 1\)"),
        ((images, "complete", tmp_path / "x.npz", "c.npz", "--known", 2), "--known: a part of 0 to 1 .* got 2"),
        ((text, "score", tmp_path / "wide.png"), r"wide\.png: a file of txt or npz is wanted"),
    ]:
        with pytest.raises(ValueError, match=message):
            command(*args)
    with pytest.raises(FileNotFoundError, match=r"no file nothing\.png"):
        command(images, "score", "nothing.png")
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint in \S+, wanted one of {images}"):
        command(images.parent, "score", "nothing.png")
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        command("nowhere", "score", "nothing.png")


def test_help_and_errors_of_the_program(tmp_path):
    def run(*args):
        program = [sys.executable, "-m", "experiments.use", *map(str, args)]
        return subprocess.run(program, capture_output=True, text=True)

    helped = run("--help")
    assert helped.returncode == 0
    for name in ("sample", "complete", "score", "compress", "decompress", "features"):
        assert name in helped.stdout
    failed = run(tmp_path, "score", "x.npz")
    assert failed.returncode == 1
    assert failed.stderr.strip().startswith("error: no checkpoint in")
    assert failed.stderr.count("\n") == 1


def test_compression_table(images, tmp_path):
    config = compression.Config(directory=tmp_path, mnist=False, runs=(images,), smoke=True)
    row = compression.main(config)["digits"]
    assert row["events"] == 6
    assert row["-log2 p"] < row["range coder"] + 1 < row["file"]
    assert min(row[name] for name in ("zlib", "xz", "PNG", "WebP", "compress seconds")) > 0
    assert json.loads((tmp_path / "smoke" / "results.json").read_text())["scores"]["digits"] == row
    settings = json.loads((tmp_path / "smoke" / "settings.json").read_text())
    assert settings == json.loads(json.dumps(dataclasses.asdict(config), default=str)) | {
        "directory": str(tmp_path / "smoke"),
        "features": 4,
        "num_layers": 1,
        "num_mixtures": 2,
        "steps": 2,
        "eval_every": 1,
        "events": 6,
        "lanes": 4,
    }


def test_flac_of_all_levels():
    wave = np.tile(np.arange(0, 65_536, 64), (2, 1))
    for levels in (256, 65_536):
        task = compression.Task("sounds", None, None, wave * levels // 65_536, levels, rate=8000)
        sizes = compression.others(task)
        assert set(sizes) == {"zlib", "xz", "FLAC"}
        assert 0 < sizes["FLAC"] < 2 * wave.size * 2
