"""Attention by a plain reference, its memory, and the two models in many orders."""

import itertools
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply, integers, random_variables
from test_layers import loop_copies

import arjax
from arjax import incremental, orderings, sampling
from arjax.decoding import Plan
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Attention, Classes, Dense, Fixed, Local, Map, Strided, attention
from arjax.models import PixelSNAIL, Transformer

RNG = np.random.default_rng(0)
PATTERNS = [Dense(), Local(1), Local(20), Strided(2), Strided(7), Strided(60), Fixed(7), Fixed(20, 3), Fixed(4, 4)]
ORDERS = {
    "raster": orderings.raster,
    "column": orderings.column,
    "zigzag": orderings.zigzag,
    "serpentine": orderings.serpentine,
    "centre_out": orderings.centre_out,
    "random": lambda shape: np.random.default_rng(3).permutation(math.prod(shape)).reshape(shape),
}


def flat(ranks):
    return tuple(map(int, ranks.ravel()))


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def reference(q, k, v, mask):
    """One head; `mask[key, query]`."""
    scores = np.where(mask.T, q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
    return weights @ v / np.maximum(weights.sum(-1, keepdims=True), 1e-30)


def seen(pattern, length, strict=False):
    """Who sees whom by the definitions, written out."""

    def sees(key, query):
        if key > query or (strict and key == query):
            return False
        match pattern:
            case Local(window):
                return query - key < window
            case Strided(stride):
                return query - key < stride or (query - key) % stride == 0
            case Fixed(stride, summaries):
                return key // stride == query // stride or key % stride >= stride - summaries
        return True

    return np.array([[sees(key, query) for query in range(length)] for key in range(length)])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_parallel_attention(pattern, strict, monkeypatch):
    q, k, v = floats(2, 23, 6), floats(2, 23, 6), floats(2, 23, 4)
    heads = [
        reference(q[..., i : i + 3], k[..., i : i + 3], v[..., j : j + 2], seen(pattern, 23, strict))
        for i, j in ((0, 0), (3, 2))
    ]
    layer = Attention(23, pattern, num_heads=2, strict=strict)
    whole = jax.jit(layer.apply)({}, q, k, v)
    np.testing.assert_allclose(whole, np.concatenate(heads, -1), atol=1e-5)
    monkeypatch.setattr(attention, "CHUNK", 6)
    q, k, v, whole = (array[:1] for array in (q, k, v, whole))  # what was compiled keeps its chunks
    in_chunks = jax.jit(jax.value_and_grad(lambda q: (layer.apply({}, q, k, v) ** 2).sum()))(q)
    assert in_chunks[0] == pytest.approx((np.asarray(whole) ** 2).sum(), rel=1e-5)
    assert np.isfinite(in_chunks[1]).all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_gradients_of_attention(pattern):
    """Those of a plain softmax, also where a single key is seen or one weight is all."""
    layer, x = Attention(12, pattern), [10 * floats(2, 12, 3), floats(2, 12, 3), floats(2, 12, 3)]
    mask = seen(pattern, 12).T

    def plain(q, k, v):
        scores = jnp.einsum("btk,bnk->btn", q, k) / math.sqrt(3)
        return (jax.nn.softmax(jnp.where(mask[None], scores, -1e30)) @ v * weights).sum()

    weights = floats(2, 12, 3)
    grads = jax.grad(lambda q, k, v: (layer.apply({}, q, k, v) * weights).sum(), argnums=(0, 1, 2))(*x)
    chex.assert_trees_all_close(grads, jax.grad(plain, argnums=(0, 1, 2))(*x), atol=1e-4)


def test_shared_keys_and_values():
    q, k, v = floats(2, 9, 6), floats(2, 9, 3), floats(2, 9, 2)
    alone = [Attention(9).apply({}, q[..., i : i + 3], k, v) for i in (0, 3)]
    shared = Attention(9, num_heads=2, num_key_heads=1).apply({}, q, k, v)
    np.testing.assert_allclose(shared, jnp.concatenate(alone, -1), atol=1e-6)


def test_the_first_position_of_strict_attention_sees_nothing():
    q, k, v = floats(1, 5, 2), floats(1, 5, 2), floats(1, 5, 2)
    layer = Attention(5, strict=True)
    assert (layer.apply({}, q, k, v)[:, 0] == 0).all()
    jacobian = jax.jacobian(lambda v: layer.apply({}, q, k, v)[0, 0])(v)
    assert (jacobian == 0).all()


def attended(layer, features=3):
    """A function of sequences: attention to fixed features of the values before, and where they are."""
    rng = np.random.default_rng(1)
    tables = rng.normal(size=(3, 5, features)).astype(np.float32)
    places = rng.normal(size=(1, layer.size, features)).astype(np.float32)

    def function(x):
        before = jnp.pad(x + 1, ((0, 0), (1, 0)))[:, :-1]
        q, k, v = (jnp.take(table, before, axis=0) + places[:, : x.shape[1]] for table in tables)
        return layer.apply({}, q, k, v)

    return function


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_attention_step_by_step(pattern, strict):
    """Past several turns of a local memory."""
    function, x = attended(Attention(75, pattern, strict=strict)), integers(4, 2, 75)

    def draw(params, x):
        return x, tuple(jnp.moveaxis(params, -1, 0))

    steps = jax.jit(lambda x: incremental.sample(function, x, draw, x))
    np.testing.assert_allclose(jnp.stack(steps(x), -1), function(x), atol=1e-5)


@pytest.mark.parametrize("pattern", [Local(20), Strided(7), Fixed(20, 3)], ids=str)
def test_samples_of_sparse_attention(pattern):
    """One teacher-forced pass gives back 53 positions; a prompt and chunks make the same ones."""
    model = Transformer((53,), Categorical(5), features=8, num_layers=2, num_heads=2, patterns=(pattern, Dense()))
    variables = random_variables(model, integers(5, 1, 53))
    noise = jax.random.uniform(jax.random.key(0), (3, 53))
    x = arjax.sample_from_noise(model, variables, noise)
    chex.assert_trees_all_equal(model.output.quantile(apply(model, variables, x), noise), x)
    state = arjax.start(model, variables, x[:, :6])
    for start, end in itertools.pairwise([6, 17, 49, 53]):
        state, chunk = arjax.extend(model, variables, state, noise[:, start:end])
        np.testing.assert_array_equal(chunk, x[:, start:end])
    with pytest.raises(ValueError, match="53 positions, got 53 and 1 more"):
        arjax.extend(model, variables, state, noise[:, :1])
    with pytest.raises(ValueError, match="53 positions"):
        arjax.start(model, variables, integers(5, 1, 54))


def test_no_copy_of_the_memory_in_the_sampling_loop():
    model = Transformer(
        (272,), Categorical(2), features=6, num_layers=2, num_heads=1, patterns=(Dense(), Strided(17))
    )
    plan = Plan(jnp.zeros((3, 272)))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((3, 272), jnp.int32))
    lowered = sampling._sample.lower(model, variables, plan, None, jnp.float32(1), None, "cached")
    hlo = lowered.compile().as_text()
    for shape in ((3, 6, 271), (3, 271, 6)):  # keys and values of all, and rows of them
        assert f"f32[{','.join(map(str, shape))}]" in hlo, "the guard looks for an array that exists"
        assert not loop_copies(hlo, shape)


def test_a_step_reads_what_its_pattern_reaches():
    """The largest operand of a product in the loop, in keys; its own key a position has at hand."""

    def read(pattern, length):
        function = attended(Attention(length, pattern), features=1)
        x = jax.ShapeDtypeStruct((1, length), jnp.int32)
        jaxpr = jax.make_jaxpr(lambda x: incremental.sample(function, x, lambda params, x: (x, x), x))(x)
        (loop,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
        products = [e for e in loop.params["jaxpr"].eqns if e.primitive.name == "dot_general"]
        return max(operand.aval.size for product in products for operand in product.invars)

    assert read(Dense(), 1024) == 1023
    assert read(Local(64), 1024) == 63
    assert read(Strided(32), 1024) == 31 + 31
    assert read(Fixed(32, 2), 1024) == 31 + 2 * 31


ORDERED = {
    "colours": lambda order: Transformer(
        (2, 2, 3),
        Categorical(3),
        features=8,
        num_layers=1,
        num_heads=2,
        ordering=flat(orderings.colours(np.array(order[:4]).argsort().argsort().reshape(2, 2), 3)),
    ),
    "tokens": lambda order: Transformer(
        (4, 5),
        Categorical(3),
        features=8,
        num_layers=2,
        num_heads=2,
        ordering=order,
        patterns=(Strided(4), Dense()),
    ),
    "rotary": lambda order: Transformer(
        (4, 5), Bernoulli(), features=8, num_layers=2, num_heads=2, ordering=order, positions="rotary"
    ),
    "pixels": lambda order: Transformer(
        (4, 5, 2), DiscretizedLogisticMixture(2, 8), 2, features=8, num_layers=1, num_heads=2, ordering=order
    ),
    "pixelsnail": lambda order: PixelSNAIL(
        (4, 5, 1), DiscretizedLogisticMixture(2, 8), 6, 1, 1, key_features=4, value_features=4, ordering=order
    ),
}


@pytest.mark.parametrize("kind", ORDERED)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order(kind, order):
    """Of its own ranks alone a conditional depends, on all of them; a sample is the fixed point of its noise."""
    model = ORDERED[kind](flat(ORDERS[order]((4, 5))))
    variables = random_variables(model, integers(2, 1, *model.event))
    noise = jax.random.uniform(jax.random.key(0), (5, *model.event))
    x = arjax.sample_from_noise(model, variables, noise)
    chex.assert_trees_all_equal(model.output.quantile(apply(model, variables, x), noise), x)

    def conditionals(x):
        return model.apply(variables, x.reshape(1, *model.event)).sum(-1).ravel()

    between = jnp.asarray(integers(2, math.prod(model.event)), jnp.float32) * 0.8 + 0.1
    jacobian = np.asarray(jax.jit(jax.jacrev(conditionals))(between))
    ranks = np.asarray(model.apply(variables, method="ranks"))
    np.testing.assert_array_equal(jacobian != 0, ranks[:, None] > ranks)


def test_an_order_given_at_call_time():
    """The likelihood is that of the model with this ordering; evidence that comes first is seen by all else."""
    shape, order = (3, 4), ORDERS["random"]((3, 4))
    build = partial(Transformer, shape, Categorical(2), features=8, num_layers=1, num_heads=2)
    x = integers(2, 6, *shape)
    variables = random_variables(build(), x)
    given = variables | {"masks": {"ranks": jnp.asarray(order)}}
    for model in (build(), build(order_agnostic=True)):
        chex.assert_trees_all_close(
            arjax.log_prob(model, given, x), arjax.log_prob(build(ordering=flat(order)), variables, x), rtol=1e-5
        )
    known = np.zeros(shape, bool)
    known[1:] = True
    first = orderings.known_first(known, orderings.raster(shape))
    np.testing.assert_array_equal(first, [[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]])
    model, noise = build(order_agnostic=True), jax.random.uniform(jax.random.key(0), (64, *shape))
    completions = [
        np.asarray(
            arjax.sample_from_noise(
                model,
                variables | {"masks": {"ranks": jnp.asarray(first)}},
                noise,
                evidence=(np.full((64, *shape), value), np.broadcast_to(known, (64, *shape))),
            )
        )
        for value in (0, 1)
    ]
    assert (completions[0][:, 0] != completions[1][:, 0]).any(), "the first row heeds those below it"
    with pytest.raises(ValueError, match="ranks of 12 positions"):
        arjax.log_prob(model, variables | {"masks": {"ranks": jnp.arange(5)}}, x)


def test_ensemble_and_training_orders():
    model = Transformer((2, 3), Categorical(2), features=8, num_layers=1, num_heads=2, order_agnostic=True)
    x = integers(2, 4, 2, 3)
    variables = random_variables(model, x)
    members = [arjax.log_prob(model, variables | {"masks": {"seed": jnp.int32(i)}}, x) for i in range(3)]
    assert (members[0] != members[1]).all()
    together = arjax.ensemble_log_prob(model, variables, np.arange(3), x)
    chex.assert_trees_all_close(together, jax.nn.logsumexp(jnp.stack(members), 0) - math.log(3), rtol=1e-5)
    one, other = (model.apply(variables, x, train=True, rngs={"masks": jax.random.key(seed)}) for seed in range(2))
    assert (one != other).any()


def test_a_map_is_in_the_order_of_generation():
    order = flat(ORDERS["random"]((3, 4)))
    model = Transformer(
        (3, 4), Categorical(2), features=8, num_layers=1, num_heads=2, ordering=order, conditioning=Map(3, 4, 2)
    )
    x, cond = integers(2, 4, 3, 4), floats(4, 3, 4, 2)
    variables = random_variables(model, x, cond)
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    sample = arjax.sample_from_noise(model, variables, noise, cond)
    chex.assert_trees_all_equal(model.output.quantile(apply(model, variables, sample, cond), noise), sample)
    last = np.unravel_index(np.argmax(order), (3, 4))
    other = cond.copy()
    other[:, *last] += 1
    changed = np.asarray(apply(model, variables, x, cond) != apply(model, variables, x, other)).any((0, 3))
    expected = np.zeros((3, 4), bool)
    expected[last] = True
    np.testing.assert_array_equal(changed, expected)


def test_permutation_equivariance():
    """Without positions of their own, an order of `x` is raster order on the rearranged `x`."""
    order = ORDERS["random"]((12,))
    build = partial(Transformer, (12,), Categorical(3), features=8, num_layers=2, num_heads=2)
    x = integers(3, 4, 12)
    variables = random_variables(build(), x)
    variables["params"]["places"] *= 0
    rearranged = x[:, orderings.inverse(order)]
    chex.assert_trees_all_close(
        arjax.log_prob(build(ordering=flat(order)), variables, x),
        arjax.log_prob(build(), variables, rearranged),
        rtol=1e-5,
    )


def test_pixelsnail_sees_the_first_pixel_at_the_last():
    model = PixelSNAIL((7, 7, 1), DiscretizedLogisticMixture(2, 4), 6, 1, 1, key_features=4, value_features=4)
    x = integers(4, 2, 7, 7, 1)
    variables = random_variables(model, x)
    gradient = jax.grad(lambda x: model.apply(variables, x)[:, -1, -1].sum())(x.astype(np.float32) + 0.25)
    assert (np.asarray(gradient)[:, 0, 0] != 0).all()
    alone = model.clone(num_blocks=0)
    with_convolutions = random_variables(alone, x)
    gradient = jax.grad(lambda x: alone.apply(with_convolutions, x)[:, -1, -1].sum())(x.astype(np.float32) + 0.25)
    assert (np.asarray(gradient)[:, :-2] == 0).all()


def test_pixelsnail_zigzag_and_raster_share_weights_but_not_likelihoods():
    build = partial(PixelSNAIL, (4, 4, 1), DiscretizedLogisticMixture(2, 4), 6, 1, 1)
    x = integers(4, 4, 4, 4, 1)
    variables = random_variables(build(), x)
    zigzag = build(ordering=flat(orderings.zigzag((4, 4))))
    assert (arjax.log_prob(build(), variables, x) != arjax.log_prob(zigzag, variables, x)).all()


def test_neighbours():
    ranks = orderings.serpentine((2, 3))
    table = orderings.neighbours(ranks, [(-1, 0), (0, -1), (0, 1), (0, 0)])
    np.testing.assert_array_equal(
        table, [[6, 6, 6, 0], [6, 0, 6, 1], [6, 1, 6, 2], [2, 6, 6, 3], [1, 6, 3, 4], [0, 6, 4, 5]]
    )


def test_centre_out():
    np.testing.assert_array_equal(orderings.centre_out((3, 3)), [[5, 1, 6], [2, 0, 3], [7, 4, 8]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transformer((4,), Categorical(2), features=6, num_heads=4), "4 heads do not divide 6"),
        (lambda: Transformer((4,), Categorical(2), num_heads=4, num_key_heads=3), "3 heads of keys"),
        (lambda: Transformer((4,), Categorical(2), positions="none"), "'learned' or 'rotary'"),
        (lambda: Transformer((2, 2, 1), features=8, positions="rotary"), "heads of 6 channels"),
        (lambda: Transformer((2, 2, 3), Categorical(2), 3), "a mixture over all channels of a pixel"),
        (lambda: Transformer((2, 2, 3), DiscretizedLogisticMixture(), 2), "the last axis of an event"),
        (lambda: Transformer((4,), Categorical(2), ordering=(0, 1, 2, 2)), "each of 0..3 once"),
        (lambda: Transformer((4,), Categorical(2), ordering=(0,), order_agnostic=True), "has no ordering"),
        (lambda: PixelSNAIL((2, 2, 1), Categorical(2)), "a mixture over all channels of a pixel"),
    ],
)
def test_settings_that_do_not_fit(build, message):
    model = build()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.event), jnp.int32))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Local(0), "window of 1 or more"),
        (lambda: Strided(1), "stride of 2 or more"),
        (lambda: Fixed(1), "stride of 2 or more"),
        (lambda: Fixed(4, 5), "summaries of 1 to the stride 4"),
    ],
)
def test_patterns_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_events_of_another_shape_are_refused():
    for model, x in (
        (Transformer((4,), Categorical(2), features=8), integers(2, 1, 5)),
        (Transformer((2, 2), Categorical(2), features=8), integers(2, 1, 2, 3)),
        (PixelSNAIL((2, 2, 1), features=8, num_blocks=1), integers(2, 1, 2, 3, 1)),
    ):
        with pytest.raises(ValueError, match="events of shape"):
            jax.eval_shape(model.init, jax.random.key(0), x)


def test_classes_reach_pixelsnail_at_the_first_pixel():
    model = PixelSNAIL((2, 2, 1), DiscretizedLogisticMixture(2, 4), 6, 1, 1, conditioning=Classes(3))
    x = integers(4, 2, 2, 2, 1)
    variables = random_variables(model, x, np.zeros(2, np.int32))
    one, other = (apply(model, variables, x, np.full(2, label, np.int32))[:, 0, 0] for label in (0, 2))
    assert (one != other).all()
