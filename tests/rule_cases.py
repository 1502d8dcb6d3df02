"""Functions for the rules of the cached sampler: each of one operation, of features of a sequence."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FEATURES = 4


@functools.cache
def w(*shape):
    """Weights or constants, the same for a shape."""
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(size=shape) / np.sqrt(max(shape[0], 2))).astype(np.float32)


class Case(NamedTuple):
    """`function(h, *arrays)` of features `(batch, length, FEATURES)`, in place; the arrays are traced."""

    function: Callable[..., Any]
    arrays: tuple[np.ndarray, ...] = ()
    lengths: tuple[int, ...] = (1, 2, 33)
    few: bool = True
    """Whether it holds among few positions too, which have no loop."""


PERIODIC = (8, 24)


def periodic(function, *arrays, lengths=PERIODIC):
    return Case(function, arrays, lengths, few=False)


def loop_only(function, *arrays, lengths=(1, 2, 7, 33)):
    return Case(function, arrays, lengths, few=False)


UNARY = {
    **{
        name: getattr(jnp, name)
        for name in ("abs", "arctan", "cbrt", "ceil", "cos", "cosh", "exp", "exp2", "expm1")
    },
    **{
        name: getattr(jnp, name) for name in ("floor", "negative", "round", "sign", "sin", "sinh", "square", "tan")
    },
    **{name: getattr(jnp, name) for name in ("tanh", "arcsinh", "isfinite")},
    **{name: getattr(lax, name) for name in ("erf", "erfc", "logistic", "stop_gradient")},
    **{
        name: getattr(jax.nn, name)
        for name in ("relu", "gelu", "silu", "softplus", "elu", "selu", "mish", "relu6")
    },
    "acos": lambda h: jnp.arccos(h / 2),
    "asin": lambda h: jnp.arcsin(h / 2),
    "atanh": lambda h: jnp.arctanh(h / 2),
    "acosh": lambda h: jnp.arccosh(h + 3),
    "log": lambda h: jnp.log(h + 2),
    "log2": lambda h: jnp.log2(h + 2),
    "log1p": lambda h: jnp.log1p(h / 2),
    "sqrt": lambda h: jnp.sqrt(h + 1.5),
    "rsqrt": lambda h: lax.rsqrt(h + 1.5),
    "lgamma": lambda h: lax.lgamma(h + 2),
    "digamma": lambda h: lax.digamma(h + 2),
    "erf_inv": lambda h: lax.erf_inv(h / 2),
    "integer_pow": lambda h: h**3,
    "reduce_precision": lambda h: lax.reduce_precision(h, 5, 10),
    "bfloat16": lambda h: h.astype(jnp.bfloat16).astype(jnp.float32),
}

BINARY = {
    **{
        name: getattr(jnp, name)
        for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "arctan2")
    },
    **{
        name: getattr(jnp, name)
        for name in ("greater", "greater_equal", "less", "less_equal", "equal", "logaddexp")
    },
    "power": lambda a, b: jnp.power(abs(a) + 1, b),
    "rem": lambda a, b: lax.rem(a, b + 3),
    "nextafter": jnp.nextafter,
    "where": lambda a, b: jnp.where(a > b, a, b * b),
    "clip": lambda a, b: jnp.clip(a, b - 1, b),
    "logic": lambda a, b: ((a > 0) & (b > 0)) | ~(a > b) ^ (b < 0),
}


def every(functions, *operands):
    """The results of all `functions`, side by side."""
    return jnp.concatenate([f(*operands).astype(jnp.float32) for f in functions.values()], -1)


def integers_of(h):
    return jnp.round(3 * h).astype(jnp.int32)


def bits(h):
    n = integers_of(h)
    out = [
        n << 2,
        n >> 1,
        lax.shift_right_logical(n, 3),
        lax.population_count(n),
        n ^ 5,
        n & 3,
        n | 4,
        ~n,
        n // 2,
        n % 3,
    ]
    return jnp.concatenate(out, -1).astype(jnp.float32)


def places(h, *trailing):
    """A constant for each position, `(1, length, *trailing)`."""
    return w(1, 64, *trailing)[:, : h.shape[1]]


def heads(h):
    """`(batch, length, 2, FEATURES // 2)`."""
    return h.reshape(*h.shape[:-1], 2, -1)


def before(h):
    """`[t, s]`: whether position s is not after t."""
    return np.tri(h.shape[1], dtype=bool)


def conv(h, kernel, padding, dims=("NHC", "HIO", "NHC"), **options):
    return lax.conv_general_dilated(h, kernel, (1,) * (h.ndim - 2), padding, dimension_numbers=dims, **options)


def steps(f, h, first):
    """A recurrence over positions by `lax.scan`, time first."""
    _, y = lax.scan(f, first, jnp.swapaxes(h, 0, 1))
    return jnp.swapaxes(y, 0, 1)


def attention(h, mask=None, bias=None, q="bqhd,bkhd->bhqk", v="bhqk,bkhd->bqhd"):
    query, key = heads(jnp.tanh(h @ w(4, 4))), heads(h)
    scores = jnp.einsum(q, query, key) * 2
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, -jnp.inf)
    if bias is not None:
        scores = scores + bias[None, None]
    return jnp.einsum(v, jax.nn.softmax(scores, -1), heads(h + 1)).reshape(h.shape)


def keys_first(h):
    """Scores with the axis of the keys before that of the queries."""
    scores = jnp.einsum("bkhd,bqhd->bhkq", heads(h), heads(jnp.cos(h)))
    scores = jnp.where(before(h).T[None, None], scores, -1e10)
    return jnp.einsum("bhkq,bkhd->bqhd", jax.nn.softmax(scores, -2), heads(h)).reshape(h.shape)


def positions_first(h):
    """Time, batch, features throughout."""
    h = jnp.swapaxes(h, 0, 1)
    scores = jnp.einsum("qbd,kbd->bqk", jnp.cos(h), h) + jnp.where(np.tri(len(h)) > 0, 0, -jnp.inf)[None]
    return jnp.einsum("bqk,kbd->bqd", jax.nn.softmax(scores), h)


@jax.custom_jvp
def cubed(x):
    return x**3


cubed.defjvp(lambda x, t: (cubed(x[0]), 3 * x[0] ** 2 * t[0]))


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def lstm_like(carry, x):
    h, c = carry
    gates = h @ w(4, 8) + x @ w(4, 8)
    f, g = jnp.split(gates, 2, -1)
    c = jax.nn.sigmoid(f) * c + jnp.tanh(g)
    return (jnp.tanh(c), c), h + c


def with_state(f, h):
    zeros = jnp.zeros((h.shape[0], FEATURES))
    return steps(f, h, (zeros, zeros + 1))


def scan_of_pieces(h):
    """Two arrays and a constant for each position, a carry that counts, a constant of the body."""
    c = jnp.asarray(w(1, FEATURES))

    def body(carry, x):
        n, total = carry
        a, (b, place) = x
        total = total * 0.5 + a * place + c
        return (n + 1, total), {"y": total + b * n.astype(jnp.float32)}

    a, b, constants = jnp.swapaxes(h, 0, 1), jnp.swapaxes(jnp.cos(h), 0, 1), np.moveaxis(places(h, 4), 1, 0)
    carry = jnp.int32(0), jnp.zeros((h.shape[0], FEATURES))
    return jnp.swapaxes(lax.scan(body, carry, (a, (b, jnp.asarray(constants))))[1]["y"], 0, 1)


def scan_of_layers(h, kernels):
    return lax.scan(lambda h, k: (h + jnp.tanh(h @ k), None), h, kernels)[0]


def scan_of_recurrences(h, kernels):
    """Layers, each of them a recurrence over positions."""

    def layer(h, kernel):
        def step(c, x):
            c = jnp.tanh(c @ kernel + x)
            return c, c

        return h + steps(step, h, jnp.zeros((h.shape[0], FEATURES))), None

    return lax.scan(layer, h, kernels)[0]


def masked_kernel(*shape, taps):
    """Where the first spatial axis of a kernel is not zero."""
    return jnp.asarray(np.isin(np.arange(shape[0]), taps)[:, None, None], jnp.float32)


def down(h):
    """Every second index, of two positions each."""
    return h.reshape(h.shape[0], h.shape[1] // 2, 2 * h.shape[2])


def late(h, by):
    """Shifted by `by` positions more."""
    return jnp.pad(h, ((0, 0), (by, 0), (0, 0)))[:, : h.shape[1]]


APART: dict[str, Any] = {
    # one element from one element
    "unary": lambda h: every(UNARY, h),
    "binary": lambda h: every(BINARY, h, jnp.roll(jnp.cos(h), 1, -1)),
    "binary_with_constant": lambda h: every(BINARY, h, jnp.broadcast_to(w(1, 1, 4), h.shape)),
    "binary_with_places": lambda h: every(BINARY, jnp.broadcast_to(places(h, 4), h.shape), h),
    "scalar": lambda h: 2 - h / 3,
    "bits": bits,
    "bitcast": lambda h: (lax.bitcast_convert_type(h, jnp.int32) >> 20).astype(jnp.float32),
    "complex": lambda h: jnp.real(lax.complex(h, jnp.cos(h)) * jnp.conj(lax.complex(jnp.sin(h), h))),
    "places_of_one_feature": lambda h: h + places(h, 1),
    "where_of_places": lambda h: jnp.where((np.arange(h.shape[1]) % 3 == 0)[None, :, None], h, places(h, 4)),
    "iota": lambda h: h * lax.broadcasted_iota(jnp.float32, h.shape, 1),
    "traced_weights": Case(lambda h, a, b: jnp.tanh(h @ a) + b, (w(4, 4), w(1, 1, 4))),
    "constant": lambda h: jnp.broadcast_to(places(h, 4), h.shape),
    "noise": lambda h: h * jax.random.normal(jax.random.key(0), h.shape),
    # shapes
    "broadcast_new_axes": lambda h: (h[:, :, None] * w(1, 1, 3, 4)).sum(2),
    "broadcast_before": lambda h: (jnp.broadcast_to(h, (3, *h.shape)) * w(3, 1, 1, 4)).sum(0),
    "reshape_features": lambda h: (heads(h) * w(1, 1, 2, 1)).reshape(h.shape),
    "reshape_ones": lambda h: h.reshape(1, h.shape[0], 1, h.shape[1], 4).reshape(h.shape),
    "reshape_batch": lambda h: (
        jnp.tanh(h.swapaxes(0, 1).reshape(h.shape[1], -1)).reshape(h.shape[1], -1, 4).swapaxes(0, 1)
    ),
    "transpose": lambda h: (h.transpose(1, 2, 0) * w(1, 4, 1)).transpose(2, 0, 1),
    "squeeze": lambda h: jnp.squeeze(h[..., :1], -1)[..., None],
    "expand_dims": lambda h: jnp.expand_dims(h, (0, 3)).squeeze((0, 3)),
    "features_reversed": lambda h: h[..., ::-1],
    "features_sorted": lambda h: jnp.sort(h, -1),
    "features_argsort": lambda h: jnp.argsort(h, -1).astype(jnp.float32),
    "features_top_k": lambda h: jnp.concatenate(
        jax.tree.map(lambda a: a.astype(jnp.float32), lax.top_k(h, 2)), -1
    ),
    "features_rolled": lambda h: jnp.roll(h, 1, -1),
    "features_repeated": lambda h: jnp.repeat(h, 2, -1) + jnp.tile(h, (1, 1, 2)),
    "split": lambda h: functools.reduce(jnp.multiply, jnp.split(h, 2, -1)),
    "stack": lambda h: jnp.stack([h, jnp.broadcast_to(places(h, 4), h.shape), 2 * h], 2).sum(2),
    "unpacked": lambda h: functools.reduce(jnp.multiply, list(heads(h).transpose(2, 0, 1, 3))),
    "stack_first": lambda h: jnp.stack([h, h * h]).max(0),
    "concatenate_features": lambda h: jnp.concatenate([h, jnp.broadcast_to(w(1, 1, 3), (*h.shape[:2], 3)), h], -1),
    "concatenate_places": lambda h: jnp.concatenate([h, jnp.broadcast_to(places(h, 2), (*h.shape[:2], 2))], -1),
    "pad_features": lambda h: jnp.pad(h, ((0, 0), (0, 0), (1, 2)), constant_values=0.5),
    "pad_features_between": lambda h: lax.pad(h, jnp.float32(2), ((0, 0, 0), (0, 0, 0), (1, -1, 2))),
    "slice_features": lambda h: h[..., 1:4:2],
    # reductions over other axes
    "sum_mean_var": lambda h: jnp.concatenate([f(h, -1, keepdims=True) for f in (jnp.sum, jnp.mean, jnp.var)], -1),
    "max_min_prod": lambda h: jnp.concatenate([f(h, -1, keepdims=True) for f in (jnp.max, jnp.min, jnp.prod)], -1),
    "any_all": lambda h: jnp.stack([f(h > 0, -1).astype(jnp.float32) for f in (jnp.any, jnp.all)], -1),
    "argmax_argmin": lambda h: jnp.stack([f(h, -1).astype(jnp.float32) for f in (jnp.argmax, jnp.argmin)], -1),
    "softmax": lambda h: (
        jax.nn.softmax(h, -1) + jax.nn.log_softmax(h, -1) + jax.nn.logsumexp(h, -1, keepdims=True)
    ),
    "layer_norm": lambda h: (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-3),
    "sum_over_batch": lambda h: h + h.sum(0, keepdims=True),
    "cumsum_features": lambda h: jnp.cumsum(h, -1) + lax.cumsum(h, 2, reverse=True) + jnp.cumprod(h, -1),
    "pool_features": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (1, 1, 2), (1, 1, 1), "SAME"),
}
"""What keeps positions apart."""

TOGETHER: dict[str, Any] = {
    # running totals over positions
    "cumsum": lambda h: jnp.cumsum(h, 1),
    "cumprod": lambda h: jnp.cumprod(h, 1),
    "cummax": lambda h: lax.cummax(h, 1),
    "cummin": lambda h: lax.cummin(h, 1),
    "cumlogsumexp": lambda h: lax.cumlogsumexp(h, 1),
    "cumsum_of_integers": lambda h: (jnp.cumsum(integers_of(h), 1) - lax.cummax(integers_of(h), 1)).astype(
        jnp.float32
    ),
    "cumsum_of_late": lambda h: jnp.cumsum(late(h, 2), 1),
    "running_mean": lambda h: jnp.cumsum(h, 1) / np.arange(1, h.shape[1] + 1, dtype=np.float32)[None, :, None],
    "associative_scan": loop_only(lambda h: lax.associative_scan(jnp.add, h, axis=1)),
    # along positions
    "late_by_1": lambda h: late(h, 1) + h,
    "late_by_20": lambda h: late(h, 20) * h,
    "late_twice": lambda h: late(jnp.tanh(late(h, 1) + 1), 3) + late(h, 4),
    "late_by_concatenation": lambda h: jnp.concatenate([jnp.ones_like(h[:, :1]), h[:, :-1]], 1),
    "late_by_two_by_concatenation": loop_only(
        lambda h: jnp.concatenate([w(1, 2, 4).repeat(h.shape[0], 0), h[:, :-2]], 1), lengths=(3, 7, 33)
    ),
    "late_by_set": lambda h: jnp.zeros_like(h).at[:, 1:].set(h[:, :-1]),
    "late_by_roll": lambda h: jnp.roll(h, 1, 1).at[:, 0].set(0.5),
    "late_by_roll_and_where": lambda h: jnp.where(
        (np.arange(h.shape[1]) > 0)[None, :, None], jnp.roll(h, 1, 1), 0
    ),
    "pad_with_value": lambda h: jnp.pad(h, ((0, 0), (3, 0), (0, 0)), constant_values=0.5)[:, : h.shape[1]],
    "pad_both_and_crop": lambda h: jnp.pad(jnp.exp(h), ((0, 0), (4, 4), (0, 0)))[:, 2 : h.shape[1] + 2],
    "pad_negative": lambda h: lax.pad(h, jnp.float32(1), ((0, 0, 0), (2, -2, 0), (0, 0, 0))),
    "window_stacked": lambda h: (jnp.stack([late(h, i) for i in range(4)], -1) * w(1, 1, 4, 4)).max(-1),
    "crop_by_dynamic_slice": loop_only(
        lambda h: lax.dynamic_slice_in_dim(jnp.pad(h, ((0, 0), (2, 0), (0, 0))), 0, h.shape[1], 1)
    ),
    "maximum_of_window": lambda h: lax.reduce_window(
        h, -jnp.inf, lax.max, (1, 3, 1), (1, 1, 1), ((0, 0), (2, 0), (0, 0))
    ),
    "mean_of_window": lambda h: (
        lax.reduce_window(h, 0.0, lax.add, (1, 3, 1), (1, 1, 1), ((0, 0), (2, 0), (0, 0))) / 3
    ),
    "difference_of_totals": lambda h: jnp.cumsum(h, 1) - late(jnp.cumsum(h, 1), 3),
    "halves_by_concatenation": loop_only(
        lambda h: jnp.concatenate([jnp.tanh(h[:, :3]), h[:, 3:] * late(h, 3)[:, 3:]], 1), lengths=(4, 7, 33)
    ),
    # look-ups
    "embedding": lambda h: jnp.asarray(w(9, 3))[(integers_of(h) + 3)[..., 0]],
    "take_fill": lambda h: jnp.take(w(5, 3), integers_of(h)[..., 0], 0, mode="fill", fill_value=0.25),
    "take_clip": lambda h: jnp.take(w(5, 3), integers_of(h)[..., 0], 0, mode="clip"),
    "one_hot": lambda h: jax.nn.one_hot(integers_of(h)[..., 0], 4) @ w(4, 3),
    "embedding_of_places": lambda h: h + jnp.asarray(w(64, 4))[jnp.arange(h.shape[1])][None],
    "take_along_features": lambda h: jnp.take_along_axis(h, jnp.argmax(h, -1, keepdims=True), -1),
    "features_by_index": lambda h: h[..., np.array([3, 0, 0])],
    "feature_by_number": loop_only(lambda h: h[..., 2][..., None] + lax.dynamic_index_in_dim(h, 1, 2)),
    "dynamic_slice_of_features": loop_only(lambda h: lax.dynamic_slice_in_dim(h, 1, 2, axis=2)),
    "set_a_feature": lambda h: h.at[..., 1].set(0.5).at[..., 2].add(1.0),
    "places_by_index": lambda h: h[:, np.maximum(np.arange(h.shape[1]) - 3, 0)],
    "places_by_scattered_index": lambda h: h[:, np.arange(h.shape[1]) // 2],
    "places_by_table": lambda h: h[:, np.maximum(np.arange(h.shape[1])[:, None] - np.arange(3), 0)].sum(2),
    "places_of_fewer": loop_only(lambda h: h[:, :-3][:, np.arange(h.shape[1]) // 9], lengths=(7, 33)),
    # products
    "dense": lambda h: h @ w(4, 3),
    "dense_from_the_left": lambda h: jnp.einsum("gf,btf->btg", w(3, 4), h),
    "dense_time_last": lambda h: jnp.einsum("gf,bft->bgt", w(3, 4), h.transpose(0, 2, 1)).transpose(0, 2, 1),
    "dense_of_each_place": lambda h: jnp.einsum("btf,tfg->btg", h, places(h, 4, 3)[0]),
    "dense_of_each_head": lambda h: jnp.einsum("bthd,hde->bthe", heads(h), w(2, 2, 3)).reshape(*h.shape[:2], 6),
    "product_of_places": lambda h: jnp.einsum("btf,btg->btfg", h, jnp.cos(h)).reshape(*h.shape[:2], 16),
    "inner_product_of_places": lambda h: jnp.einsum("btf,btf->bt", h, jnp.cos(h))[..., None],
    "bilinear": lambda h: jnp.einsum("bti,ijk,btj->btk", h, w(4, 4, 3), h),
    "product_over_batch": lambda h: (
        jnp.einsum("btf,btg->tfg", h, h).reshape(1, h.shape[1], 16).repeat(h.shape[0], 0)
    ),
    "triangular_mixing": lambda h: jnp.einsum("ts,bsf->btf", w(64, 64)[: h.shape[1], : h.shape[1]] * before(h), h),
    # attention
    "attention_where": lambda h: attention(h, mask=before(h)),
    "attention_bias": lambda h: attention(h, bias=np.where(before(h), 0, -1e9).astype(np.float32)),
    "attention_infinite_bias": lambda h: attention(h, bias=np.where(before(h), 0, -np.inf).astype(np.float32)),
    "attention_mask_of_iota": lambda h: attention(
        h,
        mask=lax.broadcasted_iota(jnp.int32, before(h).shape, 0)
        >= lax.broadcasted_iota(jnp.int32, before(h).shape, 1),
    ),
    "attention_tril": lambda h: attention(h, mask=jnp.tril(jnp.ones((h.shape[1], h.shape[1]))) > 0),
    "attention_local": lambda h: attention(h, mask=before(h) & ~np.tri(h.shape[1], k=-3, dtype=bool)),
    "attention_distance_bias": lambda h: attention(
        h,
        before(h),
        bias=-np.abs(np.subtract.outer(np.arange(h.shape[1]), np.arange(h.shape[1]))).astype(np.float32),
    ),
    "attention_to_fewer": loop_only(
        lambda h: (
            jax.nn.softmax(
                jnp.where(
                    np.tri(h.shape[1], h.shape[1] - 3, dtype=bool)[None],
                    jnp.einsum("btf,bsf->bts", jnp.cos(h), h[:, :-3]),
                    -jnp.inf,
                )
            )
            @ jnp.tanh(h[:, :-3])
        ),
        lengths=(7, 33),
    ),
    "attention_keys_first": keys_first,
    "attention_positions_first": positions_first,
    "attention_of_late_keys": lambda h: (
        jnp.einsum("btf,bsf->bts", h, late(h, 2)) * before(h).astype(np.float32)[None] @ late(jnp.cos(h), 2)
    ),
    "attention_multi_query": lambda h: jnp.einsum(
        "bhqk,bkd->bqhd",
        jax.nn.softmax(
            jnp.where(before(h)[None, None], jnp.einsum("bqhd,bkd->bhqk", heads(h), h[..., :2]), -1e30)
        ),
        h[..., 2:],
    ).reshape(h.shape),
    "dot_product_attention": lambda h: jax.nn.dot_product_attention(
        heads(h), heads(h + 1), heads(h), is_causal=True
    ).reshape(h.shape),
    "linear_attention_masked": lambda h: jnp.einsum(
        "bqk,bkf->bqf", jnp.where(before(h)[None], jnp.einsum("bqf,bkf->bqk", h, jnp.cos(h)), 0), h
    ),
    "linear_attention_times_mask": lambda h: (
        (jnp.einsum("bqf,bkf->bqk", h, jnp.cos(h)) * before(h).astype(np.float32)[None]) @ h
    ),
    "linear_attention_cumsum": lambda h: jnp.einsum(
        "btf,btfg->btg", h, jnp.cumsum(jnp.einsum("btf,btg->btfg", jnp.exp(h), h), 1)
    ),
    # convolutions
    "conv": loop_only(lambda h: conv(h, w(3, 4, 5), [(2, 0)])),
    "conv_of_one_tap": loop_only(lambda h: conv(h, w(1, 4, 5), [(0, 0)])),
    "conv_dilated": loop_only(lambda h: conv(h, w(3, 4, 5), [(8, 0)], rhs_dilation=(4,))),
    "conv_far": loop_only(lambda h: conv(h, w(2, 4, 5), [(20, 0)], rhs_dilation=(20,))),
    "conv_padded_before": loop_only(lambda h: conv(jnp.pad(h, ((0, 0), (2, 0), (0, 0))), w(3, 4, 5), [(0, 0)])),
    "conv_both_sides_cropped": loop_only(lambda h: conv(h, w(3, 4, 5), [(2, 2)])[:, : h.shape[1]]),
    "conv_grouped": loop_only(lambda h: conv(h, w(3, 2, 6), [(2, 0)], feature_group_count=2)),
    "conv_depthwise": loop_only(lambda h: conv(h, w(3, 1, 8), [(4, 0)], feature_group_count=4, rhs_dilation=(2,))),
    "conv_channels_first": loop_only(
        lambda h: conv(h.transpose(0, 2, 1), w(3, 4, 5), [(2, 0)], ("NCH", "HIO", "NCH")).transpose(0, 2, 1)
    ),
    "conv_kernel_turned": loop_only(lambda h: conv(h, w(5, 4, 3), [(2, 0)], ("NHC", "OIH", "NHC"))),
    "conv_masked": loop_only(lambda h, k: conv(h, k * masked_kernel(5, taps=(0, 1, 2)), "SAME"), w(5, 4, 3)),
    "conv_masked_by_where": loop_only(
        lambda h, k: conv(h, jnp.where(masked_kernel(5, taps=(0, 2)) > 0, k, 0), "SAME"), w(5, 4, 3)
    ),
    "conv_of_late_positions": loop_only(lambda h: conv(late(h, 1), w(3, 4, 5), "SAME")),
    "conv_with_places_as_batch": loop_only(
        lambda h: conv(h.transpose(1, 0, 2), w(3, 4, 5), "SAME").transpose(1, 0, 2)
    ),
    "conv_in_the_plane": loop_only(
        lambda h: conv(h[..., None], w(2, 3, 1, 2), [(1, 0), (1, 1)], ("NHWC", "HWIO", "NHWC")).reshape(
            *h.shape[:2], 8
        )
    ),
    "conv_in_the_plane_turned": loop_only(
        lambda h: (
            conv(h.transpose(0, 2, 1)[..., None], w(3, 2, 1, 2), [(1, 1), (1, 0)], ("NHWC", "HWIO", "NHWC"))
            .transpose(0, 2, 1, 3)
            .reshape(*h.shape[:2], 8)
        )
    ),
    "convolve": loop_only(
        lambda h: jax.vmap(jax.vmap(lambda s: jnp.convolve(s, w(3))[: h.shape[1]], 0, 0), 2, 2)(h), lengths=(7, 33)
    ),
    # strides
    "down_up_by_reshape": periodic(lambda h: (down(late(h, 1)) @ w(8, 8)).reshape(h.shape)),
    "down_up_by_repeat": periodic(lambda h: jnp.repeat(down(late(h, 1)) @ w(8, 4), 2, 1)),
    "down_up_by_broadcast": periodic(
        lambda h: jnp.broadcast_to((down(late(h, 1)) @ w(8, 4))[:, :, None], (*down(h).shape[:2], 2, 4)).reshape(
            h.shape
        )
    ),
    "down_up_by_conv": periodic(
        lambda h: conv(
            lax.conv_general_dilated(h, w(2, 4, 4), (2,), [(1, 0)], dimension_numbers=("NHC", "HIO", "NHC")),
            w(2, 4, 3),
            [(1, 1)],
            lhs_dilation=(2,),
        )
    ),
    "down_up_by_conv_transpose": periodic(
        lambda h: lax.conv_transpose(
            lax.conv_general_dilated(h, w(4, 4, 4), (2,), [(3, 0)], dimension_numbers=("NHC", "HIO", "NHC")),
            w(2, 4, 3),
            (2,),
            "VALID",
        )
    ),
    "down_by_slice_up_by_interior_padding": periodic(
        lambda h: lax.pad(late(h, 1)[:, 1::2], jnp.float32(0), ((0, 0, 0), (0, 1, 1), (0, 0, 0)))
    ),
    "down_by_4_up_by_image_resize": periodic(lambda h: jax.image.resize(late(h, 3)[:, 3::4], h.shape, "nearest")),
    "down_twice_up_twice": periodic(
        lambda h: jnp.repeat(
            jnp.repeat(down(late(down(late(h, 1)) @ w(8, 4), 1)) @ w(8, 4), 2, 1) + down(late(h, 1)) @ w(8, 4),
            2,
            1,
        )
    ),
    "pool_and_repeat": periodic(lambda h: jnp.repeat(late(h, 1).reshape(h.shape[0], -1, 2, 4).mean(2), 2, 1)),
    "pool_by_window": periodic(
        lambda h: jnp.repeat(lax.reduce_window(late(h, 1), -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID"), 2, 1)
    ),
    "cumsum_of_blocks": periodic(lambda h: jnp.repeat(jnp.cumsum(down(late(h, 1)), 1) @ w(8, 4), 2, 1)),
    "scan_of_blocks": periodic(lambda h: jnp.repeat(with_state(lstm_like, down(late(h, 1)) @ w(8, 4)), 2, 1)),
    "blocks_seen_by_position": periodic(
        lambda h: jnp.where((np.arange(h.shape[1]) % 2 == 0)[None, :, None], h, jnp.repeat(h[:, ::2], 2, 1))
    ),
    # recurrences and calls
    "scan": loop_only(lambda h: with_state(lstm_like, h)),
    "scan_late": loop_only(lambda h: with_state(lstm_like, late(h, 2)) * h),
    "scan_of_pieces": loop_only(scan_of_pieces),
    "scan_unrolled": loop_only(
        lambda h: jnp.swapaxes(
            lax.scan(lambda c, x: (c * 0.5 + x, c), jnp.zeros((h.shape[0], 4)), jnp.swapaxes(h, 0, 1), unroll=2)[
                1
            ],
            0,
            1,
        )
    ),
    "scan_under_vmap": loop_only(
        lambda h: jax.vmap(lambda s: lax.scan(lambda c, x: (c * 0.5 + x, c * x), jnp.zeros(4), s)[1])(h)
    ),
    "scan_by_map": loop_only(
        lambda h: jnp.swapaxes(lax.map(lambda x: jnp.tanh(x @ w(4, 4)), jnp.swapaxes(h, 0, 1)), 0, 1)
    ),
    "scan_over_layers": Case(scan_of_layers, (w(3, 4, 4),)),
    "fori_over_layers": Case(
        lambda h, k: lax.fori_loop(0, 3, lambda i, h: h + jnp.tanh(h @ k[i]), h), (w(3, 4, 4),)
    ),
    "scan_over_layers_of_convs": loop_only(
        lambda h, k: lax.scan(lambda h, k: (h + conv(h, k, [(2, 0)]), None), h, k)[0], w(2, 3, 4, 4)
    ),
    "scan_over_layers_with_results": Case(
        lambda h, k: lax.scan(lambda h, k: (h @ k, h), h, k)[1].sum(0), (w(3, 4, 4),)
    ),
    "scan_over_recurrences": loop_only(scan_of_recurrences, w(3, 4, 4)),
    "custom_jvp": lambda h: cubed(h),
    "custom_vjp": lambda h: doubled(h),
    "remat": lambda h: jax.checkpoint(lambda h: jnp.tanh(h @ w(4, 4)))(h),
    "jit": loop_only(lambda h: jax.jit(lambda h: conv(h, w(3, 4, 4), [(2, 0)]))(h)),
    "platform": lambda h: lax.platform_dependent(h, cpu=lambda h: h * 2, default=lambda h: h * 2),
    "cond_of_constant": lambda h: lax.cond(True, lambda h: h * 2, lambda h: h, h),
    "cond_of_traced": Case(
        lambda h, c: lax.cond(c[0] > 0, lambda h: h * 2, lambda h: h, h), (np.ones(1, np.float32),)
    ),
    "gradient": lambda h: jax.grad(lambda h: (jnp.tanh(h @ w(4, 4)) ** 2).sum())(h),
    "barrier": lambda h: lax.optimization_barrier((h, h * 2))[1],
}


RULES = {name: case if isinstance(case, Case) else Case(case) for name, case in TOGETHER.items()} | {
    name: case if isinstance(case, Case) else Case(case, lengths=(1, 7)) for name, case in APART.items()
}
