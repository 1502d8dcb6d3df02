"""What the experiments share: data shrunk for a smoke run, scores on the test set, pictures of samples."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import arjax
from arjax import data, plotting
from arjax.data import Dataset
from arjax.likelihood import nats_to_bits_per_dim
from arjax.models import histogram
from arjax.models.histogram import Histogram


def load(name: str, data_dir: str | None = None, *, smoke: bool = False) -> list[Dataset]:
    """The training, validation and test split of a data set; 64 examples of each for a smoke run."""
    splits = [data.load(name, split, data_dir=data_dir) for split in data.SPLITS]
    return [split.take(slice(64)) for split in splits] if smoke else splits


def test_nats(model: Any, variables: Any, test: Dataset, *, conditional: bool = False) -> float:
    """Mean negative log-likelihood of the test set, in nats per example."""
    nats = [
        -np.asarray(arjax.log_prob(model, variables, batch["x"], batch["label"] if conditional else None))
        for batch in data.epoch_batches(test, 100)
    ]
    return float(np.concatenate(nats).mean(dtype=np.float64))


def histogram_nats(train: Dataset, test: Dataset) -> float:
    """The baseline that every model has to beat: a histogram per position, counted on the training set."""
    model = Histogram(train.event, arjax.distributions.Categorical(train.levels))
    return test_nats(model, histogram.count(train.x, train.levels), test)


def print_scores(nats: Mapping[str, float], event: tuple[int, ...]) -> None:
    """Prints nats per example and bits/dim of each named model."""
    print(f"\n{'test set':32}{'nats':>10}{'bits/dim':>10}")
    for name, value in nats.items():
        print(f"{name:32}{value:10.2f}{nats_to_bits_per_dim(value, event):10.3f}")


def draw_samples(model: Any, variables: Any, directory: Path, event: tuple[int, ...], *, seed: int) -> None:
    """Draws samples, ten of each class if the model has classes, through the cached sampler."""
    rows = model.num_classes or 10
    labels = None if model.num_classes is None else np.repeat(np.arange(rows), 10)
    samples = arjax.sample(model, variables, jax.random.key(seed), (10 * rows, *event), labels)
    names = None if labels is None else [str(i) for i in range(rows)]
    plotting.image_grid(
        samples, directory / "samples.png", levels=model.output.levels, columns=10, row_labels=names
    )


def draw_completions(
    model: Any, variables: Any, directory: Path, test: Dataset, *, seed: int, count: int = 8
) -> None:
    """Draws for ten test images the original, its upper half, and `count` completions of the lower half."""
    chosen = (
        [np.flatnonzero(test.labels == i % (test.num_classes or 1)) for i in range(10)]
        if (test.labels is not None)
        else [np.arange(i * len(test) // 10, len(test)) for i in range(10)]
    )
    index = np.array([c[0] if len(c) else i for i, c in enumerate(chosen)])
    originals = test.x[index].astype(np.int32)
    values = np.repeat(originals, count, 0)
    known = np.zeros(values.shape, bool)
    known[:, : values.shape[1] // 2] = True
    labels = None if model.num_classes is None or test.labels is None else np.repeat(test.labels[index], count)
    completions = arjax.sample(
        model, variables, jax.random.key(seed), values.shape, labels, evidence=(values, known)
    )
    halves = np.where(known[::count], originals, model.output.levels // 3)
    rows = [originals[:, None], halves[:, None], np.asarray(completions).reshape(10, count, *test.event)]
    plotting.image_grid(
        np.concatenate(rows, 1).reshape(-1, *test.event),
        directory / "completions.png",
        levels=model.output.levels,
        columns=count + 2,
    )


def shrunk(config: Any, **changes: Any) -> Any:
    """The configuration of a smoke run, in a folder of its own."""
    return dataclasses.replace(config, directory=config.directory / "smoke", **changes) if config.smoke else config
