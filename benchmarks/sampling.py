"""Seconds of one batch of samples by each method, beside one teacher-forced forward pass of the same batch.

    python -m benchmarks.sampling --models gated_pixelcnn made --batches 1 16 64 --device cpu

The rows of a model and batch size share network, weights and noise. Weights are twice the initial random
ones, so that conditionals do depend on the past; the forward pass sees random data. Times are the shortest of
repeats; compilation has its own column. On a busy machine short runs find a quiet moment and long ones do not,
which flatters the ratio to the naive sampler: quote figures from an idle one.

- `over_naive`: naive seconds / these seconds, the gain over evaluating the network anew for each dimension, a
  channel of a pixel.
- `over_forward`: these seconds / those of the forward pass. A cached sampler does the arithmetic of one
  forward pass, so at 1.0 only arithmetic would be left. Batch 1 is the regime of latency: many small steps,
  whose overhead shows. Batch 64 is the regime of throughput: arithmetic dominates.
- `identical`: the same integers as the naive sampler ("check": "naive"). Where that did not run whole, one
  teacher-forced pass must give the sample back ("check": "teacher_forced"), which is as complete: a sample is
  the fixed point of its noise. `mismatches` always counts the integers that this pass does not give back. A
  few in a large batch are ties that rounding broke another way (after one, all integers of an example may
  differ from the naive sampler's); many are a wrong sampler.
- `naive*` ("extrapolated": true): it would exceed --naive-seconds, so only its first dimensions were timed.
- `iterations` (JSON only): passes that the fixed-point sampler took, over rows or blocks with those methods.

Models: gated_pixelcnn (28x28, 8 layers of 64 channels, Bernoulli), gated_pixelcnn_256 (with 256 levels),
gated_pixelcnn_rgb (32x32x3, 8 layers of 96 channels, 256 levels), pixelcnn (28x28, 7 blocks of 64, Bernoulli),
pixelcnnpp and pixelcnnpp_160 (32x32x3, 5 blocks a stage of 64 and of 160 channels), row_lstm and diagonal_bilstm
(28x28, PixelRNN with 7 layers of 16, Bernoulli), pixelsnail (28x28, 3 attention blocks, each after 2 residual
blocks of 64, 256 levels), transformer (28x28, 4 layers of 128 channels, 4 heads that share one of keys, 2 levels),
made (784-500-784), made_wide (784-8000-784), histogram (28x28), tiny (16-16-16, a MADE for tests).
"""

import math
import sys
from functools import partial
from itertools import product
from typing import Any

import jax
from jax import Array

from arjax import sample_from_noise, sampling
from arjax.decoding import Draw, Plan
from benchmarks import common

METHODS = ["naive", "cached", "fixed_point", "rows", "blocks"]
COLUMNS = [
    "model",
    "batch",
    "method",
    "seconds",
    "compile_seconds",
    "over_naive",
    "over_forward",
    "identical",
]


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, common.MODELS, batches=[1, 16, 64])
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:3])
    options.add_argument("--naive-seconds", type=float, default=20.0, help="of a naive batch (default: 20)")
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    with jax.default_device(device):
        rows = (
            {"model": name, "batch": batch, **row}
            for name, batch in common.progress(list(product(args.models, args.batches)))
            for row in measure(*common.MODELS[name], batch, args.methods, args.naive_seconds, args.seconds)
        )
        common.report(rows, COLUMNS, device, ["benchmarks.sampling", *argv], show=_starred)


def measure(
    model: Any, event: tuple[int, ...], batch: int, methods: list[str], naive_seconds: float, seconds: float
) -> list[common.Row]:
    """The rows of one model and batch size: the forward pass, then each method."""
    x = common.random_data(model, event, batch)
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    variables = jax.tree.map(lambda param: 2 * param, model.init(jax.random.key(1), x))
    programs, compile_seconds = {}, {}

    def prepare(name: str, function: Any, data: Array) -> None:
        program, compile_seconds[name] = common.compiled(jax.jit(function), variables, data)
        programs[name] = partial(program, variables, data)

    prepare("forward", model.apply, x)
    times, results = common.fewest_seconds(programs, seconds=0)
    dimensions = math.prod(event)
    timed = min(dimensions, max(1, int(naive_seconds / times["forward"])))
    for method in methods:
        if method == "naive" and timed < dimensions:
            prepare(method, partial(first_dimensions, model, timed), noise)
        else:
            options: Any = {"method": method, "return_iterations": method in sampling.COUNTED}
            prepare(method, partial(sample_from_noise, model, **options), noise)
    for group in ["forward", "cached", "rows", "blocks"], ["naive"], ["fixed_point"]:
        found = common.fewest_seconds({name: programs[name] for name in group if name in programs}, seconds)
        times, results = times | found[0], results | found[1]

    samples = {method: results[method] for method in methods}
    iterations = {}
    for method in samples.keys() & sampling.COUNTED:
        samples[method], iterations[method] = results[method]
    if "naive" in methods and timed < dimensions:
        times["naive"] *= dimensions / timed
        del samples["naive"]

    teacher_forced = jax.jit(lambda noise, *args: model.output.quantile(model.apply(*args), noise))

    def agreement(name: str) -> common.Row:
        if name not in samples:
            return {"identical": None, "check": None, "mismatches": None}
        mismatches = int((teacher_forced(noise, variables, samples[name]) != samples[name]).sum())
        if "naive" not in samples:
            return {"identical": mismatches == 0, "check": "teacher_forced", "mismatches": mismatches}
        identical = bool((samples[name] == samples["naive"]).all())
        return {"identical": identical, "check": "naive", "mismatches": mismatches}

    return [
        {
            "method": name,
            "seconds": times[name],
            "compile_seconds": compile_seconds[name],
            "over_naive": times["naive"] / times[name] if "naive" in methods else None,
            "over_forward": times[name] / times["forward"],
            "extrapolated": name in methods and name not in samples,
            "iterations": int(iterations[name]) if name in iterations else None,
            **agreement(name),
        }
        for name in ["forward", *methods]
    ]


def first_dimensions(model: Any, count: int, variables: Any, noise: Array) -> Array:
    """What the naive sampler does at its first `count` dimensions."""
    drawn = sampling._naive(model, variables, Plan(noise), None, Draw(model.output), count)
    return drawn.values


def _starred(row: common.Row) -> common.Row:
    return row | {"method": row["method"] + "*" * row["extrapolated"]}


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
