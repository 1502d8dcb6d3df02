"""Everything that an accelerator has to show, as one command that may be cut off and run again.

    python -m benchmarks.accelerator --results accelerator.jsonl --data-dir DATA

The cells come in order of importance: PixelCNN++ at the paper's size, naive, cached and forward; the cached
samplers of other networks; training steps and their share of the device's peak; Gated PixelCNN trained on
binarized MNIST for --train-seconds; ways to compile the loop of a sampler. They run in a process of their own,
and each row is appended to --results as soon as it is there. A cell that takes longer than --limit seconds, or
fails, leaves its error as a row, and the next one begins; after --minutes all ends. Run again, what is finished
is not repeated. --list shows the cells, --only runs those whose names contain a text, --tiny shrinks
everything, for a dry run on a CPU. It needs arjax alone, and tqdm for progress.

Rows have `cell`, and those of

- `sample`: what `benchmarks.sampling` says.
- `train`: what `benchmarks.training` says, and `share_of_peak`: floating point operations of the compiled
  program a second, over the device's peak (dense bfloat16; TF32 for float32, XLA's default there), null where the
  peak is not known.
- `fit`: `nats` of the binarized MNIST test set after `steps` updates in `seconds`.
- `loop`: `seconds_per_step` of the cached sampler (a step is one position), `kernels_per_step`, by the compiled
  program's account, and `same`, whether the sample is that of the default. `command_buffers` are CUDA graphs for
  loops, `unroll_N` takes N steps as one.
"""

import argparse
import dataclasses
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import arjax
from arjax import data, training
from arjax.distributions import Categorical, DiscretizedLogisticMixture
from arjax.incremental import loops
from arjax.models import GatedPixelCNN, PixelCNNPP, Transformer, WaveNet
from benchmarks import common, sampling
from benchmarks.training import measure as measure_training
from experiments import provenance

PEAKS = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 495e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 495e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12},
}
"""Operations a second by NVIDIA's data sheets: dense, tensor cores, TF32 for float32."""
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "default": (1, {}),
    "command_buffers": (
        1,
        {
            "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE",
            "xla_gpu_graph_min_graph_size": 1,
        },
    ),
    **{f"unroll_{n}": (n, {}) for n in (2, 4, 8)},
}
"""Steps taken as one, and options of the compiler."""
TINY: dict[str, tuple[Any, tuple[int, ...]]] = {
    "pixelcnnpp_160": (
        PixelCNNPP(DiscretizedLogisticMixture(1, levels=2), 1, features=2, num_blocks=1, num_levels=1),
        (2, 2, 1),
    ),
    "gated_pixelcnn": (GatedPixelCNN(features=4, num_layers=1, head_features=4), (6, 6, 1)),
    "wavenet": (WaveNet(Categorical(4), (1, 2), features=2, gate_features=2, skip_features=2), (24,)),
    "transformer_256": (Transformer((8,), Categorical(4), features=4, num_layers=1, num_heads=1), (8,)),
}
STARTING = 120
"""Seconds that the process has for its first row on top of the limit: it imports JAX and finds the device."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A part of the run: a function of this module that yields rows, and its arguments."""

    function: Callable[..., Iterator[common.Row]]
    arguments: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """Such as `sample pixelcnnpp_160 16`."""
        return " ".join(map(str, (self.function.__name__, *self.arguments)))


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--results", type=Path, default=Path("accelerator.jsonl"), help="JSON lines, appended to")
    options.add_argument("--data-dir", help="where binarized MNIST is (default: $ARJAX_DATA_DIR)")
    options.add_argument("--minutes", type=float, default=9.0, help="after which all ends (default: 9)")
    options.add_argument("--limit", type=float, default=120.0, help="seconds of a cell at most (default: 120)")
    options.add_argument("--seconds", type=float, default=1.0, help="to repeat each program for (default: 1)")
    options.add_argument("--naive-seconds", type=float, default=5.0, help="of a naive batch (default: 5)")
    options.add_argument("--train-seconds", type=float, default=60.0, help="of the training (default: 60)")
    options.add_argument("--only", default="", metavar="TEXT", help="cells whose names contain it")
    options.add_argument("--tiny", action="store_true", help="a dry run with tiny networks")
    options.add_argument("--list", action="store_true", help="show the cells and end")
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    chosen = [cell for cell in cells(args.tiny) if args.only in cell.name]
    if not chosen:
        options.error(f"argument --only: a part of a cell's name is wanted (see --list), got {args.only!r}")
    try:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.touch()
    except OSError as error:
        options.error(f"argument --results: a file that can be written is wanted, got {args.results} ({error})")
    if args.list:
        print("\n".join(cell.name for cell in chosen))
    elif args.worker:
        work(chosen, args)
    else:
        supervise(chosen, args, argv)


def cells(tiny: bool) -> list[Cell]:
    """All parts in order of importance."""
    if tiny:
        return [
            *(Cell(sample, (name, 2)) for name in TINY),
            *(Cell(train, ("gated_pixelcnn", 4, dtype)) for dtype in ("float32", "bfloat16")),
            Cell(fit),
            *(Cell(loop, ("wavenet", 1, variant)) for variant in ("default", "unroll_2")),
        ]
    return [
        *(Cell(sample, ("pixelcnnpp_160", batch)) for batch in (1, 16, 256)),
        *(Cell(sample, ("gated_pixelcnn", batch)) for batch in (1, 64)),
        *(Cell(sample, ("wavenet", batch)) for batch in (1, 256)),
        *(Cell(train, ("pixelcnnpp_160", 32, dtype)) for dtype in ("bfloat16", "float32")),
        Cell(fit),
        *(Cell(loop, ("wavenet", 1, variant)) for variant in VARIANTS),
        *(Cell(sample, (name, batch)) for name in ("transformer_256", "pixelsnail") for batch in (1, 64)),
        *(
            Cell(train, (name, 64, dtype))
            for name in ("gated_pixelcnn", "wavenet", "transformer_256")
            for dtype in ("bfloat16", "float32")
        ),
        *(Cell(loop, ("gated_pixelcnn", 1, variant)) for variant in VARIANTS),
        *(Cell(sample, ("pixelcnnpp_160", batch)) for batch in (4, 64)),
    ]


def supervise(chosen: list[Cell], args: argparse.Namespace, argv: list[str]) -> None:
    """Runs the cells in a process that is replaced when one takes too long or brings it down."""
    start = time.monotonic()
    end = start + 60 * args.minutes
    command = [sys.executable, "-m", "benchmarks.accelerator", *argv, "--worker"]
    left = unfinished(chosen, args.results)
    say = common.tqdm.write if common.tqdm else print
    shown = len(args.results.read_text().splitlines())
    with common.bar(len(left), "cell") as bar:
        while left and time.monotonic() < end:
            with tempfile.TemporaryFile("w+") as errors:
                worker = subprocess.Popen(command, stderr=errors)
                rows, deadline = 0, time.monotonic() + args.limit + STARTING
                while worker.poll() is None and time.monotonic() < min(deadline, end):
                    time.sleep(0.1)
                    lines = args.results.read_text().splitlines()
                    if len(lines) > shown:
                        for line in lines[shown:]:
                            say(line)
                        rows, shown, deadline = rows + 1, len(lines), time.monotonic() + args.limit
                        still = unfinished(chosen, args.results)
                        bar.update(len(left) - len(still))
                        left = still
                late = worker.poll() is None
                worker.kill()
                status = worker.wait()
                left = unfinished(chosen, args.results)
                if left and time.monotonic() < end:
                    errors.seek(0)
                    last = (errors.read().strip().splitlines() or [f"ended with status {status}"])[-1]
                    error = f"took longer than {args.limit:g} seconds" if late else last[-500:]
                    append(args.results, {"cell": left[0].name, "error": error, "finished": True})
                    left = unfinished(chosen, args.results)
    told = f"{len(chosen) - len(left)} of {len(chosen)} cells are finished in {args.results}"
    print(told if not left else f"{told}; run it again for the others")


def work(chosen: list[Cell], args: argparse.Namespace) -> None:
    """Runs what is not finished, one cell after the other; an exception is a row too."""
    about = {"machine": provenance.machine(), "commit": provenance.commit()}
    for cell in unfinished(chosen, args.results):
        start = time.perf_counter()
        try:
            for row in cell.function(args, *cell.arguments):
                append(args.results, {"cell": cell.name, **row})
            end: common.Row = about
        except Exception as error:
            end = {"error": f"{type(error).__name__}: {error}"[:500]}
        seconds = time.perf_counter() - start
        append(args.results, {"cell": cell.name, **end, "cell_seconds": seconds, "finished": True})
        jax.clear_caches()


def unfinished(chosen: list[Cell], results: Path) -> list[Cell]:
    """The cells that have no last row; a line that was cut off counts for nothing."""
    finished = set()
    for line in results.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("finished"):
            finished.add(row["cell"])
    return [cell for cell in chosen if cell.name not in finished]


def append(results: Path, row: common.Row) -> None:
    """Adds a line, on a new one even if the last was cut off."""
    with results.open("a+") as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
        cut = size and file.read(1) != "\n"
        file.write("\n" * bool(cut) + json.dumps(row) + "\n")


def sample(args: argparse.Namespace, name: str, batch: int) -> Iterator[common.Row]:
    """The samplers of one network at one batch size: "rows" or "blocks" at batch 1, where launches weigh most."""
    model, event = models(args)[name]
    together = "rows" if len(event) == 3 and not hasattr(model, "ranks") else "blocks"
    methods = ["cached", "naive"] + [together] * (batch == 1)
    for row in sampling.measure(model, event, batch, methods, args.naive_seconds, args.seconds):
        yield {"model": name, "batch": batch, **row}


def train(args: argparse.Namespace, name: str, batch: int, dtype: str) -> Iterator[common.Row]:
    """A training step."""
    device = jax.devices()[0]
    row = measure_training(*models(args)[name], batch, dtype, device, args.seconds)
    peak = PEAKS.get(device.device_kind, {}).get(dtype)
    share = row["flops"] / row["seconds"] / peak if peak and row["flops"] else None
    yield {"model": name, "batch": batch, "dtype": dtype, **row, "share_of_peak": share}


def fit(args: argparse.Namespace) -> Iterator[common.Row]:
    """Gated PixelCNN on binarized MNIST: as many steps as fit in the time, of a schedule of that length."""
    train, valid, test = (data.load("binarized_mnist", split, data_dir=args.data_dir) for split in data.SPLITS)
    model = GatedPixelCNN(features=4, num_layers=1, head_features=4) if args.tiny else GatedPixelCNN()
    batch_size = min(32 if args.tiny else 128, len(train))

    def run(steps: int) -> tuple[float, Any]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            state, _ = training.fit(
                model,
                training.default_optimizer(3e-3, steps),
                train,
                valid,
                directory=folder,
                steps=steps,
                batch_size=batch_size,
                eval_every=steps,
                ema_decay=0.99,
                progress=False,
            )
            return time.perf_counter() - start, state

    few = 2 if args.tiny else 50
    run(few)
    each = run(few)[0] / few  # with the second evaluation, but compiled
    steps = max(few, int(args.train_seconds / each))
    seconds, state = run(steps)
    scores = training.evaluate(model, state.ema_params, data.epoch_batches(test, batch_size))
    yield {"steps": steps, "batch": batch_size, "seconds": seconds, "nats": scores["nats"]}


def loop(args: argparse.Namespace, name: str, batch: int, variant: str) -> Iterator[common.Row]:
    """A cached sampler whose loop is compiled in one of the `VARIANTS`."""
    model, event = models(args)[name]
    x = common.random_data(model, event, batch)
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    variables = jax.tree.map(lambda param: 2 * param, model.init(jax.random.key(1), x))
    unroll, options = VARIANTS[variant]
    want = arjax.sample_from_noise(model, variables, noise)
    jax.clear_caches()
    loops.UNROLL = unroll
    try:
        start = time.perf_counter()
        lowered = jax.jit(partial(arjax.sample_from_noise, model)).lower(variables, noise)
        program = lowered.compile(compiler_options=options)
        compile_seconds = time.perf_counter() - start
    finally:
        loops.UNROLL = 1
    times, results = common.fewest_seconds({variant: partial(program, variables, noise)}, args.seconds)
    yield {
        "model": name,
        "batch": batch,
        "variant": variant,
        "seconds": times[variant],
        "seconds_per_step": times[variant] / math.prod(event),
        "kernels_per_step": kernels(program.as_text() or "") / unroll,
        "compile_seconds": compile_seconds,
        "same": bool(jnp.array_equal(results[variant], want)),
    }


def models(args: argparse.Namespace) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The networks and the shapes of their events."""
    return TINY if args.tiny else common.MODELS


def kernels(program: str) -> int:
    """What the innermost loop of a compiled program launches a round: the most of any without another in it."""
    bodies = {}
    computation = re.compile(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
    for name, body in computation.findall(program):
        bodies[name] = re.findall(r"= .*?\s([a-z][\w-]*)\(", body)
    looped = set(re.findall(r"body=%?([\w.-]+)", program))
    idle = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
    counts = [
        sum(op not in idle for op in ops) for name, ops in bodies.items() if name in looped and "while" not in ops
    ]
    return max(counts, default=0)


if __name__ == "__main__":
    main(sys.argv[1:])
