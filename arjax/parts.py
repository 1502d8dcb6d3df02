"""Cutting data into parts, and joining them again: what the stages of a hierarchy generate one after the other.

A part is a set of dimensions (every second pixel, every fourth frame), some bits of every value (`split_bits`), or
a `View`, a function of the data such as a gray image. All are exact on integers, numpy's or JAX's, and work within
`jit`. Booleans, such as the mask of evidence, are cut as data are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

LUMA = (299, 587, 114)
"""Thousandths of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""


def split(x: Any, factors: Sequence[int]) -> list[Array]:
    """The interleaved parts of which each has every `factors[i]`-th index along axis `i` of an event.

    Parts are in raster order of their first index. With `(2, 2, 1)` the pixels of an image with even row and even
    column (the image at half its size), those on their right, those below, and those between; with `(4,)` every
    fourth position of a sequence; with `(1, 1, 4)` every fourth channel.

    Args:
        x: data `(batch, *event, ...)`; axes after those with a factor are left alone.
        factors: one for each axis of an event, 1 or more.

    Returns:
        `prod(factors)` arrays `(batch, *(event / factors), ...)`.

    Raises:
        ValueError: a factor does not divide its axis.
    """
    x = jnp.asarray(x)
    sides = x.shape[1 : 1 + len(factors)]
    if len(sides) < len(factors) or any(
        factor < 1 or side % factor for side, factor in zip(sides, factors, strict=True)
    ):
        raise ValueError(f"factors that divide an event of {sides} are wanted, got {tuple(factors)}")
    pairs = [n for side, factor in zip(sides, factors, strict=True) for n in (side // factor, factor)]
    cut = x.reshape(x.shape[0], *pairs, *x.shape[1 + len(factors) :])
    phases = tuple(range(2, 1 + len(pairs), 2))
    cut = jnp.moveaxis(cut, phases, tuple(range(len(phases))))
    return list(cut.reshape(math.prod(factors), *cut.shape[len(phases) :]))


def join(parts: Sequence[Any], factors: Sequence[int]) -> Array:
    """Undoes `split`.

    Raises:
        ValueError: there are not `prod(factors)` parts of one shape.
    """
    arrays = [jnp.asarray(part) for part in parts]
    if len(arrays) != math.prod(factors) or len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{math.prod(factors)} parts of one shape are wanted, got {shapes}")
    phases = tuple(range(2, 1 + 2 * len(factors), 2))
    stacked = jnp.stack(arrays).reshape(*factors, *arrays[0].shape)
    stacked = jnp.moveaxis(stacked, tuple(range(len(phases))), phases)
    sides = [side * factor for side, factor in zip(arrays[0].shape[1:], factors, strict=False)]
    return stacked.reshape(stacked.shape[0], *sides, *arrays[0].shape[1 + len(factors) :])


def split_bits(x: Any, levels: int, bits: int) -> tuple[Array, Array]:
    """The `bits` most significant bits of every value, and the others: `Int[...]` of `2**bits` and of the rest.

    Raises:
        ValueError: values of `levels` have not more bits than that, or are not all the numbers of so many bits.
    """
    rest = _rest(levels, bits)
    x = jnp.asarray(x, jnp.int32)
    return x >> rest, x & (2**rest - 1)


def join_bits(high: Any, low: Any, levels: int, bits: int) -> Array:
    """Undoes `split_bits`. Raises as it."""
    return (jnp.asarray(high, jnp.int32) << _rest(levels, bits)) | jnp.asarray(low, jnp.int32)


def _rest(levels: int, bits: int) -> int:
    depth = levels.bit_length() - 1
    if levels != 2**depth or not 0 < bits < depth:
        raise ValueError(
            f"levels of more than {bits} bits, a power of 2, are wanted to cut 1 or more off, got {levels}"
        )
    return depth - bits


class View:
    """A function of data: each of its values is found from a group of theirs.

    A view is called with data `(batch, *event)`. It has a `name` and brings `groups`, which moves the values that
    one of its own is found from to a last axis, and `summary`, which is that function.
    """

    name: str

    def groups(self, x: Array) -> Array:
        """`(batch, *event) -> (batch, *event of the view, values of a group)`."""
        return x[..., None]

    def summary(self, groups: Array) -> Array:
        """`Int[..., group] -> Int[...]`."""
        return groups[..., 0]

    def __call__(self, x: Any) -> Array:
        """The view of `x`, int32."""
        return self.summary(self.groups(jnp.asarray(x, jnp.int32)))

    def known(self, known: Any) -> Array:
        """Where the view of data that are known where the boolean `known` holds is known itself."""
        return self.groups(jnp.asarray(known)).all(-1)


@dataclasses.dataclass(frozen=True)
class Gray(View):
    """The brightness of every pixel of an image, `(b, h, w, channels)`, in `levels` of the image's `of`.

    Of red, green and blue it is the weighted mean `LUMA`, of any other channels the plain one, rounded to a level
    of the image, then cut to `levels` (Kolesnikov and Lampert: 16 of 256).

    Raises:
        ValueError: there are fewer than 2 levels, or more than the image's.
    """

    levels: int = 16
    of: int = 256
    name: str = "gray"

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= self.of:
            raise ValueError(f"gray levels of 2 to the image's {self.of} are wanted, got {self.levels}")

    def groups(self, x: Array) -> Array:
        """As `View.groups`: the channels of a pixel."""
        _check_image(x)
        return x[..., None, :]

    def summary(self, groups: Array) -> Array:
        """As `View.summary`."""
        channels = groups.shape[-1]
        weights = LUMA if channels == len(LUMA) else (1,) * channels
        total = groups @ jnp.asarray(weights, jnp.int32)
        mean = (total + sum(weights) // 2) // sum(weights)
        return mean * self.levels // self.of


@dataclasses.dataclass(frozen=True)
class Smaller(View):
    """An image at 1 / `factor` of its height and width: means of blocks of pixels, channel by channel, rounded.

    Raises:
        ValueError: the factor is less than 2, or (when called) does not divide the sides of an image.
    """

    factor: int = 2
    name: str = "smaller"

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"a factor of 2 or more is wanted, got {self.factor}")

    def groups(self, x: Array) -> Array:
        """As `View.groups`: one channel of a block."""
        _check_image(x)
        return jnp.stack(split(x, (self.factor, self.factor, 1)), -1)

    def summary(self, groups: Array) -> Array:
        """As `View.summary`."""
        return (groups.sum(-1) + groups.shape[-1] // 2) // groups.shape[-1]


@dataclasses.dataclass(frozen=True)
class HighBits(View):
    """The `bits` most significant bits of every value of `levels`: of `split_bits`, whose errors it has."""

    bits: int
    levels: int = 256
    name: str = "high"

    def __post_init__(self) -> None:
        _rest(self.levels, self.bits)

    def summary(self, groups: Array) -> Array:
        """As `View.summary`."""
        return split_bits(groups[..., 0], self.levels, self.bits)[0]


def _check_image(x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"images of shape (batch, height, width, channels) are wanted, got {x.shape}")
