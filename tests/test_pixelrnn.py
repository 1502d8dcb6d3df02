"""What is special about PixelRNN: skewed images, LSTMs against a loop over pixels, what a pixel sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply, integers, random_variables, row_lstm_field, stepped_params

from arjax.distributions import Categorical
from arjax.models import DiagonalBiLSTM, PixelRNN, RowLSTM
from arjax.models.pixelrnn import lstm, scan_diagonals, skew, unskew

SHAPES = [(1, 1, 1), (1, 5, 2), (5, 1, 2), (3, 3, 1), (3, 4, 2), (5, 3, 3), (2, 3, 6, 4, 2)]


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(gates, cell):
    """Equation 3 in float64; 1 is added to what the forget gate is given."""
    o, f, i, g = np.split(np.asarray(gates, np.float64), 4, -1)
    cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def diagonal_states(gates, kernel):
    """An LSTM from the top left, pixel by pixel: `[b, h, w, 4f]` to `[b, h, w, f]`."""
    batch, height, width, size = gates.shape
    features = size // 4
    hidden, cells = (
        np.zeros((batch, height + 1, width + 1, features)) for _ in range(2)
    )  # a row, a column before
    for r, c in np.ndindex(height, width):
        above, left = hidden[:, r, c + 1], hidden[:, r + 1, c]
        from_states = above @ kernel[:features] + left @ kernel[features:]
        hidden[:, r + 1, c + 1], cells[:, r + 1, c + 1] = lstm_step(
            gates[:, r, c] + from_states, cells[:, r + 1, c]
        )
    return hidden[:, 1:, 1:]


lstm_of_layer = jax.jit(lambda layer, *args: layer.apply(*args), static_argnums=0)


# Skewed images


@pytest.mark.parametrize("shape", SHAPES)
def test_unskew_undoes_skew(shape):
    x = floats(*shape)
    np.testing.assert_array_equal(unskew(skew(x)), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_column_of_a_skewed_image_is_a_diagonal(shape):
    x = floats(*shape)
    *batch, height, width, features = shape
    expected = np.zeros((*batch, height, height + width - 1, features), np.float32)
    for r, c in np.ndindex(height, width):
        expected[..., r, r + c, :] = x[..., r, c, :]
    np.testing.assert_array_equal(skew(x), expected)


# Equations


def test_lstm():
    gates, cell = floats(5, 12), floats(5, 3, seed=1)
    for found, expected in zip(jax.jit(lstm)(gates, cell), lstm_step(gates, cell), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (1, 4), (4, 1)])
def test_diagonals_against_a_loop_over_pixels(size):
    gates, kernel = floats(2, 2, *size, 12), floats(2, 6, 12, seed=1)
    found = jax.jit(scan_diagonals)(*gates, kernel)
    for i in range(2):
        np.testing.assert_allclose(found[i], diagonal_states(gates[i], kernel[i]), atol=1e-5)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_row_lstm_against_a_loop_over_pixels(kernel_size, channels):
    features, reach = 3, kernel_size // 2
    layer = RowLSTM(features, channels, kernel_size=kernel_size)
    x, bias = floats(2, 4, 5, 2 * features), floats(2, 4, 5, 4 * features, seed=1)
    variables = random_variables(layer, x, bias, above=None)
    params = variables["params"]
    colours = np.arange(features) if channels > 1 else np.zeros(features, int)
    mask = np.repeat(colours, 2)[:, None] <= np.tile(colours, 4)
    to_state = params["input_to_state"]["kernel"][0] * np.concatenate([np.ones((reach, *mask.shape)), mask[None]])
    to_state = to_state.reshape(-1, 4 * features)
    padded = np.pad(x, ((0, 0), (0, 0), (reach, 0), (0, 0)))
    hidden = np.zeros((2, 5, 5 + 2 * reach, features))  # a row above, columns on both sides
    cells = np.zeros((2, 5, 5, features))
    for r, c in np.ndindex(4, 5):
        near = padded[:, r, c : c + reach + 1].reshape(2, -1)
        above = hidden[:, r, c : c + kernel_size].reshape(2, -1)
        gates = near @ to_state + params["input_to_state"]["bias"] + bias[:, r, c] + above @ params["kernel"]
        hidden[:, r + 1, c + reach], cells[:, r + 1, c] = lstm_step(gates, cells[:, r, c])
    expected = hidden[:, 1:, reach : reach + 5]
    np.testing.assert_allclose(lstm_of_layer(layer, variables, x, bias, None), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_diagonal_bilstm_against_a_loop_over_pixels(channels):
    """To the right as it is; to the left over mirrored features of the row above, mirrored back."""
    features = 3
    layer = DiagonalBiLSTM(features, channels)
    x, biases = floats(2, 4, 5, 2 * features), (floats(2, 4, 5, 12, seed=1), floats(2, 4, 5, 12, seed=2))
    variables = random_variables(layer, x, biases, above=None)
    params = variables["params"]
    colours = np.arange(features) if channels > 1 else np.zeros(features, int)
    mask = np.repeat(colours, 2)[:, None] <= np.tile(colours, 8)
    gates = x @ (params["input_to_state"]["kernel"] * mask) + params["input_to_state"]["bias"]
    right, left = np.split(gates, 2, -1)
    left = np.concatenate([np.zeros_like(left[:, :1]), left[:, :-1]], 1)
    right, left = right + biases[0], left + biases[1]
    expected = diagonal_states(right, params["kernel"][0])
    expected = expected + diagonal_states(left[:, :, ::-1], params["kernel"][1])[:, :, ::-1]
    np.testing.assert_allclose(lstm_of_layer(layer, variables, x, biases, None), expected, atol=1e-5)


def test_the_lstm_to_the_left_is_the_mirror_image_of_the_one_to_the_right():
    """With the same kernels, and features of the row above for those of its own."""
    features = 3
    layer = DiagonalBiLSTM(features, 1)
    x, none = floats(2, 4, 5, 2 * features), np.zeros((1, 1, 1, 1), np.float32)
    variables = random_variables(layer, x, (none, none), above=None)
    kernel, to_state = variables["params"]["kernel"], variables["params"]["input_to_state"]
    silent = np.float32(-100)  # an output gate that is shut

    def only(direction, x):
        own = {name: np.split(leaf, 2, -1)[0] for name, leaf in to_state.items()}
        shut = {"kernel": np.zeros_like(own["kernel"]), "bias": np.full_like(own["bias"], silent)}
        halves = [own, shut] if direction == "right" else [shut, own]
        both = {name: np.concatenate([half[name] for half in halves], -1) for name in own}
        params = {"kernel": np.stack([kernel[0], kernel[0]]), "input_to_state": both}
        return np.asarray(lstm_of_layer(layer, {"params": params}, x, (none, none), None))

    right = only("right", x[:, :, ::-1])[:, :, ::-1]
    left = only("left", x)
    np.testing.assert_allclose(left[:, 1:], right[:, :-1], atol=1e-6)
    np.testing.assert_allclose(left[:, 0], 0, atol=1e-6)


def scans_of(jaxpr):
    """The scans of a program, in functions that it calls too."""
    scans = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            scans.append(equation)
        elif "jaxpr" in equation.params:
            scans += scans_of(equation.params["jaxpr"].jaxpr)
    return scans


def test_one_scan_for_each_layer():
    """Over the diagonals for both directions, or over the rows; nothing of a layer's input is inside."""
    for layer, length in ((RowLSTM, 4), (DiagonalBiLSTM, 8)):
        model = PixelRNN(features=4, num_layers=3, layer=layer, head_features=4)
        x = integers(2, 2, 4, 5, 1)
        scans = scans_of(jax.make_jaxpr(model.apply)(random_variables(model, x), x).jaxpr)
        assert [scan.params["length"] for scan in scans] == [length] * 3
        for scan in scans:
            products = [e for e in scan.params["jaxpr"].eqns if e.primitive.name == "dot_general"]
            assert len(products) == 1, "state to state"


# What a pixel sees


def seen(model, height, width):
    """`[i, j]`: whether the parameters of position i depend on position j."""
    event = (height, width, model.channels)
    images = np.random.default_rng(0).uniform(0, model.output.levels - 1, (4, *event)).astype(np.float32)
    variables = random_variables(model, images)

    def outputs(x):
        return model.apply(variables, x.reshape(1, *event)).reshape(x.size, -1)

    jacobian = jax.jit(jax.vmap(jax.jacfwd(outputs)))(images.reshape(len(images), -1))
    return np.abs(np.asarray(jacobian)).max((0, 2)) > 0


@pytest.mark.parametrize("size", [(5, 12), (8, 5)])
def test_diagonal_bilstm_sees_all_that_is_before_a_pixel(size):
    model = PixelRNN(features=8, num_layers=1, layer=DiagonalBiLSTM, first_kernel_size=3, head_features=16)
    np.testing.assert_array_equal(seen(model, *size), np.tri(size[0] * size[1], k=-1, dtype=bool))


def test_row_lstm_sees_a_triangle():
    """Of row r above a pixel sees r columns to the right, where the first kernel does not reach further."""
    model = PixelRNN(features=8, num_layers=1, layer=RowLSTM, first_kernel_size=3, head_features=16)
    height, width = 6, 11
    found = seen(model, height, width)
    np.testing.assert_array_equal(found, row_lstm_field(model, height, width))
    rows, columns = np.divmod(np.arange(height * width), width)
    above, right = rows[:, None] - rows, columns - columns[:, None]
    triangle = (above > 0) & (right <= above) | (above == 0) & (right < 0)
    np.testing.assert_array_equal(found, triangle & (-right <= above + 2))


@pytest.mark.parametrize("layer", [RowLSTM, DiagonalBiLSTM])
def test_a_channel_sees_earlier_channels_and_pixels_alone(layer):
    model = PixelRNN(Categorical(3), 3, 12, 2, layer, head_features=24)
    np.testing.assert_array_equal(seen(model, 3, 4), np.tri(36, k=-1, dtype=bool))


# One by one


@pytest.mark.parametrize("layer", [RowLSTM, DiagonalBiLSTM])
@pytest.mark.parametrize("size", [(1, 4), (4, 1), (5, 3)])
def test_incremental_passes_of_other_sizes(layer, size):
    model = PixelRNN(Categorical(3), 2, 4, 3, layer, head_features=4)
    x = integers(3, 2, *size, 2)
    variables = random_variables(model, x)
    np.testing.assert_allclose(stepped_params(model, variables, x), apply(model, variables, x), atol=1e-5)


def test_no_layers():
    with pytest.raises(ValueError, match=r"(?m)^num_layers of 1 or more are wanted, got 0$"):
        jax.eval_shape(PixelRNN(num_layers=0).init, jax.random.key(0), jnp.zeros((1, 4, 4, 1), jnp.int32))
