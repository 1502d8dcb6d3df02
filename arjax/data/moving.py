"""Images that move: short videos, generated from still ones."""

import numpy as np

from arjax.data.dataset import Dataset
from arjax.data.splits import SPLITS

FASTEST = 2
"""Pixels from a frame to the next at most, along each axis."""


def move(still: Dataset, name: str, *, frames: int = 8, side: int = 16) -> Dataset:
    """Moves each image along a straight path within a larger square, at whose edges it is reflected.

    Shapes and labels are real, where an image starts and how it moves is drawn: a place in the square, and -2 to 2
    pixels a frame along each axis, not 0 along both. The path of an example depends on nothing but the split and
    the example's index.

    Args:
        still: images `(n, h, w, 1)`; level 0 is the ground.
        name: what the result is called.
        frames: frames of a video, 2 or more.
        side: side of the square, larger than the images.

    Returns:
        Videos `(n, side, side, frames)`, the frames being the channels of an image, with the levels and labels of
        `still`.

    Raises:
        ValueError: `still` holds anything but images of one channel, the square has no room for them to move, or
            there are fewer than 2 frames.
    """
    if len(still.event) != 3 or still.event[2] != 1:
        raise ValueError(f"{still.name} has examples of shape {still.event}, wanted (height, width, 1)")
    height, width, _ = still.event
    if side <= max(height, width) or frames < 2:
        raise ValueError(
            f"2 frames or more of a side of more than {max(height, width)} are wanted, got {frames} of {side}"
        )
    rng = np.random.default_rng((1, SPLITS.index(still.split)))
    room = np.array([side - height, side - width])
    start = rng.integers(0, room + 1, (len(still), 2))
    velocities = np.array([v for v in np.ndindex(2 * FASTEST + 1, 2 * FASTEST + 1) if v != (FASTEST, FASTEST)])
    velocity = velocities[rng.integers(0, len(velocities), len(still))] - FASTEST
    path = start[:, None] + velocity[:, None] * np.arange(frames)[:, None]
    place = room - abs(path % (2 * room) - room)
    rows, columns = (place[..., i, None] + np.arange(size) for i, size in enumerate((height, width)))
    x = np.zeros((len(still), frames, side, side), still.x.dtype)
    example, frame = np.indices((len(still), frames))[..., None, None]
    x[example, frame, rows[..., :, None], columns[..., None, :]] = still.x[:, None, :, :, 0]
    return Dataset(np.moveaxis(x, 1, -1), still.labels, still.levels, name, still.split, still.num_classes)
