"""The cached sampler of any causal function: each rule alone, networks as others write them, refusals."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from plain_networks import NETWORKS, REFUSED, SEQUENCES
from rule_cases import FEATURES, PERIODIC, RULES, TOGETHER, w

from arjax.distributions import Categorical
from arjax.incremental import loops

FAST_COMPILATION = {"xla_backend_optimization_level": 0}


def shifted(x, axis=1):
    padding = [(int(i == axis), 0) for i in range(x.ndim)]
    return lax.slice_in_dim(jnp.pad(x, padding), 0, x.shape[axis], axis=axis)


def entered(x, axis=1):
    """Data `(batch, *event)`, shifted, as features `(batch, *event, FEATURES)` that depend on the position."""
    x = shifted(x, axis)[..., None]
    places = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    phase = np.arange(FEATURES).reshape([1] * (x.ndim - 1) + [-1])
    return jnp.sin(x * jnp.asarray(w(FEATURES)).reshape(phase.shape) * 3 + (places + 2 * phase).astype(np.float32))


def taught(function, x, **options):
    """The parameters of every conditional, as a sampler computes them that draws `x`."""

    def draw(params, x):
        return x, [params[..., i] for i in range(params.shape[-1])]

    def draw_together(function, x):
        params, aux = function(x)
        return *draw(params, x), aux

    if "block" in options:
        options["draw_row"] = draw_together
    return jnp.stack(loops.sample(function, jax.ShapeDtypeStruct(x.shape, x.dtype), draw, x, **options), -1)


# Each rule alone ------------------------------------------------------------------------------------------------


ROLLED = "what comes around from the end looks ahead, before it is overwritten"
MISSING = {
    "associative_scan": "a tree of strided halves that are put together again",
    "conv_of_late_positions": "a shift within the network gives later layers no room to look ahead",
    "late_by_roll": ROLLED,
    "late_by_roll among few": ROLLED,
    "late_by_roll_and_where": ROLLED,
    "late_by_roll_and_where among few": ROLLED,
    "row_by_row network": "a scan along the columns, of whole columns",
}
"""Causal functions that are refused, and why; " among few" and " network" say by which test."""


def cases(names, kind=""):
    """Parameters of a test, of which those in `MISSING` have to fail."""
    return [
        pytest.param(name, marks=[pytest.mark.xfail(strict=True, reason=MISSING[name + kind])])
        if name + kind in MISSING
        else name
        for name in names
    ]


def slow_but_for(quick, names):
    """Parameters of a test, all but the `quick` ones with the marker slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


OF_BLOCKS = (
    *("cumsum", "cumsum_of_integers", "late_by_20", "pad_both_and_crop", "halves_by_concatenation"),
    *("places_of_fewer", "dense_of_each_place", "triangular_mixing", "attention_keys_first", "attention_to_fewer"),
    *("conv_far", "conv_grouped", "conv_both_sides_cropped", "down_up_by_conv", "scan_of_pieces"),
)
"""Rules and memories that know of blocks."""


def data(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def compare(case, function, shapes, **options):
    """`function` at every position, by the sampler and in parallel."""

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def both(xs, arrays):
        return [(taught(lambda x: function(x, *arrays), x, **options), function(x, *arrays)) for x in xs]

    for shape, (ours, theirs) in zip(shapes, both([data(*shape) for shape in shapes], case.arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=str(shape))


@pytest.mark.parametrize("name", cases(RULES))
def test_rule(name):
    """The parameters at every position are those of the parallel pass, for all lengths."""
    case = RULES[name]

    def function(x, *arrays):
        return case.function(entered(x), *arrays)

    compare(case, function, [(2, n) for n in case.lengths])


@pytest.mark.parametrize("name", cases({name: case for name, case in RULES.items() if case.few}, " among few"))
def test_rule_among_few(name):
    """Within the loop over the rows of an image, whose columns are so few that they have no loop."""
    case = RULES[name]

    def function(x, *arrays):
        return jax.vmap(lambda h: case.function(h, *arrays), 1, 1)(entered(x, 2))

    compare(case, function, [(2, 2, 3)])


BLOCK = 5


@pytest.mark.parametrize("name", slow_but_for(OF_BLOCKS, [name for name in TOGETHER if name not in MISSING]))
def test_rule_in_blocks(name):
    """Where a step is a block of positions, of which the last one is shorter."""
    case = RULES[name]

    def function(x, *arrays):
        return case.function(entered(x), *arrays)

    if case.lengths == PERIODIC:
        with pytest.raises(ValueError, match=r"without strides is wanted .* in blocks, got one with a period of"):
            compare(case, function, [(2, 24)], block=BLOCK)
    else:
        compare(case, function, [(2, case.lengths[-1])], block=BLOCK)


# Networks as others write them ----------------------------------------------------------------------------------


class Real(NamedTuple):
    """Real data, by the quantiles of a logistic distribution."""

    def quantile(self, params, noise):
        return params[..., 0] + jnp.exp(params[..., 1]) * jax.scipy.special.logit(noise)


def naive(function, noise, draw, dtype):
    """One pass of the whole network for each dimension, in raster order."""

    def body(i, x):
        drawn = draw(function(x), noise)
        return jnp.where((jnp.arange(x[0].size) == i).reshape(1, *x.shape[1:]), drawn, x)

    return lax.fori_loop(0, noise[0].size, body, jnp.zeros(noise.shape, dtype))


def sampler(network):
    """`sampler(variables, noise)`, derived: the sample, and the components of the parameters."""
    output = Real() if network.levels is None else Categorical(network.levels)
    example = jax.ShapeDtypeStruct(network.shape, jnp.float32 if network.levels is None else jnp.int32)

    def draw(params, noise):
        x = output.quantile(params, noise)
        return x, (x, [params[..., i] for i in range(params.shape[-1])])

    return lambda variables, noise: loops.sample(functools.partial(network.apply, variables), example, draw, noise)


@pytest.mark.parametrize("name", cases(NETWORKS, " network"))
def test_network(name):
    """The same sample as by the naive sampler, which one teacher-forced pass gives back."""
    network = NETWORKS[name]()
    output, dtype = (Real(), jnp.float32) if network.levels is None else (Categorical(network.levels), jnp.int32)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def run(variables, noise):
        function = functools.partial(network.apply, variables)
        x, params = sampler(network)(variables, noise)
        again = function(x)
        expected = naive(function, noise, output.quantile, dtype)
        return x, expected, output.quantile(again, noise), jnp.stack(params, -1), again

    noise = np.random.default_rng(0).uniform(0.01, 0.99, network.shape).astype(np.float32)
    x, expected, again, ours, theirs = run(network.variables, noise)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    tolerance = 1e-4 if network.levels is None else 0
    np.testing.assert_allclose(x, expected, atol=tolerance)
    np.testing.assert_allclose(x, again, atol=tolerance)
    assert network.levels is None or len(np.unique(x)) == network.levels


@pytest.mark.parametrize(
    "name", slow_but_for(("gpt_by_einsum", "elman"), [name for name in SEQUENCES if not name.startswith("unet")])
)
def test_network_in_blocks(name):
    """After as many passes as a block has positions it is what one pass over the whole gives back."""
    network = NETWORKS[name]()
    output, dtype = (Real(), jnp.float32) if network.levels is None else (Categorical(network.levels), jnp.int32)

    def draw_block(function, noise):
        nothing = jnp.zeros(noise.shape, dtype)
        x = lax.fori_loop(0, noise.shape[1], lambda _, x: output.quantile(function(x)[0], noise), nothing)
        _, aux = function(x)
        return x, x, aux

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def run(variables, noise):
        function = functools.partial(network.apply, variables)
        example = jax.ShapeDtypeStruct(network.shape, dtype)
        x = loops.sample(function, example, lambda _, x: (x, x), noise, draw_row=draw_block, block=BLOCK)
        return x, output.quantile(function(x), noise)

    noise = np.random.default_rng(0).uniform(0.01, 0.99, network.shape).astype(np.float32)
    x, again = run(network.variables, noise)
    np.testing.assert_allclose(x, again, atol=1e-4 if network.levels is None else 0)


# Refusals -------------------------------------------------------------------------------------------------------


def trace(apply, variables, shape, **options):
    """The sampler, traced: what it hands out are the parameters of the first level."""

    def run(variables):
        def draw(params, plan):
            return plan, params[..., 0]

        x = jnp.zeros(shape, jnp.int32)
        return loops.sample(functools.partial(apply, variables), x, draw, x, **options)

    return jax.eval_shape(run, variables)


@pytest.mark.parametrize("name", cases(REFUSED, " refused"))
def test_refused(name):
    """In one line that names the operation, its module and the axis; and it is not causal indeed."""
    apply, variables, shape, words, causal = REFUSED[name]()
    with pytest.raises(loops.NotCausal) as error:
        trace(apply, variables, shape)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) <= 300
    for word in words:
        assert word in message, message
    assert causal or sees_later(jax.jit(apply), variables, shape)


def sees_later(apply, variables, shape):
    """Whether what comes after a dimension, or itself, changes its parameters."""
    rng = np.random.default_rng(0)
    x, other = rng.integers(0, 4, (2, *shape)).astype(np.int32)
    params = np.asarray(apply(variables, x))
    size = x[0].size
    for i in range(size):
        mixed = np.where((np.arange(size) >= i).reshape(shape[1:]), other, x)
        now = np.asarray(apply(variables, mixed))
        if not np.allclose(now.reshape(-1, size, 4)[:, i], params.reshape(-1, size, 4)[:, i], atol=1e-5):
            return True
    return False


def test_what_cannot_be_proved_may_be_assumed():
    """A traced mask."""
    apply, variables, shape, *_ = REFUSED["traced_mask"]()
    x = np.random.default_rng(0).integers(0, 4, shape).astype(np.int32)

    @jax.jit
    def both(variables, x):
        function = functools.partial(apply, variables)
        return taught(function, x, assume_causal=True), function(x)

    ours, theirs = both(variables, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# Speed ----------------------------------------------------------------------------------------------------------


def loop_copies(hlo, shape):
    """Copies of float arrays of `shape` in the bodies of `hlo`'s while loops and in what those call."""
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{$(.*?)^\}", hlo, re.S | re.M))
    pending = {body for text in computations.values() for body in re.findall(r"body=%?([\w.\-]+)", text)}
    assert pending, "the program has a loop"
    inside: set[str] = set()
    while pending:
        inside |= pending
        called = r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)"
        pending = {name for each in pending for name in re.findall(called, computations[each])} - inside
    copy = rf"= f32\[{','.join(map(str, shape))}\]\S* copy(?:-start)?\("
    return [found for name in inside for found in re.findall(copy, computations[name])]


@pytest.mark.parametrize(("name", "memory"), [("wavenet", (3, 16, 6)), ("gpt", (6, 40, 4))])
def test_no_copy_of_a_memory_in_the_loop(name, memory):
    """A memory that is copied at every step costs as much as computing again what it holds."""
    network = NETWORKS[name]()
    noise = jax.ShapeDtypeStruct(network.shape, jnp.float32)
    hlo = jax.jit(sampler(network)).lower(network.variables, noise).compile().as_text()
    assert f"f32[{','.join(map(str, memory))}]" in hlo, "the guard looks for an array that exists"
    assert not loop_copies(hlo, memory)
