import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arjax
from arjax import likelihood
from arjax.distributions import Bernoulli, Categorical
from arjax.models import MADE, ChainRule, Histogram
from experiments.own_network import MyNetwork

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
HISTOGRAM = Histogram((2,), Categorical(3))
VARIABLES = {"params": {"logits": np.log(PROBS).astype(np.float32)}}
X = np.array([[0, 2], [2, 1], [1, 0]], np.int32)
BY_HAND = np.array([0.5 * 0.7, 0.25 * 0.2, 0.25 * 0.1])


def random_variables(model, *args, scale=1.0):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), *args),
    )


def events(levels, size):
    return np.array(list(itertools.product(range(levels), repeat=size)), np.int32)


def test_log_prob_by_hand():
    log_prob = arjax.log_prob(HISTOGRAM, VARIABLES, X)
    assert log_prob.shape == (3,)
    np.testing.assert_allclose(log_prob, np.log(BY_HAND), rtol=1e-5)


def test_bits_per_dim():
    bits = arjax.bits_per_dim(HISTOGRAM, VARIABLES, X)
    np.testing.assert_allclose(bits, -np.log2(BY_HAND) / 2, rtol=1e-5)
    assert likelihood.nats_to_bits_per_dim(3 * math.log(2), (2, 3)) == pytest.approx(0.5)
    uniform = {"params": {"logits": np.zeros((2, 3, 4), np.float32)}}
    model = Histogram((2, 3), Categorical(4))
    np.testing.assert_allclose(arjax.bits_per_dim(model, uniform, np.zeros((1, 2, 3), np.int32)), [2], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_any_integers(dtype):
    np.testing.assert_allclose(np.exp(arjax.log_prob(HISTOGRAM, VARIABLES, X.astype(dtype))), BY_HAND, rtol=1e-5)


def test_bytes_into_a_network_that_shifts():
    """`ABSENT` is no byte."""
    model = MyNetwork(Categorical(3), features=2, dilations=(1,))
    variables = random_variables(model, X)
    wide, narrow = (arjax.log_prob(model, variables, X.astype(dtype)) for dtype in (np.int32, np.uint8))
    np.testing.assert_array_equal(wide, narrow)


FUNCTIONS = {
    "log_prob": arjax.log_prob,
    "bits_per_dim": arjax.bits_per_dim,
    "score": arjax.score,
    "ensemble_log_prob": lambda model, variables, x: arjax.ensemble_log_prob(model, variables, np.arange(2), x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.float32), "integers 0..2 are wanted, got dtype float32"),
        (X.astype(bool), "integers 0..2 are wanted, got dtype bool"),
        (X + 1, "integers 0..2 are wanted, got values 1..3"),
        (X - 1, "integers 0..2 are wanted, got values -1..1"),
        ((X + 254).astype(np.uint8), "integers 0..2 are wanted, got values 0..255"),
    ],
)
def test_data_that_do_not_fit(name, x, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](HISTOGRAM, VARIABLES, x)


def test_under_jit_only_the_dtype_is_checked():
    log_prob = jax.jit(lambda x: arjax.log_prob(HISTOGRAM, VARIABLES, x))
    np.testing.assert_allclose(np.exp(log_prob(X)), BY_HAND, rtol=1e-5)
    assert log_prob(X + 1).shape == (3,)
    with pytest.raises(ValueError, match="got dtype float32"):
        log_prob(X.astype(np.float32))


# Ensembles

AGNOSTIC = MADE((4,), hidden=(8,), order_agnostic=True)
EVERY = events(2, 4)
SEEDS = np.array([0, 3, 4, 11, 5])


@pytest.fixture(scope="module")
def ensemble():
    """Variables of the model, and the log-probability of every event under each member."""
    variables = random_variables(AGNOSTIC, EVERY[:1], scale=1.5)
    members = [arjax.log_prob(AGNOSTIC, {**variables, "masks": {"seed": seed}}, EVERY) for seed in SEEDS]
    return variables, np.asarray(members, np.float64)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_ensemble_is_the_mixture_of_its_members(ensemble, chunk):
    variables, members = ensemble
    assert members.std(0).max() > 0.1
    log_prob = arjax.ensemble_log_prob(AGNOSTIC, variables, SEEDS, EVERY, chunk=chunk)
    np.testing.assert_allclose(log_prob, np.log(np.exp(members).mean(0)), rtol=1e-4, atol=1e-5)
    assert (log_prob >= members.mean(0) - 1e-5).all(), "Jensen"
    assert np.exp(np.asarray(log_prob, np.float64)).sum() == pytest.approx(1, abs=1e-5)


# Scores


def test_score_is_the_gradient_of_each_example():
    model = ChainRule(3, Categorical(2), hidden=())
    x = events(2, 3)[[0, 5, 6]]
    variables = random_variables(model, x)
    scores = arjax.score(model, variables, x)
    assert jax.tree.structure(scores) == jax.tree.structure(variables["params"])
    gradient = jax.jit(jax.grad(lambda params, x: arjax.log_prob(model, {"params": params}, x[None])[0]))
    for i, example in enumerate(x):
        one = gradient(variables["params"], example)
        jax.tree.map(lambda all_, g: np.testing.assert_allclose(all_[i], g, atol=1e-5), scores, one)  # noqa: B023


def test_score_by_hand():
    """Of a logit: the indicator of its level minus its probability."""
    scores = arjax.score(HISTOGRAM, VARIABLES, X)["logits"]
    np.testing.assert_allclose(scores, np.eye(3)[X] - PROBS, atol=1e-6)


def test_mean_score_under_the_model_is_zero():
    model = MADE((3,), Bernoulli(), hidden=(5,))
    every = events(2, 3)
    variables = random_variables(model, every[:1])
    probs = np.exp(np.asarray(arjax.log_prob(model, variables, every)))
    for leaf in jax.tree.leaves(arjax.score(model, variables, every)):
        np.testing.assert_allclose(np.tensordot(probs, leaf, 1), 0, atol=1e-6)
        assert np.abs(leaf).max() > 1e-2


class ByLabel(nn.Module):
    """A logit for each label, at every position."""

    output = Bernoulli()

    @nn.compact
    def __call__(self, x, cond, *, train=False):
        logits = nn.Embed(3, 1)(cond)
        return jnp.broadcast_to(logits[:, None], (*x.shape, 1))


def test_score_of_a_conditional_model():
    model = ByLabel()
    x, labels = np.array([[0, 1], [1, 1]], np.int32), np.array([2, 0], np.int32)
    scores = arjax.score(model, random_variables(model, x, labels, scale=0), x, labels)
    by_hand = [[0, 0, 0], [1, 0, 0]]  # each x less its probability of 1/2
    np.testing.assert_allclose(scores["Embed_0"]["embedding"][..., 0], by_hand, atol=1e-6)
