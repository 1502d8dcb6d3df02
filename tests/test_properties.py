"""The seven properties of every model in the zoo."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import ZOO

import arjax
from arjax import sampling, training

NAMES = list(ZOO)
CONDITIONAL = [name for name in NAMES if ZOO[name]()[2] is not None]
WITH_DTYPE = [name for name in NAMES if hasattr(ZOO[name]()[0], "dtype")]


def setup(name, scale=0.3):
    """A model with random parameters, no bias left at zero."""
    model, x, cond = ZOO[name]()
    variables = model.init(jax.random.key(0), x, cond)
    leaves, treedef = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, treedef.unflatten(noisy), jnp.asarray(x), cond


def ranks_of(model, variables, event):
    """The step at which each position of an event is generated."""
    ranks = model.apply(variables, method="ranks") if hasattr(model, "ranks") else np.arange(math.prod(event))
    return np.asarray(ranks)


def events(levels, event):
    """All events, as a batch."""
    every = itertools.product(range(levels), repeat=math.prod(event))
    return np.array(list(every), np.int32).reshape(-1, *event)


def repeat(cond, count):
    return None if cond is None else np.repeat(cond[:1], count, 0)


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    model, x, cond = ZOO[name]()
    variables = model.init(jax.random.key(0), x, cond)
    assert set(variables) == {"params"}
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda leaf: jnp.float32(0), variables))
    params = model.apply(variables, x, cond)
    chex.assert_shape(params, (*x.shape, model.output.num_params))
    assert params.dtype == jnp.float32
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, x, cond), params, atol=1e-5)
    assert arjax.log_prob(model, variables, x, cond).shape == (len(x),)


def expected_receptive_field(name, model, ranks):
    """`field[i, j]`: whether the conditional of position i depends on position j."""
    field = ranks[:, None] > ranks
    if name == "histogram":
        return np.zeros_like(field)
    if name == "bayes_net":
        return np.array([[j in parents for j in range(model.size)] for parents in model.parents])
    return field


@pytest.mark.parametrize("name", NAMES)
def test_causality(name):
    model, variables, x, cond = setup(name)
    event, size = x.shape[1:], math.prod(x.shape[1:])
    between = 0.25 + x.astype(jnp.float32) * (model.output.levels - 1.5) / (model.output.levels - 1)
    weights = jax.random.normal(jax.random.key(2), (model.output.num_params,))

    def conditionals(x, cond):
        labels = None if cond is None else cond[None]
        return (model.apply(variables, x.reshape(1, *event), labels) @ weights).reshape(size)

    jacobian = jax.jit(jax.vmap(jax.jacrev(conditionals)))(between.reshape(-1, size), cond)
    reached = np.abs(np.asarray(jacobian)).max(0) > 0
    expected = expected_receptive_field(name, model, ranks_of(model, variables, event))
    np.testing.assert_array_equal(reached, expected)


@pytest.mark.parametrize("name", NAMES)
def test_normalisation(name):
    model, variables, x, cond = setup(name)
    every = events(model.output.levels, x.shape[1:])
    log_probs = arjax.log_prob(model, variables, every, repeat(cond, len(every)))
    assert float(jax.nn.logsumexp(log_probs)) == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_samplers_agree(name):
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(jax.random.key(3), (64, *x.shape[1:]))
    cond = None if cond is None else np.resize(cond, len(noise))
    naive = arjax.sample_from_noise(model, variables, noise, cond, method="naive")
    cached = arjax.sample_from_noise(model, variables, noise, cond, method="cached")
    fixed, iterations = arjax.sample_from_noise(
        model, variables, noise, cond, method="fixed_point", return_iterations=True
    )
    chex.assert_trees_all_equal(naive, cached, fixed)
    assert naive.dtype == jnp.int32
    assert 1 <= iterations <= math.prod(x.shape[1:]) + 1
    given_back = model.output.quantile(model.apply(variables, naive, cond), noise)
    chex.assert_trees_all_equal(naive, given_back)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_likelihood(name):
    """The mean log-probability of samples is minus the entropy of the enumerated distribution."""
    model, variables, x, cond = setup(name)
    every = events(model.output.levels, x.shape[1:])
    log_probs = np.asarray(arjax.log_prob(model, variables, every, repeat(cond, len(every))), np.float64)
    entropy = -(np.exp(log_probs) * log_probs).sum()
    deviation = math.sqrt((np.exp(log_probs) * (log_probs + entropy) ** 2).sum())
    count = 8192
    samples = arjax.sample(model, variables, jax.random.key(4), (count, *x.shape[1:]), repeat(cond, count))
    sampled = np.asarray(arjax.log_prob(model, variables, samples, repeat(cond, count)), np.float64)
    assert abs(sampled.mean() + entropy) < 5 * deviation / math.sqrt(count) + 1e-6
    means = np.tensordot(np.exp(log_probs), every, 1)
    spread = np.sqrt(np.tensordot(np.exp(log_probs), (every - means) ** 2, 1) / count)
    assert (np.abs(np.asarray(samples).mean(0) - means) < 5 * spread + 1e-3).all()


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(ZOO[name]()[0], "vertical")])
def test_incremental_image_passes(name):
    """Rows one by one, pixels one by one: the parameters of the parallel pass."""
    model, variables, x, cond = setup(name)
    context = model.apply(variables, cond, method="condition")
    before = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-1)
    rows = sampling.empty_cache(model, variables, before[:, :1, 1:], context, method="vertical")
    steps = []
    for r in range(x.shape[1]):
        links, rows = sampling.step(model, variables, rows, before[:, r : r + 1, 1:], context, method="vertical")
        pixels = None
        for c in range(x.shape[2]):
            at = [link[:, :, c : c + 1] for link in links]
            pixel = before[:, r + 1 : r + 2, c : c + 1]
            if pixels is None:
                pixels = sampling.empty_cache(model, variables, pixel, at, method="horizontal")
            params, pixels = sampling.step(model, variables, pixels, pixel, at, method="horizontal")
            steps.append(params)
    stepped = jnp.concatenate(steps, 2).reshape(*x.shape, -1)
    chex.assert_trees_all_close(stepped, model.apply(variables, x, cond), atol=1e-5)


@pytest.mark.parametrize("prefix", [1, 2, 5, 9])
def test_incremental_sequence_passes(prefix):
    """A prefix in one chunk, then position by position: the parameters of the parallel pass."""
    model, variables, x, _ = setup("own_network")
    before = jnp.pad(x, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    cache = sampling.empty_cache(model, variables, before[:, :1])
    chunk, cache = sampling.step(model, variables, cache, before[:, :prefix])
    steps = [chunk]
    for t in range(prefix, x.shape[1]):
        params, cache = sampling.step(model, variables, cache, before[:, t : t + 1])
        steps.append(params)
    chex.assert_trees_all_close(jnp.concatenate(steps, 1), model.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("method", ["naive", "cached", "fixed_point"])
def test_conditioning_changes_samples(name, method):
    model, variables, x, cond = setup(name)
    assert (arjax.log_prob(model, variables, x, cond) != arjax.log_prob(model, variables, x, cond - 1)).all()
    noise = jax.random.uniform(jax.random.key(5), (64, *x.shape[1:]))
    one, other = (
        arjax.sample_from_noise(model, variables, noise, np.full(64, label), method=method) for label in (0, 3)
    )
    assert (one != other).any()
    first = tuple(0 for _ in x.shape[1:])
    params = [model.apply(variables, x, np.full(len(x), label))[:, *first] for label in (0, 3)]
    assert (params[0] != params[1]).all(), "the class reaches the first position too"


@pytest.mark.parametrize("name", NAMES)
def test_missing_or_surplus_cond(name):
    model, variables, x, cond = setup(name)
    wrong = np.zeros(len(x), np.int32) if cond is None else None
    if name == "own_network":
        pytest.skip("a user's network that ignores cond")
    with pytest.raises(ValueError, match="cond"):
        arjax.log_prob(model, variables, x, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_stays(name):
    model, variables, x, cond = setup(name)
    known = jax.random.bernoulli(jax.random.key(6), 0.4, x.shape)
    noise = jax.random.uniform(jax.random.key(7), x.shape)
    naive, cached, fixed = (
        arjax.sample_from_noise(model, variables, noise, cond, method=method, evidence=(x, known))
        for method in ("naive", "cached", "fixed_point")
    )
    chex.assert_trees_all_equal(naive, cached, fixed)
    np.testing.assert_array_equal(naive[known], x[known])
    free = arjax.sample_from_noise(model, variables, noise, cond)
    ranks = ranks_of(model, variables, x.shape[1:]).reshape(x.shape[1:])
    first_known = jnp.where(known, ranks, ranks.size).reshape(len(x), -1).min(1)
    before = ranks[None] < first_known.reshape(-1, *[1] * ranks.ndim)
    np.testing.assert_array_equal(naive[before], free[before])


@pytest.mark.parametrize("name", NAMES)
def test_temperature(name):
    """Cold samples are modes of their conditionals, in every sampler."""
    model, variables, x, cond = setup(name)
    cold = [
        arjax.sample(model, variables, jax.random.key(8), x.shape, cond, method=method, temperature=1e-6)
        for method in ("naive", "cached", "fixed_point")
    ]
    chex.assert_trees_all_equal(*cold)
    if "mixture" not in name:  # a cold mixture keeps the mean of one component, which may not be its mode
        chex.assert_trees_all_equal(cold[0], model.output.mode(model.apply(variables, cold[0], cond)))


@pytest.mark.parametrize("name", NAMES)
def test_training_step_lowers_the_loss(name):
    model, x, cond = ZOO[name]()
    batch = {"x": x} if cond is None else {"x": x, "cond": cond}
    optimizer = optax.adam(3e-3)
    state = training.create_state(model, optimizer, 0, batch)
    losses = []
    for _ in range(12):
        state, metrics = training.train_step(state, batch, model=model, optimizer=optimizer, ema_decay=0.9)
        losses.append(float(metrics["nats"]))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e4, 0.0])
def test_gradients_are_finite(name, factor):
    model, variables, x, cond = setup(name)
    extreme = jax.tree.map(lambda leaf: factor * leaf, variables)
    value, grads = jax.value_and_grad(lambda v: -arjax.log_prob(model, v, x, cond).mean())(extreme)
    chex.assert_tree_all_finite((value, grads))


@pytest.mark.parametrize("name", WITH_DTYPE)
def test_bfloat16(name):
    model, variables, x, cond = setup(name)
    half = model.clone(dtype=jnp.bfloat16)
    exact, rounded = (arjax.log_prob(m, variables, x, cond) for m in (model, half))
    assert (exact != rounded).any(), "the computation is in bfloat16"
    chex.assert_trees_all_close(rounded, exact, rtol=0.05)
    noise = jax.random.uniform(jax.random.key(9), x.shape)
    sampled = arjax.sample_from_noise(half, variables, noise, cond)
    assert int(sampled.min()) >= 0
    assert int(sampled.max()) < model.output.levels


@pytest.mark.parametrize("name", NAMES)
def test_vmap_equals_batch(name):
    model, variables, x, cond = setup(name)

    def one(x, cond):
        batch = jax.tree.map(lambda leaf: leaf[None], (x, cond))
        return arjax.log_prob(model, variables, *batch)[0]

    chex.assert_trees_all_close(
        jax.vmap(one)(x, cond), arjax.log_prob(model, variables, x, cond), rtol=1e-5, atol=1e-5
    )
