import math

import jax
import numpy as np
import pytest

from arjax import orderings

ORDERS = {
    "raster": orderings.raster,
    "column": orderings.column,
    "serpentine": orderings.serpentine,
    "zigzag": orderings.zigzag,
    "subscale": lambda shape: orderings.subscale(shape, math.gcd(*shape)),
    "random": lambda shape: np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape),
}

BY_HAND = {
    "raster": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
    "column": [[0, 3, 6], [1, 4, 7], [2, 5, 8]],
    "serpentine": [[0, 1, 2], [5, 4, 3], [6, 7, 8]],
    "zigzag": [[0, 1, 3], [2, 4, 6], [5, 7, 8]],
    "subscale": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 6), (6, 2), (1, 5)])
def test_each_position_has_its_step(name, shape):
    ranks = ORDERS[name](shape)
    assert ranks.shape == shape
    np.testing.assert_array_equal(np.sort(ranks.ravel()), np.arange(math.prod(shape)))
    np.testing.assert_array_equal(orderings.check(ranks, shape), ranks)


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    np.testing.assert_array_equal(ORDERS[name]((3, 3)), BY_HAND[name])


def test_subscale_by_hand():
    np.testing.assert_array_equal(
        orderings.subscale((4, 4), 2), [[0, 4, 1, 5], [8, 12, 9, 13], [2, 6, 3, 7], [10, 14, 11, 15]]
    )
    np.testing.assert_array_equal(orderings.subscale((2, 4), 2), [[0, 2, 1, 3], [4, 6, 5, 7]])


def test_raster_of_any_shape():
    np.testing.assert_array_equal(orderings.raster((5,)), np.arange(5))
    np.testing.assert_array_equal(orderings.raster((2, 2, 3)), np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize("name", ORDERS)
def test_inverse_lists_positions_in_their_order(name):
    ranks = ORDERS[name]((4, 6))
    positions = orderings.inverse(ranks)
    np.testing.assert_array_equal(ranks.ravel()[positions], np.arange(24))


def test_inverse_by_hand():
    np.testing.assert_array_equal(orderings.inverse(np.array([2, 0, 1])), [1, 2, 0])
    np.testing.assert_array_equal(jax.jit(orderings.inverse)(np.array([2, 0, 1])), [1, 2, 0])


def test_random_is_a_traceable_function_of_its_key():
    order = jax.jit(lambda seed: orderings.random(jax.random.key(seed), (3, 4)))
    orders = np.stack([order(seed) for seed in range(200)])
    np.testing.assert_array_equal(np.sort(orders.reshape(200, -1), -1), np.tile(np.arange(12), (200, 1)))
    np.testing.assert_array_equal(orders[7], order(7))
    assert len({order.tobytes() for order in orders}) == 200
    # Uniform: a position's mean step is 5.5, its standard deviation 3.45 / sqrt(200).
    assert np.abs(orders.mean(0) - 5.5).max() < 5 * 3.45 / math.sqrt(200)


@pytest.mark.parametrize(("shape", "factor"), [((4, 6), 4), ((3, 4), 2), ((4, 3), 2), ((4, 4), 0), ((4, 4), -2)])
def test_subscale_refuses_a_factor_that_does_not_divide(shape, factor):
    with pytest.raises(ValueError, match=f"factor {factor} does not divide .* {shape[0]}x{shape[1]}"):
        orderings.subscale(shape, factor)


@pytest.mark.parametrize("ranks", [[0, 1, 1, 2], [1, 2, 3, 4], [0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, -1]])
def test_check_refuses_what_is_no_order(ranks):
    with pytest.raises(ValueError, match=r"\(2, 2\) holds each of 0..3 once, got \[" + ", ".join(map(str, ranks))):
        orderings.check(ranks, (2, 2))


def test_check_gives_the_event_its_shape():
    ranks = orderings.check((3, 1, 0, 2), (2, 2))
    np.testing.assert_array_equal(ranks, [[3, 1], [0, 2]])
