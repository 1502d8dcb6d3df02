"""Lossless files: a model's bits beside PNG, WebP, FLAC, zlib and xz on the same data, and what they cost in time.

Command: python -m experiments.compression --data-dir DATA --runs runs/digits

Two small Gated PixelCNNs are trained on MNIST (5 layers of 32 channels): on the pixels rounded to two levels, and
on all 256 with mixtures of logistics. Then the test set is compressed and decompressed, and so is the test set of
each of `--runs`, folders that other experiments left: of images (digits), of sounds (wavenet_speech) or text
(char_rnn). All must come back to the last bit, or the experiment fails.

The table has bits per dimension: `-log2 p`, the range coder's output, and the file with its header. zlib (level 9)
and xz (preset 9) get all the data at once, of two levels packed to bits; PNG and WebP one sheet of all images,
which is kinder to them than a file for each; FLAC a file for each sound. The parameters, which both sides need,
are not counted; how many they are is said, and so is how long the cached sampler takes for as many events, in
turns with the compressor.

Expect, of the whole test sets, in bits/dim (`--steps 800 --lanes 1000 --runs runs/digits runs/wavenet_speech
runs/char_rnn/tiny_shakespeare`, the latter two after 400 and 600 steps; 9 minutes on 2 CPU cores), and as shares
of the cached sampler's time:

                       -log2 p    coder     file     zlib       xz      PNG     WebP     FLAC   write   read
    MNIST, 2 levels     0.1238   0.1239   0.1240   0.2800   0.2270   0.3302   0.2987      -      0.99   1.05
    MNIST, 256          1.2345   1.2348   1.2348   1.6347   1.3922   1.6790   1.5397      -      1.16   1.14
    digits              1.7035   1.7040   1.7321   3.1181   2.7632   3.7582   3.0516      -      0.99   0.99
    ten spoken digits   5.8833   5.8836   5.8965   7.5560   6.1891      -        -     6.3925   1.80   1.77
    Shakespeare         2.2826   2.2831   2.2947   3.3159   3.1334      -        -        -     2.98   3.16

Each position costs a call from the compiled loop to Python of 0.2 to 0.4 ms, most of it JAX's hand-over: of 1,000
images at once it is little, of a single text most of the time.
"""

import dataclasses
import io
import lzma
import math
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from PIL import Image

import arjax
from arjax import checkpoints, compression, data, plotting
from arjax.data import Dataset
from arjax.distributions import Bernoulli, DiscretizedLogisticMixture
from arjax.extras import require
from arjax.layers.conditioning import num_classes
from arjax.models import GatedPixelCNN
from benchmarks.common import fewest_seconds
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/compression")
    """Where the two models of MNIST and results.json go."""
    data_dir: str | None = None
    """Where the files of the data sets are; default $ARJAX_DATA_DIR."""
    mnist: bool = True
    """Whether MNIST is among the data."""
    runs: tuple[Path, ...] = ()
    """Folders of other experiments, of images, sounds or text, whose test sets are also compressed."""
    events: int | None = None
    """Examples compressed of each set at most; ten of sounds. By default all."""
    features: int = 32
    """Channels of each stack."""
    num_layers: int = 5
    """Gated layers."""
    num_mixtures: int = 5
    """Logistics in a mixture."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    batch_size: int = 32
    """Examples per step."""
    steps: int = 1200
    """Updates."""
    eval_every: int = 300
    """Steps between evaluations on the first 1,000 examples of the validation set."""
    lanes: int = compression.LANES
    """Examples coded at once."""
    seconds: float = 5.0
    """How long each program is timed."""
    seed: int = 0
    """Seed of initialisation, data order and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and what it is to compress."""

    name: str
    model: Any
    variables: Any
    x: np.ndarray
    levels: int
    cond: Any = None
    rate: int | None = None


def train(config: Config, levels: int) -> Task:
    """A model of MNIST with so many levels, trained or resumed, and the test set."""
    splits = [split.quantize(levels) for split in common.load("mnist", config.data_dir, smoke=config.smoke)]
    output: Any = Bernoulli() if levels == 2 else DiscretizedLogisticMixture(config.num_mixtures, levels)
    model = GatedPixelCNN(
        output, features=config.features, num_layers=config.num_layers, head_features=2 * config.features
    )
    directory = config.directory / f"mnist_{levels}"
    variables, history = common.fit(
        model, config, splits[0], splits[1].take(slice(1000)), directory, ema_decay=0.99
    )
    plotting.curves(history, directory / "curves.png", event=splits[0].event)
    return Task(f"MNIST, {levels} levels", model, variables, splits[2].x, levels)


def of_run(directory: Path, data_dir: str | None) -> Task:
    """The model of a run's folder and the test set of its data: all images, ten sounds of one length, all text.

    Raises:
        ValueError: the run is not one of images with classes or without, of sounds with classes, or of text.
    """
    model, variables = checkpoints.load(directory, modules=("experiments",))
    about = checkpoints.load_data(directory)
    levels, name = about["levels"], about["name"]
    if len(about["event"]) == 3:
        test: Dataset = data.load(name, "test", data_dir=data_dir).quantize(levels)
        cond = None if num_classes(model) is None else np.asarray(test.labels, np.int32)
        return Task(name, model, variables, test.x, levels, cond)
    settings = common.settings_of(directory)
    if "rate" not in settings:
        text, _ = data.load_text(name, "test", data_dir=data_dir)
        return Task(name, model, variables, text.sequence(0)[None], levels)
    coding: dict[str, Any] = {"levels": levels, "encoding": "linear"} if levels > 256 else {}
    sounds = data.load_audio(name, "test", data_dir=data_dir, rate=settings["rate"], **coding)
    chosen = np.argsort(-sounds.lengths, kind="stable")[:10]
    length = int(sounds.lengths[chosen].min())
    x = np.stack([sounds.sequence(int(i))[:length] for i in chosen])
    labels = jax.tree.map(lambda leaf: leaf[chosen].astype(np.int32), sounds.labels)
    return Task(name, model, variables, x, levels, labels, settings["rate"])


def others(task: Task) -> dict[str, int]:
    """Bytes of the data by the usual programs."""
    dtype = np.uint8 if task.levels <= 256 else np.dtype("<i2")
    shifted = task.x if task.levels <= 256 else task.x - task.levels // 2
    plain = (np.packbits(task.x) if task.levels == 2 else shifted.astype(dtype)).tobytes()
    sizes = {"zlib": len(zlib.compress(plain, 9)), "xz": len(lzma.compress(plain, preset=9))}
    if task.x.ndim == 4:
        image = sheet(task.x, task.levels)
        sizes["PNG"] = written(image.convert("1") if task.levels == 2 else image, "PNG", optimize=True)
        sizes["WebP"] = written(image.convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    if task.rate:
        soundfile = require("soundfile", "audio")
        samples = shifted if task.levels > 256 else task.x - task.levels // 2
        kind = "PCM_16" if task.levels > 256 else "PCM_S8"
        sizes["FLAC"] = 0
        for sound in samples:
            file = io.BytesIO()
            own = sound.astype(np.int16) * (1 if task.levels > 256 else 256)
            soundfile.write(file, own, task.rate, format="FLAC", subtype=kind)
            sizes["FLAC"] += file.getbuffer().nbytes
    return sizes


def sheet(x: np.ndarray, levels: int) -> Image.Image:
    """All images as one, black to white where there are two levels, else the levels themselves."""
    n, height, width, channels = x.shape
    columns = math.ceil(math.sqrt(n))
    tiles = np.zeros((columns * columns, height, width, channels), np.uint8)
    tiles[:n] = x * (255 if levels == 2 else 1)
    tiles = tiles[: math.ceil(n / columns) * columns]
    grid = tiles.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(-1, columns * width, channels)
    return Image.fromarray(grid[..., 0] if channels == 1 else grid)


def written(image: Image.Image, kind: str, **options: Any) -> int:
    """Bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getbuffer().nbytes


def shortest_seconds(task: Task, config: Config) -> dict[str, float]:
    """Of the cached sampler, of compression and of decompression in turns, `lanes` examples at most.

    Of sequences their first 4,096 positions.
    """
    model, variables = task.model, task.variables
    x = task.x[: config.lanes].astype(np.int32)
    cond = jax.tree.map(lambda leaf: leaf[: config.lanes], task.cond)
    if x.ndim == 2:
        x = x[:, :4096]
    key = jax.random.key(config.seed)
    packed = compression.compress(model, variables, x, cond, lanes=config.lanes)

    def sample() -> Any:
        if x.ndim > 2:
            return arjax.sample(model, variables, key, x.shape, cond)
        return common.stream(model, variables, key, x.shape, cond, chunk=min(compression.CHUNK, x.shape[1]))

    programs = {
        "sample": sample,
        "compress": lambda: compression.compress(model, variables, x, cond, lanes=config.lanes),
        "decompress": lambda: compression.decompress(model, variables, packed, cond),
    }
    times, _ = fewest_seconds(programs, 0.0 if config.smoke else config.seconds)
    return times


def measure(task: Task, config: Config) -> dict[str, Any]:
    """The sizes in bytes and the times in seconds. Raises `ValueError` if what comes back is not what went in."""
    x, cond, model, variables = task.x.astype(np.int32), task.cond, task.model, task.variables
    start = time.perf_counter()
    packed = compression.compress(model, variables, x, cond, lanes=config.lanes, progress=True)
    half = time.perf_counter()
    back = compression.decompress(model, variables, packed, cond, progress=True)
    end = time.perf_counter()
    if not np.array_equal(back, x):
        raise ValueError(f"{task.name}: what comes back differs, wanted it to the last bit")
    log_probs = [
        np.asarray(arjax.log_prob(model, variables, x[i : i + 100], jax.tree.map(lambda a: a[i : i + 100], cond)))  # noqa: B023
        for i in range(0, len(x), 100)
    ]
    return {
        "events": len(x),
        "dimensions": x.size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
        "-log2 p": -float(np.concatenate(log_probs).sum(dtype=np.float64)) / math.log(2) / 8,
        "range coder": compression.payload_bits(packed) / 8,
        "file": len(packed),
        **others(task),
        "compress seconds": half - start,
        "decompress seconds": end - half,
        "shortest seconds": shortest_seconds(task, config),
    }


def main(config: Config) -> dict[str, dict[str, Any]]:
    """Trains or resumes, compresses, decompresses, compares. Returns the rows of the table."""
    config = common.prepared(
        config, features=4, num_layers=1, num_mixtures=2, steps=2, eval_every=1, events=6, lanes=4
    )
    tasks = [train(config, levels) for levels in (2, 256)] if config.mnist else []
    tasks += [of_run(directory, config.data_dir) for directory in config.runs]
    results = {}
    for task in tasks:
        count = slice(config.events)
        cut = dataclasses.replace(task, x=task.x[count], cond=jax.tree.map(lambda leaf: leaf[count], task.cond))  # noqa: B023
        results[task.name] = row = measure(cut, config)
        print(f"\n{task.name}: {row['events']} examples, a model of {row['parameters']} parameters")
        for name, value in row.items():
            if name in ("-log2 p", "range coder", "file", "zlib", "xz", "PNG", "WebP", "FLAC"):
                print(f"{name:20}{8 * value / row['dimensions']:10.4f} bits/dim{value:14.0f} bytes")
        times = row["shortest seconds"]
        for name in ("compress", "decompress"):
            ratio = times[name] / times["sample"]
            print(f"{name:20}{row[f'{name} seconds']:10.1f} s; in turns {ratio:.2f} times the cached sampler")
    print(f"\nmodels, curves.png and results.json are in {config.directory}")
    sets = [Dataset(task.x, levels=task.levels, name=task.name, split="test") for task in tasks]
    return common.record(config, results, *sets)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
