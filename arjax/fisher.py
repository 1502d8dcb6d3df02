"""Fisher scores as features: what one example asks of the parameters, `U(x) = d log p(x) / d params`.

Jaakkola and Haussler (1998); of autoregressive models, Yan et al. (2019), "Natural image manipulation for
autoregressive models using Fisher scores", arXiv 1912.05015. A score is as long as there are parameters, so it is
projected to a fixed length as soon as it is known. Its mean over the model's own distribution is zero.

Deviations from Yan et al.: the projection has one entry for each parameter, of random sign and in a random place
(Weinberger et al., 2009, arXiv 0902.2206), which keeps inner products as well as a dense one does and needs no
memory; scores may be divided by the square root of the diagonal of the Fisher information.
"""

import re
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from arjax.checks import check_cond, check_data
from arjax.likelihood import score
from arjax.modules import hashable

CHUNK = 16
"""Examples whose gradients are held at once by default."""


def features(
    model: Any,
    variables: Any,
    x: ArrayLike,
    cond: Any = None,
    *,
    size: int = 1024,
    seed: int = 0,
    layers: str | None = None,
    diagonal: Any = None,
    damping: float = 1e-2,
    chunk: int = CHUNK,
) -> Float[np.ndarray, "n size"]:
    """The Fisher score of each example, projected to `size` numbers.

    Inner products are those of the scores up to the projection: the error of a squared distance is about
    `sqrt(2 / size)` of it. The memory needed is that of the gradients of `chunk` examples, however many there are.

    Args:
        model: a model with a likelihood.
        variables: its variables, such as `{"params": ...}`.
        x: data `(n, *event)`.
        cond: conditioning as the model wants it, one per example.
        size: numbers per example.
        seed: of the projection. That of a parameter array depends on this and its name only.
        layers: a regular expression; only parameters in whose name (such as `Dense_0/kernel`) it is found count.
        diagonal: of the Fisher information, as `diagonal` gives it; scores are then divided by its square root.
        damping: this times the mean of an array of the diagonal is added to it before that.
        chunk: examples at once.

    Raises:
        ValueError: as `arjax.log_prob`; no parameter is of these layers, or size or chunk is less than 1.
    """
    model, pieces, n = _pieces(model, x, cond, chunk)
    if size < 1:
        raise ValueError(f"size: 1 or more is wanted, got {size}")
    _chosen(variables["params"], layers)
    rows = [_projected(model, variables, *piece, size, seed, layers, diagonal, damping) for piece in pieces]
    return np.concatenate([np.asarray(row) for row in rows])[:n]


def diagonal(model: Any, variables: Any, x: ArrayLike, cond: Any = None, *, chunk: int = CHUNK) -> Any:
    """The diagonal of the Fisher information, estimated: the mean of the squares of the examples' scores.

    A tree of arrays like `variables["params"]`. Of the model's own samples it is that of the Fisher information
    itself, of data the empirical one. Arguments and errors as for `features`.
    """
    model, pieces, n = _pieces(model, x, cond, chunk)
    total = jax.tree.map(jnp.zeros_like, variables["params"])
    for i, piece in enumerate(pieces):
        counted = (np.arange(chunk) < n - i * chunk).astype(np.float32)
        total = jax.tree.map(jnp.add, total, _squares(model, variables, *piece, counted))
    return jax.tree.map(lambda leaf: leaf / n, total)


def kernel(a: Float[ArrayLike, "n size"], b: Float[ArrayLike, "m size"]) -> Float[Array, "n m"]:
    """The Fisher kernel of two sets of features: inner products, `U(x)^T F^-1 U(y)` if F's diagonal was used.

    Raises:
        ValueError: features of different lengths.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features (n, size) and (m, size) of one size are wanted, got {a.shape} and {b.shape}")
    return a @ b.T


def _pieces(model: Any, x: Any, cond: Any, chunk: int) -> tuple[Any, list[tuple[Any, Any]], int]:
    """The hashable model, data and conditioning in chunks, the last of them filled up, and their number."""
    model = hashable(model)
    x = np.asarray(check_data(x, model.output.levels))
    cond = check_cond(model, cond, len(x))
    if chunk < 1:
        raise ValueError(f"chunk: 1 or more is wanted, got {chunk}")
    places = np.minimum(np.arange(-(-len(x) // chunk) * chunk), len(x) - 1).reshape(-1, chunk)
    return model, [jax.tree.map(lambda leaf, at=at: np.asarray(leaf)[at], (x, cond)) for at in places], len(x)


def _chosen(tree: Any, layers: str | None) -> dict[str, Any]:
    """The arrays of a tree by name, those of the layers."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    chosen = {name: leaf for name, leaf in leaves.items() if layers is None or re.search(layers, name)}
    if not chosen:
        raise ValueError(f"layers: a part of one of {', '.join(leaves)} is wanted, got {layers!r}")
    return chosen


@partial(jax.jit, static_argnames=("model", "size", "layers"))
def _projected(model, variables, x, cond, size, seed, layers, diagonal, damping):
    total = jnp.zeros((len(x), size), jnp.float32)
    scales = {} if diagonal is None else _chosen(diagonal, layers)
    for name, grads in _chosen(score(model, variables, x, cond), layers).items():
        if diagonal is not None:
            scale = scales[name]
            grads = grads / jnp.sqrt(scale + damping * scale.mean() + jnp.finfo(jnp.float32).tiny)[None]
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
        total = total + _sketch(key, grads.reshape(len(x), -1).astype(jnp.float32), size)
    return total


def _sketch(key: Array, values: Float[Array, "b d"], size: int) -> Float[Array, "b size"]:
    """Each of d numbers, with a random sign, added to one of `size` places."""
    where, sign = jax.random.split(key)
    places = jax.random.randint(where, values.shape[1:], 0, size, jnp.int32)
    signed = values * jax.random.rademacher(sign, values.shape[1:], jnp.float32)[None]
    return jnp.zeros((len(values), size), jnp.float32).at[:, places].add(signed)


@partial(jax.jit, static_argnames="model")
def _squares(model, variables, x, cond, counted):
    grads = score(model, variables, x, cond)
    return jax.tree.map(lambda leaf: jnp.tensordot(counted, leaf.astype(jnp.float32) ** 2, 1), grads)
