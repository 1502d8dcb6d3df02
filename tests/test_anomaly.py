"""Anomaly scores: by hand, and the known failure of the likelihood with its remedies on a toy."""

import math
import zlib

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import arjax
from arjax import anomaly
from arjax.distributions import Categorical
from arjax.models import Histogram

LOG_PROBS = np.array([-3.0, -1.0, -2.5])


def test_by_hand():
    x = np.zeros((3, 4, 4, 1), np.uint8)
    np.testing.assert_allclose(anomaly.negative_log_likelihood(LOG_PROBS), [3, 1, 2.5])
    np.testing.assert_allclose(anomaly.likelihood_ratio(LOG_PROBS, [-1, -1, -4]), [2, 0, -1.5])
    np.testing.assert_allclose(anomaly.typicality(LOG_PROBS, [-2, -3]), [0.5, 1.5, 0])
    bits = anomaly.input_complexity(LOG_PROBS, x, lambda example: 5 * example.size)
    np.testing.assert_allclose(bits, -LOG_PROBS / math.log(2) - 80)


def test_compressors():
    rng = np.random.default_rng(0)
    flat, noisy = np.full((16, 16, 3), 7), rng.integers(0, 256, (16, 16, 3))
    for bits in (anomaly.zlib_bits, anomaly.png_bits):
        assert bits(noisy) > 8 * noisy.size > 4 * bits(flat)
    assert anomaly.zlib_bits(flat) == 8 * len(zlib.compress(bytes([7]) * flat.size, 9))
    assert anomaly.zlib_bits(np.array([256, 1])) == 8 * len(zlib.compress(b"\0\1\1\0", 9))
    zero = np.zeros(1)
    for x, compressor in ((flat, anomaly.png_bits), (flat[0], anomaly.zlib_bits), (300 * flat, anomaly.zlib_bits)):
        assert anomaly.input_complexity(zero, x[None]) == -compressor(x)


def test_mutations():
    x = np.zeros((50, 200), np.int32)
    found = np.asarray(anomaly.mutate(jax.random.key(0), x, 4, 0.2))
    assert found.dtype == np.int32
    assert np.unique(found).tolist() == [0, 1, 2, 3]
    assert (found > 0).mean() == pytest.approx(0.2 * 3 / 4, abs=0.02)
    np.testing.assert_array_equal(anomaly.mutate(jax.random.key(0), x + 3, 4, 0.0), x + 3)


def test_likelihood_fails_and_the_others_do_not():
    """Of a histogram of textured images, constant images are more likely than the textured ones."""
    rng = np.random.default_rng(0)
    train, test = (rng.choice(4, p=[0.55, 0.15, 0.15, 0.15], size=(200, 8, 8, 1)) for _ in range(2))
    other = np.zeros((200, 8, 8, 1), np.int64)
    other[:, 0, 0, 0] = rng.integers(0, 4, 200)
    model = Histogram((8, 8, 1), Categorical(4))

    def trained(x):
        probs = (np.stack([(x == level).mean(0) for level in range(4)], -1) + 0.01) / 1.04
        return {"params": {"logits": np.log(probs).astype(np.float32)}}

    variables = trained(train)
    both = np.concatenate([test, other])
    truth = np.arange(400) >= 200
    log_probs = arjax.log_prob(model, variables, both)

    def auroc(scores):
        return roc_auc_score(truth, scores)

    assert auroc(anomaly.negative_log_likelihood(log_probs)) < 0.01
    assert auroc(anomaly.input_complexity(log_probs, both)) > 0.99
    assert auroc(anomaly.typicality(log_probs, arjax.log_prob(model, variables, train))) > 0.99
    assert auroc(anomaly.likelihood_ratio(log_probs, log_probs)) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anomaly.negative_log_likelihood([]), r"log_probs: one number .* is wanted, got shape \(0,\)"),
        (lambda: anomaly.negative_log_likelihood([1, np.nan]), "log_probs: finite numbers are wanted, got nan"),
        (lambda: anomaly.likelihood_ratio([1.0], [1.0, 2.0]), "background: one for each of 1 .* got 2"),
        (lambda: anomaly.typicality([1.0], 3.0), r"train: one number .* got shape \(\)"),
        (lambda: anomaly.input_complexity([1.0], np.zeros((2, 3), int)), "x: one for each of 1 .* got 2"),
        (lambda: anomaly.input_complexity([1.0], np.zeros((1, 3))), "x: integers .* got dtype float64"),
        (
            lambda: anomaly.mutate(jax.random.key(0), np.full((1, 2), 4), 4, 0.1),
            r"0\.\.3 are wanted, got values 4",
        ),
        (
            lambda: anomaly.mutate(jax.random.key(0), np.zeros((1, 2), int), 4, 1.5),
            "rate: a probability .* got 1.5",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
