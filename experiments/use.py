"""What a trained model is for: samples, completions, scores, lossless files and features, of any run's folder.

Command: python -m experiments.use RUN sample | complete | score | compress | decompress | features

RUN is a folder with checkpoints, as an experiment leaves it. Files go in and come out in the formats of the data:
images as PNG (one, or a folder of them), sounds as WAV, text as txt, and integers of any model as npz, with the
data as `x` and classes, if there are any, as `label`. For example, after `python -m experiments.digits`:

    python -m experiments.use runs/digits sample samples.npz --count 20
    python -m experiments.use runs/digits score samples.npz
    python -m experiments.use runs/digits compress samples.npz samples.arjax
    python -m experiments.use runs/digits decompress samples.arjax again.npz
    python -m experiments.use runs/digits complete samples.npz completions.png --known 0.5
    python -m experiments.use runs/digits features samples.npz features.npz

A compressed file does not hold classes: `decompress` has to be told what `compress` was (`--label`, or `--labels`
with the npz that has them; by default those in a `.labels.npz` that `compress` writes beside the file).
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from tqdm import tqdm

import arjax
from arjax import checkpoints, compression, data, fisher, plotting
from arjax.data import Vocabulary
from arjax.data.files import read_image, read_images, read_npz
from arjax.extras import require
from arjax.layers.conditioning import num_classes
from arjax.likelihood import nats_to_bits_per_dim
from experiments import common

File = tyro.conf.Positional[Path]


class Run(NamedTuple):
    """A trained model and what it was trained on."""

    model: Any
    variables: Any
    event: tuple[int, ...]
    levels: int
    vocabulary: Vocabulary | None
    rate: int | None
    encoding: str

    @property
    def is_image(self) -> bool:
        """Whether its data are images."""
        return len(self.event) == 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw new data."""

    out: File
    """Where to: npz, or a grid of images (png), the first sound (wav), texts (txt)."""
    count: int = 10
    """How many; of a model of classes, of each in turn."""
    length: int | None = None
    """Positions of a sequence; by default those of training."""
    label: int | None = None
    """Class of all samples; by default 0, 1, 2, ... in turn."""
    temperature: float = 1.0
    """Below 1 keeps to what is likely."""
    top_p: float | None = None
    """Draw from the most probable values alone whose probabilities sum to this."""
    seed: int = 0
    """Another seed, other samples."""


@dataclasses.dataclass(frozen=True)
class Complete:
    """Keep the beginning of what is given and draw the rest."""

    data: File
    """What to complete: npz, png or a folder of pngs, wav, txt."""
    out: File
    """Where to: npz, or png (a row for each image: its known part, completions, itself), wav, txt."""
    known: float = 0.5
    """Part of the rows of an image, or of the positions of a sequence, that is kept."""
    count: int = 4
    """Completions of each."""
    length: int | None = None
    """Positions of a completed sequence; by default as many as were given."""
    label: int | None = None
    """Class of all, if the file has none."""
    temperature: float = 1.0
    """Below 1 keeps to what is likely."""
    seed: int = 0
    """Another seed, other completions."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Print the log-likelihood of each example."""

    data: File
    """What to score: npz, png or a folder of pngs, wav, txt."""
    label: int | None = None
    """Class of all, if the file has none."""


@dataclasses.dataclass(frozen=True)
class Compress:
    """Write a file of as many bits as the likelihood says."""

    data: File
    """What to compress: npz, png or a folder of pngs, wav, txt."""
    out: File
    """The compressed file."""
    label: int | None = None
    """Class of all, if the file has none."""


@dataclasses.dataclass(frozen=True)
class Decompress:
    """Read such a file, to the last bit."""

    data: File
    """The compressed file."""
    out: File
    """Where to: npz, png (of several images a folder), wav, txt."""
    label: int | None = None
    """Class of all, as given to compress."""
    labels: Path | None = None
    """An npz with the classes, as `label`."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Write the projected Fisher score of each example."""

    data: File
    """Whose features: npz, png or a folder of pngs, wav, txt."""
    out: File
    """An npz, with the features as `features`."""
    size: int = 1024
    """Numbers of each example."""
    layers: str | None = None
    """A regular expression: only parameters in whose name it is found count."""
    label: int | None = None
    """Class of all, if the file has none."""


Command = Sample | Complete | Score | Compress | Decompress | Features


@dataclasses.dataclass(frozen=True)
class Config:
    """A run and what to do with it."""

    run: File
    """The run's folder."""
    command: Annotated[Command, tyro.conf.arg(name="")]
    """What to do."""


def open_run(directory: Path) -> Run:
    """The run in a folder.

    Raises:
        FileNotFoundError: there is no checkpoint; runs in its subfolders are named.
        ValueError: as `arjax.checkpoints.load`.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no folder {directory}, wanted that of a run, such as runs/digits")
    if not checkpoints.steps(directory):
        inner = sorted(str(path.parent) for path in directory.rglob("checkpoints") if path.parent != directory)
        raise FileNotFoundError(
            f"no checkpoint in {directory}, wanted one of {', '.join(inner) or 'a run that has'}"
        )
    model, variables = checkpoints.load(directory, modules=("experiments",))
    about = checkpoints.load_data(directory)
    symbols = read_json(directory / "vocabulary.json")
    event = tuple(about["event"])
    vocabulary = Vocabulary(symbols) if symbols else None
    encoding = "linear" if about["levels"] > 256 else "mu_law"
    rate = common.settings_of(directory).get("rate")
    return Run(model, variables, event, about["levels"], vocabulary, rate, encoding)


def read_json(path: Path) -> Any:
    """What a JSON file holds, None if there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def read(run: Run, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Data of a file as integers `(n, *event)`, and their labels or None.

    Raises:
        ValueError: a file of a kind that the run's data are not, or not readable.
        FileNotFoundError: there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "x" not in arrays:
            raise ValueError(f"{path}: an array x is wanted, got {', '.join(arrays)}")
        return arrays["x"], arrays.get("label")
    if run.is_image and (path.is_dir() or path.suffix == ".png"):
        images, labels = read_images(path) if path.is_dir() else (read_image(path)[None], None)
        if images.shape[1:] != run.event:
            raise ValueError(f"{path}: images of shape {run.event} are wanted, got {images.shape[1:]}")
        grey = images.astype(np.int64) * (255 if images.max() < 2 else 1)  # of black and white pictures
        return np.rint(grey * (run.levels - 1) / 255).astype(np.int32), labels
    if run.rate and path.suffix in (".wav", ".flac"):
        encode = data.linear_encode if run.encoding == "linear" else data.mu_law_encode
        return np.asarray(encode(data.read_audio(path, run.rate), run.levels))[None], None
    if run.vocabulary and path.suffix == ".txt":
        return run.vocabulary.encode(path.read_text(encoding="utf-8"))[None], None
    raise ValueError(f"{path}: a file of {kinds(run)} is wanted")


def kinds(run: Run) -> str:
    """The formats of a run's data."""
    own = "png" if run.is_image else "wav" if run.rate else "txt" if run.vocabulary else ""
    return f"{own} or npz" if own else "npz"


def write(run: Run, path: Path, x: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Writes integers in the format that the path's name says; of several images as PNG a folder.

    Raises:
        ValueError: a format that the run's data do not have.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {"x": x} if labels is None else {"x": x, "label": labels}
        np.savez_compressed(path, **arrays)
    elif run.is_image and path.suffix in (".png", ""):
        pillow = require("PIL.Image", "experiments")
        grey = (x * 255 // (run.levels - 1)).astype(np.uint8)
        folder = path if path.suffix == "" else path.with_suffix("")
        names = [path] if len(x) == 1 else [folder / f"{i:05}.png" for i in range(len(x))]
        names[0].parent.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, grey, strict=True):
            pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(name)
    elif run.rate and path.suffix == ".wav":
        decode = data.linear_decode if run.encoding == "linear" else data.mu_law_decode
        data.write_audio(path, np.asarray(decode(x[0], run.levels)), run.rate)
    elif run.vocabulary and path.suffix == ".txt":
        path.write_text("\n-----\n".join(run.vocabulary.decode(row) for row in x), encoding="utf-8")
    else:
        raise ValueError(f"{path}: a file of {kinds(run)} is wanted")
    print(f"{path if path.exists() else path.with_suffix('')}: {len(x)} of shape {x.shape[1:]}")


def classes(run: Run, count: int, given: np.ndarray | None, label: int | None) -> np.ndarray | None:
    """The labels of `count` examples, None for a model without classes.

    Raises:
        ValueError: the model wants labels and there are none, or it is conditioned on something else.
    """
    number = num_classes(run.model)
    if getattr(run.model, "conditioning", None) is None:
        return None
    if number is None:
        kind = type(run.model.conditioning).__name__
        raise ValueError(
            f"a model of classes or without conditioning is wanted, this one is conditioned by {kind}"
        )
    if label is not None:
        return np.full(count, label, np.int32)
    if given is None:
        raise ValueError(f"this model has classes 0..{number - 1}: --label or an npz with label is wanted")
    return given.astype(np.int32)


def sample(run: Run, command: Sample) -> None:
    """Draws data and writes them."""
    number = num_classes(run.model)
    turn = None if number is None else np.arange(command.count) % number
    labels = classes(run, command.count, turn, command.label)
    shape = (command.count, *run.event) if command.length is None else (command.count, command.length)
    options = {"temperature": command.temperature, "top_p": command.top_p}
    x = draw(run, shape, labels, command.seed, options)
    if run.is_image and command.out.suffix == ".png":
        command.out.parent.mkdir(parents=True, exist_ok=True)
        plotting.image_grid(x, command.out, levels=run.levels, columns=min(10, len(x)))
        print(f"{command.out}: {len(x)} images")
    else:
        write(run, command.out, x, labels)


def draw(run: Run, shape: tuple[int, ...], labels: Any, seed: int, options: dict[str, Any]) -> np.ndarray:
    """Samples, sequences in chunks with a bar."""
    key = jax.random.key(seed)
    if len(shape) == 2 and is_endless(run, labels):
        return common.stream(run.model, run.variables, key, shape, labels, chunk=min(256, shape[1]), **options)
    return np.asarray(arjax.sample(run.model, run.variables, key, shape, labels, **options))


def is_endless(run: Run, labels: Any) -> bool:
    """Whether the model is one of sequences of any length."""
    try:
        rows = 1 if labels is None else len(labels)
        state = arjax.start(run.model, run.variables, np.zeros((rows, 0), np.int32), labels)
    except ValueError:
        return False
    return state.length is None


def complete(run: Run, command: Complete) -> None:
    """Draws completions and writes them, all of an example one after the other."""
    x, given = read(run, command.data)
    if not 0 <= command.known <= 1:
        raise ValueError(f"--known: a part of 0 to 1 is wanted, got {command.known}")
    labels = classes(run, len(x), given, command.label)
    repeated = None if labels is None else np.repeat(labels, command.count)
    known = round(command.known * x.shape[1])
    key, rows = jax.random.key(command.seed), np.repeat(x, command.count, 0).astype(np.int32)
    if x.ndim == 2 and is_endless(run, labels):
        length = command.length or x.shape[1]
        state = arjax.start(run.model, run.variables, rows[:, :known], repeated)
        parts = [rows[:, :known]]
        for start in tqdm(range(known, length, 256), "completing", unit="chunk", disable=None):
            noise = jax.random.uniform(jax.random.fold_in(key, start), (len(rows), 256))
            state, part = arjax.extend(
                run.model, run.variables, state, noise, repeated, temperature=command.temperature
            )
            parts.append(np.asarray(part))
        done = np.concatenate(parts, 1)[:, :length]
    else:
        mask = np.broadcast_to(np.arange(x.shape[1]) < known, (1, x.shape[1])).reshape(1, -1, *[1] * (x.ndim - 2))
        evidence = rows, np.broadcast_to(mask, rows.shape)
        done = np.asarray(
            arjax.sample(
                run.model,
                run.variables,
                key,
                rows.shape,
                repeated,
                evidence=evidence,
                temperature=command.temperature,
            )
        )
    if run.is_image and command.out.suffix == ".png":
        seen = x * (np.arange(x.shape[1]) < known)[None, :, None, None]
        grid = np.concatenate([seen[:, None], done.reshape(len(x), command.count, *x.shape[1:]), x[:, None]], 1)
        command.out.parent.mkdir(parents=True, exist_ok=True)
        plotting.image_grid(
            grid.reshape(-1, *x.shape[1:]), command.out, levels=run.levels, columns=command.count + 2
        )
        print(f"{command.out}: {len(x)} images, each with its known part, {command.count} completions, itself")
    else:
        write(run, command.out, done, repeated)


def score(run: Run, command: Score) -> None:
    """Prints nats and bits/dim."""
    x, given = read(run, command.data)
    labels = classes(run, len(x), given, command.label)
    nats = []
    for first in tqdm(range(0, len(x), 100), "scoring", unit="batch", disable=None):
        part = slice(first, first + 100)
        nats.append(arjax.log_prob(run.model, run.variables, x[part], None if labels is None else labels[part]))
    log_probs = np.concatenate([np.asarray(part, np.float64) for part in nats])
    print(f"{'example':>8}{'log-probability, nats':>24}{'bits/dim':>10}")
    for i, value in enumerate(log_probs):
        print(f"{i:8}{value:24.3f}{nats_to_bits_per_dim(-value, x.shape[1:]):10.4f}")
    mean = log_probs.mean()
    print(f"{'mean':>8}{mean:24.3f}{nats_to_bits_per_dim(-mean, x.shape[1:]):10.4f}")


def compress(run: Run, command: Compress) -> None:
    """Writes the compressed file, and the classes beside it."""
    x, given = read(run, command.data)
    labels = classes(run, len(x), given, command.label)
    packed = compression.compress(run.model, run.variables, x, labels, progress=True)
    command.out.parent.mkdir(parents=True, exist_ok=True)
    command.out.write_bytes(packed)
    if labels is not None and command.label is None:
        np.savez_compressed(beside(command.out), label=labels)
        print(f"{beside(command.out)}: the classes, which decompress wants")
    print(f"{command.out}: {len(packed)} bytes, {8 * len(packed) / x.size:.4f} bits/dim, header included")


def beside(path: Path) -> Path:
    """Where the classes of a compressed file are."""
    return path.with_name(f"{path.name}.labels.npz")


def decompress(run: Run, command: Decompress) -> None:
    """Reads a compressed file and writes what it holds."""
    packed = command.data.read_bytes()
    kept = command.labels or beside(command.data)
    given = read_npz(kept)["label"] if kept.exists() else None
    labels = classes(run, compression.shape(packed)[0], given, command.label)
    write(
        run, command.out, compression.decompress(run.model, run.variables, packed, labels, progress=True), labels
    )


def features(run: Run, command: Features) -> None:
    """Writes features."""
    x, given = read(run, command.data)
    labels = classes(run, len(x), given, command.label)
    parts = []
    for first in tqdm(range(0, len(x), 64), "features", unit="batch", disable=None):
        part = slice(first, first + 64)
        cond = None if labels is None else labels[part]
        parts.append(
            fisher.features(run.model, run.variables, x[part], cond, size=command.size, layers=command.layers)
        )
    command.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(command.out, features=np.concatenate(parts))
    print(f"{command.out}: {len(x)} of {command.size} numbers")


COMMANDS: dict[type, Any] = {
    Sample: sample,
    Complete: complete,
    Score: score,
    Compress: compress,
    Decompress: decompress,
    Features: features,
}


def main(config: Config) -> None:
    """Does what the command says."""
    COMMANDS[type(config.command)](open_run(config.run), config.command)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
