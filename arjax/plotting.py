"""Pictures of images, of sounds, of training and of what a conditional sees, each written whole or not at all.

They need the extra "experiments"; without it an `ImportError` says how to install it.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from arjax.checks import check_cond, check_data
from arjax.data.audio import log_mel, mel_centres
from arjax.extras import require
from arjax.likelihood import nats_to_bits_per_dim
from arjax.modules import forward, hashable

BACKGROUND, INK = (255, 255, 255), (64, 64, 64)


def image_grid(
    images: Int[Array | np.ndarray, "n h w c"],
    path: str | os.PathLike[str],
    *,
    levels: int,
    columns: int,
    row_labels: Sequence[str] | None = None,
    scale: int | None = None,
) -> None:
    """Writes images as one PNG, row after row, enlarged without smoothing, thin gaps between them.

    Args:
        images: integers `0..levels-1` (black to white) of shape `(n, h, w, c)`, c being 1 or 3.
        path: the file.
        levels: number of values of a pixel.
        columns: images in a row, 1 or more; the last row may be shorter.
        row_labels: a text for each row, on its left.
        scale: side of a pixel in the picture; by default so many that an image is about 64 high.

    Raises:
        ValueError: there is no image, they are not integers in range, or shape, levels, columns or labels do not
            fit.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"images of shape (n, h, w, 1 or 3) are wanted, got {images.shape}")
    if levels < 2 or columns < 1:
        raise ValueError(f"2 or more levels and 1 or more columns are wanted, got {levels} and {columns}")
    check_data(images, levels, "images")
    n, h, w, _ = images.shape
    rows = math.ceil(n / columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{rows} row labels are wanted, got {len(row_labels)}")
    scale = scale or max(1, round(64 / h))
    gap = math.ceil(scale / 4)

    tiles = np.full((rows * columns, h * scale + gap, w * scale + gap, 3), BACKGROUND, np.uint8)
    grey = images.astype(np.int64) * 255 // (levels - 1)
    tiles[:n, gap:, gap:] = grey.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, _ = tiles.shape
    grid = tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    _write_grid(grid.reshape(rows * height, columns * width, 3), path, gap, row_labels or [])


def _write_grid(grid: np.ndarray, path: str | os.PathLike[str], gap: int, row_labels: Sequence[str]) -> None:
    pillow, drawing, fonts = (
        require(f"PIL.{name}", "experiments") for name in ("Image", "ImageDraw", "ImageFont")
    )
    height, width, _ = grid.shape
    font = fonts.load_default(16)
    margin = max((math.ceil(font.getlength(label)) + 16 for label in row_labels), default=0)
    image = pillow.new("RGB", (margin + width + gap, height + gap), BACKGROUND)
    image.paste(pillow.fromarray(grid), (margin, 0))
    draw = drawing.Draw(image)
    for i, label in enumerate(row_labels):
        middle = gap + (i + 0.5) * height / len(row_labels)
        draw.text((margin - 8, middle), label, fill=INK, font=font, anchor="rm")
    with _whole(path) as temporary:
        image.save(temporary, format="PNG")


def curves(
    history: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    baseline: tuple[str, float] | None = None,
    *,
    event: tuple[int, ...] | None = None,
) -> None:
    """Draws the training and validation loss over the steps, the best validation marked, as a PNG.

    Args:
        history: the lines of a run's `metrics.jsonl`, as `arjax.training.fit` returns them, one or more.
        path: the file.
        baseline: the name and the value of a horizontal line, in the unit of the picture.
        event: the shape of an event, for a picture in bits/dim instead of nats.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("a history of one or more lines is wanted, got none")

    def values(key: str) -> list[float]:
        nats = [line[key] for line in history]
        return nats if event is None else [nats_to_bits_per_dim(value, event) for value in nats]

    steps, valid = [line["step"] for line in history], values("valid_nats")
    best = int(np.argmin(valid))
    picture = figure(6.4, 4)
    axes = picture.subplots()
    axes.plot(steps, values("train_nats"), color="tab:blue", alpha=0.6, label="training")
    axes.plot(steps, valid, color="tab:orange", label="validation")
    axes.plot(steps[best], valid[best], "o", color="tab:orange", label=f"best: {valid[best]:.4g}")
    if baseline:
        name, value = baseline
        axes.axhline(value, color="0.4", linestyle="--", linewidth=1, label=f"{name}: {value:.4g}")
    axes.set(xlabel="step", ylabel="nats" if event is None else "bits/dim")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(picture, path)


def spectrograms(
    waves: Sequence[Float[np.ndarray, "n"]],
    path: str | os.PathLike[str],
    *,
    rate: int,
    columns: int = 1,
    titles: Sequence[str] | None = None,
    num_mels: int = 64,
) -> None:
    """Draws sounds as one PNG, row after row: the waveform of each above its log-mel spectrogram.

    All share the scales of time and of the spectrograms, the waveforms of a row that of amplitude. A frame is 5 ms
    apart from the next and sees 40 ms.

    Args:
        waves: waveforms in -1..1, one or more.
        path: the file.
        rate: their sampling rate in Hz, 200 or more; a low one allows for fewer bands.
        columns: sounds in a row, 1 or more; the last row may be shorter.
        titles: a text above each sound.
        num_mels: bands of a spectrogram, evenly spaced on the mel scale.

    Raises:
        ValueError: there is no sound, one is shorter than 5 ms or not of finite floats, or columns or titles do
            not fit.
    """
    waves = [np.asarray(wave) for wave in waves]
    if not waves or any(w.ndim != 1 or w.dtype.kind != "f" or not np.isfinite(w).all() for w in waves):
        got = ", ".join(f"{wave.dtype} {wave.shape}" for wave in waves) or "none"
        raise ValueError(f"waveforms of finite floats (n,) are wanted, got {got}")
    if columns < 1:
        raise ValueError(f"1 or more columns are wanted, got {columns}")
    if titles is not None and len(titles) != len(waves):
        raise ValueError(f"{len(waves)} titles are wanted, got {len(titles)}")
    hop, rows = rate // 200, math.ceil(len(waves) / columns)
    frames = [log_mel(wave, rate, hop=hop, num_mels=num_mels, window=rate // 25) for wave in waves]
    seconds, hz = max(map(len, waves)) / rate, mel_centres(rate, num_mels)
    bands = np.unique(np.searchsorted(hz, [250, 500, 1000, 2000, 4000, 8000]).clip(max=num_mels - 1))

    picture = figure(3.2 * columns, 1.7 * rows)
    axes = picture.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[1, 2] * rows)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (wave, mel) in enumerate(zip(waves, frames, strict=True)):
        row, column = divmod(i, columns)
        above, below = axes[2 * row : 2 * row + 2, column]
        above.plot(np.arange(len(wave)) / rate, wave, color="tab:blue", linewidth=0.4)
        loudest = max(float(abs(other).max()) for other in waves[row * columns :][:columns]) or 1.0
        above.set_ylim(-loudest, loudest)
        above.set_title(titles[i] if titles is not None else "", fontsize=8)
        below.set_axis_on()
        end = len(mel) * hop / rate
        below.imshow(mel.T, origin="lower", aspect="auto", extent=(0, end, -0.5, num_mels - 0.5), vmin=0, vmax=1)
        below.set(xlim=(0, seconds), yticks=bands, yticklabels=[f"{hz[band]:.0f}" for band in bands])
        below.tick_params(labelsize=6, labelbottom=row == rows - 1)
    picture.supxlabel("seconds", fontsize=8)
    picture.supylabel("Hz", fontsize=8)
    save(picture, path)


def receptive_field(
    model: Any,
    variables: Any,
    event: tuple[int, ...],
    position: tuple[int, ...],
    path: str | os.PathLike[str],
    cond: Any = None,
) -> Float[Array, "..."]:
    """Draws `receptive_field_map` on random events as a PNG, on a logarithmic scale; grey is exactly zero.

    Args:
        model: a Linen module with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        event: the shape of an event; of images, the channels are summed.
        position: an index into an event, such as `(row, column, channel)`, marked in the picture.
        path: the file.
        cond: conditioning as the model wants it; as many events are drawn as it has examples, 16 without.

    Returns:
        The map, an array of the shape of an event.
    """
    colors, patches = (require(f"matplotlib.{name}", "experiments") for name in ("colors", "patches"))
    count = next((len(leaf) for leaf in jax.tree.leaves(cond)), 16)
    x = np.random.default_rng(0).integers(0, model.output.levels, (count, *event), np.int32)
    influence = receptive_field_map(model, variables, x, position, cond)
    field = np.asarray(influence)
    field = field.sum(-1) if field.ndim == 3 else field.reshape(-1, event[-1])
    row, column = position[:2] if len(event) == 3 else (0, *position)[-2:]

    height, aspect = (5.4, "equal") if len(field) > 1 else (1.6, "auto")
    picture = figure(6.4, height)
    axes = picture.subplots()
    axes.set_facecolor("0.88")
    most = field.max() or 1.0
    shown = axes.imshow(
        np.ma.masked_equal(field, 0), norm=colors.LogNorm(most / 1e4, most, clip=True), aspect=aspect
    )
    axes.add_patch(patches.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color="tab:red", linewidth=2))
    axes.set(xticks=[], yticks=[], title=f"influence on position {position}")
    picture.colorbar(shown, ax=axes, label="|∂ parameters / ∂ x|")
    save(picture, path)
    return influence


def receptive_field_map(
    model: Any,
    variables: Any,
    x: Int[Array | np.ndarray, "b ..."],
    position: tuple[int, ...],
    cond: Any = None,
) -> Float[Array, "..."]:
    """How much each entry of an event moves the parameters of one conditional.

    `sum_k |d params[position, k] / d x|`, averaged over the examples and taken a quarter of a level above
    their integers, where every encoding is differentiable. Zero where the conditional does not look.

    Args:
        model: a Linen module with an `output` distribution.
        variables: its variables, such as `{"params": ...}`.
        x: integers `0..levels-1` of shape `(batch, *event)`.
        position: an index into an event.
        cond: conditioning as the model wants it, one per example.

    Returns:
        An array of the shape of an event.

    Raises:
        ValueError: `x` is not of integers in range, or `position` is not within an event.
    """
    model = hashable(model)
    x = check_data(x, model.output.levels)
    cond = check_cond(model, cond, len(x))
    event = x.shape[1:]
    if len(position) != len(event) or not all(0 <= i < size for i, size in zip(position, event, strict=True)):
        raise ValueError(f"position is an index into an event of shape {event}, got {position}")
    return _receptive_field_map(model, variables, x, tuple(position), cond)


@partial(jax.jit, static_argnames=("model", "position"))
def _receptive_field_map(model, variables, x, position, cond):
    def params(x, cond):
        x, cond = jax.tree.map(lambda leaf: leaf[None], (x, cond))
        return forward(model, variables, x, cond)[0][position]

    def influence(example):
        return jnp.abs(jax.jacrev(params)(*example)).sum(0)

    return jax.lax.map(influence, (x.astype(jnp.float32) + 0.25, cond)).mean(0)


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches that no global state knows of; see `save`."""
    return require("matplotlib.figure", "experiments").Figure((width, height), dpi=150, layout="constrained")


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a matplotlib figure as a PNG."""
    with _whole(path) as temporary:
        figure.savefig(temporary, format="png")


@contextlib.contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
