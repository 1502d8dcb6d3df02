"""What is special about PixelCNN and PixelCNN++, what images in colour add, and errors of all image models."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import apply, integers, random_variables, stepped, stepped_params
from jax import lax

import arjax
from arjax import masks
from arjax.decoding import Plan
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Classes, Deconvolution, Map, RasterConv, Vector, scale, strided
from arjax.models import DiagonalBiLSTM, GatedPixelCNN, PixelCNN, PixelCNNPP, PixelRNN, RowLSTM
from arjax.models.pixelcnn import ResidualBlock
from arjax.models.pixelcnnpp import WeightNorm, dense


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@partial(jax.jit, static_argnames=("strides", "padding"))
def convolve(x, kernel, strides=(1, 1), padding="SAME"):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


def influence(model, variables, images):
    """`[i, j]`: whether the parameters of position i depend on position j, for any of some images off the grid."""
    event = images.shape[1:]

    def outputs(x):
        return model.apply(variables, x.reshape(1, *event)).reshape(x.size, -1)

    jacobian = jax.jit(jax.vmap(jax.jacfwd(outputs)))(images.reshape(len(images), -1))
    return np.abs(np.asarray(jacobian)).max((0, 2)) > 0


def off_grid(levels, *shape):
    return np.random.default_rng(0).uniform(0, levels - 1, shape).astype(np.float32)


# PixelCNN is a network of masked convolutions


def test_first_layer_is_a_convolution_with_mask_a():
    model = PixelCNN(Categorical(4), 3, features=3, num_blocks=1, head_features=3)
    x = integers(4, 2, 6, 7, 3)
    params = random_variables(model, x)["params"]
    seen = []

    def look(function, args, kwargs, context):
        if isinstance(context.module, ResidualBlock) and context.method_name == "__call__":
            seen.append(args[0])
        return function(*args, **kwargs)

    @jax.jit
    def first_layer(params, x):
        with nn.intercept_methods(look):
            model.apply({"params": params}, x)
        return seen.pop()

    kernel = floats(7, 7, 4, 6)  # what no parameter stands for is masked
    kernel[:3] = params["above"]["kernel"]
    kernel[3, :3] = params["left"]["kernel"][0]
    kernel[3, 3, :3] = params["present"]["kernel"]
    colours, presence = (masks.convolution((7, 7), n, 6, "A", groups=n) for n in (3, 1))
    kernel = np.where(np.concatenate([colours, presence], 2), kernel, 0)
    expected = convolve(scale(x, 4), kernel) + params["above"]["bias"].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(first_layer(params, x), expected, atol=1e-5)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_raster_convolution_is_a_convolution_with_mask_b(k, groups):
    present = masks.connect(masks.colours(6, groups), masks.colours(9, groups), strict=False)
    conv = RasterConv(9, k, present)
    x = floats(2, 6, 5, 6)
    variables = random_variables(conv, x)
    params = variables["params"]
    kernel = floats(k, k, 6, 9)
    kernel[: k // 2] = params["above"]["kernel"]
    kernel[k // 2, : k // 2 + 1] = params["row"]["kernel"][0]
    kernel = np.where(masks.convolution((k, k), 6, 9, "B", groups), kernel, 0)
    expected = convolve(x, kernel) + params["row"]["bias"].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(jax.jit(conv.apply)(variables, x), expected, atol=1e-5)


def test_blind_spot():
    """Of row r above a pixel sees r + 2 columns to the right, and n blocks reach 3 + n rows and columns."""
    n, size = 3, 12
    model = PixelCNN(features=8, num_blocks=n, head_features=16)
    images = off_grid(2, 6, size, size, 1)
    reached = influence(model, random_variables(model, images), images)
    rows, columns = np.divmod(np.arange(size**2), size)
    above, right = rows[:, None] - rows, columns - columns[:, None]
    near = (above <= 3 + n) & (-right <= 3 + n)
    cone = (above >= 1) & (right <= np.minimum(above + 2, 3 + n)) | (above == 0) & (right < 0)
    np.testing.assert_array_equal(reached, near & cone)


@pytest.mark.parametrize(
    "model",
    [
        PixelCNN(Categorical(3), 3, features=9, num_blocks=1, head_features=18),
        GatedPixelCNN(Categorical(3), 3, features=12, num_layers=2, head_features=24),
    ],
    ids=["pixelcnn", "gated_pixelcnn"],
)
def test_a_channel_sees_earlier_channels_and_pixels_alone(model):
    images = off_grid(3, 4, 3, 4, 3)
    reached = influence(model, random_variables(model, images), images)
    np.testing.assert_array_equal(reached, np.tri(36, k=-1, dtype=bool))


# PixelCNN++


@pytest.mark.parametrize(("init_scale", "kernel_size"), [(1.0, (2, 3)), (0.1, (2, 2)), (0.1, ())])
def test_weight_norm(init_scale, kernel_size):
    """After initialisation outputs have mean 0 and a given deviation; the kernel's norm is the scale."""
    operation = partial(convolve, padding="VALID") if kernel_size else dense
    layer = WeightNorm(operation, 5, kernel_size, init_scale)
    x = 3 + 2 * floats(16, 4, 4, 3)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), init_scale, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), y, atol=1e-5)
    kernel = layer.clone(operation=lambda x, kernel: kernel).apply(variables, x)
    kernel = np.asarray(kernel) - np.asarray(variables["params"]["bias"])
    norms = np.sqrt((kernel**2).sum(tuple(range(kernel.ndim - 1))))
    np.testing.assert_allclose(norms, variables["params"]["scale"], rtol=1e-5)
    longer = {"params": variables["params"] | {"v": 7 * variables["params"]["v"]}}
    np.testing.assert_allclose(jax.jit(layer.apply)(longer, x), y, atol=1e-5)


LADDER = PixelCNNPP(
    DiscretizedLogisticMixture(2, 8), features=3, num_blocks=1, num_levels=3, conditioning=Classes(3)
)


def test_every_layer_starts_with_unit_outputs():
    """And the second convolution of a block, as the head, with a tenth of that; with dropout active."""
    model = LADDER.clone(num_levels=2)
    x, labels = integers(8, 16, 4, 8, 3), integers(3, 16)
    paths = []

    def moments(params, x, labels):
        found = []

        def look(function, args, kwargs, context):
            y = function(*args, **kwargs)
            if isinstance(context.module, WeightNorm) and context.method_name == "__call__":
                paths.append(context.module.path)
                found.append((y.mean((0, 1, 2)), y.std((0, 1, 2))))
            return y

        with nn.intercept_methods(look):
            model.init(params, x, labels)
        return found

    found = jax.jit(moments)(jax.random.key(0), x, labels)
    assert len(paths) == len(set(paths)) > 30
    for path, (mean, deviation) in zip(paths, found, strict=True):
        tenth = path[-1] in ("second", "head")
        np.testing.assert_allclose(mean, 0, atol=1e-4, err_msg=str(path))
        np.testing.assert_allclose(deviation, 0.1 if tenth else 1, rtol=1e-2, err_msg=str(path))


def transposed(x, kernel, first_column):
    """The published upsampling: a transposed convolution without padding, cropped."""
    flipped = np.flip(kernel, (0, 1))
    y = lax.conv_transpose(x, flipped, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    height, width = 2 * x.shape[1], 2 * x.shape[2]
    return y[:, :height, first_column : first_column + width]


@pytest.mark.parametrize(
    ("function", "columns", "oracle"),
    [
        (strided.shrink_rows, 3, partial(convolve, strides=(2, 2), padding=((1, 0), (1, 1)))),
        (strided.shrink_pixels, 2, partial(convolve, strides=(2, 2), padding=((1, 0), (1, 0)))),
        (strided.grow_rows, 3, partial(transposed, first_column=1)),
        (strided.grow_pixels, 2, partial(transposed, first_column=0)),
        (strided.raster_conv, 2, partial(convolve, padding=((1, 0), (1, 0)))),
        (strided.raster_conv, 1, partial(convolve, padding=((1, 0), (0, 0)))),
    ],
    ids=["shrink_rows", "shrink_pixels", "grow_rows", "grow_pixels", "raster_conv", "raster_conv_1"],
)  # fmt: skip
def test_strided_layers_against_convolutions(function, columns, oracle):
    x, kernel = floats(2, 4, 6, 3), floats(2, columns, 3, 5, seed=1)
    np.testing.assert_allclose(jax.jit(function)(x, kernel), oracle(x, kernel), atol=1e-5)


def test_pixelcnnpp_sees_all_that_is_before_a_pixel():
    """Two blocks a size suffice for 8 x 8 (one misses a few pairs); no pixel sees itself or a later one."""
    model = PixelCNNPP(DiscretizedLogisticMixture(1, 4), channels=1, features=3, num_blocks=2, num_levels=3)
    images = off_grid(4, 2, 8, 8, 1)
    reached = influence(model, random_variables(model, images), images)
    np.testing.assert_array_equal(reached, np.tri(64, k=-1, dtype=bool))


def test_samples_of_pixelcnnpp_over_several_periods():
    """All phases of all strided layers, remembered across periods: a sample is a fixed point."""
    noise, labels = np.random.default_rng(0).random((2, 8, 12, 3), np.float32), integers(3, 2)
    variables = random_variables(LADDER, integers(8, 2, 8, 8, 3), labels)
    x, params = stepped(LADDER, variables, Plan(noise), labels)
    expected = apply(LADDER, variables, x, labels)
    np.testing.assert_allclose(params, expected, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(LADDER.output.quantile)(expected, noise), x)
    assert len(np.unique(x)) > 2, "no trivial sample"


def test_incremental_passes_of_pixelcnn_with_several_rows_above():
    model = PixelCNN(
        Categorical(3), 2, features=4, num_blocks=2, kernel_size=7, first_kernel_size=5, head_features=4
    )
    x = integers(3, 2, 8, 6, 2)
    variables = random_variables(model, x)
    np.testing.assert_allclose(stepped_params(model, variables, x), apply(model, variables, x), atol=1e-5)


# Errors

SMALL = {"features": 3, "num_layers": 1, "head_features": 3}
UNCONDITIONAL = {
    "gated_pixelcnn": GatedPixelCNN(Bernoulli(), 3, **SMALL),
    "pixelcnn": PixelCNN(Bernoulli(), 3, features=3, num_blocks=1, head_features=3),
    "pixelcnnpp": PixelCNNPP(DiscretizedLogisticMixture(1, 2), features=2, num_blocks=1, num_levels=2),
    "row_lstm": PixelRNN(Bernoulli(), 3, layer=RowLSTM, **SMALL),
    "diagonal_bilstm": PixelRNN(Bernoulli(), 3, layer=DiagonalBiLSTM, **SMALL),
}


def shapes_of(model, *args):
    return jax.eval_shape(model.init, jax.random.key(0), *args)


def refused(model, message, x, cond=None, example=None):
    """Likelihood and every sampler refuse `x` and `cond` with a one-line message that ends so."""
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes_of(model, *example))
    calls = [lambda: arjax.log_prob(model, variables, x, cond)]
    for method in ("cached", "naive", "fixed_point"):
        noise = np.zeros(x.shape, np.float32)
        calls.append(partial(arjax.sample_from_noise, model, variables, noise, cond, method=method))
    for call in calls:
        with pytest.raises(ValueError, match="(?m)" + message) as error:  # JAX adds a note on a line of its own
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", UNCONDITIONAL)
@pytest.mark.parametrize("wrong", [(4, 4, 1), (4, 4, 4), (4, 4), (48,)])
def test_images_of_another_kind(name, wrong):
    message = r"\(batch, height, width, 3\) are wanted, got \(2, " + ", ".join(map(str, wrong)) + r"\)$"
    refused(UNCONDITIONAL[name], message, integers(2, 2, *wrong), example=[integers(2, 2, 4, 4, 3)])


@pytest.mark.parametrize("wrong", [(4, 6, 3), (6, 4, 3), (2, 4, 3), (3, 3, 3)])
def test_a_size_that_the_period_does_not_divide(wrong):
    model = UNCONDITIONAL["pixelcnnpp"].clone(num_levels=3)
    message = r"with 3 levels 4 has to divide height and width, got \(2, " + ", ".join(map(str, wrong)) + r"\)$"
    refused(model, message, integers(2, 2, *wrong), example=[integers(2, 2, 4, 4, 3)])


@pytest.mark.parametrize("name", [name for name in UNCONDITIONAL if name != "pixelcnnpp"])
@pytest.mark.parametrize("field", ["features", "head_features"])
def test_features_that_the_channels_do_not_divide(name, field):
    with pytest.raises(ValueError, match=r"(?m)^3 channels of the image do not divide (4|8) features$"):
        shapes_of(UNCONDITIONAL[name].clone(**{field: 4}), integers(2, 2, 4, 4, 3))


CONDITIONS = {
    "classes": (Classes(3), integers(3, 2), r"labels 0..2 of shape \(batch,\) are wanted, got {}$"),
    "vector": (Vector(3), floats(2, 3), r"floats of shape \(batch, 3\) are wanted, got {}$"),
    "map": (Map(4, 4, 2), floats(2, 4, 4, 2), r"floats of shape \(batch, 4, 4, 2\) are wanted, got {}$"),
    "deconvolution": (
        Deconvolution(3, 4, 4, (2,)),
        floats(2, 3),
        r"floats of shape \(batch, 3\) are wanted, got {}$",
    ),
}
WRONG = {
    "classes": [floats(2), integers(3, 2, 1)],
    "vector": [integers(3, 2, 3), floats(2, 4), floats(3), integers(3, 2)],
    "map": [floats(2, 4, 4, 3), floats(2, 4, 5, 2), floats(2, 3), floats(4, 4, 2)],
    "deconvolution": [floats(2, 2), integers(3, 2, 3)],
}


def conditional(name, kind):
    return UNCONDITIONAL[name].clone(conditioning=CONDITIONS[kind][0])


@pytest.mark.parametrize("kind", CONDITIONS)
def test_wrong_cond(kind):
    _, right, message = CONDITIONS[kind]
    model, x = conditional("gated_pixelcnn", kind), integers(2, 2, 4, 4, 3)
    refused(model, f"^cond is missing: this model has conditioning={type(model.conditioning).__name__}$", x,
            example=[x, right])  # fmt: skip
    for wrong in WRONG[kind]:
        given = f"{wrong.dtype} {wrong.shape}".replace("(", r"\(").replace(")", r"\)")
        other_batch = rf"one for each of 2 examples is wanted, got {len(wrong)}$"
        wanted = message.format(given) if len(wrong) == 2 else other_batch
        refused(model, "^cond: " + wanted, x, wrong, example=[x, right])


@pytest.mark.parametrize(("wrong", "given"), [([0, 3], "0..3"), ([-1, 0], "-1..0")])
def test_labels_out_of_range(wrong, given):
    model, x = conditional("gated_pixelcnn", "classes"), integers(2, 2, 4, 4, 3)
    message = f"^cond: labels 0..2 are wanted, got values {given}$"
    refused(model, message, x, np.array(wrong, np.int32), example=[x, integers(3, 2)])


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_missing_and_surplus_cond(name):
    x, labels = integers(2, 2, 4, 4, 3), integers(3, 2)
    refused(UNCONDITIONAL[name], "^this model has conditioning=None and takes no cond$", x, labels, example=[x])
    missing = "^cond is missing: this model has conditioning=Classes$"
    refused(conditional(name, "classes"), missing, x, example=[x, labels])


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_a_map_is_as_large_as_the_image(name):
    with pytest.raises(
        ValueError, match=r"(?m)^cond: a map of the image's size \(4, 6\) is wanted, got \(4, 4\)$"
    ):
        shapes_of(conditional(name, "map"), integers(2, 2, 4, 6, 3), CONDITIONS["map"][1])


def test_a_deconvolution_of_a_size_that_doubling_does_not_reach():
    with pytest.raises(ValueError, match=r"(?m)^4 has to divide the size of the map, got 4 x 6$"):
        shapes_of(Deconvolution(3, 4, 6, (2, 2)), floats(2, 3))
