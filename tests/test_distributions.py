import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arjax.distributions import BELOW_ONE, Bernoulli, Categorical, DiscretizedLogisticMixture

LAST_U = 1 - 2**-24  # the largest float32 below 1

# What each method takes beside parameters (6, num_params).
ARGS = {
    "log_prob": (np.array([0, 1, 1, 0, 1, 1]),),
    "quantile": (np.linspace(0, 1, 6, endpoint=False, dtype=np.float32),),
    "mean": (),
    "mode": (),
    "temper": (2.0,),
}

DISTRIBUTIONS = [
    Bernoulli(),
    *(Categorical(levels) for levels in (2, 3, 17, 256)),
    *(DiscretizedLogisticMixture(3, levels) for levels in (2, 3, 17, 256, 65_536)),
]
SMALL = [d for d in DISTRIBUTIONS if d.levels < 65_536]
each = functools.partial(pytest.mark.parametrize, "distribution", ids=str)


def least_log_scale(levels):
    return -7 - math.log((levels - 1) / 255)


def random_params(distribution, rows=6):
    """Rows of float32 parameters; a mixture's scales run from below the bound to far wider than the data."""
    rng = np.random.default_rng(distribution.levels)
    if isinstance(distribution, DiscretizedLogisticMixture):
        shape = (rows, distribution.num_mixtures)
        log_scales = np.linspace(least_log_scale(distribution.levels) - 2, 3, rows)[:, None]
        log_scales = log_scales + rng.uniform(-1, 1, shape)
        params = np.concatenate([rng.normal(size=shape), rng.uniform(-1.5, 1.5, shape), log_scales], axis=-1)
    else:
        params = 3 * rng.normal(size=(rows, distribution.num_params))
    return params.astype(np.float32)


def mean_rounding(distribution, params):
    """What the last digit of a float32 mean is worth in scales, (rows, 1): much for narrow 16-bit levels."""
    if not isinstance(distribution, DiscretizedLogisticMixture):
        return np.zeros((len(params), 1))
    log_scales = np.maximum(np.split(params, 3, axis=-1)[2], least_log_scale(distribution.levels))
    return 2**-23 * np.exp(-log_scales.min(axis=-1, keepdims=True))


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def reference_probs(distribution, params):
    """Probabilities (..., levels) in float64, straight from the definition: differences of the CDF."""
    params = np.asarray(params, np.float64)
    levels = distribution.levels
    if isinstance(distribution, Bernoulli):
        return np.concatenate([sigmoid(-params), sigmoid(params)], axis=-1)
    if isinstance(distribution, Categorical):
        weights = np.exp(params - params.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)
    logits, means, log_scales = np.split(params, 3, axis=-1)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    scales = np.exp(np.maximum(log_scales, least_log_scale(levels)))
    edges = (2 * np.arange(1, levels) - 1) / (levels - 1) - 1
    z = (edges - means[..., None]) / scales[..., None]
    end = np.full((*z.shape[:-1], 1), np.inf)
    below, above = np.concatenate([-end, z], axis=-1), np.concatenate([z, end], axis=-1)
    # Right of the mean the difference of the survival functions keeps its digits.
    with np.errstate(invalid="ignore"):
        mass = np.where(below > 0, sigmoid(-below) - sigmoid(-above), sigmoid(above) - sigmoid(below))
    return np.sum(weights[..., None] * mass, axis=-2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(distribution, method, *args):
    return getattr(distribution, method)(*args)


def all_log_probs(distribution, params):
    """Log-probabilities (rows, levels) of all levels."""
    x = np.broadcast_to(np.arange(distribution.levels), (len(params), distribution.levels))
    return call(distribution, "log_prob", params[:, None], x)


def quantiles(distribution, params, u):
    """Quantiles (rows, k) of `u` (rows, k)."""
    return np.asarray(call(distribution, "quantile", params[:, None], np.float32(u)))


def at(values, x):
    return np.take_along_axis(np.asarray(values), x, axis=-1)


@each(DISTRIBUTIONS)
def test_probabilities_sum_to_one(distribution):
    probs = np.exp(np.asarray(all_log_probs(distribution, random_params(distribution)), np.float64))
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=2e-6)


@each(DISTRIBUTIONS)
def test_log_prob_agrees_with_float64(distribution):
    params = random_params(distribution)
    log_probs, expected = all_log_probs(distribution, params), reference_probs(distribution, params)
    seen = expected > 1e-290
    expected = np.log(np.where(seen, expected, 1))
    error = np.where(seen, np.abs(log_probs - expected), 0)
    assert (error <= 1e-5 * np.abs(expected) + 2e-6 + mean_rounding(distribution, params)).all()


@each([d for d in DISTRIBUTIONS if isinstance(d, DiscretizedLogisticMixture)])
def test_masses_are_sums_over_ranges_of_levels(distribution):
    params = random_params(distribution)
    probs = reference_probs(distribution, params)
    for size, count, start in ((1, 3, 0), (2, 5, 1), (16, 16, 0), (distribution.levels // 2, 2, 1)):
        padded = np.pad(probs, ((0, 0), (0, start + size * count)))[:, start : start + size * count]
        expected = padded.reshape(len(params), count, size).sum(-1)
        masses = distribution.masses(params, np.full(len(params), start), size, count)
        tolerance = 1e-6 + 2e-5 * expected + mean_rounding(distribution, params) * expected
        assert (np.abs(np.asarray(masses) - expected) <= tolerance).all()


def test_logistic_with_published_parameters():
    # One logistic with mean 100 and scale 5, in levels of 256.
    params = np.float32([[0, (100 - 127.5) / 127.5, math.log(5 / 127.5)]])
    log_probs = np.asarray(all_log_probs(DiscretizedLogisticMixture(1, 256), params)[0])
    np.testing.assert_allclose(np.exp(log_probs[[100, 102]]), [0.04995837, 0.04801681], rtol=1e-5)
    np.testing.assert_allclose(log_probs[[102, 200, 254]], [-3.036204, -21.607772, -32.407772], rtol=1e-6)


def test_logistic_tails_are_exact_where_float64_differences_underflow():
    log_probs = np.asarray(all_log_probs(DiscretizedLogisticMixture(1, 256), np.float32([[0, 0, -30]]))[0])
    level = 2 / 255 * math.exp(7)  # the width of a level, in scales at the bound
    np.testing.assert_allclose(np.diff(log_probs[129:255]), -level, rtol=1e-4)
    np.testing.assert_allclose(log_probs[255], -127 * level, rtol=1e-6)
    np.testing.assert_allclose(log_probs, log_probs[::-1], rtol=1e-6)


def logit_extremes(num_params):
    flat = np.zeros(num_params)
    spread = np.linspace(-1e4, 1e4, num_params) if num_params > 1 else np.array([1e4])
    return np.stack([flat, spread, -spread, flat + 1e4, flat - 1e4])


def mixture_extremes(levels):
    bound = least_log_scale(levels)
    return np.array(
        [
            [*logits, *means, *log_scales]
            for logits in [(0, 0), (1e4, -1e4)]
            for means in [(0, 0), (-1, 1), (1e4, -1e4), (1e30, 1e30)]
            for log_scales in [(bound, bound), (-7, 7), (-1e4, -30), (80, 1e4)]
        ]
    )


@pytest.mark.parametrize(
    ("distribution", "params"),
    [
        (Bernoulli(), logit_extremes(1)),
        (Categorical(2), logit_extremes(2)),
        (Categorical(256), logit_extremes(256)),
        *((DiscretizedLogisticMixture(2, levels), mixture_extremes(levels)) for levels in (2, 17, 256, 65_536)),
    ],
    ids=lambda value: "extremes" if isinstance(value, np.ndarray) else str(value),
)
def test_log_probs_and_gradients_are_finite_for_extreme_parameters(distribution, params):
    levels = distribution.levels
    x = np.array([0, 1, levels // 2, levels - 2, levels - 1])
    params = np.float32(params)[:, None].repeat(len(x), axis=1)
    x = np.broadcast_to(x, params.shape[:-1])
    log_probs, gradients = jax.jit(
        lambda params: (
            distribution.log_prob(params, x),
            jax.grad(lambda params: 100 * distribution.log_prob(params, x).sum())(params),
        )
    )(params)
    assert np.isfinite(log_probs).all()
    assert np.max(log_probs) <= 0
    assert np.isfinite(gradients).all()


@each([Bernoulli(), Categorical(3), DiscretizedLogisticMixture(2, 17)])
def test_gradients_agree_with_float64_differences(distribution):
    params = random_params(distribution)[2:]  # above the bound of the log-scale
    gradients = jax.jit(jax.jacfwd(lambda params: all_log_probs(distribution, params).sum(axis=0)))(params)
    gradients = np.moveaxis(np.asarray(gradients), 0, -1)  # (rows, params, levels)
    step = 1e-5 * np.eye(distribution.num_params)
    up, down = (np.log(reference_probs(distribution, params[:, None] + sign * step)) for sign in (1, -1))
    np.testing.assert_allclose(gradients, (up - down) / 2e-5, rtol=1e-4, atol=1e-5)


def test_log_scales_below_the_bound_count_as_the_bound():
    mixture = DiscretizedLogisticMixture(1, 256)
    at_bound, below = np.float32([[0, 0.3, -7]]), np.float32([[0, 0.3, -9]])
    np.testing.assert_array_equal(all_log_probs(mixture, at_bound), all_log_probs(mixture, below))


def thinned(cdfs):
    """At most 256 or so of the levels."""
    return cdfs[:, :: max(1, cdfs.shape[-1] // 256)]


@each(DISTRIBUTIONS)
def test_quantile_inverts_the_cdf(distribution):
    params = random_params(distribution)
    cdfs = np.cumsum(reference_probs(distribution, params), axis=-1)
    margin = 5e-7 + mean_rounding(distribution, params)
    steps = thinned(cdfs)
    u = np.float32(np.concatenate([steps - 2 * margin, steps + 2 * margin], axis=-1)).clip(0, LAST_U)
    x = quantiles(distribution, params, u)
    below, above = at(np.pad(cdfs, ((0, 0), (1, 0)), constant_values=-1), x), at(cdfs, x)
    assert x.dtype == np.int32
    assert (below - margin <= u).all()
    assert (u < above + margin).all()


@each([Bernoulli(), Categorical(256), DiscretizedLogisticMixture(3, 256)])
def test_quantiles_of_a_grid_have_the_probabilities_as_frequencies(distribution):
    params = random_params(distribution)
    grid = (np.arange(2**14) + 0.5) / 2**14
    x = quantiles(distribution, params, np.broadcast_to(grid, (len(params), len(grid))))
    frequencies = np.stack([np.bincount(row, minlength=distribution.levels) for row in x]) / len(grid)
    np.testing.assert_allclose(frequencies, reference_probs(distribution, params), atol=1.5 / len(grid))


def hard_params(distribution):
    """Parameters with levels of no mass at both ends and in between."""
    if isinstance(distribution, DiscretizedLogisticMixture):
        means = np.array([[-0.5, 0.1, 0.7], [-0.2, -0.2, 0.0], [0.0, 0.0, 0.0], [-5, 5, 0.3]])
        rows = [np.concatenate([logits, row, np.full(3, -30)]) for row in means for logits in np.eye(3)]
        return np.float32(rows)
    params = random_params(distribution, rows=12)
    empty = np.random.default_rng(0).random(params.shape) < 0.6
    empty[:, distribution.levels // 2] = False
    empty[:6, [0, -1]] = distribution.levels > 2
    return np.where(empty, np.float32(-1e4), params)


@each(
    [
        Categorical(17),
        Categorical(256),
        *(DiscretizedLogisticMixture(3, levels) for levels in (17, 256, 65_536)),
    ]
)
def test_quantile_never_falls_and_never_meets_a_level_without_mass(distribution):
    params = hard_params(distribution)
    # Every value of the CDF with its float32 neighbours, random values and both ends.
    cdfs = thinned(np.float32(np.cumsum(reference_probs(distribution, params), axis=-1)))
    near = [cdfs, np.nextafter(cdfs, np.float32(0)), np.nextafter(cdfs, np.float32(2))]
    anywhere = np.random.default_rng(1).random((len(params), 2000), np.float32)
    ends = np.broadcast_to(np.float32([0, LAST_U]), (len(params), 2))
    u = np.sort(np.concatenate([*near, anywhere, ends], axis=-1).clip(0, np.float32(LAST_U)), axis=-1)
    x = quantiles(distribution, params, u)
    assert (np.diff(x, axis=-1) >= 0).all()
    assert (x >= 0).all()
    assert (x < distribution.levels).all()
    assert at(all_log_probs(distribution, params), x).min() > -100


@pytest.mark.parametrize("logit", [-1e4, -30.0, 30.0, 1e4])
def test_bernoulli_quantile_with_a_certain_outcome(logit):
    u = jnp.array([0.0 if abs(logit) > 100 else 1e-6, 0.5, LAST_U])
    np.testing.assert_array_equal(Bernoulli().quantile(jnp.full((3, 1), logit), u), int(logit > 0))


@each(SMALL)
def test_mean_and_mode(distribution):
    params = random_params(distribution)
    probs = reference_probs(distribution, params)
    mean, mode = call(distribution, "mean", params), call(distribution, "mode", params)
    np.testing.assert_allclose(mean, probs @ np.arange(distribution.levels), rtol=1e-5, atol=2e-4)
    assert mode.dtype == jnp.int32
    np.testing.assert_allclose(at(probs, np.asarray(mode)[:, None])[:, 0], probs.max(axis=-1), rtol=1e-4)


def test_mean_and_mode_of_16_bit_levels():
    mixture = DiscretizedLogisticMixture(2, 65_536)
    params = np.float32([1, 0, -0.5, 0.25, -9, -8])
    probs = reference_probs(mixture, params)
    np.testing.assert_allclose(call(mixture, "mean", params), probs @ np.arange(65_536), rtol=1e-5)
    assert abs(int(call(mixture, "mode", params)) - probs.argmax()) <= 1


@each([Bernoulli(), Categorical(17)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tempered_probabilities_are_powers(distribution, temperature):
    params = random_params(distribution)
    powers = reference_probs(distribution, params) ** (1 / temperature)
    tempered = np.exp(all_log_probs(distribution, call(distribution, "temper", params, temperature)))
    np.testing.assert_allclose(tempered, powers / powers.sum(axis=-1, keepdims=True), rtol=2e-5)


def test_tempered_mixture_has_sharper_weights_and_scales():
    mixture = DiscretizedLogisticMixture(2, 256)
    params = np.float32([0, 1, -0.5, 0.5, -3, -20])
    expected = [-2, 0, -0.5, 0.5, -3 + math.log(0.5), -7 + math.log(0.5)]
    np.testing.assert_allclose(mixture.temper(params, 0.5), expected, rtol=1e-6)
    np.testing.assert_allclose(call(mixture, "temper", params, np.float32(0.5)), expected, rtol=1e-6)


@pytest.mark.parametrize("method", ARGS)
@each([Bernoulli(), DiscretizedLogisticMixture(2, 17)])
def test_bfloat16_parameters_are_computed_with_in_float32(distribution, method):
    params = random_params(distribution).astype(jnp.bfloat16)
    args = ARGS[method]
    result = call(distribution, method, params, *args)
    assert result.dtype == (jnp.int32 if method in ("quantile", "mode") else jnp.float32)
    np.testing.assert_array_equal(result, call(distribution, method, params.astype(np.float32), *args))


@each([Categorical(256), DiscretizedLogisticMixture(3, 256), DiscretizedLogisticMixture(3, 65_536)])
def test_data_may_be_narrower_than_int32(distribution):
    x = np.array([0, 255, 254, 127, 128, 1])
    params = random_params(distribution)
    expected = call(distribution, "log_prob", params, x)
    np.testing.assert_array_equal(call(distribution, "log_prob", params, x.astype(np.uint8)), expected)


@each([Bernoulli(), Categorical(17), DiscretizedLogisticMixture(3, 256)])
def test_data_out_of_range_have_no_probability(distribution):
    x = np.int32([-1, distribution.levels, 2**31 - 1, -(2**31), -1000, 1000])
    params = random_params(distribution)
    assert np.isnan(call(distribution, "log_prob", params, x)).all()
    assert np.isfinite(jax.grad(lambda params: distribution.log_prob(params, x).sum())(params)).all()


@each([Bernoulli(), Categorical(17), DiscretizedLogisticMixture(3, 256)])
def test_what_is_no_number_draws_no_level(distribution):
    params, u = random_params(distribution), np.float32([np.nan, -0.1, 1.0, np.inf, 0.5, 0.5])
    params[-1, -1] = np.nan
    drawn = np.asarray(call(distribution, "quantile", params, u))
    assert (drawn[[0, 1, 2, 3, 5]] == -1).all()
    assert drawn[4] >= 0
    u = np.float64([1 - 1e-12] * 5)
    last = call(distribution, "quantile", params[:5], np.full(5, BELOW_ONE))
    np.testing.assert_array_equal(distribution.quantile(params[:5], u), last)


@each([Bernoulli(), Categorical(3), DiscretizedLogisticMixture(2, 17)])
def test_quantile_is_the_same_under_jit_vmap_and_scan(distribution):
    params = random_params(distribution)
    u = np.random.default_rng(0).random((5, len(params)), np.float32)
    expected = np.stack([call(distribution, "quantile", params, row) for row in u])
    mapped = jax.jit(jax.vmap(jax.vmap(distribution.quantile), (None, 0)))
    np.testing.assert_array_equal(mapped(params, u), expected)
    scanned = jax.jit(lambda u: jax.lax.map(lambda row: distribution.quantile(params, row), u))(u)
    np.testing.assert_array_equal(scanned, expected)


def test_equal_settings_are_equal_and_hash_alike():
    assert len({Categorical(3), Categorical(3), Categorical(4), Bernoulli(), Bernoulli()}) == 3


def test_levels_and_number_of_parameters():
    distributions = [Bernoulli(), Categorical(17), DiscretizedLogisticMixture()]
    assert [(d.levels, d.num_params) for d in distributions] == [(2, 1), (17, 17), (256, 30)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(1), "levels must be at least 2, got 1"),
        (lambda: DiscretizedLogisticMixture(0, 256), "num_mixtures must be at least 1, got 0"),
        (lambda: DiscretizedLogisticMixture(10, 1), "levels must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", ARGS)
@each([Bernoulli(), Categorical(17), DiscretizedLogisticMixture(2, 256)])
def test_parameters_of_the_wrong_length_are_refused(distribution, method):
    message = rf"needs parameters \(\.\.\., {distribution.num_params}\), got shape \(6, 5\)"
    with pytest.raises(ValueError, match=message):
        getattr(distribution, method)(np.zeros((6, 5), np.float32), *ARGS[method])
