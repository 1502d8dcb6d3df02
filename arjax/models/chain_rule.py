"""The chain rule taken literally: one small network per conditional.

`p(x) = prod_i p(x_i | parents_i)`: with all earlier variables as parents this is the full chain, with fewer it
is a sparse Bayes net. Nothing is shared between conditionals, which is what every later model adds.
"""

import graphlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from arjax.decoding import Draw, Drawn, Plan
from arjax.layers import one_hot


class ChainRule(nn.Module):
    """A multi-layer perceptron per variable, on one-hot codes of its parents.

    Attributes:
        size: number of variables D.
        output: the distribution of a variable.
        hidden: widths of the hidden layers.
        parents: for each variable the variables it depends on, an acyclic graph; None means all before it.
    """

    size: int
    output: Any
    hidden: tuple[int, ...] = (64,)
    parents: tuple[tuple[int, ...], ...] | None = None

    def setup(self):
        """Creates the layers. Raises `ValueError` if the parents are no acyclic graph."""
        self.order()
        widths = [*self.hidden, self.output.num_params]
        self.conditionals = [[nn.Dense(width) for width in widths] for _ in range(self.size)]

    def __call__(self, x: Array, cond: None = None, *, train: bool = False) -> Array:
        """Data `Int[b, D]` to parameters `Float[b, D, num_params]`."""
        if cond is not None:
            raise ValueError("a chain-rule model takes no cond")
        if x.shape[1:] != (self.size,):
            raise ValueError(f"events of shape {(self.size,)} are wanted, got {x.shape[1:]}")
        return jnp.stack([self.conditional(i, x) for i in range(self.size)], 1)

    def conditional(self, i: int, x: Array) -> Array:
        """Parameters of variable `i` given its parents in `Int[b, D]`. Shape `(b, num_params)`."""
        parents = self.graph()[i]
        if not parents:
            h = jnp.ones((x.shape[0], 1), jnp.float32)
        else:
            h = one_hot(x[:, np.array(parents)], self.output.levels).reshape(x.shape[0], -1)
        *hidden, last = self.conditionals[i]
        for layer in hidden:
            h = nn.relu(layer(h))
        return last(h)

    def graph(self) -> tuple[tuple[int, ...], ...]:
        """The parents of each variable."""
        return self.parents or tuple(tuple(range(i)) for i in range(self.size))

    def order(self) -> tuple[int, ...]:
        """Variables in an order of generation: parents first. Raises `ValueError` if there is none."""
        graph = self.graph()
        known = set(range(self.size))
        if len(graph) != self.size or not all(known.issuperset(parents) for parents in graph):
            raise ValueError(f"parents are {self.size} tuples of variables 0..{self.size - 1}, got {graph}")
        try:
            return tuple(graphlib.TopologicalSorter(dict(enumerate(graph))).static_order())
        except graphlib.CycleError as error:
            raise ValueError(f"parents have a cycle: {error.args[1]}") from error

    def ranks(self) -> np.ndarray:
        """The step at which each variable is generated. Shape `(D,)`."""
        return np.argsort(self.order())

    def generate(self, draw: Draw, plan: Plan, cond: None = None) -> Drawn:
        """Each conditional is evaluated once, parents first."""
        drawn = draw.nothing(plan.noise.shape)
        for i in self.order():
            new = draw(self.conditional(i, drawn.values), plan.at(np.s_[:, i]))
            drawn = jax.tree.map(lambda old, new, i=i: old.at[:, i].set(new), drawn, new)
        return drawn
