"""What the benchmarks share: the networks, the command line, the stopwatch and the form of the report."""

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from arjax.distributions import Bernoulli, Categorical
from arjax.models import (
    MADE,
    RNN,
    DiagonalBiLSTM,
    GatedPixelCNN,
    Histogram,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    RowLSTM,
    TemporalConv,
    Transformer,
    WaveNet,
)
from experiments import provenance

try:
    from tqdm import tqdm
except ImportError:  # it comes with the extra "experiments"
    tqdm = None

IMAGE = (28, 28, 1)
COLOUR = (32, 32, 3)
MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "gated_pixelcnn": (GatedPixelCNN(), IMAGE),
    "gated_pixelcnn_256": (GatedPixelCNN(Categorical(256)), IMAGE),
    "gated_pixelcnn_rgb": (GatedPixelCNN(Categorical(256), 3, features=96, head_features=96), COLOUR),
    "pixelcnn": (PixelCNN(), IMAGE),
    "pixelcnnpp": (PixelCNNPP(features=64), COLOUR),
    "pixelcnnpp_160": (PixelCNNPP(), COLOUR),
    "row_lstm": (PixelRNN(layer=RowLSTM), IMAGE),
    "diagonal_bilstm": (PixelRNN(layer=DiagonalBiLSTM), IMAGE),
    "pixelsnail": (PixelSNAIL(IMAGE, features=64, num_blocks=3, num_residual=2, value_features=64), IMAGE),
    "transformer": (Transformer(IMAGE, Categorical(2), features=128, num_layers=4, num_key_heads=1), IMAGE),
    "transformer_256": (Transformer((256,), Categorical(256), features=128, num_layers=4), (256,)),
    "rnn": (RNN(Categorical(256), features=256), (256,)),
    "temporal_conv": (TemporalConv(Categorical(256)), (256,)),
    "wavenet": (WaveNet(), (1008,)),
    "made": (MADE((784,)), (784,)),
    "made_wide": (MADE((784,), hidden=(8000,)), (784,)),
    "histogram": (Histogram(IMAGE, Bernoulli(), kernel_init=nn.initializers.normal(1.0)), IMAGE),
    "tiny": (MADE((16,), hidden=(16,)), (16,)),
}
"""Models, and the shapes of their events."""

Row = dict[str, Any]


def parser(doc: str | None, models: Iterable[str], batches: list[int]) -> argparse.ArgumentParser:
    """The command line of every benchmark: `models` to choose from, if any, and the default of `--batches`."""
    formatter = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    if names := tuple(models):
        options.add_argument("--models", nargs="+", choices=names, default=["gated_pixelcnn", "made"])
    options.add_argument("--batches", nargs="+", type=positive, default=batches, metavar="SIZE")
    options.add_argument("--device", metavar="PLATFORM", help="such as cpu or gpu (default: JAX's choice)")
    options.add_argument("--seconds", type=float, default=2.0, help="to repeat each program for (default: 2)")
    return options


def find_device(options: argparse.ArgumentParser, name: str | None) -> jax.Device:
    """The first device of the platform `name`. Where there is none, the program ends with a one-line error."""
    try:
        return jax.devices(name)[0]
    except RuntimeError:
        options.error(f"argument --device: no {name} here, JAX found {jax.default_backend()}")


def random_data(model: Any, event: tuple[int, ...], batch: int) -> Array:
    """`Int32[batch, *event]`, all levels alike."""
    return jax.random.randint(jax.random.key(batch), (batch, *event), 0, model.output.levels)


def compiled(function: Any, *args: Any, **options: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments, and the seconds that took, tracing included."""
    start = time.perf_counter()
    program = function.lower(*args, **options).compile()
    return program, time.perf_counter() - start


def fewest_seconds(
    programs: Mapping[str, Callable[[], Any]], seconds: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """The seconds of each program's shortest run, and its last result.

    The programs run in turn, so that the machine's noise hits all alike: at least two rounds, of which the
    first warms up (only one if it takes a minute), and more until `seconds` per program have passed.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    results = {}
    rounds, spent = 0, 0.0
    while (rounds < 2 and spent < 60) or spent < seconds * len(programs):
        for name, program in programs.items():
            start = time.perf_counter()
            results[name] = jax.block_until_ready(program())
            times[name].append(time.perf_counter() - start)
            spent += times[name][-1]
        rounds += 1
    return {name: min(times[name]) for name in programs}, results


def progress(cells: list[Any]) -> Iterable[Any]:
    """The cells of the table to come, with a bar on a terminal if tqdm is installed."""
    return tqdm(cells, unit="cell", disable=None) if tqdm else cells


def bar(total: int, unit: str) -> Any:
    """A bar of progress of `total` units, on a terminal if tqdm is installed."""
    if tqdm is None:
        return contextlib.nullcontext(SimpleNamespace(update=lambda count: None))
    return tqdm(total=total, unit=unit, disable=None)


def report(
    rows: Iterable[Row],
    columns: list[str],
    device: jax.Device,
    command: list[str],
    show: Callable[[Row], Row] = lambda row: row,
) -> None:
    """Prints `columns` of the rows as they come, then all that was found as one line of JSON.

    `command` is the module with its arguments, by which the run can be repeated; `show` makes of a row what
    the table shows of it.
    """
    say = tqdm.write if tqdm else print
    commit = provenance.commit()
    found: list[Row] = []
    say(_line(columns, columns))
    for row in rows:
        found.append(row)
        shown = show(row)
        say(_line([text(shown[column]) for column in columns], columns))
        sys.stdout.flush()
    repeat = shlex.join(["python", "-m", *command])
    about = {"machine": provenance.machine(device), "commit": commit, "command": repeat}
    print(json.dumps({"rows": found, **about}))


def positive(text: str) -> int:
    """An argument that is an integer of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"integers of 1 or more are wanted, got {text!r}")
    return int(text)


def _line(texts: list[str], columns: list[str]) -> str:
    first, *others = texts
    widths = [max(12, len(column)) + 1 for column in columns[1:]]
    return first.ljust(20) + "".join(map(str.rjust, others, widths))


def text(value: Any) -> str:
    """A cell of a table: three digits of a float, "-" for nothing."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)
