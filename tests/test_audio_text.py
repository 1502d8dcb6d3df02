"""Companding, files of sound and text, log-mel frames; the sets, whole and damaged."""

import gzip
import io
import os
import re
import sys
import tarfile

import jax
import numpy as np
import pytest

from arjax.data import (
    AUDIO_SETS,
    SPLITS,
    TEXT_SETS,
    TIMBRES,
    Bytes,
    Vocabulary,
    characters,
    linear_decode,
    linear_encode,
    load_audio,
    load_text,
    log_mel,
    mel_centres,
    mu_law_decode,
    mu_law_encode,
    read_audio,
    read_text,
    resample,
    trim,
    write_audio,
)

RNG = np.random.default_rng(0)
MU_LAW = np.asarray(mu_law_decode(np.arange(256)))
ROOT = "free-spoken-digit-dataset-1.0.9"


def one_line(error):
    return "\n" not in str(error.value)


def sine(hz, rate=8000, seconds=0.5):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def wav(x, rate=8000, **settings):
    file = io.BytesIO()
    pytest.importorskip("soundfile").write(file, x, rate, **{"format": "WAV", "subtype": "PCM_16"} | settings)
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch, request):
    if "real" not in request.node.name:
        monkeypatch.delenv("ARJAX_DATA_DIR", raising=False)


# --- companding ---


@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 1024, 65_536])
@pytest.mark.parametrize(("encode", "decode"), [(mu_law_encode, mu_law_decode), (linear_encode, linear_decode)])
@pytest.mark.parametrize("jit", [False, True])
def test_the_grid_is_kept(encode, decode, levels, jit):
    if jit:
        encode, decode = (jax.jit(f, static_argnums=1) for f in (encode, decode))
    q = np.arange(levels)
    x = decode(q, levels)
    np.testing.assert_array_equal(encode(x, levels), q)
    assert (x.dtype, encode(x, levels).dtype) == (np.float32, np.int32)
    assert (np.diff(x) > 0).all()
    for loud in (1.0, 1.5):
        assert np.asarray(encode(np.array([-loud, loud]), levels)).tolist() == [0, levels - 1]


def test_mu_law():
    x = RNG.uniform(-1, 1, 10_000)
    q = np.asarray(mu_law_encode(x))
    f = np.sign(x) * np.log(1 + 255 * abs(x)) / np.log(256)
    np.testing.assert_array_equal(q, np.floor((f + 1) / 2 * 255 + 0.5))
    grid = np.asarray(mu_law_decode(np.arange(256)))
    assert (grid[0], grid[255]) == (-1, 1)
    np.testing.assert_allclose(grid, -grid[::-1], atol=1e-6)
    step = np.pad(np.diff(grid), 1, mode="edge")
    assert (abs(x - grid[q]) <= np.maximum(step[q], step[q + 1])).all()


def test_linear_is_16_bit_audio():
    samples = RNG.integers(-32_768, 32_768, 1000)
    np.testing.assert_array_equal(linear_encode((samples / 32_768).astype(np.float32)), samples + 32_768)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mu_law_encode(np.zeros(3, np.int16)),
        lambda: linear_encode(np.zeros(3, np.int16)),
        lambda: mu_law_encode(np.zeros(3), 1),
        lambda: mu_law_decode(np.zeros(3)),
        lambda: linear_decode(np.zeros(3, int), 1),
    ],
)
def test_companding_refuses(call):
    with pytest.raises(ValueError, match=r"got \w+ and \d+ levels, wanted") as error:
        call()
    assert one_line(error)


@pytest.mark.parametrize(
    "take",
    [
        mu_law_encode,
        linear_encode,
        lambda x: log_mel(x, 8000, hop=1),
        lambda x: resample(x, 8000, 4000),
        lambda x: resample(x, 8000, 8000),
        trim,
    ],
)
def test_sound_that_is_not_finite_is_refused(take):
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="has samples that are not finite") as error:
            take(np.float32([0, bad, 0.5]))
        assert one_line(error)
    with pytest.raises(ValueError, match="int16"):
        take(np.zeros(3, np.int16))


@pytest.mark.parametrize("decode", [mu_law_decode, linear_decode])
def test_decoding_refuses_what_is_no_level(decode):
    for bad in (-1, 16):
        with pytest.raises(ValueError, match=f"the sound has values {bad}..{bad}, wanted 0..levels-1 = 15"):
            decode(np.array([bad]), 16)


# --- files of sound ---


@pytest.mark.parametrize(
    "settings", [{"subtype": "FLOAT"}, {"subtype": "GSM610"}, {"format": "AIFF"}, {"format": "CAF"}]
)
def test_reading_any_format(settings):
    y = read_audio(wav(sine(440), **settings), 8000)
    np.testing.assert_allclose(y[200:3800], sine(440)[200:3800], atol=0.1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_reading_mixes_and_resamples(tmp_path, channels, format):
    x = sine(440, 44_100)
    both = np.stack([1.5 * x, 0.5 * x], axis=1) if channels == 2 else x
    path = write(tmp_path / "a.sound", wav(both, 44_100, format=format))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        y = read_audio(source, 8000)
        assert (y.dtype, y.shape) == (np.float32, (4000,))
        np.testing.assert_allclose(y[200:-200], sine(440)[200:-200], atol=0.01)
    np.testing.assert_allclose(read_audio(path, 44_100), x, atol=1e-4)


def test_writing(tmp_path):
    path = tmp_path / "a.wav"
    x = (RNG.integers(-32_768, 32_768, 1000) / 32_768).astype(np.float32)
    write_audio(path, x, 8000)
    np.testing.assert_array_equal(read_audio(path, 8000), x)
    write_audio(path, np.array([-2.0, 0, 2]), 8000)
    np.testing.assert_array_equal(read_audio(path, 8000), np.float32([-1, 0, 32_767 / 32_768]))
    for wrong in (np.zeros((3, 2)), np.zeros(0), np.zeros(3, int), np.array([0, np.nan])):
        with pytest.raises(ValueError, match="wanted one or more finite floats") as error:
            write_audio(path, wrong, 8000)
        assert one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


DAMAGED = {
    "no bytes": (lambda: b"", "is not a readable sound"),
    "text": (lambda: b"not a sound at all", "is not a readable sound"),
    "header cut short": (lambda: wav(sine(440))[:30], "sound"),
    "cut short": (lambda: wav(sine(440))[:3000], "is cut short"),
    "flac cut short": (lambda: wav(sine(440), format="FLAC")[:1000], "sound"),
    "no samples": (lambda: wav(np.zeros(0)), "is empty, wanted at least one sample"),
    "not finite": (lambda: wav(np.array([0, np.nan, 1]), subtype="FLOAT"), "has samples that are not finite"),
    "infinite": (lambda: wav(np.array([0, np.inf, 1]), subtype="FLOAT"), "has samples that are not finite"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_sounds(tmp_path, case):
    make, message = DAMAGED[case]
    path = write(tmp_path / "a.wav", make())
    with pytest.raises(ValueError, match=message) as error:
        read_audio(path, 8000)
    assert one_line(error)
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match=message) as error:
        read_audio(path.read_bytes(), 8000, name="the third")
    assert str(error.value).startswith("the third")


def test_missing_and_odd_sounds(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"audio file .*a\.wav does not exist"):
        read_audio(tmp_path / "a.wav", 8000)
    with pytest.raises(ValueError, match="a sampling rate of 0 Hz"):
        read_audio(wav(sine(440)), 0)
    with pytest.raises(ValueError, match="1 samples at 44100 Hz are less than one at 8000 Hz"):
        resample(np.zeros(1, np.float32), 44_100, 8000)
    for module in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=re.escape("pip install 'arjax[audio]'")):
            read_audio(b"", 8000) if module == "soundfile" else resample(sine(440), 8000, 4000)


def test_trim():
    x = np.concatenate([np.zeros(50), sine(440)[1:-1], np.full(70, 1e-4)])
    np.testing.assert_array_equal(trim(x), x[50:-70])
    with pytest.raises(ValueError, match="all of the 70 samples are silent, wanted one beyond the threshold"):
        trim(x[-70:])


# --- log-mel frames ---


@pytest.mark.parametrize(("hop", "window"), [(80, None), (64, 400), (100, 100), (33, 257)])
def test_log_mel_of_a_sine_is_its_band(hop, window):
    for hz in (300, 1000, 2500):
        frames = log_mel(sine(hz), 8000, hop=hop, num_mels=20, window=window)
        assert (frames.shape, frames.dtype) == ((-(-4000 // hop), 20), np.float32)
        assert frames.min() >= 0
        assert frames.max() <= 1
        band = abs(mel_centres(8000, 20) - hz).argmin()
        assert (frames[4:-4].argmax(axis=1) == band).all()
    loud = log_mel(sine(1000), 8000, hop=hop, num_mels=20, window=window)
    soft = log_mel(sine(1000) / 10, 8000, hop=hop, num_mels=20, window=window)
    np.testing.assert_allclose((loud - soft).max(axis=1)[4:-4], 0.2, atol=0.01)
    assert not log_mel(np.zeros(1000), 8000, hop=hop, num_mels=20, window=window).any()


def test_log_mel_frames_are_centred_on_their_samples():
    for i in range(10):
        click = np.zeros(800)
        click[i * 80 + 40] = 1
        loudness = log_mel(click, 8000, hop=80).sum(axis=1)
        assert loudness.argmax() == i
        if 0 < i < 9:
            np.testing.assert_allclose(loudness[i - 1], loudness[i + 1], rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"x": np.zeros(79)}, "got 79 samples and a hop of 80"),
        ({"hop": 0}, "a hop of 0"),
        ({"window": 79}, "got a window of 79 samples, wanted at least 80"),
        ({"num_mels": 2000}, "got 2000 bands, wanted fewer"),
        ({"num_mels": 0}, "got 0 bands, wanted 1 or more"),
        ({"x": np.zeros((2, 800))}, "shape \\(2, 800\\), wanted one channel of floats"),
    ],
)
def test_log_mel_refuses(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        log_mel(**{"x": np.zeros(800), "rate": 8000, "hop": 80} | settings)
    assert one_line(error)


# --- text ---


def test_vocabulary():
    text = "naïve → ok\n"
    vocabulary = characters(text)
    assert vocabulary == Vocabulary("\n aeknovï→")
    x = vocabulary.encode(text)
    assert (x.dtype, x.shape, vocabulary.levels, x.max()) == (np.int32, (11,), 10, 9)
    assert vocabulary.decode(x) == text
    assert vocabulary.decode(vocabulary.encode("")) == ""
    assert Bytes().decode(Bytes().encode(text)) == text
    assert len(Bytes().encode("→")) == 3
    assert Bytes().decode(Bytes().encode("→")[:2]) == "\ufffd"
    assert (Bytes().levels, Bytes().encode(text).dtype) == (256, np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary("abc").encode("ä→a\n"), "characters '\\n', 'ä', '→' are not among the 3"),
        (lambda: Vocabulary("!").encode("abcdefghijkl"), "'j', ... are not among the 1 of the vocabulary"),
        (lambda: Vocabulary("abc").decode([3]), "values 3..3, wanted 0..levels-1 = 2"),
        (lambda: Vocabulary("abc").decode([-1]), "values -1..-1"),
        (lambda: Bytes().decode([256]), "values 256..256, wanted 0..levels-1 = 255"),
        (lambda: Bytes().decode([[1]]), "shape (1, 1), wanted (n,)"),
        (lambda: Vocabulary("aba"), "got 3 symbols, 2 different"),
        (lambda: characters(""), "got 0 symbols"),
    ],
)
def test_vocabulary_refuses(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()
    assert one_line(error)


def test_text_files(tmp_path):
    write(tmp_path / "b.txt", "→ second\r\n".encode())
    write(tmp_path / "a.gz", gzip.compress(b"first\n"))
    write(tmp_path / "c.md", b"neither")
    assert read_text(tmp_path) == "first\n→ second\r\n"
    assert read_text(tmp_path / "c.md") == "neither"
    write(tmp_path / "b.txt", b"caf\xe9")
    with pytest.raises(ValueError, match=r"b\.txt is not a utf-8 text: .* position 3") as error:
        load_text(tmp_path)
    assert one_line(error)
    write(tmp_path / "b.txt", b"")
    with pytest.raises(ValueError, match=r"b\.txt is empty"):
        read_text(tmp_path)
    write(tmp_path / "a.gz", gzip.compress(b"first")[:-9])
    with pytest.raises(ValueError, match=r"a\.gz is a truncated or damaged gzip file"):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"d\.txt does not exist"):
        read_text(tmp_path / "d.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no texts"):
        read_text(tmp_path / "empty")
    write(tmp_path / "empty" / "deeper" / "a.txt", b"abc")
    with pytest.raises(ValueError, match=r"a\.txt would be left out, wanted all texts in .*empty$"):
        load_text(tmp_path / "empty")


# --- sets of text ---


def divided(name, by, **settings):
    parts = [load_text(name, split, by=by, **settings) for split in SPLITS]
    for (data, vocabulary), split in zip(parts, SPLITS, strict=True):
        assert vocabulary == parts[0][1]
        assert (len(data), data.levels, data.split, data.labels) == (1, vocabulary.levels, split, None)
    return [vocabulary.decode(data.sequence(0)) for data, vocabulary in parts]


@pytest.mark.parametrize("by", ["characters", "bytes"])
def test_text_is_divided_in_order(tmp_path, by):
    text = "".join(map(chr, range(200, 307)))
    parts = divided(write(tmp_path / "a.txt", text.encode()), by)
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [96, 5, 6]


def test_pydoc():
    parts = divided("pydoc", "characters")
    assert sum(map(len, parts)) > 300_000
    assert parts[0].startswith('The "assert" statement')


@pytest.mark.parametrize("folder", ["", "tiny_shakespeare"])
def test_tiny_shakespeare(tmp_path, monkeypatch, folder):
    write(tmp_path / folder / "input.txt", b"First Citizen:\n" * 10)
    assert "".join(divided("tiny_shakespeare", "bytes", data_dir=tmp_path)) == "First Citizen:\n" * 10
    monkeypatch.setenv("ARJAX_DATA_DIR", str(tmp_path))
    assert len(divided("tiny_shakespeare", "characters")[0]) == 135


def test_short_text(tmp_path):
    with pytest.raises(
        ValueError, match=r"\(valid\): x has shape \(0,\), wanted \(n,\) with at least one position"
    ):
        load_text(write(tmp_path / "a.txt", b"a"), "valid")


# --- sets of sounds ---


def test_tones():
    parts = [load_audio("tones", split) for split in SPLITS]
    assert [len(part) for part in parts] == [400, 100, 100]
    for part in parts:
        assert (part.levels, part.num_classes, part.x.dtype, part.hop) == (256, len(TIMBRES), np.uint8, 1)
        assert np.bincount(part.labels).tolist() == [len(part) // 5] * 5
        assert 3600 <= part.lengths.min() < part.lengths.max() <= 4400
        waves = [MU_LAW[part.sequence(i)] for i in range(10)]
        assert all(0.29 < abs(wave).max() < 0.91 and abs(wave.mean()) < 0.02 for wave in waves)
    assert len({part.sequence(i).tobytes() for part in parts for i in range(len(part))}) == 600
    np.testing.assert_array_equal(load_audio("tones", "test").x, parts[2].x)


def test_settings_of_sounds():
    data = load_audio(
        "tones", "test", rate=4000, levels=65_536, encoding="linear", features="log_mel", hop=50, num_mels=12
    )
    assert (data.levels, data.x.dtype, data.hop) == (65_536, np.uint16, 50)
    assert data.lengths.max() <= 2200
    for i in range(3):
        wave = np.asarray(linear_decode(data.sequence(i)))
        np.testing.assert_allclose(data.frames(i), log_mel(wave, 4000, hop=50, num_mels=12), atol=0.05)


def recordings():
    """The value of a recording is told by its digit, speaker and index."""
    for digit in (0, 7):
        for s, speaker in enumerate(("theo", "jackson")):
            for index in range(12):
                yield f"{digit}_{speaker}_{index}.wav", np.full(10 + index, (digit + s / 2 + 1) / 16, np.float32)


@pytest.mark.parametrize("place", ["recordings", f"{ROOT}/recordings", f"spoken_digit/{ROOT}/recordings", "tar"])
def test_spoken_digit_files(tmp_path, place):
    files = {name: wav(x) for name, x in recordings()}
    if place == "tar":
        with tarfile.open(tmp_path / f"{ROOT}.tar.gz", "w:gz") as tar:
            for name, data in {**files, "README.md": b"no sound"}.items():
                member = tarfile.TarInfo(f"{ROOT}/recordings/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            write(tmp_path / place / name, data)
    before = sorted(tmp_path.rglob("*"))
    check_digits(lambda split: load_audio("spoken_digit", split, data_dir=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def check_digits(load):
    for split, indices in zip(SPLITS, (range(10, 12), range(5, 10), range(5)), strict=True):
        data = load(split)
        assert data.num_classes == (10, 2)
        assert data.lengths.tolist() == [10 + index for index in indices] * 4
        digits, speakers = data.labels
        assert digits.tolist() == sorted([0, 7] * 2 * len(indices))
        assert speakers.tolist() == ([0] * len(indices) + [1] * len(indices)) * 2  # jackson, theo
        for i in range(len(data)):
            wave = MU_LAW[data.sequence(i)]
            np.testing.assert_allclose(wave, (digits[i] + (1 - speakers[i]) / 2 + 1) / 16, rtol=0.03)


def test_spoken_digit_refuses(tmp_path):
    write(tmp_path / "recordings" / "0_theo_x.wav", wav(sine(440)))
    with pytest.raises(ValueError, match=r"holds 0_theo_x\.wav, wanted names as 0_jackson_0\.wav"):
        load_audio("spoken_digit", data_dir=tmp_path)
    (tmp_path / "recordings" / "0_theo_x.wav").rename(tmp_path / "recordings" / "0_theo_10.wav")
    with pytest.raises(ValueError, match="spoken_digit has no sounds for its test split"):
        load_audio("spoken_digit", "test", data_dir=tmp_path)
    (tmp_path / "recordings" / "0_theo_10.wav").unlink()
    path = write(tmp_path / f"{ROOT}.tar.gz", gzip.compress(b"no archive"))
    with pytest.raises(ValueError, match="is not a readable tar archive") as error:
        load_audio("spoken_digit", data_dir=tmp_path)
    assert one_line(error)
    assert str(path) in str(error.value)


def test_ljspeech_files(tmp_path):
    for i in range(1, 8):
        write(tmp_path / f"LJSpeech-1.1/wavs/LJ001-{i:04}.wav", wav(np.zeros(2205 * i), 22_050))
    for split, lengths in zip(SPLITS, ([800, 1600, 2400], [3200, 4000], [4800, 5600]), strict=True):
        data = load_audio("ljspeech_16", split, data_dir=tmp_path, features="log_mel")
        assert data.lengths.tolist() == lengths
        assert (data.labels, data.num_classes, data.features.shape) == (None, None, (sum(lengths) // 80, 80))


def test_folders_of_sounds(tmp_path):
    for i in range(20):
        write(tmp_path / "a" / "cat" / f"{i}.wav", wav(np.full(100 + i, 0.25)))
        write(tmp_path / "a" / "dog" / f"{i}.flac", wav(np.full(120 + i, -0.25), format="FLAC"))
        write(tmp_path / "b" / "train" / f"{i}.ogg", wav(np.full(3000 + i, 0.25), subtype="VORBIS", format="OGG"))
    write(tmp_path / "a" / "cat" / "notes.txt", b"no sound")
    write(tmp_path / "b" / "test" / "0.wav", wav(np.zeros(50)))
    parts = [load_audio(tmp_path / "a", split) for split in SPLITS]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(np.concatenate([part.lengths for part in parts])) == list(range(100, 140))
    for part in parts:
        np.testing.assert_array_equal(part.labels, part.lengths >= 120)
        np.testing.assert_array_equal(part.x[part.starts] < 128, part.labels)
        assert part.num_classes == 2
    assert [len(load_audio(tmp_path / "b", split)) for split in SPLITS] == [18, 2, 1]
    assert load_audio(tmp_path / "b").labels is None
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="c holds no sounds"):
        load_audio(tmp_path / "c")
    write(tmp_path / "c" / "0.wav", b"damaged")
    with pytest.raises(ValueError, match=r"0\.wav is not a readable sound"):
        load_audio(tmp_path / "c", "test")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: load_text("shakespeare"),
            ValueError,
            f"unknown text 'shakespeare', wanted {', '.join(TEXT_SETS)}, or",
        ),
        (lambda: load_audio("digits"), ValueError, f"unknown audio 'digits', wanted {', '.join(AUDIO_SETS)}, or"),
        (
            lambda: load_text("pydoc", "eval"),
            ValueError,
            "unknown split 'eval', wanted train or training, valid or",
        ),
        (lambda: load_audio("tones", "eval"), ValueError, "unknown split 'eval'"),
        (lambda: load_text("pydoc", by="words"), ValueError, "unknown by 'words', wanted characters or bytes"),
        (lambda: load_audio(encoding="a_law"), ValueError, "unknown encoding 'a_law', wanted mu_law or linear"),
        (lambda: load_audio(features="mfcc"), ValueError, "unknown features 'mfcc', wanted log_mel or None"),
        (lambda: load_audio(levels=1), ValueError, "wanted a waveform of floats in -1..1 and 2 or more levels"),
        (lambda: load_text("pydoc", data_dir="nowhere"), FileNotFoundError, "nowhere does not exist"),
        (lambda: load_text("tiny_shakespeare"), FileNotFoundError, "tiny_shakespeare: no input.txt[.gz] in any"),
        (
            lambda: load_text("tiny_shakespeare"),
            FileNotFoundError,
            "https://github.com/karpathy/char-rnn has it; ",
        ),
        (lambda: load_audio("spoken_digit"), FileNotFoundError, "pip install 'arjax[tfds]'"),
        (lambda: load_audio("ljspeech_16"), FileNotFoundError, "ljspeech_16: no LJSpeech-1.1/wavs/*.wav in any"),
    ],
)
def test_unknown_and_missing(monkeypatch, call, kind, message):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(kind, match=re.escape(message)) as error:
        call()
    assert one_line(error)


# --- tensorflow-datasets, prepared without TensorFlow ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    root = tmp_path_factory.mktemp("tfds")

    def prepare(name, version, features, **splits):
        class Custom(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            pkg_dir_path = None

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, manager):
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples):
                yield from enumerate(examples)

        Custom.name = name
        Custom(data_dir=root, file_format="array_record").download_and_prepare()

    text, sounds = tfds.features.Text(), tfds.features.Tensor(shape=(None,), dtype=np.int64)
    parts = {"train": "a" * 90, "validation": "b" * 5, "test": "→" * 5}
    prepare(
        "tiny_shakespeare", "1.0.0", {"text": text}, **{split: [{"text": part}] for split, part in parts.items()}
    )
    digits = [{"audio": (32_768 * x).astype(int), "audio/filename": name} for name, x in recordings()]
    prepare("spoken_digit", "1.0.9", {"audio": sounds, "audio/filename": text}, train=digits)
    return root


def test_tfds_stands_in_for_missing_files(prepared, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    assert divided("tiny_shakespeare", "characters", data_dir=prepared) == ["a" * 90, "b" * 5, "→" * 5]
    # by its name, tensorflow-datasets builds the original, whose sounds need TensorFlow
    builder = tfds.builder_from_directory(prepared / "spoken_digit" / "1.0.9")
    monkeypatch.setattr("arjax.data.sequence_sets.prepared", lambda name, folders: builder)
    check_digits(lambda split: load_audio("spoken_digit", split, data_dir=prepared))
    assert "tensorflow" not in sys.modules


# --- the real files ---

real = pytest.mark.skipif("ARJAX_DATA_DIR" not in os.environ, reason="ARJAX_DATA_DIR names no folder of real data")


@real
def test_real_tiny_shakespeare():
    parts = [load_text("tiny_shakespeare", split) for split in SPLITS]
    assert [len(data.x) for data, _ in parts] == [1_003_854, 55_770, 55_770]
    assert {vocabulary.levels for _, vocabulary in parts} == {65}


@real
def test_real_spoken_digit():
    parts = [load_audio("spoken_digit", split) for split in SPLITS]
    assert [len(part) for part in parts] == [2000, 250, 250]
    for part in parts:
        assert part.num_classes == (10, 5)
        assert np.bincount(part.labels[0] * 5 + part.labels[1]).tolist() == [len(part) // 50] * 50


@real
def test_real_ljspeech():
    parts = [load_audio("ljspeech_16", split, rate=16_000) for split in SPLITS]
    assert [len(part) for part in parts] == [12, 2, 2]
    assert 100 < sum(len(part.x) for part in parts) / 16_000 < 120
