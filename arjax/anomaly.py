"""Anomaly scores from likelihoods: the higher, the less an example is like the data that a model was trained on.

Pure functions of log-probabilities in nats (`arjax.log_prob`) and of data. The likelihood alone is known to fail:
models give simple images of another kind more probability than those they were trained on (Nalisnick et al., 2018,
arXiv 1810.09136). The other three scores are remedies:

- `likelihood_ratio`: Ren et al. (2019), "Likelihood ratios for out-of-distribution detection", arXiv 1906.02845;
- `input_complexity`: Serra et al. (2020), "Input complexity and out-of-distribution detection with
  likelihood-based generative models", arXiv 1909.11480;
- `typicality`: Nalisnick et al. (2019), "Detecting out-of-distribution inputs to deep generative models using
  typicality", arXiv 1906.02994.

Scores of different events compare only if these have the same shape.
"""

import io
import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from arjax.checks import check_data
from arjax.extras import require


def negative_log_likelihood(log_probs: Float[ArrayLike, "n"]) -> Float[np.ndarray, "n"]:
    """`-log p(x)` in nats: the score that the others are to be better than."""
    return -_checked(log_probs, "log_probs")


def likelihood_ratio(
    log_probs: Float[ArrayLike, "n"], background: Float[ArrayLike, "n"]
) -> Float[np.ndarray, "n"]:
    """`-(log p(x) - log p_background(x))` in nats: the ratio of the paper with its sign turned.

    Args:
        log_probs: of the model.
        background: of the same examples under a model of the same kind trained on data whose values were in part
            replaced by noise (`mutate`): it knows what images of any kind have in common.

    Raises:
        ValueError: the two are not of the same shape, or not finite.
    """
    own, other = _checked(log_probs, "log_probs"), _checked(background, "background")
    if own.shape != other.shape:
        raise ValueError(f"background: one for each of {len(own)} examples is wanted, got {len(other)}")
    return other - own


def mutate(key: Array, x: Int[ArrayLike, "n ..."], levels: int, rate: float) -> Int[Array, "n ..."]:
    """Data for a background model: each value is replaced with probability `rate` by one uniform over all levels.

    Ren et al. chose the rate from 0.1 to 0.3.

    Raises:
        ValueError: `x` is not of integers `0..levels-1`, or `rate` is not in [0, 1].
    """
    x = jnp.asarray(check_data(x, levels))
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: a probability is wanted, got {rate}")
    which, what = jax.random.split(key)
    noise = jax.random.randint(what, x.shape, 0, levels, x.dtype)
    return jnp.where(jax.random.bernoulli(which, rate, x.shape), noise, x)


def input_complexity(
    log_probs: Float[ArrayLike, "n"],
    x: Int[ArrayLike, "n ..."],
    compressor: Callable[[Int[np.ndarray, "..."]], int] | None = None,
) -> Float[np.ndarray, "n"]:
    """`-log2 p(x) - L(x)` in bits, L being those of the example as a file.

    Args:
        log_probs: of the model.
        x: the examples, integers of 0 or more.
        compressor: from an example to its length in bits. By default `png_bits` for images of 1 or 3 channels of
            at most 256 levels if pillow is installed, else `zlib_bits`.

    Raises:
        ValueError: there is not one log-probability for each example, or it is not finite.
    """
    nats, x = _checked(log_probs, "log_probs"), np.asarray(x)
    check_data(x, int(np.iinfo(x.dtype).max) + 1 if x.dtype.kind in "iu" else 2)
    if len(x) != len(nats):
        raise ValueError(f"x: one for each of {len(nats)} log-probabilities is wanted, got {len(x)}")
    if compressor is None:
        images = x.ndim == 4 and x.shape[-1] in (1, 3) and x.max() < 256
        compressor = png_bits if images else zlib_bits
    return -nats / math.log(2) - np.array([compressor(example) for example in x], np.float64)


def zlib_bits(example: Int[np.ndarray, "..."]) -> int:
    """Bits of an example of at most 65,536 levels, compressed by zlib as hard as it can."""
    dtype = np.uint8 if example.max(initial=0) < 256 else np.uint16
    return 8 * len(zlib.compress(example.astype(dtype).tobytes(), 9))


def png_bits(example: Int[np.ndarray, "h w c"]) -> int:
    """Bits of an image of 1 or 3 channels and at most 256 levels as a PNG file; `ImportError` without pillow."""
    pillow = require("PIL.Image", "experiments")
    file = io.BytesIO()
    pixels = example.astype(np.uint8)
    pillow.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)
    return 8 * file.getbuffer().nbytes


def typicality(log_probs: Float[ArrayLike, "n"], train: Float[ArrayLike, "m"]) -> Float[np.ndarray, "n"]:
    """`|-log p(x) - H|` in nats, H being the mean over the training data.

    Args:
        log_probs: of the examples to be judged.
        train: of training data, or of data like them that the model was not trained on, which is fairer.

    Raises:
        ValueError: not of shape `(n,)`, empty or not finite.
    """
    return np.abs(_checked(log_probs, "log_probs") - _checked(train, "train").mean())


def _checked(values: ArrayLike, name: str) -> Float[np.ndarray, "n"]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name}: one number for each example is wanted, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: finite numbers are wanted, got {array[~np.isfinite(array)][0]}")
    return array
