import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arjax
from arjax import masks
from arjax.distributions import Bernoulli, Categorical
from arjax.layers import Classes
from arjax.models import MADE, ChainRule, GatedPixelCNN, Histogram, histogram


def integers(levels, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.int32)


def random_variables(model, *args, scale=0.5):
    """Variables of a model without its initialisers' zeros, as numpy."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def events(levels, size):
    return np.array(list(itertools.product(range(levels), repeat=size)), np.int32)


# MADE

ORDER = (3, 0, 4, 1, 2)


def test_made_of_an_order_is_made_of_permuted_variables():
    """With the first and last kernels' variables sorted by rank, the natural order gives the same conditionals."""
    x = integers(3, 16, 5)
    ordered = MADE((5,), Categorical(3), hidden=(12, 8), direct=True, ordering=ORDER)
    natural = ordered.clone(ordering=None)
    variables = random_variables(ordered, x)
    by_rank = np.argsort(ORDER)

    def inputs(kernel):
        return kernel.reshape(5, 2, -1)[by_rank].reshape(kernel.shape)

    def outputs(array):
        return array.reshape(-1, 5, 3)[:, by_rank].reshape(array.shape)

    first, middle, last = (variables["params"][f"layers_{i}"] for i in range(3))
    direct = variables["params"]["direct_layer"]["kernel"]
    permuted = {
        "layers_0": {"kernel": inputs(first["kernel"]), "bias": first["bias"]},
        "layers_1": middle,
        "layers_2": {"kernel": outputs(last["kernel"]), "bias": outputs(last["bias"])},
        "direct_layer": {"kernel": outputs(inputs(direct))},
    }
    expected = jax.jit(ordered.apply)(variables, x)
    sorted_params = jax.jit(natural.apply)({"params": permuted}, x[:, by_rank])
    np.testing.assert_allclose(sorted_params, expected[:, by_rank], atol=1e-5)
    unsorted_params = jax.jit(natural.apply)(variables, x)
    assert np.abs(unsorted_params - expected).max() > 0.1, "the order matters"


def test_made_against_the_equations():
    """Equations 9-13 with explicit loops over degrees, for one hidden layer and direct connections."""
    model = MADE((4,), hidden=(7,), direct=True, ordering=(2, 0, 3, 1), activation=nn.tanh)
    x = integers(2, 8, 4)
    variables = random_variables(model, x)
    (w, b), (v, c) = ([variables["params"][f"layers_{i}"][leaf] for leaf in ("kernel", "bias")] for i in range(2))
    a = variables["params"]["direct_layer"]["kernel"]
    degrees = masks.hidden_degrees(7, 4)
    logits = np.tile(c, (8, 1))
    for d, d_rank in enumerate(model.ordering):
        for k, degree in enumerate(degrees):
            if degree < d_rank:
                seen = [i for i, rank in enumerate(model.ordering) if rank <= degree]
                logits[:, d] += v[k, d] * np.tanh(b[k] + x[:, seen] @ w[seen, k])
        logits[:, d] += sum(a[i, d] * x[:, i] for i, rank in enumerate(model.ordering) if rank < d_rank)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x)[..., 0], logits, atol=1e-5)


@partial(jax.jit, static_argnums=0)
def members(model, variables, x, seeds):
    """Parameters and log-probabilities under each mask seed."""

    def member(seed):
        params = model.apply({**variables, "masks": {"seed": seed}}, x)
        return params, model.output.log_prob(params, x).sum(-1)

    return jax.vmap(member)(seeds)


SEEDS = np.arange(6)
X = integers(2, 6, 5)


@pytest.mark.parametrize("agnostic", ["order_agnostic", "connectivity_agnostic"])
def test_mask_seeds_choose_members(agnostic):
    model = MADE((5,), hidden=(9,), **{agnostic: True})
    variables = random_variables(model, X)
    params, log_probs = members(model, variables, X, SEEDS)
    for one, other in itertools.combinations(SEEDS, 2):
        assert np.abs(params[one] - params[other]).max() > 1e-3
        assert np.abs(log_probs[one] - log_probs[other]).max() > 1e-3
    np.testing.assert_allclose(arjax.log_prob(model, variables, X), log_probs[0], rtol=1e-5)


def test_mask_seeds_do_nothing_to_fixed_masks():
    model = MADE((5,), hidden=(9,), ordering=ORDER)
    _, log_probs = members(model, random_variables(model, X), X, SEEDS)
    np.testing.assert_array_equal(log_probs, np.broadcast_to(log_probs[:1], log_probs.shape))


def test_order_agnostic_members_differ_in_their_order():
    def ranks(model, seeds):
        return jax.jit(jax.vmap(lambda seed: model.apply({"masks": {"seed": seed}}, method="ranks")))(seeds)

    orders = np.asarray(ranks(MADE((5,), hidden=(9,), order_agnostic=True), np.arange(20)))
    np.testing.assert_array_equal(np.sort(orders, -1), np.tile(np.arange(5), (20, 1)))
    assert len(np.unique(orders, axis=0)) > 15
    natural = ranks(MADE((5,), hidden=(9,), connectivity_agnostic=True), np.arange(2))
    np.testing.assert_array_equal(natural, np.tile(np.arange(5), (2, 1)))


@pytest.mark.parametrize("num_masks", [3, None])
def test_training_draws_seeds_of_num_masks_members(num_masks):
    model = MADE((5,), hidden=(9,), order_agnostic=True, num_masks=num_masks)

    @jax.jit
    def drawn(keys):
        return jax.vmap(lambda key: model.apply({}, True, rngs={"masks": key}, method="seed"))(keys)

    seeds = np.asarray(drawn(jax.random.split(jax.random.key(2), 30)))
    if num_masks is None:
        assert len(set(seeds)) == 30
        assert seeds.min() >= 0
    else:
        assert set(seeds) == set(range(num_masks))
    assert model.apply({}, True, method="seed") == 0, "without the rng stream"
    assert model.apply({"masks": {"seed": 5}}, False, rngs={"masks": jax.random.key(2)}, method="seed") == 5


def test_training_uses_the_masks_of_the_seed_drawn():
    model = MADE((5,), hidden=(9,), order_agnostic=True, num_masks=6)
    variables = random_variables(model, X)
    params, _ = members(model.clone(num_masks=None), variables, X, SEEDS)
    train = jax.jit(lambda key: model.apply(variables, X, train=True, rngs={"masks": key}))
    used = set()
    for seed in range(6):
        drawn = train(jax.random.key(seed))
        distances = np.abs(params - drawn[None]).max((1, 2, 3))
        assert distances.min() < 1e-5
        used.add(distances.argmin())
    assert len(used) > 1


def test_first_variable_of_made_is_its_bias():
    x = integers(3, 20, 5)
    model = MADE((5,), Categorical(3), hidden=(12, 12), direct=True, ordering=ORDER)
    variables = random_variables(model, x)
    params = np.asarray(jax.jit(model.apply)(variables, x))
    first = ORDER.index(0)
    bias = variables["params"]["layers_2"]["bias"].reshape(5, 3)
    np.testing.assert_array_equal(params[:, first], np.tile(bias[first], (20, 1)))
    others = np.delete(params, first, axis=1)
    assert (others.std(0) > 1e-3).all()


def test_made_of_one_variable():
    model = MADE((1,), hidden=(3,))
    x = np.array([[0], [1]], np.int32)
    variables = random_variables(model, x)
    assert np.exp(arjax.log_prob(model, variables, x)).sum() == pytest.approx(1)
    noise = np.float32([[0.01], [0.99]])
    np.testing.assert_array_equal(arjax.sample_from_noise(model, variables, noise), x)


@pytest.mark.parametrize("ordering", [(0, 1, 2), (0, 1, 2, 3, 3), (1, 2, 3, 4, 5)])
def test_made_refuses_what_is_no_ordering(ordering):
    with pytest.raises(
        ValueError, match=r"an ordering of \(5,\) holds each of 0..4 once, got \[" + f"{ordering[0]}, "
    ):
        MADE((5,), hidden=(9,), ordering=ordering).init(jax.random.key(0), integers(2, 1, 5))


# Chain rule


def test_chain_rule_order():
    model = ChainRule(4, Bernoulli(), parents=((3,), (0,), (), ()))
    order = model.order()
    assert sorted(order) == [0, 1, 2, 3]
    assert order.index(3) < order.index(0) < order.index(1)
    np.testing.assert_array_equal(np.asarray(order)[np.argsort(order)], np.arange(4))
    np.testing.assert_array_equal(model.ranks()[np.asarray(order)], np.arange(4))
    assert ChainRule(3, Bernoulli()).order() == (0, 1, 2)
    assert ChainRule(3, Bernoulli()).graph() == ((), (0,), (0, 1))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (((1,), (2,), (0,)), r"parents have a cycle: \["),
        (((0,), (), ()), r"parents have a cycle: \[0, 0\]"),
        (((), (3,), ()), r"3 tuples of variables 0..2, got \(\(\), \(3,\), \(\)\)"),
        (((), (-1,), ()), r"3 tuples of variables 0..2, got"),
        (((), (0,)), r"3 tuples of variables 0..2, got"),
        (((), (0,), (1,), (2,)), r"3 tuples of variables 0..2, got"),
    ],
)
def test_chain_rule_refuses_wrong_parents(parents, message):
    model = ChainRule(3, Bernoulli(), hidden=(), parents=parents)
    with pytest.raises(ValueError, match=message):
        model.order()
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), integers(2, 1, 3))


def mutual_information(joint):
    """Of the two axes of a table of probabilities, in nats."""
    independent = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
    return (joint * np.log(joint / independent)).sum()


def test_sparse_bayes_net_makes_independent():
    """1 <- 0 -> 2, and 3 alone: 1 and 2 depend on each other, but not given 0; 3 on nothing."""
    model = ChainRule(4, Categorical(2), hidden=(), parents=((), (0,), (0,), ()))
    every = events(2, 4)
    variables = random_variables(model, every[:1], scale=1.5)
    joint = np.exp(np.asarray(arjax.log_prob(model, variables, every), np.float64)).reshape(2, 2, 2, 2)
    assert joint.sum() == pytest.approx(1, abs=1e-5)
    assert mutual_information(joint.sum((0, 3))) > 1e-4
    for given in joint.sum(3):
        assert mutual_information(given / given.sum()) == pytest.approx(0, abs=1e-6)
    assert mutual_information(joint.reshape(8, 2)) == pytest.approx(0, abs=1e-6)


def test_chain_rule_by_hand():
    """Without hidden layers a conditional is a table: `logits[x_0]` with the one-hot code of the parent."""
    model = ChainRule(2, Categorical(3), hidden=())
    tables = np.log([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]]).astype(np.float32)
    zeros = np.zeros(3, np.float32)
    params = {
        "conditionals_0_0": {"kernel": tables[:1], "bias": zeros},
        "conditionals_1_0": {"kernel": tables[1:], "bias": zeros},
    }
    log_prob = arjax.log_prob(model, {"params": params}, np.array([[2, 1], [0, 2], [1, 0]], np.int32))
    np.testing.assert_allclose(np.exp(log_prob), [0.5 * 0.3, 0.2 * 0.8, 0.3 * 0.6], rtol=1e-5)


# Histogram


def test_count_is_the_empirical_frequency():
    x = np.array([[0, 2], [0, 1], [1, 2], [0, 2]], np.int32)
    model = Histogram((2,), Categorical(3))
    exact = histogram.count(x + 0, 3, pseudo_count=1e-9)
    np.testing.assert_allclose(
        jax.nn.softmax(exact["params"]["logits"]), [[0.75, 0.25, 0], [0, 0.25, 0.75]], atol=1e-6
    )
    smooth = histogram.count(x, 3)
    expected = np.array([[4, 2, 1], [1, 2, 4]]) / 7
    np.testing.assert_allclose(jax.nn.softmax(smooth["params"]["logits"]), expected, rtol=1e-5)
    log_prob = arjax.log_prob(model, smooth, x)
    np.testing.assert_allclose(np.exp(log_prob), [16 / 49, 8 / 49, 8 / 49, 16 / 49], rtol=1e-5)
    assert smooth["params"]["logits"].dtype == jnp.float32


def test_count_is_the_trained_maximum():
    """The likelihood is concave in the logits and has no slope at the counts."""
    x = np.concatenate([integers(4, 50, 2, 3), np.broadcast_to(np.arange(4)[:, None, None], (4, 2, 3))])
    model = Histogram((2, 3), Categorical(4))
    counted = histogram.count(x, 4, pseudo_count=0)
    grads = jax.grad(lambda v: arjax.log_prob(model, v, x).mean())(counted)
    np.testing.assert_allclose(grads["params"]["logits"], 0, atol=1e-6)
    uniform = model.init(jax.random.key(0), x)
    assert arjax.log_prob(model, uniform, x).mean() < arjax.log_prob(model, counted, x).mean()


# Gated PixelCNN


def pixelcnn_field(height, width, model):
    """`field[i, j]`: whether pixel i is predicted to see pixel j, from the kernels alone."""
    grid = np.arange(height * width).reshape(height, width)

    def union(field, offsets):
        """What each pixel sees through the pixels at `offsets` from it."""
        out = np.zeros_like(field)
        for (r, c), (dr, dc) in itertools.product(np.ndindex(height, width), offsets):
            if 0 <= r + dr < height and 0 <= c + dc < width:
                out[grid[r, c]] |= field[grid[r + dr, c + dc]]
        return out

    eye = np.eye(height * width, dtype=bool)
    v, h = union(eye, [(-1, 0)]), union(eye, [(0, -1)])
    for i in range(model.num_layers):
        n = model.first_kernel_size if i == 0 else model.kernel_size
        v = union(v, itertools.product(range(-(n // 2), 1), range(-(n // 2), n // 2 + 1)))
        h = union(h, [(0, dc) for dc in range(-(n // 2), 1)]) | v
    return h


@pytest.mark.parametrize(("num_layers", "first_kernel_size", "complete"), [(4, 7, True), (2, 3, False)])
def test_pixelcnn_sees_what_its_kernels_reach(num_layers, first_kernel_size, complete):
    """Deep enough it has no blind spot: each pixel depends on every earlier one."""
    model = GatedPixelCNN(features=4, num_layers=num_layers, first_kernel_size=first_kernel_size, head_features=8)
    x = np.random.default_rng(0).uniform(size=(4, 49)).astype(np.float32)
    variables = random_variables(model, x.reshape(4, 7, 7, 1))

    def logits(x):
        return model.apply(variables, x.reshape(1, 7, 7, 1)).reshape(49)

    reached = np.abs(np.asarray(jax.jit(jax.vmap(jax.jacrev(logits)))(x))).max(0) > 0
    predicted = pixelcnn_field(7, 7, model)
    np.testing.assert_array_equal(reached, predicted)
    earlier = np.tri(49, k=-1, dtype=bool)
    assert (predicted <= earlier).all()
    assert (predicted == earlier).all() == complete


def test_pixelcnn_label_reaches_the_first_pixel():
    model = GatedPixelCNN(Categorical(3), features=4, num_layers=2, head_features=8, conditioning=Classes(4))
    x = integers(3, 4, 3, 3, 1)
    labels = np.arange(4, dtype=np.int32)
    variables = random_variables(model, x, labels)
    same_image = np.broadcast_to(x[:1], x.shape)
    params = np.asarray(jax.jit(model.apply)(variables, same_image, labels))
    for one, other in itertools.combinations(range(4), 2):
        assert np.abs(params[one, 0, 0] - params[other, 0, 0]).max() > 1e-3
    other_images = np.asarray(jax.jit(model.apply)(variables, x, np.zeros(4, np.int32)))
    np.testing.assert_allclose(
        other_images[:, 0, 0], np.broadcast_to(other_images[:1, 0, 0], (4, 1, 3)), atol=1e-6
    )


def test_pixelcnn_dropout_is_for_training():
    model = GatedPixelCNN(features=8, num_layers=1, head_features=8, dropout=0.5)
    x = integers(2, 2, 2, 2, 1)
    variables = random_variables(model, x)
    train = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}))
    one, other = (train(jax.random.key(seed)) for seed in (0, 1))
    assert (one != other).any()
    assert np.isfinite(arjax.log_prob(model, variables, x)).all(), "evaluation draws nothing"


# Errors

MODELS = {
    "histogram": (Histogram((5,), Bernoulli()), (5,)),
    "chain_rule": (ChainRule(5, Bernoulli(), hidden=()), (5,)),
    "made": (MADE((5,), hidden=(4,)), (5,)),
    "gated_pixelcnn": (GatedPixelCNN(features=2, num_layers=1, head_features=2), (3, 3, 1)),
}


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_event(name):
    model, event = MODELS[name]
    variables = random_variables(model, integers(2, 1, *event))
    for wrong in {"gated_pixelcnn": [(3, 3), (3, 3, 3)]}.get(name, [(4,), (6,), (5, 1)]):
        message = r"\(.*" + ", ".join(map(str, wrong))
        with pytest.raises(ValueError, match=f"wanted, got {message}"):
            arjax.log_prob(model, variables, integers(2, 2, *wrong))
        for method in ("cached", "naive", "fixed_point"):
            with pytest.raises(ValueError, match=f"wanted, got {message}"):
                arjax.sample_from_noise(model, variables, zeros(2, *wrong), method=method)


@pytest.mark.parametrize("name", MODELS)
def test_surplus_cond(name):
    model, event = MODELS[name]
    variables = random_variables(model, integers(2, 1, *event))
    labels = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="takes no cond"):
        arjax.log_prob(model, variables, integers(2, 2, *event), labels)
    for method in ("cached", "naive", "fixed_point"):
        with pytest.raises(ValueError, match="takes no cond"):
            arjax.sample_from_noise(model, variables, zeros(2, *event), labels, method=method)


def test_missing_cond():
    model = GatedPixelCNN(features=2, num_layers=1, head_features=2, conditioning=Classes(4))
    variables = random_variables(model, integers(2, 1, 3, 3, 1), np.zeros(1, np.int32))
    message = "cond is missing: this model has conditioning=Classes"
    with pytest.raises(ValueError, match=message):
        arjax.log_prob(model, variables, integers(2, 2, 3, 3, 1))
    with pytest.raises(ValueError, match=message):
        arjax.sample_from_noise(model, variables, zeros(2, 3, 3, 1))
