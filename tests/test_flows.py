"""Flows: bijections against their Jacobians, densities against quadrature, samples against both, bad input."""

import functools
import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_variables
from zoo import DEQUANTISED, FLOWS, floats, integers

import arjax
from arjax import training
from arjax.continuous import Logistic, Mixture, Normal
from arjax.data import Dataset
from arjax.distributions import Bernoulli
from arjax.flows import (
    ActNorm,
    Autoregressive,
    BatchNorm,
    Chain,
    Coupling,
    Dequantised,
    Elementwise,
    Flow,
    Inverse,
    Logit,
    Perceptron,
    Permutation,
    ResNet,
    iaf,
    maf,
    real_nvp,
    tarflow,
)
from arjax.models import MADE

METHODS = ("naive", "cached", "fixed_point")
ALL = {**FLOWS, **DEQUANTISED}


@functools.cache
def setup(name):
    """A flow with random parameters, half as large as those of other models: maps of moderate slope."""
    model, x, cond = ALL[name]()
    variables = random_variables(model, x, cond)

    def moderate(path, leaf):
        if path[-1].key in ("mean", "variance"):  # running averages
            return np.abs(leaf) if path[-1].key == "variance" else leaf
        return leaf * np.float32(0.5)

    return model, jax.tree_util.tree_map_with_path(moderate, variables), x, cond


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(model, method, variables, x, cond=None):
    return model.apply(variables, x, *(() if cond is None else (cond,)), method=method)


def jacobians(model, variables, x, cond):
    """`dz/dx` of each example, `(b, d, d)`."""

    def one(x, cond):
        given = () if cond is None else (cond[None],)
        return model.apply(variables, x[None], *given, method="forward")[0][0].ravel()

    found = jax.jit(jax.vmap(jax.jacfwd(one)))(x, cond)
    return np.asarray(found, np.float64).reshape(len(x), x[0].size, x[0].size)


@pytest.mark.parametrize("name", FLOWS)
def test_bijection(name):
    """The log-determinant is that of the Jacobian, and the inverse gives the data back."""
    model, variables, x, cond = setup(name)
    z, log_det = call(model, "forward", variables, x, cond)
    assert z.shape == x.shape
    _, expected = np.linalg.slogdet(jacobians(model, variables, x, cond))
    np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(call(model, "inverse", variables, z, cond), x, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_samplers_agree(name):
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    draw = partial(arjax.sample_from_noise, model, variables, noise, cond, return_log_prob=True)
    (naive, log_prob), *others = (draw(method=method) for method in METHODS)
    *_, iterations = draw(method="fixed_point", return_iterations=True)
    assert 2 <= iterations <= 4 * (x[0].size + 1)
    for other in others:
        chex.assert_trees_all_close(other, (naive, log_prob), rtol=1e-3, atol=1e-3)
    if name in FLOWS:
        chex.assert_trees_all_close(arjax.log_prob(model, variables, naive, cond), log_prob, rtol=1e-4, atol=1e-3)
        z = call(model, "forward", variables, naive, cond)[0]
        params = model.bind(variables).base(z)
        assert type(model.output) in (Normal, Mixture)
        np.testing.assert_allclose(model.output.quantile(params, noise), z, rtol=1e-3, atol=1e-3)
    else:
        assert naive.dtype == jnp.int32
        assert ((naive >= 0) & (naive < model.levels)).all()


@pytest.mark.parametrize("name", ["maf", "iaf", "real_nvp_of_vectors", "tarflow"])
def test_samples_follow_the_density(name):
    """The mean log-density of samples is minus the base's entropy and the mean of the log-determinant."""
    model, variables, x, cond = setup(name)
    count = 4096
    cond = None if cond is None else np.resize(cond, count)
    samples = arjax.sample(model, variables, jax.random.key(1), (count, *x.shape[1:]), cond)
    _, log_det = call(model, "forward", variables, samples, cond)
    log_probs = np.asarray(arjax.log_prob(model, variables, samples, cond) - log_det, np.float64)
    entropy = 0.5 * x[0].size * math.log(2 * math.pi * math.e)
    assert abs(log_probs.mean() + entropy) < 5 * math.sqrt(x[0].size / 2 / count)


@pytest.mark.parametrize("flow", ["maf", "iaf", "mixture", "nvp"])
def test_density_in_the_plane_integrates_to_one(flow):
    model = {
        "maf": maf((2,), num_layers=2, hidden=(8,)),
        "iaf": iaf((2,), num_layers=1, hidden=(8,)),
        "mixture": maf((2,), num_layers=1, hidden=(8,), output=Mixture(Normal(), 2)),
        "nvp": Flow(Chain((Coupling(Perceptron((8,)), "checkerboard"), ActNorm()))),
    }[flow]
    axis = np.linspace(-12, 12, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    variables = jax.tree.map(lambda leaf: leaf * np.float32(0.4), random_variables(model, grid[:4]))
    density = np.exp(np.asarray(arjax.log_prob(model, variables, grid), np.float64))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=2e-3)


def test_jacobians_are_triangular():
    """Of MAF along its order, of IAF likewise, of a coupling by what it keeps; and dense where a flow has two."""
    ordering = (3, 0, 4, 1, 2)
    made = MADE((5,), Normal(), (16,), ordering=ordering)
    x = floats(4, 5)
    for layer in (Autoregressive(made), *iaf((5,), num_layers=1, hidden=(16,)).bijection.layer.layers):
        model = Flow(layer)
        found = jacobians(model, random_variables(model, x, scale=0.1), x, None)
        own = np.array(layer.conditioner.ordering or range(5))
        later = own[:, None] < own
        assert (found[:, later] == 0).all()
        assert (found != 0).any(0)[~later].all()
    coupling = Flow(Coupling(Perceptron((8,)), "checkerboard"))
    found = jacobians(coupling, random_variables(coupling, x), x, None)
    kept = np.arange(5) % 2 == 1
    sees = np.where(kept[:, None], np.eye(5, dtype=bool), np.eye(5, dtype=bool) | kept)
    np.testing.assert_array_equal((found != 0).any(0), sees)
    two = maf((5,), num_layers=2, hidden=(16,), norm=None)
    assert (jacobians(two, random_variables(two, x, scale=0.1), x, None) != 0).any(0).all()


@pytest.mark.parametrize("name", ALL)
def test_gradients_and_batches(name):
    """Finite for extreme data and parameters; `vmap` over examples is the batch."""
    model, variables, x, cond = setup(name)
    loss = jax.jit(jax.value_and_grad(lambda v, x: -arjax.log_prob(model, v, x, cond).mean()))
    chex.assert_tree_all_finite(loss(jax.tree.map(lambda leaf: 0 * leaf, variables), x))
    if name in FLOWS:
        chex.assert_tree_all_finite(loss(variables, 1e3 * x))

    def one(x, cond):
        return arjax.log_prob(model, variables, *jax.tree.map(lambda leaf: leaf[None], (x, cond)))[0]

    log_probs = arjax.log_prob(model, variables, x, cond)
    chex.assert_trees_all_close(jax.vmap(one)(x, cond), log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["maf_batch_norm", "iaf", "real_nvp", "tarflow", "dequantised_maf"])
def test_training_lowers_the_loss(name):
    model, x, cond = ALL[name]()
    batch = {"x": x} if cond is None else {"x": x, "cond": cond}
    optimizer, losses = optax.adam(3e-3), []
    state = training.create_state(model, optimizer, 0, batch)
    for _ in range(10):
        state, metrics = training.train_step(state, batch, model=model, optimizer=optimizer, ema_decay=0.9)
        losses.append(float(metrics["nats"]))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    ("make", "event"),
    [
        (partial(maf, (5,), num_layers=2, hidden=(16,)), (5,)),
        (partial(real_nvp, (4, 4, 1), features=4, num_blocks=1), (4, 4, 1)),
        (partial(tarflow, (4, 4, 1), patch=2, features=8, num_blocks=2, num_layers=1, num_heads=2), (4, 4, 1)),
    ],
)
def test_bfloat16(make, event):
    x = floats(4, *event)
    variables = jax.tree.map(lambda leaf: leaf * np.float32(0.5), random_variables(make(), x))
    exact, rounded = (arjax.log_prob(make(dtype=dtype), variables, x) for dtype in (jnp.float32, jnp.bfloat16))
    assert (exact != rounded).any()
    chex.assert_trees_all_close(rounded, exact, rtol=0.05, atol=0.1)


def test_elementwise_mixture_is_the_mixture():
    model = Flow(Elementwise((3,), Mixture(Normal(), 4)))
    x = floats(4, 3)
    variables = random_variables(model, x)
    params = np.broadcast_to(variables["params"]["bijection"]["params"], (4, 3, 12))
    expected = Mixture(Normal(), 4).log_prob(params, x).sum(1)
    np.testing.assert_allclose(arjax.log_prob(model, variables, x), expected, rtol=1e-4, atol=1e-4)


def test_one_layer_of_maf_is_made():
    made, x = MADE((5,), Normal(), (16,)), floats(4, 5)
    variables = random_variables(made, x, scale=0.1)
    flow = Flow(Autoregressive(made, bound=None))
    of_flow = {"params": {"bijection": {"network": variables["params"]}}}
    np.testing.assert_allclose(
        arjax.log_prob(flow, of_flow, x), arjax.log_prob(made, variables, x), rtol=1e-5, atol=1e-5
    )
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    np.testing.assert_allclose(
        arjax.sample_from_noise(flow, of_flow, noise), arjax.sample_from_noise(made, variables, noise), atol=1e-4
    )


def test_normalisation_begins_with_the_batch():
    x = 3 * floats(64, 5) + np.arange(5, dtype=np.float32)
    for norm in (ActNorm(), BatchNorm()):
        model = Flow(norm)
        variables = jax.jit(partial(model.init, method="log_prob"))(jax.random.key(0), x)
        z, _ = call(model, "forward", variables, x)
        np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(z.std(0), 1, atol=1e-4)


def test_batch_norm_keeps_running_averages():
    """Training normalises by the batch, and moves the averages, which evaluation uses, towards it."""
    model, optimizer = Flow(BatchNorm(0.5)), optax.sgd(0.0)
    first, second = floats(64, 3), 2 * floats(64, 3) + 1
    state = training.create_state(model, optimizer, 0, {"x": first})
    state, metrics = training.train_step(state, {"x": second}, model=model, optimizer=optimizer, ema_decay=0.0)
    own = state.params["bijection"]
    np.testing.assert_allclose(own["mean"], (first.mean(0) + second.mean(0)) / 2, atol=1e-5)
    np.testing.assert_allclose(own["variance"], (first.var(0) + second.var(0)) / 2, atol=1e-5)
    standard = 1.5 * (1 + math.log(2 * math.pi)) + 0.5 * np.log(second.var(0)).sum()
    assert metrics["nats"] == pytest.approx(standard, abs=1e-3)
    assert -arjax.log_prob(model, {"params": state.params}, second).mean() > metrics["nats"] + 0.1


def test_linear_iaf_is_a_full_covariance():
    """As a posterior of two normals with correlation 0.9 it loses nothing; independent ones lose 0.830 nats."""
    rho, count = 0.9, 512
    precision = np.linalg.inv(np.array([[1, rho], [rho, 1]])).astype(np.float32)
    log_norm = math.log(2 * math.pi) + 0.5 * math.log(1 - rho**2)
    lost = {}
    for name, bijection in {
        "iaf": Inverse(Autoregressive(MADE((2,), Normal(), (), direct=True))),
        "independent": Elementwise((2,)),
    }.items():
        model = Flow(bijection)
        params = random_variables(model, floats(4, 2), scale=0.05)["params"]

        @jax.jit
        def step(params, key, model=model):
            def loss(params):
                noise = jax.random.uniform(key, (count, 2))
                x, log_q = arjax.sample_from_noise(model, {"params": params}, noise, return_log_prob=True)
                log_p = -0.5 * ((x @ precision) * x).sum(1) - log_norm
                return (log_q - log_p).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        for i in range(300):
            params, value = step(params, jax.random.key(i))
        lost[name] = float(value)
    assert lost["iaf"] == pytest.approx(0, abs=0.02)
    assert lost["independent"] == pytest.approx(0.830, abs=0.08)


def test_dequantisation_is_a_bound_with_every_constant():
    """Uniform integers of 8 bits have 8 bits/dim under the flow of their density: a logit changes nothing."""
    x = integers(256, 16, 4, 4, 1)
    logistic = Elementwise((4, 4, 1), Logistic(), nn.initializers.zeros)
    model = Dequantised(Flow(Chain((Logit(256, 1e-6), logistic))), 256)
    variables = jax.tree.map(np.zeros_like, random_variables(model, x))
    np.testing.assert_allclose(arjax.bits_per_dim(model, variables, x), 8, atol=1e-3)


def test_dequantised_noise_is_a_function_of_the_example():
    model, variables, x, _ = setup("dequantised_maf")
    log_probs = arjax.log_prob(model, variables, x)
    np.testing.assert_allclose(arjax.log_prob(model, variables, x[::-1].copy())[::-1], log_probs, rtol=1e-5)
    one = training.create_state(model, optax.sgd(0.0), 0, {"x": x})
    step = partial(training.train_step, model=model, optimizer=optax.sgd(0.0), ema_decay=0.0)
    one, first = step(one, {"x": x})
    _, second = step(one, {"x": x})
    assert first["nats"] != second["nats"], "training draws noise anew"


def test_fit(tmp_path):
    """A flow is trained, resumed and read as any model."""
    x = np.random.default_rng(0).normal(size=(300, 2)) @ np.array([[2.0, 1], [0, 0.3]]) + 5
    train, valid = Dataset(x[:200], levels=None), Dataset(x[200:], levels=None, split="valid")
    model = maf((2,), num_layers=2, hidden=(8,), norm=BatchNorm)
    settings = {"batch_size": 50, "eval_every": 30, "ema_decay": 0.9, "progress": False}
    fit = partial(training.fit, model, optax.adam(1e-2), train, valid, directory=tmp_path, **settings)
    _, history = fit(steps=60)
    state, again = fit(steps=90)
    assert again[:2] == history
    assert again[-1]["valid_nats"] < again[0]["valid_nats"]
    stored = arjax.checkpoints.load_params(tmp_path, model)
    chex.assert_trees_all_equal(stored, state.ema_params)


def test_bad_input_is_refused():
    model, variables, x, _ = setup("maf")
    noise = np.zeros(x.shape, np.float32)

    def refused(message, function, *args, **options):
        with pytest.raises(ValueError, match=message) as error:
            function(*args, **options)
        assert "\n" not in str(error.value).split("\n\nFor simplicity")[0]

    def start(bijection, x):
        return Flow(bijection).init(jax.random.key(0), x, method="log_prob")

    for bad in (np.nan, np.inf):
        data = np.where(x == x[0, 0], np.float32(bad), x)
        refused(f"finite floats are wanted, got {bad}", arjax.log_prob, model, variables, data)
    refused("cond: this flow takes none", arjax.log_prob, model, variables, x, np.zeros(4, np.int32))
    refused("cond: this flow takes none", arjax.sample_from_noise, model, variables, noise, np.zeros(4, np.int32))
    refused("evidence: a flow takes none", arjax.sample_from_noise, model, variables, noise, evidence=(x, x > 0))
    refused("top_p: an output with a nucleus", arjax.sample_from_noise, model, variables, noise, top_p=0.5)
    refused("holds each of 0..4 once", start, Permutation((0, 1, 2, 3, 3)), x)
    refused("an even number of channels is wanted to split, got 5", start, Coupling(Perceptron(), "channels"), x)
    refused(
        "mask is 'checkerboard' or 'channels', got 'rows'", start, Coupling(ResNet(), "rows"), floats(2, 4, 4, 1)
    )
    refused("events of shape", start, Elementwise((4,)), x)
    refused("a margin between 0 and 0.5 is wanted, got 0.5", start, Logit(1, 0.5), x)
    refused("a continuous output is wanted", start, Autoregressive(MADE((5,), Bernoulli())), x)
    refused("2 squeezes do not divide events of shape", real_nvp, (6, 6, 1), num_scales=3)
    refused("squares of 3 x 3 do not divide events of shape", tarflow, (4, 4, 1), patch=3)
    images, integral = real_nvp((4, 4, 1), features=4), integers(5, 2, 4, 4, 1)
    refused("squares of 2 x 2 do not divide", start, images.bijection, floats(2, 6, 5, 1))
    dequantised = Dequantised(Flow(Logit(5)), 5)
    for bad, got in ((integral + 1, "values 1..5"), (integral.astype(np.float32), "dtype float32")):
        refused(f"integers 0..4 are wanted, got {got}", arjax.log_prob, dequantised, {}, bad)
