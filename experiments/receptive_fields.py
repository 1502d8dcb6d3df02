"""What a pixel's conditional sees: PixelCNN and its blind spot, Row LSTM's triangle, and models that see all.

Command: python -m experiments.receptive_fields   (about a minute and a half on one busy CPU core)

Random weights, no training: a gradient that is not exactly zero tells who sees whom. Of the pixels before the one
that is marked in the pictures, expect:

    model                  seen    never seen    predicted
    PixelCNN              88.5%         11.5%        11.5%
    Gated PixelCNN       100.0%          0.0%         0.0%
    PixelCNN++           100.0%          0.0%         0.0%
    Row LSTM              88.5%         11.5%        11.5%
    Diagonal BiLSTM      100.0%          0.0%         0.0%
    MADE                 100.0%          0.0%         0.0%

However deep PixelCNN is, a k x k kernel with mask B reaches (k - 1) / 2 columns further right for a row further
up, and the first layer begins with 3: with 3 x 3, the row r above is seen up to r + 2 columns to the right. The
blind spot is what lies beyond. The vertical stack of Gated PixelCNN sees whole rows, once it is deep enough. A
Row LSTM's triangle has the same slope and reaches the first row with a single layer, but its own row as a network
of convolutions does; a single layer of Diagonal BiLSTM sees everything.

The folder then holds a picture of each model, and fields.png of all in a row.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import tyro

from arjax import plotting
from arjax.distributions import Bernoulli, DiscretizedLogisticMixture
from arjax.models import MADE, DiagonalBiLSTM, GatedPixelCNN, PixelCNN, PixelCNNPP, PixelRNN, RowLSTM
from experiments import common

Name = Literal["PixelCNN", "Gated PixelCNN", "PixelCNN++", "Row LSTM", "Diagonal BiLSTM", "MADE"]
LSTMS: dict[Name, Any] = {"Row LSTM": RowLSTM, "Diagonal BiLSTM": DiagonalBiLSTM}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/receptive_fields")
    """Where the pictures go."""
    models: tuple[Name, ...] = get_args(Name)
    """Which models, from left to right."""
    size: int = 16
    """Height and width of the images; for PixelCNN++ 4 divides it."""
    row: int = 11
    """The pixel's row."""
    column: int = 6
    """The pixel's column."""
    features: int = 16
    """Features of the networks; with few, a ReLU that is never active may hide a pixel."""
    num_layers: int = 10
    """Layers after the first, or residual blocks; with few, far pixels are out of reach."""
    kernel_size: int = 3
    """Kernel size of the layers after the first, which has 7; of PixelCNN and Gated PixelCNN."""
    num_lstms: int = 3
    """Layers of Row LSTM and Diagonal BiLSTM."""
    num_blocks: int = 2
    """Blocks of PixelCNN++ by stream and size of its features."""
    num_levels: int = 3
    """Sizes of PixelCNN++'s features, each half the one before."""
    seed: int = 0
    """Seed of weights."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def network(name: Name, config: Config) -> Any:
    """A network of that kind for images of one channel."""
    features, kernel_size = config.features, config.kernel_size
    if name == "PixelCNN":
        return PixelCNN(features=features, num_blocks=config.num_layers, kernel_size=kernel_size)
    if name == "Gated PixelCNN":
        return GatedPixelCNN(features=features, num_layers=1 + config.num_layers, kernel_size=kernel_size)
    if name == "PixelCNN++":
        return PixelCNNPP(
            DiscretizedLogisticMixture(),
            channels=1,
            features=features,
            num_blocks=config.num_blocks,
            num_levels=config.num_levels,
        )
    if name in LSTMS:
        return PixelRNN(features=features, num_layers=config.num_lstms, layer=LSTMS[name])
    return MADE((config.size, config.size, 1), Bernoulli(), hidden=(2 * config.size**2,), direct=True)


def earlier(config: Config) -> np.ndarray:
    """Which pixels come before the one in question in raster order. Shape `(size, size)`."""
    index = np.arange(config.size**2).reshape(config.size, config.size)
    return index < config.row * config.size + config.column


def blind_spot(name: Name, config: Config) -> np.ndarray:
    """Which of the earlier pixels a model never sees, however deep. Shape `(size, size)`."""
    slopes: dict[Name, int] = {"PixelCNN": config.kernel_size // 2, "Row LSTM": RowLSTM.kernel_size // 2}
    if name not in slopes:
        return np.zeros((config.size, config.size), bool)
    rows, columns = np.indices((config.size, config.size))
    above, right = config.row - rows, columns - config.column
    return earlier(config) & (above > 0) & (right > 3 + (above - 1) * slopes[name])


def draw(fields: dict[Name, np.ndarray], config: Config) -> None:
    """All receptive fields in a row, each on a logarithmic scale of its own; grey is exactly zero."""
    picture = plotting.figure(3 * len(fields), 3.35)
    for axes, (name, field) in zip(
        picture.subplots(1, len(fields), squeeze=False)[0], fields.items(), strict=True
    ):
        axes.set_facecolor("0.88")
        shown = np.ma.masked_equal(field, 0)
        axes.imshow(shown.clip(field.max() / 1e4), norm="log")
        axes.plot(config.column, config.row, "s", color="tab:red", markersize=3)
        axes.set(xticks=[], yticks=[], title=name)
    plotting.save(picture, config.directory / "fields.png")


def main(config: Config) -> dict[str, dict[str, float]]:
    """Draws the receptive fields. Returns by model the share of earlier pixels seen, never seen and predicted."""
    small = {
        "size": 8,
        "row": 2,
        "column": 1,
        "features": 8,
        "num_layers": 4,
        "num_blocks": 1,
        "num_levels": 2,
        "num_lstms": 1,
    }
    config = common.prepared(config, **small)
    event, position = (config.size, config.size, 1), (config.row, config.column, 0)
    before, fields = earlier(config), {}
    shares: dict[str, dict[str, float]] = {}
    print(f"{'of the pixels before':22}{'seen':>10}{'never seen':>14}{'predicted':>13}")
    for name in config.models:
        model = network(name, config)
        x = np.random.default_rng(0).integers(0, model.output.levels, (16, *event), np.int32)
        variables = model.init(jax.random.key(config.seed), x)
        path = config.directory / f"{name}.png"
        field = np.asarray(plotting.receptive_field(model, variables, event, position, path))[..., 0]
        if field[~before].any():
            raise AssertionError(f"{name} sees pixels that come after its own")
        fields[name] = field
        predicted = blind_spot(name, config)[before].mean()
        seen = (field[before] > 0).mean()
        shares[name] = {"seen": seen, "never seen": 1 - seen, "predicted": predicted}
        print(f"{name:22}{seen:10.1%}{1 - seen:14.1%}{predicted:13.1%}")
    draw(fields, config)
    print(f"\na picture of each model, and fields.png of all, are in {config.directory}")
    return common.record(config, shares)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
