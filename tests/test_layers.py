import re
from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from arjax import layers, sampling
from arjax.distributions import Categorical
from arjax.drawing import Plan
from arjax.layers import ABSENT, CausalConv, MaskedDense, one_hot, scale
from arjax.layers.conv import causal_conv
from arjax.layers.incremental import BLOCK, leave_below
from experiments.own_network import MyNetwork

FEATURES = 3
# The causal axis, the shape of an input, and (kernel_size, dilation) of many convolutions; a dilation of 30 lies
# beyond every event.
BANKS = {
    "time": (1, (2, 13, 2), (((1,), 1), *(((k,), d) for k in (2, 3, 4) for d in (1, 2, 5, 30)))),
    "rows": (1, (2, 13, 4, 2), (((3, 4), 1), ((4, 2), 2), ((2, 3), 30))),
    "columns": (2, (2, 4, 13, 2), (((1, 2), 1), ((3, 3), 1), ((4, 3), 2), ((1, 2), 30))),
}
# Lengths of the slices that an event arrives in: 6 is longer than some memories and shorter than others.
CHUNKS = {
    "steps": [1] * 13,
    "prefix_first": [6, 1, 6],
    "prefix_later": [1, 6, 6],
    "steps_around": [1, 1, 1, 6, 1, 1, 1, 1],
}


class Bank(nn.Module):
    """Many convolutions of one input, compiled together."""

    axis: int
    specs: tuple

    def setup(self):
        self.convs = [CausalConv(FEATURES, k, axis=self.axis, dilation=d) for k, d in self.specs]

    def __call__(self, x):
        return [conv(x) for conv in self.convs]


@partial(jax.jit, static_argnums=0)
def step(model, variables, cache, piece):
    """The incremental pass along the model's axis: along columns, the collection `present` is mutable as well."""
    mutable = ["cache", "present"][: model.axis]
    output, updates = model.apply(variables | {"cache": cache}, piece, mutable=mutable)
    return output, updates["cache"]


@pytest.fixture(scope="module", params=BANKS)
def bank(request):
    """Convolutions, their random kernels and biases, an input, the parallel pass, and an empty cache."""
    axis, shape, specs = BANKS[request.param]
    rng = np.random.default_rng(0)
    model = Bank(axis, specs)
    params = {
        f"convs_{i}": {
            "kernel": rng.normal(size=(*k, shape[-1], FEATURES)).astype(np.float32),
            "bias": rng.normal(size=FEATURES).astype(np.float32),
        }
        for i, (k, _) in enumerate(specs)
    }
    x = rng.normal(size=shape).astype(np.float32)
    variables = {"params": params}
    _, cache = jax.eval_shape(partial(step, model), variables, {}, x.take([0], axis))
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)
    return model, variables, x, jax.jit(model.apply)(variables, x), cache


def reference(x, kernel, bias, axis, dilation):
    """Tap by tap and position by position, in float64."""
    spatial = x.shape[1:-1]
    y = np.broadcast_to(bias.astype(np.float64), (*x.shape[:-1], bias.size)).copy()
    for tap in np.ndindex(*kernel.shape[:-2]):
        offsets = [t - size // 2 for t, size in zip(tap, kernel.shape, strict=False)]
        offsets[axis - 1] = (tap[axis - 1] - (kernel.shape[axis - 1] - 1)) * dilation
        for position in np.ndindex(*spatial):
            source = tuple(p + o for p, o in zip(position, offsets, strict=True))
            if all(0 <= s < n for s, n in zip(source, spatial, strict=True)):
                y[:, *position] += x[:, *source].astype(np.float64) @ kernel[tap]
    return y


def test_conv_against_a_reference(bank):
    model, variables, x, parallel, _ = bank
    for i, (spec, y) in enumerate(zip(model.specs, parallel, strict=True)):
        conv = variables["params"][f"convs_{i}"]
        expected = reference(x, conv["kernel"], conv["bias"], model.axis, spec[1])
        np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=str(spec))


def test_conv_implementations_agree(bank):
    """On an accelerator the parallel pass is a convolution, on a CPU a matrix product."""
    model, variables, x, parallel, _ = bank

    def other(*args, cpu, default):
        return default(*args)

    with mock.patch("jax.lax.platform_dependent", other):
        program = jax.jit(lambda *args: model.apply(*args)).lower(variables, x)
    assert program.as_text().count("stablehlo.convolution") == len(model.specs)
    for spec, y, other in zip(model.specs, parallel, program.compile()(variables, x), strict=True):
        np.testing.assert_allclose(other, y, atol=1e-5, err_msg=str(spec))


def test_strided_conv_implementations_agree():
    """Every second output along each axis, of both implementations."""
    x, kernel = (np.random.default_rng(i).normal(size=size).astype(np.float32) for i, size in
                 enumerate([(2, 6, 8, 2), (3, 3, 2, FEATURES)]))  # fmt: skip

    def strided(*args, cpu, default):
        return [implementation(*args) for implementation in (cpu, default)]

    for axis in (1, 2):
        model = Apply(lambda m, x, axis=axis: causal_conv(m, x, kernel, axis, stride=2))
        expected = reference(x, kernel, np.zeros(FEATURES), axis, 1)[:, ::2, ::2]
        with mock.patch("jax.lax.platform_dependent", strided):
            for y in jax.jit(lambda x, model=model: model.apply({}, x))(x):
                np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("lengths", CHUNKS.values(), ids=CHUNKS)
def test_conv_passes_agree(bank, lengths):
    model, variables, x, parallel, cache = bank
    axis, outputs = model.axis, []
    for piece in np.split(x, np.cumsum(lengths)[:-1], axis):
        output, cache = step(model, variables, cache, piece)
        outputs.append(output)
    for spec, y, pieces in zip(model.specs, parallel, zip(*outputs, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(pieces, axis), y, atol=1e-5, err_msg=str(spec))


def test_memory_is_as_long_as_the_past_that_is_seen(bank):
    """A window of the span; in time, for what is far away, a ring with room for a block; nothing for one tap."""
    model, *_, cache = bank
    for i, (kernel_size, dilation) in enumerate(model.specs):
        span = (kernel_size[model.axis - 1] - 1) * dilation
        memory = cache.get(f"convs_{i}", {}).get("memory")
        if span == 0:
            assert memory is None
        else:
            ring = len(kernel_size) == 1 and dilation >= BLOCK
            assert memory.shape[model.axis] == (-(-(span + BLOCK) // BLOCK) * BLOCK if ring else span)
            assert not memory.any()


def test_conv_refuses_another_rank():
    with pytest.raises(
        ValueError, match=r"\(3,\) wants \(batch, 1 axes, channels\), got x of shape \(2, 4, 4, 1\)"
    ):
        CausalConv(2, (3,)).init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)))


def test_conv_in_bfloat16_keeps_float32_parameters():
    conv = CausalConv(2, (3,), dilation=2, use_bias=False, dtype=jnp.bfloat16)
    x = jnp.ones((1, 6, 2))
    y, variables = jax.eval_shape(conv.init_with_output, jax.random.key(0), x)
    assert set(variables["params"]) == {"kernel"}
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert y.dtype == jnp.bfloat16


class Apply(nn.Module):
    """A function of a module and its input, as a module."""

    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(self, x)


def test_entry_shift():
    x = jnp.arange(12).reshape(1, 3, 4)
    over_rows, over_columns = (Apply(lambda m, x, a=axis: layers.entry_shift(m, x, a)) for axis in (1, 2))
    np.testing.assert_array_equal(over_rows.apply({}, x), [[[ABSENT] * 4, [0, 1, 2, 3], [4, 5, 6, 7]]])
    np.testing.assert_array_equal(
        over_columns.apply({}, x), [[[ABSENT, 0, 1, 2], [ABSENT, 4, 5, 6], [ABSENT, 8, 9, 10]]]
    )
    same, _ = over_rows.apply({}, x, mutable=["cache"])
    np.testing.assert_array_equal(same, x)
    whole_rows, _ = over_columns.apply({}, x, mutable=["cache"])
    np.testing.assert_array_equal(whole_rows, over_columns.apply({}, x))
    same, _ = over_columns.apply({}, x, mutable=["cache", "present"])
    np.testing.assert_array_equal(same, x)


def test_once():
    """A value of parameters is computed where no sampler has kept it, and is kept for a sampler that asks."""
    calls = []

    def value(module, x):
        return layers.once(module, "value", lambda: calls.append(x) or 2 * x)

    module, x = Apply(value), jnp.arange(3)
    np.testing.assert_array_equal(module.apply({}, x), [0, 2, 4])
    y, kept = module.apply({}, x, mutable=["cache", "fixed"])
    np.testing.assert_array_equal(y, [0, 2, 4])
    np.testing.assert_array_equal(kept["fixed"]["value"], y)
    assert len(calls) == 2
    np.testing.assert_array_equal(module.apply(kept, x + 1), y)
    assert len(calls) == 2
    assert not module.init(jax.random.key(0), x)


def test_from_above():
    """Row by row, and each row pixel by pixel, a layer sees its own features of the row above as in one pass."""

    def add_above(module, x):
        x = 10 * x
        leave_below(module, x)
        return x + layers.from_above(module, x, lambda row: row.at[:, :, 1:].add(row[:, :, :-1]))

    module, x = Apply(add_above), jnp.arange(1, 13).reshape(1, 3, 4, 1)
    rows = 10 * np.arange(1, 13).reshape(3, 4)
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    expected = rows + above + np.pad(above, ((0, 0), (1, 0)))[:, :-1]
    parallel = module.apply({}, x)
    np.testing.assert_array_equal(parallel[0, ..., 0], expected)
    present = {}
    for r in range(3):
        _, turn = module.apply(present, x[:, r : r + 1], mutable=["cache", "above"])
        left = []
        for c in range(4):
            at = jax.tree.map(lambda leaf, c=c: leaf[:, :, c : c + 1], {"above": turn["above"]})
            y, state = module.apply(at, x[:, r : r + 1, c : c + 1], mutable=["cache", "present"])
            left.append(state["present"])
            assert y.item() == expected[r, c]
        present = {"present": jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 2), *left)}


@pytest.mark.parametrize("axis", [1, 2])
def test_conv_sees_the_channels_of_the_present_that_its_mask_allows(axis):
    mask = np.array([[True, False, True], [False, False, True]])
    conv = CausalConv(3, (2, 2), axis=axis, present_mask=mask)
    rng = np.random.default_rng(0)
    kernel, x = (rng.normal(size=size).astype(np.float32) for size in ((2, 2, 2, 3), (2, 4, 5, 2)))
    bias = np.arange(3, dtype=np.float32)
    masked = kernel.copy()
    masked.swapaxes(0, axis - 1)[1] *= mask
    y = jax.jit(conv.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, reference(x, masked, bias, axis, 1), atol=1e-5)


@pytest.mark.parametrize(("count", "dilation"), [(1, 3), (2, 1), (3, 1), (3, 2), (2, 7)])
def test_delays(count, dilation):
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 5)
    delayed = Apply(lambda m, x: layers.delays(m, x, count, dilation, 1))
    expected = [
        [[t - d + 1 if t >= d else 0 for t in range(5)]] for d in [j * dilation for j in reversed(range(count))]
    ]
    np.testing.assert_array_equal(delayed.apply({}, x), expected)
    variables, stepped = {}, []
    for t in range(5):
        output, variables = delayed.apply(variables, x[:, t : t + 1], mutable=["cache"])
        stepped.append(np.stack(output))
    np.testing.assert_array_equal(np.concatenate(stepped, 2), expected)


def test_a_pass_is_incremental_exactly_when_cache_is_mutable():
    class Ask(nn.Module):
        axis: int = 1

        @nn.compact
        def __call__(self):
            return layers.is_incremental(self, self.axis)

    assert not Ask().apply({})
    assert not Ask().apply({}, mutable=["params"])[0]
    assert Ask().apply({}, mutable=["cache"])[0]
    assert Ask().apply({}, mutable=True)[0]
    assert not Ask().init_with_output(jax.random.key(0))[0]
    assert not Ask(axis=2).apply({}, mutable=["cache"])[0]
    assert not Ask(axis=2).apply({}, mutable=["present"])[0]
    assert Ask(axis=2).apply({}, mutable=["cache", "present"])[0]
    assert not Ask(axis=2).init_with_output(jax.random.key(0))[0]


def dtype_of(function, *args):
    return jax.eval_shape(function, *args).dtype


def test_one_hot():
    x = np.array([[ABSENT, 0, 1], [2, 3, 1]])
    expected = np.concatenate([np.zeros((1, 4)), np.eye(4)])[x + 1]
    np.testing.assert_array_equal(jax.jit(one_hot, static_argnums=1)(x, 4), expected)
    every = np.arange(256)
    np.testing.assert_array_equal(jax.jit(one_hot, static_argnums=1)(every, 256), np.eye(256))
    assert dtype_of(lambda x: one_hot(x, 4, jnp.bfloat16), x) == jnp.bfloat16


def test_one_hot_between_integers():
    x = np.float32(1.25)
    code, slope = jax.jit(lambda x: jax.jvp(lambda x: one_hot(x, 3), (x,), (x * 0 + 1,)))(x)
    np.testing.assert_array_equal(code, [0, 0.75, 0.25])
    np.testing.assert_array_equal(slope, [0, -1, 1])


def test_scale():
    x = np.array([[0], [2], [4], [ABSENT]])
    scaled = jax.jit(scale, static_argnums=1)
    np.testing.assert_allclose(scaled(x, 5), [[-1, 1], [0, 1], [1, 1], [0, 0]])
    colours = np.array([[0, 255, 51], [ABSENT, ABSENT, ABSENT]])
    np.testing.assert_allclose(scaled(colours, 256), [[-1, 1, -0.6, 1], [0, 0, 0, 0]], atol=1e-6)
    assert dtype_of(lambda x: scale(x, 5, jnp.bfloat16), x) == jnp.bfloat16
    slope = jax.jit(jax.jacobian(lambda x: scale(x, 5)))(np.float32([1.5]))
    np.testing.assert_allclose(slope, [[0.5], [0]])


@pytest.mark.parametrize("use_bias", [True, False])
def test_masked_dense(use_bias):
    rng = np.random.default_rng(0)
    kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,)))
    mask = rng.integers(0, 2, (4, 3)).astype(bool)
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    dense = MaskedDense(4, 3, use_bias=use_bias)
    params = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    (_, y), grads = jax.jit(
        jax.value_and_grad(lambda p: ((y := dense.apply({"params": p}, x, mask)).sum(), y), has_aux=True)
    )(params)
    np.testing.assert_allclose(y, x @ (kernel * mask) + use_bias * bias, atol=1e-5)
    np.testing.assert_array_equal(grads["kernel"] != 0, mask)
    half = dense.clone(dtype=jnp.bfloat16)
    assert dtype_of(half.apply, {"params": params}, x, mask) == jnp.bfloat16


# A cache that is copied in the loop costs as much as recomputing what it remembers, and no other test sees it.


def loop_copies(hlo, shape):
    """Copies of float arrays of `shape` in the bodies of `hlo`'s while loops and in what those call."""
    computations, name = {}, None
    for line in hlo.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[1]
            computations[name] = []
        elif name is not None:
            computations[name].append(line)
    called = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
    pending = {
        body for lines in computations.values() for body in re.findall(r"body=%?([\w.\-]+)", "\n".join(lines))
    }
    assert pending, "the program has a loop"
    inside = set()
    while pending:
        name = pending.pop()
        inside.add(name)
        pending |= set(called.findall("\n".join(computations[name]))) - inside
    copy = re.compile(rf"= f32\[{','.join(map(str, shape))}\]\S* copy(?:-start)?\(")
    return [line.strip() for name in sorted(inside) for line in computations[name] if copy.search(line)]


def test_no_copy_of_a_cache_in_the_sampling_loop():
    batch, features, length, dilations = 3, 5, 70, (2, 16, 32, 64)
    model = MyNetwork(Categorical(2), features=features, dilations=dilations)
    plan = Plan(jnp.zeros((batch, length)))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((batch, length), jnp.int32))
    lowered = sampling._sample.lower(model, variables, plan, None, jnp.float32(1), None, "cached")
    hlo = lowered.compile().as_text()
    for dilation in dilations[1:]:
        ring = (batch, dilation + BLOCK, features)
        assert f"f32[{','.join(map(str, ring))}]" in hlo, "the guard looks for an array that exists"
        assert not loop_copies(hlo, ring)


@pytest.mark.parametrize(("read_first", "copies"), [(False, False), (True, True)])
def test_the_guard_finds_a_copy(read_first, copies):
    """A slot that is read and then overwritten makes XLA copy the whole memory at every step."""
    slots = 65

    def body(carry, x):
        memory, t = carry
        if read_first:
            past = lax.dynamic_slice_in_dim(memory, t % slots, 1, 1)
        memory = lax.dynamic_update_slice_in_dim(memory, x[:, None], t % slots, 1)
        if not read_first:
            past = lax.dynamic_slice_in_dim(memory, (t + 1) % slots, 1, 1)
        return (memory, t + 1), past

    scan = jax.jit(lambda memory, xs: lax.scan(body, (memory, jnp.int32(0)), xs)[1])
    hlo = scan.lower(jnp.zeros((3, slots, 5)), jnp.zeros((100, 3, 5))).compile().as_text()
    assert bool(loop_copies(hlo, (3, slots, 5))) == copies
