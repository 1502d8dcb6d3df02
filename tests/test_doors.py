"""What users pass in: refused alike by every public function, in one line; and what `jit` hides is no sample."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, noise_for, random_variables, refused
from zoo import ZOO, slow_but_for_one_of_each

import arjax
from arjax import training
from arjax.distributions import BELOW_ONE, Bernoulli
from arjax.models import MADE, Histogram

KEY, OPTIMIZER = jax.random.key(0), optax.sgd(0.1)
METHODS = ("cached", "naive", "fixed_point")
WITHOUT_PARTS = [name for name in ZOO if not hasattr(ZOO[name]()[0], "parts")]
"""Models whose samples are one array."""


def setup(name):
    model, x, cond = ZOO[name]()
    return model, random_variables(model, x, cond), x, cond


def doors_of_data(model, variables):
    """What takes data, each a function of `x` and `cond`."""
    params = variables["params"]

    def batch(x, cond):
        return {"x": x, "cond": cond}

    step = partial(training.train_step, model=model, optimizer=OPTIMIZER, ema_decay=0.9)
    return [
        partial(arjax.log_prob, model, variables),
        partial(arjax.bits_per_dim, model, variables),
        partial(arjax.score, model, variables),
        partial(arjax.ensemble_log_prob, model, variables, [0, 1]),
        lambda x, cond: training.create_state(model, OPTIMIZER, 0, batch(x, cond)),
        lambda x, cond: step(None, batch(x, cond)),
        lambda x, cond: training.eval_step(model, params, batch(x, cond), {}),
        lambda x, cond: training.evaluate(model, params, [batch(x, cond)]),
    ]


def doors_of_noise(model, variables):
    """What takes noise, each a function of it, of `cond` and of options."""
    return [partial(arjax.sample_from_noise, model, variables, method=method) for method in METHODS]


@pytest.mark.parametrize("name", ZOO)
def test_data_are_refused_alike(name):
    model, variables, x, cond = setup(name)
    top = model.output.levels - 1
    wanted = f"x: integers 0..{top} are wanted, got "
    bad = {
        f"{wanted}dtype float32": x.astype(np.float32),
        f"{wanted}dtype bool": x.astype(bool),
        f"{wanted}dtype object": np.full(x.shape, None),
        f"{wanted}dtype <U1": x.astype(str),
        f"{wanted}values 0..{top + 1}": np.where(x == x.max(), top + 1, 0),
        f"{wanted}values -1..0": np.where(x == x.max(), -1, 0).tolist(),
        f"{wanted}values 255..255": jnp.full(x.shape, 255, jnp.uint8),
        f"one example or more, (batch, *event), is wanted, got int32 of {(0, *x.shape[1:])}": x[:0],
        "is wanted, got int32 of (4,)": x[(slice(None), *[0] * (x.ndim - 1))],
        "is wanted, got NoneType": None,
    }
    for door in doors_of_data(model, variables):
        for message, data in bad.items():
            refused(message, door, data, cond)
        refused("is wanted, got list", door, [[0], [0, 0]], cond)
        refused("is wanted, got int32 of (0,)", door, [], cond)


@pytest.mark.parametrize("name", ZOO)
def test_conditions_are_refused_alike(name):
    model, variables, x, _ = setup(name)
    noise = noise_for(model, x.shape)
    doors = [
        *(partial(door, x) for door in doors_of_data(model, variables)),
        *(partial(door, noise) for door in doors_of_noise(model, variables)),
    ]
    for door in doors:
        refused("cond: one for each of 4 examples is wanted, got 3", door, np.zeros(3, np.int32))
        refused("cond: one for each of 4 examples is wanted, got 1", door, [0])
        refused("cond: one for each of 4 examples is wanted, got 2", door, 2)
        refused("cond: an array of numbers is wanted, got dtype <U1", door, np.array(["a"] * 4))
        if getattr(model.conditioning if hasattr(model, "conditioning") else None, "num_classes", None):
            refused("cond: labels 0..4 are wanted, got values -1..5", door, [0, 5, -1, 1])


@pytest.mark.parametrize("name", WITHOUT_PARTS)
def test_noise_and_settings_are_refused_alike(name):
    model, variables, x, cond = setup(name)
    noise = np.zeros(x.shape, np.float32)
    wanted = "noise: floats in [0, 1) are wanted, got "
    bad = {
        f"{wanted}dtype int32": x,
        f"{wanted}dtype object": np.full(x.shape, None),
        f"{wanted}values 0.0..1.0": noise + (x == x.max()),
        f"{wanted}values -1.0..-1.0": jnp.asarray(noise - 1),
        f"{wanted}values nan..nan": (noise + np.nan).tolist(),
        "noise: one example or more, (batch, *event), is wanted, got float32 of (0,": noise[:0],
        "is wanted, got float32 of (4,)": noise.reshape(4, -1)[:, 0],
    }
    settings = [
        ("a finite temperature above 0 is wanted, got 0", {"temperature": 0}),
        ("a finite temperature above 0 is wanted, got nan", {"temperature": np.float32([1, np.nan, 1, 1])}),
        ("a finite temperature above 0 is wanted, got inf", {"temperature": [1, 1, np.inf, 1]}),
        ("a finite temperature above 0 is wanted, got 'hot'", {"temperature": "hot"}),
        ("a finite temperature above 0 is wanted, got None", {"temperature": None}),
        (
            "temperature: a scalar or one for each of 4 examples is wanted, got shape (3,)",
            {"temperature": [1] * 3},
        ),
        ("evidence: a pair (values, mask) is wanted, got ndarray", {"evidence": x}),
        ("evidence: a pair (values, mask) is wanted, got 1", {"evidence": (x,)}),
        ("evidence values: integers of the sample's shape", {"evidence": (noise, noise > 0)}),
        ("evidence mask: booleans of the sample's shape", {"evidence": (x, None)}),
        ("evidence values: integers 0..", {"evidence": (x - 1, x == x)}),
    ]
    if hasattr(model.output, "nucleus"):
        settings += [
            ("a top_p above 0 and at most 1 is wanted, got 1.5", {"top_p": [0.5, 0.5, 1.5, 0.5]}),
            (
                "top_p: a scalar or one for each of 4 examples is wanted, got shape (4, 1)",
                {"top_p": np.ones((4, 1))},
            ),
        ]
    else:
        settings += [("top_p: an output with a nucleus", {"top_p": 0.5})]
    for door in doors_of_noise(model, variables):
        for message, given in bad.items():
            refused(message, door, given, cond)
        for message, options in settings:
            refused(message, door, noise, cond, **options)
        refused("", door, noise[..., None], cond)  # the model's own words
    for shape in ((0, *x.shape[1:]), (4,), 4, None, (4, 2.5)):
        refused(
            "a shape (batch, *event) of integers of 1 or more is wanted",
            arjax.sample,
            model,
            variables,
            KEY,
            shape,
        )
    refused("method is one of", arjax.sample_from_noise, model, variables, noise, cond, method=[])


@pytest.mark.parametrize("name", slow_but_for_one_of_each(ZOO))
def test_integers_of_any_dtype_and_lists(name):
    """By the bare module, too: nothing wraps around below 0."""
    model, variables, x, cond = setup(name)
    random_variables(model, x.astype(np.uint8), cond)
    if hasattr(model, "log_prob"):
        bare = jax.jit(partial(model.apply, method="log_prob"))
        expected = bare(variables, x.astype(np.uint8), cond)
    else:
        params = apply(model, variables, x.astype(np.uint8), cond)
        expected = model.output.log_prob(params, x).sum(range(1, x.ndim))
    as_lists = jax.tree.map(np.ndarray.tolist, (x, cond))
    for given in (as_lists, (x.astype(np.int64), cond), jax.tree.map(jnp.asarray, (x, cond))):
        log_prob = arjax.log_prob(model, variables, *given)
        chex.assert_trees_all_close(log_prob, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", slow_but_for_one_of_each(WITHOUT_PARTS))
def test_what_jit_hides_is_no_sample(name):
    """Of four examples, one with noise that is NaN somewhere, one at a temperature of 0, one with a bad label."""
    model, variables, x, cond = setup(name)
    known = np.zeros(x.shape, bool)
    known[..., -1] = True

    @jax.jit
    def draw(noise, temperature, cond):
        options = {"temperature": temperature, "evidence": (x, known), "return_log_prob": True}
        return arjax.sample_from_noise(model, variables, noise, cond, **options)

    noise = np.random.default_rng(0).random(x.shape, np.float32)
    good, log_prob = draw(noise, np.ones(4, np.float32), cond)
    noise[0].flat[0] = np.nan
    temperature = np.float32([1, 0, 1, 1])
    classes = jax.tree.map(lambda leaf: leaf.dtype.kind == "i", cond)
    bad_cond = jax.tree.map(lambda leaf, label: leaf + np.int32([0, 0, 0, 9]) if label else leaf, cond, classes)
    labelled = bool(jax.tree.leaves(classes)) and any(jax.tree.leaves(classes))
    bad, bad_log_prob = draw(noise, temperature, bad_cond)
    for example, fine in enumerate((False, False, True, not labelled)):
        np.testing.assert_array_equal(np.asarray(bad)[example][known[example]], x[example][known[example]])
        if fine:
            np.testing.assert_array_equal(bad[example], good[example])
            assert bad_log_prob[example] == log_prob[example]
        elif not known[example].flat[0]:
            assert (np.asarray(bad)[example] == -1).any()
            assert np.isnan(bad_log_prob[example])


@pytest.mark.parametrize("name", ["lstm", "wavenet_mixture", "own_network", "transformer_strided"])
def test_a_prompt_that_jit_hides_is_not_gone_on_from(name):
    model, variables, x, cond = setup(name)
    prompt = x[:, :3].copy()
    prompt[0, 2], noise = model.output.levels, np.full((4, 2), 0.5, np.float32)

    @jax.jit
    def goes_on(prompt):
        state = arjax.start(model, variables, prompt, cond)
        return arjax.extend(model, variables, state, noise, cond)[1]

    drawn = np.asarray(goes_on(prompt))
    assert (drawn[0] == -1).any()
    assert (drawn[1:] >= 0).all()


@pytest.mark.parametrize("name", ["transformer", "transformer_strided"])
def test_shorter_texts_in_every_sampler(name):
    """And past the end of an event, where it cannot be refused, there is no level."""
    model, variables, x, cond = setup(name)
    noise = jax.random.uniform(KEY, x.shape)
    state = arjax.start(model, variables, np.zeros((4, 0), np.int32), cond)
    state, drawn = arjax.extend(model, variables, state, noise[:, :6], cond)
    for method in METHODS:
        sampled = arjax.sample_from_noise(model, variables, noise[:, :6], cond, method=method)
        np.testing.assert_array_equal(sampled, drawn)
    extend = partial(arjax.extend, model, variables)
    refused(f"an event has {x.shape[1]} positions, got 6 and {x.shape[1]} more", extend, state, noise, cond)
    _, beyond = jax.jit(extend)(state, noise, cond)
    assert (np.asarray(beyond)[:, : x.shape[1] - 6] >= 0).all()
    assert (np.asarray(beyond)[:, x.shape[1] - 6 :] == -1).all()
    refused("state: what start or extend returned is wanted, got tuple", extend, (state, drawn), noise, cond)
    refused("noise: floats in [0, 1)", extend, state, noise[:, :1] + 1, cond)


@pytest.mark.parametrize("name", ["gated_pixelcnn", "made", "histogram", "pixelsnail_rgb_mixture"])
def test_only_models_of_sequences_start(name):
    model, variables, *_ = setup(name)
    refused(f"a model of sequences is wanted, got {type(model).__name__}", arjax.start, model, variables, [[0]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_noise_of_any_float_dtype(dtype):
    """None is rounded to 1, where a level of probability 0 would be drawn."""
    model = Histogram((3,), Bernoulli())
    variables = {"params": {"logits": np.float32([[0.0], [-40.0], [1.0]])}}
    noise = np.random.default_rng(0).random((8, 3))
    noise[0] = 1 - 1e-12 if dtype is np.float64 else 0.995
    x = arjax.sample_from_noise(model, variables, noise.astype(dtype))
    expected = np.minimum(noise.astype(dtype).astype(np.float64), BELOW_ONE).astype(np.float32)
    np.testing.assert_array_equal(x, arjax.sample_from_noise(model, variables, expected))
    assert (np.asarray(x)[:, 1] == 0).all()


def test_what_else_a_batch_holds():
    model, variables, x, _ = setup("lstm")
    evaluate = partial(training.eval_step, model, variables["params"], cache={})
    refused("a batch with x is wanted, as in {'x': x}, got ['image']", evaluate, {"image": x})
    refused("a batch with x is wanted, as in {'x': x}, got ndarray", evaluate, x)
    refused("scored: booleans of the shape of x, (4, 9) are wanted, got int32", evaluate, {"x": x, "scored": x})
    refused("before: integers of shape (4, 1) are wanted, got int32 of (4, 9)", evaluate, {"x": x, "before": x})
    refused("before: integers -1..1 are wanted, got", evaluate, {"x": x, "before": x[:, :1] + 2})
    for seeds in (0, [], [0.5], None):
        refused("seeds: one integer or more is wanted", arjax.ensemble_log_prob, model, variables, seeds, x)
    refused("chunk: 1 member or more is wanted, got 0", arjax.ensemble_log_prob, model, variables, [0], x, chunk=0)


def test_made_without_hidden_units_wants_direct_connections():
    refused("direct=True is wanted with hidden=()", MADE((4,), hidden=()).init, KEY, np.zeros((2, 4), np.int32))
