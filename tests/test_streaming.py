"""Sequences a part at a time: prompts, chunks of any length, memories of any reach, no end."""

import itertools
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply, integers, random_variables

import arjax
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes, Several, Upsampling
from arjax.models import RNN, Histogram, TemporalConv, WaveNet
from arjax.models.wavenet import receptive_field

LENGTH, HOP = 100, 4
SIZES = {"features": 4, "gate_features": 4, "skip_features": 6}
CONDITION = Several((Classes(3), Upsampling(2, (2, 2), features=3)))
MODELS = {
    "wavenet": WaveNet(Categorical(7), (1, 2, 15, 16, 17, 40, 200), **SIZES),
    "wavenet_3_taps": WaveNet(Categorical(7), (1, 8, 16, 30), 3, entry_kernel_size=3, **SIZES),
    "wavenet_conditional": WaveNet(Categorical(7), (1, 4, 16, 32), conditioning=CONDITION, **SIZES),
    "temporal_conv": TemporalConv(Categorical(7), 8, (1, 16, 33), positions=(10, 10)),
    "lstm": RNN(Categorical(7), 8, positions=(5, 4)),
    "gru": RNN(Categorical(7), 8, cell=nn.GRUCell),
}


@cache
def setup(name):
    """A model with random parameters, its condition or None, noise, and the sample that belongs to it."""
    model = MODELS[name]
    length = 20 if name == "lstm" else LENGTH
    cond = None
    if name == "wavenet_conditional":
        frames = np.random.default_rng(0).normal(size=(2, length // HOP, 2)).astype(np.float32)
        cond = np.array([2, 0]), frames
    variables = random_variables(model, integers(7, 2, length), cond, scale=0.8)
    noise = jax.random.uniform(jax.random.key(0), (2, length))
    return model, variables, cond, noise, arjax.sample_from_noise(model, variables, noise, cond)


def part(cond, start, end):
    return None if cond is None else (cond[0], cond[1][:, start // HOP : end // HOP])


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_is_the_fixed_point_of_its_noise(name):
    model, variables, cond, noise, sample = setup(name)
    given_back = model.output.quantile(apply(model, variables, sample, cond), noise)
    np.testing.assert_array_equal(given_back, sample)
    assert len(np.unique(np.asarray(sample))) > 2


@pytest.mark.parametrize("prompt", [4, 52])
@pytest.mark.parametrize("name", MODELS)
def test_chunks_of_any_length_make_the_sample_of_one_call(name, prompt):
    """A prompt is absorbed at once; it and the chunks are shorter and longer than what is remembered."""
    model, variables, cond, noise, sample = setup(name)
    length = noise.shape[1]
    if prompt >= length:
        pytest.skip("longer than the event")
    ends = [prompt, *(end for end in (8, 20, 24, 60) if end > prompt and end < length), length]
    state = arjax.start(model, variables, sample[:, :prompt], part(cond, 0, prompt))
    for start, end in itertools.pairwise(ends):
        state, chunk = arjax.extend(model, variables, state, noise[:, start:end], part(cond, start, end))
        np.testing.assert_array_equal(chunk, sample[:, start:end])


def test_a_state_does_not_grow():
    """Far beyond what the network sees, and no larger than that."""
    model, variables, _, noise, _ = setup("wavenet")
    state = arjax.start(model, variables, np.zeros((2, 0), np.int32))
    assert state.length is None
    shapes = []
    for _ in range(5):
        state, _ = arjax.extend(model, variables, state, noise)
        shapes.append(jax.tree.map(jnp.shape, state))
    assert shapes == [shapes[0]] * 5
    assert state.position > model.receptive_field
    assert sum(leaf.size for leaf in state.memory) <= 2 * 4 * (sum(model.dilations) + 2)


def test_positions_end():
    model, variables, _, noise, sample = setup("lstm")
    with pytest.raises(ValueError, match="an event has 20 positions, got 20 and 1 more"):
        arjax.extend(model, variables, arjax.start(model, variables, sample), noise[:, :1])


def averages(variables, x):
    """The logit of a 1 grows with the mean of all values before."""
    total = jnp.cumsum(jnp.pad(x, ((0, 0), (1, 0)))[:, :-1], 1).astype(jnp.float32)
    count = 1 + jnp.arange(x.shape[1], dtype=jnp.float32)[None]
    return (variables["scale"] * total / count)[..., None]


def test_a_network_that_counts_positions_wants_to_know_their_number():
    model, variables = arjax.Causal(averages, Bernoulli()), {"scale": jnp.float32(3)}
    noise = jax.random.uniform(jax.random.key(0), (3, 12))
    whole = arjax.sample_from_noise(model, variables, noise)
    np.testing.assert_array_equal(whole, arjax.sample_from_noise(model, variables, noise, method="naive"))
    for known in (0, 1, 5):
        with pytest.raises(ValueError, match="the length of a sequence is wanted"):
            arjax.start(model, variables, whole[:, :known])
    state = arjax.start(model, variables, whole[:, :5], length=12)
    state, chunk = arjax.extend(model, variables, state, noise[:, 5:])
    np.testing.assert_array_equal(chunk, whole[:, 5:])
    with pytest.raises(ValueError, match="an event has 12 positions, got 12 and 1 more"):
        arjax.extend(model, variables, state, noise[:, :1])
    with pytest.raises(ValueError, match="an event has 4 positions, got 0 and 5 more"):
        arjax.start(model, variables, whole[:, :5], length=4)


@pytest.mark.parametrize("name", ["wavenet", "wavenet_3_taps"])
def test_receptive_field(name):
    """The earliest position that a conditional sees is as many before it as the formula says."""
    model = MODELS[name].clone(dilations=(1, 3, 16), dropout=0.0)
    field = model.receptive_field
    assert field == receptive_field((1, 3, 16), model.kernel_size, model.entry_kernel_size)
    x = integers(7, 1, field + 3)
    variables = random_variables(model, x)
    last = jax.jit(jax.jacobian(lambda x: model.apply(variables, x)[0, -1].sum()))(x.astype(np.float32) + 0.25)
    seen = np.flatnonzero(np.asarray(last)[0])
    assert (seen[0], seen[-1]) == (x.shape[1] - 1 - field, x.shape[1] - 2)


def test_top_p_keeps_the_most_probable_levels():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.05, 0.3, 0.15]]))
    for top_p, kept in ((0.3, [1]), (0.4001, [1, 3]), (0.75, [1, 3, 4]), (1.0, range(5))):
        nucleus = np.asarray(Categorical(5).nucleus(logits, top_p))[0]
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(nucleus)), list(kept))
        np.testing.assert_array_equal(nucleus[list(kept)], np.asarray(logits)[0, list(kept)])
    logit = jnp.array([[1.0], [-1.0]])
    np.testing.assert_array_equal(Bernoulli().nucleus(logit, 0.7), [[np.inf], [-np.inf]])
    np.testing.assert_array_equal(Bernoulli().nucleus(logit, 0.8), logit)


def test_top_p_in_every_sampler():
    model, variables, _, noise, _ = setup("wavenet")
    noise = noise[:, :20]
    naive, cached, fixed = (
        arjax.sample_from_noise(model, variables, noise, top_p=0.5, method=method)
        for method in ("naive", "cached", "fixed_point")
    )
    np.testing.assert_array_equal(naive, cached)
    np.testing.assert_array_equal(naive, fixed)
    _, streamed = arjax.extend(
        model, variables, arjax.start(model, variables, np.zeros((2, 0), np.int32)), noise, top_p=0.5
    )
    np.testing.assert_array_equal(naive, streamed)
    most = arjax.sample_from_noise(model, variables, noise, top_p=1e-6)
    np.testing.assert_array_equal(most, model.output.mode(apply(model, variables, most)))


def test_bad_input():
    model, variables, cond, noise, sample = setup("wavenet_conditional")
    start, extend = arjax.start, arjax.extend
    state = start(model, variables, sample[:, :8], part(cond, 0, 8))
    with pytest.raises(ValueError, match="a series for 12 positions is wanted, got one for 8"):
        extend(model, variables, state, noise[:, :12], part(cond, 0, 8))
    with pytest.raises(ValueError, match="a series for 100 positions is wanted, got one for 96"):
        arjax.log_prob(model, variables, sample, part(cond, 0, 96))
    with pytest.raises(ValueError, match="a series for 2 positions is wanted, got one for 4"):
        arjax.log_prob(model, variables, sample[:, :2], part(cond, 0, 4))
    with pytest.raises(ValueError, match="a tuple of 2 conditions is wanted, got 1"):
        arjax.log_prob(model, variables, sample, cond[:1])
    with pytest.raises(ValueError, match=r"labels 0\.\.2 are wanted, got values 0\.\.3"):
        arjax.log_prob(model, variables, sample, (np.array([3, 0]), cond[1]))
    with pytest.raises(ValueError, match=r"a prompt of shape \(batch, length\) is wanted, got int32 of \(8,\)"):
        start(model, variables, sample[0, :8], cond)
    with pytest.raises(ValueError, match=r"integers 0\.\.6 are wanted, got values 0\.\.7"):
        start(model, variables, np.array([[0, 7]]), cond)
    with pytest.raises(ValueError, match=r"noise of shape \(2, length of 1 or more\) is wanted, got \(3, 4\)"):
        extend(model, variables, state, jnp.zeros((3, 4)), cond)
    with pytest.raises(ValueError, match="a top_p above 0 and at most 1 is wanted, got 0"):
        arjax.sample_from_noise(model, variables, noise, cond, top_p=0)
    mixture = Histogram((3,), DiscretizedLogisticMixture(2, 5))
    with pytest.raises(ValueError, match="top_p: an output with a nucleus"):
        arjax.sample(
            mixture, mixture.init(jax.random.key(0), jnp.zeros((1, 3))), jax.random.key(0), (1, 3), top_p=0.5
        )
    with pytest.raises(ValueError, match="entry is 'embedding', 'one_hot' or 'scalar', got 'hot'"):
        WaveNet(entry="hot").init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"sequences of shape \(batch, length\) are wanted, got \(1, 3, 1\)"):
        WaveNet().init(jax.random.key(0), jnp.zeros((1, 3, 1), jnp.int32))
