"""The trained models of the package: they are what their cards say, and nothing else is let in."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_variables

from arjax import checkpoints, data, pretrained
from arjax.distributions import Categorical
from arjax.models import MADE, RNN
from arjax.modules import init
from arjax.pretrained import __main__ as command
from experiments import export, provenance

NAMES = pretrained.names()


def test_they_are_small():
    assert "digits" in NAMES
    assert sum((pretrained.FOLDER / f"{name}.npz").stat().st_size for name in NAMES) <= 3e6


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    (model, variables), card = pretrained.load(name), pretrained.about(name)
    example = jnp.zeros((1, *card.event), jnp.int32)
    cond = None if getattr(model, "conditioning", None) is None else jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), example, cond))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, np.dtype(np.float32)), shapes
    )
    assert card.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert re.fullmatch(r"python -m experiments\.\w+( [^/]+)?", card.command)
    assert re.fullmatch("[0-9a-f]{7,40}", card.commit)
    assert re.fullmatch("[0-9a-f]{64}", card.digest)
    assert [split["split"] for split in card.data] == ["train", "valid", "test"]
    assert card.unit == ("example" if card.symbols is None else "character")
    assert card.symbols is None or data.Vocabulary(card.symbols).levels == model.output.levels
    assert card.part_nats == pytest.approx(card.nats, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_score(name):
    card = pretrained.about(name)
    *_, tested = card.data
    try:
        test = export.load(tested["name"], text=card.symbols is not None)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    if provenance.describe(test) != tested:
        assert name != "digits"
        pytest.skip(f"{tested['name']} is there in another order")
    part = export.part(test)
    assert len(part.x) == card.part_size
    assert export.nats(*pretrained.load(name), part) == pytest.approx(card.part_nats, rel=1e-3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Another place of the files, empty."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", ["a byte", "the end", "a parameter", "the card", "the network", "no card"])
def test_a_damaged_file_is_refused(damage, tmp_path, monkeypatch):
    path = shutil.copy(pretrained.FOLDER / "digits.npz", tmp_path / "digits.npz")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.load("digits")
    if damage in ("a byte", "the end"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "a byte" else content[:-100])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        record = json.loads(arrays.pop("record").tobytes())
        if damage == "a parameter":
            next(iter(arrays.values())).flat[0] += 1
        elif damage == "the card":
            record["nats"] -= 1
        elif damage == "the network":
            record["model"]["fields"]["features"] += 1
        kept = {} if damage == "no card" else {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
        np.savez_compressed(path, **kept, **arrays)
    for function in (pretrained.load, pretrained.about):
        with pytest.raises(ValueError, match=r"digits\.npz is damaged, wanted it as installed") as error:
            function("digits")
        assert "\n" not in str(error.value)


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"^no pretrained model '\.\./digits', wanted .*digits"):
        pretrained.load("../digits")


def test_the_command(capsys):
    command.main()
    written = capsys.readouterr().out
    assert "█" in written
    for name in NAMES:
        card = pretrained.about(name)
        assert re.search(rf"\n{name} .* {card.parameters:,} .* {card.nats:.3f} per {card.unit}\n", written)
        drawn, total = re.search(rf"\n{name}: drawn .* gives (\d+) of (\d+) back\n", written).groups()
        assert 0.99 * int(total) <= int(drawn) <= int(total)


def test_the_command_finds_a_sampler_that_is_wrong(monkeypatch):
    monkeypatch.setattr(pretrained, "names", lambda: ["digits"])
    monkeypatch.setattr(command.arjax, "sample_from_noise", lambda model, variables, noise, cond: 0 * noise)
    with pytest.raises(SystemExit, match=r"^error: the samples of digits are not those of their noise$"):
        command.main()


def test_pictures():
    grey = np.array([[[0, 16], [4, 8]], [[12, 0], [0, 0]], [[16, 16], [0, 16]]])
    assert command.picture(grey, 17, width=10) == "  ██ ▓▓  \n░░▒▒     \n\n████\n  ██"
    bits = np.array([[[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]]])
    assert command.picture(bits, 2) == " ▀▄█\n▀ ▀ "
    assert command.text(np.array([1, 2, 0]), "a\nb") == "    \n    ba".replace("    \n", "\n")


@pytest.fixture
def run(tmp_path):
    """Saves a network as a run does; the test set is that of scikit-learn's digits, or of a text."""

    def save(model, splits, event):
        variables = random_variables(model, np.zeros((1, *event), np.int32))
        about = {"name": splits[0].name, "event": event, "levels": model.output.levels}
        history = [{"step": 1, "valid_nats": 1.0}]
        checkpoints.save(tmp_path / "run/net", {"ema_params": variables["params"]}, history, model, about)
        results = {
            "scores": {"net": export.nats(model, variables, splits[-1])},
            "data": [provenance.describe(split) for split in splits],
            "command": "python -m experiments.some --steps 3 --directory /here --data-dir=/there --seed 1",
            "commit": "1234567",
        }
        (tmp_path / "run/results.json").write_text(json.dumps(results))
        return tmp_path / "run/net", variables

    return save


def digits():
    return MADE((8, 8, 1), Categorical(17), hidden=(4,)), [data.load("digits", split) for split in data.SPLITS]


def test_export(run, folder, capsys):
    model, splits = digits()
    directory, variables = run(model, splits, (8, 8, 1))
    path = export.main(export.Config(directory, "small", "net"))
    assert [file.name for file in folder.glob("small*")] == ["small.npz"]
    assert path == folder / "small.npz"
    assert str(path) in capsys.readouterr().out
    loaded, kept = pretrained.load("small")
    assert loaded == model
    for leaf, original in zip(jax.tree.leaves(kept), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(leaf, original.astype(np.float16).astype(np.float32))
    card = pretrained.about("small")
    assert card.command == "python -m experiments.some --steps 3 --seed 1"
    assert card.nats == export.nats(loaded, kept, splits[-1])
    assert card.part_nats == card.nats
    assert (card.part_size, card.event, card.symbols, card.unit) == (397, [8, 8, 1], None, "example")


def test_export_of_a_text(run, folder):
    text = folder / "text.txt"
    text.write_text("to be, or not to be\n" * 40)
    loaded = [data.load_text(text, split) for split in data.SPLITS]
    splits, vocabulary = [split for split, _ in loaded], loaded[0][1]
    directory, _ = run(RNN(Categorical(vocabulary.levels), features=3), splits, (8,))
    (directory / "vocabulary.json").write_text(json.dumps(vocabulary.symbols))
    export.main(export.Config(directory, "text", "net"))
    card = pretrained.about("text")
    assert (card.symbols, card.unit, card.part_size) == (vocabulary.symbols, "character", len(splits[-1].x))
    assert card.part_nats == card.nats < 10


def test_export_refuses(run, folder):
    model, splits = digits()
    other = [*splits[:2], splits[2].take(slice(9))]
    directory, _ = run(model, splits, (8, 8, 1))
    path = directory.parent / "results.json"
    results = json.loads(path.read_text())
    for changes, message in [
        ({"scores": {"net": 1.0}}, r"the rounded parameters score \d+\.\d{4} nats, wanted 1\.0000, as in results"),
        ({"scores": {"a": 1.0, "b": 1.0}}, r"--score: one of a, b is wanted, got net"),
        ({"commit": "1234567-dirty"}, r"results\.json is of commit 1234567-dirty, wanted a clean one"),
        ({"data": [provenance.describe(split) for split in other]}, r"the test set is .*, wanted that of the run"),
    ]:
        path.write_text(json.dumps(results | changes))
        with pytest.raises(ValueError, match=f"^{message}"):
            export.main(export.Config(directory, "small", "net"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"^no results\.json in .*, wanted that of a finished run$"):
        export.main(export.Config(directory, "small", "net"))
    assert not list(folder.glob("small*"))


def test_parts():
    noise = data.Dataset(np.arange(1300)[:, None] % 7, levels=7)
    assert export.part(noise).x[:, 0].tolist() == [i % 7 for i in range(0, 1300, 4)]
    text = data.Sequences(np.arange(30_000) % 5, [30_000], 5)
    assert export.part(text).lengths.tolist() == [20_000]
