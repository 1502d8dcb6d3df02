import itertools

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

import arjax
from arjax import sampling
from arjax.decoding import Draw, Plan
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes, MaskedDense, one_hot
from arjax.masks import connect
from arjax.models import MADE, ChainRule, GatedPixelCNN, Histogram, PixelCNN, PixelCNNPP, TemporalConv

METHODS = ("cached", "naive", "fixed_point")
HISTOGRAM = Histogram((2, 3), Categorical(4))
CHAIN = ChainRule(3, Categorical(3), hidden=())
REORDERED = ChainRule(4, Categorical(3), hidden=(), parents=((2,), (3, 0, 2), (), (2, 0)))
ORDERED = MADE((6,), hidden=(12,), ordering=(2, 4, 0, 5, 1, 3))
SHAPES = {HISTOGRAM: (5, 2, 3), CHAIN: (5, 3), REORDERED: (5, 4), ORDERED: (5, 6)}


def random_variables(model, shape, scale=1.0):
    x = np.zeros(shape, np.int32)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )


VARIABLES = {model: random_variables(model, shape) for model, shape in SHAPES.items()}


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def from_noise(model, noise, **options):
    return np.asarray(arjax.sample_from_noise(model, VARIABLES[model], noise, **options))


# Errors


def refuse(message, **options):
    with pytest.raises(ValueError, match=message):
        from_noise(HISTOGRAM, np.zeros((5, 2, 3), np.float32), **options)


def test_unknown_method():
    refuse("method is one of cached, naive, fixed_point, rows, blocks, got 'ancestral'", method="ancestral")


@pytest.mark.parametrize("method", ["cached", "naive"])
def test_only_the_fixed_point_counts_iterations(method):
    refuse(
        f"only the methods fixed_point, rows, blocks count iterations, got method='{method}'",
        method=method,
        return_iterations=True,
    )


def test_rows_want_images():
    refuse(r"images .* are wanted for method='rows', got Histogram and noise of shape \(5, 2, 3\)", method="rows")


def test_blocks_want_sequences():
    refuse(
        r"sequences .* are wanted for method='blocks', got Histogram and noise of shape \(5, 2, 3\)",
        method="blocks",
    )
    for block in (0, 2.5):
        refuse(f"block: an integer of 1 or more is wanted, got {block}", method="blocks", block=block)


VALUES, KNOWN = np.zeros((5, 2, 3), np.int32), np.ones((5, 2, 3), bool)


@pytest.mark.parametrize(
    ("values", "known", "message"),
    [
        (VALUES[:4], KNOWN, r"evidence values: integers of .* \(5, 2, 3\) are wanted, got int32 of \(4, 2, 3\)"),
        (VALUES[0], KNOWN, r"evidence values: .* \(5, 2, 3\) are wanted, got int32 of \(2, 3\)"),
        (VALUES, KNOWN[..., :1], r"evidence mask: .* \(5, 2, 3\) are wanted, got bool of \(5, 2, 1\)"),
        (VALUES.astype(np.float32), KNOWN, r"evidence values: integers .*, got float32"),
        (VALUES, KNOWN.astype(np.int32), r"evidence mask: booleans .*, got int32"),
        (VALUES + 4, KNOWN, r"evidence values: integers 0..3 are wanted, got values 4..4"),
        (VALUES - 1, KNOWN, r"evidence values: integers 0..3 are wanted, got values -1..-1"),
    ],
)  # fmt: skip
def test_evidence_that_does_not_fit(values, known, message):
    refuse(message, evidence=(values, known))


def test_evidence_may_hold_anything_where_it_is_not_known():
    noise = uniform(5, 2, 3)
    known = uniform(5, 2, 3, seed=1) < 0.5
    anywhere = np.where(known, 2, -1)
    x = from_noise(HISTOGRAM, noise, evidence=(anywhere, known))
    np.testing.assert_array_equal(x, np.where(known, 2, from_noise(HISTOGRAM, noise)))
    nothing = from_noise(HISTOGRAM, noise, evidence=(anywhere - 9, np.zeros_like(known)))
    np.testing.assert_array_equal(nothing, from_noise(HISTOGRAM, noise))


# The same function of the noise, however it is called


def test_sample_is_a_function_of_uniform_noise():
    key = jax.random.key(3)
    x = arjax.sample(CHAIN, VARIABLES[CHAIN], key, (4, 3))
    assert x.shape == (4, 3)
    assert x.dtype == np.int32
    np.testing.assert_array_equal(x, from_noise(CHAIN, jax.random.uniform(key, (4, 3))))
    assert (x != arjax.sample(CHAIN, VARIABLES[CHAIN], jax.random.key(4), (4, 3))).any()


@pytest.mark.parametrize("method", ["cached", "fixed_point"])
def test_jit_and_vmap_over_keys(method):
    def draw(key):
        return arjax.sample(CHAIN, VARIABLES[CHAIN], key, (4, 3), method=method)

    keys = jax.random.split(jax.random.key(5), 3)
    together = jax.jit(jax.vmap(draw))(keys)
    np.testing.assert_array_equal(together, np.stack([draw(key) for key in keys]))
    assert len(np.unique(together.reshape(3, -1), axis=0)) == 3


def test_options_may_be_traced():
    noise, values = uniform(4, 3), np.ones((4, 3), np.int32)
    known = uniform(4, 3, seed=1) < 0.5

    @jax.jit
    def draw(noise, temperature, values, known):
        options = {"temperature": temperature, "evidence": (values, known)}
        return arjax.sample_from_noise(CHAIN, VARIABLES[CHAIN], noise, **options)

    expected = from_noise(CHAIN, noise, temperature=0.7, evidence=(values, known))
    np.testing.assert_array_equal(draw(noise, np.float32(0.7), values, known), expected)


@pytest.mark.parametrize("method", METHODS)
def test_great_temperature_flattens(method):
    noise = (np.random.default_rng(0).integers(0, 1000, (64, 3)).astype(np.float32) + 0.5) / 1000
    hot = from_noise(CHAIN, noise, method=method, temperature=1e6)
    np.testing.assert_array_equal(hot, np.floor(noise * 3))
    assert (hot != from_noise(CHAIN, noise, method=method)).any()


# Fixed points


def test_each_pass_settles_one_more_variable():
    """After n passes the first n variables in the order are final; iterations end when nothing changes."""
    noise = uniform(32, 6)
    positions = np.argsort(ORDERED.ordering)

    @jax.jit
    def update(x):
        return ORDERED.output.quantile(ORDERED.apply(VARIABLES[ORDERED], x), noise)

    passes = [np.zeros((32, 6), np.int32)]
    while len(passes) < 2 or (passes[-1] != passes[-2]).any():
        passes.append(np.asarray(update(passes[-1])))
    x, iterations = arjax.sample_from_noise(
        ORDERED, VARIABLES[ORDERED], noise, method="fixed_point", return_iterations=True
    )
    np.testing.assert_array_equal(x, passes[-1])
    assert iterations == len(passes) - 1
    assert 2 < iterations <= 7
    for n, guess in enumerate(passes):
        np.testing.assert_array_equal(guess[:, positions[:n]], x[:, positions[:n]])


def iterations_of(model, variables, noise):
    _, iterations = arjax.sample_from_noise(model, variables, noise, method="fixed_point", return_iterations=True)
    return int(iterations)


def test_iterations_of_a_histogram():
    """One pass to draw and one to confirm; the confirmation alone if the first guess, zeros, is right."""
    assert iterations_of(HISTOGRAM, VARIABLES[HISTOGRAM], uniform(5, 2, 3)) == 2
    assert iterations_of(HISTOGRAM, VARIABLES[HISTOGRAM], np.zeros((5, 2, 3), np.float32)) == 1


def test_iterations_of_a_chain_of_copies():
    """Each variable copies the one before: a 1 at the head advances one variable a pass, the worst case."""
    size = 4
    model = ChainRule(size, Categorical(2), hidden=(), parents=((), (0,), (1,), (2,)))
    copy, zeros = 100 * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    params = {f"conditionals_{i}_0": {"kernel": copy if i else copy[:1] * 0, "bias": zeros} for i in range(size)}
    for head, expected in ((0.75, size + 1), (0.25, 1)):
        noise = np.full((1, size), head, np.float32)
        x, iterations = arjax.sample_from_noise(
            model, {"params": params}, noise, method="fixed_point", return_iterations=True
        )
        np.testing.assert_array_equal(x, [[int(head > 0.5)] * size])
        assert iterations == expected


def copies(variables, x):
    """Each position is the one before it, for certain; the first one is 0 or 1, one as likely as the other."""
    before = jnp.pad(jax.nn.one_hot(x, 2), ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return variables["scale"] * before


def test_iterations_of_blocks_of_copies():
    """Their bounds: a 1 at the head advances one position a pass, and the last pass of each block confirms."""
    model, variables = arjax.Causal(copies, Categorical(2)), {"scale": np.float32(100)}
    for head, expected in ((0.75, (3 + 1) + (3 + 1) + (1 + 1)), (0.25, 1 + 1 + 1)):
        noise = np.full((1, 7), head, np.float32)
        x, iterations = arjax.sample_from_noise(
            model, variables, noise, method="blocks", block=3, return_iterations=True
        )
        np.testing.assert_array_equal(x, [[int(head > 0.5)] * 7])
        assert iterations == expected


def test_blocks_under_jit_and_vmap():
    """And with options: what the cached sampler draws."""
    model, shape = TemporalConv(Categorical(4), features=4, dilations=(1, 2)), (5, 7)
    variables = random_variables(model, shape)

    def draw(key, **method):
        return arjax.sample(model, variables, key, shape, top_p=0.8, temperature=1.5, **method)

    keys = jax.random.split(jax.random.key(5), 2)
    together = jax.jit(jax.vmap(lambda key: draw(key, method="blocks", block=3)))(keys)
    np.testing.assert_array_equal(together, np.stack([draw(key) for key in keys]))
    assert len(np.unique(together)) == 4


# Evidence


def test_completions_before_the_first_evidence_are_free():
    """In the order of generation, which is not the order of the array."""
    noise = uniform(64, 4)
    assert REORDERED.order() == (2, 0, 3, 1)
    values = (from_noise(REORDERED, noise) + 1) % 3
    known = np.broadcast_to(np.arange(4) == 0, values.shape)
    completed, free = (from_noise(REORDERED, noise, **options) for options in ({"evidence": (values, known)}, {}))
    np.testing.assert_array_equal(completed[:, 2], free[:, 2])
    np.testing.assert_array_equal(completed[:, 0], values[:, 0])
    for after in (1, 3):
        assert (completed[:, after] != free[:, after]).any()


def test_completion_of_a_prefix_is_exact():
    """The frequencies of the rest are those of the enumerated conditional distribution."""
    every = np.array(list(itertools.product(range(3), repeat=3)), np.int32)
    joint = np.exp(np.asarray(arjax.log_prob(CHAIN, VARIABLES[CHAIN], every), np.float64)).reshape(3, 3, 3)
    conditional = joint[1] / joint[1].sum()
    count = 4096
    known = np.broadcast_to([True, False, False], (count, 3))
    x = from_noise(CHAIN, uniform(count, 3), evidence=(np.ones((count, 3), np.int32), known))
    frequencies = np.bincount(3 * x[:, 1] + x[:, 2], minlength=9).reshape(3, 3) / count
    deviation = np.sqrt(conditional * (1 - conditional) / count)
    assert (np.abs(frequencies - conditional) < 5 * deviation).all()
    assert np.abs(conditional - joint.sum(0)).max() > 0.05, "the evidence tells something"


# What depends on parameters alone is computed once, before the loops

MOVES = {
    *("reshape", "broadcast_in_dim", "convert_element_type", "slice", "squeeze", "transpose", "split", "copy"),
    *("concatenate", "pad", "iota", "rev", "stop_gradient"),
}
"""Primitives that compute nothing."""


def constants_of_scan(params):
    """How many inputs, its first ones, are the same at every step; jax 0.12 tells them by a tree."""
    return params["num_consts"] if "num_consts" in params else len(params["ft_in"].unpack()[0])


def work_on_constants(jaxpr, constant=None, inside=False):
    """Equations in loops whose inputs do not change within the innermost one: `{(primitive, shape)}`."""
    constant = [True] * len(jaxpr.invars) if constant is None else constant
    known = dict(zip(jaxpr.invars, constant, strict=True)) | dict.fromkeys(jaxpr.constvars, True)
    found = set()
    for eqn in jaxpr.eqns:
        given = [isinstance(v, jax.extend.core.Literal) or known[v] for v in eqn.invars]
        inner = [
            getattr(value, "jaxpr", value)
            for param in eqn.params.values()
            for value in (param if isinstance(param, (tuple, list)) else [param])
            if hasattr(getattr(value, "jaxpr", value), "eqns")
        ]
        if eqn.primitive.name == "scan":
            same = constants_of_scan(eqn.params)
            found |= work_on_constants(inner[0], [True] * same + [False] * (len(given) - same), True)
        elif inner:
            for sub in inner:
                found |= work_on_constants(sub, given[len(given) - len(sub.invars) :], inside)
        elif inside and all(given) and eqn.primitive.name not in MOVES:
            found |= {(eqn.primitive.name, v.aval.shape) for v in eqn.outvars if v.aval.size > 1}
        known |= dict.fromkeys(eqn.outvars, all(given))
    return found


COLOUR_MODELS = {
    "gated_pixelcnn": GatedPixelCNN(Categorical(3), 3, 6, 2, head_features=6, conditioning=Classes(2)),
    "pixelcnn": PixelCNN(Categorical(3), 3, 6, 1, head_features=6, conditioning=Classes(2)),
    "pixelcnnpp": PixelCNNPP(
        DiscretizedLogisticMixture(2, 8), 3, 2, num_blocks=1, num_levels=2, conditioning=Classes(2)
    ),
}


@pytest.mark.parametrize("name", COLOUR_MODELS)
@pytest.mark.parametrize("method", ["cached", "naive"])
def test_no_work_on_parameters_within_the_loops(name, method):
    """Neither masks nor norms nor projections of `cond`; in the naive sampler the guard finds them."""
    model, shape = COLOUR_MODELS[name], (5, 4, 4, 3)
    labels = np.zeros(5, np.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.int32), labels)

    def run(variables, noise, labels):
        drawn = sampling._METHODS[method](model, variables, Plan(noise), labels, Draw(model.output))
        return drawn.values

    jaxpr = jax.make_jaxpr(run)(variables, np.zeros(shape, np.float32), labels).jaxpr
    alive, _ = partial_eval.dce_jaxpr(jaxpr, [True], instantiate=True)
    found = work_on_constants(alive)
    kernels = {leaf.shape for leaf in jax.tree.leaves(variables) if leaf.ndim > 1}
    primitives = {primitive for primitive, shape in found if shape in kernels}
    if method == "cached":
        assert not primitives
    else:
        assert ("mul" if name == "pixelcnnpp" else "select_n") in primitives


# Networks that are no models of the zoo


class Masked(nn.Module):
    """A masked product over the whole event: nothing but `__call__` and `output`."""

    output = Bernoulli()

    @nn.compact
    def __call__(self, x):
        ranks = np.arange(x.shape[1])
        h = one_hot(x, 2)[..., 1]
        return MaskedDense(x.shape[1], x.shape[1])(h, connect(ranks, ranks, strict=True))[..., None]


def test_a_network_without_a_cached_sampler():
    model, shape = Masked(), (32, 4)
    variables = random_variables(model, shape, scale=2)
    noise = uniform(*shape)
    naive, fixed = (arjax.sample_from_noise(model, variables, noise, method=method) for method in METHODS[1:])
    np.testing.assert_array_equal(naive, fixed)
    logits = np.asarray(model.apply(variables, naive))[..., 0]
    np.testing.assert_array_equal(naive, noise >= 1 / (1 + np.exp(logits)))
    with pytest.raises(arjax.NotCausal, match="not causal along axis 1"):
        arjax.sample_from_noise(model, variables, noise)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperature_must_be_positive(temperature):
    model, x = Histogram((2,), Bernoulli()), np.zeros((1, 2), np.int32)
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="temperature above 0"):
        arjax.sample(model, variables, jax.random.key(0), x.shape, temperature=temperature)
