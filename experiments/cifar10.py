"""PixelCNN, Gated PixelCNN and PixelCNN++ on CIFAR-10, with the sizes of their papers.

Command: python -m experiments.cifar10 pixelcnnpp --data-dir DATA   (--help lists the variants; not yet timed)

Test bits/dim:

    variant             published    measured
    pixelcnn                 3.14    not yet measured
    gated                    3.03    not yet measured
    pixelcnnpp               2.92    not yet measured
    pixelcnnpp-small            -    4.56 after 400 steps (histogram 7.94), on cifar10_partial

These are runs for an accelerator, but for pixelcnnpp-small: a net for a CPU and for --data cifar10_partial, the
first 4,000 images of the training set. That set's scores, on 400 images, are comparable with nothing published.

PixelCNN has its paper's batch, 15 residual blocks of h = 128 and 1 x 1 layers of 1,024, these rounded down to
multiples of the three colours. The paper of Gated PixelCNN gives no sizes for CIFAR-10: those here are chosen.
PixelCNN was trained by RMSProp at a rate set by hand; here, as with Gated PixelCNN, the rate of AdamW warms up and
falls as a cosine. PixelCNN++ has the settings of its authors' code, which had 16 examples on each of 8 GPUs and
took days.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import optax
import tyro

from arjax import training
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes
from arjax.models import GatedPixelCNN, PixelCNN, PixelCNNPP
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of any model."""

    directory: Path
    """Where checkpoints, metrics and pictures go."""
    data: Literal["cifar10", "cifar10_partial"] = "cifar10"
    """Data set; the partial one is comparable with nothing published."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    by_class: bool = False
    """Whether the model is conditioned on the class."""
    dropout: float = 0.0
    """Rate of dropout."""
    learning_rate: float = 1e-3
    """Learning rate, or its peak where there is a warm-up."""
    batch_size: int = 16
    """Examples per step."""
    steps: int = 200_000
    """Updates."""
    eval_every: int = 5000
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.9995
    """Decay of the moving average of the parameters."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""

    def conditioning(self) -> Any:
        """What the model is conditioned on."""
        return Classes(10) if self.by_class else None

    def optimizer(self) -> optax.GradientTransformation:
        """What updates the parameters."""
        return training.default_optimizer(self.learning_rate, self.steps)


@dataclasses.dataclass(frozen=True)
class PixelCNNConfig(Config):
    """Settings of PixelCNN."""

    name: ClassVar[str] = "PixelCNN"
    published: ClassVar[float] = 3.14
    tiny: ClassVar[dict[str, int]] = {"features": 3, "num_blocks": 1, "head_features": 6}

    features: int = 126
    """h of the residual blocks; three colours divide it."""
    num_blocks: int = 15
    """Residual blocks."""
    kernel_size: int = 3
    """Kernel size of the residual blocks."""
    head_features: int = 1023
    """Features of the two 1 x 1 layers before the output; three colours divide it."""

    def model(self) -> Any:
        """The network."""
        return PixelCNN(
            Categorical(256),
            channels=3,
            features=self.features,
            num_blocks=self.num_blocks,
            kernel_size=self.kernel_size,
            head_features=self.head_features,
            conditioning=self.conditioning(),
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True)
class GatedConfig(Config):
    """Settings of Gated PixelCNN."""

    name: ClassVar[str] = "Gated PixelCNN"
    published: ClassVar[float] = 3.03
    tiny: ClassVar[dict[str, int]] = {"features": 3, "num_layers": 2, "head_features": 6}

    features: int = 126
    """Channels of each stack; three colours divide it."""
    num_layers: int = 15
    """Gated layers."""
    kernel_size: int = 5
    """Kernel size of every layer but the first."""
    head_features: int = 1023
    """Channels of the 1 x 1 convolution before the output; three colours divide it."""

    def model(self) -> Any:
        """The network."""
        return GatedPixelCNN(
            Categorical(256),
            channels=3,
            features=self.features,
            num_layers=self.num_layers,
            kernel_size=self.kernel_size,
            head_features=self.head_features,
            conditioning=self.conditioning(),
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True)
class PixelCNNPPConfig(Config):
    """Settings of PixelCNN++."""

    name: ClassVar[str] = "PixelCNN++"
    published: ClassVar[float] = 2.92
    tiny: ClassVar[dict[str, int]] = {"features": 4, "num_blocks": 1, "num_levels": 1, "num_mixtures": 2}

    features: int = 160
    """Channels of both streams."""
    num_blocks: int = 5
    """Residual blocks of a stream at each size."""
    num_levels: int = 3
    """Sizes, each half the one before."""
    num_mixtures: int = 10
    """Logistics in the mixture."""
    learning_rate_decay: float = 0.999995
    """Factor of the learning rate at each step."""

    def model(self) -> Any:
        """The network."""
        return PixelCNNPP(
            DiscretizedLogisticMixture(self.num_mixtures),
            features=self.features,
            num_blocks=self.num_blocks,
            num_levels=self.num_levels,
            conditioning=self.conditioning(),
            dropout=self.dropout,
        )

    def optimizer(self) -> optax.GradientTransformation:
        """The authors' Adam."""
        rate = optax.exponential_decay(self.learning_rate, 1, self.learning_rate_decay)
        return optax.adam(rate, b1=0.95, b2=0.9995)


RUNS = Path("runs/cifar10")
VARIANTS: dict[str, tuple[str, PixelCNNConfig | GatedConfig | PixelCNNPPConfig]] = {
    "pixelcnn": ("PixelCNN, the size of its paper", PixelCNNConfig(RUNS / "pixelcnn")),
    "gated": ("Gated PixelCNN", GatedConfig(RUNS / "gated", dropout=0.2, batch_size=128, steps=100_000)),
    "pixelcnnpp": (
        "PixelCNN++, the size of its authors' code",
        PixelCNNPPConfig(RUNS / "pixelcnnpp", dropout=0.5, batch_size=128, steps=400_000),
    ),
    "pixelcnnpp-small": (
        "a PixelCNN++ for a CPU and for cifar10_partial",
        PixelCNNPPConfig(
            RUNS / "pixelcnnpp-small",
            data="cifar10_partial",
            features=32,
            num_blocks=2,
            num_mixtures=5,
            steps=2000,
            eval_every=200,
            ema_decay=0.995,
        ),
    ),
}


def main(config: PixelCNNConfig | GatedConfig | PixelCNNPPConfig) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    config = common.prepared(config, **config.tiny, batch_size=8, steps=2, eval_every=1)
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    model = config.model()
    variables, history = common.fit(
        model,
        config,
        train,
        valid,
        config.directory,
        optimizer=config.optimizer(),
        conditional=config.by_class,
    )
    nats = common.report(config.name, model, variables, history, train, test, config.directory, seed=config.seed)
    if config.data == "cifar10":
        print(f"published for {config.name} on this test set: {config.published} bits/dim")
    else:
        print(f"{config.data} is a part of the training set: comparable with nothing published")
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
