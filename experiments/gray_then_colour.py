"""Gray, then colour: an image given its gray version (Kolesnikov and Lampert, 2017), beside a direct model.

Command: python -m experiments.gray_then_colour   (about 9 minutes, shared; --help lists the variants)

A Gated PixelCNN of the gray image, then one of the colours that is given a map of it; the direct model generates
all channels at once and has as many parameters. Both are conditioned on the class. The score of the former is a
bound on its bits, so the table says `<=`; the bits of gray and of colour are per dimension of the image in colour,
and add up. Expect on the test sets, in bits/dim:

    variant                direct      gray + colour
    coloured-digits         0.387      0.149 + 0.258 = <= 0.407 (histogram 1.514)
    coloured-mnist          not yet measured
    cifar10-partial         5.889      0.787 + 5.681 = <= 6.468 (histogram 7.943)

The folder then holds two runs and samples.png: in each row a gray image, drawn, and two colourings of it, for
three examples of a class. The last row is of `--steps 240 --dropout 0.1`, a sixteenth of its training and 18
minutes on one CPU core: far from converged. `cifar10-partial` has 3,200 images of CIFAR-10: comparable with
nothing published.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import arjax
from arjax import parts, plotting
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes, Context, Map
from arjax.models import Auxiliary, GatedPixelCNN
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/gray_then_colour/coloured-digits")
    """Where both runs and the picture go."""
    data: str = "coloured_digits"
    """Name of a data set of images in colour, with labels."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    gray_levels: int = 4
    """Levels of the gray image."""
    direct_features: int = 60
    """Channels of each stack of the direct model; three colours divide it."""
    gray_features: int = 28
    """Channels of each stack of the gray image's model."""
    colour_features: int = 45
    """Channels of each stack of the model of the colours; three colours divide it."""
    context_features: int = 32
    """Channels of the map of the gray image."""
    num_layers: int = 5
    """Gated layers of each model."""
    dropout: float = 0.5
    """Rate of dropout in the horizontal stacks."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 1000
    """Updates at most."""
    eval_every: int = 100
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.99
    """Decay of the moving average of the parameters."""
    patience: int | None = 5
    """Evaluations without improvement before stopping; None for no stopping."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


RUNS = Path("runs/gray_then_colour")
VARIANTS = {
    "coloured-digits": ("digits 8x8 in generated colours", Config()),
    "coloured-mnist": (
        "MNIST in generated colours",
        Config(RUNS / "coloured-mnist", "coloured_mnist", num_layers=8, steps=4000, eval_every=400, dropout=0.2),
    ),
    "cifar10-partial": (
        "3,200 images of CIFAR-10",
        Config(
            RUNS / "cifar10-partial",
            "cifar10_partial",
            gray_levels=16,
            num_layers=8,
            batch_size=16,
            learning_rate=1e-3,
            steps=4000,
            eval_every=400,
        ),
    ),
}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes both models, evaluates and draws. Returns test nats by model."""
    tiny = {"direct_features": 6, "gray_features": 4, "colour_features": 6, "context_features": 4}
    config = common.prepared(config, **tiny, num_layers=2, batch_size=8, steps=2, eval_every=1)
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    direct, hierarchy = models(config, train.event, train.levels)
    of_direct, _ = common.fit(direct, config, train, valid, config.directory / "direct", conditional=True)
    variables, _ = common.fit(
        hierarchy, config, train, valid, config.directory / "gray_then_colour", conditional=True
    )
    stages = common.nats_of_stages(hierarchy, variables, test, conditional=True)
    nats = {
        "per-position histogram": common.histogram_nats(train, test),
        "direct": common.test_nats(direct, of_direct, test, conditional=True),
        "gray then colour <=": sum(stages.values()),
        "  of which gray": stages["gray"],
        "  of which colour <=": stages["x"],
    }
    common.print_scores(nats, test.event)
    draw(config, hierarchy, variables, test.event)
    print(f"\nboth runs and samples.png are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def models(config: Config, event: tuple[int, ...], levels: int) -> tuple[Any, Any]:
    """The direct model and the hierarchy."""
    height, width, channels = event
    output = Categorical(levels) if levels <= 16 else DiscretizedLogisticMixture(5, levels)

    def gated(output: Any, channels: int, features: int, conditioning: Any) -> GatedPixelCNN:
        return GatedPixelCNN(
            output,
            channels,
            features,
            config.num_layers,
            first_kernel_size=5,
            head_features=2 * features,
            conditioning=conditioning,
            dropout=config.dropout,
        )

    gray = gated(Categorical(config.gray_levels), 1, config.gray_features, Classes(10))
    given = Map(height, width, config.context_features)
    colour = gated(output, channels, config.colour_features, given)
    context = Context(config.context_features, dropout=config.dropout)
    hierarchy = Auxiliary((parts.Gray(config.gray_levels, levels),), (gray, colour), (context,))
    return gated(output, channels, config.direct_features, Classes(10)), hierarchy


def draw(config: Config, model: Any, variables: Any, event: tuple[int, ...]) -> None:
    """Draws three gray images of each class, each with two colourings, the second by the first as evidence."""
    labels = np.repeat(np.arange(10), 3)
    shape = (len(labels), *event)
    first, second = jax.random.split(jax.random.key(config.seed))
    sample = arjax.sample(model, variables, first, shape, labels)
    known = {"gray": np.ones(sample["gray"].shape, bool), "x": np.zeros(shape, bool)}
    other = arjax.sample(model, variables, second, shape, labels, evidence=(sample, known))
    levels = model.output.levels
    gray = np.broadcast_to(sample["gray"] * (levels - 1) // (config.gray_levels - 1), shape)
    rows = np.stack([gray, sample["x"], other["x"]], 1).reshape(-1, *event)
    plotting.image_grid(
        rows, config.directory / "samples.png", levels=levels, columns=9, row_labels=[str(i) for i in range(10)]
    )


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
