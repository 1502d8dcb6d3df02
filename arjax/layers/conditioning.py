"""What a model may be conditioned on, each a module from `cond` to features of an image's positions.

A conditional model has the field `conditioning`. It turns `cond` into `Float[b, 1, 1, d]` (the same everywhere)
or `Float[b, h, w, d]` once per image, and the model projects that to a bias of every layer: location-independent
and location-dependent conditioning of van den Oord et al. (2016b), equations 4 and 5.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Classes(nn.Module):
    """Labels `Int[b]` of `0..num_classes-1`, as one-hot codes."""

    num_classes: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Int[b] -> Float[b, 1, 1, num_classes]`."""
        if cond.ndim != 1 or not jnp.issubdtype(cond.dtype, jnp.integer):
            wanted = f"labels 0..{self.num_classes - 1} of shape (batch,)"
            raise ValueError(f"cond: {wanted} are wanted, got {cond.dtype} {cond.shape}")
        return jax.nn.one_hot(cond, self.num_classes)[:, None, None]


class Vector(nn.Module):
    """A vector of `features` numbers, such as an embedding of a face."""

    features: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, features] -> Float[b, 1, 1, features]`."""
        _check(cond, (self.features,))
        return cond[:, None, None]


class Map(nn.Module):
    """A given map of the size of the image, such as a segmentation or a smaller image enlarged."""

    height: int
    width: int
    features: int

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """`Float[b, height, width, features]`, as it is."""
        _check(cond, (self.height, self.width, self.features))
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
        _check(cond, (self.in_features,))
        start = (self.height // factor, self.width // factor, self.features[0])
        s = nn.Dense(start[0] * start[1] * start[2])(cond).reshape(-1, *start)
        for features in self.features:
            s = nn.ConvTranspose(features, (4, 4), (2, 2))(nn.relu(s))
        return s


def condition(conditioning: Any, cond: Any) -> Array | None:
    """The features of `cond`, or None for a model without `conditioning`.

    Raises:
        ValueError: `cond` is missing, surplus or not what `conditioning` wants.
    """
    if conditioning is None:
        if cond is not None:
            raise ValueError("this model has conditioning=None and takes no cond")
        return None
    if cond is None:
        raise ValueError(f"cond is missing: this model has conditioning={type(conditioning).__name__}")
    return conditioning(jnp.asarray(cond))


def num_classes(model: Any) -> int | None:
    """The number of classes that condition a model, or None."""
    return getattr(getattr(model, "conditioning", None), "num_classes", None)


def check_labels(model: Any, cond: Any) -> None:
    """Raises `ValueError` if concrete labels in `cond` are out of the range of a model's classes."""
    classes = num_classes(model)
    if classes is None or cond is None or isinstance(cond, jax.core.Tracer):
        return
    labels = np.asarray(cond)
    if labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        return
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise ValueError(f"cond: labels 0..{classes - 1} are wanted, got {low}..{high}")


def check_size(context: Any, x: Array) -> None:
    """Raises `ValueError` unless maps in `context` are as large as the images `x`."""
    for leaf in jax.tree.leaves(context):
        if leaf.shape[1:3] not in ((1, 1), x.shape[1:3]):
            raise ValueError(f"cond: a map of the image's size {x.shape[1:3]} is wanted, got {leaf.shape[1:3]}")


def _check(cond: Array, shape: tuple[int, ...]) -> None:
    if cond.shape[1:] != shape or not jnp.issubdtype(cond.dtype, jnp.floating):
        wanted = f"floats of shape (batch, {', '.join(map(str, shape))})"
        raise ValueError(f"cond: {wanted} are wanted, got {cond.dtype} {cond.shape}")
