"""What a model may be conditioned on, each a module from `cond` to features of an image's positions.

A conditional model has the field `conditioning`. It turns `cond` into `Float[b, d]` (the same everywhere), or
`Float[b, h, w, d]` of an image, `Float[b, t, d]` of a sequence, once per sample, and the model projects that to
a bias of every layer: location-independent and location-dependent conditioning of van den Oord et al. (2016b),
equations 4 and 5; global and local conditioning of WaveNet.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from arjax.layers.shift import shift


class Classes(nn.Module):
    """Labels `Int[b]` of `0..num_classes-1`, as one-hot codes."""

    num_classes: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Int[b] -> Float[b, num_classes]`, NaN for a label that is out of range."""
        _check(cond, jnp.integer, (), f"labels 0..{self.num_classes - 1} of shape (batch,)")
        codes = jax.nn.one_hot(cond, self.num_classes, dtype=jnp.float32)
        return jnp.where(((cond >= 0) & (cond < self.num_classes))[:, None], codes, jnp.nan)


class Vector(nn.Module):
    """A vector of `features` numbers, such as an embedding of a face."""

    features: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, features]`, as it is."""
        _check(cond, jnp.floating, (self.features,))
        return cond


class Map(nn.Module):
    """A given map of the size of the image, such as a segmentation or a smaller image enlarged."""

    height: int
    width: int
    features: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, height, width, features]`, as it is."""
        _check(cond, jnp.floating, (self.height, self.width, self.features))
        return cond


class Deconvolution(nn.Module):
    """A vector turned into a map `s = m(h)` by transposed convolutions: van den Oord et al. (2016b), section 2.4.

    Attributes:
        in_features: length of the vector.
        height: height of the map, which `2 ** len(features)` divides.
        width: width of the map, likewise.
        features: channels after each doubling of the size; the last are those of the map.
    """

    in_features: int
    height: int
    width: int
    features: Sequence[int] = (32, 16)

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, in_features] -> Float[b, height, width, features[-1]]`."""
        factor = 2 ** len(self.features)
        if self.height % factor or self.width % factor:
            raise ValueError(f"{factor} has to divide the size of the map, got {self.height} x {self.width}")
        _check(cond, jnp.floating, (self.in_features,))
        start = (self.height // factor, self.width // factor, self.features[0])
        s = nn.Dense(start[0] * start[1] * start[2])(cond).reshape(-1, *start)
        for features in self.features:
            s = nn.ConvTranspose(features, (4, 4), (2, 2))(nn.relu(s))
        return s


class Upsampling(nn.Module):
    """A series at a lower rate, such as the frames of a spectrogram, brought to the rate of the sequence.

    Learned transposed convolutions of stride s and kernel 2s (WaveNet, section 2.5): the values of a frame's
    time come from it and the frame before, so that a series may also arrive in chunks. Or repetition.

    Attributes:
        in_features: numbers in a frame.
        factors: strides one after the other; a frame stands for `hop`, their product.
        features: channels of the upsampled series, unless it is repeated.
        learned: transposed convolutions, or repetition (nearest neighbour).
    """

    in_features: int
    factors: Sequence[int]
    features: int = 32
    learned: bool = True

    @property
    def hop(self) -> int:
        """Positions of the sequence for each frame."""
        return math.prod(self.factors)

    @property
    def past(self) -> int:
        """How many frames before its own the features of a position may depend on."""
        return len(self.factors) if self.learned else 0

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, frames, in_features] -> Float[b, frames * hop, features]`.

        The first `variables["frames"]["absent"]` frames stand for none.
        """
        _check(cond, jnp.floating, ("frames", self.in_features))
        if not self.learned:
            return jnp.repeat(cond, self.hop, axis=1)
        assert self.scope is not None
        absent: Any = self.scope.root.get_variable("frames", "absent", None)
        per_frame = 1
        for i, factor in enumerate(self.factors):
            x = nn.leaky_relu(cond) if i else cond
            if absent is not None:
                there = jnp.arange(x.shape[1], dtype=jnp.int32) >= absent * per_frame
                x = jnp.where(there[None, :, None], x, 0)
            cond = _Stretch(factor, self.features)(x)
            per_frame *= factor
        return cond


class _Stretch(nn.Module):
    factor: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        both = jnp.concatenate([shift(x, axis=1), x], -1)
        y = nn.Dense(self.factor * self.features)(both)
        return y.reshape(x.shape[0], x.shape[1] * self.factor, self.features)


class Several(nn.Module):
    """Several conditions at once, such as a class and a series; `cond` is a tuple with one for each of `parts`."""

    parts: Sequence[Any]

    @property
    def hop(self) -> int:
        """Positions of the sequence for each frame of the series among the parts."""
        return max(getattr(part, "hop", 1) for part in self.parts)

    @property
    def past(self) -> int:
        """How many frames before its own the features of a position may depend on."""
        return max(getattr(part, "past", 0) for part in self.parts)

    @nn.compact
    def __call__(self, cond: Sequence[Array]) -> Array:
        """The features of all parts, those without a location repeated everywhere."""
        if not isinstance(cond, (tuple, list)) or len(cond) != len(self.parts):
            got = f"{len(cond)}" if isinstance(cond, (tuple, list)) else type(cond).__name__
            raise ValueError(f"cond: a tuple of {len(self.parts)} conditions is wanted, got {got}")
        features = [part(own) for part, own in zip(self.parts, cond, strict=True)]
        axes = max(feature.ndim for feature in features) - 2
        features = [_spread(feature, axes) for feature in features]
        places = np.broadcast_shapes(*(feature.shape[:-1] for feature in features))
        return jnp.concatenate([jnp.broadcast_to(f, (*places, f.shape[-1])) for f in features], -1)


def condition(conditioning: Any, cond: Any, axes: int = 2) -> Array | None:
    """The features of `cond`, or None for a model without `conditioning`.

    `Float[b, 1, 1, d]` or `Float[b, h, w, d]` for the two `axes` of an image, `Float[b, 1, d]` or
    `Float[b, t, d]` for the one of a sequence.

    Raises:
        ValueError: `cond` is missing, surplus or not what `conditioning` wants.
    """
    if conditioning is None:
        if cond is not None:
            raise ValueError("this model has conditioning=None and takes no cond")
        return None
    if cond is None:
        raise ValueError(f"cond is missing: this model has conditioning={type(conditioning).__name__}")
    features = conditioning(jax.tree.map(_as_input, cond))
    if features.ndim not in (2, axes + 2):
        raise ValueError(f"cond: features of {axes} axes or none are wanted, got shape {features.shape}")
    return _spread(features, axes)


def _as_input(cond: Any) -> Array:
    """Labels as they are, and float32."""
    array = jnp.asarray(cond)
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _spread(features: Array, axes: int) -> Array:
    """What has no location, `Float[b, d]`, with axes of length 1; all else as it is."""
    return features if features.ndim > 2 else features.reshape(len(features), *[1] * axes, -1)


def num_classes(model: Any) -> int | None:
    """The number of classes that condition a model, or None."""
    return getattr(getattr(model, "conditioning", None), "num_classes", None)


def check_size(context: Any, x: Array) -> None:
    """Raises `ValueError` unless maps in `context` are as large as the images `x`."""
    for leaf in jax.tree.leaves(context):
        if leaf.shape[1:3] not in ((1, 1), x.shape[1:3]):
            raise ValueError(f"cond: a map of the image's size {x.shape[1:3]} is wanted, got {leaf.shape[1:3]}")


def check_length(context: Any, x: Array) -> None:
    """Raises `ValueError` unless series in `context` are as long as the sequences `x`."""
    for leaf in jax.tree.leaves(context):
        if leaf.shape[1] not in (1, x.shape[1]):
            raise ValueError(f"cond: a series for {x.shape[1]} positions is wanted, got one for {leaf.shape[1]}")


def _check(cond: Any, kind: Any, sizes: tuple[int | str, ...], wanted: str | None = None) -> None:
    """Raises `ValueError` unless `cond` is an array `(batch, *sizes)` of a `kind`; a name stands for any size."""
    shape = getattr(cond, "shape", ())
    fits = len(shape) == 1 + len(sizes) and jnp.issubdtype(cond.dtype, kind)
    if not fits or any(n != size and not isinstance(size, str) for size, n in zip(sizes, shape[1:], strict=True)):
        wanted = wanted or f"floats of shape (batch, {', '.join(map(str, sizes))})"
        got = f"{cond.dtype} {shape}" if hasattr(cond, "dtype") else type(cond).__name__
        raise ValueError(f"cond: {wanted} are wanted, got {got}")
