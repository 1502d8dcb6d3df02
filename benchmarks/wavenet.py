"""Samples per second of WaveNet, beside its forward pass, the naive sampler and a peer.

    python -m benchmarks.wavenet --batches 1 16 --device cpu

30 layers (3 cycles of dilations 1 to 512), 64 residual, 64 gated and 256 skip channels, 256 levels, random
weights; --length positions per call, from the first one on. Times are the shortest of repeats in which all
programs of a batch take turns; compilation has its own column.

- `per_second`: samples of all sequences of the batch together.
- `over_naive`: seconds of the naive sampler, one forward pass of the whole length for each position, / these
  seconds. Its first positions are timed, as many as fit in --naive-seconds, and extrapolated.
- `over_forward`: these seconds / those of one teacher-forced forward pass.
- `over_peer`: samples per second / those of the peer, the incremental generator of the package wavenet-vocoder
  (PyTorch, extra "peer": `pip install torch wavenet-vocoder`), with the same sizes, at batch 1, all it does. Null
  where it is not installed.
- `mismatches`: positions that one teacher-forced pass does not give back; 0 is a right sampler, a few in a hundred
  thousand are ties that rounding broke another way.
- `short` and `long`: 14 layers with dilations up to 2^4, again and again, and up to 2^13; `over_short` is the
  second's seconds / the first's: a sample does not cost more for what lies further back.
"""

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from arjax import sample_from_noise
from arjax.models import WaveNet
from benchmarks import common
from benchmarks.sampling import first_dimensions

COLUMNS = [
    "model",
    "batch",
    "dtype",
    "per_second",
    "compile_seconds",
    "over_naive",
    "over_forward",
    "over_peer",
    "over_short",
    "mismatches",
]
SHORT, LONG = (1, 2, 4, 8, 16) * 2 + (1, 2, 4, 8), tuple(2**i for i in range(14))
MODELS = {
    "wavenet": WaveNet(),
    "short": WaveNet(dilations=SHORT),
    "long": WaveNet(dilations=LONG),
    "tiny": WaveNet(dilations=(1, 16), features=4, gate_features=4, skip_features=4),
}
PEER = "wavenet_vocoder"


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, MODELS, batches=[1, 16])
    options.set_defaults(models=["wavenet", "short", "long"])
    options.add_argument("--length", type=int, default=1008, help="positions per call (default: 1008)")
    options.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    options.add_argument("--naive-seconds", type=float, default=20.0, help="of a naive batch (default: 20)")
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    with jax.default_device(device):
        rows = (
            row
            for batch in args.batches
            for dtype in args.dtypes
            for row in measure(args.models, batch, dtype, args.length, args.naive_seconds, args.seconds)
        )
        common.report(rows, COLUMNS, device, ["benchmarks.wavenet", *argv])


def measure(
    models: list[str], batch: int, dtype: str, length: int, naive_seconds: float, seconds: float
) -> list[common.Row]:
    """The rows of some models at one batch size; all programs take turns."""
    programs: dict[str, Callable[[], Any]] = {}
    rows: dict[str, common.Row] = {}
    noise = jax.random.uniform(jax.random.key(0), (batch, length))
    checks = {}
    for name in models:
        model = MODELS[name].clone(dtype=jnp.dtype(dtype))
        x = common.random_data(model, (length,), batch)
        variables = jax.tree.map(lambda param: 2 * param, model.init(jax.random.key(1), x[:, :2]))
        sampler, compile_seconds = common.compiled(jax.jit(partial(sample_from_noise, model)), variables, noise)
        programs[f"{name} cached"] = partial(sampler, variables, noise)
        rows[name] = {"model": name, "batch": batch, "dtype": dtype, "compile_seconds": compile_seconds}
        teacher_forced = jax.jit(lambda v, x, model=model: model.output.quantile(model.apply(v, x), noise))
        checks[name] = partial(teacher_forced, variables)
        if name not in ("short", "long"):
            forward, _ = common.compiled(jax.jit(model.apply), variables, x)
            programs[f"{name} forward"] = partial(forward, variables, x)
            rows[name]["naive_seconds"] = _naive_seconds(model, variables, noise, naive_seconds)
    if batch == 1 and dtype == "float32" and importlib.util.find_spec(PEER):
        programs["peer"] = partial(_generate, _peer(), PEER_LENGTH)
    times, results = common.fewest_seconds(programs, seconds)

    peer = times["peer"] / PEER_LENGTH if "peer" in times else None
    for name, row in rows.items():
        spent, x = times[f"{name} cached"], results[f"{name} cached"]
        row |= {
            "seconds": spent,
            "per_second": batch * length / spent,
            "over_naive": row["naive_seconds"] / spent if "naive_seconds" in row else None,
            "over_forward": spent / times[forward] if (forward := f"{name} forward") in times else None,
            "over_peer": batch * peer * length / spent if peer and name == "wavenet" else None,
            "over_short": spent / times["short cached"] if name == "long" and "short" in rows else None,
            "mismatches": int((checks[name](x) != x).sum()),
        }
    if peer:
        rows["peer"] = dict.fromkeys(COLUMNS) | {
            "model": PEER,
            "batch": 1,
            "dtype": "float32",
            "per_second": 1 / peer,
        }
    return list(rows.values())


def _naive_seconds(model: Any, variables: Any, noise: jax.Array, limit: float) -> float:
    """The naive sampler's seconds for all positions, from its first ones."""
    length = noise.shape[1]

    def seconds(count: int) -> float:
        program, _ = common.compiled(jax.jit(partial(first_dimensions, model, count)), variables, noise)
        start = time.perf_counter()
        jax.block_until_ready(program(variables, noise))
        return time.perf_counter() - start

    count = max(1, min(length, int(limit / seconds(2) * 2)))
    return seconds(count) * length / count


PEER_LENGTH = 300


def _peer() -> Any:
    """The package's network of the same sizes; its gate channels are those of both halves."""
    import wavenet_vocoder

    sizes = {"residual_channels": 64, "gate_channels": 128, "skip_out_channels": 256}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = wavenet_vocoder.WaveNet(out_channels=256, layers=30, stacks=3, kernel_size=2, **sizes)
        network.make_generation_fast_()
    return network.eval()


def _generate(network: Any, length: int) -> Any:
    import torch

    with torch.no_grad():
        return network.incremental_forward(T=length).numpy()


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
