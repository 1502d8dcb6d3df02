"""Subscale pixel networks (Menick and Kalchbrenner, 2019): interleaved slices, and high bits before low ones.

Command: python -m experiments.subscale mnist   (--steps 600: an hour on a shared core, as depth --steps 250)

`mnist`: on binarized MNIST, 2 x 2 slices of 14 x 14 pixels and a context with attention, beside the same decoder
in raster order on the whole image, of equal size and the same number of updates. Every update of the subscale
network sees one slice of each example, drawn at random. `depth`: on MNIST with 256 levels, the three most
significant bits by one subscale network, the other five by a second one that is given them; beside the direct
model. Without --data-dir (or ARJAX_DATA_DIR) MNIST comes from tensorflow-datasets. Expect on the test sets:

    variant       raster               subscale
    mnist         91.54 nats           88.38 nats      (--steps 600)
    depth         1.280 bits/dim       1.164 bits/dim  (--steps 250: 0.363 of the high bits, 0.801 of the low ones)

The folder then holds two runs and samples.png, five rows of the raster model's, five of the subscale network's.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import arjax
from arjax import plotting
from arjax.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from arjax.layers import Context, Map
from arjax.models import DepthUpscaling, GatedPixelCNN, Subscale
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/subscale/mnist")
    """Where both runs and the picture go."""
    data: str = "binarized_mnist"
    """Name of a data set of images of one channel, of sides that `factor` divides."""
    data_dir: str | None = None
    """Where its files are; default $ARJAX_DATA_DIR."""
    factor: int = 2
    """Slices along each side."""
    bits: int = 0
    """Most significant bits that come first; 0 for no depth upscaling."""
    raster_features: int = 43
    """Channels of the raster model's stacks."""
    features: int = 32
    """Channels of the decoder's stacks."""
    num_layers: int = 6
    """Gated layers of both."""
    context_features: int = 32
    """Channels of the context of a slice."""
    context_blocks: int = 3
    """Its residual blocks."""
    num_heads: int = 4
    """Heads of its attention."""
    learning_rate: float = 2e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    batch_size: int = 50
    """Examples per step of the raster model."""
    slices_batch_size: int = 100
    """Examples per step of the subscale network, one slice of each."""
    steps: int = 2000
    """Updates."""
    eval_every: int = 500
    """Steps between evaluations on the validation set."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters."""
    patience: int | None = None
    """Evaluations without improvement before stopping; None for no stopping."""
    seed: int = 0
    """Seed of initialisation, data order, slices and samples."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


VARIANTS = {
    "mnist": ("binarized MNIST", Config()),
    "depth": (
        "MNIST with 256 levels, three bits first",
        Config(Path("runs/subscale/depth"), "mnist", bits=3, raster_features=65),
    ),
}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes both models, evaluates and draws. Returns test nats by model."""
    tiny = {"raster_features": 4, "features": 4, "num_layers": 2, "context_features": 4, "context_blocks": 1}
    config = common.prepared(config, **tiny, num_heads=2, batch_size=8, slices_batch_size=8, steps=2, eval_every=1)
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    raster, subscale = models(config, train.event, train.levels)
    runs = {"raster": (raster, config.batch_size), "subscale": (subscale, config.slices_batch_size)}
    nats, samples = {"per-position histogram": common.histogram_nats(train, test)}, []
    for name, (model, batch_size) in runs.items():
        own = dataclasses.replace(config, batch_size=batch_size)
        variables, _ = common.fit(model, own, train, valid, config.directory / name)
        nats[name] = common.test_nats(model, variables, test)
        if name == "subscale":
            stages = common.nats_of_stages(model, variables, test)
            nats |= {f"  of which {stage}": value for stage, value in stages.items()}
        drawn = arjax.sample(model, variables, jax.random.key(config.seed), (50, *test.event))
        samples.append(np.asarray(drawn["x"] if isinstance(drawn, dict) else drawn))
    common.print_scores(nats, test.event)
    plotting.image_grid(
        np.concatenate(samples),
        config.directory / "samples.png",
        levels=train.levels,
        columns=10,
        row_labels=["raster"] * 5 + ["subscale"] * 5,
    )
    print(f"\nboth runs and samples.png are in {config.directory}")
    return common.record(config, nats, train, valid, test)


def models(config: Config, event: tuple[int, ...], levels: int) -> tuple[Any, Any]:
    """The model in raster order and the subscale network, with depth upscaling if there are bits."""
    height, width, _ = event
    slice_map = Map(height // config.factor, width // config.factor, config.context_features)

    def gated(levels: int, features: int, conditioning: Any = None) -> GatedPixelCNN:
        few = Bernoulli() if levels == 2 else Categorical(levels)
        output = few if levels <= 32 else DiscretizedLogisticMixture(5, levels)
        return GatedPixelCNN(
            output,
            features=features,
            num_layers=config.num_layers,
            first_kernel_size=5,
            head_features=2 * features,
            conditioning=conditioning,
        )

    def subscale(levels: int, conditioning: Any = None) -> Subscale:
        context = Context(config.context_features, config.context_blocks, num_heads=config.num_heads)
        factors = (config.factor, config.factor, 1)
        return Subscale(factors, gated(levels, config.features, slice_map), context, conditioning=conditioning)

    raster = gated(levels, config.raster_features)
    if not config.bits:
        return raster, subscale(levels)
    given = Map(height, width, config.context_features)
    low = subscale(levels >> config.bits, given)
    return raster, DepthUpscaling(subscale(2**config.bits), low, Context(config.context_features, 1))


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
