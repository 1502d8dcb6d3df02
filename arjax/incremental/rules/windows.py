"""Rules of pooling."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Loop, NoRule, bind, shape_of
from arjax.incremental.rules.common import each, rewritten, rule
from arjax.incremental.values import Value


@rule("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def reduce_window(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Over other axes; over a few neighbouring positions, which are taken one by one."""
    (a,), p = ins, eqn.params
    size, stride, padding, dilation = (
        p[name][a.axis] for name in ("window_dimensions", "window_strides", "padding", "window_dilation")
    )
    if p["base_dilation"][a.axis] != 1 or size > FEW_NEIGHBOURS or a.history is not None:
        raise NoRule(f"{level.where(eqn)} takes {size} positions along {level.named_axis(ins)}")
    if (size, stride, tuple(padding)) == (1, 1, (0, 0)):
        return each(level, eqn, ins, a.axis)
    combine = {"sum": lax.add, "max": lax.max, "min": lax.min}[eqn.primitive.name.rsplit("_", 1)[1]]
    nothing = np.zeros((), a.dtype) if combine is lax.add else extreme(a.dtype, combine is lax.max)
    changed = {
        name: tuple(value if i == a.axis else n for i, n in enumerate(p[name]))
        for name, value in (
            ("window_dimensions", 1),
            ("window_strides", 1),
            ("window_dilation", 1),
            ("padding", (0, 0)),
        )
    }
    count = shape_of(eqn)[a.axis]

    def function(x: Any) -> Any:
        x = bind(eqn, x, **changed)
        x = lax.pad(x, jnp.asarray(nothing), [(*padding, 0) if i == a.axis else (0, 0, 0) for i in range(x.ndim)])
        starts = range(0, size * dilation, dilation)
        near = [lax.slice_in_dim(x, s, s + (count - 1) * stride + 1, stride, a.axis) for s in starts]
        return functools.reduce(combine, near)

    return rewritten(level, eqn, ins, function)


FEW_NEIGHBOURS = 64
"""Positions at most of a window that is taken apart."""


def extreme(dtype: Any, least: bool) -> np.ndarray:
    """The least or the greatest number of a type."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.asarray(-np.inf if least else np.inf, dtype)
    return np.asarray(jnp.iinfo(dtype).min if least else jnp.iinfo(dtype).max, dtype)
