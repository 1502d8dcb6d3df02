"""Seconds of a step of the cached sampler over the length of a sequence, for dense and sparse attention.

    python -m benchmarks.attention --lengths 256 1024 4096 --batches 16 --device cpu --picture attention.png

A transformer draws the last 256 positions of a sequence, where its memory is full. Strides and windows are the
square root of the length. Times are the shortest of repeats, compilation apart.

- `seconds_per_step`: of a whole step: dense layers, attention and the draw.
- `attention`: the part that attention to earlier positions takes: these seconds less those of the same network in
  which a position sees itself alone.
- `of_dense`: `attention` as a fraction of that of dense attention at the same length.
"""

import math
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import arjax
from arjax import plotting, streaming
from arjax.distributions import Categorical
from arjax.layers import Dense, Fixed, Local, Strided
from arjax.models import Transformer
from benchmarks import common

STEPS = 256
COLUMNS = ["pattern", "length", "batch", "seconds_per_step", "attention", "of_dense", "compile_seconds"]


def patterns(length: int) -> dict[str, Any]:
    """Patterns by name; first of all the one whose cost is subtracted."""
    root = math.isqrt(length)
    return {
        "itself": Local(1),
        "dense": Dense(),
        "local": Local(root),
        "strided": Strided(root),
        "fixed": Fixed(root),
    }


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, [], batches=[16])
    options.add_argument("--lengths", nargs="+", type=int, default=[256, 1024, 4096], metavar="LENGTH")
    options.add_argument("--features", type=int, default=128, help="channels of the two layers (default: 128)")
    options.add_argument("--picture", type=Path, help="a PNG with a curve for each pattern")
    args = options.parse_args(argv)
    if min(args.lengths) < STEPS:
        options.error(f"argument --lengths: {STEPS} or more are wanted, got {min(args.lengths)}")
    device = common.find_device(options, args.device)
    rows: list[common.Row] = []
    with jax.default_device(device):
        found = (
            row
            for length, batch in common.progress(list(product(args.lengths, args.batches)))
            for row in measure(length, batch, args.features, args.seconds)
        )
        common.report(_kept(found, rows), COLUMNS, device, ["benchmarks.attention", *argv])
    if args.picture:
        draw(rows, args.picture)


def measure(length: int, batch: int, features: int, seconds: float) -> list[common.Row]:
    """The rows of one length and batch size."""
    programs, compile_seconds = {}, {}
    noise = jax.random.uniform(jax.random.key(0), (batch, STEPS))
    for name, pattern in patterns(length).items():
        model = Transformer((length,), Categorical(256), features=features, num_layers=2, patterns=(pattern,))
        variables = model.init(jax.random.key(1), jnp.zeros((1, STEPS), jnp.int32))
        state = arjax.start(model, variables, jnp.zeros((batch, 0), jnp.int32))
        state = state.replace(position=jnp.int32(length - STEPS))
        program, compile_seconds[name] = common.compiled(jax.jit(partial(steps, model)), variables, state, noise)
        programs[name] = partial(program, variables, state, noise)
    times, _ = common.fewest_seconds(programs, seconds)
    shares = {name: max(time - times["itself"], 0.0) for name, time in times.items()}
    return [
        {
            "pattern": name,
            "length": length,
            "batch": batch,
            "seconds_per_step": times[name] / STEPS,
            "attention": shares[name] / STEPS,
            "of_dense": shares[name] / max(shares["dense"], 1e-9),
            "compile_seconds": compile_seconds[name],
        }
        for name in programs
    ]


def steps(model: Any, variables: Any, state: streaming.State, noise: jax.Array) -> jax.Array:
    """The next positions, drawn by the cached sampler."""
    return arjax.extend(model, variables, state, noise)[1]


def draw(rows: list[common.Row], path: Path) -> None:
    """A curve for each pattern, of the first batch size."""
    figure = plotting.figure(6.4, 4)
    axes = figure.subplots()
    for name in patterns(STEPS):
        own = [row for row in rows if row["pattern"] == name and row["batch"] == rows[0]["batch"]]
        milliseconds = [1e3 * row["seconds_per_step"] for row in own]
        axes.plot([row["length"] for row in own], milliseconds, "o-", label=name)
    lengths = sorted({row["length"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="positions", ylabel="milliseconds of a step")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], minor=False)
    axes.set_yticks(ticks := [0.1, 0.2, 0.5, 1, 2, 5, 10], [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0.8 * min(row["seconds_per_step"] for row in rows) * 1e3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    plotting.save(figure, path)


def _kept(found: Any, rows: list[common.Row]) -> Any:
    for row in found:
        rows.append(row)
        yield row


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
