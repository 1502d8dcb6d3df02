"""Parts of data: splits that can be joined again, and views."""

import itertools
import math

import numpy as np
import pytest
from helpers import integers, refused

from arjax import parts


@pytest.mark.parametrize("event", [(12,), (4, 6), (4, 6, 3), (2, 4, 6, 1)])
def test_split_and_join(event):
    """A bijection for every factor that fits, and each part has every so-many-th index."""
    x = np.arange(2 * math.prod(event)).reshape(2, *event)
    for factors in itertools.product(*([f for f in range(1, side + 1) if side % f == 0] for side in event)):
        cut = parts.split(x, factors)
        assert len(cut) == math.prod(factors)
        np.testing.assert_array_equal(parts.join(cut, factors), x)
        for number, first in enumerate(np.ndindex(*factors)):
            strided = (slice(i, None, factor) for i, factor in zip(first, factors, strict=True))
            np.testing.assert_array_equal(cut[number], x[:, *strided])
    known = x % 3 == 0
    np.testing.assert_array_equal(parts.split(known, (2,))[1], known[:, 1::2])


@pytest.mark.parametrize("levels", [4, 8, 256])
def test_split_bits(levels):
    x = np.arange(levels)
    for bits in range(1, levels.bit_length() - 1):
        high, low = parts.split_bits(x, levels, bits)
        np.testing.assert_array_equal(high, x >> (levels.bit_length() - 1 - bits))
        np.testing.assert_array_equal(high, parts.HighBits(bits, levels)(x))
        assert (int(high.max()) + 1) * (int(low.max()) + 1) == levels
        np.testing.assert_array_equal(parts.join_bits(high, low, levels, bits), x)


def test_views():
    x = integers(256, 5, 4, 6, 3)
    gray = np.asarray(parts.Gray()(x))
    assert gray.shape == (5, 4, 6, 1)
    brightness = np.floor((x @ np.array(parts.LUMA) / 1000) + 0.5)
    np.testing.assert_array_equal(gray[..., 0], brightness * 16 // 256)
    white = np.full((1, 1, 1, 3), 255)
    assert parts.Gray()(white).item() == 15
    assert parts.Gray()(0 * white).item() == 0
    np.testing.assert_array_equal(parts.Gray(4, 16)(x[..., :1] // 16), x[..., :1] // 64)
    smaller = np.asarray(parts.Smaller()(x))
    means = x.reshape(5, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_array_equal(smaller, np.floor(means + 0.5))
    known = np.random.default_rng(0).random(x.shape) < 0.8
    np.testing.assert_array_equal(parts.Gray().known(known)[..., 0], known.all(-1))
    np.testing.assert_array_equal(parts.Smaller().known(known), known.reshape(5, 2, 2, 3, 2, 3).all((2, 4)))


def test_parts_that_do_not_fit():
    x = integers(4, 2, 6, 5, 1)
    refused("factors that divide an event of (6, 5, 1) are wanted, got (2, 2, 1)", parts.split, x, (2, 2, 1))
    refused("factors that divide an event of (6, 5, 1) are wanted, got (0, 1, 1)", parts.split, x, (0, 1, 1))
    refused("factors that divide an event of (6, 5) are wanted, got (7, 1)", parts.split, x, (7, 1))
    refused("factors that divide an event of (6,) are wanted, got (2, 2)", parts.split, x[..., 0, 0], (2, 2))
    refused("4 parts of one shape are wanted, got (2, 6, 5, 1)", parts.join, [x], (2, 2))
    refused("2 parts of one shape are wanted, got (2, 6, 5, 1), (2, 5, 5, 1)", parts.join, [x, x[:, 1:]], (2, 1))
    refused(
        "levels of more than 3 bits, a power of 2, are wanted to cut 1 or more off, got 17",
        parts.split_bits,
        x,
        17,
        3,
    )
    refused(
        "levels of more than 3 bits, a power of 2, are wanted to cut 1 or more off, got 8",
        parts.split_bits,
        x,
        8,
        3,
    )
    refused("levels of more than 0 bits", parts.HighBits, 0, 8)
    refused("gray levels of 2 to the image's 4 are wanted, got 16", parts.Gray, 16, 4)
    refused("a factor of 2 or more is wanted, got 1", parts.Smaller, 1)
    refused("factors that divide an event of (6, 5, 1) are wanted, got (2, 2, 1)", parts.Smaller(), x)
    refused("images of shape (batch, height, width, channels) are wanted, got (2, 6)", parts.Gray(), x[..., 0, 0])
