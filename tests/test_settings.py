"""Settings of JAX and Flax that people use, and their own transformations, around every model of the zoo.

Where a dtype or a trace is the question nothing is compiled; what is compiled is so without optimisation.
"""

import contextlib
import dataclasses
import functools
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict, freeze
from helpers import noise_for, random_variables
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from zoo import CONDITIONALS, ONE_OF_EACH, ZOO, slow_but_for_one_of_each

import arjax
from arjax import checkpoints, likelihood, orderings, training
from arjax.distributions import Bernoulli, Categorical
from arjax.layers import Classes, Deconvolution, Local, Several, Upsampling
from arjax.models import MADE, ChainRule, GatedPixelCNN, Transformer, WaveNet
from arjax.modules import hashable

NAMES = list(ZOO)
FAST = [name for name in ONE_OF_EACH if name in CONDITIONALS or name == "depth"]  # it has a hierarchy inside
METHODS = ("naive", "cached", "fixed_point")
OPTIMIZER = optax.adam(1e-3)
SEQUENCES = [name for name in NAMES if ZOO[name]()[1].ndim == 2 and not hasattr(ZOO[name]()[0], "generate")]
quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
train_step = partial(training.train_step, optimizer=OPTIMIZER, ema_decay=0.9)


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


@contextlib.contextmanager
def on_two_devices():
    """A mesh of two devices, and a function that lays the batch of some arrays over them."""
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield lambda tree: jax.device_put(tree, NamedSharding(mesh, PartitionSpec("batch")))


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES, FAST))
def test_derivatives(name):
    """Forward and reverse mode agree, and no NaN arises on the way; second derivatives can be traced."""
    model, variables, x, cond = setup(name)
    direction = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape).astype("f"), variables)

    def nats(variables):
        return -arjax.log_prob(model, variables, x, cond).sum()

    @quickly
    def both_modes(variables, direction):
        return jax.jvp(nats, (variables,), (direction,))[1], jax.grad(nats)(variables)

    def curvature(variables, direction):
        return jax.jvp(jax.grad(nats), (variables,), (direction,))[1]

    with jax.debug_nans(True):
        forwards, gradient = both_modes(variables, direction)
    backwards = sum(jax.tree.leaves(jax.tree.map(lambda a, b: np.vdot(np.asarray(a), b), gradient, direction)))
    assert float(forwards) == pytest.approx(backwards, rel=1e-3, abs=1e-3)
    shapes = jax.eval_shape(curvature, variables, direction)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES, FAST))
def test_transformations(name):
    """Everything that takes a model in a user's `jit`, `vmap` and `scan`, with frozen variables and 64 bits.

    Parameters, likelihoods and samples have the same dtypes with 64 bits as without, whatever is given.
    """
    model, x, cond = ZOO[name]()
    batches = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), batch_of(x, cond))

    def everything(states, batches, x, noise, cond):
        variables = freeze({"params": states.params})
        one, state = jax.tree.map(lambda leaf: leaf[0], (variables, states))
        likelihoods = [
            jax.vmap(lambda variables, function=function: function(model, variables, x, cond))(variables)
            for function in (arjax.log_prob, arjax.bits_per_dim)
        ]
        samplers = [partial(arjax.sample_from_noise, model, one, method=method) for method in METHODS]
        samples = [jax.vmap(lambda noise, sampler=sampler: sampler(noise, cond))(noise) for sampler in samplers]
        after, metrics = jax.lax.scan(partial(train_step, model=model), state, batches)
        nats = jax.lax.map(lambda batch: training.eval_step(model, state.params, batch, {})[0], batches)
        return [*likelihoods, nats], samples, arjax.score(model, one, x, cond), (state, after), metrics

    with jax.enable_x64(True):
        state = jax.eval_shape(partial(training.create_state, model, OPTIMIZER, 0), batch_of(x, cond))
        states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), state)
        noise = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), np.float64), noise_for(model, x.shape)
        )
        shapes = jax.eval_shape(everything, states, batches, wide(x), noise, wide(cond))
    likelihoods, samples, score, (before, after), metrics = shapes
    chex.assert_shape(likelihoods, (2, len(x)))
    for sample in samples:
        chex.assert_trees_all_equal_shapes(sample, noise)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert isinstance(score, FrozenDict)
    assert dtypes((state.params, likelihoods, score, metrics)) == {"float32"}
    assert dtypes(samples) == {"int32"}


@pytest.mark.parametrize("name", slow_but_for_one_of_each(SEQUENCES))
def test_streaming_in_transformations(name):
    """`start` and `extend` in a user's `scan`, whose carry is the state; frozen variables, 64 bits."""
    model, variables, x, cond = setup(name)
    hop = {"wavenet_local": 6, "gru": 2}.get(name, 1)
    cond = jax.tree.map(lambda leaf: leaf[:, :1] if leaf.ndim > 2 else leaf, cond)

    def stream(variables, x, noise):
        state = arjax.start(model, variables, x, cond)
        return jax.lax.scan(lambda state, noise: arjax.extend(model, variables, state, noise, cond), state, noise)

    noise = jax.ShapeDtypeStruct((2, len(x), hop), np.float64)
    with jax.enable_x64(True):
        _, samples = jax.eval_shape(stream, freeze(variables), wide(x[:, :hop]), noise)
    assert (samples.shape, samples.dtype) == (noise.shape, jnp.int32)


@pytest.mark.parametrize("name", slow_but_for_one_of_each(NAMES, FAST))
def test_sharded_batches(name):
    """In a user's own `jit`, with the batch on two devices and no NaN on the way."""
    model, variables, x, cond = setup(name)
    noise = noise_for(model, x.shape, 2)

    @quickly
    def everything(variables, x, noise, cond):
        cached, fixed = (
            arjax.sample_from_noise(model, variables, noise, cond, method=method)
            for method in ("cached", "fixed_point")
        )
        data = cached["x"] if hasattr(model, "parts") else cached
        return arjax.log_prob(model, variables, data, cond), cached, fixed

    with jax.debug_nans(True), on_two_devices() as shard:
        log_probs, cached, fixed = everything(variables, *shard((x, noise, cond)))
    assert len(log_probs.sharding.device_set) == 2
    chex.assert_trees_all_equal(cached, fixed)


@pytest.mark.parametrize("name", ["made", "wavenet_local", "pixelsnail_zigzag_mixture"])
def test_sharded_training(name):
    """A step on a batch that lies on two devices makes the parameters of the same step on one."""
    model, variables, x, cond = setup(name)
    params, optimizer = variables["params"], optax.sgd(1e-3)
    state = training.TrainState(jnp.int32(0), params, optimizer.init(params), params, jax.random.key(0))
    step = quickly(partial(training.train_step, model=model, optimizer=optimizer, ema_decay=0.9))
    want, _ = step(state, batch_of(x, cond))
    with on_two_devices() as shard:
        got, metrics = step(state, shard(batch_of(x, cond)))
    assert len(metrics["nats"].sharding.device_set) == 2
    chex.assert_trees_all_close(got.params, want.params, rtol=1e-4, atol=1e-6)


def test_sharded_streaming():
    model, variables, x, cond = setup("transformer")
    noise = np.random.default_rng(3).random(x.shape, np.float32)
    want = arjax.sample_from_noise(model, variables, noise, cond)
    with on_two_devices() as shard:
        prompt, rest, cond = shard((want[:, :3], noise[:, 3:], cond))
        _, got = arjax.extend(model, variables, arjax.start(model, variables, prompt, cond), rest, cond)
    np.testing.assert_array_equal(got, want[:, 3:])


def test_matmul_precision():
    model, variables, x, cond = setup("transformer")
    exact = arjax.log_prob(model, variables, x, cond)
    with jax.default_matmul_precision("bfloat16"):
        chex.assert_trees_all_close(arjax.log_prob(model, variables, x, cond), exact, rtol=0.02)
        assert arjax.sample_from_noise(model, variables, np.zeros(x.shape, "f"), cond).dtype == jnp.int32


class Own(nn.Module):
    """A user's network, with fields of all kinds."""

    output: Any
    widths: Any
    offsets: Any
    names: Any

    @nn.compact
    def __call__(self, x, cond=None, *, train=False):
        total = self.param(
            "total", nn.initializers.normal(), (sum(self.widths), self.output.num_params), jnp.float32
        )
        shift = np.asarray(self.offsets).sum() + self.names["shift"][0]
        return jnp.broadcast_to(total.sum(0) + shift, (*x.shape, self.output.num_params))


@dataclasses.dataclass
class Thawed:
    """An output distribution that is not frozen."""

    levels: int = 2
    num_params: int = 1


def wavenet(conditioning, dilations=(1, 2)):
    return WaveNet(
        Categorical(3), dilations, features=4, gate_features=4, skip_features=4, conditioning=conditioning
    )


def gated(conditioning):
    return GatedPixelCNN(Categorical(3), features=4, num_layers=2, head_features=4, conditioning=conditioning)


SEQUENCE, IMAGE = np.zeros((2, 4), np.int32), np.zeros((2, 4, 4, 1), np.int32)
FRAMES, LABELS = np.ones((2, 2, 3), np.float32), np.array([0, 2])
LOOSE = {
    "dilations": (wavenet(None, [1, 2]), wavenet(None), SEQUENCE, None),
    "numbers": (wavenet(None, np.array([1, 2])), wavenet(None), SEQUENCE, None),
    "factors": (wavenet(Upsampling(3, [2])), wavenet(Upsampling(3, (2,))), SEQUENCE, FRAMES),
    "parts": (
        wavenet(Several([Classes(np.int64(3)), Upsampling(3, jnp.array([2]))])),
        wavenet(Several((Classes(3), Upsampling(3, (2,))))),
        SEQUENCE,
        (LABELS, FRAMES),
    ),
    "maps": (gated(Deconvolution(3, 4, 4, [4])), gated(Deconvolution(3, 4, 4, (4,))), IMAGE, FRAMES[:, 0]),
    "ordering": (
        MADE((4,), Categorical(3), [6], ordering=orderings.raster((4,))),
        MADE((4,), Categorical(3), (6,), ordering=(0, 1, 2, 3)),
        SEQUENCE,
        None,
    ),
    "parents": (
        ChainRule(4, Categorical(3), [4], parents=[[], [0], [1], [0, 2]]),
        ChainRule(4, Categorical(3), (4,), parents=((), (0,), (1,), (0, 2))),
        SEQUENCE,
        None,
    ),
    "patterns": (
        Transformer((4,), Categorical(3), 0, 4, 1, 1, patterns=[Local(jnp.int32(2))]),
        Transformer((4,), Categorical(3), 0, 4, 1, 1, patterns=(Local(2),)),
        SEQUENCE,
        None,
    ),
    "own": (
        Own(Bernoulli(), [1, 2], np.ones((2, 2)), {"shift": [1, 2], "unused": {3}}),
        Own(Bernoulli(), (1, 2), ((1.0, 1.0), (1.0, 1.0)), freeze({"shift": (1, 2), "unused": frozenset({3})})),
        SEQUENCE,
        None,
    ),
}


@pytest.mark.parametrize("name", LOOSE)
def test_lists_in_fields(name):
    """The very numbers of the model with tuples, and nothing is compiled for the second time."""
    loose, strict, x, cond = LOOSE[name]
    assert hashable(loose) == hashable(loose) == strict
    assert hashable(hashable(loose)) == strict
    variables = random_variables(strict, x, cond)
    batch, noise = batch_of(x, cond), np.full(x.shape, 0.7, np.float32)

    def everything(model):
        yield arjax.log_prob(model, variables, x, cond)
        yield arjax.sample_from_noise(model, variables, noise, cond)
        yield training.eval_step(model, variables["params"], batch, {})[0]

    want = list(everything(strict))
    jitted = likelihood._log_prob, arjax.sampling._sample, training._eval_step
    sizes = [function._cache_size() for function in jitted]
    chex.assert_trees_all_equal(list(everything(loose)), want)
    assert [function._cache_size() for function in jitted] == sizes


def test_lists_in_training_and_checkpoints(tmp_path):
    loose, strict, x, _ = LOOSE["ordering"]
    state = training.create_state(loose, OPTIMIZER, 0, {"x": x})
    state, metrics = train_step(state, {"x": x}, model=loose)
    compiled = training._train_step._cache_size()
    state, _ = train_step(state, {"x": x}, model=strict)
    assert training._train_step._cache_size() == compiled
    checkpoints.save(tmp_path, state, [{"step": 2, "valid_nats": float(metrics["nats"])}], loose)
    chex.assert_trees_all_equal(checkpoints.load_params(tmp_path, strict), state.ema_params)
    frozen = state.replace(params=freeze(state.params))
    restored, _ = checkpoints.restore(tmp_path, frozen, loose)
    chex.assert_trees_all_equal(restored.params, frozen.params)


@pytest.mark.parametrize("name", NAMES)
def test_hashable_models_stay(name):
    model = ZOO[name]()[0]
    assert hashable(model) is model


def test_what_cannot_be_hashed():
    with pytest.raises(ValueError, match=r"^WaveNet.output: .* is wanted .*, got Thawed$"):
        arjax.log_prob(WaveNet(Thawed()), {}, SEQUENCE)
    with pytest.raises(ValueError, match=r"WaveNet.conditioning.parts.factors: .*, got .*Tracer"):
        jax.eval_shape(lambda n: hashable(wavenet(Several([Upsampling(3, [n])]))), 2)
