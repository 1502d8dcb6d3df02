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
from arjax.decoding import Plan
from arjax.distributions import Categorical
from arjax.layers import ABSENT, CausalConv, MaskedDense, one_hot, scale
from arjax.layers.conv import causal_conv
from arjax.layers.dense import dense
from experiments.own_network import MyNetwork

FEATURES = 3
# The causal axis, the shape of an input, and (kernel_size, dilation) of many convolutions; a dilation of 30 lies
# beyond every event.
BANKS = {
    "time": (1, (2, 13, 2), (((1,), 1), *(((k,), d) for k in (2, 3, 4) for d in (1, 2, 5, 30)))),
    "rows": (1, (2, 13, 4, 2), (((3, 4), 1), ((4, 2), 2), ((2, 3), 30))),
    "columns": (2, (2, 4, 13, 2), (((1, 2), 1), ((3, 3), 1), ((4, 3), 2), ((1, 2), 30))),
}


class Bank(nn.Module):
    """Many convolutions of one input, compiled together."""

    axis: int
    specs: tuple

    def setup(self):
        self.convs = [CausalConv(FEATURES, k, axis=self.axis, dilation=d) for k, d in self.specs]

    def __call__(self, x):
        return [conv(x) for conv in self.convs]


@pytest.fixture(scope="module", params=BANKS)
def bank(request):
    """Convolutions, their random kernels and biases, an input, and what they make of it."""
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
    return model, variables, x, jax.jit(model.apply)(variables, x)


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
    model, variables, x, parallel = bank
    for i, (spec, y) in enumerate(zip(model.specs, parallel, strict=True)):
        conv = variables["params"][f"convs_{i}"]
        expected = reference(x, conv["kernel"], conv["bias"], model.axis, spec[1])
        np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=str(spec))


def test_conv_implementations_agree(bank):
    """On an accelerator it is a convolution, on a CPU along columns a matrix product."""
    model, variables, x, parallel = bank

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
        expected = reference(x, kernel, np.zeros(FEATURES), axis, 1)[:, ::2, ::2]
        with mock.patch("jax.lax.platform_dependent", strided):
            for y in jax.jit(partial(causal_conv, axis=axis, stride=2))(x, kernel):
                np.testing.assert_allclose(y, expected, atol=1e-5)


def test_conv_refuses_another_rank():
    with pytest.raises(
        ValueError,
        match=r"\(batch, 1 axes, channels\) is wanted for a kernel of \(3,\), got shape \(2, 4, 4, 1\)",
    ):
        CausalConv(2, (3,)).init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)))


def test_conv_in_bfloat16_keeps_float32_parameters():
    conv = CausalConv(2, (3,), dilation=2, use_bias=False, dtype=jnp.bfloat16)
    x = jnp.ones((1, 6, 2))
    y, variables = jax.eval_shape(conv.init_with_output, jax.random.key(0), x)
    assert set(variables["params"]) == {"kernel"}
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert y.dtype == jnp.bfloat16


def test_entry_shift():
    x = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    over_rows, over_columns = (layers.entry_shift(x, axis) for axis in (1, 2))
    np.testing.assert_array_equal(over_rows, [[[ABSENT] * 4, [0, 1, 2, 3], [4, 5, 6, 7]]])
    np.testing.assert_array_equal(over_columns, [[[ABSENT, 0, 1, 2], [ABSENT, 4, 5, 6], [ABSENT, 8, 9, 10]]])
    np.testing.assert_array_equal(layers.shift(x.astype(np.float32), 1)[:, 0], [[0] * 4])


@pytest.mark.parametrize("table", [[[4, 4], [0, 4], [1, 0], [4, 1]], [[0, 4], [0, 1], [2, 0], [1, 3]]])
def test_neighbours(table):
    """Of one distance, of several, and none."""
    x, table = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32), np.array(table)
    expected = np.pad(x, ((0, 0), (0, 1), (0, 0)))[:, table].reshape(2, 4, 6)
    np.testing.assert_array_equal(jax.jit(partial(layers.neighbours, table=table))(x), expected)


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


def test_dense_in_both_modes():
    """As `x @ kernel`, the kernel's gradient a product of matrices however many axes `x` has."""
    x, kernel, x_dot, kernel_dot = (
        np.random.default_rng(i).normal(size=size).astype(np.float32)
        for i, size in enumerate([(2, 3, 5, 4), (4, 6)] * 2)
    )

    def found(f):
        forward = jax.jvp(f, (x, kernel), (x_dot, kernel_dot))
        y, transposed = jax.vjp(f, x, kernel)
        second = jax.grad(lambda x, kernel: jnp.sum(jax.grad(lambda k: jnp.sum(f(x, k) ** 2))(kernel) ** 2))
        each = jax.vmap(jax.grad(lambda x, k: jnp.sum(f(x, k) ** 2), 1), (0, None))(x, kernel)
        return forward, transposed(y), second(x, kernel), each

    for a, b in zip(jax.tree.leaves(found(dense)), jax.tree.leaves(found(jnp.matmul)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    gradient = jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(dense(x, kernel) ** 2)))(kernel)
    assert "f32[30,4]" in str(gradient)


@pytest.mark.parametrize("use_bias", [True, False])
def test_masked_dense(use_bias):
    rng = np.random.default_rng(0)
    kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,)))
    mask = rng.integers(0, 2, (4, 3)).astype(bool)
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    layer = MaskedDense(4, 3, use_bias=use_bias)
    params = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    (_, y), grads = jax.jit(
        jax.value_and_grad(lambda p: ((y := layer.apply({"params": p}, x, mask)).sum(), y), has_aux=True)
    )(params)
    np.testing.assert_allclose(y, x @ (kernel * mask) + use_bias * bias, atol=1e-5)
    np.testing.assert_array_equal(grads["kernel"] != 0, mask)
    half = layer.clone(dtype=jnp.bfloat16)
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
        ring = (batch, dilation, features)
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
