"""Anomaly detection: four scores of a Gated PixelCNN on images of another kind, the known failure among them.

Command: python -m experiments.anomaly   (4 minutes on a shared CPU core)
         python -m experiments.anomaly --data fashion --data-dir DATA

A model and a background model (Ren et al., 2019) are trained, then AUROC of the scores of `arjax.anomaly` is
measured: how often an image of another kind has a higher score than one of the test set. 0.5 is chance; below it,
the score takes the foreign images for the better ones, which the likelihood itself is known to do.

`digits`: scikit-learn's 8x8 digits against their negatives and against constant images:

                        likelihood       ratio  complexity  typicality
    negatives                1.000       0.998       1.000       1.000
    constant images          0.934       0.897       1.000       0.995

The likelihood fails on the black images alone: they have 1.31 bits/dim where digits have 1.80 in the mean.

`fashion`: Fashion-MNIST (Debian's package `dataset-fashion-mnist` has the original files) against MNIST and, if it
is in the data folder, notMNIST (15 minutes on one CPU core). Published for PixelCNN++ and MNIST: likelihood 0.089,
ratio 0.97 (Ren et al.), complexity 0.97 (Serra et al.).

                        likelihood       ratio  complexity  typicality
    MNIST                    0.038       0.782       0.983       0.916

MNIST has 1.63 bits/dim where Fashion-MNIST has 3.32.

The background model sees each pixel replaced by noise with probability `rate`, drawn once, before training.
Neither this rate nor anything else was tuned on foreign images. The folder holds both models, histograms.png
(negative log-likelihoods in bits/dim, and the ratio) and results.json.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from sklearn.metrics import roc_auc_score

import arjax
from arjax import anomaly, data, plotting
from arjax.data import Dataset
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.likelihood import nats_to_bits_per_dim
from arjax.models import GatedPixelCNN
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/anomaly")
    """Where models, pictures and the table go, in a subfolder of the data's name."""
    data: Literal["digits", "fashion"] = "digits"
    """What the models are trained on."""
    data_dir: str | None = None
    """Where MNIST's and notMNIST's files are; default $ARJAX_DATA_DIR."""
    fashion_dir: Path = Path("/usr/share/datasets/fashion-mnist")
    """Where the idx files of Fashion-MNIST are."""
    rate: float = 0.2
    """Part of the pixels that are replaced by noise for the background model."""
    features: int = 32
    """Channels of each stack."""
    num_layers: int = 5
    """Gated layers."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    batch_size: int = 32
    """Examples per step."""
    steps: int = 800
    """Updates of each model."""
    eval_every: int = 200
    """Steps between evaluations on 1,000 examples of the validation set."""
    events: int = 2000
    """Examples at most of each set that is scored."""
    seed: int = 0
    """Seed of initialisation, data order and noise."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def load(config: Config) -> tuple[list[Dataset], dict[str, np.ndarray]]:
    """The splits of the data that are known, and images of other kinds by name."""
    if config.data == "digits":
        splits = common.load("digits", smoke=config.smoke)
        test = splits[2].x
        constant = np.random.default_rng(config.seed).integers(0, 17, (len(test), 1, 1, 1))
        return splits, {"negatives": 16 - test, "constant images": np.broadcast_to(constant, test.shape)}
    splits = common.load("mnist", str(config.fashion_dir), smoke=config.smoke)
    splits = [dataclasses.replace(split, name="fashion_mnist") for split in splits]
    foreign = {"MNIST": data.load("mnist", "test", data_dir=config.data_dir).x}
    folder = Path(config.data_dir or ".") / "notmnist"
    if folder.is_dir():
        foreign["notMNIST"] = data.load("mnist", "test", data_dir=folder).x
    return splits, foreign


def fit(model: Any, train: Dataset, valid: Dataset, directory: Path, config: Config) -> dict[str, Any]:
    """The variables of a model, trained or resumed."""
    variables, history = common.fit(model, config, train, valid.take(slice(1000)), directory, ema_decay=0.99)
    plotting.curves(history, directory / "curves.png", event=train.event)
    return variables


def log_probs(model: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    """Log-probabilities in nats, a hundred examples at a time."""
    parts = [arjax.log_prob(model, variables, x[i : i + 100]) for i in range(0, len(x), 100)]
    return np.concatenate([np.asarray(part) for part in parts])


def draw(path: Path, panels: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws histograms of scores, a panel for each score."""
    figure = plotting.figure(4.2 * len(panels), 3)
    for i, (name, scores) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), i)
        bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), 50)
        for label, values in scores.items():
            axes.hist(values, bins, density=True, alpha=0.55, label=label)
        axes.set_xlabel(name)
        axes.set_yticks([])
    axes.legend(frameon=False)
    plotting.save(figure, path)


def main(config: Config) -> dict[str, dict[str, float]]:
    """Trains or resumes, scores, draws. Returns AUROC by foreign set and score."""
    config = common.prepared(config, features=4, num_layers=1, steps=2, eval_every=1, events=20)
    directory = config.directory / config.data
    (train, valid, test), foreign = load(config)
    output: Any = Categorical(17) if config.data == "digits" else DiscretizedLogisticMixture(5, 256)
    model = GatedPixelCNN(
        output, features=config.features, num_layers=config.num_layers, head_features=2 * config.features
    )
    noisy_train, noisy_valid = [
        dataclasses.replace(
            split, x=np.asarray(anomaly.mutate(jax.random.key(i), split.x, split.levels, config.rate))
        )
        for i, split in enumerate((train, valid))
    ]
    variables = fit(model, train, valid, directory / "model", config)
    background = fit(model, noisy_train, noisy_valid, directory / "background", config)

    name = "Fashion-MNIST" if config.data == "fashion" else "digits"
    sets = {name: test.x, **foreign}
    sets = {label: x[: config.events].astype(np.int32) for label, x in sets.items()}
    typical = log_probs(model, variables, valid.x[: config.events].astype(np.int32))
    scores: dict[str, dict[str, np.ndarray]] = {}
    for label, x in sets.items():
        own = log_probs(model, variables, x)
        scores[label] = {
            "likelihood": anomaly.negative_log_likelihood(own),
            "ratio": anomaly.likelihood_ratio(own, log_probs(model, background, x)),
            "complexity": anomaly.input_complexity(own, x),
            "typicality": anomaly.typicality(own, typical),
        }
    results = {}
    print(f"\n{'AUROC against ' + name:32}" + "".join(f"{score:>12}" for score in scores[name]))
    for label in foreign:
        truth = np.repeat([False, True], [len(sets[name]), len(sets[label])])
        results[label] = {
            score: float(roc_auc_score(truth, np.concatenate([scores[name][score], scores[label][score]])))
            for score in scores[name]
        }
        print(f"{label:32}" + "".join(f"{value:12.3f}" for value in results[label].values()))
    panels = {
        "negative log-likelihood, bits/dim": {
            label: nats_to_bits_per_dim(own["likelihood"], test.event) for label, own in scores.items()
        },
        "likelihood ratio, nats": {label: own["ratio"] for label, own in scores.items()},
    }
    draw(directory / "histograms.png", panels)
    for label, own in panels["negative log-likelihood, bits/dim"].items():
        print(f"{label:32}{own.mean():8.3f} bits/dim")
    print(f"\nmodels, histograms.png and results.json are in {directory}")
    return common.record(config, results, train, valid, test, directory=directory)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
