"""Every experiment runs through with `smoke=True`, and `python -m experiments` lists it."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import toys


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


CHECKS = {
    "toys": check_toys,
    "digits": check_scores,
    "own_network": check_scores,
    "made_mnist": check_scores,
    "gated_pixelcnn_mnist": check_scores,
}
"""Experiments by name, each with a check of what its `main` returns."""


@pytest.mark.parametrize("name", CHECKS)
def test_smoke(name, tmp_path, monkeypatch):
    for split in ("train", "valid", "test"):
        rows = np.random.default_rng(0).integers(0, 2, (64, 784))
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        (tmp_path / f"binarized_mnist_{split}.amat").write_text(text)
    monkeypatch.setenv("ARJAX_DATA_DIR", str(tmp_path))
    experiment = importlib.import_module(f"experiments.{name}")
    CHECKS[name](experiment.main(experiment.Config(smoke=True, directory=tmp_path / "run")))
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as image:
            image.verify()


def test_listing():
    command = [sys.executable, "-m", "experiments"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in CHECKS:
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
