"""What the experiments share: runs and smoke runs, scores on the test set, pictures of samples."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from tqdm import tqdm

import arjax
from arjax import data, plotting, training
from arjax.data import Bytes, Dataset, Sequences, Vocabulary, Windows
from arjax.layers.conditioning import num_classes
from arjax.likelihood import nats_to_bits_per_dim
from arjax.models import histogram
from arjax.models.histogram import Histogram
from experiments import provenance

Scores = TypeVar("Scores", bound=Mapping[str, Any])

Occlusion = tuple[float, float, float, float]
"""Top, bottom, left and right of a hidden rectangle, as fractions of the image."""
LOWER_HALF, CENTRE, RIGHT_HALF = (0.5, 1.0, 0.0, 1.0), (0.25, 0.75, 0.25, 0.75), (0.0, 1.0, 0.5, 1.0)
HIDDEN = (90, 130, 190)


def load(name: str, data_dir: str | None = None, *, smoke: bool = False) -> list[Dataset]:
    """The training, validation and test split of a data set; 64 examples of each for a smoke run."""
    splits = [data.load(name, split, data_dir=data_dir) for split in data.SPLITS]
    return [split.take(slice(64)) for split in splits] if smoke else splits


def fit(
    model: Any,
    config: Any,
    train: Dataset | Windows,
    valid: Dataset | Windows,
    directory: Path,
    *,
    optimizer: optax.GradientTransformation | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains or resumes a model; prints its size and returns its variables and the history.

    With the settings of `arjax.training.fit` that `config` has and those given here, which go before. By default
    the optimizer is `arjax.training.default_optimizer` with the `learning_rate` of `config`, and with its
    `weight_decay` if it has one.
    """
    names = ("steps", "batch_size", "eval_every", "ema_decay", "patience", "seed")
    settings = {name: getattr(config, name) for name in names if hasattr(config, name)} | settings
    if optimizer is None:
        weight_decay = getattr(config, "weight_decay", 0.0)
        optimizer = training.default_optimizer(config.learning_rate, settings["steps"], weight_decay=weight_decay)
    state, history = training.fit(model, optimizer, train, valid, directory=directory, **settings)
    print(f"{directory}: {sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters")
    return {"params": state.ema_params}, history


def nats_of_stages(
    model: Any, variables: Any, test: Dataset, *, conditional: bool = False, batch_size: int = 100
) -> dict[str, float]:
    """Mean negative log-likelihood of the test set, in nats, of each stage of a hierarchy."""

    @jax.jit
    def log_probs(x: Any, cond: Any) -> Any:
        return model.apply(variables, x, cond, method="log_probs")

    found = [
        log_probs(batch["x"], batch["label"] if conditional else None)
        for batch in data.epoch_batches(test, batch_size)
    ]
    return {
        name: float(np.concatenate([-np.asarray(each[name]) for each in found]).mean(dtype=np.float64))
        for name in found[0]
    }


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


def report(
    name: str,
    model: Any,
    variables: Any,
    history: list[dict[str, Any]],
    train: Dataset,
    test: Dataset,
    directory: Path,
    *,
    seed: int,
) -> dict[str, float]:
    """Prints the test scores of an image model, draws curves, samples and completions. Returns nats by model."""
    nats = {
        "per-position histogram": histogram_nats(train, test),
        name: test_nats(model, variables, test, conditional=num_classes(model) is not None),
    }
    print_scores(nats, test.event)
    baseline = nats_to_bits_per_dim(nats["per-position histogram"], test.event)
    plotting.curves(history, directory / "curves.png", ("histogram", baseline), event=test.event)
    draw_samples(model, variables, directory, test.event, seed=seed)
    draw_completions(model, variables, directory, test, seed=seed)
    print(f"\ncheckpoints, metrics.jsonl, curves.png, samples.png and completions.png are in {directory}")
    return nats


def draw_samples(model: Any, variables: Any, directory: Path, event: tuple[int, ...], *, seed: int) -> None:
    """Draws samples, ten of each class if the model has classes, through the cached sampler."""
    classes = num_classes(model)
    rows = classes or 10
    labels = None if classes is None else np.repeat(np.arange(rows), 10)
    samples = arjax.sample(model, variables, jax.random.key(seed), (10 * rows, *event), labels)
    names = None if labels is None else [str(i) for i in range(rows)]
    plotting.image_grid(
        samples, directory / "samples.png", levels=model.output.levels, columns=10, row_labels=names
    )


def draw_completions(
    model: Any,
    variables: Any,
    directory: Path,
    test: Dataset,
    *,
    seed: int,
    count: int = 8,
    occlusions: Sequence[Occlusion] = (LOWER_HALF,),
) -> None:
    """Draws a row for each image of `one_of_each`: it with a part hidden, `count` completions, the original.

    With several `occlusions` they stand side by side. What is hidden is blue.
    """
    images, (height, width, _) = one_of_each(test), test.event
    known = np.ones((len(occlusions), 1, height, width, 1), bool)
    for (mask,), (top, bottom, left, right) in zip(known, occlusions, strict=True):
        mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = False
    originals = images.x[:, None, None].astype(np.int32)
    shape = len(images), len(occlusions), count, *test.event
    evidence = [np.broadcast_to(array, shape).reshape(-1, *test.event) for array in (originals, known)]
    labels = images.labels
    if labels is not None:
        labels = None if num_classes(model) is None else np.repeat(labels, len(occlusions) * count)
    key = jax.random.key(seed)
    completions = arjax.sample(model, variables, key, evidence[0].shape, labels, evidence=tuple(evidence))

    levels = model.output.levels
    original = np.broadcast_to(originals * 255 // (levels - 1), (*shape[:2], 1, height, width, 3))
    completed = np.broadcast_to(np.asarray(completions).reshape(shape) * 255 // (levels - 1), (*shape[:-1], 3))
    gap = np.full_like(original, 255)
    row = np.concatenate([np.where(known, original, HIDDEN), completed, original, gap], 2)
    row = row.reshape(len(images), -1, height, width, 3)[:, :-1]
    plotting.image_grid(
        row.reshape(-1, height, width, 3), directory / "completions.png", levels=256, columns=row.shape[1]
    )


def one_of_each(dataset: Dataset) -> Dataset:
    """The first example of each class, ten at most; without labels the middles of ten equal parts.

    Of a file that goes by class, such as the binarized MNIST test set, these are again one of each.
    """
    if dataset.labels is None:
        return dataset.take((2 * np.arange(10) + 1) * len(dataset) // 20)
    return dataset.take(np.unique(dataset.labels, return_index=True)[1][:10])


def prepared(config: Any, **changes: Any) -> Any:
    """The configuration of a run: of a smoke run with `changes`, in a folder of its own.

    It is kept in that folder, as settings.json, with the other settings that earlier calls had there.
    """
    if config.smoke:
        config = dataclasses.replace(config, directory=config.directory / "smoke", **changes)
    config.directory.mkdir(parents=True, exist_ok=True)
    settings = _settings(config)
    earlier = _earlier(config.directory, settings)
    _write_json(config.directory / "settings.json", settings | ({"earlier": earlier} if earlier else {}))
    provenance.commit()  # of the code that runs now
    return config


def record(config: Any, scores: Scores, *splits: Any, directory: Path | None = None) -> Scores:
    """Leaves results.json, by which a table can say where its numbers come from. Returns the scores.

    It holds `settings`; `earlier`, what earlier calls in the folder had otherwise, which may have trained a part;
    `scores` as given; `training`, the steps and seconds of each model by its folder, of all resumptions; `data`,
    what `splits` are and their digests; and of the call that scored, which may only have resumed what older code
    trained, `command`, `commit`, `machine` and `versions`.

    Args:
        config: the configuration that `prepared` gave.
        scores: what the experiment returns, by name.
        splits: the data that the models were trained and tested on.
        directory: the folder of results.json and of all models; `config.directory` by default.
    """
    directory = config.directory if directory is None else directory
    started = (config.directory / "settings.json").stat().st_mtime_ns
    logs = [path for path in sorted(directory.rglob("metrics.jsonl")) if path.stat().st_mtime_ns >= started]
    lines = {path.parent.relative_to(directory): json.loads(path.read_text().splitlines()[-1]) for path in logs}
    settings = _settings(config)
    others = [
        {name: value for name, value in other.items() if settings.get(name) != value}
        for other in settings_of(config.directory).get("earlier", [])
    ]
    found = {
        "settings": settings,
        "earlier": list(filter(None, others)),
        "scores": scores,
        "training": {str(name): {key: line[key] for key in ("step", "seconds")} for name, line in lines.items()},
        "data": [provenance.describe(split) for split in splits],
        "command": provenance.command(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    if jax.process_index() == 0:
        _write_json(directory / "results.json", found)
    return scores


def settings_of(directory: Path) -> dict[str, Any]:
    """The settings that `prepared` kept of a run, in the folder of a model or one or two above; {} if none are."""
    for folder in (directory, *directory.absolute().parents[:2]):
        if (path := folder / "settings.json").is_file():
            return json.loads(path.read_text())
    return {}


def _settings(config: Any) -> dict[str, Any]:
    """As they come back from JSON."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return json.loads(json.dumps(settings, default=str))


def _earlier(directory: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The other settings of earlier calls in a folder, unless no model is there that one of them trained."""
    path = directory / "settings.json"
    if not path.is_file() or not any(directory.rglob("metrics.jsonl")):
        return []
    last = json.loads(path.read_text())
    calls = [*last.pop("earlier", []), last]
    return [other for i, other in enumerate(calls) if other != settings and other not in calls[:i]]


def _write_json(path: Path, value: Any) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")  # several processes may share the folder
    unfinished.write_text(json.dumps(value, indent=2, default=str) + "\n")
    unfinished.replace(path)


def keep_vocabulary(directory: Path, vocabulary: Vocabulary | Bytes) -> None:
    """Writes vocabulary.json, by which `experiments.use` knows the characters of a run."""
    if isinstance(vocabulary, Vocabulary):
        (directory / "vocabulary.json").write_text(json.dumps(vocabulary.symbols))


def report_positions(
    name: str,
    model: Any,
    variables: Any,
    history: list[dict[str, Any]],
    train: Windows,
    test: Windows,
    directory: Path,
    *,
    conditional: bool,
    batch_size: int = 8,
) -> dict[str, float]:
    """Prints the test scores of a position of sequences and draws curves. Returns nats by model."""
    batches = training.with_cond(data.epoch_batches(test, batch_size), conditional)
    nats = {
        "histogram of values": histogram_of_values(train.sequences, test.sequences),
        name: training.evaluate(model, variables["params"], batches)["bits_per_dim"] * math.log(2),
    }
    print_scores(nats, (1,))
    scored = np.mean([batch["scored"].sum(1).mean() for batch in data.epoch_batches(train, batch_size)])
    lines = [
        line | {"train_nats": line["train_nats"] / scored, "valid_nats": line["valid_bits_per_dim"] * math.log(2)}
        for line in history
    ]
    baseline = "histogram", nats["histogram of values"] / math.log(2)
    plotting.curves(lines, directory / "curves.png", baseline, event=(1,))
    return nats


def histogram_of_values(train: Sequences, test: Sequences) -> float:
    """Nats per position of the baseline that knows no past: one histogram of all values of the training set."""
    counts = np.bincount(train.x, minlength=train.levels) + 1.0  # as `histogram.count`, for any number of levels
    return float(-np.log(counts / counts.sum())[test.x].mean())


def stream(
    model: Any,
    variables: Any,
    key: jax.Array,
    shape: tuple[int, int],
    cond: Any = None,
    *,
    chunk: int,
    hop: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Samples of `shape`, `(batch, length)`, through `arjax.start` and `arjax.extend`, with a bar of progress.

    With `hop`, a divisor of `chunk`, `cond` is a series: a chunk gets its own frames, 0 beyond the last.
    """
    batch, length = shape
    starts = range(0, length, chunk)
    if hop is not None:
        cond = np.pad(cond, ((0, 0), (0, max(0, len(starts) * chunk // hop - cond.shape[1])), (0, 0)))

    def part(start: int, stop: int) -> Any:
        return cond if hop is None else cond[:, start // hop : stop // hop]

    state = arjax.start(model, variables, np.zeros((batch, 0), np.int32), part(0, 0))
    chunks = []
    for start in tqdm(starts, "sampling", unit="chunk", disable=None):
        noise = jax.random.uniform(jax.random.fold_in(key, start), (batch, chunk))
        state, x = arjax.extend(model, variables, state, noise, part(start, start + chunk), **options)
        chunks.append(np.asarray(x))
    return np.concatenate(chunks, 1)[:, :length]
