"""Gated PixelCNN on fixed binarized MNIST, without labels.

Command: python -m experiments.gated_pixelcnn_mnist --data-dir DATA   (not yet timed whole)

Without --data-dir (or ARJAX_DATA_DIR) the data come from tensorflow-datasets. With --steps 3000, stopped at
step 1,000: 87.94 nats on the test set, far from converged; a whole run has not been measured yet.
Published for PixelCNN (van den Oord et al., 2016a): 81.30 nats.
"""

import dataclasses
from pathlib import Path

import tyro

from arjax import plotting, training
from arjax.models import GatedPixelCNN
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/gated_pixelcnn_mnist")
    """Where checkpoints, metrics and pictures go."""
    data_dir: str | None = None
    """Where the amat files are; default $ARJAX_DATA_DIR."""
    features: int = 32
    """Channels of each stack."""
    num_layers: int = 8
    """Gated layers."""
    kernel_size: int = 3
    """Kernel size of every layer but the first."""
    dropout: float = 0.0
    """Rate of dropout in the horizontal stack."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 32
    """Examples per step."""
    steps: int = 4000
    """Updates."""
    eval_every: int = 500
    """Steps between evaluations on the validation set."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    config = common.shrunk(config, features=4, num_layers=2, steps=4, eval_every=2)
    train, valid, test = common.load("binarized_mnist", config.data_dir, smoke=config.smoke)
    model = GatedPixelCNN(
        features=config.features,
        num_layers=config.num_layers,
        kernel_size=config.kernel_size,
        head_features=2 * config.features,
        dropout=config.dropout,
    )
    state, history = training.fit(
        model,
        training.default_optimizer(config.learning_rate, config.steps),
        train,
        valid.take(slice(2000)),
        directory=config.directory,
        steps=config.steps,
        batch_size=config.batch_size,
        eval_every=config.eval_every,
        seed=config.seed,
    )
    variables = {"params": state.ema_params}
    nats = {
        "per-position histogram": common.histogram_nats(train, test),
        "Gated PixelCNN": common.test_nats(model, variables, test),
    }
    common.print_scores(nats, test.event)
    plotting.curves(history, config.directory / "curves.png")
    common.draw_samples(model, variables, config.directory, test.event, seed=config.seed)
    common.draw_completions(model, variables, config.directory, test, seed=config.seed)
    print(f"\ncheckpoints, metrics.jsonl, curves.png, samples.png and completions.png are in {config.directory}")
    return nats


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
