"""Settings of JAX that people use, and their own transformations, around every model of the zoo."""

import functools
from functools import partial

import chex
import jax
import numpy as np
import optax
import pytest
from helpers import random_variables
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from zoo import ZOO

import arjax
from arjax import training

NAMES = list(ZOO)
METHODS = ("naive", "cached", "fixed_point")
OPTIMIZER = optax.adam(1e-3)


@functools.cache
def setup(name):
    model, x, cond = ZOO[name]()
    return model, random_variables(model, x, cond), x, cond


def batch_of(x, cond):
    return {"x": x} if cond is None else {"x": x, "cond": cond}


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def wide(tree):
    """Arrays of float64 and int64, as numpy makes them."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float64 if leaf.dtype == np.float32 else np.int64), tree)


@pytest.mark.parametrize("name", NAMES)
def test_x64(name):
    """Parameters, likelihoods and samples have the same dtypes with 64 bits as without, whatever is given."""
    model, x, cond = ZOO[name]()
    noise = jax.ShapeDtypeStruct(x.shape, np.float64)
    with jax.enable_x64(True):
        state = jax.eval_shape(partial(training.create_state, model, OPTIMIZER, 0), batch_of(x, cond))
        assert dtypes(state.params) == {"float32"}
        step = partial(training.train_step, model=model, optimizer=OPTIMIZER, ema_decay=0.9)
        after, metrics = jax.eval_shape(step, state, batch_of(x, cond))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        assert dtypes(metrics) == {"float32"}
        variables = {"params": state.params}
        given = wide((x, cond))
        assert dtypes(jax.eval_shape(partial(arjax.log_prob, model), variables, *given)) == {"float32"}
        for method in METHODS:
            sampler = partial(arjax.sample_from_noise, model, method=method)
            assert dtypes(jax.eval_shape(sampler, variables, noise, given[1])) == {"int32"}


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
    """Forward and reverse mode agree, and no NaN arises on the way; second derivatives can be traced."""
    model, variables, x, cond = setup(name)
    direction = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape).astype("f"), variables)

    def nats(variables):
        return -arjax.log_prob(model, variables, x, cond).sum()

    @jax.jit
    def both_modes(variables, direction):
        return jax.jvp(nats, (variables,), (direction,))[1], jax.grad(nats)(variables)

    with jax.debug_nans(True):
        forwards, gradient = both_modes(variables, direction)
    backwards = sum(jax.tree.leaves(jax.tree.map(lambda a, b: np.vdot(np.asarray(a), b), gradient, direction)))
    assert float(forwards) == pytest.approx(backwards, rel=1e-3, abs=1e-3)

    def curvature(variables, direction):
        return jax.jvp(jax.grad(nats), (variables,), (direction,))[1]

    shapes = jax.eval_shape(curvature, variables, direction)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)


@pytest.mark.parametrize("name", NAMES)
def test_sharded_batches(name):
    """In a user's own `jit`, with the batch on two devices and no NaN on the way."""
    model, variables, x, cond = setup(name)
    noise = np.random.default_rng(2).random(x.shape, np.float32)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    given = jax.device_put((x, noise, cond), NamedSharding(mesh, PartitionSpec("batch")))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def everything(variables, x, noise, cond):
        samples = [arjax.sample_from_noise(model, variables, noise, cond, method=method) for method in METHODS]
        return (
            arjax.log_prob(model, variables, x, cond),
            samples,
            model.output.quantile(model.apply(variables, samples[0], cond), noise),
        )

    with jax.debug_nans(True), jax.set_mesh(mesh):
        log_probs, samples, given_back = everything(variables, *given)
    assert len(log_probs.sharding.device_set) == 2
    chex.assert_trees_all_equal(*samples, given_back)
