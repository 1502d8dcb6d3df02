"""WaveNet on raw audio, conditioned on the class: spoken digits by ten digits and five speakers, or tones.

Command: python -m experiments.wavenet_speech --data spoken_digit --data-dir DATA   (15 min, 2 shared CPU cores)

Without --data the sounds are generated tones of five timbres, and no files are needed.

Expect 4.18 bits per sample on the test set of spoken_digit, where the histogram of values has 7.22. These are
bits of 8-bit mu-law; those of `--output mixture`, a mixture of logistics over 16-bit samples, compare with its
own histogram alone. After this training many samples have a speaker's loudness, energy below 1 kHz and an envelope
like a voice's; harmonics are blurred and no digit is to be recognised.

The folder then holds checkpoints, metrics.jsonl, curves.png, a wav file for each class (and speaker), generated in
chunks from a state of constant size, and spectrograms.png: recordings of the test set, each beside two samples of
its class.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from arjax import data, plotting
from arjax.data import Sequences, Windows
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes
from arjax.layers.conditioning import Several
from arjax.models import WaveNet
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/wavenet_speech")
    """Where checkpoints, metrics, pictures and sounds go."""
    data: str = "tones"
    """"tones", "spoken_digit", or a folder of sounds whose subfolders are classes."""
    data_dir: str | None = None
    """Where the files of spoken_digit are; default $ARJAX_DATA_DIR."""
    rate: int = 8000
    """Samples per second."""
    output: Literal["categorical", "mixture"] = "categorical"
    """256 levels of mu-law, or a mixture of ten logistics over 65,536 levels."""
    cycles: int = 2
    """Cycles of dilations."""
    cycle_layers: int = 9
    """Layers of a cycle, with dilations 1, 2, 4, ..."""
    features: int = 48
    """Residual channels, and gated units of a layer."""
    skip_features: int = 128
    """Skip channels."""
    length: int = 2048
    """Samples scored of a window; what it sees before them is the receptive field."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 4
    """Windows per step."""
    steps: int = 2500
    """Updates."""
    eval_every: int = 250
    """Steps between evaluations on a fifth of the validation set."""
    seconds: float = 0.5
    """Duration of a generated sound."""
    chunk: int = 800
    """Samples generated at a time."""
    temperature: float = 1.0
    """Below 1 sharpens every conditional in generation."""
    seed: int = 0
    """Seed of initialisation, data order and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates, generates and draws. Returns test nats per sample by model."""
    config = common.prepared(
        config, cycles=1, cycle_layers=4, features=4, skip_features=4, length=64, steps=4, eval_every=2, chunk=64
    )
    mixture = config.output == "mixture"
    coding: dict[str, Any] = {"levels": 65_536, "encoding": "linear"} if mixture else {}
    sets = [
        data.load_audio(config.data, split, data_dir=config.data_dir, rate=config.rate, **coding)
        for split in data.SPLITS
    ]
    levels, classes = sets[0].levels, sets[0].num_classes
    model = WaveNet(
        DiscretizedLogisticMixture(10, levels) if mixture else Categorical(levels),
        dilations=config.cycles * tuple(2**i for i in range(config.cycle_layers)),
        features=config.features,
        gate_features=config.features,
        skip_features=config.skip_features,
        entry="scalar" if mixture else "embedding",
        conditioning=Several(tuple(map(Classes, classes))) if isinstance(classes, tuple) else Classes(classes),
    )
    field = model.receptive_field
    print(f"receptive field: {field} samples, {1000 * field / config.rate:.1f} ms")
    train, valid, test = (Windows(split, config.length, context=field) for split in sets)
    if config.smoke:
        train, valid, test = (windows.take(slice(8)) for windows in (train, valid, test))

    held_out = valid.take(slice(None, None, 5))
    variables, history = common.fit(
        model, config, train, held_out, config.directory, ema_decay=0.99, conditional=True
    )
    nats = common.report_positions(
        "WaveNet", model, variables, history, train, test, config.directory, conditional=True
    )
    generate(config, model, variables, sets[-1])
    print(f"\ncheckpoints, metrics.jsonl, curves.png, spectrograms.png and wav files are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def generate(config: Config, model: WaveNet, variables: Any, test: Sequences) -> None:
    """Writes a sound for each class, and draws some, two of a class, beside a recording of the test set."""
    sizes, labels = jax.tree.leaves(test.num_classes), np.stack(jax.tree.leaves(test.labels), -1)
    classes = np.array(list(itertools.product(*map(range, sizes))))
    columns = tuple(np.concatenate([classes, classes]).T)
    samples = common.stream(
        model,
        variables,
        jax.random.key(config.seed),
        (2 * len(classes), round(config.seconds * config.rate)),
        columns if len(sizes) > 1 else columns[0],
        chunk=config.chunk,
        temperature=config.temperature,
    )
    decode = data.linear_decode if config.output == "mixture" else data.mu_law_decode
    waves = np.asarray(decode(samples, test.levels)).reshape(2, len(classes), -1)
    names = ["_".join(map(str, label)) for label in classes]
    for name, wave in zip(names, waves[0], strict=True):
        data.write_audio(config.directory / f"class_{name}.wav", wave, config.rate)

    shown, titles = [], []
    for row, first in enumerate(np.linspace(0, sizes[0] - 1, min(5, sizes[0])).astype(int)):
        label = np.array([first, *(row % size for size in sizes[1:])])
        (i,), *_ = np.argwhere((classes == label).all(1))
        for j in np.flatnonzero((labels == label).all(1))[:1]:
            real = np.asarray(decode(test.sequence(j), test.levels))[: waves.shape[-1]]
            shown += [real, waves[0, i], waves[1, i]]
            titles += [f"{config.data} {names[i]}: {what}" for what in ("recording", "sample", "sample")]
    plotting.spectrograms(shown, config.directory / "spectrograms.png", rate=config.rate, columns=3, titles=titles)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
