"""What cannot be run here is at least lowered: likelihood, training step and cached sampler for GPU and TPU."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from helpers import noise_for, random_variables
from zoo import ZOO

import arjax
from arjax import sampling, training
from arjax.distributions import Bernoulli
from arjax.models import GatedPixelCNN

PLATFORMS = ("cuda", "tpu")
FAST = (
    "made_categorical",
    "gated_pixelcnn_map",
    "wavenet_local",
    "transformer_agnostic",
    "pixelrnn_diagonal",
    "gru",
)
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]


def exported(function, *args):
    """The StableHLO for both platforms."""
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*args)


@pytest.mark.parametrize("name", NAMES)
def test_lowers(name, monkeypatch):
    model, x, cond = ZOO[name]()
    variables = random_variables(model, x, cond)
    batch, optimizer = {"x": x, "cond": cond}, optax.adam(1e-3)
    state = jax.eval_shape(partial(training.create_state, model, optimizer, 0, batch))
    step = partial(training._train_step.__wrapped__, model=model, optimizer=optimizer, ema_decay=0.9)
    programs = [exported(partial(arjax.log_prob, model), variables, x, cond), exported(step, state, batch)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # by which the derived sampler chooses its branches
    sampler = partial(sampling._sample.__wrapped__, model, method="cached")
    plan = sampling.check_plan(model, noise_for(model, x.shape), None)
    programs.append(exported(lambda v, plan, cond: sampler(v, plan, cond, 1.0, None), variables, plan, cond))
    for program in programs:
        assert program.platforms == PLATFORMS
        assert "stablehlo" in program.mlir_module()


def test_the_branch_for_other_platforms_draws_the_same(monkeypatch):
    """The convolution along columns that a CPU replaces, run here in the parallel pass and in the sampler."""
    model = GatedPixelCNN(Bernoulli(), features=4, num_layers=2, head_features=4)
    noise = np.random.default_rng(0).random((4, 4, 5, 1), np.float32)
    variables = random_variables(model, np.zeros(noise.shape, np.int32))
    want = arjax.sample_from_noise(model, variables, noise)
    jax.clear_caches()
    chosen = []

    def default(*args, cpu, default):
        chosen.append(cpu is not default)
        return default(*args)

    monkeypatch.setattr("arjax.layers.conv.lax.platform_dependent", default)
    np.testing.assert_array_equal(arjax.sample_from_noise(model, variables, noise), want)
    nats = arjax.log_prob(model, variables, np.asarray(want))
    jax.clear_caches()
    monkeypatch.undo()
    np.testing.assert_allclose(arjax.log_prob(model, variables, np.asarray(want)), nats, rtol=1e-5)
    assert any(chosen)
