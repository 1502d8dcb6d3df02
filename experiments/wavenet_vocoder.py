"""WaveNet as a vocoder: sound from its log-mel frames, by local conditioning through learned upsampling.

Command: python -m experiments.wavenet_vocoder --data ljspeech_16 --data-dir DATA   (13 min, 2 shared CPU cores)

Without --data the sounds are generated tones, and no files are needed.

Expect 4.85 bits per sample on the two test clips of ljspeech_16, after training on twelve clips, where the
histogram of values has 7.58. A frame stands for 10 ms and sees 40 ms. After so little the resynthesis follows the
loudness of the original loosely (their log envelopes have a correlation of 0.4) and its pitch hardly at all.

The folder then holds checkpoints, metrics.jsonl, curves.png, wav files of held-out sounds, original_0.wav and what
the model makes of its frames, resynthesis_0.wav, and so on; and their spectrograms.png.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from arjax import data, plotting
from arjax.data import Sequences, Windows
from arjax.distributions import Categorical
from arjax.layers.conditioning import Upsampling
from arjax.models import WaveNet
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/wavenet_vocoder")
    """Where checkpoints, metrics, pictures and sounds go."""
    data: str = "tones"
    """"tones", "ljspeech_16", "spoken_digit", or a folder of sounds."""
    data_dir: str | None = None
    """Where the files of ljspeech_16 are; default $ARJAX_DATA_DIR."""
    rate: int = 8000
    """Samples per second."""
    factors: tuple[int, ...] = (8, 10)
    """Strides of the upsampling; a frame stands for their product, the hop, in samples."""
    num_mels: int = 80
    """Bands of a frame."""
    cycles: int = 2
    """Cycles of dilations."""
    cycle_layers: int = 8
    """Layers of a cycle, with dilations 1, 2, 4, ..."""
    features: int = 48
    """Residual channels, and gated units of a layer."""
    skip_features: int = 128
    """Skip channels."""
    frames: int = 20
    """Frames scored of a window; what it sees before them is the receptive field."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 4
    """Windows per step."""
    steps: int = 1500
    """Updates."""
    eval_every: int = 150
    """Steps between evaluations on the validation set."""
    count: int = 5
    """Held-out sounds to make again."""
    seconds: float = 2.0
    """So much at most of each."""
    chunk: int = 10
    """Frames generated at a time."""
    temperature: float = 1.0
    """Below 1 sharpens every conditional in generation."""
    seed: int = 0
    """Seed of initialisation, data order and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates, makes held-out sounds again and draws them. Returns test nats per sample."""
    config = common.prepared(
        config, num_mels=8, cycles=1, cycle_layers=4, features=4, skip_features=4, frames=1, steps=4, eval_every=2
    )
    hop = math.prod(config.factors)
    frames: dict[str, Any] = {"features": "log_mel", "hop": hop, "num_mels": config.num_mels}
    sets = [
        dataclasses.replace(
            data.load_audio(config.data, split, data_dir=config.data_dir, rate=config.rate, **frames),
            labels=None,  # the frames are all that the model is told
            num_classes=None,
        )
        for split in data.SPLITS
    ]
    model = WaveNet(
        Categorical(sets[0].levels),
        dilations=config.cycles * tuple(2**i for i in range(config.cycle_layers)),
        features=config.features,
        gate_features=config.features,
        skip_features=config.skip_features,
        conditioning=Upsampling(config.num_mels, config.factors, config.features),
    )
    field = model.receptive_field
    print(f"receptive field: {field} samples, {1000 * field / config.rate:.1f} ms")
    context = math.ceil(field / hop) * hop
    train, valid, test = (Windows(split, config.frames * hop, context) for split in sets)
    if config.smoke:
        train, valid, test = (windows.take(slice(8)) for windows in (train, valid, test))

    variables, history = common.fit(
        model, config, train, valid, config.directory, ema_decay=0.99, conditional=True
    )
    nats = common.report_positions(
        "WaveNet, given frames", model, variables, history, train, test, config.directory, conditional=True
    )
    resynthesise(config, model, variables, sets[-1])
    print(f"\ncheckpoints, metrics.jsonl, curves.png, spectrograms.png and wav files are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def resynthesise(config: Config, model: WaveNet, variables: Any, test: Sequences) -> None:
    """Makes the first sounds of the test set from their frames, and writes and draws both."""
    longest = round(config.seconds * config.rate)
    originals = [test.sequence(i)[:longest] for i in range(min(config.count, len(test)))]
    length = max(map(len, originals))
    series = [test.frames(i)[: math.ceil(length / test.hop)] for i in range(len(originals))]
    most = max(map(len, series))
    frames = np.stack([np.pad(own, ((0, most - len(own)), (0, 0))) for own in series])
    samples = common.stream(
        model,
        variables,
        jax.random.key(config.seed),
        (len(originals), length),
        frames,
        chunk=config.chunk * test.hop,
        hop=test.hop,
        temperature=config.temperature,
    )
    waves, titles = [], []
    for i, (original, sample) in enumerate(zip(originals, samples, strict=True)):
        for what, codes in (("original", original), ("resynthesis", sample[: len(original)])):
            waves.append(np.asarray(data.mu_law_decode(codes, test.levels)))
            titles.append(f"{config.data} {i}: {what}")
            data.write_audio(config.directory / f"{what}_{i}.wav", waves[-1], config.rate)
    plotting.spectrograms(waves, config.directory / "spectrograms.png", rate=config.rate, columns=2, titles=titles)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
