"""Flows in the plane: two moons, eight Gaussians, a spiral; densities, samples, and how the grid is bent.

Command: python -m experiments.flows_2d   (6 minutes on one CPU core)

Expect these mean negative log-likelihoods in nats on the test set; the truth is known of the eight Gaussians
alone:

    data         truth     MAF     MAF of mixtures    RealNVP
    gaussians    3.525    3.625         3.532          3.621
    moons          -      3.002         2.978          3.018
    spiral         -      2.719         2.671          2.688

The pictures are runs/flows_2d/{moons,gaussians,spiral}.png: of each flow the density, samples, and lines of a grid
of the noise as the flow bends them.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from sklearn.datasets import make_moons

import arjax
from arjax import plotting
from arjax.continuous import Mixture, Normal
from arjax.data import Dataset
from arjax.flows import Flow, maf, real_nvp_of_vectors
from experiments import common

RADIUS, SCALE = 4.0, 0.5
"""Of the ring of eight Gaussians, and of each of them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/flows_2d")
    """Where checkpoints, metrics and pictures go."""
    draws: int = 20_000
    """Training examples; a fifth as many choose the best state, as many again are the test."""
    sets: tuple[str, ...] = ("moons", "gaussians", "spiral")
    """Which data."""
    num_layers: int = 6
    """Layers of MAF; RealNVP has two more, MAF of mixtures a third as many."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    steps: int = 4000
    """Updates of each flow."""
    batch_size: int = 500
    """Examples per update."""
    learning_rate: float = 5e-3
    """Peak of the schedule."""
    seed: int = 0
    """Seed of everything random."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def moons(rng: np.random.Generator, n: int) -> np.ndarray:
    """Scikit-learn's two moons, three times as large."""
    return 3 * make_moons(n, noise=0.08, random_state=int(rng.integers(2**31)))[0]


def gaussians(rng: np.random.Generator, n: int) -> np.ndarray:
    """Eight of them on a ring."""
    angle = rng.integers(0, 8, n) * (math.pi / 4)
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1) + SCALE * rng.normal(size=(n, 2))


def spiral(rng: np.random.Generator, n: int) -> np.ndarray:
    """One arm of a turn and a half, wider outside."""
    t = np.sqrt(rng.random(n)) * 3 * math.pi
    return np.stack([t * np.cos(t), t * np.sin(t)], 1) / 2 + 0.15 * rng.normal(size=(n, 2))


SETS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "moons": moons,
    "gaussians": gaussians,
    "spiral": spiral,
}


def main(config: Config) -> dict[str, dict[str, float]]:
    """Trains, scores and draws. Returns test nats by model, of each set."""
    config = common.prepared(
        config, draws=400, steps=4, batch_size=50, hidden=(8,), num_layers=1, sets=("gaussians",)
    )
    flows = {
        "maf": maf((2,), num_layers=config.num_layers, hidden=config.hidden),
        "maf of mixtures": maf(
            (2,), num_layers=-(-config.num_layers // 3), hidden=config.hidden, output=Mixture(Normal(), 8)
        ),
        "real nvp": real_nvp_of_vectors(num_layers=config.num_layers + 2, hidden=config.hidden),
    }
    found: dict[str, dict[str, float]] = {}
    for name in config.sets:
        draw, rng = SETS[name], np.random.default_rng(config.seed)
        sizes = {"train": config.draws, "valid": config.draws // 5, "test": config.draws}
        train, valid, test = (
            Dataset(draw(rng, n), levels=None, name=name, split=split) for split, n in sizes.items()
        )
        trained: dict[str, tuple[Flow, Any]] = {}
        found[name] = {"true": float(-log_density(test.x).mean())} if name == "gaussians" else {}
        for label, flow in flows.items():
            folder = config.directory / name / label.replace(" ", "_")
            variables, _ = common.fit(
                flow, config, train, valid, folder, eval_every=max(1, config.steps // 10), ema_decay=0.99
            )
            trained[label] = flow, variables
            found[name][label] = common.test_nats(*trained[label], test)
        picture(trained, test.x, found[name], config.directory / f"{name}.png", config.seed)
    for name, nats in found.items():
        print(f"\n{name}")
        for label, value in nats.items():
            print(f"  {label:20}{value:10.4f}")
    return found


def log_density(x: np.ndarray) -> np.ndarray:
    """The logarithm of the eight Gaussians' density."""
    angle = np.arange(8) * (math.pi / 4)
    centres = RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)
    squares = ((x[:, None] - centres) ** 2).sum(2) / SCALE**2
    return np.logaddexp.reduce(-0.5 * squares, 1) - math.log(8 * 2 * math.pi * SCALE**2)


def picture(
    trained: dict[str, tuple[Flow, Any]], x: np.ndarray, nats: dict[str, float], path: Path, seed: int
) -> None:
    """A row for each flow: density, samples, the bent grid."""
    reach = float(np.abs(x).max())
    axis = np.linspace(-reach, reach, 120, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    ticks, fine = np.linspace(-2.5, 2.5, 11), np.linspace(-2.5, 2.5, 100)
    lines = np.stack(np.meshgrid(ticks, fine, indexing="ij"), -1).astype(np.float32)
    canvas = plotting.figure(9, 3 * len(trained))
    rows = canvas.subplots(len(trained), 3, sharex=True, sharey=True, squeeze=False)
    for row, (label, (flow, variables)) in zip(rows, trained.items(), strict=True):
        density, samples, bent = row
        values = np.exp(arjax.log_prob(flow, variables, grid.reshape(-1, 2))).reshape(grid.shape[:2])
        density.imshow(values, origin="lower", extent=(-reach, reach, -reach, reach), cmap="magma")
        density.set_title(f"{label}: {nats[label]:.3f} nats", fontsize=9)
        drawn = np.asarray(arjax.sample(flow, variables, jax.random.key(seed), (2000, 2)))
        samples.plot(*drawn.T, ".", markersize=1)
        samples.set_title("samples", fontsize=9)
        for noise in (lines, lines[..., ::-1]):
            flat = flow.apply(variables, noise.reshape(-1, 2), method="inverse")
            for line in np.asarray(flat).reshape(noise.shape):
                bent.plot(*line.T, color="0.4", linewidth=0.6)
        bent.set_title("the noise's grid", fontsize=9)
        for axes in row:
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    plotting.save(canvas, path)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
