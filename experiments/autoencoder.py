"""A PixelCNN auto-encoder: convolutions turn an image into ten numbers h, a Gated PixelCNN decodes them.

Command: python -m experiments.autoencoder   (2 minutes on one CPU core)

Van den Oord et al. (2016b), section 2.5: both parts are trained end to end by the decoder's likelihood. Then the
decoder is used alone, `{"params": params["decoder"]}` with h as its `cond`. On the test set of scikit-learn's
digits, in bits/dim:

    per-position histogram                2.400
    decoder alone, without h              1.789
    auto-encoder, given h                 1.493
    auto-encoder, given another's h       5.727

These do not compare: h is computed from the very image that is scored, and what h itself costs is not counted. The
difference of the second and the third says how much of the image h carries, not which model is better. With the h
of the next image of the test set the decoder does worse than without one: it believes what h says.

The folder then holds reconstructions.png (a test image of each class, then eight samples of the decoder given its
h) and interpolations.png (between two images, samples given h on the straight line from the one's to the other's,
all of a row from the same noise), beside the checkpoints, metrics.jsonl and curves.png of both runs.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import tyro
from jax import Array

import arjax
from arjax import plotting
from arjax.data import Dataset
from arjax.distributions import Categorical
from arjax.layers import Deconvolution, Vector, scale
from arjax.models import GatedPixelCNN
from experiments import common


class Encoder(nn.Module):
    """Strided convolutions, then a dense layer to `features` numbers."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`Float[b, h, w, c] -> Float[b, features]`."""
        for width in (32, 64):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        return nn.Dense(self.features)(x.reshape(len(x), -1))


class AutoEncoder(nn.Module):
    """`p(x | h(x))`, which is no likelihood of x.

    Attributes:
        decoder: a model conditioned on a vector of length `features`.
        features: length of h.
    """

    decoder: Any
    features: int

    def setup(self):
        """Creates the encoder."""
        self.encoder = Encoder(self.features)

    @property
    def output(self) -> Any:
        """The decoder's output distribution."""
        return self.decoder.output

    def __call__(self, x: Array, cond: None = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, c]` to parameters `Float[b, h, w, c, num_params]`."""
        return self.decoder(x, self.encode(x), train=train)

    def encode(self, x: Array) -> Array:
        """Images `Int[b, h, w, c]` to h, `Float[b, features]`."""
        return self.encoder(scale(x, self.output.levels))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/autoencoder")
    """Where checkpoints, metrics and pictures go."""
    data: Literal["digits", "mnist"] = "digits"
    """Data set; mnist is rounded to 17 levels, as digits has."""
    data_dir: str | None = None
    """Where MNIST's files are; default $ARJAX_DATA_DIR."""
    bottleneck: int = 10
    """Length of h."""
    deconvolve: bool = False
    """Whether h is first turned into a map of the size of the image, so that it can say what is where."""
    features: int = 32
    """Channels of each stack of the decoder."""
    num_layers: int = 5
    """Gated layers of the decoder."""
    dropout: float = 0.5
    """Rate of dropout in the decoder's horizontal stack."""
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
    patience: int = 5
    """Evaluations without improvement before stopping."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def fit(model: Any, train: Dataset, valid: Dataset, directory: Path, config: Config) -> dict[str, Any]:
    """The parameters of `model`, trained or resumed."""
    variables, history = common.fit(model, config, train, valid, directory, ema_decay=0.99)
    plotting.curves(history, directory / "curves.png", event=train.event)
    return variables["params"]


def decoder(config: Config, conditioning: Any) -> Any:
    """The decoder, or without `conditioning` the same network alone."""
    return GatedPixelCNN(
        Categorical(17),
        features=config.features,
        num_layers=config.num_layers,
        first_kernel_size=5,
        conditioning=conditioning,
        dropout=config.dropout,
    )


def decode(decoder: Any, params: Any, h: np.ndarray, noise: Any) -> np.ndarray:
    """What the decoder makes of each `h[i, j]` and `noise[i, j]`: images `Int[j, i, *event]`."""
    event = noise.shape[2:]
    samples = arjax.sample_from_noise(
        decoder, {"params": params}, noise.reshape(-1, *event), h.reshape(-1, h.shape[-1])
    )
    return np.asarray(samples).reshape(noise.shape).swapaxes(0, 1)


def nats_of_another(model: AutoEncoder, params: Any, test: Dataset) -> float:
    """Nats of an image given the h of the next one: what the decoder loses if h is wrong."""
    x = test.x.astype(np.int32)
    h = np.asarray(model.apply({"params": params}, x, method="encode"))
    log_probs = arjax.log_prob(model.decoder, {"params": params["decoder"]}, x, np.roll(h, -1, 0))
    return -float(np.asarray(log_probs).mean(dtype=np.float64))


def draw_rows(columns: list[np.ndarray], path: Path) -> None:
    """Draws images, given column by column."""
    rows = np.stack(columns, 1)
    plotting.image_grid(rows.reshape(-1, *rows.shape[2:]), path, levels=17, columns=len(columns))


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    config = common.prepared(config, features=4, num_layers=2, steps=2, eval_every=1)
    splits = common.load(config.data, config.data_dir, smoke=config.smoke)
    train, valid, test = (split.quantize(17) for split in splits)
    size, directory = config.bottleneck, config.directory
    height, width, _ = test.event
    conditioning = Deconvolution(size, height, width) if config.deconvolve else Vector(size)
    with_h, alone = decoder(config, conditioning), decoder(config, None)
    model = AutoEncoder(with_h, size)
    params = fit(model, train, valid, directory / "autoencoder", config)
    params_alone = fit(alone, train, valid, directory / "decoder_alone", config)
    nats = {
        "per-position histogram": common.histogram_nats(train, test),
        "decoder alone, without h": common.test_nats(alone, {"params": params_alone}, test),
        "auto-encoder, given h": common.test_nats(model, {"params": params}, test),
        "auto-encoder, given another's h": nats_of_another(model, params, test),
    }
    common.print_scores(nats, test.event)
    print("(not comparable: h is computed from the image, and what it costs is not counted)")

    images = common.one_of_each(test).x.astype(np.int32)
    h = np.asarray(model.apply({"params": params}, images, method="encode"))
    noise = jax.random.uniform(jax.random.key(config.seed), (len(h), 8, *test.event))
    samples = decode(with_h, params["decoder"], np.repeat(h[:, None], 8, 1), noise)
    draw_rows([images, *samples], directory / "reconstructions.png")
    along = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
    between = h[:, None] * (1 - along) + np.roll(h, -1, 0)[:, None] * along
    samples = decode(with_h, params["decoder"], between, np.broadcast_to(noise[:, :1], noise.shape))
    draw_rows([images, *samples, np.roll(images, -1, 0)], directory / "interpolations.png")
    print(f"\ncheckpoints, metrics.jsonl, reconstructions.png and interpolations.png are in {directory}")
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
