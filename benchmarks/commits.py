"""Seconds of one batch of cached samples in this checkout, in turns with another checkout's.

    git worktree add ../before COMMIT
    python -m benchmarks.commits ../before --models gated_pixelcnn wavenet --batches 1 16

Each row has two processes, which import arjax from one checkout each and the networks' sizes from this one. They
take turns, one batch each, until --seconds have passed for both, so that the machine's noise hits both alike;
times are the shortest. Weights, twice the initial random ones, and noise are the same.

- `over_before`: these seconds / those of the other checkout.
- `compile_over_before`: likewise of compiling, tracing included.
- `equal`: the share of integers that both drew alike. Ties that rounding broke another way make a few different,
  and after one all that follows in an example may be.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common

COLUMNS = [
    "model",
    "batch",
    "before",
    "seconds",
    "over_before",
    "compile_before",
    "compile_seconds",
    "compile_over_before",
    "equal",
]
HERE = Path(__file__).resolve().parents[1]
SERVE = """
import sys
tree, here, *argv = sys.argv[1:]
sys.path.insert(0, tree)
import arjax.models
sys.path.insert(0, here)
from benchmarks import commits
commits.serve(*argv)
"""


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, common.MODELS, batches=[1, 16])
    options.add_argument("before", type=Path, help="folder of the other checkout")
    args = options.parse_args(argv)
    if not (args.before / "arjax" / "__init__.py").exists():
        options.error(f"argument before: a folder with arjax in it is wanted, got {args.before}")
    device = common.find_device(options, args.device)
    rows = (
        {"model": name, "batch": batch, **measure(args.before, name, batch, device.platform, args.seconds)}
        for name, batch in common.progress(list(product(args.models, args.batches)))
    )
    common.report(rows, COLUMNS, device, ["benchmarks.commits", *argv])


def measure(before: Path, name: str, batch: int, platform: str, seconds: float) -> common.Row:
    """The row of one model and batch size."""
    trees = {"before": before.resolve(), "here": HERE}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {side: str(Path(folder) / f"{side}.npy") for side in trees}
        workers = {
            side: subprocess.Popen(
                [sys.executable, "-c", SERVE, str(tree), str(HERE), name, str(batch), outputs[side]],
                cwd=folder,
                env=os.environ | {"JAX_PLATFORMS": platform},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for side, tree in trees.items()
        }
        compiling = {side: _ask(worker, "compile") for side, worker in workers.items()}
        times: dict[str, list[float]] = {side: [] for side in trees}
        while len(times["here"]) < 2 or sum(map(sum, times.values())) < 2 * seconds:
            for side, worker in workers.items():
                times[side].append(_ask(worker, "run"))
        for worker in workers.values():
            worker.communicate()
        samples = [np.load(path) for path in outputs.values()]
    fewest = {side: min(found) for side, found in times.items()}
    return {
        "before": fewest["before"],
        "seconds": fewest["here"],
        "over_before": fewest["here"] / fewest["before"],
        "compile_before": compiling["before"],
        "compile_seconds": compiling["here"],
        "compile_over_before": compiling["here"] / compiling["before"],
        "equal": float((samples[0] == samples[1]).mean()),
    }


def serve(name: str, batch: str, output: str) -> None:
    """Compiles and runs as the lines of the standard input say; answers each with its seconds."""
    from arjax import sample_from_noise

    jax.config.update("jax_enable_compilation_cache", False)
    model, event = common.MODELS[name]
    x = common.random_data(model, event, int(batch))
    noise = jax.random.uniform(jax.random.key(0), x.shape)
    variables = jax.tree.map(lambda param: 2 * param, model.init(jax.random.key(1), x))
    program: Any = None
    for line in sys.stdin:
        if line == "compile\n":
            program, seconds = common.compiled(jax.jit(partial(sample_from_noise, model)), variables, noise)
            np.save(output, program(variables, noise))
        else:
            start = time.perf_counter()
            jax.block_until_ready(program(variables, noise))
            seconds = time.perf_counter() - start
        print(json.dumps(seconds), flush=True)


def _ask(worker: Any, line: str) -> float:
    worker.stdin.write(line + "\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


if __name__ == "__main__":
    main(sys.argv[1:])
