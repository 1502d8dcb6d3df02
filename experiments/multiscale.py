"""Parallel multiscale (Reed et al., 2017) beside a full Gated PixelCNN: its price in bits, its gain in time.

Command: python -m experiments.multiscale   (with --steps 800 half an hour on one shared CPU core)

The models, of equal size, are trained on binarized MNIST (28x28; without --data-dir or ARJAX_DATA_DIR it comes
from tensorflow-datasets). The hierarchy begins with 7x7 pixels and doubles them twice: 49 + 6 draws one after
the other instead of 784. Expect on the test set after 800 of the 2,000 steps (histogram 205.79), with what
training took there:

    model                    nats    seconds
    Gated PixelCNN           89.41     1,248
    parallel multiscale      90.97       195
    tapered multiscale       91.75       356 (on a busier machine), with fewer channels after the second doubling

Then networks with random weights are timed, from 16x16 to 128x128 pixels, the full one by its cached sampler
(`benchmarks.hierarchies`; on a busy machine the curves are not to be trusted).

The folder then holds three runs, samples.png (a row of each model's samples, five times) and times.png.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import arjax
from arjax import plotting
from arjax.distributions import Bernoulli, Categorical
from arjax.models import GatedPixelCNN, ParallelMultiscale
from benchmarks import hierarchies
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/multiscale")
    """Where the runs and the pictures go."""
    data: str = "binarized_mnist"
    """Name of a data set of images of one channel, of sides that 4 divides."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    features: int = 40
    """Channels of the full model's stacks and of the small image's."""
    num_layers: int = 7
    """Gated layers of the full model; the small image's has 4."""
    group_features: int = 20
    """Channels of the networks of the groups."""
    tapered_features: tuple[int, int] = (26, 13)
    """The same where they are fewer after the second doubling, for as many parameters."""
    group_blocks: int = 2
    """Residual blocks of each."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 2000
    """Updates."""
    eval_every: int = 500
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters."""
    patience: int | None = None
    """Evaluations without improvement before stopping; None for no stopping."""
    sides: tuple[int, ...] = (16, 32, 64, 128)
    """Sides of the images that are timed, powers of 2 from 8 on."""
    seed: int = 0
    """Seed of initialisation, data order and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains or resumes the models, evaluates, times and draws. Returns test nats by model."""
    tiny = {"features": 4, "num_layers": 2, "group_features": 4, "tapered_features": (4, 2)}
    config = common.prepared(config, **tiny, group_blocks=1, batch_size=8, steps=2, eval_every=1, sides=(8, 16))
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    output = Bernoulli() if train.levels == 2 else Categorical(train.levels)
    head: dict[str, Any] = {"features": config.features, "head_features": 2 * config.features}
    base = GatedPixelCNN(output, num_layers=4, **head)
    multiscale = partial(ParallelMultiscale, base, num_doublings=2, num_blocks=config.group_blocks)
    models = {
        "Gated PixelCNN": GatedPixelCNN(output, num_layers=config.num_layers, **head),
        "parallel multiscale": multiscale(features=config.group_features),
        "tapered multiscale": multiscale(features=config.tapered_features),
    }
    nats, samples = {"per-position histogram": common.histogram_nats(train, test)}, []
    for name, model in models.items():
        variables, _ = common.fit(model, config, train, valid, config.directory / name.replace(" ", "_").lower())
        nats[name] = common.test_nats(model, variables, test)
        samples.append(np.asarray(arjax.sample(model, variables, jax.random.key(config.seed), (50, *test.event))))
    common.print_scores(nats, test.event)
    rows = np.stack([sample.reshape(5, 10, *test.event) for sample in samples], 1)
    plotting.image_grid(
        rows.reshape(-1, *test.event),
        config.directory / "samples.png",
        levels=train.levels,
        columns=10,
        row_labels=["full", "multiscale", "tapered"] * 5,
    )
    draw_times(config)
    print(f"\nthe runs, samples.png and times.png are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def draw_times(config: Config) -> None:
    """Prints and draws the seconds of one sample by the side of an image."""
    labels = {
        "full": "Gated PixelCNN, cached",
        "multiscale": "parallel multiscale",
        "tapered": "the same, ever fewer channels",
    }
    print("\nseconds" + "".join(f"{label:>32}" for label in labels.values()))
    times: dict[str, list[float]] = {name: [] for name in labels}
    for side in config.sides:
        for row in hierarchies.compare(side, 1, 0.0 if config.smoke else 2.0):
            times[row["model"]].append(row["seconds"])
        print(f"{side:<7}" + "".join(f"{found[-1]:32.4f}" for found in times.values()))
    picture = plotting.figure(5, 3.5)
    axes = picture.subplots()
    for name, label in labels.items():
        axes.loglog(config.sides, times[name], "o-", base=2, label=label)
    axes.set(xlabel="side of the image", ylabel="seconds of a sample", xticks=config.sides)
    axes.set_xticklabels([str(side) for side in config.sides])
    axes.legend(frameon=False)
    plotting.save(picture, config.directory / "times.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
