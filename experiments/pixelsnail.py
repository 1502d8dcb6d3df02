"""PixelSNAIL: on digits and MNIST for a CPU, on CIFAR-10 with the sizes of its paper for an accelerator.

Command: python -m experiments.pixelsnail digits   (--help lists the variants)

Test bits/dim:

    variant           published    measured
    digits                    -    1.789, a minute on 2 CPU cores (histogram 2.400)
    digits-zigzag             -    1.787
    mnist                     -    95.92 nats, 2,000 steps of 4,000: 10 minutes on 2 cores (histogram 205.79)
    cifar10                2.85    not yet measured; for an accelerator

The output is a mixture of logistics, also of binary pixels. The folder then holds checkpoints, metrics.jsonl,
curves.png, samples.png (a row for each class of digits) and completions.png.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import optax
import tyro

from arjax import orderings, training
from arjax.distributions import DiscretizedLogisticMixture
from arjax.layers import Classes
from arjax.models import PixelSNAIL
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path
    """Where checkpoints, metrics and pictures go."""
    dataset: str
    """Name of the data set."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    order: Literal["raster", "zigzag"] = "raster"
    """Order of generation."""
    features: int = 48
    """Channels of every block."""
    num_blocks: int = 2
    """Attention blocks."""
    num_residual: int = 2
    """Residual blocks before each of them."""
    key_features: int = 16
    """Channels of keys and queries."""
    value_features: int = 48
    """Channels of values."""
    num_mixtures: int = 5
    """Logistics in the mixture."""
    dropout: float = 0.3
    """Rate of dropout."""
    by_class: bool = True
    """Whether the model is conditioned on the class."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule; in the paper's setting the first rate of Adam."""
    decay: float | None = None
    """Factor of the learning rate at each step, as in the authors' code; None for the cosine."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 600
    """Updates."""
    eval_every: int = 100
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.99
    """Decay of the moving average of the parameters."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""

    def optimizer(self) -> optax.GradientTransformation:
        """What updates the parameters."""
        if self.decay is None:
            return training.default_optimizer(self.learning_rate, self.steps)
        return optax.adam(optax.exponential_decay(self.learning_rate, 1, self.decay), b1=0.95, b2=0.9995, eps=1e-6)


RUNS = Path("runs/pixelsnail")
digits = partial(Config, dataset="digits")
VARIANTS = {
    "digits": ("8x8 digits by class", digits(RUNS / "digits")),
    "digits-zigzag": ("the same, diagonal by diagonal", digits(RUNS / "digits-zigzag", order="zigzag")),
    "mnist": (
        "binarized MNIST",
        Config(
            RUNS / "mnist",
            "binarized_mnist",
            num_mixtures=2,
            dropout=0.0,
            by_class=False,
            batch_size=16,
            steps=4000,
            eval_every=500,
        ),
    ),
    "cifar10": (
        "CIFAR-10, the size of the paper",
        Config(
            RUNS / "cifar10",
            "cifar10",
            features=256,
            num_blocks=12,
            num_residual=4,
            value_features=128,
            num_mixtures=10,
            dropout=0.5,
            by_class=False,
            learning_rate=1e-3,
            decay=0.999998,
            batch_size=64,
            steps=400_000,
            eval_every=5000,
            ema_decay=0.9995,
        ),
    ),
}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    tiny = {"features": 4, "num_blocks": 1, "num_residual": 1, "value_features": 4, "num_mixtures": 2}
    config = common.prepared(config, **tiny, batch_size=8, steps=2, eval_every=1)
    train, valid, test = common.load(config.dataset, config.data_dir, smoke=config.smoke)
    height, width, channels = train.event
    zigzag = tuple(map(int, orderings.zigzag((height, width)).ravel()))
    model = PixelSNAIL(
        (height, width, channels),
        DiscretizedLogisticMixture(config.num_mixtures, train.levels),
        features=config.features,
        num_blocks=config.num_blocks,
        num_residual=config.num_residual,
        key_features=config.key_features,
        value_features=config.value_features,
        ordering=zigzag if config.order == "zigzag" else None,
        conditioning=Classes(10) if config.by_class else None,
        dropout=config.dropout,
    )
    variables, history = common.fit(
        model,
        config,
        train,
        valid.take(slice(2000)),
        config.directory,
        optimizer=config.optimizer(),
        conditional=config.by_class,
    )
    nats = common.report("PixelSNAIL", model, variables, history, train, test, config.directory, seed=config.seed)
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
