"""Functions with a rule of their own, for what the rules of their primitives cannot say or would make slow."""

import functools
from collections.abc import Callable
from typing import Any

import jax

RULES: dict[str, Callable[[Any, list[Any]], Any]] = {}
"""By the name that a function has in a jaxpr."""


def custom(function: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a sampler sees it: one operation, whose step is made by `rule`.

    Args:
        function: `function(*arrays, **settings)`, the parallel pass, to an array or a tuple of them; settings can
            be hashed.
        rule: `rule(level, ins, **settings)`, from what the level knows of the arrays to the list of what it knows
            of the results; it raises `NoRule` where it does not hold: the function's own operations are used then.

    Returns:
        A function to call instead, compiled as one.
    """

    @functools.cache
    def of(**settings: Any) -> Callable[..., Any]:
        def call(*arrays: Any) -> Any:
            return function(*arrays, **settings)

        call.__name__ = f"{function.__module__}.{function.__qualname__} {len(RULES)}"
        RULES[call.__name__] = functools.partial(rule, **settings)
        return jax.jit(call)

    return functools.wraps(function)(lambda *arrays, **settings: of(**settings)(*arrays))
