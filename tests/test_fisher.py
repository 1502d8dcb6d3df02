"""Fisher scores: zero in the mean over the model's own distribution, projected without losing distances."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_variables

import arjax
from arjax import fisher
from arjax.distributions import Categorical
from arjax.layers import Classes
from arjax.models import MADE, GatedPixelCNN, Histogram

MODEL = MADE((6,), hidden=(12,))
X = np.array(list(itertools.product(range(2), repeat=6)), np.int32)
VARIABLES = random_variables(MODEL, X[:1], scale=1.0)


def test_mean_over_all_events_is_zero():
    probs = np.exp(np.asarray(arjax.log_prob(MODEL, VARIABLES, X), np.float64))
    assert probs.sum() == pytest.approx(1, abs=1e-5)
    for leaf in jax.tree.leaves(arjax.score(MODEL, VARIABLES, X)):
        mean = np.tensordot(probs, np.asarray(leaf, np.float64), 1)
        assert np.abs(mean).max() < 1e-6
    projected = fisher.features(MODEL, VARIABLES, X, size=50, chunk=5)
    assert np.abs(probs @ projected).max() < 1e-5
    assert np.abs(projected).max() > 0.1


def test_information_of_a_histogram():
    """E[U U^T] of a softmax has p (1 - p) on its diagonal."""
    probs = np.array([0.5, 0.3, 0.2], np.float32)
    variables = {"params": {"logits": np.log(probs)[None]}}
    x = np.repeat([0, 1, 2], [5, 3, 2])[:, None]
    found = fisher.diagonal(Histogram((1,), Categorical(3)), variables, x, chunk=4)
    np.testing.assert_allclose(found["logits"], [probs * (1 - probs)], rtol=1e-5)


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], 1)


def test_projection_keeps_distances():
    scores = flat(arjax.score(MODEL, VARIABLES, X))
    want = ((scores[:, None] - scores[None]) ** 2).sum(-1)[np.triu_indices(64, 1)]
    for size in (64, 1024):
        ratios = []
        for seed in range(5):
            z = fisher.features(MODEL, VARIABLES, X, size=size, seed=seed, chunk=32)
            ratios.append(((z[:, None] - z[None]) ** 2).sum(-1)[np.triu_indices(64, 1)] / want)
        assert np.mean(ratios) == pytest.approx(1, abs=0.1)
        assert np.std(ratios) < 1.5 * np.sqrt(2 / size)


def test_the_same_whatever_the_chunks():
    x = np.random.default_rng(0).integers(0, 3, (7, 3, 3, 1))
    labels = np.arange(7) % 4
    model = GatedPixelCNN(Categorical(3), features=4, num_layers=1, head_features=4, conditioning=Classes(4))
    variables = random_variables(model, x, labels)
    inputs = model, variables, x, labels
    whole = fisher.features(*inputs, size=32, chunk=7)
    np.testing.assert_allclose(whole, fisher.features(*inputs, size=32, chunk=3), rtol=1e-4, atol=1e-5)
    diagonals = [fisher.diagonal(*inputs, chunk=chunk) for chunk in (7, 3)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *diagonals)
    want = jax.tree.map(lambda leaf: (leaf**2).mean(0), arjax.score(*inputs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), diagonals[0], want)


def test_layers_add_up():
    """The projection of an array depends on its name, not on what else is chosen."""
    first, second = (
        fisher.features(MODEL, VARIABLES, X, size=32, layers=name) for name in ("layers_0", "layers_1")
    )
    np.testing.assert_allclose(first + second, fisher.features(MODEL, VARIABLES, X, size=32), rtol=1e-4, atol=1e-5)
    assert np.abs(first).max() > 0.1
    assert not np.allclose(first, second)


def test_normalised_by_the_diagonal():
    diagonal = fisher.diagonal(MODEL, VARIABLES, X)
    found = fisher.features(MODEL, VARIABLES, X, size=4096, diagonal=diagonal, damping=0.5)
    scores, diagonal = jax.tree.map(np.asarray, (arjax.score(MODEL, VARIABLES, X), diagonal))
    scaled = flat(jax.tree.map(lambda u, f: u / np.sqrt(f + 0.5 * f.mean()), scores, diagonal))
    kernel = np.asarray(fisher.kernel(found, found))
    want = scaled @ scaled.T
    assert np.abs(kernel - want).max() < 0.15 * np.abs(want).max()
    assert np.corrcoef(kernel.ravel(), want.ravel())[0, 1] > 0.99


def test_memory_does_not_grow_with_the_examples():
    """One program, of a chunk, whatever the number of examples; it holds the gradients of that chunk."""
    fisher._projected.clear_cache()
    for n in (3, 40, 64):
        fisher.features(MODEL, VARIABLES, X[:n], size=16, chunk=8)
    assert fisher._projected._cache_size() == 1
    model = MADE((30,), hidden=(300,))
    x = np.zeros((8, 30), np.int32)
    variables = random_variables(model, x)
    lowered = fisher._projected.lower(model, variables, x, None, 16, 0, None, None, 1e-2)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 3 * len(x) * parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: 1 or more is wanted, got 0"),
        ({"chunk": 0}, "chunk: 1 or more is wanted, got 0"),
        ({"layers": "nothing"}, "layers: a part of one of layers_0/bias, .* is wanted, got 'nothing'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fisher.features(MODEL, VARIABLES, X, **options)


def test_data_and_features_are_checked():
    with pytest.raises(ValueError, match=r"integers 0\.\.1 are wanted"):
        fisher.features(MODEL, VARIABLES, X + 1)
    with pytest.raises(ValueError, match=r"of one size are wanted, got \(2, 3\) and \(2, 4\)"):
        fisher.kernel(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
