"""The single list of models: being listed here gives a model every property test.

Each entry makes `(model, x, cond)`: a small model, an integer batch whose event is small enough to enumerate,
and its conditioning, another for each example, or None. A property that asks for something that not every model
has, such as one pass of conditionals, runs over those that have it.
"""

import flax.linen as nn
import jax
import numpy as np
import pytest

from arjax import orderings, parts
from arjax.continuous import Logistic, Mixture, Normal
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.flows import (
    BatchNorm,
    Chain,
    Coupling,
    Dequantised,
    Elementwise,
    Flow,
    Logit,
    Perceptron,
    Permutation,
    iaf,
    maf,
    real_nvp,
    real_nvp_of_vectors,
    tarflow,
)
from arjax.layers import Classes, Context, Deconvolution, Fixed, Local, Map, Several, Strided, Upsampling, Vector
from arjax.models import (
    MADE,
    RNN,
    Auxiliary,
    ChainRule,
    DepthUpscaling,
    DiagonalBiLSTM,
    GatedPixelCNN,
    Histogram,
    MultiScalePixelRNN,
    ParallelMultiscale,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    RowLSTM,
    Subscale,
    TemporalConv,
    Transformer,
    WaveNet,
)
from experiments.own_network import MyNetwork


def integers(levels, *shape):
    return np.random.default_rng(0).integers(0, levels, shape).astype(np.int32)


def floats(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def gated_pixelcnn(output, *, features=8, num_layers=3, **fields):
    return GatedPixelCNN(output, features=features, num_layers=num_layers, head_features=features, **fields)


def wavenet(output, *, dilations=(1, 2, 4), **fields):
    return WaveNet(output, dilations, features=6, gate_features=6, skip_features=8, **fields)


def pixelrnn(output, layer, num_layers, *, channels=1, **fields):
    return PixelRNN(output, channels, 9, num_layers, layer, first_kernel_size=3, head_features=24, **fields)


def transformer(event, output, *, num_layers=2, **fields):
    return Transformer(event, output, features=8, num_layers=num_layers, num_heads=2, **fields)


def pixelsnail(event, levels, **fields):
    output = DiscretizedLogisticMixture(2, levels=levels)
    return PixelSNAIL(event, output, 6, num_blocks=1, num_residual=1, key_features=4, value_features=5, **fields)


ORDER = (4, 1, 7, 0, 5, 2, 6, 3)
LABELS = np.array([3, 0, 4, 1], np.int32)

CONDITIONALS = {
    "histogram": lambda: (
        Histogram((2, 3), Categorical(3), kernel_init=jax.nn.initializers.normal()),
        integers(3, 4, 2, 3),
        None,
    ),
    "chain_rule": lambda: (ChainRule(5, Categorical(3), hidden=(16,)), integers(3, 4, 5), None),
    "bayes_net": lambda: (
        ChainRule(4, Categorical(3), hidden=(16,), parents=((3,), (0,), (), ())),
        integers(3, 4, 4),
        None,
    ),
    "made": lambda: (MADE((8,), hidden=(30,)), integers(2, 4, 8), None),
    "made_direct": lambda: (
        MADE((8,), hidden=(20, 9, 20), direct=True, ordering=ORDER),
        integers(2, 4, 8),
        None,
    ),
    "made_visible": lambda: (MADE((8,), hidden=(), direct=True, ordering=ORDER), integers(2, 4, 8), None),
    "made_categorical": lambda: (
        MADE((2, 3), Categorical(4), hidden=(25, 25), direct=True),
        integers(4, 4, 2, 3),
        None,
    ),
    "made_mixture": lambda: (
        MADE((4,), DiscretizedLogisticMixture(2, levels=5), hidden=(30,)),
        integers(5, 4, 4),
        None,
    ),
    "made_agnostic": lambda: (
        MADE((8,), hidden=(30, 30), order_agnostic=True, connectivity_agnostic=True, num_masks=4),
        integers(2, 4, 8),
        None,
    ),
    "gated_pixelcnn": lambda: (gated_pixelcnn(Bernoulli()), integers(2, 4, 3, 4, 1), None),
    "gated_pixelcnn_categorical": lambda: (
        gated_pixelcnn(Categorical(3), conditioning=Classes(5)),
        integers(3, 4, 2, 3, 1),
        LABELS,
    ),
    "gated_pixelcnn_mixture": lambda: (
        gated_pixelcnn(DiscretizedLogisticMixture(3, levels=4)),
        integers(4, 4, 3, 2, 1),
        None,
    ),
    "gated_pixelcnn_rgb": lambda: (
        gated_pixelcnn(Categorical(2), features=12, num_layers=2, channels=3),
        integers(2, 4, 2, 2, 3),
        None,
    ),
    "gated_pixelcnn_vector": lambda: (
        gated_pixelcnn(Bernoulli(), num_layers=2, conditioning=Vector(3)),
        integers(2, 4, 2, 3, 1),
        floats(4, 3),
    ),
    "gated_pixelcnn_map": lambda: (
        gated_pixelcnn(Categorical(3), num_layers=2, channels=2, conditioning=Map(2, 2, 3)),
        integers(3, 4, 2, 2, 2),
        floats(4, 2, 2, 3),
    ),
    "gated_pixelcnn_deconvolution": lambda: (
        gated_pixelcnn(Bernoulli(), num_layers=2, conditioning=Deconvolution(3, 4, 2, (4,))),
        integers(2, 4, 4, 2, 1),
        floats(4, 3),
    ),
    "pixelcnn": lambda: (
        PixelCNN(features=6, num_blocks=2, first_kernel_size=3, head_features=12),
        integers(2, 4, 3, 4, 1),
        None,
    ),
    "pixelcnn_rgb": lambda: (
        PixelCNN(Categorical(2), 3, 9, num_blocks=1, head_features=18, conditioning=Classes(5)),
        integers(2, 4, 2, 2, 3),
        LABELS,
    ),
    "pixelcnnpp_strided_mixture": lambda: (
        PixelCNNPP(
            DiscretizedLogisticMixture(2, levels=3),
            channels=1,
            features=4,
            num_blocks=1,
            num_levels=2,
            conditioning=Several((Classes(5), Map(2, 4, 3))),
        ),
        integers(3, 4, 2, 4, 1),
        (LABELS, floats(4, 2, 4, 3)),
    ),
    "pixelcnnpp_rgb_mixture": lambda: (
        PixelCNNPP(DiscretizedLogisticMixture(2, levels=2), features=4, num_blocks=1, num_levels=1, dropout=0.0),
        integers(2, 4, 2, 2, 3),
        None,
    ),
    "temporal_conv": lambda: (
        TemporalConv(Categorical(2), features=16, dilations=(1, 2, 4, 20), positions=(2, 5)),
        integers(2, 4, 10),
        None,
    ),
    "temporal_conv_vector": lambda: (
        TemporalConv(Categorical(3), features=8, dilations=(1, 1, 1, 1), kernel_size=2, conditioning=Vector(3)),
        integers(3, 4, 5),
        floats(4, 3),
    ),
    "wavenet": lambda: (
        wavenet(Categorical(2), dilations=(1, 2, 4, 16, 1, 2), entry_kernel_size=2),
        integers(2, 4, 10),
        None,
    ),
    "wavenet_mixture": lambda: (
        wavenet(DiscretizedLogisticMixture(2, levels=4), kernel_size=3, entry="scalar", conditioning=Classes(5)),
        integers(4, 4, 5),
        LABELS,
    ),
    "wavenet_local": lambda: (
        wavenet(
            Categorical(2), entry="one_hot", conditioning=Several((Classes(5), Upsampling(2, (2, 3), features=4)))
        ),
        integers(2, 4, 6),
        (LABELS, floats(4, 1, 2)),
    ),
    "lstm": lambda: (RNN(Categorical(2), features=8, positions=(3, 3)), integers(2, 4, 9), None),
    "gru": lambda: (
        RNN(Categorical(3), features=8, cell=nn.GRUCell, conditioning=Upsampling(2, (2,), learned=False)),
        integers(3, 4, 6),
        floats(4, 3, 2),
    ),
    "pixelrnn_row": lambda: (pixelrnn(Bernoulli(), RowLSTM, 2), integers(2, 4, 3, 4, 1), None),
    "pixelrnn_row_rgb": lambda: (
        pixelrnn(Categorical(2), RowLSTM, 1, channels=3, conditioning=Classes(5)),
        integers(2, 4, 2, 2, 3),
        LABELS,
    ),
    "pixelrnn_diagonal": lambda: (pixelrnn(Bernoulli(), DiagonalBiLSTM, 1), integers(2, 4, 3, 4, 1), None),
    "pixelrnn_diagonal_rgb": lambda: (
        pixelrnn(Categorical(2), DiagonalBiLSTM, 2, channels=3, conditioning=Classes(5)),
        integers(2, 4, 2, 2, 3),
        LABELS,
    ),
    "transformer": lambda: (transformer((9,), Categorical(2), conditioning=Classes(5)), integers(2, 4, 9), LABELS),
    "transformer_agnostic": lambda: (
        transformer((3, 3), Categorical(2), order_agnostic=True, positions="rotary"),
        integers(2, 4, 3, 3),
        None,
    ),
    "transformer_strided": lambda: (
        transformer((10,), Categorical(2), patterns=(Strided(3),), num_key_heads=1, positions="rotary"),
        integers(2, 4, 10),
        None,
    ),
    "transformer_fixed_local": lambda: (
        transformer((3, 3), Categorical(2), num_layers=3, patterns=(Fixed(3), Local(4)), ordering=(8, *ORDER)),
        integers(2, 4, 3, 3),
        None,
    ),
    "transformer_mixture_rgb": lambda: (
        transformer((2, 2, 3), DiscretizedLogisticMixture(2, levels=2), channels=3, ordering=(0, 3, 1, 2)),
        integers(2, 4, 2, 2, 3),
        None,
    ),
    "pixelsnail_zigzag_mixture": lambda: (
        pixelsnail(
            (3, 3, 1),
            2,
            conditioning=Several((Classes(5), Map(3, 3, 2))),
            ordering=tuple(map(int, orderings.zigzag((3, 3)).ravel())),
        ),
        integers(2, 4, 3, 3, 1),
        (LABELS, floats(4, 3, 3, 2)),
    ),
    "pixelsnail_rgb_mixture": lambda: (pixelsnail((2, 2, 3), 2), integers(2, 4, 2, 2, 3), None),
    "own_network": lambda: (
        MyNetwork(Categorical(2), features=8, dilations=(1, 2, 4, 1, 2)),
        integers(2, 4, 10),
        None,
    ),
}
"""Models that are one pass of conditionals."""


def context(**fields):
    return Context(6, num_blocks=1, **fields)


def of_map(output, height, width, *, features=6, **fields):
    return gated_pixelcnn(output, features=features, num_layers=2, conditioning=Map(height, width, 6), **fields)


def multiscale(base, **fields):
    return ParallelMultiscale(base, **({"features": 6, "num_blocks": 1} | fields))


HIERARCHIES = {
    "multiscale": lambda: (
        multiscale(gated_pixelcnn(Bernoulli(), num_layers=1), num_doublings=2, features=(6, 4)),
        integers(2, 4, 4, 4, 1),
        None,
    ),
    "multiscale_rgb": lambda: (
        multiscale(
            gated_pixelcnn(Categorical(2), features=6, num_layers=1, channels=3, conditioning=Classes(5)),
            channels=3,
        ),
        integers(2, 4, 2, 2, 3),
        LABELS,
    ),
    "multiscale_patches": lambda: (
        multiscale(gated_pixelcnn(Bernoulli(), num_layers=2), patch=2, within=of_map(Bernoulli(), 2, 2)),
        integers(2, 4, 4, 4, 1),
        None,
    ),
    "subscale": lambda: (
        Subscale((2, 2, 1), pixelsnail((2, 2, 1), 2, conditioning=Map(2, 2, 6)), context(num_heads=2)),
        integers(2, 4, 4, 4, 1),
        None,
    ),
    "subscale_first": lambda: (
        Subscale((2, 1, 1), of_map(Categorical(3), 1, 3), context(), gated_pixelcnn(Categorical(3), num_layers=1)),
        integers(3, 4, 2, 3, 1),
        None,
    ),
    "subscale_classes": lambda: (
        Subscale(
            (2, 2, 1),
            of_map(Categorical(2), 1, 2),
            context(),
            of_map(Categorical(2), 1, 2),
            conditioning=Classes(5),
        ),
        integers(2, 4, 2, 4, 1),
        LABELS,
    ),
    "subscale_time": lambda: (
        Subscale((1, 1, 2), of_map(Categorical(2), 2, 2, channels=2, features=16), context()),
        integers(2, 4, 2, 2, 4),
        None,
    ),
    "subscale_sequence": lambda: (
        Subscale(
            (3,),
            wavenet(Categorical(2), dilations=(1, 2), conditioning=Upsampling(6, (1,), learned=False)),
            context(),
        ),
        integers(2, 4, 9),
        None,
    ),
    "multiscale_pixelrnn": lambda: (
        MultiScalePixelRNN(
            pixelrnn(Categorical(2), DiagonalBiLSTM, 1, conditioning=Classes(5)),
            pixelrnn(Categorical(2), DiagonalBiLSTM, 1, conditioning=Map(4, 4, 6)),
            context(enlarge=2),
        ),
        integers(2, 4, 4, 4, 1),
        LABELS,
    ),
    "depth": lambda: (
        DepthUpscaling(
            gated_pixelcnn(Categorical(2), num_layers=2),
            Subscale((1, 2, 1), of_map(Categorical(4), 2, 1), context(), conditioning=Map(2, 2, 6)),
            context(),
        ),
        integers(8, 4, 2, 2, 1),
        None,
    ),
}
"""Models of an event part by part."""

BOUNDS = {
    "gray": lambda: (
        Auxiliary(
            (parts.Gray(2, 2),),
            (
                gated_pixelcnn(Bernoulli(), num_layers=2, conditioning=Classes(5)),
                PixelCNNPP(
                    DiscretizedLogisticMixture(2, levels=2),
                    features=4,
                    num_blocks=1,
                    num_levels=1,
                    conditioning=Map(2, 2, 6),
                ),
            ),
            (context(),),
        ),
        integers(2, 4, 2, 2, 3),
        LABELS,
    ),
    "pyramid": lambda: (
        Auxiliary(
            (parts.Smaller(), parts.Gray(2, 3)),
            (
                gated_pixelcnn(Bernoulli(), num_layers=1),
                of_map(Categorical(3), 1, 2),
                of_map(Categorical(3), 2, 4),
            ),
            (context(), context(enlarge=2)),
        ),
        integers(3, 4, 2, 4, 1),
        None,
    ),
}
"""The same, of which views are drawn beside the image: the likelihood is a lower bound."""

ZOO = CONDITIONALS | HIERARCHIES | BOUNDS

ONE_OF_EACH = (
    *("histogram", "chain_rule", "made_categorical", "gated_pixelcnn_rgb", "gated_pixelcnn_map", "pixelcnn_rgb"),
    *("temporal_conv", "wavenet_local", "lstm", "pixelrnn_row_rgb", "pixelrnn_diagonal"),
    *("transformer_agnostic", "transformer_mixture_rgb", "pixelsnail_rgb_mixture", "own_network"),
    *("multiscale_rgb", "multiscale_pixelrnn", "depth", "pyramid"),
)
"""Models that between them have most layers, for tests that take long."""


def slow_but_for_one_of_each(names, of_each=ONE_OF_EACH):
    """Parameters of a test, all models but `of_each` with the marker slow."""
    return [name if name in of_each else pytest.param(name, marks=pytest.mark.slow) for name in names]


CONTINUOUS = {
    "made_mog": lambda: (MADE((5,), Mixture(Normal(), 3), hidden=(20, 20)), floats(4, 5), None),
    "lstm_mixture": lambda: (RNN(Mixture(Normal(), 2), features=8), floats(4, 6), None),
    "temporal_conv_logistic": lambda: (
        TemporalConv(Logistic(), features=8, dilations=(1, 2, 4), conditioning=Vector(3)),
        floats(4, 7),
        floats(4, 3),
    ),
    "wavenet_logistic_mixture": lambda: (
        wavenet(Mixture(Logistic(), 2), dilations=(1, 2, 16), entry="scalar", conditioning=Classes(5)),
        floats(4, 20),
        LABELS,
    ),
    "transformer_normal": lambda: (transformer((6,), Normal(), conditioning=Classes(5)), floats(4, 6), LABELS),
    "transformer_patches": lambda: (
        transformer((4, 5), Mixture(Normal(), 2), channels=5, ordering=(3, 2, 1, 0)),
        floats(4, 4, 5),
        None,
    ),
}
"""The same for models of real numbers that are one pass of conditionals."""

FLOWS = {
    "maf": lambda: (maf((5,), num_layers=3, hidden=(16,)), floats(4, 5), None),
    "maf_batch_norm": lambda: (maf((5,), num_layers=2, hidden=(16, 16), norm=BatchNorm), floats(4, 5), None),
    "maf_mog": lambda: (
        Flow(maf((5,), num_layers=2, hidden=(16,)).bijection, MADE((5,), Mixture(Normal(), 2), (16,))),
        floats(4, 5),
        None,
    ),
    "maf_mixture": lambda: (
        maf((3,), num_layers=1, hidden=(12,), output=Mixture(Normal(), 2)),
        floats(4, 3),
        None,
    ),
    "iaf": lambda: (iaf((4,), num_layers=2, hidden=(12,)), floats(4, 4), None),
    "elementwise": lambda: (
        Flow(Chain((Permutation((2, 0, 1)), Elementwise((3,), Mixture(Logistic(), 3)), Elementwise((3,))))),
        floats(4, 3),
        None,
    ),
    "real_nvp_of_vectors": lambda: (real_nvp_of_vectors(num_layers=3, hidden=(12,)), floats(4, 5), None),
    "real_nvp_halves": lambda: (
        Flow(Chain((Coupling(Perceptron((12,)), "channels"), Coupling(Perceptron((12,)), "channels", True)))),
        floats(4, 4),
        None,
    ),
    "real_nvp": lambda: (real_nvp((4, 4, 1), features=4, num_blocks=1), floats(4, 4, 4, 1), None),
    "tarflow": lambda: (
        tarflow((4, 4, 1), patch=2, features=8, num_blocks=2, num_layers=1, num_heads=2, conditioning=Classes(5)),
        floats(4, 4, 4, 1),
        LABELS,
    ),
}
"""Flows, likewise."""

DEQUANTISED = {
    "dequantised_maf": lambda: (
        Dequantised(Flow(Chain((Logit(5), *maf((6,), num_layers=1, hidden=(16,)).bijection.layers))), 5),
        integers(5, 4, 6),
        None,
    ),
}
"""Models of integers by flows of real numbers."""
