"""Moving images, generated from still ones."""

import re

import numpy as np
import pytest

from arjax.data import SPLITS, Dataset, load, move


def test_moving_digits():
    """Every frame shows the whole digit, each time moved as far as before or reflected."""
    for split in SPLITS:
        still, moving = load("digits", split).quantize(4), load("moving_digits", split)
        assert (moving.event, moving.levels, len(moving)) == ((16, 16, 8), 4, len(still))
        np.testing.assert_array_equal(moving.labels, still.labels)
        np.testing.assert_array_equal(moving.x, load("moving_digits", split).x)
        for video, image in zip(moving.x[:40], still.x[:40, ..., 0], strict=True):
            places = []
            for frame in np.moveaxis(video, -1, 0):
                found = [
                    place
                    for place in np.ndindex(9, 9)
                    if np.array_equal(frame[place[0] :, place[1] :][:8, :8], image)
                ]
                assert frame.sum() == image.sum()
                (place,) = found
                places.append(place)
            steps = np.diff(places, axis=0)
            assert abs(steps).max() <= 2
            assert abs(steps).max(1).max() > 0
            inner = abs(np.array(places) - 4) <= 2
            away = inner[1:] & inner[:-1]  # from all edges, at which a step is shorter
            for axis in range(2):
                assert len(set(abs(steps[away[:, axis], axis]))) <= 1
    assert not np.array_equal(load("moving_digits", "valid").x[:100], load("moving_digits", "train").x[:100])


def test_other_sizes():
    still = Dataset(np.random.default_rng(0).integers(1, 5, (6, 2, 3, 1)), levels=5)
    moving = move(still, "mine", frames=20, side=4)
    assert moving.event == (4, 4, 20)
    assert moving.labels is None
    assert ((moving.x > 0).sum((1, 2)) == 6).all()
    corners = np.argwhere(moving.x.any(-1)[:, 0, 0])
    assert len(corners), "they reach the edges"


@pytest.mark.parametrize(
    ("event", "frames", "side", "message"),
    [
        ((4, 4, 3), 8, 16, "mine has examples of shape (4, 4, 3), wanted (height, width, 1)"),
        ((4,), 8, 16, "mine has examples of shape (4,), wanted (height, width, 1)"),
        ((4, 6, 1), 8, 6, "2 frames or more of a side of more than 6 are wanted, got 8 of 6"),
        ((4, 6, 1), 1, 9, "2 frames or more of a side of more than 6 are wanted, got 1 of 9"),
    ],
)
def test_what_cannot_move(event, frames, side, message):
    still = Dataset(np.ones((2, *event), int), name="mine")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        move(still, "moving", frames=frames, side=side)
