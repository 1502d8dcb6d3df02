"""PixelCNN with auxiliary variables, Kolesnikov and Lampert (2017), arXiv 1612.08185.

An image is generated after views of itself: its gray version of 4 bits (Grayscale PixelCNN), or smaller and
smaller versions (Pyramid PixelCNN). A view holds what is seen first of an image, at a small part of its bits.

A view g is a function of the image, so the image has one view that it goes with, and

    log p(x) >= log p(x, g(x)) = log p(g(x)) + log p(x | g(x))

The log-probabilities of these models are that lower bound: bits per dimension are at most (`<=`) what is reported.
The bound is tight where the model of the image never contradicts its view.

Deviations: views are rounded by integer arithmetic, the same everywhere; all stages are trained at once; they are
any conditional models, of which `PixelCNNPP` is the paper's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from arjax.decoding import Draw, Drawn, Part, Plan
from arjax.layers import scale
from arjax.models import stages


class Auxiliary(nn.Module):
    """An image after its views, each given the one before it.

    A sample is a dictionary of the image, `x`, and of its views by their names. Evidence likewise, but what a view
    is by the evidence on the image need not be given.

    Attributes:
        views: from fine to coarse, each a view of the one before, the first one of the image: `arjax.parts.Gray`,
            `arjax.parts.Smaller`.
        models: of the coarsest view, ..., of the finest one, of the image: one more than views. All but the first
            have a `cond` of what its context makes, such as `arjax.layers.Map`.
        contexts: of all models but the first, `arjax.layers.Context`: from the view before to a model's `cond`.
    """

    views: tuple[Any, ...]
    models: tuple[Any, ...]
    contexts: tuple[Any, ...]

    def setup(self):
        """Raises `ValueError` unless there is a model for each view and for the image, and views have names."""
        count = len(self.views) + 1
        if len(self.models) != count or len(self.contexts) != count - 1:
            raise ValueError(
                f"{count} models and {count - 1} contexts are wanted for {count - 1} views, "
                f"got {len(self.models)} and {len(self.contexts)}"
            )
        if len({"x", *self._names()}) != count:
            raise ValueError(f"names of the views are wanted that differ, none of them x, got {self._names()}")

    @property
    def output(self) -> Any:
        """That of the image."""
        return self.models[-1].output

    @property
    def conditioning(self) -> Any:
        """What the whole is conditioned on: that of the first stage."""
        return getattr(self.models[0], "conditioning", None)

    def _names(self) -> list[str]:
        return [view.name for view in self.views]

    def _stages(self) -> list[str]:
        """The parts in the order of generation."""
        return [*reversed(self._names()), "x"]

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """The parts of a sample by name, `x` being the image of `shape`."""
        x = jax.eval_shape(self.split, jax.ShapeDtypeStruct(shape, jnp.int32))
        return {
            name: Part(x[name].shape, model.output.levels)
            for name, model in zip(self._stages(), self.models, strict=True)
        }

    def split(self, x: Array) -> dict[str, Array]:
        """An image and its views, by name."""
        found = {"x": x}
        for view in self.views:
            x = found[view.name] = view(x)
        return found

    def log_prob(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """A lower bound of the log-probability of images `Int[b, h, w, channels]`, in nats: `Float[b]`."""
        return stages.total(self.log_probs(x, cond, train=train))

    def log_probs(self, x: Array, cond: Any = None, *, train: bool = False) -> dict[str, Array]:
        """The log-probability of each part given the one before it, `Float[b]` each, in nats."""
        found = self.split(x)
        return {
            name: stages.log_prob(self.models[i], found[name], self._given(i, found, cond, train), train=train)
            for i, name in enumerate(self._stages())
        }

    def generate(self, draw: Draw, plan: Plan, cond: Any = None) -> Drawn:
        """Part after part; `plan` is of all parts, what the image tells of its views is filled in."""
        plan = stages.completed(plan, self.views)
        drawn: dict[str, Drawn] = {}
        for i, name in enumerate(self._stages()):
            own = Plan(*(None if tree is None else tree[name] for tree in plan))
            found = {before: stage.values for before, stage in drawn.items()}
            drawn[name] = draw.stage(self.models[i], own, self._given(i, found, cond, train=False))
        return stages.chained({name: stage.values for name, stage in drawn.items()}, *drawn.values())

    def check_plan(self, plan: Plan) -> None:
        """Raises `ValueError` where evidence on a view contradicts that on what it is a view of."""
        stages.check_views(plan, self.views)

    def _given(self, i: int, found: dict[str, Array], cond: Any, train: bool) -> Any:
        """The `cond` of stage `i`."""
        if i == 0:
            return cond
        before, levels = found[self._stages()[i - 1]], self.models[i - 1].output.levels
        return self.contexts[i - 1](stages.with_cond(scale(before, levels), self.models[0], cond), train)
