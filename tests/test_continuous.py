"""Distributions over the real numbers, and the models of one pass that have them as outputs."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, random_variables, stepped_params
from scipy import integrate, stats
from zoo import CONTINUOUS, ZOO

import arjax
from arjax import training
from arjax.continuous import LEAST, Logistic, Mixture, Normal
from arjax.data import Dataset
from arjax.flows import maf
from arjax.models import MADE, RNN, Transformer, WaveNet

DISTRIBUTIONS = [Normal(), Logistic(), Mixture(Normal(), 3), Mixture(Logistic(), 2)]
each = functools.partial(pytest.mark.parametrize, "distribution", ids=str)
METHODS = ("naive", "cached", "fixed_point")


def random_params(distribution, rows=6):
    return np.random.default_rng(3).normal(size=(rows, distribution.num_params)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(distribution, method, *args):
    return getattr(distribution, method)(*args)


def reference(distribution, row):
    """Weights and scipy's frozen components."""
    kind = stats.norm if getattr(distribution, "component", distribution) == Normal() else stats.logistic
    if not isinstance(distribution, Mixture):
        return np.ones(1), [kind(row[0], np.exp(row[1]))]
    logits, means, log_scales = np.split(np.float64(row), 3)
    weights = np.exp(logits) / np.exp(logits).sum()
    return weights, [kind(m, np.exp(s)) for m, s in zip(means, log_scales, strict=True)]


@each(DISTRIBUTIONS)
def test_densities_and_tails_agree_with_scipy(distribution):
    params, x = random_params(distribution), np.float32([-30, -2, -0.1, 0.3, 4, 25])
    found = [call(distribution, name, params, x) for name in ("log_prob", "log_cdf", "log_survival")]
    for i, row in enumerate(params):
        weights, parts = reference(distribution, row)
        for values, name in zip(found, ("logpdf", "logcdf", "logsf"), strict=True):
            expected = np.logaddexp.reduce(
                [np.log(w) + getattr(p, name)(x[i]) for w, p in zip(weights, parts, strict=True)]
            )
            assert values[i] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        mean = sum(w * p.mean() for w, p in zip(weights, parts, strict=True))
        assert call(distribution, "mean", params)[i] == pytest.approx(mean, rel=1e-5, abs=1e-6)


@each(DISTRIBUTIONS)
def test_density_integrates_to_one(distribution):
    params = random_params(distribution)[:, None]
    x = np.linspace(-600, 600, 400_001, dtype=np.float32)[None].repeat(len(params), 0)
    density = np.exp(np.asarray(call(distribution, "log_prob", params.repeat(x.shape[1], 1), x), np.float64))
    np.testing.assert_allclose(integrate.trapezoid(density, np.float64(x)), 1, atol=1e-4)


@each(DISTRIBUTIONS)
def test_quantile_inverts_the_cdf_in_both_tails(distribution):
    params, u = random_params(distribution), np.float32([LEAST, 1e-5, 0.2, 0.5, 0.9, 1 - LEAST])
    x = call(distribution, "quantile", params, u)
    np.testing.assert_allclose(call(distribution, "log_cdf", params, x), np.log(u), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call(distribution, "log_survival", params, x), np.log1p(-u), rtol=1e-5, atol=1e-6)


@each(DISTRIBUTIONS)
def test_quantile_never_falls_and_is_finite(distribution):
    near = [c + np.arange(-400, 400) * 6e-8 for c in (np.exp(-2), 0.5, 1 - np.exp(-2))]
    ends = np.float32([0, 1e-45, 1e-30, 2**-24, 2**-23, 1 - 2**-23, 1 - 2**-24])
    u = np.sort(np.concatenate([ends, np.linspace(0, 1, 1000, endpoint=False, dtype=np.float32), *near]))
    u = u.astype(np.float32)
    for row in random_params(distribution, 3):
        x = np.asarray(call(distribution, "quantile", np.broadcast_to(row, (len(u), len(row))), u))
        assert np.isfinite(x).all()
        rounding = 1e-6 * np.abs(x[1:]) if distribution == Normal() else 0
        assert (np.diff(x) >= -rounding).all()


@each(DISTRIBUTIONS)
def test_quantile_has_the_gradient_of_the_implicit_function(distribution):
    params, u = random_params(distribution), np.float32([1e-5, 0.1, 0.3, 0.6, 0.9, 0.9999])
    of_params, of_u = jax.jit(jax.vmap(jax.grad(distribution.quantile, (0, 1))))(params, u)
    x = call(distribution, "quantile", params, u)
    np.testing.assert_allclose(of_u, np.exp(-call(distribution, "log_prob", params, x)), rtol=1e-4)
    step = 2e-3 * np.eye(distribution.num_params, dtype=np.float32)
    up, down = (
        call(distribution, "quantile", params[:, None] + sign * step, np.repeat(u[:, None], len(step), 1))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(of_params, (up - down) / 4e-3, rtol=2e-2, atol=2e-2)


@each(DISTRIBUTIONS)
def test_map_to_normal_noise_and_back(distribution):
    params = random_params(distribution)
    x = call(distribution, "quantile", params, np.float32([1e-6, 0.1, 0.5, 0.7, 0.99, 1 - 1e-6]))
    z, log_slope = call(distribution, "to_normal", params, x)
    np.testing.assert_allclose(
        stats.norm.logcdf(z), call(distribution, "log_cdf", params, x), rtol=1e-5, atol=1e-6
    )
    slope = jax.vmap(jax.grad(lambda x, params: distribution.to_normal(params, x)[0]))(x, params)
    np.testing.assert_allclose(log_slope, np.log(slope), atol=1e-4)
    np.testing.assert_allclose(call(distribution, "from_normal", params, z), x, rtol=1e-5, atol=1e-5)


@each(DISTRIBUTIONS)
def test_extremes_are_finite(distribution):
    values = np.float32([0, 1e4, -1e4, 1e30, -1e30])
    means, log_scales = (a.ravel() for a in np.meshgrid(values, values))
    if isinstance(distribution, Mixture):
        ones = np.ones((1, distribution.num_mixtures), np.float32)
        logits = np.linspace(-1e4, 1e4, distribution.num_mixtures, dtype=np.float32)[None].repeat(25, 0)
        params = np.concatenate([logits, means[:, None] * ones, log_scales[:, None] * ones], 1)
    else:
        params = np.stack([means, log_scales], 1)

    @jax.jit
    def found(params, x):
        log_prob, gradients = jax.value_and_grad(lambda *args: 100 * distribution.log_prob(*args).sum(), (0, 1))(
            params, x
        )
        return log_prob, gradients, distribution.to_normal(params, x), distribution.quantile(params, 0 * x)

    for x in values:
        chex.assert_tree_all_finite(found(params, np.full(25, x)))


@each(DISTRIBUTIONS)
def test_what_is_no_number_gives_none(distribution):
    params = random_params(distribution, 4)
    u = np.float32([-0.1, 1, np.nan, 0.5])
    np.testing.assert_array_equal(np.isnan(call(distribution, "quantile", params, u)), [True, True, True, False])
    x = np.float32([np.nan, np.inf, -np.inf, 0])
    np.testing.assert_array_equal(np.isnan(call(distribution, "log_prob", params, x)), [True, True, True, False])
    assert np.isnan(call(distribution, "quantile", params * np.nan, u)).all()
    with pytest.raises(ValueError, match="needs parameters"):
        distribution.log_prob(params[:, 1:], u)


@each(DISTRIBUTIONS)
def test_temperature_scales(distribution):
    params = random_params(distribution)
    tempered = call(distribution, "temper", params, np.float32(0.5))
    np.testing.assert_allclose(tempered[:, -1], params[:, -1] + np.log(0.5), rtol=1e-5, atol=1e-6)
    u = np.full(6, 0.3, np.float32)
    cold = call(distribution, "quantile", call(distribution, "temper", params, np.float32(1e-30)), u)
    means = params[:, :1] if not isinstance(distribution, Mixture) else np.split(params, 3, 1)[1]
    assert (np.abs(np.asarray(cold)[:, None] - means).min(1) < 1e-4).all()


@functools.cache
def setup(name):
    model, x, cond = CONTINUOUS[name]()
    variables = jax.tree.map(lambda leaf: leaf * np.float32(0.7), random_variables(model, x, cond))
    return model, variables, x, cond


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samplers_agree(name):
    """The same numbers to rounding from the same noise, which one parallel pass gives back; evidence stays."""
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    known = np.random.default_rng(1).random(x.shape) < 0.3
    draw = partial(arjax.sample_from_noise, model, variables, noise, cond, evidence=(x, known))
    (naive, log_prob), *others = (draw(method=method, return_log_prob=True) for method in METHODS)
    assert naive.dtype == jnp.float32
    for other in others:
        chex.assert_trees_all_close(other, (naive, log_prob), rtol=1e-3, atol=1e-3)
    params = apply(model, variables, naive, cond)
    given_back = call(model.output, "quantile", params, noise)
    np.testing.assert_allclose(naive, np.where(known, x, given_back), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(naive)[known], x[known])
    conditionals = np.where(known, 0, call(model.output, "log_prob", params, naive))
    np.testing.assert_allclose(log_prob, conditionals.sum(tuple(range(1, x.ndim))), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if "made" not in name])
def test_stepped_params(name):
    model, variables, x, cond = setup(name)
    stepped = stepped_params(model, variables, x, cond)
    chex.assert_trees_all_close(stepped, apply(model, variables, x, cond), atol=1e-5)


def test_channels_of_a_position_are_drawn_at_once():
    """They are independent given the positions before: one loop over positions, none over channels."""
    model = Transformer((4, 11), Normal(), 11, features=8, num_layers=1, num_heads=2)
    x = np.zeros((2, 4, 11), np.float32)
    jaxpr = str(jax.make_jaxpr(partial(arjax.sample_from_noise, model, random_variables(model, x)))(x))
    assert "length=4" in jaxpr
    assert "length=11" not in jaxpr


@pytest.mark.parametrize("name", ["lstm_mixture", "temporal_conv_logistic"])
def test_streaming_equals_one_call(name):
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(jax.random.key(10), x.shape)
    whole = arjax.sample_from_noise(model, variables, noise, cond)
    for prompt in (0, 2):
        state = arjax.start(model, variables, whole[:, :prompt], cond)
        state, first = arjax.extend(model, variables, state, noise[:, prompt:4], cond)
        state, second = arjax.extend(model, variables, state, noise[:, 4:], cond)
        chex.assert_trees_all_close(jnp.concatenate([whole[:, :prompt], first, second], 1), whole, atol=1e-4)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_log_prob_is_differentiable_and_batched(name):
    model, variables, x, cond = setup(name)
    loss = jax.jit(jax.value_and_grad(lambda v: -arjax.log_prob(model, v, x, cond).mean()))
    for factor in (30.0, 0.0):
        chex.assert_tree_all_finite(loss(jax.tree.map(lambda leaf, f=factor: leaf * np.float32(f), variables)))

    def one(x, cond):
        return arjax.log_prob(model, variables, *jax.tree.map(lambda leaf: leaf[None], (x, cond)))[0]

    log_probs = arjax.log_prob(model, variables, x, cond)
    chex.assert_trees_all_close(jax.vmap(one)(x, cond), log_probs, rtol=1e-5, atol=1e-5)
    half = arjax.log_prob(model.clone(dtype=jnp.bfloat16), variables, x, cond)
    assert (half != log_probs).any()
    chex.assert_trees_all_close(half, log_probs, rtol=0.1, atol=0.5)


def test_what_cannot_be_drawn_is_nan():
    model, variables, x, _ = setup("lstm_mixture")
    noise = jax.random.uniform(jax.random.key(0), x.shape).at[1, 2].set(1.5)
    drawn, log_prob = jax.jit(partial(arjax.sample_from_noise, model, variables, return_log_prob=True))(noise)
    np.testing.assert_array_equal(np.isnan(drawn), noise == 1.5)
    np.testing.assert_array_equal(np.isnan(log_prob), [False, True, False, False])


def test_data_are_refused():
    model, variables, x, _ = setup("made_mog")
    for bad, message in {
        "finite floats are wanted, got nan": np.where(x == x[0, 0], np.nan, x),
        "finite floats are wanted, got inf": np.where(x == x[0, 0], np.inf, x),
        "finite floats are wanted, got dtype int32": x.astype(np.int32),
    }.items():
        with pytest.raises(ValueError, match=bad):
            arjax.log_prob(model, variables, message)
    with pytest.raises(ValueError, match="no one-hot code"):
        WaveNet(Normal(), entry="one_hot").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="num_mixtures must be at least 1, got 0"):
        Mixture(Normal(), 0)


def test_data_sets_of_real_numbers():
    x = np.random.default_rng(0).normal(size=(8, 3))
    dataset = Dataset(x, levels=None)
    assert dataset.batch(slice(2))["x"].dtype == np.float32
    for bad, message in ((x.astype(int), "wanted floats for levels=None"), (x * np.inf, "wanted finite floats")):
        with pytest.raises(ValueError, match=message):
            Dataset(bad, levels=None)
    with pytest.raises(ValueError, match="cannot quantize real numbers"):
        dataset.quantize(4)


def test_npz_of_real_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(40, 3)))
    train, test = (arjax.data.load(tmp_path / "a.npz", split) for split in ("train", "test"))
    assert (len(train), len(test), train.levels) == (32, 4, None)


@pytest.mark.parametrize("of_flow", [False, True])
def test_components_of_the_first_variable_learn_apart(of_flow):
    """Its parameters are biases alone: components that begin alike have the same gradient, and stay alike."""
    x, mixture = np.float32([[-2], [2], [2]]), Mixture(Normal(), 2)
    flow = maf((1,), num_layers=1, hidden=(4,), output=mixture, norm=None)
    model = flow if of_flow else MADE((1,), mixture, (4,))
    variables = arjax.modules.init(model, jax.random.key(0), x)
    grads = jax.grad(lambda variables: arjax.log_prob(model, variables, x).sum())(variables)
    (bias,) = (leaf for leaf in jax.tree.leaves(grads) if leaf.shape == (mixture.num_params,))
    logits, means, log_scales = np.split(np.asarray(bias), 3)
    for parameters in (logits, means, log_scales):
        assert abs(parameters[0] - parameters[1]) > 1e-3


@pytest.mark.parametrize("model", [MADE((3,), Mixture(Normal(), 2), (16,)), RNN(Normal(), features=8)])
def test_fit(model, tmp_path):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(300, 3)), 1)
    train, valid = Dataset(x[:200], levels=None), Dataset(x[200:], levels=None, split="valid")
    settings = {"steps": 60, "batch_size": 50, "eval_every": 30, "ema_decay": 0.9, "progress": False}
    _, history = training.fit(model, optax.adam(1e-2), train, valid, directory=tmp_path, **settings)
    assert history[-1]["valid_nats"] < history[0]["valid_nats"] < 10
    with pytest.raises(ValueError, match="is of real numbers, wanted integers"):
        training.fit(ZOO["made"]()[0], optax.adam(1e-2), train, valid, directory=tmp_path / "b", **settings)
