"""One transformer for all orders completes images from any evidence, beside one that goes row by row.

Command: python -m experiments.order_agnostic   (about 15 minutes on 2 CPU cores)

A conditional sees what comes before it. In raster order the pixels of an upper half are drawn in ignorance of
the lower half that is given; a network trained over random orders takes the order in which the known pixels come
first, so that every pixel drawn sees all evidence. On the test digits, nats of the hidden part given the rest:

    hidden          raster    any order
    upper half       43.72        41.87
    centre           31.79        30.53
    lower half       38.11        39.86

The lower half is the one that raster order sees all evidence of, and there the specialist wins.

In raster order that number is of the density that its completions follow: the product of the conditionals of the
hidden pixels. completions.png has a row for each digit: of each hidden part the image without it (blue), four
completions row by row, four with the evidence first, the original. Each network has a subfolder with checkpoints,
metrics.jsonl and curves.png.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import arjax
from arjax import orderings, plotting, training
from arjax.data import Dataset
from arjax.distributions import Categorical
from arjax.models import Transformer
from experiments import common

UPPER_HALF = (0.0, 0.5, 0.0, 1.0)
PARTS = {"upper half": UPPER_HALF, "centre": common.CENTRE, "lower half": common.LOWER_HALF}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/order_agnostic")
    """Where checkpoints, metrics and pictures go, in the subfolders "raster" and "any"."""
    dataset: str = "digits"
    """Name of the data set of images, such as "digits" or "binarized_mnist"."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    features: int = 96
    """Channels of every layer."""
    num_layers: int = 4
    """Blocks."""
    dropout: float = 0.1
    """Rate of dropout."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 5000
    """Updates of the network for any order; a fifth of them in raster order, which overfits sooner."""
    eval_every: int = 250
    """Steps between evaluations on the validation set."""
    count: int = 4
    """Completions of each hidden part by each network."""
    seed: int = 0
    """Seed of initialisation, data order, dropout, orders and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns nats of hidden parts by part and network."""
    config = common.prepared(config, features=8, num_layers=1, steps=2, eval_every=1, count=1)
    train, valid, test = common.load(config.dataset, config.data_dir, smoke=config.smoke)
    networks = {}
    for name in ("raster", "any"):
        model = Transformer(
            train.event,
            Categorical(train.levels),
            features=config.features,
            num_layers=config.num_layers,
            order_agnostic=name == "any",
            dropout=config.dropout,
        )
        steps = config.steps if name == "any" else max(config.steps // 5, 1)
        optimizer = training.default_optimizer(config.learning_rate, steps, weight_decay=0.1)
        variables, history = common.fit(
            model,
            config,
            train,
            valid.take(slice(1000)),
            config.directory / name,
            optimizer=optimizer,
            steps=steps,
            ema_decay=0.99,
        )
        plotting.curves(history, config.directory / name / "curves.png", event=train.event)
        networks[name] = model, variables

    found, blocks = {}, []
    print(f"\n{'nats of the hidden part':32}" + "".join(f"{name:>12}" for name in networks))
    for part, occlusion in PARTS.items():
        known = known_pixels(occlusion, test.event)
        given = {name: (model, in_order(variables, name, known)) for name, (model, variables) in networks.items()}
        for name, (model, variables) in given.items():
            found[f"{part}, {name}"] = hidden_nats(model, variables, test, known)
        print(f"{part:32}" + "".join(f"{found[f'{part}, {name}']:12.2f}" for name in networks))
        blocks.append(completions(given, common.one_of_each(test), known, config.count, config.seed))
    gap = np.full_like(blocks[0][:, :2], 255)
    row = np.concatenate([block for part in blocks for block in (gap, part)][1:], 1)
    path = config.directory / "completions.png"
    plotting.image_grid(row.reshape(-1, *row.shape[2:]), path, levels=256, columns=row.shape[1])
    print(f"\ncheckpoints, metrics.jsonl, curves and {path.name} are in {config.directory}")
    return common.record(config, found, train, valid, test)


def known_pixels(hidden: common.Occlusion, event: tuple[int, ...]) -> np.ndarray:
    """Boolean of shape `event`, false in the hidden rectangle."""
    height, width = event[:2]
    top, bottom, left, right = hidden
    known = np.ones(event, bool)
    known[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = False
    return known


def in_order(variables: Any, name: str, known: np.ndarray) -> Any:
    """The variables, for any order with the one in which the known pixels come first."""
    if name == "raster":
        return variables
    ranks = orderings.known_first(known, orderings.raster(known.shape))
    return variables | {"masks": {"ranks": jnp.asarray(ranks.ravel())}}


@jax.jit
def _total(log_probs: jax.Array, hidden: jax.Array) -> jax.Array:
    return jnp.where(hidden[None], log_probs, 0).reshape(len(log_probs), -1).sum(1).mean()


def hidden_nats(model: Any, variables: Any, test: Dataset, known: np.ndarray) -> float:
    """Mean over the test set of minus the sum of the log-probabilities of the hidden pixels, in nats."""
    params = jax.jit(model.apply)
    totals, counts = [], []
    for start in range(0, len(test), 100):
        x = jnp.asarray(test.x[start : start + 100], jnp.int32)
        totals.append(float(_total(model.output.log_prob(params(variables, x), x), jnp.asarray(~known))))
        counts.append(len(x))
    return -float(np.average(totals, weights=counts))


def completions(networks: dict[str, Any], images: Dataset, known: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Pictures of 256 levels: the image without its hidden part, completions by each network, the image."""
    levels = images.levels
    originals = np.asarray(images.x, np.int32)[:, None]
    shape = len(originals), count, *images.event
    evidence = [np.broadcast_to(array, shape).reshape(-1, *images.event) for array in (originals, known)]
    pictures, white = [originals], np.full_like(originals, levels - 1)
    for model, variables in networks.values():
        drawn = arjax.sample(model, variables, jax.random.key(seed), evidence[0].shape, evidence=tuple(evidence))
        pictures += [np.asarray(drawn).reshape(shape), white]
    grey = np.concatenate([*pictures[:-1], originals], 1) * 255 // (levels - 1)
    colour = np.broadcast_to(grey, (*grey.shape[:-1], 3)).copy()
    colour[:, 0] = np.where(known, colour[:, 0], common.HIDDEN)
    return colour


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
