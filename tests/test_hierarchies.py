"""Hierarchies: parts of data, and what the models that generate them one after the other have of their own.

What is asked of every model is in `test_properties` and `test_doors`.
"""

import functools
import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import events, integers, log_probs_of, noise_for, random_variables, refused, resize
from zoo import (
    BOUNDS,
    HIERARCHIES,
    context,
    gated_pixelcnn,
    multiscale,
    of_map,
    slow_but_for_one_of_each,
)

import arjax
from arjax import parts, training
from arjax.decoding import Draw, Drawn, Plan
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Map
from arjax.models import (
    Auxiliary,
    DepthUpscaling,
    MultiScalePixelRNN,
    ParallelMultiscale,
    PixelCNNPP,
    Subscale,
    stages,
)
from arjax.modules import forward

BATCH = 1024
METHODS = ("naive", "cached", "fixed_point")
STAGED = HIERARCHIES | BOUNDS
WITH_PARTS = [name for name in STAGED if hasattr(STAGED[name]()[0], "parts")]
PARTITIONS = [name for name in STAGED if name not in WITH_PARTS]


@functools.cache
def setup(name):
    """A model with random parameters, no bias left at zero."""
    model, x, cond = STAGED[name]()
    return model, random_variables(model, x, cond), x, cond


def with_views(model, x):
    """What a sample of `model` would be that has the data `x`."""
    if isinstance(model, DepthUpscaling):
        return {"high": model.view(x), "x": x}
    return model.split(x) if isinstance(model, Auxiliary) else x


@functools.partial(jax.jit, static_argnums=0)
def taught(model, variables, plan, cond, temperature):
    """Stage by stage, from the parallel passes given `plan.values`: what stands where, and what would be drawn.

    A list of `(noise, known, params, drawn)` of each stage; the noise may tell of positions.
    """

    def sampler(model, variables, plan, cond, draw):
        if hasattr(model, "log_prob"):
            return model.apply(variables, draw, plan, cond, method="generate")
        params = forward(model, variables, plan.values, cond)
        drawn = draw(params, plan)
        return Drawn(plan.values, (plan.noise, plan.known, params, drawn.values == plan.values, drawn.log_probs))

    draw = Draw(model.output, temperature, None, True, sampler)
    found = sampler(model, variables, plan, cond, draw).log_probs
    return jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, tuple))  # of stages within stages too


# Likelihoods


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    """All pairs of a view and an image have the probability 1, those that agree at most that."""
    model, variables, x, cond = setup(name)
    cond = None if cond is None else cond[:1]

    @jax.jit
    def stage(found, i):
        def log_prob(model, found):
            known = {key: value[None] for key, value in found.items()}
            given = model._given(i, known, cond, False)
            return stages.log_prob(model.models[i], known[list(model.parts((1, *x.shape[1:])))[i]], given)[0]

        return jax.vmap(lambda found: nn.apply(log_prob, model)(variables, found))(found)

    stage = jax.jit(stage.__wrapped__, static_argnums=1)
    shapes = model.parts((1, *x.shape[1:]))
    names = list(shapes)
    every = {key: events(part.levels, part.shape[1:]) for key, part in shapes.items()}
    first = np.asarray(stage({names[0]: every[names[0]]}, 0))
    assert float(jax.nn.logsumexp(first)) == pytest.approx(0, abs=2e-5)
    for i, (before, own) in enumerate(itertools.pairwise(names), 1):
        for view in every[before][:: max(1, len(every[before]) // 4)]:
            found = {before: np.broadcast_to(view, (len(every[own]), *view.shape)), own: every[own]}
            assert float(jax.nn.logsumexp(stage(found, i))) == pytest.approx(0, abs=5e-5)
    total = np.exp(log_probs_of(model, variables, every["x"], cond)).sum()
    assert 0.01 < total < 1


@pytest.mark.parametrize("name", ["multiscale", "subscale_first", "multiscale_pixelrnn", "depth", "pyramid"])
def test_log_probs_of_the_stages_add_up(name):
    model, variables, x, cond = setup(name)
    found = jax.jit(functools.partial(model.apply, method="log_probs"))(variables, x, cond)
    assert len(found) > 1
    chex.assert_trees_all_close(sum(found.values()), arjax.log_prob(model, variables, x, cond), rtol=1e-5)


def stages_and_blocks(name, model, event):
    """Of each position, its stage, and a number that positions of a stage share unless they are independent."""
    index = np.arange(math.prod(event)).reshape(1, *event)
    if isinstance(model, ParallelMultiscale):
        stage, block = np.zeros_like(index), np.zeros_like(index)
        for doubling in range(1, model.num_doublings + 1):
            for number, group in enumerate(np.asarray(model._quarters(index, doubling))):
                if number:
                    _, rows, columns, _ = np.indices(group.shape)
                    stage.flat[group] = 3 * doubling + number
                    block.flat[group] = rows // model.patch * 100 + columns // model.patch
        return stage.ravel(), block.ravel()
    factors = (2, 2, 1) if isinstance(model, MultiScalePixelRNN) else model.factors
    stage = np.zeros_like(index)
    for number, own in enumerate(parts.split(index, factors)):
        stage.flat[np.asarray(own)] = min(number, 1) if isinstance(model, MultiScalePixelRNN) else number
    return stage.ravel(), np.zeros(index.size, int)


def conditionals(model, variables, values, cond):
    """The positions that the stages generate, and the parameters of each, by teacher forcing."""
    leaves, tree = jax.tree.flatten(values)
    ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in leaves])
    position = [
        np.broadcast_to(np.arange(end - leaf[0].size, end, dtype=np.float32).reshape(leaf.shape[1:]), leaf.shape)
        / 2**10
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    none = [np.zeros(leaf.shape, bool) for leaf in leaves]
    plan = Plan(*(tree.unflatten(each) for each in (position, leaves, none)))
    found = []
    for noise, known, params, _, _ in taught(model, variables, plan, cond, np.float32(1)):
        own = ~np.asarray(known)[0].ravel()
        where = np.asarray(noise)[0].ravel() * 2**10
        of_each = np.asarray(params).reshape(len(noise), own.size, -1)
        found.append((where[own].astype(int), of_each[:, own]))
    return found


def field(model, variables, values, cond):
    """`[i, j]`: whether the conditional of position i depends on position j, positions of all parts in a row."""
    leaves, tree = jax.tree.flatten(values)
    levels = (
        [part.levels for _, part in sorted(model.parts(values["x"].shape).items())] if len(leaves) > 1 else None
    )
    size = sum(leaf[0].size for leaf in leaves)
    before = conditionals(model, variables, values, cond)
    reached, j = np.zeros((size, size), bool), 0
    for number, leaf in enumerate(leaves):
        count = model.output.levels if levels is None else levels[number]
        for place in np.ndindex(leaf.shape[1:]):
            for change in range(1, count):
                changed = np.array(leaf)
                changed[:, *place] = (changed[:, *place] + change) % count
                others = [*leaves[:number], changed, *leaves[number + 1 :]]
                after = conditionals(model, variables, tree.unflatten(others), cond)
                for (where, old), (_, new) in zip(before, after, strict=True):
                    reached[where, j] |= (old != new).any((0, 2))
            j += 1
    return reached


@pytest.mark.parametrize("name", slow_but_for_one_of_each(PARTITIONS))
def test_who_sees_whom(name):
    """All earlier stages, and what comes earlier in the same one if it is not independent."""
    model, variables, x, cond = setup(name)
    stage, block = stages_and_blocks(name, model, x.shape[1:])
    raster = np.arange(stage.size)
    earlier = (stage == stage[:, None]) & (block == block[:, None]) & (raster < raster[:, None])
    np.testing.assert_array_equal(field(model, variables, x, cond), (stage < stage[:, None]) | earlier)


@pytest.mark.parametrize("name", WITH_PARTS)
def test_who_sees_whom_among_parts(name):
    """All of the part before, and what comes earlier in the same one."""
    model, variables, x, cond = setup(name)
    values = jax.tree.map(np.asarray, with_views(model, x))
    order = list(model.parts(x.shape))
    stage = np.concatenate([np.full(leaf[0].size, order.index(key)) for key, leaf in sorted(values.items())])
    inner = np.arange(stage.size)
    if isinstance(model.low if name == "depth" else None, Subscale):  # slice after slice
        inner[4:] = 4 + np.array([0, 2, 1, 3])
    earlier = (stage == stage[:, None]) & (inner < inner[:, None])
    np.testing.assert_array_equal(field(model, variables, values, cond), (stage == stage[:, None] - 1) | earlier)


# Samples


@pytest.mark.parametrize("name", slow_but_for_one_of_each(STAGED))
def test_samplers(name):
    """All methods draw the same, given evidence and at temperatures; which the parallel passes give back.

    Cold samples and samples without evidence as well.
    """
    model, variables, x, cond = setup(name)
    x, cond = resize(x, BATCH), resize(cond, BATCH)
    noise, given = noise_for(model, x.shape, 3), with_views(model, x)
    rng = np.random.default_rng(4)
    some = jax.tree.map(lambda leaf: rng.random(leaf.shape) < 0.4, given)
    none = jax.tree.map(np.zeros_like, some)
    warm, ones = np.linspace(0.5, 2, BATCH, dtype=np.float32), np.ones(BATCH, np.float32)
    for known, temperature in ((some, warm), (none, ones), (none, 0 * ones + 1e-45)):
        drawn = [
            arjax.sample_from_noise(
                model,
                variables,
                noise,
                cond,
                method=method,
                temperature=temperature,
                evidence=(given, known),
                return_log_prob=True,
            )
            for method in METHODS
        ]
        (sample, log_prob), *others = drawn
        for other, its_log_prob in others:
            chex.assert_trees_all_equal(sample, other)
            chex.assert_trees_all_close(log_prob, its_log_prob, rtol=1e-4, atol=1e-4)
        jax.tree.map(lambda s, g, k: np.testing.assert_array_equal(s[k], np.asarray(g)[k]), sample, given, known)
        if temperature[0] < 1e-30:
            continue  # at which the two passes need not round alike
        plan = Plan(noise, sample, known)
        found = taught(model, variables, plan, cond, temperature)
        for *_, same, _ in found:
            assert same.all()
        total = sum(own.reshape(BATCH, -1).sum(1) for *_, own in found)
        chex.assert_trees_all_close(log_prob, total, rtol=1e-4, atol=1e-4)
        if known is none and name in PARTITIONS:
            chex.assert_trees_all_close(log_prob, arjax.log_prob(model, variables, sample, cond), atol=1e-3)


def test_iterations_are_those_of_all_stages():
    """At least two for each stage: one that draws and one that confirms, and no more than it has dimensions."""
    model, variables, x, _ = setup("multiscale")
    noise = noise_for(model, x.shape, 0)
    _, iterations = arjax.sample_from_noise(model, variables, noise, method="fixed_point", return_iterations=True)
    assert iterations == 2 * 7


def test_depth_upscaling_cuts_bits():
    model, variables, x, _ = setup("depth")
    sample = arjax.sample(model, variables, jax.random.key(0), (BATCH, *x.shape[1:]))
    assert set(sample) == {"high", "x"}
    np.testing.assert_array_equal(sample["high"], sample["x"] >> 2)
    assert set(np.unique(sample["x"])) == set(range(8))


def test_views_are_told_by_evidence_on_the_image():
    """A known pixel tells its gray level; an image that is known tells all views."""
    model, variables, x, cond = setup("gray")
    noise = noise_for(model, x.shape, 5)
    given = with_views(model, x)
    known = {"x": np.zeros(x.shape, bool), "gray": np.zeros((*x.shape[:-1], 1), bool)}
    known["x"][:, 1] = True
    values = {"x": x, "gray": np.zeros_like(given["gray"])}
    sample = arjax.sample_from_noise(model, variables, noise, cond, evidence=(values, known))
    np.testing.assert_array_equal(sample["gray"][:, 1], given["gray"][:, 1])
    np.testing.assert_array_equal(sample["x"][:, 1], x[:, 1])


def executions(jaxpr, name, times=1):
    """How often the primitive `name` is executed, in loops of known length."""
    count = 0
    for eqn in jaxpr.eqns:
        count += times * (eqn.primitive.name == name)
        inner = times * eqn.params.get("length", 1)
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                count += executions(value, name, inner)
    return count


class Counted(Bernoulli):
    """As Bernoulli; a draw is known in a program by an operation that nothing else has."""

    def quantile(self, params, u):
        return super().quantile(params, jnp.clip(u, 0, jax.lax.nextafter(np.float32(1), np.float32(0))))


@pytest.mark.parametrize("num_doublings", [1, 2, 3])
def test_sequential_calls_of_multiscale(num_doublings):
    """As many as the pixels of the small image, and 3 more for each doubling."""
    model = multiscale(gated_pixelcnn(Counted(), num_layers=1), num_doublings=num_doublings)
    shape = (2, 4 * 2**num_doublings, 4 * 2**num_doublings, 1)
    variables = random_variables(model, np.zeros(shape, np.int32))
    sampler = functools.partial(arjax.sample_from_noise, model, variables)
    jaxpr = jax.make_jaxpr(sampler)(np.zeros(shape, np.float32)).jaxpr
    assert executions(jaxpr, "nextafter") == 4 * 4 + 3 * num_doublings


# Training


def train_state(variables, optimizer):
    """A state before the first step, copied, since steps donate it."""
    params = jax.tree.map(jnp.array, variables["params"])
    average = jax.tree.map(jnp.array, params)
    return training.TrainState(jnp.int32(0), params, optimizer.init(params), average, jax.random.key(0))


@pytest.mark.parametrize("name", ["subscale", "subscale_first", "subscale_time"])
def test_a_random_slice_is_an_unbiased_estimate(name):
    model, variables, x, cond = setup(name)
    exact = np.asarray(arjax.log_prob(model, variables, x, cond))

    @jax.jit
    def estimate(key):
        return model.apply(variables, x, cond, train=True, rngs={"masks": key}, method="log_prob")

    found = np.stack([estimate(key) for key in jax.random.split(jax.random.key(0), 400)])
    error = found.std(0) / math.sqrt(len(found))
    assert found.std(0).max() > 0.1 * (model.first is None)
    assert (np.abs(found.mean(0) - exact) < 5 * error + 1e-4).all()
    assert len(np.unique(found[:, 0].round(4))) == model.count - (model.first is not None)


def test_memory_of_a_train_step_is_that_of_a_slice():
    """Against the same network on the whole image, in raster order: less."""
    network = functools.partial(gated_pixelcnn, Bernoulli(), features=16, num_layers=4)
    subscale = Subscale((2, 2, 1), network(conditioning=Map(8, 8, 6)), context())
    batch, optimizer = {"x": integers(2, 8, 16, 16, 1)}, optax.sgd(0.1)

    def temporaries(model):
        state = train_state(random_variables(model, batch["x"]), optimizer)
        step = functools.partial(training._train_step, model=model, optimizer=optimizer, ema_decay=0.9)
        return step.func.lower(state, batch, **step.keywords).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(subscale) < temporaries(network())


# What is refused


def score(model, x, cond=None):
    """The log-probability of `x` under a model of any parameters, traced alone."""
    variables = jax.eval_shape(functools.partial(arjax.modules.init, model), jax.random.key(0), x, cond)
    return jax.eval_shape(functools.partial(arjax.log_prob, model), variables, x, cond)


def test_images_that_do_not_fit():
    odd = integers(2, 2, 6, 5, 1)
    base = gated_pixelcnn(Bernoulli(), num_layers=1)
    refused("factors that divide an event of (6, 5, 1) are wanted, got (2, 2, 1)", score, multiscale(base), odd)
    refused(
        "images of shape (batch, height, width, 1) are wanted, got (2, 6, 5, 2)",
        score,
        multiscale(base),
        odd.repeat(2, -1),
    )
    refused(
        "groups of 3 x 3 pixels are wanted of sides that patch=2 divides",
        score,
        multiscale(base, patch=2, within=of_map(Bernoulli(), 2, 2)),
        integers(2, 2, 6, 6, 1),
    )
    refused(
        "num_doublings and patch of 1 or more are wanted, got 0 and 1",
        score,
        multiscale(base, num_doublings=0),
        odd,
    )
    refused("features of 1 doublings are wanted, got (6, 4)", score, multiscale(base, features=(6, 4)), odd)
    subscale = Subscale((2, 2, 1), of_map(Bernoulli(), 3, 2), context())
    refused("factors that divide an event of (6, 5, 1) are wanted, got (2, 2, 1)", score, subscale, odd)
    pyramid = Auxiliary((parts.Smaller(),), (base, of_map(Bernoulli(), 6, 5)), (context(enlarge=2),))
    refused("factors that divide an event of (6, 5, 1) are wanted, got (2, 2, 1)", score, pyramid, odd)


def test_a_stage_with_samples_of_several_parts():
    base = Auxiliary(
        (parts.Gray(2, 2),), (gated_pixelcnn(Bernoulli(), num_layers=1), of_map(Bernoulli(), 2, 2)), (context(),)
    )
    model, x = multiscale(base), integers(2, 2, 4, 4, 1)
    variables = jax.eval_shape(functools.partial(arjax.modules.init, model), jax.random.key(0), x)
    refused(
        "a stage whose samples are one array is wanted, got Auxiliary",
        jax.eval_shape,
        lambda variables, key: arjax.sample(model, variables, key, x.shape),
        variables,
        jax.random.key(0),
    )


def test_contexts_that_do_not_fit():
    even, base = integers(2, 2, 4, 4, 1), gated_pixelcnn(Bernoulli(), num_layers=1)
    of_wrong_size = "cond: floats of shape (batch, 2, 4, 6) are wanted, got float32 (2, 4, 4, 6)"
    gray = parts.Gray(2, 2)
    refused(of_wrong_size, score, Auxiliary((gray,), (base, of_map(Bernoulli(), 2, 4)), (context(),)), even)
    wanted = "cond: floats of shape (batch, 2, 3, 6) are wanted, got float32 (8, 2, 2, 6)"
    refused(wanted, score, Subscale((2, 2, 1), of_map(Bernoulli(), 2, 3), context()), even)
    lower = Subscale((2, 2, 1), of_map(Bernoulli(), 2, 2), context(), conditioning=Map(2, 4, 6))
    small = np.zeros((2, 2, 4, 6), np.float32)
    refused("cond: features of the places (4, 4) are wanted, got (2, 4)", score, lower, even, small)
    whole = Subscale((1, 1, 1), of_map(Bernoulli(), 4, 4), context())
    refused("factors of 2 slices or more are wanted, got (1, 1, 1)", score, whole, even)
    refused(
        "2 models and 1 contexts are wanted for 1 views, got 1 and 1",
        score,
        Auxiliary((gray,), (base,), (context(),)),
        even,
    )
    twice = Auxiliary((gray, gray), (base, base, base), (context(), context()))
    refused("names of the views are wanted that differ, none of them x, got ['gray', 'gray']", score, twice, even)
    strided = PixelCNNPP(channels=1, features=2, num_blocks=1, num_levels=2, conditioning=Map(4, 2, 3))
    wrong = np.zeros((2, 4, 2, 3), np.float32)
    refused("cond: a map of the image's size (4, 4) is wanted, got (4, 2)", score, strided, even, wrong)
    located = multiscale(gated_pixelcnn(Bernoulli(), num_layers=1, conditioning=Map(2, 2, 3)))
    refused(
        "cond: what has no location is wanted, got a map of shape (2, 2, 2, 3)", score, located, even, wrong[:, :2]
    )


def test_levels_that_cannot_be_cut():
    high, low = gated_pixelcnn(Categorical(3), num_layers=1), of_map(Categorical(4), 2, 2)
    refused("a power of 2", score, DepthUpscaling(high, low, context()), integers(12, 2, 2, 2, 1))


@pytest.mark.parametrize("name", ["gray", "depth"])
def test_contradicting_evidence(name):
    model, variables, x, cond = setup(name)
    given = jax.tree.map(np.array, with_views(model, x))
    known = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), given)
    view = {"gray": "gray", "depth": "high"}[name]
    right = int(given[view][2, 1, 0, 0])
    given[view][2, 1, 0, 0] = 1 - right
    noise = noise_for(model, x.shape, 0)
    message = f"evidence: {view}[2, 1, 0, 0] is {right} by the evidence that it is a view of, got {1 - right}"
    refused(message, arjax.sample_from_noise, model, variables, noise, cond, evidence=(given, known))
    known["x"][2, 1, 0] = False
    arjax.sample_from_noise(model, variables, noise, cond, evidence=(given, known))


def test_noise_of_all_parts():
    model, variables, x, _ = setup("depth")
    noise = noise_for(model, x.shape, 0)
    refused(
        "noise: a dictionary of high, x is wanted, got x",
        arjax.sample_from_noise,
        model,
        variables,
        {"x": noise["x"]},
    )
    wrong = noise | {"high": noise["high"][:, :1]}
    refused(
        "noise: high of shape (4, 2, 2, 1) is wanted, got (4, 1, 2, 1)",
        arjax.sample_from_noise,
        model,
        variables,
        wrong,
    )


def test_what_cannot_be_drawn_is_no_level():
    """Within `jit`, noise out of range: -1 in all parts that have it, whatever bits are joined."""
    model, variables, x, _ = setup("depth")
    noise = noise_for(model, x.shape, 0)
    noise["high"] = np.where(np.arange(4).reshape(4, 1, 1, 1) == 1, 2, noise["high"])
    sample = jax.jit(lambda noise: arjax.sample_from_noise(model, variables, noise))(noise)
    assert (sample["x"][1] == -1).all()
    assert (sample["high"][1] == -1).all()
    assert (sample["x"][0] >= 0).all()


def test_top_p_of_a_stage_that_has_none():
    """Though the whole, of a categorical output, would take it."""
    low = of_map(DiscretizedLogisticMixture(2, levels=2), 2, 2)
    model = DepthUpscaling(gated_pixelcnn(Categorical(2), num_layers=1), low, context())
    variables = random_variables(model, integers(4, 2, 2, 2, 1))
    noise = noise_for(model, (2, 2, 2, 1), 0)
    refused(
        "top_p: an output with a nucleus, such as Categorical, is wanted, got DiscretizedLogisticMixture",
        arjax.sample_from_noise,
        model,
        variables,
        noise,
        top_p=0.5,
    )
