"""Grey images in generated colours."""

import numpy as np

from arjax.data.dataset import Dataset
from arjax.data.splits import SPLITS


def colour(grey: Dataset, name: str) -> Dataset:
    """Gives each image a palette of its own: shapes and labels are real, the colours are generated.

    The ink has one of 18 hues, full saturation and full brightness; the paper, always darker, is one of the 8
    colours whose channels are 0 or 1. What lies between is mixed and rounded. The palette of an example depends
    on nothing but the split and the example's index.

    Args:
        grey: images `(n, h, w, 1)`.
        name: what the result is called.

    Returns:
        Images `(n, h, w, 3)` of 4 levels, with the labels of `grey`.

    Raises:
        ValueError: `grey` holds anything but images of one channel.
    """
    if len(grey.event) != 3 or grey.event[2] != 1:
        raise ValueError(f"{grey.name} has examples of shape {grey.event}, wanted (height, width, 1)")
    rng, top = np.random.default_rng((0, SPLITS.index(grey.split))), grey.levels - 1
    draws = rng.integers(0, (18, 2, 2, 2), (len(grey), 4), dtype=np.int16)
    hue, paper = draws[:, :1], draws[:, 1:]
    ink = np.clip(abs((hue + np.array([0, 12, 6], np.int16)) % 18 - 9) - 3, 0, 3)
    shade = np.arange(grey.levels, dtype=np.int16)[:, None]
    palettes = (paper[:, None] * (top - shade) + ink[:, None] * shade + top // 2) // top
    x = np.stack(
        [palette[image] for palette, image in zip(palettes.astype(np.uint8), grey.x[..., 0], strict=True)]
    )
    return Dataset(x, grey.labels, 4, name, grey.split, grey.num_classes)
