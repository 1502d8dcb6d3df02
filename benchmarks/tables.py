"""Writes the tables of README.md, experiments/README.md and benchmarks/README.md from files of results.

    python -m benchmarks.tables

`experiments/results/NAME.json` is a results.json as a run left it, `benchmarks/results/NAME.json` the last line of
a benchmark as it was printed. A table stands between `<!-- NAME -->` and `<!-- end -->`; what stands there is
replaced. A benchmark's file needs such a place in benchmarks/README.md, a run's file a row of `RESULTS`, which
says what the file does not: which network it is, on what, and what its paper reports.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common

ROOT = Path(__file__).resolve().parents[1]
UNITS = {
    "nats": lambda event: 1.0,
    "bits/dim": lambda event: 1 / (math.prod(event) * math.log(2)),
    "nats, log-likelihood": lambda event: -1.0,
    "AUROC": lambda event: 1.0,
}
"""By what a score is multiplied, for an event of that shape; likelihoods are kept negative and in nats."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A row of the results.

    Attributes:
        file: the name of the JSON file.
        model: the network.
        data: what it was tested on.
        scores: the result, a format string of the file's scores.
        unit: what the scores are shown in, of `UNITS`.
        published: what the paper reports for its own model.
        headline: whether README.md has it.
    """

    file: str
    model: str
    data: str
    scores: str
    unit: str
    published: str = "-"
    headline: bool = False


@dataclasses.dataclass(frozen=True)
class Speed:
    """A row of the speeds of README.md: of a benchmark's rows the one that has the values `where`.

    Attributes:
        file: the name of the JSON file.
        where: what tells the row from the others, by column.
        what: the network and what it does.
        measured: a format string of the row's columns.
    """

    file: str
    where: Mapping[str, Any]
    what: str
    measured: str


RESULTS = (
    Result(
        "digits",
        "`GatedPixelCNN`, by class",
        "digits 8x8, 17 levels",
        "**{Gated PixelCNN:.3f}** (per-position histogram: {per-position histogram:.3f})",
        "bits/dim",
        headline=True,
    ),
    Result(
        "autoencoder",
        "`GatedPixelCNN`, an auto-encoder's decoder",
        "digits 8x8, 17 levels",
        "given h **{auto-encoder, given h:.3f}**, without {decoder alone, without h:.3f}, given another image's h "
        "{auto-encoder, given another's h:.3f}",
        "bits/dim",
        headline=True,
    ),
    Result(
        "flows_2d",
        "`flows.maf` of mixtures, MAF, RealNVP",
        "eight Gaussians in the plane",
        "**{gaussians[maf of mixtures]:.3f}**, {gaussians[maf]:.3f}, {gaussians[real nvp]:.3f} (true: "
        "{gaussians[true]:.3f})",
        "nats",
        headline=True,
    ),
    Result(
        "flows_2d",
        "`flows.maf` of mixtures, MAF, RealNVP",
        "two moons",
        "**{moons[maf of mixtures]:.3f}**, {moons[maf]:.3f}, {moons[real nvp]:.3f}",
        "nats",
    ),
    Result(
        "flows_2d",
        "`flows.maf` of mixtures, MAF, RealNVP",
        "a spiral",
        "**{spiral[maf of mixtures]:.3f}**, {spiral[maf]:.3f}, {spiral[real nvp]:.3f}",
        "nats",
    ),
    Result(
        "flows_tabular",
        "`flows.maf` of mixtures, MAF, RealNVP",
        "patches of photographs, 15 numbers",
        "**{MAF MoG (5):.2f}**, {MAF (5):.2f}, {Real NVP (10):.2f} (MADE of mixtures: {MADE MoG:.2f}, Gaussian "
        "mixture by EM: {Gaussian mixture (EM):.2f}, normal: {normal:.2f})",
        "nats, log-likelihood",
        headline=True,
    ),
    Result(
        "char_rnn",
        "`RNN`, LSTM 2x256, 600 steps",
        "tiny Shakespeare, characters",
        "**{LSTM, valid:.3f}** validation, {LSTM, test:.3f} test (unigram: {unigram histogram, test:.3f})",
        "nats",
        headline=True,
    ),
    Result(
        "multiscale",
        "`ParallelMultiscale`, as large a `GatedPixelCNN`; 800 steps each",
        "binarized MNIST",
        "**{parallel multiscale:.2f}**, with fewer channels after the second doubling {tapered multiscale:.2f}, "
        "full {Gated PixelCNN:.2f} (per-position histogram: {per-position histogram:.2f}), not converged",
        "nats",
    ),
    Result(
        "subscale_mnist",
        "`Subscale`, 2 x 2 slices, and its decoder in raster order, as large; 600 steps each",
        "binarized MNIST",
        "**{subscale:.2f}**, {raster:.2f}; not converged",
        "nats",
    ),
    Result(
        "subscale_depth",
        "`DepthUpscaling` of two `Subscale`, and its decoder in raster order, as large; 250 steps each",
        "MNIST, 256 levels",
        "**{subscale:.3f}** ({  of which high:.3f} of the 3 high bits, {  of which low:.3f} of the 5 low ones), "
        "{raster:.3f} (per-position histogram: {per-position histogram:.3f}); not converged",
        "bits/dim",
    ),
    Result(
        "moving_digits",
        "`Subscale` in time: frames 1 and 5 first; a `GatedPixelCNN` of all frames at once, as large",
        "moving digits, generated, 8 frames of 16x16, 4 levels",
        "**{in time:.3f}**, {direct:.3f} (per-position histogram: {per-position histogram:.3f})",
        "bits/dim",
    ),
    Result(
        "anomaly_digits",
        "`GatedPixelCNN` and a background model",
        "digits against their negatives; constant images",
        "likelihood, ratio, complexity, typicality: {negatives[likelihood]:.3f}, {negatives[ratio]:.3f}, "
        "{negatives[complexity]:.3f}, {negatives[typicality]:.3f}; {constant images[likelihood]:.3f}, "
        "{constant images[ratio]:.3f}, **{constant images[complexity]:.3f}**, {constant images[typicality]:.3f}",
        "AUROC",
        headline=True,
    ),
)

SPEEDS = (
    Speed(
        "flows",
        {"model": "maf", "size": 784, "what": "sample"},
        "`flows.maf`, 784 numbers, a batch of 100 samples, beside flowjax's sampler",
        "**{ratio:.0f} times** as fast: {seconds:.3f} s and {peer_seconds:.2f} s",
    ),
    Speed(
        "flows",
        {"model": "maf", "size": 784, "what": "train"},
        "a training step of the same, beside flowjax's",
        "**{ratio:.2f} times** as fast",
    ),
    Speed(
        "flows",
        {"model": "tarflow", "what": "cached"},
        "`flows.tarflow`, 28x28, 16 samples, beside one forward pass",
        "**{over_forward:.2f} times** its time",
    ),
    Speed(
        "hierarchies",
        {"model": "gray"},
        "`GatedPixelCNN`, 32x32, 8 layers of 64, 16 samples, beside one forward pass",
        "**{over_forward:.2f} times** its time",
    ),
    Speed(
        "hierarchies",
        {"model": "tapered", "side": 128},
        "`ParallelMultiscale`, half the channels after each doubling, a 128x128 image, beside a `GatedPixelCNN` "
        "of equal size",
        "**{over_full:.1f} times** as fast: {calls} calls, {seconds:.3f} s",
    ),
)

COLUMNS = ["model", "data", "unit", "result", "published", "`python -m experiments.`"]


def main() -> None:
    """Writes the pages that differ from their files of results."""
    for path, text in pages(ROOT).items():
        if text != path.read_text():
            unfinished = path.with_name(f"{path.name}.unfinished")
            unfinished.write_text(text)
            unfinished.replace(path)
            print(f"{path.relative_to(ROOT)} is written anew")


def pages(root: Path) -> dict[Path, str]:
    """The three pages of the checkout `root` as they should be, by their path.

    Raises:
        ValueError: a page lacks a table's place, or `RESULTS` or `SPEEDS` do not fit the files.
    """
    runs, benchmarks = read(root / "experiments/results"), read(root / "benchmarks/results")
    unknown = sorted(runs.keys() ^ {result.file for result in RESULTS})
    if unknown:
        raise ValueError(f"experiments/results and RESULTS are wanted with the same names, {unknown[0]} is in one")
    tables: dict[str, dict[str, str]] = {
        "README.md": {"results": headline_results(runs), "speeds": headline_speeds(benchmarks)},
        "experiments/README.md": {"results": results(runs)},
        "benchmarks/README.md": {name: benchmark(found) for name, found in benchmarks.items()},
    }
    return {root / page: filled(page, (root / page).read_text(), named) for page, named in tables.items()}


def read(folder: Path) -> dict[str, Any]:
    """The JSON files of a folder by their name without ending."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def filled(page: str, text: str, tables: Mapping[str, str]) -> str:
    """The text of a page with each table in its place."""
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{page}: <!-- {name} --> and <!-- end --> are wanted on lines of their own")
        text = f"{before}{start}{table}{end}{after}"
    return text


def headline_results(runs: Mapping[str, Any]) -> str:
    """The results of README.md."""
    chosen = [(result, runs[result.file]) for result in RESULTS if result.headline]
    return markdown(COLUMNS, [[*score(result, run), command(run)] for result, run in chosen])


def results(runs: Mapping[str, Any]) -> str:
    """All results, and the machines that they were measured on."""
    rows = []
    for result in RESULTS:
        run = runs[result.file]
        seconds = sum(model["seconds"] for model in run["training"].values())
        rows.append([*score(result, run), command(run), duration(seconds), run["commit"] or "-"])
    machines: dict[str, list[str]] = {}
    for name, run in runs.items():
        machines.setdefault(machine(run["machine"]), []).append(name)
    told = "".join(f"\nOn {where}: {', '.join(names)}.\n" for where, names in machines.items())
    return markdown([*COLUMNS, "training", "commit"], rows) + told


def score(result: Result, run: Mapping[str, Any]) -> list[str]:
    """Model, data, unit, result and published result."""
    factor = UNITS[result.unit](run["data"][-1]["event"])
    scores = result.scores.format_map(scaled(run["scores"], factor))
    return [result.model, result.data, result.unit, scores, result.published]


def scaled(scores: Any, factor: float) -> Any:
    """All numbers of nested dictionaries times `factor`."""
    if isinstance(scores, dict):
        return {name: scaled(value, factor) for name, value in scores.items()}
    return scores * factor


def headline_speeds(benchmarks: Mapping[str, Any]) -> str:
    """The speeds of README.md."""
    rows = []
    for speed in SPEEDS:
        found = benchmarks[speed.file]
        chosen = [row for row in found["rows"] if speed.where.items() <= row.items()]
        if len(chosen) != 1:
            raise ValueError(f"{speed.file}: one row with {dict(speed.where)} is wanted, got {len(chosen)}")
        rows.append([speed.what, speed.measured.format_map(chosen[0]), f"`{speed.file}`"])
    return markdown(["what", "measured", "`python -m benchmarks.`"], rows)


def benchmark(found: Mapping[str, Any]) -> str:
    """A benchmark's table as it was printed, without columns that say nothing, and where it was measured."""
    columns = [name for name in found["rows"][0] if any(row[name] is not None for row in found["rows"])]
    rows = [[common.text(row[name]) for name in columns] for row in found["rows"]]
    told = f"\n`{found['command']}`, commit {found['commit'] or '-'}, on {machine(found['machine'])}.\n"
    return markdown([name.replace("_", " ") for name in columns], rows) + told


def command(run: Mapping[str, Any]) -> str:
    """What follows `python -m experiments.` to run it again."""
    return "-" if run["command"] is None else f"`{run['command'].removeprefix('python -m experiments.')}`"


def machine(found: Mapping[str, Any]) -> str:
    """A machine in words: its CPU, or the accelerator beside it, and versions."""
    device = found["cpu"] if found["device"].lower() == "cpu" else f"{found['device']}, {found['cpu']}"
    return f"{device}, {found['cores']} cores, jax {found['jax']}, Python {found['python']}"


def duration(seconds: float) -> str:
    """Seconds in words: in minutes from 90 on."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
