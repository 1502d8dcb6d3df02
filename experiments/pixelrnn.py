"""PixelRNN: Row LSTM and Diagonal BiLSTM on digits, binarized MNIST and CIFAR-10.

Command: python -m experiments.pixelrnn digits   (about 2 minutes on 2 CPU cores; --help lists the variants)

Without --data-dir (or ARJAX_DATA_DIR) MNIST and CIFAR-10 come from tensorflow-datasets. On the test sets, expect:

    variant             published                   measured
    digits                      -               1.724 bits/dim (histogram 2.400)
    mnist-row               80.54 nats              not yet measured
    mnist-diagonal          79.20 nats              not yet measured
    cifar10-row              3.07 bits/dim          not yet measured
    cifar10-diagonal         3.00 bits/dim          not yet measured

The runs on MNIST and CIFAR-10 are for an accelerator and have the sizes and the batch of 16 of the paper, its h of
128 rounded down to a multiple of the three colours; one layer of Diagonal BiLSTM with h = 32 has 80.75 nats there
(mnist-diagonal --num-layers 1 --features 32). The paper's networks were trained by RMSProp at a rate set by hand;
here AdamW's rate warms up and falls as a cosine. On digits the network is conditioned on the class.

The folder then holds checkpoints, metrics.jsonl, curves.png, samples.png and completions.png.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from arjax.distributions import Bernoulli, Categorical
from arjax.layers import Classes
from arjax.models import DiagonalBiLSTM, PixelRNN, RowLSTM
from experiments import common

LAYERS = {"row": ("Row LSTM", RowLSTM), "diagonal": ("Diagonal BiLSTM", DiagonalBiLSTM)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path
    """Where checkpoints, metrics and pictures go."""
    layer: Literal["row", "diagonal"]
    """Row LSTM or Diagonal BiLSTM."""
    published: str | None = None
    """The paper's score of this variant."""
    data: str = "binarized_mnist"
    """Name of a data set of images."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    by_class: bool = False
    """Whether the model is conditioned on the class."""
    features: int = 16
    """h, features of the LSTMs' states; the image's channels divide it."""
    num_layers: int = 7
    """LSTM layers."""
    first_kernel_size: int = 7
    """Kernel size of the first convolution."""
    head_features: int = 32
    """Features of the two 1 x 1 layers before the output; the image's channels divide it."""
    dropout: float = 0.0
    """Rate of dropout of the LSTM layers' states."""
    learning_rate: float = 1e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    batch_size: int = 16
    """Examples per step."""
    steps: int = 200_000
    """Updates at most."""
    eval_every: int = 5000
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.9995
    """Decay of the moving average of the parameters."""
    patience: int | None = None
    """Evaluations without improvement before stopping; None for no stopping."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


RUNS = Path("runs/pixelrnn")
DIGITS = Config(
    RUNS / "digits",
    "diagonal",
    data="digits",
    by_class=True,
    features=32,
    num_layers=3,
    first_kernel_size=5,
    head_features=128,
    dropout=0.5,
    learning_rate=3e-3,
    weight_decay=0.05,
    batch_size=50,
    steps=800,
    eval_every=60,
    ema_decay=0.99,
    patience=5,
)
CIFAR10 = Config(RUNS / "cifar10", "row", data="cifar10", features=126, num_layers=12, head_features=1023)
VARIANTS = {
    "digits": ("Diagonal BiLSTM on digits, by class", DIGITS),
    "mnist-row": ("Row LSTM on binarized MNIST", Config(RUNS / "mnist-row", "row", "80.54 nats")),
    "mnist-diagonal": (
        "Diagonal BiLSTM on binarized MNIST",
        Config(RUNS / "mnist-diagonal", "diagonal", "79.20 nats"),
    ),
    "cifar10-row": (
        "Row LSTM on CIFAR-10",
        dataclasses.replace(CIFAR10, directory=RUNS / "cifar10-row", published="3.07 bits/dim"),
    ),
    "cifar10-diagonal": (
        "Diagonal BiLSTM on CIFAR-10",
        dataclasses.replace(
            CIFAR10, directory=RUNS / "cifar10-diagonal", layer="diagonal", published="3.00 bits/dim"
        ),
    ),
}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    tiny = {"features": 3, "num_layers": 2, "head_features": 6, "batch_size": 8, "steps": 2, "eval_every": 1}
    config = common.prepared(config, **tiny)
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    name, layer = LAYERS[config.layer]
    model = PixelRNN(
        Bernoulli() if train.levels == 2 else Categorical(train.levels),
        channels=train.event[-1],
        features=config.features,
        num_layers=config.num_layers,
        layer=layer,
        first_kernel_size=config.first_kernel_size,
        head_features=config.head_features,
        conditioning=Classes(10) if config.by_class else None,
        dropout=config.dropout,
    )
    variables, history = common.fit(model, config, train, valid, config.directory, conditional=config.by_class)
    nats = common.report(name, model, variables, history, train, test, config.directory, seed=config.seed)
    if config.published:
        print(f"published for {name} on this test set: {config.published}")
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
