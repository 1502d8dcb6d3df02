"""PixelRNN, van den Oord et al. (2016a), "Pixel recurrent neural networks", sections 3.1 to 3.4 and table 1.

A 7 x 7 convolution with mask A, LSTM layers with residual connections (figure 5, right) and skip connections to
the output, 1 x 1 layers with mask B. The input-to-state part of an LSTM is computed for the whole image at once;
its states follow in one scan, over rows (`RowLSTM`, section 3.1) or over diagonals (`DiagonalBiLSTM`, section
3.2). The features, and those of every gate, form a group for each colour, which sees the colours before its own
(section 3.4, figure 2).

With Row LSTM a pixel sees a triangle above it, with Diagonal BiLSTM all that comes before it, by one layer. When
pixels are drawn one by one, a Row LSTM needs the states of the row above; the LSTM that runs to the right needs
those above and on the left; the one that runs to the left, a row behind, runs once over each finished row.

Deviations: mask A is the entry shift together with a mask on the present pixel's colours; a channel tells pixels
from padding; states start as zeros, which are not learned; the forget gate is given 1 more; `cond` is a bias of
the gates, as the small image is of the multi-scale network (section 3.6). The paper's Diagonal BiLSTM does not see
quite all: the features of a row's last pixel do not know its value, by mask A, so most of the next row never sees
it. Here the first layer's LSTM that runs to the left is given what the first convolution sees of the rows above.
"""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from arjax import distributions, masks
from arjax.incremental.custom import custom
from arjax.incremental.level import NoRule
from arjax.incremental.memories import RecurrentState
from arjax.incremental.rules.recurrence import chained
from arjax.layers import CausalConv, MaskedDense, check_images, check_size, condition, entry_shift, scale, shift


def lstm(gates: Array, cell: Array) -> tuple[Array, Array]:
    """The next hidden state and cell, equation 3: `Float[..., 4h], Float[..., h] -> 2 x Float[..., h]`.

    `gates` holds o, f, i and g before their nonlinearities, input-to-state and state-to-state part together.
    """
    o, f, i, g = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f + 1) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


def skew(x: Array) -> Array:
    """Moves each row one column further right than the row above: a diagonal becomes a column, zeros elsewhere.

    `[..., h, w, c] -> [..., h, h + w - 1, c]`.
    """
    *batch, height, width, features = x.shape
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, height), (0, 0)])
    flat = padded.reshape(*batch, -1, features)[..., :-height, :]
    return flat.reshape(*batch, height, height + width - 1, features)


def unskew(x: Array) -> Array:
    """Undoes `skew`: `[..., h, h + w - 1, c] -> [..., h, w, c]`."""
    *batch, height, length, features = x.shape
    flat = x.reshape(*batch, -1, features)
    padded = jnp.pad(flat, [(0, 0)] * (x.ndim - 3) + [(0, height), (0, 0)])
    return padded.reshape(*batch, height, length + 1, features)[..., : length + 1 - height, :]


def scan_diagonals(right: Array, left: Array, kernel: Array) -> tuple[Array, Array]:
    """Hidden states of two LSTMs that start at the top left, in one scan over the diagonals.

    Args:
        right: input-to-state part of the one, `Float[b, h, w, 4f]`.
        left: of the other, likewise, of an image turned left to right.
        kernel: state-to-state part, `Float[2, 2f, 4f]`, for the states above and on the left.

    Returns:
        Two `Float[b, h, w, f]`.
    """

    def next_diagonal(state: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
        last, cell = state
        above = jnp.pad(last[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
        before = jnp.concatenate([above, last], axis=-1)
        hidden, cell = lstm(gates + _product("nbhi,nio->nbho", before, kernel), cell)
        return (hidden, cell), hidden

    diagonals = jnp.moveaxis(skew(jnp.stack([right, left])), 3, 0)
    start = jnp.zeros((*diagonals.shape[1:-1], kernel.shape[-1] // 4), jnp.float32)
    _, hidden = lax.scan(next_diagonal, (start, start), diagonals)
    right, left = unskew(jnp.moveaxis(hidden, 0, 3))
    return right, left


def scan_row(above: Array, gates: Array, kernel: Array) -> Array:
    """Hidden states of the next row, `Float[b, 1, w, f]`, from those above and the input-to-state part."""
    of_above, of_left = jnp.split(kernel, 2)
    gates = gates + _product("bhwi,io->bhwo", above, of_above)

    def next_pixel(state: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = lstm(gates + _product("bi,io->bo", state[0], of_left), state[1])
        return (hidden, cell), hidden

    start = jnp.zeros_like(above[:, 0, 0])
    _, hidden = lax.scan(next_pixel, (start, start), jnp.moveaxis(gates[:, 0], 1, 0))
    return jnp.moveaxis(hidden, 0, 1)[:, None]


def _row_by_row(level: Any, ins: list[Any]) -> list[Any]:
    """How a sampler that goes through the rows makes what `scan_diagonals` makes: each row from the one above."""
    *gates, kernel = ins
    if [getattr(a, "axis", None) for a in gates] != [1, 1]:
        raise NoRule("diagonals along another axis")
    results = []
    for a, own in zip(map(level.ended, gates), kernel.value, strict=True):
        shape = (*a.shape[:-1], a.shape[-1] // 4)
        state = RecurrentState(level, jnp.zeros((shape[0], 1, *shape[2:]), jnp.float32))

        def next_row(above: Array, gates: Array, own: Array = own) -> tuple[Array, Array]:
            hidden = scan_row(above, gates, own)
            return hidden, hidden

        (pieces,) = chained([state], [a.pieces], next_row, 1)
        results.append(dataclasses.replace(a, pieces=pieces, shape=shape, dtype=jnp.float32))
    return results


both_diagonals = custom(scan_diagonals, _row_by_row)


class RowLSTM(nn.Module):
    """Row LSTM, section 3.1: a state follows from the states near it in the row above.

    Attributes:
        features: h, features of a state.
        channels: channels of the image, which divide `features`.
        dtype: dtype of the products; parameters and states are float32.
        kernel_size: k of both convolutions; odd.
    """

    features: int
    channels: int
    dtype: DTypeLike = jnp.float32
    kernel_size: int = 3

    def setup(self):
        """Creates the layers."""
        h, k = self.features, self.kernel_size
        mask = _gates_mask(h, self.channels, 4)
        self.input_to_state = CausalConv(4 * h, (1, k // 2 + 1), axis=2, present_mask=mask, dtype=self.dtype)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), (k * h, 4 * h), jnp.float32)
        self.projection = _projection(4 * h, self.dtype)

    def condition(self, s: Array | None) -> Array:
        """The bias of the gates, by the features of `cond`."""
        return jnp.zeros((1, 1, 1, 1), self.dtype) if s is None else self.projection(s)

    def __call__(self, x: Array, bias: Array, above: Array | None) -> Array:
        """`Float[b, h, w, 2 * features]` and a bias of the gates to hidden states `Float[b, h, w, features]`."""
        kernel = self.kernel.astype(self.dtype)
        gates = (self.input_to_state(x) + bias).astype(jnp.float32)

        def next_row(state: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = state
            near = _neighbours(hidden, self.kernel_size)
            hidden, cell = lstm(gates + _product("bwi,io->bwo", near, kernel), cell)
            return (hidden, cell), hidden

        start = jnp.zeros((x.shape[0], x.shape[2], self.features), jnp.float32)
        _, hidden = lax.scan(next_row, (start, start), jnp.moveaxis(gates, 1, 0))
        return jnp.moveaxis(hidden, 0, 1)


class DiagonalBiLSTM(nn.Module):
    """Diagonal BiLSTM, section 3.2: a state follows from the one above it and the one beside it.

    There are two LSTMs, one from the top left and one from the top right. The latter is given the features of the
    row above, so that no pixel sees a later one.

    Attributes:
        features: h, features of a state.
        channels: channels of the image, which divide `features`.
        dtype: dtype of the products; parameters and states are float32.
    """

    features: int
    channels: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        h = self.features
        self.input_to_state = MaskedDense(2 * h, 8 * h, dtype=self.dtype)
        self.kernel = self.param(
            "kernel", nn.initializers.lecun_normal(batch_axis=0), (2, 2 * h, 4 * h), jnp.float32
        )
        self.projection = _projection(8 * h, self.dtype)
        self.link = nn.Dense(4 * h, use_bias=False, dtype=self.dtype)

    def condition(self, s: Array | None) -> tuple[Array, Array]:
        """The biases of the gates of both LSTMs, by the features of `cond`."""
        if s is None:
            return (jnp.zeros((1, 1, 1, 1), self.dtype),) * 2
        right, left = jnp.split(self.projection(s), 2, axis=-1)
        return right, left

    def __call__(self, x: Array, bias: tuple[Array, Array], above: Array | None) -> Array:
        """`Float[b, h, w, 2 * features]` and biases of the gates to hidden states `Float[b, h, w, features]`.

        `above` are features of the rows above, for the LSTM that runs to the left.
        """
        gates = self.input_to_state(x, _gates_mask(self.features, self.channels, 8)).astype(jnp.float32)
        right, left = jnp.split(gates, 2, axis=-1)
        right_bias, left_bias = (array.astype(jnp.float32) for array in bias)
        left = shift(left, axis=1) + left_bias
        if above is not None:
            left = left + self.link(above).astype(jnp.float32)
        right, left = both_diagonals(right + right_bias, left[:, :, ::-1], self.kernel.astype(self.dtype))
        return right + left[:, :, ::-1]


class PixelRNN(nn.Module):
    """PixelRNN for images `Int[b, h, w, channels]`.

    Attributes:
        output: the distribution of a channel of a pixel.
        channels: channels of the image, which divide `features` and `head_features`.
        features: h, features of the LSTMs' states; the residual stream has 2h features.
        num_layers: LSTM layers.
        layer: `RowLSTM` or `DiagonalBiLSTM`.
        first_kernel_size: of the first convolution; odd.
        head_features: features of the two 1 x 1 layers before the output.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout of the layers' states on their way to other layers, in training.
        dtype: dtype of the computation; parameters and states are float32.
    """

    output: Any = distributions.Bernoulli()
    channels: int = 1
    features: int = 16
    num_layers: int = 7
    layer: Any = DiagonalBiLSTM
    first_kernel_size: int = 7
    head_features: int = 32
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        if self.num_layers < 1:
            raise ValueError(f"num_layers of 1 or more are wanted, got {self.num_layers}")
        h, past, dtype = self.features, self.first_kernel_size // 2, self.dtype
        self.above = CausalConv(2 * h, (past, self.first_kernel_size), dtype=dtype)
        self.left = CausalConv(2 * h, (1, past), axis=2, use_bias=False, dtype=dtype)
        if self.channels > 1:
            self.present = MaskedDense(self.channels, 2 * h, use_bias=False, dtype=dtype)
        self.layers = [self.layer(h, self.channels, dtype) for _ in range(self.num_layers)]
        self.expansions = [MaskedDense(h, 2 * h, dtype=dtype) for _ in range(self.num_layers)]
        self.skips = MaskedDense(self.num_layers * h, 2 * h, use_bias=False, dtype=dtype)
        self.dropping = nn.Dropout(self.dropout)
        self.widths = 2 * h, self.head_features, self.head_features, self.channels * self.output.num_params
        self.head = [MaskedDense(before, after, dtype=dtype) for before, after in itertools.pairwise(self.widths)]

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, channels]` to parameters `Float[b, h, w, channels, num_params]`."""
        check_images(x, self.channels)
        context = self.condition(cond)
        check_size(context, x)
        above, left = (scale(entry_shift(x, axis), self.output.levels, self.dtype) for axis in (1, 2))
        above = self.above(above)
        h = above + self.left(left)
        narrow, wide = (masks.colours(width, self.channels) for width in (self.features, 2 * self.features))
        if self.channels > 1:
            present = scale(x, self.output.levels, self.dtype)[..., :-1]
            h = h + self.present(present, masks.connect(np.arange(self.channels), wide, strict=True))
        states = []
        for i, (layer, expand, bias) in enumerate(zip(self.layers, self.expansions, context, strict=True)):
            state = layer(h, bias, None if i else above).astype(self.dtype)
            states.append(self.dropping(state, deterministic=not train))
            h = h + expand(states[-1], masks.connect(narrow, wide, strict=False))
        every = np.tile(narrow, self.num_layers)
        h = h + self.skips(jnp.concatenate(states, axis=-1), masks.connect(every, wide, strict=False))
        for layer, (before, after) in zip(self.head, itertools.pairwise(self.widths), strict=True):
            colours = masks.colours(before, self.channels), masks.colours(after, self.channels)
            h = layer(nn.relu(h), masks.connect(*colours, strict=False))
        return h.astype(jnp.float32).reshape(*h.shape[:-1], self.channels, self.output.num_params)

    def condition(self, cond: Any) -> list[Any]:
        """The biases of each layer's gates, `Float[b or 1, h or 1, w or 1, 4 * features or 1]`."""
        s = condition(self.conditioning, cond)
        return [layer.condition(s) for layer in self.layers]


def _gates_mask(features: int, channels: int, gates: int) -> Any:
    """Mask B from 2h features to so many gates of h."""
    narrow, wide = masks.colours(features, channels), masks.colours(2 * features, channels)
    return masks.connect(wide, np.tile(narrow, gates), strict=False)


def _projection(width: int, dtype: DTypeLike) -> nn.Dense:
    return nn.Dense(width, use_bias=False, kernel_init=nn.initializers.normal(0.05), dtype=dtype)


def _product(axes: str, x: Array, kernel: Array) -> Array:
    """A product in the kernel's dtype, accumulated in float32."""
    return jnp.einsum(axes, x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _neighbours(x: Array, count: int) -> Array:
    """The features of so many pixels around each one in its row: `[b, w, c] -> [b, w, count * c]`."""
    width = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (count // 2, count // 2), (0, 0)))
    return jnp.concatenate([padded[:, i : i + width] for i in range(count)], axis=-1)
