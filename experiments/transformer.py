"""Transformer on texts, and on images in several orders of generation.

Command: python -m experiments.transformer text --data-dir DATA   (--help lists the variants)

Without --data-dir (or ARJAX_DATA_DIR) Tiny Shakespeare and binarized MNIST come from tensorflow-datasets. On the
validation text, nats per character; on the test images, bits/dim:

    variant    order                      measured    time
    text                                     1.449    5 minutes on 2 CPU cores (frequencies 3.333)
    digits     raster                        1.811    1.3 minutes each
               column                        1.792
               zigzag                        1.805
               serpentine                    1.831
               centre_out                    1.835
               random                        1.934
               any, one random order         2.175
               any, mixture of 8 orders      2.154
    mnist      raster                       108.85    nats, 300 steps of 2,000: 15 minutes each on one CPU core
               zigzag                       108.53    (histogram 205.79)

text: 4 layers of 128 channels read 128 characters. The validation text is scored in windows of 64 characters, each
after 64 of context. samples.txt holds a text as long as an event.

digits, mnist: the same network for each order of the pixels, trained anew for each, and last once for any order
(of which one random one and the mixture of eight are scored). Each order has a subfolder with checkpoints,
metrics.jsonl, curves.png and samples.png.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import jax
import numpy as np
import tyro

import arjax
from arjax import data, orderings, plotting
from arjax.data import Windows
from arjax.distributions import Categorical
from arjax.layers import Classes
from arjax.models import Transformer
from experiments import common

ANY: Final = "any"
Order = Literal["raster", "column", "zigzag", "serpentine", "centre_out", "random", "any"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of any run."""

    directory: Path
    """Where checkpoints, metrics, texts and pictures go."""
    dataset: str
    """Name of the data set."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    features: int = 128
    """Channels of every layer."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Heads of every attention."""
    num_key_heads: int = 0
    """Heads of keys and values; 0 for as many."""
    dropout: float = 0.0
    """Rate of dropout."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.1
    """AdamW's weight decay."""
    batch_size: int = 32
    """Examples per step."""
    steps: int = 2000
    """Updates."""
    eval_every: int = 500
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.99
    """Decay of the moving average of the parameters."""
    seed: int = 0
    """Seed of initialisation, data order, dropout, orders and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""

    tiny: ClassVar[dict[str, Any]] = {}
    """What shrinks in a smoke run, besides what does in any."""

    def network(self, event: tuple[int, ...], levels: int, **fields: Any) -> Transformer:
        """The model."""
        return Transformer(
            event,
            Categorical(levels),
            features=self.features,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_key_heads=self.num_key_heads,
            dropout=self.dropout,
            **fields,
        )

    def fit(self, model: Any, train: Any, valid: Any, directory: Path, **options: Any) -> tuple[Any, list[Any]]:
        """The averaged parameters of the best step, and the history."""
        variables, history = common.fit(model, self, train, valid, directory, **options)
        plotting.curves(history, directory / "curves.png", event=train.event)
        return variables, history


@dataclasses.dataclass(frozen=True)
class TextConfig(Config):
    """Settings of texts."""

    length: int = 128
    """Characters that the network reads; of them half are context in evaluation."""

    tiny: ClassVar[dict[str, Any]] = {"length": 16}


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    """Settings of images."""

    orders: tuple[Order, ...] = ("raster", "column", "zigzag", "serpentine", "centre_out", "random", ANY)
    """Orders of generation, see `arjax.orderings`; "any" for one network that serves all of them."""
    by_class: bool = False
    """Whether the model is conditioned on the class."""

    tiny: ClassVar[dict[str, Any]] = {"orders": ("zigzag", ANY)}


RUNS = Path("runs/transformer")
VARIANTS: dict[str, tuple[str, TextConfig | ImageConfig]] = {
    "text": (
        "Tiny Shakespeare by characters",
        TextConfig(RUNS / "text", "tiny_shakespeare", steps=1400, eval_every=200),
    ),
    "digits": (
        "8x8 digits by class, in seven orders",
        ImageConfig(
            RUNS / "digits",
            "digits",
            features=96,
            dropout=0.2,
            steps=600,
            eval_every=100,
            batch_size=50,
            by_class=True,
        ),
    ),
    "mnist": (
        "binarized MNIST in three orders",
        ImageConfig(
            RUNS / "mnist",
            "binarized_mnist",
            num_key_heads=1,
            steps=2000,
            batch_size=16,
            orders=("raster", "zigzag", ANY),
        ),
    ),
}


def main(config: TextConfig | ImageConfig) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns nats by model: per character, or per image."""
    small = {"features": 8, "num_layers": 1, "num_heads": 2, "batch_size": 16, "steps": 2, "eval_every": 1}
    config = common.prepared(config, **small, **config.tiny)
    return text(config) if isinstance(config, TextConfig) else images(config)


def text(config: TextConfig) -> dict[str, float]:
    """A text, by characters."""
    loaded = [data.load_text(config.dataset, split, data_dir=config.data_dir) for split in ("train", "valid")]
    splits = [sequences.head(4096) if config.smoke else sequences for sequences, _ in loaded]
    vocabulary = loaded[0][1]
    half = config.length // 2
    train, valid = Windows(splits[0], config.length), Windows(splits[1], half, half)
    model = config.network((config.length,), vocabulary.levels, positions="rotary")
    variables, history = config.fit(model, train, valid, config.directory)
    common.keep_vocabulary(config.directory, vocabulary)
    counts = np.bincount(splits[0].x, minlength=vocabulary.levels) + 1
    best = min(line["valid_bits_per_dim"] for line in history) * math.log(2)
    nats = {
        "frequencies of characters": float(-np.log(counts / counts.sum())[splits[1].x].mean()),
        "Transformer": best,
    }
    print(f"\n{'validation text':32}{'nats':>10}{'bits':>10}")
    for name, value in nats.items():
        print(f"{name:32}{value:10.3f}{value / math.log(2):10.3f}")
    samples = arjax.sample(model, variables, jax.random.key(config.seed), (4, config.length), temperature=0.8)
    texts = [vocabulary.decode(np.asarray(sample)) for sample in samples]
    (config.directory / "samples.txt").write_text("\n---\n".join(texts))
    print(f"\n{texts[0]}\n\ncheckpoints, metrics.jsonl, curves.png and samples.txt are in {config.directory}")
    return common.record(config, nats, train, valid)


def images(config: ImageConfig) -> dict[str, float]:
    """Images in several orders."""
    train, valid, test = common.load(config.dataset, config.data_dir, smoke=config.smoke)
    nats = {"per-position histogram": common.histogram_nats(train, test)}
    for name in config.orders:
        order = None if name == ANY else tuple(map(int, ranks(name, train.event[:2], config.seed).ravel()))
        model = config.network(
            train.event,
            train.levels,
            ordering=order,
            order_agnostic=name == ANY,
            conditioning=Classes(10) if config.by_class else None,
        )
        directory = config.directory / name
        variables, _ = config.fit(model, train, valid.take(slice(1000)), directory, conditional=config.by_class)
        nats[f"{name}, one random order" if name == ANY else name] = common.test_nats(
            model, variables, test, conditional=config.by_class
        )
        if name == ANY:
            log_probs = [
                arjax.ensemble_log_prob(
                    model,
                    variables,
                    np.arange(8),
                    batch["x"],
                    batch["label"] if config.by_class else None,
                    chunk=1,
                )
                for batch in data.epoch_batches(test, 100)
            ]
            nats[f"{name}, mixture of 8 orders"] = -float(np.concatenate(log_probs).mean(dtype=np.float64))
        common.draw_samples(model, variables, directory, test.event, seed=config.seed)
    common.print_scores(nats, test.event)
    print(f"\ncheckpoints, metrics, curves and samples of each order are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def ranks(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The order of this name."""
    if name == "random":
        return np.asarray(orderings.random(jax.random.key(seed), shape))
    return getattr(orderings, name)(shape)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
