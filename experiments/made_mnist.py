"""MADE on binary data: fixed binarized MNIST, and density-estimation sets such as adult and dna.

Command: python -m experiments.made_mnist 1hl --data-dir DATA   (--help lists the variants)

Without --data-dir (or ARJAX_DATA_DIR) binarized MNIST comes from tensorflow-datasets. Any other of the binary sets
is trained on with `adult --dataset NAME --directory FOLDER`. Test nats per example:

    variant                   measured    published
    1hl                          90.74
    1hl-wide                     88.76        88.40
    1hl-32 --epochs 20          100.18              (one mask)
    1hl-32 --epochs 20           95.35              (ensemble)
    adult                        13.23        13.12
    dna                          84.90        83.63

2 minutes for 1hl and 3 for 1hl-32, half an hour for 1hl-wide, seconds for adult and dna, on 2 CPU cores. The
other variants have not been measured.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro

import arjax
from arjax import data, plotting
from arjax.models import MADE
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path
    """Where checkpoints, metrics and pictures go."""
    dataset: str = "binarized_mnist"
    """Name of a binary data set, such as "jester"; see `arjax.data.load`."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    hidden: tuple[int, ...] = (500,)
    """Widths of the hidden layers."""
    direct: bool = True
    """Direct connections from inputs to outputs beside the hidden layers."""
    order_agnostic: bool = False
    """A new order of the variables with every mask."""
    connectivity_agnostic: bool = False
    """New hidden degrees with every mask."""
    num_masks: int = 1
    """Masks that training cycles through, and members of the ensemble."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    batch_size: int = 100
    """Examples per step."""
    epochs: int = 20
    """Passes over the training set at most."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters."""
    patience: int = 10
    """Epochs without improvement on the validation set before stopping."""
    seed: int = 0
    """Seed of initialisation, data order, masks and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


RUNS = Path("runs/made_mnist")
agnostic = partial(Config, order_agnostic=True, connectivity_agnostic=True, num_masks=32, epochs=40)
wide = partial(Config, hidden=(8000,), learning_rate=1e-3, weight_decay=0.1, epochs=12)
VARIANTS = {
    "1hl": ("500 hidden units, 1 mask", Config(RUNS / "1hl")),
    "visible": ("no hidden units: a fully visible sigmoid belief net", Config(RUNS / "visible", hidden=())),
    "2hl": ("500 and 500 hidden units, 1 mask", Config(RUNS / "2hl", hidden=(500, 500))),
    "1hl-32": ("500 hidden units, 32 masks", agnostic(RUNS / "1hl-32")),
    "2hl-32": ("500 and 500 hidden units, 32 masks", agnostic(RUNS / "2hl-32", hidden=(500, 500))),
    "1hl-wide": ("8,000 hidden units, 1 mask, the width of the authors", wide(RUNS / "1hl-wide")),
    "adult": ("the set adult, 500 hidden units", Config(RUNS / "adult", dataset="adult", epochs=60)),
    "dna": (
        "the set dna, 500 hidden units",
        Config(RUNS / "dna", dataset="dna", epochs=100, weight_decay=0.5, ema_decay=0.98, batch_size=50),
    ),
}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates, and draws samples of images. Returns test nats by model."""
    hidden = (8,) * len(config.hidden)
    config = common.prepared(config, hidden=hidden, epochs=2, batch_size=16, num_masks=min(config.num_masks, 2))
    train, valid, test = common.load(config.dataset, config.data_dir, smoke=config.smoke)
    model = MADE(
        train.event,
        hidden=config.hidden,
        direct=config.direct,
        order_agnostic=config.order_agnostic,
        connectivity_agnostic=config.connectivity_agnostic,
        num_masks=config.num_masks,
    )
    epoch = len(train) // config.batch_size
    variables, history = common.fit(
        model, config, train, valid, config.directory, steps=epoch * config.epochs, eval_every=epoch
    )
    nats = {
        "per-position histogram": common.histogram_nats(train, test),
        "MADE, first mask": common.test_nats(model, variables, test),
    }
    if config.num_masks > 1:
        members = np.arange(config.num_masks)
        log_probs = [
            np.asarray(arjax.ensemble_log_prob(model, variables, members, batch["x"]))
            for batch in data.epoch_batches(test, 500)
        ]
        name = f"MADE, ensemble of {config.num_masks} masks"
        nats[name] = -float(np.concatenate(log_probs).mean(dtype=np.float64))
    common.print_scores(nats, test.event)
    plotting.curves(history, config.directory / "curves.png")
    noise = jax.random.uniform(jax.random.key(config.seed), (100, *test.event))
    samples, iterations = arjax.sample_from_noise(
        model, variables, noise, method="fixed_point", return_iterations=True
    )
    differing = int((samples != arjax.sample_from_noise(model, variables, noise)).sum())
    print(
        f"\n100 samples: {iterations} fixed-point iterations for {noise[0].size} variables; "
        f"{differing} of {noise.size} values differ from the cached sampler's"
    )
    if len(test.event) == 3:
        plotting.image_grid(samples, config.directory / "samples.png", levels=2, columns=10)
    print(f"checkpoints, metrics.jsonl and pictures are in {config.directory}")
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
