import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from arjax import masks, orderings

# Centre tap of three colour groups, rows = output group, columns = input group (van den Oord et al., 2016a).
COLOURS = {
    "A": [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
    "B": [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
}


def test_connect_by_hand():
    before, after = np.array([0, 2, 1]), np.array([0, 1, 1, 2])
    np.testing.assert_array_equal(
        masks.connect(before, after, strict=False), [[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]]
    )
    np.testing.assert_array_equal(
        masks.connect(before, after, strict=True), [[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize("strict", [False, True])
def test_numpy_in_numpy_out(strict):
    ranks = np.array([1, 0, 2])
    for mask in (
        lambda ranks: masks.connect(ranks, ranks, strict=strict),
        lambda ranks: masks.attention(ranks, strict=strict),
        lambda ranks: masks.local_attention(ranks, 2, strict=strict),
        lambda ranks: masks.strided_attention(ranks, 2, strict=strict),
    ):
        constant, traced = mask(ranks), mask(jnp.asarray(ranks))
        assert isinstance(constant, np.ndarray)
        assert isinstance(traced, jnp.ndarray)
        assert constant.dtype == traced.dtype == bool
        np.testing.assert_array_equal(constant, traced)


@pytest.mark.parametrize(
    ("features", "size", "degrees"),
    [
        (3, 4, [0, 1, 2]),
        (6, 4, [0, 0, 1, 1, 2, 2]),
        (7, 4, [0, 0, 0, 1, 1, 2, 2]),
        (2, 5, [0, 2]),
        (3, 2, [0, 0, 0]),
        (2, 1, [0, 0]),
    ],
)
def test_hidden_degrees(features, size, degrees):
    np.testing.assert_array_equal(masks.hidden_degrees(features, size), degrees)


@pytest.mark.parametrize("size", [2, 3, 10, 50])
def test_every_degree_occurs_when_there_is_room(size):
    for features in range(size - 1, 3 * size):
        degrees = masks.hidden_degrees(features, size)
        np.testing.assert_array_equal(np.unique(degrees), np.arange(size - 1))
        counts = np.bincount(degrees)
        assert counts.max() - counts.min() <= 1


def made_paths(ranks, widths):
    """The number of paths from each input to each output through MADE's hidden layers."""
    degrees = [ranks, *(masks.hidden_degrees(width, ranks.size) for width in widths)]
    paths = np.eye(ranks.size, dtype=int)
    for before, after in itertools.pairwise(degrees):
        paths = paths @ masks.connect(before, after, strict=False)
    return paths @ masks.connect(degrees[-1], ranks, strict=True)


@pytest.mark.parametrize("widths", [(6,), (13,), (6, 6), (9, 6, 30), (20, 7, 6, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_made_connects_exactly_the_earlier_variables(widths, seed):
    ranks = np.random.default_rng(seed).permutation(7)
    np.testing.assert_array_equal(made_paths(ranks, widths) > 0, ranks[:, None] < ranks)


@pytest.mark.parametrize("widths", [(5,), (1,), (20, 3), (3, 20)])
def test_a_narrow_made_misses_some_but_leaks_nothing(widths):
    ranks = np.random.default_rng(0).permutation(7)
    reached, earlier = made_paths(ranks, widths) > 0, ranks[:, None] < ranks
    assert (reached <= earlier).all()
    assert reached.sum() < earlier.sum()


@pytest.mark.parametrize("mask_type", "AB")
@pytest.mark.parametrize("features", [(3, 3), (3, 6), (6, 3), (9, 6)])
def test_colour_groups(mask_type, features):
    mask = masks.convolution((3, 5), *features, mask_type, groups=3)
    assert mask.shape == (3, 5, *features)
    block = np.ones((features[0] // 3, features[1] // 3), bool)
    np.testing.assert_array_equal(mask[1, 2], np.kron(np.array(COLOURS[mask_type], bool).T, block))
    before = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    mask[1, 2] = False
    np.testing.assert_array_equal(mask, np.broadcast_to(before[:, :, None, None], mask.shape))


@pytest.mark.parametrize(("mask_type", "centre"), [("A", 0), ("B", 1)])
def test_convolution_without_groups(mask_type, centre):
    mask = masks.convolution((3, 3), 2, 4, mask_type)
    expected = np.array([[1, 1, 1], [1, centre, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(mask, np.broadcast_to(expected[:, :, None, None], (3, 3, 2, 4)))


@pytest.mark.parametrize(("mask_type", "centre"), [("A", 0), ("B", 1)])
def test_convolution_along_one_axis(mask_type, centre):
    np.testing.assert_array_equal(masks.convolution((1, 5), 1, 1, mask_type)[0, :, 0, 0], [1, 1, centre, 0, 0])
    np.testing.assert_array_equal(masks.convolution((1, 1), 1, 1, mask_type).ravel(), [centre])


def test_convolution_refuses():
    with pytest.raises(ValueError, match="mask_type is 'A' or 'B', got 'C'"):
        masks.convolution((3, 3), 1, 1, "C")
    for features in ((4, 6), (6, 4)):
        with pytest.raises(ValueError, match="3 channels of the image do not divide 4 features"):
            masks.convolution((3, 3), *features, "A", groups=3)


@pytest.mark.parametrize(
    ("features", "channels", "expected"),
    [(6, 3, [0, 0, 1, 1, 2, 2]), (3, 3, [0, 1, 2]), (4, 1, [0, 0, 0, 0]), (4, 2, [0, 0, 1, 1])],
)
def test_colours(features, channels, expected):
    np.testing.assert_array_equal(masks.colours(features, channels), expected)


def test_attention_by_hand():
    """`mask[key, query]` of three positions generated in the order 1, 2, 0."""
    ranks = np.array([2, 0, 1])
    np.testing.assert_array_equal(masks.attention(ranks), [[1, 0, 0], [1, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(masks.attention(ranks, strict=True), [[0, 0, 0], [1, 0, 1], [1, 0, 0]])


def test_attention_over_an_image():
    ranks = orderings.serpentine((2, 2))
    np.testing.assert_array_equal(masks.attention(ranks), [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]])


def test_local_attention_by_hand():
    ranks = np.arange(4)
    np.testing.assert_array_equal(
        masks.local_attention(ranks, 2), [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(
        masks.local_attention(ranks, 3, strict=True), [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(masks.local_attention(ranks, 4), masks.attention(ranks))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(
        masks.local_attention(order, 2), masks.local_attention(ranks, 2)[order[:, None], order[None]]
    )


def test_strided_attention_by_hand():
    ranks = np.arange(5)
    np.testing.assert_array_equal(
        masks.strided_attention(ranks, 2),
        [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]],
    )
    np.testing.assert_array_equal(
        masks.strided_attention(ranks, 3, strict=True),
        [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(masks.strided_attention(ranks, 1), masks.attention(ranks))


def test_local_and_strided_attention_reach_everything_in_two_steps():
    """Child et al. (2019): two heads of about sqrt(n) keys each connect every pair."""
    ranks = orderings.raster((16,))
    local, strided = masks.local_attention(ranks, 4), masks.strided_attention(ranks, 4)
    np.testing.assert_array_equal(strided.astype(int) @ local.astype(int) > 0, masks.attention(ranks))


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_below_one_are_refused(size):
    for make in (masks.local_attention, masks.strided_attention, masks.fixed_attention):
        with pytest.raises(ValueError, match=f"a (window|stride) of 1 or more is wanted, got {size}"):
            make(np.arange(5), size)
    with pytest.raises(ValueError, match=f"{size} channels of the image do not divide 4 features"):
        masks.colours(4, size)
