"""PixelCNN and Gated PixelCNN on binarized MNIST: likelihood, and completions of what is hidden.

Command: python -m experiments.mnist_completions --data-dir DATA   (an hour for each model on one CPU core)

Without --data-dir (or ARJAX_DATA_DIR) the data come from tensorflow-datasets. Test nats, without labels:

    model             published    measured
    PixelCNN              81.30    90.74 after 1,200 steps of 3,200
    Gated PixelCNN            -    85.91 after 3,200 steps

Each model has a subfolder with checkpoints, metrics.jsonl, curves.png, samples.png and completions.png: for ten
test images, one of each digit, and for the lower half, the centre and the right half, the image with that part
hidden (blue), three completions and the original.

To complete is to sample with the known pixels held fixed (`evidence`). A pixel's conditional sees the pixels
before it in raster order and no others, so the lower half is completed exactly. The centre is drawn in ignorance
of what lies below it and, in the same row, right of it; the right half, of all that is known further down.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from arjax import plotting
from arjax.models import GatedPixelCNN, PixelCNN
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/mnist_completions")
    """Where checkpoints, metrics and pictures go, in the subfolders "pixelcnn" and "gated"."""
    model: Literal["pixelcnn", "gated", "both"] = "both"
    """Which models."""
    data_dir: str | None = None
    """Where the amat files are; default $ARJAX_DATA_DIR."""
    features: int = 32
    """Channels of each stack; h of PixelCNN's residual blocks."""
    num_layers: int = 8
    """Gated layers; residual blocks."""
    kernel_size: int = 3
    """Kernel size of every layer but the first."""
    dropout: float = 0.0
    """Rate of dropout."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 32
    """Examples per step."""
    steps: int = 4000
    """Updates."""
    eval_every: int = 500
    """Steps between evaluations on the validation set."""
    count: int = 3
    """Completions of each hidden part."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def models(config: Config) -> dict[str, tuple[str, Any]]:
    """The chosen networks with their titles, by subfolder."""
    sizes: dict[str, Any] = {
        "features": config.features,
        "kernel_size": config.kernel_size,
        "head_features": 2 * config.features,
        "dropout": config.dropout,
    }
    known = {
        "pixelcnn": ("PixelCNN", PixelCNN(num_blocks=config.num_layers, **sizes)),
        "gated": ("Gated PixelCNN", GatedPixelCNN(num_layers=config.num_layers, **sizes)),
    }
    return {name: entry for name, entry in known.items() if config.model in (name, "both")}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    config = common.prepared(config, features=4, num_layers=2, steps=2, eval_every=1)
    train, valid, test = common.load("binarized_mnist", config.data_dir, smoke=config.smoke)
    nats = {"per-position histogram": common.histogram_nats(train, test)}
    for name, (title, model) in models(config).items():
        directory = config.directory / name
        variables, history = common.fit(model, config, train, valid.take(slice(2000)), directory)
        nats[title] = common.test_nats(model, variables, test)
        plotting.curves(history, directory / "curves.png")
        common.draw_samples(model, variables, directory, test.event, seed=config.seed)
        common.draw_completions(
            model,
            variables,
            directory,
            test,
            seed=config.seed,
            count=config.count,
            occlusions=(common.LOWER_HALF, common.CENTRE, common.RIGHT_HALF),
        )
    common.print_scores(nats, test.event)
    print(f"\ncheckpoints, metrics.jsonl, curves, samples and completions are in {config.directory}")
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
