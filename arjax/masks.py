"""Masks from ranks: who may see whom. Boolean arrays, `mask[input, output]`; numpy in, numpy out, jax likewise."""

from typing import Literal

import numpy as np


def connect(in_ranks, out_ranks, *, strict: bool):
    """Connects an input to an output if its rank is not larger, or `strict`ly smaller. Shape `(in, out)`.

    MADE (Germain et al., 2015): hidden layers use equation 12 (not strict), the output layer and the direct
    connections equation 13 (strict).
    """
    earlier = in_ranks[:, None] < out_ranks[None]
    return earlier if strict else earlier | (in_ranks[:, None] == out_ranks[None])


def hidden_degrees(features: int, size: int) -> np.ndarray:
    """Degrees of MADE's hidden units for an event of `size` variables: sorted, evenly spread over `0..size-2`.

    A unit of degree m sees the variables of rank 0..m. Every degree occurs if `features >= size - 1`, without
    which some variables would be independent for no reason. Shape `(features,)`.
    """
    return np.arange(features) * max(size - 1, 1) // features


def colours(features: int, channels: int) -> np.ndarray:
    """The channel of the image that each feature belongs to, in `channels` equal blocks. Shape `(features,)`."""
    if channels < 1 or features % channels:
        raise ValueError(f"{channels} channels of the image do not divide {features} features")
    return np.arange(features) * channels // features


def convolution(
    kernel_size: tuple[int, int],
    in_features: int,
    out_features: int,
    mask_type: Literal["A", "B"],
    groups: int = 1,
) -> np.ndarray:
    """The raster-order mask of an image convolution, van den Oord et al. (2016a), figure 2.

    Taps before the centre connect everything. At the centre, features form `groups` equal blocks (the colours
    of a pixel) and a block sees the earlier ones ("A") or itself too ("B"). Shape `(rows, columns, in, out)`.
    """
    if mask_type not in ("A", "B"):
        raise ValueError(f"mask_type is 'A' or 'B', got {mask_type!r}")
    rows, columns = kernel_size
    mask = np.zeros((rows * columns, in_features, out_features), bool)
    centre = rows // 2 * columns + columns // 2
    mask[:centre] = True
    mask[centre] = connect(colours(in_features, groups), colours(out_features, groups), strict=mask_type == "A")
    return mask.reshape(rows, columns, in_features, out_features)


def attention(keys, queries=None, *, strict: bool = False):
    """Every earlier position in the order, and the present one unless `strict`. Shape `(keys, queries)`.

    In this and the following masks both are ranks; `queries` are those of the keys unless given.
    """
    keys, queries = _flat(keys, queries)
    return connect(keys, queries, strict=strict)


def local_attention(keys, window: int, queries=None, *, strict: bool = False):
    """The `window` latest positions of `attention`, the present one included. Shape `(keys, queries)`.

    Raises `ValueError` unless `window` is 1 or more.
    """
    keys, queries = _flat(keys, queries)
    _positive("window", window)
    return attention(keys, queries, strict=strict) & (queries[None] - keys[:, None] < window)


def strided_attention(keys, stride: int, queries=None, *, strict: bool = False):
    """Every `stride`-th position back from the present one (Child et al., 2019). Shape `(keys, queries)`.

    Raises `ValueError` unless `stride` is 1 or more.
    """
    keys, queries = _flat(keys, queries)
    _positive("stride", stride)
    return attention(keys, queries, strict=strict) & ((queries[None] - keys[:, None]) % stride == 0)


def fixed_attention(keys, stride: int, summaries: int = 1, queries=None, *, strict: bool = False):
    """The present block of `stride`, the last `summaries` of all earlier ones (Child). Shape `(keys, queries)`.

    Raises `ValueError` unless `stride` is 1 or more.
    """
    keys, queries = _flat(keys, queries)
    _positive("stride", stride)
    own = keys[:, None] // stride == queries[None] // stride
    return attention(keys, queries, strict=strict) & (own | (keys % stride >= stride - summaries)[:, None])


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"a {name} of 1 or more is wanted, got {value}")


def _flat(keys, queries):
    keys = keys.ravel()
    return keys, keys if queries is None else queries.ravel()
