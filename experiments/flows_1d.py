"""Densities in one dimension: a learned mixture as a flow, beside expectation-maximisation.

Command: python -m experiments.flows_1d   (about 10 seconds on 2 CPU cores)

A mixture's CDF takes data to uniform numbers, and its derivative is the density: a flow of one dimension. Expect
these mean negative log-likelihoods in nats on the test set.

    true                        2.0995
    expectation-maximisation    2.1052
    learned mixture             2.1021

The picture runs/flows_1d/densities.png has the data and the densities, the learned CDF, and the data pushed to
uniform numbers.
"""

import dataclasses
import math
from pathlib import Path

import flax.linen as nn
import numpy as np
import tyro
from sklearn.mixture import GaussianMixture

import arjax
from arjax import plotting
from arjax.continuous import Mixture, Normal
from arjax.data import Dataset
from arjax.models import Histogram
from experiments import common

WEIGHTS, MEANS, SCALES = (0.3, 0.5, 0.2), (-3.0, 0.5, 4.0), (0.4, 1.2, 0.7)
"""The truth: a mixture of three normal distributions."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/flows_1d")
    """Where checkpoints, metrics and pictures go."""
    draws: int = 2000
    """Training examples; a quarter as many choose the best state, as many again are the test."""
    num_mixtures: int = 5
    """Components of the learned mixture and of expectation-maximisation's."""
    steps: int = 1500
    """Updates."""
    learning_rate: float = 2e-2
    """Peak of the schedule."""
    seed: int = 0
    """Seed of everything random."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains, scores and draws. Returns test nats by model."""
    config = common.prepared(config, draws=200, steps=4)
    rng = np.random.default_rng(config.seed)
    train, valid, test = (
        Dataset(draw(rng, n), levels=None, name="three normals", split=split)
        for n, split in ((config.draws, "train"), (config.draws // 4, "valid"), (config.draws, "test"))
    )
    model = Histogram((1,), Mixture(Normal(), config.num_mixtures), nn.initializers.normal(1.0))
    variables, _ = common.fit(
        model,
        config,
        train,
        valid,
        config.directory,
        batch_size=len(train) // 2,
        eval_every=max(1, config.steps // 10),
        ema_decay=0.9,
    )
    fitted = GaussianMixture(config.num_mixtures, random_state=config.seed).fit(train.x)
    nats = {
        "true": float(-true_log_density(test.x[:, 0]).mean()),
        "expectation-maximisation": float(-fitted.score(test.x)),
        "learned mixture": common.test_nats(model, variables, test),
    }
    for name, value in nats.items():
        print(f"{name:32}{value:10.4f}")
    picture(model, variables, fitted, test.x[:, 0], config.directory / "densities.png")
    return common.record(config, nats, train, valid, test)


def draw(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws from the truth, `(n, 1)`."""
    component = rng.choice(3, n, p=WEIGHTS)
    return (np.array(MEANS)[component] + np.array(SCALES)[component] * rng.normal(size=n))[:, None]


def true_log_density(x: np.ndarray) -> np.ndarray:
    """The logarithm of the truth's density."""
    z = (x[:, None] - np.array(MEANS)) / np.array(SCALES)
    return np.logaddexp.reduce(np.log(WEIGHTS) - np.log(SCALES) - 0.5 * z**2 - 0.5 * math.log(2 * math.pi), 1)


def picture(model: Histogram, variables: dict, fitted: GaussianMixture, x: np.ndarray, path: Path) -> None:
    """The densities, the learned CDF, and the data pushed through it."""
    axis = np.linspace(x.min() - 1, x.max() + 1, 400, dtype=np.float32)

    def cdf(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)[:, None]
        return np.exp(model.output.log_cdf(model.apply(variables, values), values))[:, 0]

    canvas = plotting.figure(12, 3.4)
    densities, masses, uniform = canvas.subplots(1, 3)
    densities.hist(x, 60, density=True, color="0.85")
    densities.plot(axis, np.exp(true_log_density(axis)), "k:", label="true")
    densities.plot(axis, np.exp(fitted.score_samples(axis[:, None])), label="expectation-maximisation")
    densities.plot(axis, np.exp(arjax.log_prob(model, variables, axis[:, None])), label="learned")
    densities.set(title="density", xlabel="x")
    densities.legend(frameon=False, fontsize=8)
    masses.plot(axis, cdf(axis))
    masses.set(title="learned CDF", xlabel="x")
    uniform.hist(cdf(x), 30, range=(0, 1), density=True, color="0.6")
    uniform.axhline(1, color="k", linestyle=":")
    uniform.set(title="data pushed through it", xlabel="CDF(x)")
    plotting.save(canvas, path)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
