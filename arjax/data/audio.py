"""Sound: files, companding to integers, and log-mel frames. Waveforms are floats in -1..1."""

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Int, Int32

from arjax.data.dataset import check_range
from arjax.extras import require

FLOOR = 1e-5
"""The amplitude below which log-mel frames see silence: -100 dB."""


def mu_law_encode(x: Float[ArrayLike, "..."], levels: int = 256) -> Int32[Array, "..."]:
    """Waveform to integers `0..levels-1` on a logarithmic scale: fine near silence, coarse where it is loud.

    With `x` clipped to -1..1, `mu = levels - 1` and `f = sign(x) log(1 + mu |x|) / log(1 + mu)` these are
    `floor((f + 1) / 2 * mu + 0.5)`. `mu_law_encode(mu_law_decode(q)) == q`.

    Raises:
        ValueError: not finite floats, or fewer than two levels.
    """
    x, mu = _waveform(x, levels), levels - 1
    f = jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / jnp.log1p(jnp.float32(mu))
    return jnp.floor((f + 1) / 2 * mu + 0.5).astype(jnp.int32)


def mu_law_decode(q: Int[ArrayLike, "..."], levels: int = 256) -> Float32[Array, "..."]:
    """Integers `0..levels-1` to the waveform; the ends are -1 and 1. See `mu_law_encode`.

    Raises:
        ValueError: not integers `0..levels-1`, or fewer than two levels.
    """
    y, mu = 2 * _codes(q, levels) / (levels - 1) - 1, levels - 1
    return jnp.sign(y) * jnp.expm1(jnp.abs(y) * jnp.log1p(jnp.float32(mu))) / mu


def linear_encode(x: Float[ArrayLike, "..."], levels: int = 65_536) -> Int32[Array, "..."]:
    """Waveform to integers `0..levels-1` in equal steps of `2 / levels`, silence being `levels // 2`.

    With 65,536 levels these are the samples of 16-bit audio plus 32,768: nothing is lost of such a file.
    `linear_encode(linear_decode(q)) == q`.

    Raises:
        ValueError: not finite floats, or fewer than two levels.
    """
    x = jnp.floor(_waveform(x, levels) * (levels / 2) + 0.5).astype(jnp.int32)
    return jnp.minimum(x + levels // 2, levels - 1)


def linear_decode(q: Int[ArrayLike, "..."], levels: int = 65_536) -> Float32[Array, "..."]:
    """Integers `0..levels-1` to the waveform, from -1 to one step below 1. See `linear_encode`.

    Raises:
        ValueError: not integers `0..levels-1`, or fewer than two levels.
    """
    return (_codes(q, levels) - levels // 2) / (levels / 2)


def _waveform(x: Any, levels: int) -> Float32[Array, "..."]:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) or levels < 2:
        raise ValueError(
            f"got {x.dtype} and {levels} levels, wanted a waveform of floats in -1..1 and 2 or more levels"
        )
    if not isinstance(x, jax.core.Tracer):
        _finite(np.asarray(x), "the waveform")
    return jnp.clip(x.astype(jnp.float32), -1, 1)


def _codes(q: Any, levels: int) -> Float32[Array, "..."]:
    q = jnp.asarray(q)
    if not jnp.issubdtype(q.dtype, jnp.integer) or levels < 2:
        raise ValueError(f"got {q.dtype} and {levels} levels, wanted integers 0..levels-1 and 2 or more levels")
    if not isinstance(q, jax.core.Tracer) and q.size:
        check_range("the sound", np.asarray(q), levels, f"levels-1 = {levels - 1}")
    return q.astype(jnp.float32)


def _checked(x: Any, name: str = "the sound") -> Float[np.ndarray, "n"]:
    x = np.asarray(x)
    if x.ndim != 1 or x.dtype.kind != "f":
        raise ValueError(f"{name} has dtype {x.dtype} and shape {x.shape}, wanted one channel of floats (n,)")
    return _finite(x, name)


def _finite(x: Any, name: str) -> Any:
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has samples that are not finite, wanted finite floats")
    return x


def read_audio(
    source: str | os.PathLike[str] | bytes | BinaryIO, rate: int, *, name: str | None = None
) -> Float32[np.ndarray, "n"]:
    """Reads a sound in any format that libsndfile knows, mixed down to one channel and resampled.

    Args:
        source: a path, the bytes of a file, or an open file.
        rate: the sampling rate wanted, in Hz.
        name: what the sound is called in messages; by default the path.

    Raises:
        ValueError: the sound is empty, unreadable, cut short or not finite, or the rate is not positive.
        FileNotFoundError: there is no such file.
        ImportError: the extra `audio` is missing.
    """
    if isinstance(source, (str, os.PathLike)):
        name, source = name or os.fspath(source), os.fspath(source)
        if not Path(source).is_file():
            raise FileNotFoundError(f"audio file {source} does not exist")
    elif isinstance(source, bytes):
        source = io.BytesIO(source)
    name = name or "the sound"
    soundfile = require("soundfile", "audio")
    try:
        with soundfile.SoundFile(source) as file:
            x, own = file.read(file.frames, "float32", always_2d=True).mean(axis=1), file.samplerate
            whole = len(x) == file.frames and "(should be" not in file.extra_info  # its word for cut short
    except Exception as error:  # libsndfile's own class, or what an open file raises
        raise ValueError(f"{name} is not a readable sound: {' '.join(str(error).split())}") from error
    if not whole:
        raise ValueError(f"{name} is cut short: {len(x)} samples are fewer than its header announces")
    if not len(x):
        raise ValueError(f"{name} is empty, wanted at least one sample")
    return resample(_checked(x, name), own, rate)


def resample(x: Float32[np.ndarray, "n"], rate: int, new_rate: int) -> Float32[np.ndarray, "m"]:
    """The same sound at another sampling rate, in Hz.

    Raises:
        ValueError: the sound is not of finite floats or shorter than one sample of the new rate, or that rate is
            not positive.
        ImportError: the extra `audio` is missing.
    """
    if new_rate < 1:
        raise ValueError(f"got a sampling rate of {new_rate} Hz, wanted 1 or more")
    x = _checked(x)
    if rate == new_rate:
        return x
    y = require("soxr", "audio").resample(x, rate, new_rate)
    if not len(y):
        raise ValueError(f"{len(x)} samples at {rate} Hz are less than one at {new_rate} Hz")
    return y


def write_audio(path: str | os.PathLike[str], x: Float[np.ndarray, "n"], rate: int) -> None:
    """Writes a WAV file of 16 bits, whole or not at all; `read_audio` gives back what is on that grid.

    Args:
        path: the file.
        x: the waveform, clipped to -1..1.
        rate: its sampling rate, in Hz.

    Raises:
        ValueError: not one channel of finite floats, or no samples.
        ImportError: the extra `audio` is missing.
    """
    x, path = np.asarray(x), Path(path)
    if x.ndim != 1 or x.dtype.kind != "f" or not x.size or not np.isfinite(x).all():
        raise ValueError(f"{path}: got {x.dtype} {x.shape}, wanted one or more finite floats of shape (n,)")
    samples = (np.asarray(linear_encode(x)) - 32_768).astype(np.int16)
    temporary = path.with_name(f"{path.name}.tmp")
    require("soundfile", "audio").write(temporary, samples, rate, format="WAV", subtype="PCM_16")
    temporary.replace(path)


def trim(x: Float[np.ndarray, "n"], threshold: float = 1e-3) -> Float[np.ndarray, "m"]:
    """Cuts off silence, where `|x| <= threshold`, at both ends.

    Raises:
        ValueError: all of it is silent, or it is not of finite floats.
    """
    x = _checked(x)
    loud = np.flatnonzero(np.abs(x) > threshold)
    if not loud.size:
        raise ValueError(f"all of the {len(x)} samples are silent, wanted one beyond the threshold {threshold}")
    return x[loud[0] : loud[-1] + 1]


def log_mel(
    x: Float[np.ndarray, "n"], rate: int, *, hop: int, num_mels: int = 80, window: int | None = None
) -> Float32[np.ndarray, "ceil(n/hop) num_mels"]:
    """Log-mel frames: loudness by band of frequency, one frame for every `hop` samples.

    Frame `i` is centred on the middle of its samples, `i * hop + hop / 2`, with zeros beyond both ends. A band
    is a mean of amplitudes (1 at the peak of a full sine), weighted by a triangle on the mel scale from 0 Hz to
    half the rate. Values are `(log10(max(amplitude, 1e-5)) + 5) / 5`, within 0..1: 0 is silence.

    Args:
        x: the waveform.
        rate: its sampling rate, in Hz.
        hop: number of samples of a frame.
        num_mels: number of bands.
        window: number of samples that a frame sees, under a Hann window; by default four hops.

    Raises:
        ValueError: `x` is not of finite floats or shorter than one hop, the window is, or there are no bands or
            too many for it.
    """
    x = _checked(x)
    window = 4 * hop if window is None else window
    if hop < 1 or len(x) < hop:
        raise ValueError(f"got {len(x)} samples and a hop of {hop}, wanted a sound of at least one hop")
    if num_mels < 1:
        raise ValueError(f"got {num_mels} bands, wanted 1 or more")
    if window < max(hop, 2):
        raise ValueError(f"got a window of {window} samples, wanted at least {max(hop, 2)} for a hop of {hop}")
    weights = np.hanning(window + 2)[1:-1].astype(np.float32)
    count, left = -(-len(x) // hop), (window - hop) // 2
    padded = np.pad(x.astype(np.float32), (left, count * hop + window - hop - left - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * weights
    amplitudes = np.abs(np.fft.rfft(frames, 4 * window)) * (2 / weights.sum())
    filters = _mel_filters(rate, num_mels, amplitudes.shape[1])
    mel = np.einsum("tf,fm->tm", amplitudes, filters)  # so small a product that threads of @ would only wait
    return np.log10(np.maximum(mel / np.float32(FLOOR), 1)) / np.float32(-np.log10(FLOOR))


def mel_centres(rate: int, num_mels: int) -> Float[np.ndarray, "num_mels"]:
    """The frequencies in Hz at which the bands of `log_mel` are centred, evenly spaced in mels."""
    return _hz(rate, num_mels)[1:-1]


def _hz(rate: int, num_mels: int) -> Float[np.ndarray, "num_mels+2"]:
    top = 2595 * np.log10(1 + rate / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)


@cache
def _mel_filters(rate: int, num_mels: int, num_bins: int) -> Float32[np.ndarray, "num_bins num_mels"]:
    low, centre, high = (
        edge[None] for edge in np.lib.stride_tricks.sliding_window_view(_hz(rate, num_mels), num_mels)
    )
    hz = np.linspace(0, rate / 2, num_bins)[:, None]
    triangles = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
    if not triangles.any(axis=0).all():
        raise ValueError(f"got {num_mels} bands, wanted fewer, or a longer window, at a rate of {rate} Hz")
    return (triangles / triangles.sum(axis=0)).astype(np.float32)
