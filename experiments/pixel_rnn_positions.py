"""Does it help to be told where the next pixel lies? LSTM and temporal convolution over pixels, with and without.

Command: python -m experiments.pixel_rnn_positions   (3 and a half minutes on 2 shared CPU cores)

Flattened row by row, an image hides from a network which earlier pixel is the one above the next: an LSTM has to
count columns, a convolution whose kernel is the same everywhere cannot know. A position encoding, the row and the
column of the next pixel beside the input of the first layer, tells. All are trained alike; expect, on the test set
of the digits (8x8, 17 levels), in nats and bits per pixel:

    per-position histogram     106.47     2.400
    LSTM                        85.43     1.926
    LSTM, positions             84.34     1.901
    TemporalConv                81.62     1.840
    TemporalConv, positions     80.61     1.817

`--data binarized_mnist`, of 784 pixels, has not been measured.

The folder then holds samples.png of all side by side, drawn with the same noise, curves.png of all, and a
subfolder with checkpoints and metrics.jsonl of each.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import arjax
from arjax import plotting
from arjax.distributions import Categorical
from arjax.models import RNN, TemporalConv
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/pixel_rnn_positions")
    """Where checkpoints, metrics and pictures go, in a subfolder of the data's name."""
    data: Literal["digits", "binarized_mnist"] = "digits"
    """Images of one channel, 64 or 784 pixels."""
    data_dir: str | None = None
    """Where the files of binarized_mnist are; default $ARJAX_DATA_DIR."""
    features: int = 128
    """Units of the LSTM's only layer."""
    channels: int = 64
    """Channels of the convolutions."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    """Of the convolutions, of 3 taps each."""
    dropout: float = 0.2
    """Rate of dropout."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 1000
    """Updates."""
    eval_every: int = 100
    """Steps between evaluations on the validation set."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def networks(config: Config, levels: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Both networks by name, without and with the position encoding."""
    output = Categorical(levels)
    chosen: dict[str, Any] = {}
    for suffix, positions in (("", None), (", positions", shape)):
        settings: dict[str, Any] = {"positions": positions, "dropout": config.dropout}
        chosen[f"LSTM{suffix}"] = RNN(output, config.features, num_layers=1, **settings)
        chosen[f"TemporalConv{suffix}"] = TemporalConv(output, config.channels, config.dilations, **settings)
    return dict(sorted(chosen.items()))


def draw_samples(samples: dict[str, np.ndarray], path: Path) -> None:
    """A square of images `Int[n * n, h, w]` for each network, side by side."""
    picture = plotting.figure(3 * len(samples), 3.3)
    for axes, (name, images) in zip(picture.subplots(1, len(samples)), samples.items(), strict=True):
        count, h, w = images.shape
        side = round(count**0.5)
        padded = np.pad(images, ((0, 0), (0, 1), (0, 1)), constant_values=images.max())
        tiles = padded.reshape(side, side, h + 1, w + 1).swapaxes(1, 2).reshape(side * (h + 1), -1)
        axes.imshow(tiles[:-1, :-1], cmap="gray", interpolation="nearest")
        axes.set_title(name)
        axes.set_axis_off()
    plotting.save(picture, path)


def draw_curves(histories: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Validation loss of all networks over the steps, and fainter the training loss."""
    picture = plotting.figure(6.4, 4)
    axes = picture.subplots()
    for i, (name, history) in enumerate(histories.items()):
        steps = [line["step"] for line in history]
        axes.plot(steps, [line["train_nats"] for line in history], color=f"C{i}", alpha=0.3)
        axes.plot(steps, [line["valid_nats"] for line in history], color=f"C{i}", label=name)
    axes.set(xlabel="step", ylabel="nats, validation (faint: training)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    plotting.save(picture, path)


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by network."""
    small = {"features": 8, "channels": 8, "dilations": (1, 2), "batch_size": 16, "steps": 2, "eval_every": 1}
    config = common.prepared(config, **small)
    images = common.load(config.data, config.data_dir, smoke=config.smoke)
    height, width, _ = images[0].event
    train, valid, test = (split.flat() for split in images)
    directory = config.directory / config.data

    nats = {"per-position histogram": common.histogram_nats(train, test)}
    histories, samples = {}, {"data": test.x[:64].reshape(-1, height, width)}
    noise = jax.random.uniform(jax.random.key(config.seed), (64, *test.event))
    for name, model in networks(config, train.levels, (height, width)).items():
        print(f"\n{name}")
        variables, histories[name] = common.fit(model, config, train, valid, directory / name, ema_decay=0.99)
        nats[name] = common.test_nats(model, variables, test)
        samples[name] = np.asarray(arjax.sample_from_noise(model, variables, noise)).reshape(-1, height, width)
    common.print_scores(nats, test.event)
    draw_samples(samples, directory / "samples.png")
    draw_curves(histories, directory / "curves.png")
    print(f"\ncheckpoints, metrics.jsonl, curves.png and samples.png are in {directory}")
    return common.record(config, nats, train, valid, test, directory=directory)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
