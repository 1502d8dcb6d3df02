"""Files come back to the last bit, are as long as the likelihood says, and are refused if anything is wrong."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import integers, random_variables
from zoo import ZOO

import arjax
from arjax import compression
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Upsampling
from arjax.models import MADE, RNN, ChainRule, Histogram, WaveNet

MODEL = MADE((12,), Categorical(5), hidden=(30,))
X = integers(5, 50, 12)
VARIABLES = random_variables(MODEL, X)


def ideal_bits(model, variables, x, cond=None):
    return -float(np.asarray(arjax.log_prob(model, variables, x, cond), np.float64).sum()) / math.log(2)


def assert_comes_back(model, variables, x, cond=None, **options):
    data = compression.compress(model, variables, x, cond, **options)
    back = compression.decompress(model, variables, data, cond)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, x)
    bits = compression.payload_bits(data)
    ideal = ideal_bits(model, variables, x, cond)
    assert ideal - 1 < bits < 1.001 * ideal + 64
    assert len(data) - bits // 8 < 120
    return data


@pytest.mark.parametrize(
    "name",
    [
        "histogram",
        "made_agnostic",
        "gated_pixelcnn_categorical",
        "pixelcnnpp_rgb_mixture",
        "wavenet_local",
        "transformer_fixed_local",
        "transformer_mixture_rgb",
        "multiscale_rgb",
    ],
)
def test_zoo(name):
    """Lanes that the examples do not fill, orders of all kinds, conditioning, colours, mixtures and stages."""
    model, x, cond = ZOO[name]()
    assert_comes_back(model, random_variables(model, x, cond), x, cond, lanes=3)


def test_many_examples():
    """The bound on the overhead is for a file, so all lanes share one stream."""
    x = arjax.sample(MODEL, VARIABLES, jax.random.key(0), (300, 12))
    data = assert_comes_back(MODEL, VARIABLES, x, lanes=64)
    assert len(data) < len(assert_comes_back(MODEL, VARIABLES, integers(5, 300, 12), lanes=64))


@pytest.mark.parametrize("levels", [17, 256, 65_536])
def test_mixtures_of_many_levels(levels):
    model = Histogram((40,), DiscretizedLogisticMixture(3, levels))
    params = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    params[:, 6:] -= np.linspace(0, 10, 40)[:, None]
    variables = {"params": {"logits": params}}
    x = arjax.sample(model, variables, jax.random.key(0), (20, 40))
    assert_comes_back(model, variables, x)
    ends = np.tile(np.array([0, levels - 1, 1, levels // 2], np.int32), (2, 10))
    far = compression.compress(model, variables, ends)  # of levels of no probability to speak of
    np.testing.assert_array_equal(compression.decompress(model, variables, far), ends)


def test_sure_values_cost_nothing():
    model = Histogram((3,), Bernoulli())
    sure = {"params": {"logits": np.full((3, 1), -math.log(2**20), np.float32)}}
    zeros = np.zeros((1000, 3), np.int32)
    assert compression.payload_bits(assert_comes_back(model, sure, zeros)) <= 64
    impossible = {"params": {"logits": np.full((3, 1), -200, np.float32)}}
    data = compression.compress(model, impossible, zeros + 1)
    np.testing.assert_array_equal(compression.decompress(model, impossible, data), zeros + 1)


@pytest.mark.parametrize("length", [1, 5, 11])
def test_sequences_in_chunks(length, monkeypatch):
    """A chunk is whole frames; states go on from chunk to chunk, and begin anew with the next examples."""
    monkeypatch.setattr(compression, "CHUNK", 4)
    model = WaveNet(Categorical(3), (1, 2), 4, 4, 4, conditioning=Upsampling(2, (3,), features=2))
    frames = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)[:, : -(-length // 3)]
    variables = random_variables(model, integers(3, 5, 12), np.zeros((5, 4, 2), np.float32))
    x = integers(3, 5, length)
    data = compression.compress(model, variables, x, frames, lanes=2)
    np.testing.assert_array_equal(compression.decompress(model, variables, data, frames), x)
    whole = np.pad(x, ((0, 0), (0, 3 * frames.shape[1] - length)))
    per_position = arjax.bits_per_dim(model, variables, whole, frames) * whole.shape[1]
    assert compression.payload_bits(data) < float(per_position.sum()) + 64


def test_long_sequences_have_constant_memory(monkeypatch):
    monkeypatch.setattr(compression, "CHUNK", 8)
    model = RNN(Categorical(4), features=4)
    variables = random_variables(model, integers(4, 1, 3))
    compression._next.clear_cache()
    for length in (40, 100):
        assert_comes_back(model, variables, integers(4, 1, length))
    assert compression._next._cache_size() == 1


TABLE = np.random.default_rng(0).normal(size=(1, 12, 5)).astype(np.float32)


def told_positions(variables, x):
    before = jnp.pad(x + 1, ((0, 0), (1, 0)))[:, :-1]
    return jax.nn.one_hot(before, 5) + TABLE[:, : x.shape[1]]


def of_one_size(variables, x):
    return told_positions(variables, x) + TABLE


def of_one_size_by_name(variables, x):
    if x.shape[1] != 12:
        raise ValueError(f"12 positions are wanted, got {x.shape[1]}")
    return told_positions(variables, x)


@pytest.mark.parametrize("function", [told_positions, of_one_size, of_one_size_by_name])
def test_networks_that_take_no_part_of_an_event(function):
    assert_comes_back(arjax.Causal(function, Categorical(5)), {}, X)


@pytest.fixture(scope="module")
def file():
    return compression.compress(MODEL, VARIABLES, X, lanes=16)


def test_any_damaged_byte_is_found(file):
    rng = np.random.default_rng(0)
    for place, change in zip(rng.integers(0, len(file), 1000), rng.integers(1, 256, 1000), strict=True):
        damaged = bytearray(file)
        damaged[place] ^= change
        with pytest.raises(ValueError, match=r", wanted |: wanted "):
            compression.decompress(MODEL, VARIABLES, bytes(damaged))
    for size in range(len(file)):
        with pytest.raises(ValueError, match=r"damaged|the bytes of a compressed file are wanted"):
            compression.decompress(MODEL, VARIABLES, file[:size])


def test_a_file_of_something_else(file, monkeypatch):
    changed = jax.tree.map(np.copy, VARIABLES)
    jax.tree.leaves(changed)[0].flat[0] += 1e-6
    hexes = r"[0-9a-f]{16}"
    with pytest.raises(ValueError, match=rf"written with parameters {hexes}, wanted parameters {hexes} as here"):
        compression.decompress(MODEL, changed, file)
    other = MODEL.clone(activation=nn.gelu)
    with pytest.raises(ValueError, match=rf"written with model {hexes}, wanted model {hexes} as here"):
        compression.decompress(other, VARIABLES, file)
    model, x, labels = ZOO["transformer"]()
    variables = random_variables(model, x, labels)
    conditional = compression.compress(model, variables, x, labels)
    with pytest.raises(ValueError, match=rf"written with cond {hexes}, wanted cond {hexes} as here"):
        compression.decompress(model, variables, conditional, labels[::-1].copy())
    with pytest.raises(ValueError, match=r"begins with b'PK.*wanted b'arjax'"):
        compression.decompress(MODEL, VARIABLES, b"PK" + file)
    monkeypatch.setattr(compression, "VERSION", 3)
    with pytest.raises(ValueError, match="has version 2 of the format, wanted version 3"):
        compression.decompress(MODEL, VARIABLES, file)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.raises(
        ValueError, match=r"with platform cpu .* jax 0\.\d+.*, wanted platform cpu .* jax 0\.0\.1 "
    ):
        compression.decompress(MODEL, VARIABLES, file)


def test_a_machine_that_rounds_otherwise(file, monkeypatch):
    """Never a wrong image: what comes out is compared with what went in."""
    log_probs = Categorical.log_probs
    monkeypatch.setattr(Categorical, "log_probs", lambda self, params: log_probs(self, params * 1.01))
    compression._whole.clear_cache()
    with pytest.raises(ValueError, match=r"came out have the CRC .* wanted .* as went in|the range coder stopped"):
        compression.decompress(MODEL, VARIABLES, file)
    compression._whole.clear_cache()


def test_refused():
    with pytest.raises(ValueError, match=r"integers 0\.\.4 are wanted"):
        compression.compress(MODEL, VARIABLES, X + 5)
    with pytest.raises(ValueError, match="lanes: 1 or more are wanted, got 0"):
        compression.compress(MODEL, VARIABLES, X, lanes=0)
    with pytest.raises(ValueError, match="got str of length 3"):
        compression.decompress(MODEL, VARIABLES, "abc")
    with pytest.raises(ValueError, match=r"^12 positions are wanted, got 11"):
        compression.compress(arjax.Causal(of_one_size_by_name, Categorical(5)), {}, X[:, :11])
    nan = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), VARIABLES)
    with pytest.raises(ValueError, match="finite probabilities are wanted"):
        compression.compress(MODEL, nan, X)
    model, x, _ = ZOO["depth"]()
    with pytest.raises(ValueError, match=r"samples are the data alone is wanted, got \w+"):
        compression.compress(model, {}, x)
    model = ChainRule(3, Continuous())
    with pytest.raises(
        ValueError, match=r"a model of integers is wanted, got Continuous\(\), which is continuous"
    ):
        compression.compress(model, {}, X)


class Continuous:
    levels = None

    def __repr__(self):
        return "Continuous()"
