"""Pictures: their files, and their content where it matters."""

import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from arjax import plotting
from arjax.data import mel_centres
from arjax.distributions import Bernoulli, Categorical
from arjax.layers import Classes
from arjax.models import MADE, GatedPixelCNN, Histogram

RNG = np.random.default_rng(0)
HISTORY = [
    {"step": step, "train_nats": train, "valid_nats": valid}
    for step, train, valid in [(10, 9.0, 8.0), (20, 6.0, 6.5), (30, 5.0, 7.0)]
]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def model_and_variables(model, event, cond=None):
    return model, jax.jit(model.init)(jax.random.key(0), np.zeros((1, *event), np.int32), cond)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written."""
    saved = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: saved.append(figure))
    return saved


@pytest.mark.parametrize(("channels", "levels"), [(1, 17), (3, 256), (1, 2)])
def test_image_grid(tmp_path, channels, levels):
    images = RNG.integers(0, levels, (5, 2, 3, channels)).astype(np.uint8)
    plotting.image_grid(images, tmp_path / "new" / "grid.png", levels=levels, columns=2, scale=4)
    picture = pixels(tmp_path / "new" / "grid.png")
    assert picture.shape == (3 * (2 * 4 + 1) + 1, 2 * (3 * 4 + 1) + 1, 3)
    covered = np.zeros(picture.shape[:2], bool)
    for i, image in enumerate(images.astype(int)):
        top, left = 1 + 9 * (i // 2), 1 + 13 * (i % 2)
        tile = slice(top, top + 8), slice(left, left + 12)
        covered[tile] = True
        want = np.broadcast_to(image * 255 // (levels - 1), (2, 3, 3))
        np.testing.assert_array_equal(picture[tile], np.kron(want, np.ones((4, 4, 1), int)))
    assert (picture[~covered] == 255).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_image_grid_with_labels(tmp_path):
    images = RNG.integers(0, 17, (6, 8, 8, 1))
    sizes = {"levels": 17, "columns": 3}
    plotting.image_grid(images, tmp_path / "bare.png", **sizes)
    plotting.image_grid(images, tmp_path / "labels.png", **sizes, row_labels=["zero", "a longer one"])
    bare, labels = pixels(tmp_path / "bare.png"), pixels(tmp_path / "labels.png")
    assert bare.shape[:2] == (2 * 66 + 2, 3 * 66 + 2)
    margin = labels.shape[1] - bare.shape[1]
    assert 50 < margin < 200
    np.testing.assert_array_equal(labels[:, margin:], bare)
    for row in (labels[:67, :margin], labels[67:, :margin]):
        assert row.min() < 128, "there is a text beside each row"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 8, 8), int)}, "shape (n, h, w, 1 or 3) are wanted, got (4, 8, 8)"),
        ({"images": np.zeros((4, 8, 8, 2), int)}, "got (4, 8, 8, 2)"),
        ({"images": np.zeros((4, 8, 8, 1), np.float32)}, "integers 0..16 are wanted, got dtype float32"),
        ({"images": np.full((4, 8, 8, 1), 17)}, "integers 0..16 are wanted, got values 17..17"),
        ({"row_labels": ["one"]}, "2 row labels are wanted, got 1"),
        ({"images": np.zeros((0, 8, 8, 1), int)}, "are wanted, got (0, 8, 8, 1)"),
        ({"columns": 0}, "1 or more columns are wanted, got 17 and 0"),
        ({"levels": 1}, "2 or more levels and 1 or more columns are wanted, got 1 and 2"),
    ],
)
def test_image_grid_refuses(tmp_path, change, message):
    settings = {"images": np.zeros((4, 8, 8, 1), int), "levels": 17, "columns": 2} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        plotting.image_grid(path=tmp_path / "a.png", **settings)
    assert not list(tmp_path.iterdir())


def test_an_error_keeps_the_old_picture(tmp_path):
    class Broken:
        def savefig(self, path, format):
            path.write_text("half a pic")
            raise OSError("disk full")

    old = tmp_path / "a.png"
    old.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        plotting.save(Broken(), old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_curves(tmp_path):
    plotting.curves(HISTORY, tmp_path / "curves.png", ("histogram", 7.5))
    assert pixels(tmp_path / "curves.png").shape == (600, 960, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_refuse_an_empty_history(tmp_path):
    with pytest.raises(ValueError, match="a history of one or more lines is wanted, got none"):
        plotting.curves([], tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("event", "unit", "factor"), [(None, "nats", 1), ((2, 2, 1), "bits/dim", 0.25 / np.log(2))]
)
def test_curves_have_the_numbers(figures, event, unit, factor):
    plotting.curves(HISTORY, "unused.png", ("histogram", 3.0), event=event)
    (axes,) = figures[0].axes
    train, valid, best, baseline = axes.get_lines()
    assert axes.get_ylabel() == unit
    np.testing.assert_array_equal(train.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(train.get_ydata(), np.multiply([9, 6, 5], factor))
    np.testing.assert_allclose(valid.get_ydata(), np.multiply([8, 6.5, 7], factor))
    np.testing.assert_allclose((*best.get_xdata(), *best.get_ydata()), (20, 6.5 * factor))
    assert set(baseline.get_ydata()) == {3.0}
    assert baseline.get_label() == "histogram: 3"


def test_spectrograms(figures):
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    waves = [tone, np.zeros(2000), 0.25 * tone[:3000]]
    plotting.spectrograms(waves, "unused.png", rate=8000, columns=2, titles=["tone", "silence", "softly"])
    axes = np.array(figures[0].axes).reshape(4, 2)
    above, below = axes[::2].ravel(), axes[1::2].ravel()
    assert [ax.get_title() for ax in above] == ["tone", "silence", "softly", ""]
    for wave, waveform, spectrogram in zip(waves, above, below, strict=False):
        (line,), (image,) = waveform.get_lines(), spectrogram.images
        np.testing.assert_allclose(line.get_xdata(), np.arange(len(wave)) / 8000)
        np.testing.assert_array_equal(line.get_ydata(), wave)
        loudest = 0.125 if wave is waves[2] else 0.5
        np.testing.assert_allclose(waveform.get_ylim(), (-loudest, loudest))
        assert image.get_array().shape == (64, len(wave) // 40)
        assert spectrogram.get_xlim() == (0, 0.5)
        assert image.get_clim() == (0, 1)
    loud, silent, soft = (ax.images[0].get_array() for ax in below[:3])
    assert abs(mel_centres(8000, 64)[loud[:, 50].argmax()] - 1000) < 40
    assert not silent.any()
    np.testing.assert_allclose(loud[:, 50].max() - soft[:, 50].max(), np.log10(4) / 5, rtol=1e-3)
    assert not below[3].images


def test_spectrograms_are_written(tmp_path):
    plotting.spectrograms([RNG.uniform(-1, 1, 1600)], tmp_path / "noise.png", rate=16_000)
    assert pixels(tmp_path / "noise.png").shape == (255, 480, 3)


@pytest.mark.parametrize(
    ("waves", "change", "message"),
    [
        ([], {}, "waveforms of finite floats (n,) are wanted, got none"),
        ([np.zeros(99, int)], {}, "got int64 (99,)"),
        ([np.zeros((99, 2))], {}, "got float64 (99, 2)"),
        ([np.full(99, np.nan)], {}, "waveforms of finite floats"),
        ([np.zeros(39)], {}, "got 39 samples and a hop of 40, wanted a sound of at least one hop"),
        ([np.zeros(99)], {"titles": ["a", "b"]}, "1 titles are wanted, got 2"),
        ([np.zeros(99)], {"columns": 0}, "1 or more columns are wanted, got 0"),
    ],
)
def test_spectrograms_refuse(tmp_path, waves, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        plotting.spectrograms(waves, tmp_path / "a.png", rate=8000, **change)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_receptive_field_map():
    model = GatedPixelCNN(
        Categorical(3), features=4, num_layers=2, head_features=4, first_kernel_size=3, conditioning=Classes(3)
    )
    cond = np.array([0, 2])
    model, variables = model_and_variables(model, (6, 6, 1), cond[:1])
    x = RNG.integers(0, 3, (2, 6, 6, 1))
    field = plotting.receptive_field_map(model, variables, x, (4, 3, 0), cond)
    assert field.shape == (6, 6, 1)
    reached = np.zeros((6, 6), bool)
    reached[4, 0:3] = True  # two taps before the pixel from the first layer, one more from the second
    reached[1:4, 1:6] = True
    np.testing.assert_array_equal(np.asarray(field)[..., 0] > 0, reached)

    apply, between = jax.jit(model.apply), x.astype(np.float32) + 0.25
    for i, j in [(4, 2), (3, 4), (2, 1)]:
        step = np.zeros((1, 6, 6, 1), np.float32)
        step[0, i, j] = 1e-2
        rise = apply(variables, between + step, cond) - apply(variables, between - step, cond)
        slope = np.abs(rise[:, 4, 3, 0] / 2e-2).mean(0).sum()
        assert field[i, j, 0] == pytest.approx(slope, rel=0.05)


@pytest.mark.parametrize("position", [(6, 0, 0), (0, -1, 0), (3, 3)])
def test_receptive_field_map_refuses(position):
    model, variables = model_and_variables(Histogram((6, 6, 1), Bernoulli()), (6, 6, 1))
    message = f"position is an index into an event of shape (6, 6, 1), got {position}"
    with pytest.raises(ValueError, match=re.escape(message)):
        plotting.receptive_field_map(model, variables, np.zeros((2, 6, 6, 1), int), position)


def test_receptive_field_of_images(figures, monkeypatch):
    field = np.zeros((4, 6, 3))
    field[1, 2], field[2, :3, 0] = [1e-3, 2e-3, 3e-3], 0.1

    def field_map(model, variables, x, position, cond):
        assert x.shape == (5, 4, 6, 3)
        assert len(cond) == 5
        return field

    monkeypatch.setattr(plotting, "receptive_field_map", field_map)
    model = Histogram((4, 6, 3), Bernoulli())
    plotting.receptive_field(model, {}, (4, 6, 3), (2, 3, 1), "unused.png", np.arange(5))
    axes, _ = figures[0].axes
    (image,), (mark,) = axes.images, axes.patches
    np.testing.assert_allclose(image.get_array().filled(0), field.sum(-1))
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), field.sum(-1) == 0)
    assert mark.get_xy() == (2.5, 1.5)


def test_receptive_field_of_variables(tmp_path):
    model, variables = model_and_variables(MADE((7,), Categorical(3), hidden=(20,)), (7,))
    plotting.receptive_field(model, variables, (7,), (5,), tmp_path / "made.png")
    assert pixels(tmp_path / "made.png").shape == (240, 960, 3)
    model, variables = model_and_variables(Histogram((4, 4, 1), Bernoulli()), (4, 4, 1))
    plotting.receptive_field(model, variables, (4, 4, 1), (3, 3, 0), tmp_path / "nothing.png")
    assert pixels(tmp_path / "nothing.png").shape == (810, 960, 3)


@pytest.mark.parametrize(
    ("module", "draw"),
    [
        (
            "PIL.Image",
            lambda path: plotting.image_grid(np.zeros((1, 8, 8, 1), int), path, levels=2, columns=1),
        ),
        ("matplotlib.figure", lambda path: plotting.curves(HISTORY, path)),
    ],
)
def test_missing_extra(tmp_path, monkeypatch, module, draw):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"{module} cannot be imported")) as error:
        draw(tmp_path / "a.png")
    assert str(error.value).endswith("pip install 'arjax[experiments]'")
    assert not list(tmp_path.iterdir())
