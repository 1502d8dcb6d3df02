"""Text and audio by name or path, their splits kept apart."""

import dataclasses
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jaxtyping import Float32

from arjax.data.audio import linear_encode, log_mel, mu_law_encode, read_audio, resample
from arjax.data.files import listed, subsets
from arjax.data.places import find, places, prepared
from arjax.data.sequences import Sequences
from arjax.data.splits import SPLITS, checked_split, divide, share
from arjax.data.text import Bytes, Vocabulary, characters, read_text, read_texts
from arjax.extras import require

AUDIO_SUFFIXES = {
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a"),
    *(".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav", ".wma"),
}
TIMBRES = ("sine", "square", "sawtooth", "plucked", "noise")
T = TypeVar("T")
ENCODINGS = {"mu_law": mu_law_encode, "linear": linear_encode}


def load_text(
    name: str | os.PathLike[str] = "pydoc",
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    by: str = "characters",
) -> tuple[Sequences, Vocabulary | Bytes]:
    """Loads one split of a text, as one sequence. Nothing is downloaded or written.

    The first 90 % of the characters are for training, the next 5 % for validation, the last 5 % for testing; of a
    text that brings its splits along but none for validation, the last tenth of the training text is. The
    vocabulary is that of the whole text, all splits.

    Args:
        name: one of

            - `"pydoc"`: the help texts of the Python that runs, from its standard library, sorted by topic. They
              differ between versions of Python, and so do results;
            - `"tiny_shakespeare"`: `input.txt`, 65 characters;
            - a utf-8 text file, gzipped or not, or a folder of such (`.txt`, `.gz`), which are its splits if a
              word of their names says so (`train.txt`, `ptb.valid.txt`), or lie in subfolders of these names.
        split: `"train"`, `"valid"` or `"test"`, or another name of it, see `load`.
        data_dir: the folder of the files, or of a subfolder of that name; by default `$ARJAX_DATA_DIR`.
            Tiny Shakespeare not found there is taken from tensorflow-datasets.
        by: what a position is: `"characters"`, or `"bytes"` of utf-8.

    Raises:
        ValueError: an unknown set, split or `by`, a damaged, empty or too short text, two that are the same split,
            or one of no split beside them.
        FileNotFoundError: the folder or the files are missing.
    """
    if by not in ("characters", "bytes"):
        raise ValueError(f"unknown by {by!r}, wanted characters or bytes")
    name, split = os.fspath(name), checked_split(split)
    folders = places(name, data_dir)
    if name in TEXT_SETS:
        texts = {"": TEXT_SETS[name](folders)}
    elif Path(name).exists():
        texts = read_texts(Path(name))
    else:
        raise ValueError(
            f"unknown text {name!r}, wanted {', '.join(TEXT_SETS)}, or a text file or a folder of them"
        )
    vocabulary = characters("".join(texts.values())) if by == "characters" else Bytes()
    part, *ends = share(name, set(texts) - {""}, split, test=1)
    start, stop = (len(texts[part]) * twentieths // 20 for twentieths in ends)
    x = vocabulary.encode(texts[part][start:stop])
    return Sequences(x, np.array([len(x)]), vocabulary.levels, name=name, split=split), vocabulary


def _pydoc(folders: list[Path]) -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def _tiny_shakespeare(folders: list[Path]) -> str:
    def from_tfds() -> str:
        builder = prepared("tiny_shakespeare", folders)
        parts = [builder.as_data_source(split=split) for split in ("train", "validation", "test")]
        return "".join(example["text"].decode() for part in parts for example in part)

    return _either("tiny_shakespeare", lambda: read_text(find(folders, "input.txt[.gz]")), from_tfds)


TEXT_SETS: dict[str, Callable[[list[Path]], str]] = {"pydoc": _pydoc, "tiny_shakespeare": _tiny_shakespeare}


def load_audio(
    name: str | os.PathLike[str] = "tones",
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    rate: int = 8000,
    levels: int = 256,
    encoding: str = "mu_law",
    features: str | None = None,
    hop: int = 80,
    num_mels: int = 80,
) -> Sequences:
    """Loads one split of a set of sounds, a sequence each. Nothing is downloaded or written.

    Args:
        name: one of

            - `"tones"`: generated sounds of about half a second, 400 for training, 100 each for validation and
              testing. A label is a timbre: sine, square, sawtooth, plucked string, burst of noise; pitch, loudness
              and envelope are random. They depend on nothing but the split;
            - `"spoken_digit"`: the Free Spoken Digit Dataset, in its tar.gz or unpacked (`recordings`); labels
              are digit and speaker. Of each digit and speaker, recordings 0 to 4 are for testing, 5 to 9 for
              validation;
            - `"ljspeech_16"`: the clips of `LJSpeech-1.1/wavs`, an excerpt or all; the last two for testing,
              the two before for validation; no labels;
            - a folder of sounds, its subfolders being classes, or splits that may hold classes. After one fixed
              permutation, what has no splits is divided 8:1:1 and what has no validation split 9:1.
        split: `"train"`, `"valid"` or `"test"`, or another name of it, see `load`.
        data_dir: the folder of the files, or of a subfolder of that name; by default `$ARJAX_DATA_DIR`.
            Spoken digits not found there are taken from tensorflow-datasets, whose sounds TensorFlow has to read.
        rate: sampling rate in Hz, to which sounds are resampled.
        levels: number of values of a sample.
        encoding: `"mu_law"` or `"linear"`, see `mu_law_encode` and `linear_encode`.
        features: `"log_mel"` for log-mel frames of the waveform, see `log_mel`; or None.
        hop: number of samples of a frame.
        num_mels: number of bands of a frame.

    Raises:
        ValueError: an unknown set, split, encoding or kind of features, a damaged file, one shorter than a hop,
            two splits that are the same, one of another name beside them, or sounds that would be left out.
        FileNotFoundError: the folder or the files are missing.
        ImportError: an extra is missing.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown encoding {encoding!r}, wanted {' or '.join(ENCODINGS)}")
    if features not in (None, "log_mel"):
        raise ValueError(f"unknown features {features!r}, wanted log_mel or None")
    name, split = os.fspath(name), checked_split(split)
    folders = places(name, data_dir)
    if name in AUDIO_SETS:
        clips = AUDIO_SETS[name](split, folders)
    elif Path(name).is_dir():
        clips = _folder(Path(name), split)
    else:
        raise ValueError(f"unknown audio {name!r}, wanted {', '.join(AUDIO_SETS)}, or a folder of sounds")
    if not len(clips):
        raise ValueError(f"{name} has no sounds for its {split} split")
    waves = [read(rate) for read in clips.readers]
    series: dict[str, Any] = {}
    if features:
        series = {"features": np.concatenate([log_mel(x, rate, hop=hop, num_mels=num_mels) for x in waves])}
        series["hop"] = hop
    codes = np.asarray(jax.jit(ENCODINGS[encoding], static_argnums=1)(np.concatenate(waves), levels))
    lengths = np.array([len(x) for x in waves])
    return Sequences(codes, lengths, levels, clips.labels, clips.num_classes, **series, name=name, split=split)


@dataclasses.dataclass(frozen=True)
class _Clips:
    """Sounds not read yet, each a function from the sampling rate wanted to the waveform."""

    readers: Sequence[Callable[[int], Float32[np.ndarray, "n"]]]
    labels: Any = None
    num_classes: Any = None

    def __len__(self) -> int:
        return len(self.readers)

    def take(self, index: Any) -> Self:
        """The sounds at `index`, with their labels."""
        chosen = np.arange(len(self))[index]
        labels = jax.tree.map(lambda labels: labels[chosen], self.labels)
        return dataclasses.replace(self, readers=[self.readers[i] for i in chosen], labels=labels)


def _tones(split: str, folders: list[Path]) -> _Clips:
    count = {"train": 400, "valid": 100, "test": 100}[split]
    readers = [lambda rate, i=i: resample(_tone(split, i), 8000, rate) for i in range(count)]
    return _Clips(readers, np.arange(count) % len(TIMBRES), len(TIMBRES))


def _tone(split: str, i: int) -> Float32[np.ndarray, "n"]:
    """Tone `i` of a split, of timbre `i % 5`, at 8 kHz."""
    rng = np.random.default_rng((SPLITS.index(split), i))
    n, hz, loudness = int(rng.integers(3600, 4401)), 110 * 8 ** rng.random(), rng.uniform(0.3, 0.9)
    attack, decay = rng.uniform(0.005, 0.05), rng.uniform(0.1, 0.4)
    t = np.arange(n) / 8000
    cycles = hz * t + rng.random()
    match TIMBRES[i % len(TIMBRES)]:
        case "sine":
            x = np.sin(2 * np.pi * cycles)
        case "square":
            x = np.where(cycles % 1 < 0.5, 1.0, -1.0)
        case "sawtooth":
            x = 2 * (cycles % 1) - 1
        case "plucked":  # Karplus and Strong (1983): noise that goes round and loses its high frequencies
            period = round(8000 / hz)
            burst, loop = rng.uniform(-1, 1, period), np.zeros(period + 2)
            loop[0], loop[period:] = 1, -0.498
            burst = np.pad(burst - burst.mean(), (0, n - period))
            x = require("scipy.signal", "audio").lfilter([1], loop, burst)
        case _:
            x, decay = rng.uniform(-1, 1, n), decay / 4
    x = x * np.minimum(t / attack, 1) * np.exp(-t / decay)
    return (loudness * x / abs(x).max()).astype(np.float32)


def _spoken_digit(split: str, folders: list[Path]) -> _Clips:
    def from_files() -> dict[str, Callable[[int], Float32[np.ndarray, "n"]]]:
        path = find(
            folders, "recordings/*.wav", "free-spoken-digit-dataset-1.0.9/recordings/*.wav", "*-1.0.9.tar.gz"
        )
        if path.suffix == ".wav":
            return {wav.name: partial(read_audio, wav) for wav in path.parent.glob("*.wav")}
        return {name: partial(read_audio, data, name=f"{path}/{name}") for name, data in _read_wavs(path).items()}

    def from_tfds() -> dict[str, Callable[[int], Float32[np.ndarray, "n"]]]:
        examples = prepared("spoken_digit", folders).as_data_source(split="train")
        waves = {e["audio/filename"].decode(): np.asarray(e["audio"], np.float32) / 32_768 for e in examples}
        return {name: partial(resample, wave, 8000) for name, wave in waves.items()}

    readers = _either("spoken_digit", from_files, from_tfds)
    matches = {name: re.fullmatch(r"(\d)_([^_]+)_(\d+)\.wav", name) for name in readers}
    for name, match in matches.items():
        if match is None:
            raise ValueError(f"spoken_digit holds {name}, wanted names as 0_jackson_0.wav: digit, speaker, index")
    keys = sorted((int(match[1]), match[2], int(match[3]), name) for name, match in matches.items() if match)
    speakers = sorted({speaker for _, speaker, _, _ in keys})
    wanted = {"train": range(10, 10**9), "valid": range(5, 10), "test": range(5)}[split]
    keys = [key for key in keys if key[2] in wanted]
    labels = np.array([key[0] for key in keys]), np.array([speakers.index(key[1]) for key in keys])
    return _Clips([readers[key[3]] for key in keys], labels, (10, len(speakers)))


def _read_wavs(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as tar:
            files = {Path(member.name).name: tar.extractfile(member) for member in tar}
            return {name: file.read() for name, file in files.items() if file and name.endswith(".wav")}
    except Exception as error:  # on damaged bytes tarfile raises a dozen different ones
        raise ValueError(f"{path} is not a readable tar archive: {' '.join(str(error).split())}") from error


def _ljspeech(split: str, folders: list[Path]) -> _Clips:
    try:
        wavs = sorted(find(folders, "LJSpeech-1.1/wavs/*.wav").parent.glob("*.wav"))
    except FileNotFoundError as missing:
        raise FileNotFoundError(f"ljspeech_16: {missing}; {SOURCES['ljspeech_16']} has it") from None
    part = {"train": slice(-4), "valid": slice(-4, -2), "test": slice(-2, None)}[split]
    return _Clips([partial(read_audio, wav) for wav in wavs[part]])


def _folder(folder: Path, split: str) -> _Clips:
    parts, classes = subsets(folder, AUDIO_SUFFIXES)

    def read(part: str) -> _Clips:
        paths, labels = listed(parts.get(part, folder), classes, AUDIO_SUFFIXES, "sounds")
        return _Clips([partial(read_audio, path) for path in paths], labels, len(classes) or None)

    return divide(str(folder), parts, split, read)


AUDIO_SETS: dict[str, Callable[[str, list[Path]], _Clips]] = {
    "tones": _tones,
    "spoken_digit": _spoken_digit,
    "ljspeech_16": _ljspeech,
}


SOURCES = {
    "tiny_shakespeare": "https://github.com/karpathy/char-rnn",
    "spoken_digit": "https://github.com/Jakobovski/free-spoken-digit-dataset",
    "ljspeech_16": "https://keithito.com/LJ-Speech-Dataset",
}


def _either(name: str, from_files: Callable[[], T], from_tfds: Callable[[], T]) -> T:
    try:
        return from_files()
    except FileNotFoundError as missing:
        try:
            return from_tfds()
        except (FileNotFoundError, ImportError) as error:
            how = " ".join(str(error).split())
            raise FileNotFoundError(f"{name}: {missing}; {SOURCES[name]} has it; {how}") from None
