"""MADE, Germain et al. (2015), "MADE: masked autoencoder for distribution estimation".

An autoencoder whose weights are masked so that each output depends on the inputs before it in some order.
Training may draw a new order (section 4.1) and new hidden degrees (section 4.2) for every batch, which trains an
ensemble of models that share their weights.

Deviations: hidden degrees are spread evenly over the variables (in random order where connectivity is agnostic)
instead of drawn independently, so every layer has every degree it has room for; a variable of more than two
levels enters as a one-hot code. With a continuous output it is the MADE of Papamakarios et al. (2017), arXiv
1705.07057: of `Normal`, or of `Mixture` for their MADE MoG.
"""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from arjax import distributions, masks, orderings
from arjax.decoding import Draw, Drawn, Plan
from arjax.layers import MaskedDense, one_hot


class MADE(nn.Module):
    """MADE over events of any shape, `Int[b, *event]`.

    A member of a mask-agnostic model is chosen by `variables["masks"] = {"seed": Int[]}` (0 if absent); training
    draws seeds from the rng stream "masks".

    Attributes:
        event: shape of an event.
        output: the distribution of a variable.
        hidden: widths of the hidden layers. With none, and direct connections, each conditional is a logistic
            regression: the fully visible sigmoid belief net (Neal, 1992; Frey et al., 1996).
        direct: whether inputs are also connected to the outputs directly.
        ordering: rank of each variable (see `arjax.orderings`), flattened; None is raster order.
        order_agnostic: whether the order depends on the seed instead.
        connectivity_agnostic: whether the hidden degrees depend on the seed.
        num_masks: training cycles through seeds `0..num_masks-1`; None draws a new seed each time.
        activation: nonlinearity of the hidden units.
        dtype: dtype of the computation; parameters are float32.
    """

    event: tuple[int, ...]
    output: Any = distributions.Bernoulli()
    hidden: tuple[int, ...] = (500,)
    direct: bool = False
    ordering: tuple[int, ...] | None = None
    order_agnostic: bool = False
    connectivity_agnostic: bool = False
    num_masks: int | None = None
    activation: Any = nn.relu
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers. Raises `ValueError` if nothing connects the inputs to the outputs."""
        if not self.hidden and not self.direct:
            raise ValueError(
                "direct=True is wanted with hidden=(), got direct=False: nothing would connect the variables"
            )
        widths = [self.size * self.code_length, *self.hidden, self.size * self.output.num_params]
        # The parameters of the first variable are biases alone: components that begin alike would stay alike.
        mixture = getattr(self.output, "num_mixtures", 1) > 1
        last_bias = nn.initializers.normal(0.5) if mixture else nn.initializers.zeros
        bias_inits = [nn.initializers.zeros] * len(self.hidden) + [last_bias]
        self.layers = [
            MaskedDense(inputs, outputs, bias_init=bias_init, dtype=self.dtype)
            for (inputs, outputs), bias_init in zip(itertools.pairwise(widths), bias_inits, strict=True)
        ]
        if self.direct and self.hidden:  # else the only layer is the direct one
            self.direct_layer = MaskedDense(widths[0], widths[-1], use_bias=False, dtype=self.dtype)

    @property
    def size(self) -> int:
        """Number of variables D."""
        return math.prod(self.event)

    @property
    def code_length(self) -> int:
        """Inputs per variable: a one-hot code without its first entry, so a binary variable is one input."""
        return 1 if self.output.levels is None else self.output.levels - 1

    def __call__(self, x: Array, cond: None = None, *, train: bool = False) -> Array:
        """Data `Int[b, *event]` to parameters `Float[b, *event, num_params]`."""
        if cond is not None:
            raise ValueError("MADE takes no cond")
        if x.shape[1:] != self.event:
            raise ValueError(f"events of shape {self.event} are wanted, got {x.shape[1:]}")
        ranks, degrees = self.degrees(self.seed(train))
        inputs, outputs = self.spread(ranks)
        h = code = self.encode(x).reshape(x.shape[0], -1)
        for layer, before, after in zip(self.layers, [inputs, *degrees], degrees, strict=False):
            h = self.activation(layer(h, masks.connect(before, after, strict=False)))
        params = self.layers[-1](h, masks.connect([inputs, *degrees][-1], outputs, strict=True))
        if self.direct and self.hidden:
            params = params + self.direct_layer(code, masks.connect(inputs, outputs, strict=True))
        return params.reshape(*x.shape, self.output.num_params).astype(jnp.float32)

    def seed(self, train: bool) -> Array:
        """The seed of the masks in use."""
        if train and self.has_rng("masks"):
            return jax.random.randint(
                self.make_rng("masks"), (), 0, self.num_masks or np.iinfo(np.int32).max, jnp.int32
            )
        return self.get_variable("masks", "seed", jnp.int32(0))

    def degrees(self, seed: Array) -> tuple[Array, list[Array]]:
        """The ranks of the variables and the degrees of each hidden layer's units (equations 11 and 14)."""
        order_key, *keys = jax.random.split(jax.random.key(seed), 1 + len(self.hidden))
        if self.order_agnostic:
            ranks = orderings.random(order_key, (self.size,))
        elif self.ordering is None:
            ranks = jnp.arange(self.size, dtype=jnp.int32)
        else:
            ranks = jnp.asarray(orderings.check(self.ordering, (self.size,)), jnp.int32)
        degrees = [jnp.asarray(masks.hidden_degrees(width, self.size), jnp.int32) for width in self.hidden]
        if self.connectivity_agnostic:
            degrees = [jax.random.permutation(key, d) for key, d in zip(keys, degrees, strict=True)]
        return ranks, degrees

    def ranks(self) -> Array:
        """The step at which each variable is generated. Shape `(D,)`."""
        return self.degrees(self.seed(train=False))[0]

    def spread(self, ranks: Array) -> tuple[Array, Array]:
        """The ranks of the inputs and of the outputs: those of their variables."""
        return jnp.repeat(ranks, self.code_length), jnp.repeat(ranks, self.output.num_params)

    def encode(self, x: Array) -> Array:
        """`Int[...] -> Float[..., code_length]`; a real number is its own code."""
        if self.output.levels is None:
            return x[..., None].astype(self.dtype)
        return one_hot(x, self.output.levels, self.dtype)[..., 1:]

    def generate(self, draw: Draw, plan: Plan, cond: None = None) -> Drawn:
        """Samples for the price of a few forward passes, in any order.

        Variables and hidden units are sorted by rank and degree and cut into blocks of about sqrt(D) ranks. A
        block takes one matrix product per layer from all earlier blocks, then goes through its variables one by
        one with its own units alone, which are final when it ends. The batch is the last axis throughout.
        """
        if cond is not None:
            raise ValueError("MADE takes no cond")
        shape, length = plan.noise.shape, round(math.sqrt(self.size))
        count = -(-self.size // length)
        ranks, degrees = self.degrees(self.seed(train=False))
        inputs, outputs = self.spread(ranks)

        variables = _blocks(orderings.inverse(ranks), np.arange(self.size), length, count)
        units = [_blocks(d.argsort(), masks.hidden_degrees(d.size, self.size), length, count) for d in degrees]
        codes, params = _members(variables, self.code_length), _members(variables, self.output.num_params)
        weights = [
            _arrange(layer.masked_kernel(masks.connect(before, after, strict=after is outputs)), rows, columns)
            for layer, before, after, rows, columns in zip(
                self.layers,
                [inputs, *degrees],
                [*degrees, outputs],
                [codes, *units],
                [*units, params],
                strict=True,
            )
        ]
        if self.direct and self.hidden:
            direct_kernel = self.direct_layer.masked_kernel(masks.connect(inputs, outputs, strict=True))
            direct = _arrange(direct_kernel, codes, params)
        else:
            direct = None
        biases = [
            _take(layer.bias.astype(self.dtype), c)[..., None]
            for layer, c in zip(self.layers, [*units, params], strict=True)
        ]
        plan = plan.map(lambda array: _take(array.reshape(shape[0], -1).T, variables))

        def block(known, slices):
            k, weights, direct, biases, plan = slices
            earlier, own = zip(*weights, strict=True)
            *hidden, output = [
                bias + w @ past.reshape(-1, shape[0]) for bias, w, past in zip(biases, earlier, known, strict=True)
            ]
            own_direct = None
            if direct is not None:
                output = output + direct[0] @ known[0].reshape(-1, shape[0])
                own_direct = _per_variable(direct[1], length)
            own_first = _per_variable(own[0], length)
            out_of_last = own[-1].reshape(length, -1, own[-1].shape[-1])
            members = (own_first, out_of_last, own_direct) if hidden else (None, None, own_first)

            def units(first):
                activations = [self.activation(first)]
                for total, w in zip(hidden[1:], own[1:], strict=False):
                    activations.append(self.activation(total + w @ activations[-1]))
                return activations

            def variable(carry, slices):
                first, output = carry
                j, into_first, out_of_last, into_output, plan = slices
                own_params = lax.dynamic_index_in_dim(output, j, keepdims=False)
                if hidden:
                    own_params = own_params + out_of_last @ units(first)[-1]
                drawn = draw(own_params.T.astype(jnp.float32), plan)
                code = self.encode(drawn.values).T
                if hidden:
                    first = first + into_first @ code
                if into_output is not None:
                    output = output + (into_output @ code).reshape(output.shape)
                return (first, output), (drawn, code)

            slices = jnp.arange(length, dtype=jnp.int32), *members, plan
            output = output.reshape(length, -1, shape[0])
            (first, _), (drawn, code) = lax.scan(variable, (hidden[0] if hidden else None, output), slices)
            news = [code.reshape(known[0].shape[1:]), *(units(first) if hidden else [])]
            known = [lax.dynamic_update_index_in_dim(a, new, k, 0) for a, new in zip(known, news, strict=True)]
            return known, drawn

        known = [jnp.zeros((*members.shape, shape[0]), self.dtype) for members in [codes, *units]]
        slices = (jnp.arange(variables.shape[0], dtype=jnp.int32), weights, direct, biases, plan)
        _, drawn = lax.scan(block, known, slices)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, shape[0])[ranks].T.reshape(shape), drawn)


def _blocks(order: Array, ranks: np.ndarray, length: int, count: int) -> Array:
    """Units in `order`, whose sorted ranks are `ranks`, cut into `count` blocks of `length` ranks.

    Indices of shape `(blocks, most units in a block)`, filled up with an index out of range.
    """
    sizes = np.bincount(ranks // length, minlength=count)
    places = np.full((sizes.size, sizes.max()), ranks.size)
    places[np.arange(sizes.max()) < sizes[:, None]] = np.arange(ranks.size)
    return jnp.append(order, ranks.size)[places]


def _members(variables: Array, count: int) -> Array:
    """The `count` inputs or outputs of each variable. `(blocks, n) -> (blocks, n * count)`."""
    return (variables[:, :, None] * count + jnp.arange(count, dtype=variables.dtype)[None, None]).reshape(
        variables.shape[0], -1
    )


def _take(array: Array, indices: Array) -> Array:
    """Rows of `array`, zeros for an index out of range."""
    return jnp.take(array, indices, axis=0, mode="fill", fill_value=0)


def _arrange(kernel: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
    """A kernel by blocks of its columns: the weights from all blocks of rows, and those from the block's own.

    Shapes `(blocks, columns in a block, all rows)` and `(blocks, columns in a block, rows in a block)`.
    """
    weights = _take(_take(kernel, rows.reshape(-1)).T, columns).reshape(*columns.shape, *rows.shape)
    blocks = jnp.arange(len(rows), dtype=jnp.int32)
    return weights.reshape(*columns.shape, -1), weights[blocks, :, blocks]


def _per_variable(weights: Array, length: int) -> Array:
    """Weights from each variable of a block: `(out, length * code) -> (length, out, code)`."""
    return jnp.moveaxis(weights.reshape(weights.shape[0], length, -1), 1, 0)
