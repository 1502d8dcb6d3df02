"""Networks as people write them elsewhere: parallel passes in plain JAX and Flax, nothing of arjax.

`NETWORKS` are causal; `REFUSED` are not, or cannot be proved to be.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from helpers import random_variables
from jax import lax


class Network(NamedTuple):
    """`apply(variables, x)`: the parameters of every conditional of `x` of a `shape`, a softmax over `levels`.

    Without `levels` the data are real and the parameters are a mean and the logarithm of a scale.
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    shape: tuple[int, ...]
    levels: int | None = 4


def linen(module, shape, levels=4, scale=0.3):
    dtype = jnp.float32 if levels is None else jnp.int32
    variables = random_variables(module, jax.ShapeDtypeStruct(shape, dtype), scale=scale)
    return Network(module.apply, variables, shape, levels)


def weights(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)).astype(np.float32)
        for name, shape in shapes.items()
    }


# Sequences ------------------------------------------------------------------------------------------------------


def shift_right(x):
    """The ids shifted by one, with 0 as the id of the start and all others one higher."""
    return jnp.pad(x + 1, ((0, 0), (1, 0)))[:, :-1]


class WaveNet(nn.Module):
    classes: int = 4
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1, 2)

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(self.classes + 1, 6)(shift_right(x))
        skips = 0.0
        for dilation in self.dilations:
            gate = nn.Conv(6, (2,), kernel_dilation=dilation, padding="CAUSAL")(h)
            value = nn.Conv(6, (2,), kernel_dilation=dilation, padding="CAUSAL")(h)
            z = nn.sigmoid(gate) * nn.tanh(value)
            skips = skips + nn.Conv(8, (1,))(z)
            h = h + nn.Conv(6, (1,))(z)
        return nn.Conv(self.classes, (1,))(nn.relu(nn.Conv(8, (1,))(nn.relu(skips))))


class Recurrent(nn.Module):
    cell: type[nn.RNNCellBase]
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(self.classes + 1, 5)(shift_right(x))
        h = nn.RNN(self.cell(7))(h)
        h = nn.RNN(self.cell(6))(nn.LayerNorm()(h))
        return nn.Dense(self.classes)(h)


def elman(params, x):
    """Time first, the recurrence by hand, the last layer within it."""

    def step(h, token):
        h = jnp.tanh(params["embedding"][token] + h @ params["recurrent"])
        return h, h @ params["out"]

    tokens = jnp.concatenate([jnp.full((x.shape[0], 1), 4), x[:, :-1]], axis=1)
    _, logits = lax.scan(step, jnp.zeros((x.shape[0], 6)), tokens.T)
    return logits.transpose(1, 0, 2)


def rwkv(params, x):
    """Time mixing with decaying sums, each example by `vmap`."""

    def example(x):
        h = params["embedding"][jnp.concatenate([jnp.zeros(1, jnp.int32), x[:-1] + 1])]
        previous = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        mixed = 0.5 * (h + previous)
        k, v, r = mixed @ params["k"], mixed @ params["v"], h @ params["r"]
        decay = jnp.exp(-jnp.exp(params["decay"]))

        def step(state, kv):
            total, norm = state
            total, norm = decay * total + jnp.exp(kv[0]) * kv[1], decay * norm + jnp.exp(kv[0])
            return (total, norm), total / norm

        _, y = lax.scan(step, (jnp.zeros(6), jnp.zeros(6)), (k, v))
        return (jax.nn.sigmoid(r) * y) @ params["out"]

    return jax.vmap(example)(x)


class GPT(nn.Module):
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        length = x.shape[1]
        h = nn.Embed(self.classes + 1, 8)(shift_right(x))
        h = h + self.param("positions", nn.initializers.normal(), (1, length, 8))
        mask = nn.make_causal_mask(jnp.zeros((x.shape[0], length)))
        for _ in range(2):
            h = h + nn.MultiHeadDotProductAttention(num_heads=2, deterministic=True)(nn.LayerNorm()(h), mask=mask)
            h = h + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(h))))
        return nn.Dense(self.classes)(nn.LayerNorm()(h))


def gpt_by_einsum(params, x):
    """Layers scanned over stacked parameters, one projection for q, k and v, an additive mask of -inf."""
    n = x.shape[1]
    bias = jnp.where(jnp.tril(jnp.ones((n, n), bool)), 0.0, -jnp.inf)

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)

    def block(h, layer):
        q, k, v = jnp.split(norm(h) @ layer["qkv"], 3, axis=-1)
        q, k, v = (a.reshape(*a.shape[:2], 2, 4) for a in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2 + bias[None, None]
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        h = h + y.reshape(h.shape) @ layer["proj"]
        return h + jax.nn.gelu(norm(h) @ layer["up"]) @ layer["down"], None

    h = params["embedding"][shift_right(x)] + params["positions"][None, :n]
    h, _ = lax.scan(block, h, params["layers"])
    return norm(h) @ params["embedding"][1:].T


def rotary(x):
    """`(b, t, h, d)` turned by its position."""
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] / 10 ** jnp.arange(0, 1, 2 / x.shape[-1])[None]
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    """RMS norm, rotary positions, grouped queries, `jax.nn.dot_product_attention`, SwiGLU."""

    @nn.compact
    def __call__(self, h, _):
        y = nn.RMSNorm()(h)
        q = nn.DenseGeneral((4, 4), use_bias=False)(y)
        k, v = (nn.DenseGeneral((2, 4), use_bias=False)(y) for _ in range(2))
        y = jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        h = h + nn.DenseGeneral(8, (-2, -1), use_bias=False)(y)
        y = nn.RMSNorm()(h)
        return h + nn.Dense(8)(nn.silu(nn.Dense(12)(y)) * nn.Dense(12)(y)), None


class Llama(nn.Module):
    """Rematerialised layers by `nn.scan`."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 8)(shift_right(x))
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        h, _ = layers()(h, None)
        return nn.Dense(4)(nn.RMSNorm()(h))


class LocalAttention(nn.Module):
    """Each position attends to the `window` latest ones, which are stacked by shifts."""

    window: int = 4

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 8)(shift_right(x))
        n = h.shape[1]
        padded = jnp.pad(h, ((0, 0), (self.window - 1, 0), (0, 0)))
        near = jnp.stack([padded[:, i : i + n] for i in range(self.window)], axis=2)
        there = np.arange(n)[:, None] + np.arange(self.window) >= self.window - 1
        q, k, v = nn.Dense(8)(h), nn.Dense(8)(near), nn.Dense(8)(near)
        scores = jnp.einsum("btd,btwd->btw", q, k)
        scores = jnp.where(there[None], scores, jnp.finfo(jnp.float32).min)
        h = h + jnp.einsum("btw,btwd->btd", nn.softmax(scores), v)
        return nn.Dense(4)(nn.relu(h))


class LinearAttention(nn.Module):
    """Running sums of feature maps of keys times values, and of keys."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 8)(shift_right(x))
        q, k, v = (nn.DenseGeneral((2, 4))(h) for _ in range(3))
        q, k = nn.elu(q) + 1, nn.elu(k) + 1
        state = jnp.cumsum(jnp.einsum("bthd,bthe->bthde", k, v), axis=1)
        y = jnp.einsum("bthd,bthde->bthe", q, state) / jnp.einsum("bthd,bthd->bth", q, jnp.cumsum(k, 1))[..., None]
        return nn.Dense(4)(h + y.reshape(h.shape))


class TCN(nn.Module):
    """Weight-normalised, dilated, padded on both sides and chomped."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 6)(shift_right(x))
        for dilation in (1, 2, 4):
            y = h
            for _ in range(2):
                conv = nn.Conv(6, (3,), kernel_dilation=dilation, padding=[(2 * dilation, 2 * dilation)])
                y = nn.relu(nn.WeightNorm(conv)(y)[:, : -2 * dilation])
            h = nn.relu(h + y)
        return nn.Dense(4)(h)


class Depthwise(nn.Module):
    """Separable convolutions with squeeze gates over the features, as in mobile networks."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 8)(shift_right(x))
        for _ in range(2):
            y = nn.Conv(8, (4,), padding="CAUSAL", feature_group_count=8)(h)
            y = nn.swish(nn.GroupNorm(2, reduction_axes=(-1,))(y))
            y = nn.Conv(8, (1,))(y) * nn.sigmoid(nn.Dense(8)(y.mean(-1, keepdims=True)))
            h = h + y
        return nn.Dense(4)(h)


class AveragePooling(nn.Module):
    """The mean of everything so far, and of the five latest positions by two running sums."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 6)(shift_right(x))
        n = x.shape[1]
        total = jnp.cumsum(h, axis=1)
        mean = total / jnp.arange(1, n + 1, dtype=jnp.float32)[None, :, None]
        latest = (total - jnp.pad(total, ((0, 0), (5, 0), (0, 0)))[:, :n]) / 5
        return nn.Dense(4)(nn.relu(nn.Dense(8)(jnp.concatenate([h, mean, latest], -1))))


class UNet(nn.Module):
    """Two levels of strides; the coarse levels are shifted where they are made."""

    up: str

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(self.level(nn.Embed(5, 6)(shift_right(x)), 2))

    def level(self, h, depth):
        h = h + nn.relu(nn.Conv(6, (2,), padding="CAUSAL")(h))
        if depth == 0:
            return h
        y = nn.Conv(6, (2,), strides=2, padding=[(1, 0)])(h)
        return h + self.upsampled(self.level(y, depth - 1))

    def upsampled(self, h):
        b, n, d = h.shape
        if self.up == "dense":
            return nn.Dense(2 * d)(h).reshape(b, 2 * n, d)
        if self.up == "transpose":
            return nn.ConvTranspose(d, (2,), strides=(2,), padding="VALID")(h)
        return nn.Conv(d, (2,), padding="CAUSAL")(jnp.repeat(h, 2, axis=1))


class ImageAsSequence(nn.Module):
    """An image in raster order: a sequence, whose positions know their rows and columns."""

    width: int = 5

    @nn.compact
    def __call__(self, x):
        i = np.arange(x.shape[1])
        h = nn.Embed(5, 8)(shift_right(x))
        h = h + nn.Embed(4, 8)(i // self.width)[None] + nn.Embed(self.width, 8)(i % self.width)[None]
        above = jnp.pad(h, ((0, 0), (self.width - 1, 0), (0, 0)))[:, : x.shape[1]]
        h = nn.relu(nn.Conv(8, (3,), padding="CAUSAL")(jnp.concatenate([h, above], -1)))
        return nn.Dense(4)(h)


class RealValued(nn.Module):
    """A mean and the logarithm of a scale."""

    @nn.compact
    def __call__(self, x):
        h = jnp.pad(x, ((0, 0), (1, 0)))[:, :-1, None]
        h = nn.tanh(nn.Conv(6, (3,), padding="CAUSAL")(h))
        h = nn.RNN(nn.MGUCell(6))(h)
        return nn.Dense(2)(h)


class Conditional(nn.Module):
    """Given a class and a slower series."""

    @nn.compact
    def __call__(self, x, label, series):
        h = nn.Embed(5, 6)(shift_right(x)) + nn.Embed(3, 6)(label)[:, None]
        cond = nn.Conv(6, (3,))(jnp.repeat(series, 3, axis=1))
        for _ in range(2):
            film = nn.Dense(12)(cond)
            h = h + nn.tanh(nn.Conv(6, (2,), padding="CAUSAL")(h) * film[..., :6] + film[..., 6:])
        return nn.Dense(4)(h)


def conditional(shape=(3, 12)):
    rng = np.random.default_rng(0)
    label = np.array([0, 2, 1], np.int32)
    series = rng.normal(size=(3, 4, 2)).astype(np.float32)
    module, x = Conditional(), jax.ShapeDtypeStruct(shape, jnp.int32)
    variables = random_variables(module, x, label, series)
    return Network(
        lambda given, x: module.apply(given[0], x, *given[1:]), (variables, label, series), shape
    )  # fmt: skip


# Images ---------------------------------------------------------------------------------------------------------


def down_shift(x):
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def right_shift(x):
    return jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]


def scaled(x, classes):
    return (x.astype(jnp.float32) + 1) / classes


class GatedPixelCNN(nn.Module):
    """Two stacks, seen by padding: rows above, and the present row."""

    @nn.compact
    def __call__(self, x):
        x = scaled(x, 4)[..., None]
        v, h = down_shift(x), right_shift(x)
        for size in (5, 3, 3):
            past = size // 2 + 1
            vertical = nn.Conv(12, (past, size), padding=((past - 1, 0), (size // 2, size // 2)))(v)
            horizontal = nn.Conv(12, (1, past), padding=((0, 0), (past - 1, 0)))(h) + nn.Conv(12, (1, 1))(vertical)
            a, b = jnp.split(vertical, 2, -1)
            v = nn.tanh(a) * nn.sigmoid(b)
            a, b = jnp.split(horizontal, 2, -1)
            h = nn.Conv(6, (1, 1))(nn.tanh(a) * nn.sigmoid(b)) + (h if h.shape[-1] == 6 else 0)
        return nn.Conv(4, (1, 1))(nn.relu(nn.Conv(8, (1, 1))(nn.relu(h))))


def raster_mask(size, kind, features_in, features_out, colours=1):
    """A kernel sees what comes before in raster order; at its centre colours before (A), or its own too (B)."""
    mask = np.zeros((size, size, features_in, features_out), np.float32)
    mask[: size // 2] = 1
    mask[size // 2, : size // 2] = 1
    first, last = (
        np.arange(features_in) * colours // features_in,
        np.arange(features_out) * colours // features_out,
    )
    mask[size // 2, size // 2] = first[:, None] <= last if kind == "B" else first[:, None] < last
    return mask


class PixelCNN(nn.Module):
    """One stack of masked full kernels; no shift, the first mask is of type A."""

    colours: int = 1
    size: int = 7

    @nn.compact
    def __call__(self, x):
        c, n = self.colours, 6 * self.colours
        h = scaled(x, 4)
        h = h[..., None] if h.ndim == 3 else h
        h = nn.Conv(n, (self.size, self.size), mask=raster_mask(self.size, "A", c, n, c))(h)
        for _ in range(2):
            h = h + nn.relu(nn.Conv(n, (3, 3), mask=raster_mask(3, "B", n, n, c))(h))
        h = nn.relu(nn.Conv(n, (1, 1), mask=raster_mask(1, "B", n, n, c))(h))
        h = nn.Conv(4 * c, (1, 1), mask=raster_mask(1, "B", n, 4 * c, c))(h)
        return h.reshape(*x.shape, 4)


class PixelCNNPP(nn.Module):
    """Two stacks with strides, as its authors write it: shifted and transposed convolutions, cropped."""

    @nn.compact
    def __call__(self, x):
        e = scaled(x, 4)
        e = jnp.concatenate([e[..., None], jnp.ones((*x.shape, 1))], -1)
        u = down_shift(nn.Conv(6, (2, 3), padding=[(1, 0), (1, 1)])(e))
        ul = down_shift(nn.Conv(6, (1, 3), padding=[(0, 0), (1, 1)])(e))
        ul = ul + right_shift(nn.Conv(6, (2, 1), padding=[(1, 0), (0, 0)])(e))
        us, uls = [], []
        for stride in (1, 2):
            if stride == 2:
                u = nn.Conv(6, (2, 3), (2, 2), padding=[(1, 0), (1, 1)])(u)
                ul = nn.Conv(6, (2, 2), (2, 2), padding=[(1, 0), (1, 0)])(ul)
            u = u + nn.tanh(nn.Conv(6, (2, 3), padding=[(1, 0), (1, 1)])(nn.elu(u)))
            ul = ul + nn.tanh(nn.Conv(6, (2, 2), padding=[(1, 0), (1, 0)])(nn.elu(ul)) + nn.Dense(6)(u))
            us.append(u)
            uls.append(ul)
        height, width = x.shape[1:]
        u = nn.ConvTranspose(6, (2, 3), (2, 2), padding="VALID")(us.pop())[:, :height, 1 : width + 1]
        ul = nn.ConvTranspose(6, (2, 2), (2, 2), padding="VALID")(uls.pop())[:, :height, :width]
        u = u + nn.tanh(nn.Conv(6, (2, 3), padding=[(1, 0), (1, 1)])(nn.elu(u)) + nn.Dense(6)(us.pop()))
        y = nn.Conv(6, (2, 2), padding=[(1, 0), (1, 0)])(nn.elu(ul)) + nn.Dense(6)(u) + nn.Dense(6)(uls.pop())
        return nn.Dense(4)(nn.elu(ul + nn.tanh(y)))


class RowByRow(nn.Module):
    """A recurrence down the columns of the rows above, another along the row."""

    @nn.compact
    def __call__(self, x):
        e = nn.Embed(5, 5)(x + 1)
        above = nn.relu(nn.Conv(6, (1, 3))(down_shift(e)))
        above = nn.RNN(nn.GRUCell(6))(above.swapaxes(1, 2)).swapaxes(1, 2)
        h = jnp.concatenate([right_shift(e), nn.Conv(6, (1, 3))(above)], -1)
        return nn.Dense(4)(nn.RNN(nn.GRUCell(6))(h))


SEQUENCE = (3, 14)
LAYERS = {"qkv": (2, 8, 24), "proj": (2, 8, 8), "up": (2, 8, 16), "down": (2, 16, 8)}

SEQUENCES: dict[str, Callable[[], Network]] = {
    "wavenet": lambda: linen(WaveNet(), (3, 40), scale=0.2),
    "lstm": lambda: linen(Recurrent(nn.OptimizedLSTMCell), SEQUENCE),
    "gru": lambda: linen(Recurrent(nn.GRUCell), SEQUENCE),
    "elman": lambda: Network(elman, weights(embedding=(5, 6), recurrent=(6, 6), out=(6, 4)), SEQUENCE),
    "rwkv": lambda: Network(
        rwkv, weights(embedding=(5, 6), k=(6, 6), v=(6, 6), r=(6, 6), decay=(6,), out=(6, 4)), SEQUENCE
    ),
    "gpt": lambda: linen(GPT(), (3, 40)),
    "gpt_by_einsum": lambda: Network(
        gpt_by_einsum, weights(embedding=(5, 8), positions=(20, 8)) | {"layers": weights(**LAYERS)}, SEQUENCE
    ),
    "llama": lambda: linen(Llama(), SEQUENCE),
    "local_attention": lambda: linen(LocalAttention(), SEQUENCE),
    "linear_attention": lambda: linen(LinearAttention(), SEQUENCE),
    "tcn": lambda: linen(TCN(), SEQUENCE, scale=0.2),
    "depthwise": lambda: linen(Depthwise(), SEQUENCE),
    "average_pooling": lambda: linen(AveragePooling(), SEQUENCE, scale=1),
    "unet_dense": lambda: linen(UNet("dense"), (3, 16), scale=0.2),
    "unet_transpose": lambda: linen(UNet("transpose"), (3, 16), scale=0.2),
    "unet_repeat": lambda: linen(UNet("repeat"), (3, 16), scale=0.2),
    "image_as_sequence": lambda: linen(ImageAsSequence(), (3, 20)),
    "real_valued": lambda: linen(RealValued(), SEQUENCE, levels=None),
    "conditional": conditional,
}

IMAGES: dict[str, Callable[[], Network]] = {
    "gated_pixelcnn": lambda: linen(GatedPixelCNN(), (3, 4, 6)),
    "gated_pixelcnn_narrow": lambda: linen(GatedPixelCNN(), (3, 5, 3)),
    "pixelcnn_masked": lambda: linen(PixelCNN(), (3, 5, 6)),
    "pixelcnn_masked_rgb": lambda: linen(PixelCNN(colours=3, size=5), (2, 3, 5, 3)),
    "pixelcnn_masked_many_channels": lambda: linen(PixelCNN(colours=6, size=3), (2, 3, 3, 6)),
    "pixelcnn_strided": lambda: linen(PixelCNNPP(), (2, 4, 6)),
    "row_by_row": lambda: linen(RowByRow(), (3, 4, 6)),
}

NETWORKS = SEQUENCES | IMAGES


# What is refused ------------------------------------------------------------------------------------------------


class Refused(NamedTuple):
    """`apply(variables, x)` that is refused with these `words`; `causal` if that is only for want of a proof."""

    apply: Callable[[Any, Any], Any]
    variables: Any
    shape: tuple[int, ...]
    words: tuple[str, ...]
    causal: bool = False


class Sequence(nn.Module):
    """Embedded ids, shifted once, `mix`ed along the positions."""

    mix: Callable[[Any], Any]
    shifted: bool = True

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(5, 6)(shift_right(x) if self.shifted else x)
        return nn.Dense(4)(h + self.mix(h))


class Picture(nn.Module):
    """An embedded image, `mix`ed."""

    mix: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(self.mix(nn.Embed(5, 6)(x)))


def refused(mix, *words, shape=(2, 8), shifted=True, module=None):
    module = module or (Sequence(mix, shifted) if len(shape) == 2 else Picture(mix))
    variables = random_variables(module, jax.ShapeDtypeStruct(shape, jnp.int32))

    def apply(variables, x):
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return Refused(apply, variables, shape, words)


def self_attention(mask):
    def mix(h):
        m = None if mask is None else mask(h.shape[1])[None, None]
        return nn.MultiHeadDotProductAttention(2, deterministic=True, name="attention")(h, mask=m)

    return mix


def leaking_scores(low):
    """The first position attends to nothing, which is to everything alike."""

    def mix(h):
        scores = jnp.einsum("bqd,bkd->bqk", h, h)
        earlier = np.tri(h.shape[1], k=-1, dtype=bool)[None]
        return jnp.einsum("bqk,bkd->bqd", nn.softmax(jnp.where(earlier, scores, low)), h)

    return mix


def ones_for_the_future(h):
    scores = jnp.where(np.tri(h.shape[1], dtype=bool)[None], jnp.einsum("bqd,bkd->bqk", h, h), 1.0)
    return jnp.einsum("bqk,bkd->bqd", scores, h)


def unshifted_coarse(h):
    y = nn.Conv(6, (2,), strides=2, padding="VALID", name="down")(h)
    return jnp.repeat(y, 2, axis=1)


def traced_mask():
    def apply(given, x):
        scores = jnp.einsum("bqd,bkd->bqk", *[given["embedding"][shift_right(x)]] * 2)
        y = nn.softmax(jnp.where(given["mask"][None], scores, -1e9))
        return jnp.einsum("bqk,bkd->bqd", y, given["embedding"][shift_right(x)])

    variables = weights(embedding=(5, 4)) | {"mask": np.tri(8, dtype=bool)}
    return Refused(apply, variables, (2, 8), ("reduce_max", "mask", "assume_causal=True"), causal=True)


class ColoursTogether(nn.Module):
    """The centre of the first mask lets a channel see itself."""

    first: str

    @nn.compact
    def __call__(self, x):
        mask = raster_mask(3, "B" if self.first == "itself" else "A", 3, 6, 3)
        if self.first == "later":
            mask[1, 1, 2, :] = 1
        h = nn.Conv(6, (3, 3), mask=mask, name="first")(scaled(x, 4))
        return nn.Conv(12, (1, 1), mask=raster_mask(1, "B", 6, 12, 3))(nn.relu(h)).reshape(*x.shape, 4)


def above_and_left(below=0, right=0):
    """Three rows and columns, moved so far down and to the right."""

    def mix(h):
        rows = nn.Conv(6, (2, 3), padding=[(1, 0), (1, 1)], name="rows")(down_shift(h))
        row = nn.Conv(6, (1, 2), padding=[(0, 0), (1 - right, right)], name="row")(right_shift(h))
        if below:
            rows = rows + nn.Conv(6, (3, 1), name="below")(down_shift(h))
        return nn.relu(rows + row)

    return mix


REFUSED: dict[str, Callable[[], Refused]] = {
    "no_shift": lambda: refused(lambda h: h, "axis 1", "sees itself", "shift the input", shifted=False),
    "same_convolution": lambda: refused(
        lambda h: nn.Conv(6, (3,), name="wide")(h), "conv_general_dilated", "wide", "axis 1", "1 position ahead"
    ),
    "same_convolution_dilated": lambda: refused(
        lambda h: nn.Conv(6, (3,), kernel_dilation=2, name="wide")(h),
        "conv_general_dilated",
        "wide",
        "2 positions",
    ),
    "batch_norm": lambda: refused(
        lambda h: nn.BatchNorm(use_running_average=False, name="norm")(h), "reduce_sum", "norm", "axis 1"
    ),
    "group_norm": lambda: refused(lambda h: nn.GroupNorm(2, name="norm")(h), "reduce_sum", "norm", "axis 1"),
    "mean_over_time": lambda: refused(lambda h: h.mean(1, keepdims=True), "reduce_sum", "axis 1"),
    "maximum_over_time": lambda: refused(lambda h: h.max(1, keepdims=True), "reduce_max", "axis 1"),
    "reversed": lambda: refused(lambda h: h[:, ::-1], "rev", "axis 1"),
    "cumsum_reversed": lambda: refused(lambda h: lax.cumsum(h, 1, reverse=True), "cumsum", "axis 1"),
    "attention_without_mask": lambda: refused(self_attention(None), "reduce_max", "attention", "mask"),
    "attention_one_ahead": lambda: refused(
        self_attention(lambda n: np.tri(n, k=1, dtype=bool)), "reduce_max", "attention", "mask"
    ),
    "attention_mask_turned": lambda: refused(
        self_attention(lambda n: np.tri(n, dtype=bool).T), "reduce_max", "attention", "mask"
    ),
    "attention_to_nothing": lambda: refused(leaking_scores(-1e30), "dot_general"),
    "attention_with_weak_mask": lambda: refused(leaking_scores(-5.0), "dot_general"),
    "products_with_ones_for_the_future": lambda: refused(ones_for_the_future, "dot_general"),
    "traced_mask": traced_mask,
    "softmax_over_time": lambda: refused(lambda h: nn.softmax(h, 1), "reduce_", "axis 1"),
    "dense_over_time": lambda: refused(
        lambda h: nn.Dense(8, name="mixer")(h.swapaxes(1, 2)).swapaxes(1, 2), "dot_general", "mixer", "axis 2"
    ),
    "sorted": lambda: refused(lambda h: jnp.sort(h, 1), "sort", "axis 1"),
    "fourier_transform": lambda: refused(lambda h: jnp.real(jnp.fft.fft(h, axis=1)), "fft", "axis"),
    "last_position": lambda: refused(lambda h: jnp.broadcast_to(h[:, -1:], h.shape), "axis 1"),
    "last_state": lambda: refused(
        lambda h: jnp.broadcast_to(nn.RNN(nn.GRUCell(6), return_carry=True)(h)[0][:, None], h.shape), "scan"
    ),
    "bidirectional": lambda: refused(
        lambda h: nn.Dense(6)(nn.Bidirectional(nn.RNN(nn.LSTMCell(4)), nn.RNN(nn.LSTMCell(4)))(h)), "axis"
    ),
    "coarse_level_not_shifted": lambda: refused(
        unshifted_coarse, "axis 1", "sees", "conv_general_dilated", "down"
    ),
    "channel_sees_itself": lambda: refused(
        None, "channel", "sees itself", "axis 3", shape=(2, 2, 3, 3), module=ColoursTogether("itself")
    ),
    "channel_sees_a_later_one": lambda: refused(
        None, "channel", "sees", "axis 3", shape=(2, 2, 3, 3), module=ColoursTogether("later")
    ),
    "pixel_sees_itself": lambda: refused(lambda h: h, "axis 2", "sees itself", shape=(2, 4, 5)),
    "pixel_sees_the_right": lambda: refused(
        above_and_left(right=1), "conv_general_dilated", "row", "axis 2", shape=(2, 4, 5)
    ),
    "pixel_sees_below": lambda: refused(
        above_and_left(below=1), "conv_general_dilated", "below", "axis 1", shape=(2, 4, 5)
    ),
}
