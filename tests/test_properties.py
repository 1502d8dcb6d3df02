"""The seven properties of every model in the zoo."""

import functools
import itertools
import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    apply,
    events,
    log_probs_of,
    noise_for,
    pixelcnn_field,
    random_variables,
    repeat,
    resize,
    row_lstm_field,
    stepped_params,
)
from zoo import BOUNDS, ONE_OF_EACH, ZOO, slow_but_for_one_of_each

import arjax
from arjax import sampling, training
from arjax.models import PixelCNN, RowLSTM
from arjax.modules import forward


def in_bfloat16(module):
    """The module with all that it consists of in bfloat16."""

    def half(value):
        if isinstance(value, tuple):
            return tuple(map(half, value))
        return in_bfloat16(value) if isinstance(value, nn.Module) else value

    fields = {
        name: half(getattr(module, name)) for name in module.__dataclass_fields__ if name not in ("parent", "name")
    }
    return type(module)(**(fields | ({"dtype": jnp.bfloat16} if "dtype" in fields else {})))


NAMES = list(ZOO)
MODELS = {name: ZOO[name]()[0] for name in NAMES}
ONE_PASS = [name for name in NAMES if not hasattr(MODELS[name], "log_prob")]
EXACT = [name for name in NAMES if name not in BOUNDS]
CONDITIONAL = [name for name in NAMES if ZOO[name]()[2] is not None]
DERIVED = [name for name in NAMES if not hasattr(MODELS[name], "generate")]
SEQUENCES = [name for name in DERIVED if ZOO[name]()[1].ndim == 2]
ORDERED = [name for name in DERIVED if name in SEQUENCES or hasattr(MODELS[name], "in_order")]
"""Models of one axis of positions, in the order of generation."""
BLOCK = 5
"""Positions of a block: some events end with a shorter one, some are one."""
HOPS = {"wavenet_local": 6, "gru": 2}
WITH_DTYPE = [name for name in NAMES if in_bfloat16(MODELS[name]) != MODELS[name]]


@functools.cache
def setup(name):
    """A model with random parameters, no bias left at zero."""
    model, x, cond = ZOO[name]()
    return model, random_variables(model, x, cond), jnp.asarray(x), cond


def ranks_of(model, variables, event):
    """The step at which each position of an event is generated."""
    ranks = model.apply(variables, method="ranks") if hasattr(model, "ranks") else np.arange(math.prod(event))
    return np.asarray(ranks)


@functools.cache
def enumerated(name):
    """All events, and their log-probabilities given the first condition."""
    model, variables, x, cond = setup(name)
    every = events(model.output.levels, x.shape[1:])
    return every, log_probs_of(model, variables, every, cond)


def of_chunk(cond, length, start, end):
    """The part of `cond` that belongs to positions `start..end-1` of `length`; labels belong to all."""

    def part(leaf):
        return leaf[:, start * leaf.shape[1] // length : end * leaf.shape[1] // length] if leaf.ndim > 2 else leaf

    return jax.tree.map(part, cond)


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    model, x, cond = ZOO[name]()
    variables = random_variables(model, x, cond)
    assert set(variables) == {"params"}
    log_prob = jax.eval_shape(partial(arjax.log_prob, model), variables, x, cond)
    assert (log_prob.shape, log_prob.dtype) == ((len(x),), jnp.float32)
    if name not in ONE_PASS:
        return
    params = forward(model, variables, x, cond)
    chex.assert_shape(params, (*x.shape, model.output.num_params))
    assert params.dtype == jnp.float32
    chex.assert_trees_all_close(apply(model, variables, x, cond), params, atol=1e-5)


def expected_receptive_field(name, model, ranks, event):
    """`field[i, j]`: whether the conditional of position i depends on position j."""
    field = ranks[:, None] > ranks
    if isinstance(model, PixelCNN) or getattr(model, "layer", None) is RowLSTM:
        pixels = (pixelcnn_field if isinstance(model, PixelCNN) else row_lstm_field)(model, *event[:2])
        return field & np.kron(pixels | np.eye(len(pixels), dtype=bool), np.ones((model.channels,) * 2, bool))
    if name == "histogram":
        return np.zeros_like(field)
    if name == "bayes_net":
        return np.array([[j in parents for j in range(model.size)] for parents in model.parents])
    return field


@pytest.mark.parametrize("name", ONE_PASS)
def test_causality(name):
    """Which parameters change with a value; and that the operations show as much, in raster order."""
    model, variables, x, cond = setup(name)
    event, size = x.shape[1:], math.prod(x.shape[1:])

    def params(x):
        return np.asarray(apply(model, variables, x.reshape(-1, *event), cond)).reshape(len(x), size, -1)

    flat = np.asarray(x).reshape(-1, size)
    changes = itertools.product(range(size), range(1, model.output.levels))
    reached = np.zeros((size, size), bool)
    for position, change in changes:
        changed = flat.copy()
        changed[:, position] = (flat[:, position] + change) % model.output.levels
        reached[:, position] |= (params(changed) != params(flat)).any((0, 2))
    expected = expected_receptive_field(name, model, ranks_of(model, variables, event), event)
    np.testing.assert_array_equal(reached, expected)
    if not hasattr(model, "ranks"):
        arjax.check_causal(partial(forward, model, variables, cond=cond), x)


@pytest.mark.parametrize("name", EXACT)
def test_normalisation(name):
    assert np.logaddexp.reduce(enumerated(name)[1]) == pytest.approx(0, abs=2e-5)


@partial(jax.jit, static_argnums=0)
def quantile_and_log_prob(output, params, noise, x):
    return output.quantile(params, noise), output.log_prob(params, x)


@pytest.mark.parametrize("name", ONE_PASS)
def test_samplers(name):
    """All methods draw the same."""
    check_samplers(name, name in ORDERED and name in ONE_OF_EACH)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ORDERED if name not in ONE_OF_EACH])
def test_samplers_in_blocks(name):
    """All methods draw the same, that of blocks too."""
    check_samplers(name, True)


def check_samplers(name, in_blocks):
    """All methods draw the same: alone, with evidence and each example at a temperature of its own, and cold.

    One parallel pass gives the sample back, and its log-probability at that temperature. Cold samples are modes.
    Evidence stays, and acts on nothing before it.
    """
    model, variables, x, cond = setup(name)
    x, cond = resize(x, 64), resize(cond, 64)
    noise = jax.random.uniform(jax.random.key(3), x.shape)
    some, none = np.random.default_rng(6).random(x.shape) < 0.4, np.zeros(x.shape, bool)
    warm, ones = np.linspace(0.5, 2, 64, dtype=np.float32), np.ones(64, np.float32)
    methods, size, outer = ["naive", "cached", "fixed_point"], math.prod(x.shape[1:]), 1
    if in_blocks:
        methods.append("blocks")
        outer = math.ceil(size / (getattr(model, "channels", 0) or 1) / BLOCK)
    elif x.ndim == 4 and name in DERIVED and name not in ORDERED:
        methods.append("rows")
        outer = x.shape[1]

    def draw(method, known, temperature):
        options = {"return_iterations": method in sampling.COUNTED, "return_log_prob": True, "block": BLOCK}
        settings = {"evidence": (x, known), "temperature": temperature}
        return arjax.sample_from_noise(model, variables, noise, cond, method=method, **settings, **options)

    for known, temperature in ((none, ones), (some, warm), (none, ones * np.float32(1e-45))):
        (sample, log_prob), *others = (draw(method, known, temperature) for method in methods)
        assert sample.dtype == jnp.int32
        for other, its_log_prob, *_ in others:
            chex.assert_trees_all_equal(sample, other)
            chex.assert_trees_all_close(log_prob, its_log_prob, rtol=1e-4, atol=1e-4)
        assert 1 <= others[1][2] <= size + 1
        for _, _, iterations in others[2:]:
            assert outer <= iterations <= size + outer
        params = apply(model, variables, sample, cond)
        if temperature[0] < 1e-30:
            if "mixture" not in name:  # a cold mixture keeps the mean of one component, which may not be its mode
                chex.assert_trees_all_equal(sample, model.output.mode(params))
            continue
        params = model.output.temper(params, temperature.reshape(-1, *[1] * x.ndim))
        given_back, conditionals = quantile_and_log_prob(model.output, params, noise, sample)
        np.testing.assert_array_equal(sample, jnp.where(known, x, given_back))
        drawn = jnp.where(known, 0, conditionals).sum(range(1, x.ndim))
        chex.assert_trees_all_close(log_prob, drawn, rtol=1e-4, atol=1e-4)
    free, completed = (draw("cached", known, warm)[0] for known in (none, some))
    ranks = ranks_of(model, variables, x.shape[1:]).reshape(x.shape[1:])
    first_known = np.where(some, ranks, ranks.size).reshape(len(x), -1).min(1)
    before = ranks[None] < first_known.reshape(-1, *[1] * ranks.ndim)
    np.testing.assert_array_equal(completed[before], free[before])


@pytest.mark.parametrize("name", slow_but_for_one_of_each(EXACT))
def test_samples_follow_the_likelihood(name):
    """The mean log-probability of samples is minus the entropy of the enumerated distribution."""
    model, variables, x, cond = setup(name)
    every, log_probs = enumerated(name)
    entropy = -(np.exp(log_probs) * log_probs).sum()
    deviation = math.sqrt((np.exp(log_probs) * (log_probs + entropy) ** 2).sum())
    count = 8192
    samples = arjax.sample(model, variables, jax.random.key(4), (count, *x.shape[1:]), repeat(cond, count))
    samples = samples["x"] if hasattr(model, "parts") else samples
    sampled = np.asarray(arjax.log_prob(model, variables, samples, repeat(cond, count)), np.float64)
    assert abs(sampled.mean() + entropy) < 5 * deviation / math.sqrt(count) + 1e-6
    means = np.tensordot(np.exp(log_probs), every, 1)
    spread = np.sqrt(np.tensordot(np.exp(log_probs), (every - means) ** 2, 1) / count)
    assert (np.abs(np.asarray(samples).mean(0) - means) < 5 * spread + 1e-3).all()


@pytest.mark.parametrize("name", slow_but_for_one_of_each(DERIVED))
def test_stepped_params(name):
    """One after the other: the parameters of the parallel pass."""
    model, variables, x, cond = setup(name)
    chex.assert_trees_all_close(
        stepped_params(model, variables, x, cond), apply(model, variables, x, cond), atol=1e-5
    )


@pytest.mark.parametrize("name", SEQUENCES)
def test_streaming_equals_one_call(name):
    """A prompt absorbed at once, or none, and chunks of different lengths: the integers of a single call."""
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(jax.random.key(10), x.shape)
    whole = np.asarray(arjax.sample_from_noise(model, variables, noise, cond))
    conditionals = model.output.log_prob(apply(model, variables, whole, cond), whole)
    length, hop = x.shape[1], HOPS.get(name, 1)
    own = partial(of_chunk, cond, length)
    *prompts, end = sorted({0, hop, min(3 * hop, length), length})
    for i, prompt in enumerate(prompts):
        state = arjax.start(model, variables, whole[:, :prompt], own(0, prompt))
        parts, log_probs = [whole[:, :prompt]], []
        for start, stop in itertools.pairwise([*prompts[i:], end]):
            state, chunk, log_prob = arjax.extend(
                model, variables, state, noise[:, start:stop], own(start, stop), return_log_prob=True
            )
            parts.append(chunk)
            log_probs.append(log_prob)
        np.testing.assert_array_equal(np.concatenate(parts, 1), whole)
        chex.assert_trees_all_close(sum(log_probs), conditionals[:, prompt:].sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", slow_but_for_one_of_each(CONDITIONAL))
def test_conditioning_changes_samples(name):
    model, variables, x, cond = setup(name)
    others = jax.tree.map(lambda leaf: np.roll(leaf, 1, 0), cond)
    assert (arjax.log_prob(model, variables, x, cond) != arjax.log_prob(model, variables, x, others)).all()
    noise = noise_for(model, (64, *x.shape[1:]))
    one, other = (arjax.sample_from_noise(model, variables, noise, repeat(cond, 64, i)) for i in (0, 1))
    assert any(jax.tree.leaves(jax.tree.map(lambda one, other: (one != other).any(), one, other)))
    if name not in ONE_PASS:
        return
    first = tuple(0 for _ in x.shape[1:])
    one, other = (np.asarray(apply(model, variables, x, repeat(cond, len(x), i))[:, *first]) for i in (0, 1))
    assert (one != other).all(), "the condition reaches the first position too"


@pytest.mark.parametrize("name", NAMES)
def test_missing_or_surplus_cond(name):
    model, variables, x, cond = setup(name)
    wrong = np.zeros(len(x), np.int32) if cond is None else None
    for function, given in ((arjax.log_prob, x), (arjax.sample_from_noise, noise_for(model, x.shape))):
        with pytest.raises(ValueError, match="cond"):
            function(model, variables, given, wrong)


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(MODELS[name], "channels", 1) > 1])
def test_evidence_on_a_channel(name):
    """Given a channel of each pixel, the first pixel's later channels heed it, earlier ones do not."""
    model, variables, x, cond = setup(name)
    shape = (2048, *x.shape[1:])
    noise = np.broadcast_to((np.arange(2048, dtype=np.float32).reshape(-1, 1, 1, 1) + 0.5) / 2048, shape)
    given = shape[-1] - 2
    known = np.broadcast_to(np.arange(shape[-1]) == given, shape)
    samples = []
    for value in (0, model.output.levels - 1):
        evidence = np.full(shape, value), known
        sample = arjax.sample_from_noise(model, variables, noise, repeat(cond, 2048), evidence=evidence)
        samples.append(np.asarray(sample)[:, 0, 0])
        assert (samples[-1][:, given] == value).all()
    np.testing.assert_array_equal(samples[0][:, :given], samples[1][:, :given])
    assert (samples[0][:, given + 1] != samples[1][:, given + 1]).any()


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES))
def test_training_step_lowers_the_loss(name):
    model, variables, x, cond = setup(name)
    batch = {"x": x} if cond is None else {"x": x, "cond": cond}
    optimizer, losses = optax.adam(3e-3), []
    params, average = (jax.tree.map(jnp.array, variables["params"]) for _ in range(2))
    state = training.TrainState(jnp.int32(0), params, optimizer.init(params), average, jax.random.key(0))
    for _ in range(12):
        state, metrics = training.train_step(state, batch, model=model, optimizer=optimizer, ema_decay=0.9)
        losses.append(float(metrics["nats"]))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES))
def test_gradients_are_finite(name):
    """With all parameters enormous (as far as deep networks without bounded units can bear it), and zero."""
    model, variables, x, cond = setup(name)

    @jax.jit
    def loss_and_grads(variables):
        return jax.value_and_grad(lambda v: -arjax.log_prob(model, v, x, cond).mean())(variables)

    deep = name.startswith(("pixelcnn", "transformer"))
    deeper = name.startswith(("pixelcnnpp", "pixelsnail")) or name not in ONE_PASS
    for factor in (10 if deeper else 100 if deep else 1e4, 0.0):
        extreme = jax.tree_util.tree_map_with_path(
            lambda path, leaf, factor=factor: leaf if path[-1].key == "v" else leaf * np.float32(factor), variables
        )  # a kernel v / |v| has a direction alone
        chex.assert_tree_all_finite(loss_and_grads(extreme))


@pytest.mark.parametrize("name", slow_but_for_one_of_each(WITH_DTYPE))
def test_bfloat16(name):
    model, variables, x, cond = setup(name)
    half = in_bfloat16(model)
    exact, rounded = (arjax.log_prob(m, variables, x, cond) for m in (model, half))
    assert (exact != rounded).any(), "the computation is in bfloat16"
    chex.assert_trees_all_close(rounded, exact, rtol=0.05)


@pytest.mark.parametrize("name", slow_but_for_one_of_each(WITH_DTYPE, set(ONE_OF_EACH) & set(ONE_PASS)))
def test_bfloat16_samples(name):
    model, variables, x, cond = setup(name)
    half = in_bfloat16(model)
    sampled = arjax.sample_from_noise(half, variables, noise_for(model, x.shape), cond)
    sampled = sampled["x"] if hasattr(model, "parts") else sampled
    assert int(sampled.min()) >= 0
    assert int(sampled.max()) < model.output.levels


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES))
def test_vmap_equals_batch(name):
    model, variables, x, cond = setup(name)

    def one(x, cond):
        batch = jax.tree.map(lambda leaf: leaf[None], (x, cond))
        return arjax.log_prob(model, variables, *batch)[0]

    chex.assert_trees_all_close(
        jax.vmap(one)(x, cond), arjax.log_prob(model, variables, x, cond), rtol=1e-5, atol=1e-5
    )
