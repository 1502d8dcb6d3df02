"""What the hierarchies gain: sampling time by size, stages against a forward pass, memory of a training step.

    python -m benchmarks.hierarchies --device cpu

- "sampling": one batch of samples of parallel multiscale (a 4 x 4 base, doubled up to `side`) and of a Gated
  PixelCNN of 8 layers of 64 channels over the whole image, each by its cached sampler. The features of the groups
  are the fewest with as many `parameters`: the same for all doublings, or ("tapered") half as many for each
  doubling as for the one before. `calls`: draws one after the other, pixels of the base and 3 for each doubling,
  or all pixels. `over_full`: seconds of the Gated PixelCNN / these.
- "stage": each kind of stage by its cached sampler, given a random map, at `--stage-batch`. `over_forward`: these
  seconds / those of one teacher-forced pass, the arithmetic that a cached sampler does.
- "memory": temporaries of a compiled training step (forward and backward pass, AdamW) at `--memory-batch`: of a
  subscale network with 2 x 2 slices, which sees one slice a step, and of its decoder on the whole image.

Weights are random; times are the shortest of repeats, compilation has its own column.
"""

import bisect
import math
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from arjax import sample_from_noise, training
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.layers import Context, Map
from arjax.models import (
    DiagonalBiLSTM,
    GatedPixelCNN,
    ParallelMultiscale,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    Subscale,
)
from benchmarks import common

BASE = 4
FULL = GatedPixelCNN()
GIVEN = 32
STAGES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "base": (GatedPixelCNN(num_layers=4, features=32), (BASE, BASE, 1)),
    "gray": (GatedPixelCNN(Categorical(16)), (32, 32, 1)),
    "colour": (PixelCNNPP(features=64, conditioning=Map(32, 32, GIVEN)), (32, 32, 3)),
    "slice": (GatedPixelCNN(conditioning=Map(14, 14, GIVEN)), (14, 14, 1)),
    "slice_attention": (
        PixelSNAIL(
            (14, 14, 1),
            DiscretizedLogisticMixture(5, 2),
            features=64,
            num_blocks=3,
            num_residual=2,
            value_features=64,
            conditioning=Map(14, 14, GIVEN),
        ),
        (14, 14, 1),
    ),
    "patch": (GatedPixelCNN(num_layers=4, features=32, conditioning=Map(4, 4, GIVEN)), (4, 4, 1)),
    "large": (PixelRNN(layer=DiagonalBiLSTM, conditioning=Map(28, 28, GIVEN)), (28, 28, 1)),
}
"""The kinds of stages, and the shapes of their parts."""
RASTER: dict[str, tuple[Any, Any]] = {
    "gated_pixelcnn": (FULL, lambda side: GatedPixelCNN(conditioning=Map(side // 2, side // 2, GIVEN))),
}
"""A model of the whole image, and from the side of an image the same of a slice."""
COLUMNS = [
    "what",
    "model",
    "side",
    "batch",
    "parameters",
    "calls",
    "seconds",
    "compile_seconds",
    "over_full",
    "over_forward",
    "memory_bytes",
]


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, (), batches=[1])
    options.add_argument("--what", nargs="+", choices=list(PARTS), default=list(PARTS))
    options.add_argument("--sides", nargs="+", type=common.positive, default=[16, 32, 64, 128])
    options.add_argument("--stage-batch", type=common.positive, default=16)
    options.add_argument("--memory-batch", type=common.positive, default=32)
    options.add_argument("--memory-side", type=common.positive, default=28)
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    with jax.default_device(device):
        rows = (dict.fromkeys(COLUMNS) | {"what": what} | row for what in args.what for row in PARTS[what](args))
        common.report(rows, COLUMNS, device, ["benchmarks.hierarchies", *argv])


def sampling_rows(args: Any) -> Iterator[common.Row]:
    """Multiscale and the full model at every side and batch size."""
    for side, batch in common.progress([(side, batch) for side in args.sides for batch in args.batches]):
        yield from compare(side, batch, args.seconds)


def compare(side: int, batch: int, seconds: float) -> list[common.Row]:
    """The rows of one side of an image and batch size."""
    event = (side, side, 1)
    doublings = int(math.log2(side // BASE))
    models = {
        "full": FULL,
        "multiscale": multiscale_as_large_as(FULL, side),
        "tapered": multiscale_as_large_as(FULL, side, tapered=True),
    }
    drawn = BASE**2 + 3 * doublings
    calls = {"full": side**2, "multiscale": drawn, "tapered": drawn}
    noise = jax.random.uniform(jax.random.key(0), (batch, *event))
    programs, compile_seconds, sizes = {}, {}, {}
    for name, model in models.items():
        variables = random(model, event)
        sizes[name] = size(variables)
        program, compile_seconds[name] = common.compiled(
            jax.jit(partial(sample_from_noise, model)), variables, noise
        )
        programs[name] = partial(program, variables, noise)
    times, _ = common.fewest_seconds(programs, seconds)
    return [
        {
            "model": name,
            "side": side,
            "batch": batch,
            "parameters": sizes[name],
            "calls": calls[name],
            "seconds": times[name],
            "compile_seconds": compile_seconds[name],
            "over_full": times["full"] / times[name],
        }
        for name in models
    ]


def multiscale_as_large_as(full: Any, side: int, tapered: bool = False) -> Any:
    """Parallel multiscale with as many parameters as a model of the whole image, or a few more."""
    event = (side, side, 1)
    doublings = int(math.log2(side // BASE))
    if BASE * 2**doublings != side or not doublings:
        raise ValueError(f"a side of {2 * BASE}, {4 * BASE}, {8 * BASE}, ... is wanted, got {side}")
    base, _ = STAGES["base"]
    wanted = size(jax.eval_shape(partial(random, full, event)))

    def of(features: int) -> Any:
        widths = tuple(max(features // 2 ** (i if tapered else 0), 1) for i in range(doublings))
        return ParallelMultiscale(base, doublings, features=widths)

    def parameters(features: int) -> int:
        return size(jax.eval_shape(partial(random, of(features), event)))

    features = range(1, 400)
    return of(features[bisect.bisect_left(features, wanted, key=parameters)])


def stage_rows(args: Any) -> Iterator[common.Row]:
    """Each kind of stage alone."""
    for name in common.progress(list(STAGES)):
        model, event = STAGES[name]
        x = common.random_data(model, event, args.stage_batch)
        noise = jax.random.uniform(jax.random.key(0), x.shape)
        map_ = getattr(model, "conditioning", None)
        shape = () if map_ is None else (len(x), map_.height, map_.width, map_.features)
        given = (jax.random.normal(jax.random.key(2), shape),) if shape else ()
        variables = random(model, event)
        forward, _ = common.compiled(jax.jit(model.apply), variables, x, *given)
        cached, compile_seconds = common.compiled(
            jax.jit(partial(sample_from_noise, model)), variables, noise, *given
        )
        programs = {
            "forward": partial(forward, variables, x, *given),
            "cached": partial(cached, variables, noise, *given),
        }
        times, _ = common.fewest_seconds(programs, args.seconds)
        yield {
            "model": name,
            "side": event[0],
            "batch": args.stage_batch,
            "parameters": size(variables),
            "calls": math.prod(event),
            "seconds": times["cached"],
            "compile_seconds": compile_seconds,
            "over_forward": times["cached"] / times["forward"],
        }


def memory_rows(args: Any) -> Iterator[common.Row]:
    """A training step in raster order and of a random slice."""
    event = (args.memory_side, args.memory_side, 1)
    for name, (raster, of_slice) in common.progress(list(RASTER.items())):
        subscale = Subscale((2, 2, 1), of_slice(args.memory_side), Context(GIVEN, num_heads=4))
        for label, model in ((name, raster), (f"subscale {name}", subscale)):
            batch = {"x": common.random_data(model, event, args.memory_batch)}
            optimizer = training.default_optimizer(1e-3, steps=10_000)
            state = jax.eval_shape(partial(training.create_state, model, optimizer, 0, batch))
            step = partial(training.train_step, model=model, optimizer=optimizer, ema_decay=0.999)
            program, compile_seconds = common.compiled(jax.jit(step, donate_argnums=0), state, batch)
            yield {
                "model": label,
                "side": args.memory_side,
                "batch": args.memory_batch,
                "parameters": size(state.params),
                "compile_seconds": compile_seconds,
                "memory_bytes": program.memory_analysis().temp_size_in_bytes,
            }


def random(model: Any, event: tuple[int, ...]) -> Any:
    """Initial variables of a model of images, with the map that conditions it, if any, of zeros."""
    x = jnp.zeros((1, *event), jnp.int32)
    map_ = getattr(model, "conditioning", None)
    given = () if map_ is None else (jnp.zeros((1, map_.height, map_.width, map_.features)),)
    method = "log_prob" if hasattr(model, "log_prob") else "__call__"
    return jax.jit(partial(model.init, method=method))(jax.random.key(1), x, *given)


def size(variables: Any) -> int:
    """Number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


PARTS = {"sampling": sampling_rows, "stage": stage_rows, "memory": memory_rows}

if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
