"""Learned histograms in 1-D and the chain rule in 2-D, against the true distributions, with pictures.

Command: python -m experiments.toys   (about 40 seconds on 2 CPU cores)

Expect these mean negative log-likelihoods in nats; "expected" is exact, the mean under the true distribution.
The histogram reaches the entropy of its training data, 2.448 and 4.038 for the course's two sets.

    dset1              train      test  expected
      true            2.4575    2.5397    2.4897
      histogram       2.4483    2.5437    2.5005
      mixture         2.4563    2.5460    2.4942
    warm-up
      true            4.0431    4.0315    4.0558
      histogram       4.0378    4.0324    4.0613
      mixture         4.0457    4.0326    4.0603
    galaxy
      true            6.0825    6.0914    6.0868
      chain           6.0824    6.1007    6.0968
      edge dropped    7.0201    7.0329    7.0250

Dropping the edge costs 0.928: the mutual information of x1 and x2, 0.937, less the error of the chain's own
estimate. The pictures are runs/toys/{dset1,warm-up,galaxy}.png.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from jax.typing import DTypeLike

import arjax
from arjax import data, plotting, training
from arjax.data import Dataset
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.models import ChainRule, Histogram
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/toys")
    """Where checkpoints, metrics and pictures go."""
    steps: int = 1500
    """Updates of each model."""
    batch_size: int = 800
    """Examples per update."""
    draws: int = 80_000
    """Training examples of the 2-D table; an eighth as many choose the best state, a quarter are the test."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers of each 2-D conditional."""
    seed: int = 0
    """Seed of everything random but the 1-D data, which are the course's."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


@dataclasses.dataclass(frozen=True)
class Toy:
    """A known distribution, draws from it, and models to fit to them.

    Attributes:
        true: probabilities of all events, one axis of `levels` per variable.
        train: integers `(n, true.ndim)`.
        valid: what chooses the best state.
        test: what nothing is chosen by.
        models: by name.
        learning_rate: peak of the schedule.
    """

    true: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    models: dict[str, Any]
    learning_rate: float


def dset1() -> Toy:
    """Data set 1 of CS294-158's first homework, 2020 to 2024: 1,000 draws of N(0.2, 0.2) on 20 levels."""
    values = 0.2 + 0.2 * np.random.RandomState(0).randn(1000)
    return _one_variable(values, np.linspace(0, 1, 20)[:-1], [(0.2, 0.2)])


def warm_up() -> Toy:
    """The warm-up of its edition of 2019: 10,000 draws of N(0.3, 0.1) or N(0.8, 0.05) on 100 levels."""
    rng = np.random.RandomState(0)
    low, high = 0.3 + 0.1 * rng.randn(10_000), 0.8 + 0.05 * rng.randn(10_000)
    edges = np.linspace(0, 1, 100)[:-1]
    edges[0] = -np.inf  # the course clips values to [0, 1], so none is below the first edge
    return _one_variable(np.where(rng.rand(10_000) < 0.5, low, high), edges, [(0.3, 0.1), (0.8, 0.05)])


def _one_variable(values: np.ndarray, edges: np.ndarray, normals: list[tuple[float, float]]) -> Toy:
    """Draws from an even mixture of normals `(mean, deviation)`; a level is the number of edges not above."""
    levels = len(edges) + 1
    x = np.digitize(values, edges)[:, None]
    cdf = np.mean([[(1 + math.erf((e - m) / s / math.sqrt(2))) / 2 for e in edges] for m, s in normals], 0)
    train, test = np.split(x, [len(x) * 4 // 5])
    models = {
        "histogram": Histogram((1,), Categorical(levels)),
        "mixture": Histogram((1,), DiscretizedLogisticMixture(4, levels), kernel_init=spread),
    }
    return Toy(np.diff(cdf, prepend=0, append=1), train, train, test, models, learning_rate=0.1)


def spread(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Initial parameters of a mixture: equal weights, the means spread over the range, scales to match."""
    num_mixtures = shape[-1] // 3
    means = (2 * jnp.arange(num_mixtures, dtype=dtype) + 1) / num_mixtures - 1
    log_scales = jnp.full_like(means, -math.log(num_mixtures))
    return jnp.broadcast_to(jnp.concatenate([jnp.zeros_like(means), means, log_scales]), shape)


def galaxy(draws: int, hidden: tuple[int, ...], seed: int) -> Toy:
    """Two spiral arms on 50x50 cells; one model has the edge from x1 to x2, the other has dropped it."""
    levels = 50
    x1, x2 = np.meshgrid(*[(np.arange(levels) + 0.5) / levels * 2 - 1] * 2, indexing="ij")
    radius, angle = np.hypot(x1, x2), np.arctan2(x2, x1)
    density = np.exp(6 * np.cos(2 * angle - 9 * radius) - ((radius - 0.45) / 0.22) ** 2 / 2)
    true = density / density.sum()
    ends = np.cumsum([draws, draws // 8, draws // 4])
    cells = np.random.default_rng(seed).choice(true.size, ends[-1], p=true.ravel())
    train, valid, test = np.split(np.stack(np.unravel_index(cells, true.shape), 1), ends[:-1])
    models = {
        "chain": ChainRule(2, Categorical(levels), hidden),
        "edge dropped": ChainRule(2, Categorical(levels), hidden, parents=((), ())),
    }
    return Toy(true, train, valid, test, models, learning_rate=3e-3)


def fit(toy: Toy, model: Any, directory: Path, config: Config) -> dict[str, Any]:
    """The variables of `model`, trained on `toy`."""
    train, valid = (Dataset(x, levels=len(toy.true), name=directory.name) for x in (toy.train, toy.valid))
    state, _ = training.fit(
        model,
        training.default_optimizer(toy.learning_rate, config.steps),
        train,
        valid,
        directory=directory,
        steps=config.steps,
        batch_size=config.batch_size,
        eval_every=math.ceil(config.steps / 5),
        seed=config.seed,
        ema_decay=0.99,
        progress=False,
    )
    return {"params": state.ema_params}


def log_prob_table(model: Any, variables: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The log-probabilities of all events, in an array of `shape`."""
    events = jnp.asarray(np.argwhere(np.ones(shape)))
    return np.asarray(arjax.log_prob(model, variables, events), np.float64).reshape(shape)


def score(toy: Toy, table: np.ndarray) -> dict[str, float]:
    """Mean negative log-likelihood in nats: of the data, and expected under the true distribution."""
    means = {part: -table[tuple(getattr(toy, part).T)].mean() for part in ("train", "test")}
    return {**means, "expected": -(toy.true * table).sum()}


def mutual_information(table: np.ndarray) -> float:
    """Nats that two variables with joint probabilities `table` tell about each other."""
    return float((table * np.log(table / np.outer(table.sum(1), table.sum(0)))).sum())


def main(config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """Trains every model and draws the pictures. Returns the scores by toy and model."""
    config = common.prepared(config, steps=2, draws=4000)
    toys = {
        "dset1": dset1(),
        "warm-up": warm_up(),
        "galaxy": galaxy(config.draws, config.hidden, config.seed),
    }
    scores = {}
    for name, toy in toys.items():
        tables = {"true": np.log(np.maximum(toy.true, 1e-300))}
        fits = {}
        for label, model in toy.models.items():
            fits[label] = fit(toy, model, config.directory / name / label, config)
            tables[label] = log_prob_table(model, fits[label], toy.true.shape)
        scores[name] = {label: score(toy, table) for label, table in tables.items()}
        print(f"\n{name:14}{'train':>10}{'test':>10}{'expected':>10}   nats")
        for label, row in scores[name].items():
            print(f"  {label:12}" + "".join(f"{value:10.4f}" for value in row.values()))
        path = config.directory / f"{name}.png"
        if toy.true.ndim == 1:
            draw_bars(toy, tables, path)
        else:
            key = jax.random.key(config.seed)
            samples = arjax.sample(toy.models["chain"], fits["chain"], key, (20_000, 2))
            draw_maps(toy, tables, np.asarray(samples), path)
    cost = scores["galaxy"]["edge dropped"]["expected"] - scores["galaxy"]["chain"]["expected"]
    shared = mutual_information(toys["galaxy"].true)
    print(f"\nthe mutual information of x1 and x2 is {shared:.4f} nats; dropping the edge costs {cost:.4f}")
    print(f"pictures in {config.directory}")
    splits = [
        Dataset(getattr(toy, split), levels=len(toy.true), name=name, split=split)
        for name, toy in toys.items()
        for split in data.SPLITS
    ]
    return common.record(config, scores, *splits)


def draw_bars(toy: Toy, tables: dict[str, np.ndarray], path: Path) -> None:
    """The training data as bars, under the true distribution and the learned ones."""
    levels = np.arange(len(toy.true))
    picture = plotting.figure(8, 4)
    axes = picture.subplots()
    frequencies = np.bincount(toy.train[:, 0], minlength=levels.size) / len(toy.train)
    axes.bar(levels, frequencies, width=1, color="0.85", label="training data")
    edges = np.arange(levels.size + 1) - 0.5
    axes.stairs(np.exp(tables["histogram"]), edges, color="tab:blue", label="histogram")
    mixture = np.exp(tables["mixture"])
    axes.plot(levels, mixture, color="tab:orange", linewidth=2, label="mixture of 4 logistics")
    axes.plot(levels, toy.true, "k:", label="true distribution")
    axes.set(xlabel="x", ylabel="probability", xlim=edges[[0, -1]])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    plotting.save(picture, path)


def draw_maps(toy: Toy, tables: dict[str, np.ndarray], samples: np.ndarray, path: Path) -> None:
    """The truth, samples of the chain and both learned distributions, in one colour scale."""
    counts = np.zeros(toy.true.shape)
    np.add.at(counts, tuple(samples.T), 1 / len(samples))
    titles = {"true": "true", "chain": "p(x1) p(x2 | x1)", "edge dropped": "p(x1) p(x2)"}
    panels = [
        (f"{title}: {score(toy, tables[label])['expected']:.2f} nats", np.exp(tables[label]))
        for label, title in titles.items()
    ]
    panels.insert(1, (f"{len(samples):,} samples", counts))
    picture = plotting.figure(12, 3.4)
    for axes, (title, table) in zip(picture.subplots(1, 4, sharey=True), panels, strict=True):
        axes.imshow(table.T, origin="lower", cmap="magma", vmax=toy.true.max())
        axes.set(title=title, xlabel="x1")
    picture.axes[0].set_ylabel("x2")
    plotting.save(picture, path)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
