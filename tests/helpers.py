"""What several test files need: random parameters, noise, all events, the parameters of the cached sampler."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arjax
from arjax import sampling
from arjax.decoding import Draw, Plan
from arjax.modules import forward, init


def integers(levels, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.int32)


def random_variables(model, *args, scale=0.3, seed=1, **options):
    """Variables as after some training, as numpy: none is zero, and kernels keep the size of what they are given.

    Drawing them with `model.init` would cost many times as much, most of it compilation. Of `args` those that are
    None are left out.
    """
    shapes = jax.eval_shape(functools.partial(init, model, **options), jax.random.key(0), *args)
    rng = np.random.default_rng(seed)

    def random(path, leaf):
        fan_in = leaf.size // leaf.shape[-1] if path[-1].key == "kernel" else np.inf
        noise = np.sqrt(scale**2 + 1 / fan_in) * rng.normal(size=leaf.shape)
        return (noise + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(random, shapes)


def noise_for(model, shape, seed=0):
    """Uniform noise of a batch of samples whose data have this shape; if samples have parts, of each."""
    rng = np.random.default_rng(seed)
    if hasattr(model, "parts"):
        return {name: rng.random(part.shape, np.float32) for name, part in model.parts(shape).items()}
    return rng.random(shape, np.float32)


def resize(array, count):
    """`x` or `cond` of as many examples, the same ones again and again."""
    return jax.tree.map(lambda leaf: np.resize(leaf, (count, *leaf.shape[1:])), array)


def repeat(array, count, first=0):
    """An example of `x` or `cond` so many times."""
    return jax.tree.map(lambda leaf: np.repeat(leaf[first : first + 1], count, 0), array)


def events(levels, event):
    """All events, as a batch."""
    every = itertools.product(range(levels), repeat=math.prod(event))
    return np.array(list(every), np.int32).reshape(-1, *event)


def log_probs_of(model, variables, x, cond, batch=4096):
    """`arjax.log_prob` in batches of one size, each example given the first `cond`."""
    batch = min(batch, len(x))
    padded = np.resize(x, (-(-len(x) // batch) * batch, *x.shape[1:])).reshape(-1, batch, *x.shape[1:])
    found = [arjax.log_prob(model, variables, chunk, repeat(cond, batch)) for chunk in padded]
    return np.concatenate(found).astype(np.float64)[: len(x)]


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, x, cond=None):
    return forward(model, variables, x, cond)


class Stepped(NamedTuple):
    values: jax.Array
    params: tuple[jax.Array, ...]


class ParamsToo(Draw):
    def __call__(self, params, plan):
        values = super().__call__(params, plan).values
        return Stepped(values, tuple(params[..., i] for i in range(params.shape[-1])))


@functools.partial(jax.jit, static_argnums=0)
def stepped(model, variables, plan, cond=None):
    """Data by the cached sampler, and the parameters of every conditional as it computes them one by one."""

    drawn = sampling._cached(model, variables, plan, cond, ParamsToo(model.output))
    return drawn.values, jnp.stack(drawn.params, -1)


def stepped_params(model, variables, x, cond=None):
    """The parameters of every conditional of `x` by teacher forcing through the cached sampler."""
    plan = Plan(jnp.zeros(x.shape), jnp.asarray(x), jnp.ones(x.shape, bool))
    same, params = stepped(model, variables, plan, cond)
    np.testing.assert_array_equal(same, x)
    return params


def seen_through(field, height, width, offsets):
    """What each pixel of an image sees (`field[i, j]`: pixel i sees pixel j) through the pixels at `offsets`."""
    grid = np.arange(height * width).reshape(height, width)
    seen = np.zeros_like(field)
    for (r, c), (dr, dc) in itertools.product(np.ndindex(height, width), offsets):
        if 0 <= r + dr < height and 0 <= c + dc < width:
            seen[grid[r, c]] |= field[grid[r + dr, c + dc]]
    return seen


def pixelcnn_field(model, height, width):
    """`field[i, j]`: whether pixel i of a PixelCNN sees pixel j before it, from the masks alone."""

    def before(k):
        return [
            (r, c)
            for r, c in itertools.product(range(-(k // 2), 1), range(-(k // 2), k // 2 + 1))
            if (r, c) < (0, 0)
        ]

    field = seen_through(np.eye(height * width, dtype=bool), height, width, before(model.first_kernel_size))
    for _ in range(model.num_blocks):
        field |= seen_through(field, height, width, before(model.kernel_size))
    return field


def row_lstm_field(model, height, width):
    """`field[i, j]`: whether pixel i of a PixelRNN of Row LSTMs sees pixel j before it, from the kernels alone."""
    past, k = model.first_kernel_size // 2, model.layer.kernel_size // 2
    first = [(-r, c) for r in range(past + 1) for c in range(-past, past + 1) if r > 0 or c < 0]
    field = seen_through(np.eye(height * width, dtype=bool), height, width, first)
    for _ in range(model.num_layers):
        states = seen_through(field, height, width, [(0, -c) for c in range(k + 1)])
        for _ in range(height):
            states |= seen_through(states, height, width, [(-1, c) for c in range(-k, k + 1)])
        field |= states
    return field


def refused(message, function, *args, **options):
    """`function` raises one line with `message` in it."""
    with pytest.raises(ValueError) as error:
        function(*args, **options)
    text = str(error.value)
    assert message in text
    assert "\n" not in text.split("\n\nFor simplicity")[0]
