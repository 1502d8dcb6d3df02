"""The mixture of all channels of a pixel, `DiscretizedLogisticMixture.of_channels`."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arjax.distributions import DiscretizedLogisticMixture

PAIRS = ((1, 0), (2, 0), (2, 1))


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def random_joint(mixture, channels, rows=6, spread=1.0):
    """Joint parameters (rows, num_joint_params); scales from below the bound to wider than the data."""
    rng = np.random.default_rng(mixture.levels)
    k = mixture.num_mixtures
    weights = rng.normal(size=(rows, k))
    means = rng.uniform(-1.5, 1.5, (rows, channels, k))
    bound = -7 - math.log((mixture.levels - 1) / 255)
    log_scales = np.linspace(bound - 1, 2, rows)[:, None, None] + rng.uniform(-1, 1, (rows, channels, k))
    coefficients = spread * rng.normal(size=(rows, channels * (channels - 1) // 2, k))
    parts = weights, means, log_scales, coefficients
    return np.concatenate([part.reshape(rows, -1) for part in parts], -1).astype(np.float32)


def reference_component_masses(mixture, joint, x):
    """`P_k(c)` of each channel given those before it, (..., c, k), and the weights (..., k), in float64."""
    joint, x = np.asarray(joint, np.float64), np.asarray(x)
    k, channels, levels = mixture.num_mixtures, x.shape[-1], mixture.levels
    ends = np.cumsum([k, channels * k, channels * k])
    logits, means, log_scales, coefficients = np.split(joint, ends, -1)
    means, log_scales = (part.reshape(*part.shape[:-1], channels, k) for part in (means, log_scales))
    scales = np.exp(np.maximum(log_scales, -7 - np.log((levels - 1) / 255)))
    coefficients = np.tanh(coefficients.reshape(*coefficients.shape[:-1], -1, k))
    values = 2 * x / (levels - 1) - 1
    masses = []
    for c in range(channels):
        mean = means[..., c, :]
        for i, (late, early) in enumerate(PAIRS):
            if late == c:
                mean = mean + coefficients[..., i, :] * values[..., early, None]
        low, high = ((values[..., c, None] + side / (levels - 1) - mean) / scales[..., c, :] for side in (-1, 1))
        low = np.where(x[..., c, None] == 0, -np.inf, low)
        high = np.where(x[..., c, None] == levels - 1, np.inf, high)
        with np.errstate(invalid="ignore"):
            right = sigmoid(-low) - sigmoid(-high)
            masses.append(np.where(low > 0, right, sigmoid(high) - sigmoid(low)))
    weights = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
    return weights, np.stack(masses, -2)


@functools.partial(jax.jit, static_argnums=0)
def log_probs(mixture, joint, x):
    """Of each channel given those before it."""
    joint = jnp.broadcast_to(joint, (*x.shape[:-1], joint.shape[-1]))
    return mixture.log_prob(mixture.of_channels(joint, x), x)


@functools.partial(jax.jit, static_argnums=0)
def of_channels(mixture, joint, x):
    return mixture.of_channels(joint, x)


def pixels(mixture, rows, count, channels=3):
    """Random pixels, and those at the edges of the range. `(rows, count, channels)`."""
    x = np.random.default_rng(0).integers(0, mixture.levels, (rows, count, channels))
    corners = np.array(list(itertools.product((0, mixture.levels - 1), repeat=channels)))
    return np.concatenate([x, np.broadcast_to(corners, (rows, *corners.shape))], 1).astype(np.int32)


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_joint_log_prob_agrees_with_float64(channels, levels):
    """`log sum_k pi_k prod_c P_k(c)`: one component for all channels."""
    mixture = DiscretizedLogisticMixture(3, levels)
    joint = random_joint(mixture, channels)[2:, None]  # wide enough that float64 does not underflow
    x = pixels(mixture, len(joint), 40, channels)
    weights, masses = reference_component_masses(mixture, joint, x)
    reference = np.sum(weights * masses.prod(-2), -1)
    seen = reference > 1e-250
    assert seen.mean() > 0.5
    found = np.asarray(log_probs(mixture, joint, x), np.float64).sum(-1)
    np.testing.assert_allclose(found[seen], np.log(reference[seen]), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("channel", range(3))
def test_each_channel_agrees_with_float64_at_all_levels(channel):
    """`P(x_c | x_<c)` is the ratio of two sums over components; over the levels it sums to 1."""
    mixture = DiscretizedLogisticMixture(3, 256)
    joint = random_joint(mixture, 3)[2:, None]
    before = np.clip(np.round(127.5 + 60 * np.random.default_rng(1).normal(size=(len(joint), 1, 3))), 0, 255)
    x = np.repeat(before.astype(np.int32), 256, 1)
    x[..., channel] = np.arange(256)
    weights, masses = reference_component_masses(mixture, joint, x)
    joint_mass, mass_before = (np.sum(weights * masses[..., :n, :].prod(-2), -1) for n in (channel + 1, channel))
    probs = np.exp(np.asarray(log_probs(mixture, joint, x), np.float64)[..., channel])
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(probs, joint_mass / mass_before, rtol=1e-4, atol=1e-6)


def test_probabilities_of_all_pixels_sum_to_one():
    mixture = DiscretizedLogisticMixture(3, 4)
    joint = random_joint(mixture, 3)[:, None]
    every = np.array(list(itertools.product(range(4), repeat=3)), np.int32)
    found = np.asarray(log_probs(mixture, joint, np.broadcast_to(every, (len(joint), 64, 3))), np.float64)
    np.testing.assert_allclose(np.exp(found.sum(-1)).sum(1), 1, atol=1e-5)


def test_channels_with_published_parameters():
    """Logistics of mean 100 and scale 5, in levels: each channel has it, whichever value shifts its mean."""
    mixture = DiscretizedLogisticMixture(2, 256)
    value, mean, log_scale = (lambda level: level / 127.5 - 1), 100 / 127.5 - 1, math.log(5 / 127.5)
    before, slope = (150, 40), math.tanh(0.4)
    means = mean, mean - slope * value(before[0]), mean + slope * (value(before[0]) - value(before[1]))
    coefficients = 0.4, -0.4, 0.4
    one = np.float32([0.3, *means, *[log_scale] * 3, *coefficients])
    joint = np.repeat(one, 2)  # two equal components
    expected = {102: -3.036204, 200: -21.607772, 254: -32.407772}
    for channel in range(3):
        x = np.tile(np.int32([*before, 0]), (3, 1))
        x[:, channel] = list(expected)
        found = log_probs(mixture, np.tile(joint, (3, 1)), x)[:, channel]
        np.testing.assert_allclose(found, list(expected.values()), rtol=2e-6)


def test_one_component_is_chosen_for_all_channels():
    """Of two components far apart the first channel tells which; one component per channel would give 1/2 each."""
    mixture = DiscretizedLogisticMixture(2, 256)
    joint = np.float32([0, 0, *[-0.5, 0.5] * 3, *[-4.0] * 6, *[0.0] * 6])
    low, high = 64, 191
    x = np.int32([[low, low, low], [low, high, high], [high, low, high], [high, high, high]])
    probs = np.exp(np.asarray(log_probs(mixture, np.tile(joint, (4, 1)), x), np.float64))
    np.testing.assert_allclose(probs[0, 1:], 2 * probs[0, 0], rtol=1e-4)
    np.testing.assert_allclose(probs[3, 1:], 2 * probs[3, 0], rtol=1e-4)
    assert (probs[1:3, 1] < 1e-6).all()


@functools.partial(jax.jit, static_argnums=0)
def grads(mixture, joint, x):
    return jax.vmap(jax.value_and_grad(lambda joint, x: mixture.log_prob(mixture.of_channels(joint, x), x).sum()))(
        joint, x
    )


@pytest.mark.parametrize("levels", [2, 256])
def test_gradients_are_finite(levels):
    mixture = DiscretizedLogisticMixture(2, levels)
    rows = [
        [*weights, *np.tile(means, 3), *np.tile(log_scales, 3), *np.full(6, coefficient)]
        for weights in [(0, 0), (1e4, -1e4)]
        for means in [(0.0123, -0.7), (1, -1), (-1.003, 50), (1e4, -1e4)]
        for log_scales in [(-7, -7), (-7, 7), (7, 7), (-1e3, 80)]
        for coefficient in (0, 3, -1e4)
    ]
    x = np.int32(np.array([[0, 0, 0], [0.2, 0.9, 0.5], [1, 1, 1], [0, 1, 0.4]]) * (levels - 1))
    joint = np.repeat(np.float32(rows), len(x), 0)
    values, slopes = grads(mixture, joint, np.tile(x, (len(rows), 1)))
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
    assert (values <= 0).all()


@pytest.mark.parametrize("levels", [3, 256])
def test_quantile_inverts_the_cdf_of_each_channel(levels):
    mixture = DiscretizedLogisticMixture(3, levels)
    joint = random_joint(mixture, 3)[3:]
    before = np.int32([[0.3, 0.7, 0.5]] * 3 * np.float32([levels - 1]))
    u = np.linspace(0.001, 0.999, 101, dtype=np.float32)
    params = np.asarray(of_channels(mixture, joint, before))
    for channel in range(3):
        x = np.repeat(before[:, None], levels, 1)
        x[..., channel] = np.arange(levels)
        weights, masses = reference_component_masses(mixture, joint[:, None], x)
        joint_mass = np.sum(weights * masses[..., : channel + 1, :].prod(-2), -1)
        cdf = np.cumsum(joint_mass, 1) / joint_mass.sum(1, keepdims=True)
        drawn = np.asarray(mixture.quantile(params[:, None, channel], np.tile(u, (3, 1))))
        below = np.take_along_axis(np.pad(cdf, ((0, 0), (1, 0))), drawn, 1)
        above = np.take_along_axis(cdf, drawn, 1)
        assert (below - 1e-4 <= u).all()
        assert (u <= above + 1e-4).all()


def test_samples_have_the_probabilities_as_frequencies():
    """Ancestral samples of a pixel of 4 levels, one channel after the other, against all 64 probabilities."""
    mixture = DiscretizedLogisticMixture(2, 4)
    rng = np.random.default_rng(0)
    joint = np.float32(
        [*rng.normal(size=2), *rng.uniform(-1, 1, 6), *rng.uniform(-1.5, -0.5, 6), *rng.normal(size=6)]
    )
    every = np.array(list(itertools.product(range(4), repeat=3)), np.int32)
    count = 100_000

    @jax.jit
    def sample(joint, noise):
        joint = jnp.broadcast_to(joint, (count, joint.size))
        x = jnp.zeros(noise.shape, jnp.int32)
        for channel in range(3):
            params = mixture.of_channels(joint, x)[:, channel]
            x = x.at[:, channel].set(mixture.quantile(params, noise[:, channel]))
        return x

    x = np.asarray(sample(joint, rng.random((count, 3), np.float32)))
    frequencies = np.bincount(x @ [16, 4, 1], minlength=64) / count
    weights, masses = reference_component_masses(mixture, joint, every)
    probs = np.sum(weights * masses.prod(-2), -1)
    assert np.abs(frequencies - probs).sum() / 2 < 0.02
    assert probs.max() < 0.5, "no trivial distribution"


@pytest.mark.parametrize("levels", [3, 256])
def test_one_channel_is_the_plain_mixture(levels):
    mixture = DiscretizedLogisticMixture(3, levels)
    joint = random_joint(mixture, 1)
    assert mixture.num_joint_params(1) == mixture.num_params == joint.shape[-1]
    params = of_channels(mixture, joint, np.zeros((6, 1), np.int32))
    np.testing.assert_array_equal(params, joint[:, None])


def test_channels_see_those_before_them_alone():
    mixture = DiscretizedLogisticMixture(3, 256)
    joint, x = random_joint(mixture, 3), pixels(mixture, 6, 0)[:, 0] + np.int32(100)
    for changed in range(3):
        other = x.copy()
        other[:, changed] += 30
        differs = np.asarray(of_channels(mixture, joint, x) != of_channels(mixture, joint, other)).any((0, 2))
        np.testing.assert_array_equal(differs, np.arange(3) > changed)


def test_numbers_of_joint_parameters():
    assert [DiscretizedLogisticMixture(10).num_joint_params(channels) for channels in (1, 2, 3, 4)] == [
        *(30, 60, 100, 150)
    ]


@pytest.mark.parametrize(("channels", "given", "wanted"), [(3, 99, 100), (1, 100, 30), (2, 100, 60)])
def test_joint_parameters_of_the_wrong_length_are_refused(channels, given, wanted):
    message = rf"of {channels} channels needs parameters \(\.\.\., {wanted}\), got shape \(5, {given}\)"
    with pytest.raises(ValueError, match=message):
        DiscretizedLogisticMixture(10).of_channels(
            np.zeros((5, given), np.float32), np.zeros((5, channels), np.int32)
        )
