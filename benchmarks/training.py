"""Examples per second, compile time and memory of one training step: gradient, AdamW, moving average.

    python -m benchmarks.training --models gated_pixelcnn made --batches 32 --device cpu

The step is `arjax.training.train_step` with donated state, on random data, one after the other; the shortest
counts, and compilation has its own column. A large batch shows throughput; at batch 1 what does not depend on
the batch weighs most: the overhead of a step, and the optimizer, which touches every parameter.

- `memory_bytes`: what the compiled step holds at most, by JAX's account: arguments (mostly the state),
  results and temporaries, less the results that take a donated argument's place.
- `flops` (JSON only): the step's, by XLA's account of the compiled program.
- `device_peak_bytes`: the most the device has held since the program began, so only the first row's belongs
  to its own step; null where the device keeps no account, as a CPU.
- `over_peer`: the peer's seconds / these, more than 1 where ours is faster. The peer is a plain PyTorch network of
  the same sizes (`benchmarks.torch_networks`, extra "peer") with the same step: gradient, clipping, AdamW, moving
  average. It runs in turns with ours, on as many threads as the process has cores, on a CPU in float32. Null where
  torch is not installed and for other models.

Models: those of `benchmarks.sampling`; parameters are float32, --dtype is that of the computation.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np

from arjax import training
from benchmarks import common

MODELS = {name: entry for name, entry in common.MODELS.items() if hasattr(entry[0], "dtype")}
COLUMNS = [
    *("model", "batch", "dtype", "seconds", "compile_seconds", "examples_per_second", "memory_bytes"),
    *("peer_seconds", "over_peer"),
]
PEER = "torch"
EMA_DECAY = 0.999


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, MODELS, batches=[32])
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    with jax.default_device(device):
        rows = (
            {"model": name, "batch": batch, "dtype": args.dtype}
            | measure(*MODELS[name], batch, args.dtype, device, args.seconds)
            for name, batch in common.progress(list(product(args.models, args.batches)))
        )
        common.report(rows, COLUMNS, device, ["benchmarks.training", *argv])


def measure(
    model: Any, event: tuple[int, ...], batch: int, dtype: str, device: jax.Device, seconds: float
) -> common.Row:
    """The row of one model and batch size."""
    model = model.clone(dtype=dtype)
    data = {"x": common.random_data(model, event, batch)}
    optimizer = training.default_optimizer(1e-3, steps=10_000)
    state = training.create_state(model, optimizer, 0, data)
    train_step = partial(training.train_step, model=model, optimizer=optimizer, ema_decay=EMA_DECAY)
    step, compile_seconds = common.compiled(jax.jit(train_step, donate_argnums=0), state, data)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, data)
        return state, metrics

    peer = peer_step(model, data["x"]) if dtype == "float32" and device.platform == "cpu" else None
    times, _ = common.fewest_seconds({"step": run} | ({"peer": peer} if peer else {}), seconds)
    memory = step.memory_analysis()
    return {
        "seconds": times["step"],
        "compile_seconds": compile_seconds,
        "examples_per_second": batch / times["step"],
        "memory_bytes": (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        ),
        "flops": (step.cost_analysis() or {}).get("flops"),
        "device_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "peer_seconds": times.get("peer"),
        "over_peer": times["peer"] / times["step"] if peer else None,
    }


def peer_step(model: Any, x: Any) -> Callable[[], float] | None:
    """The training step of PyTorch's network like `model` on the data `x`, or None where there is none."""
    if importlib.util.find_spec(PEER) is None:
        return None
    import torch

    from benchmarks import torch_networks

    if (network := torch_networks.NETWORKS.get(type(model))) is None or model.output not in torch_networks.OUTPUTS:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch_networks.train_step(network(model), np.asarray(x), EMA_DECAY)


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
