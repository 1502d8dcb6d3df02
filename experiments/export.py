"""A trained model for the package: the best checkpoint of a finished run, rounded, scored and written.

Command: python -m experiments.export RUN NAME --score "Gated PixelCNN"

RUN is the folder with the checkpoints; it, or the folder around it, has the results.json of the run, and `--score`
is the name of the network's test score there. What is written is `arjax/pretrained/NAME.npz` (see
`arjax.pretrained`): the averaged parameters in float16, and a card. Its score is that of the rounded parameters on
the test set. A rounding that changes the score by more than 0.1 % is refused, as is another test set.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from arjax import data, pretrained
from arjax.data import Dataset, Sequences
from arjax.layers.conditioning import num_classes
from experiments import char_rnn, common, provenance, use

TOLERANCE = 1e-3
PART = {Dataset: 400, Sequences: 20_000}
"""Examples, and characters, that a score can be tried on in seconds."""
PLACES = "--directory", "--data-dir"
"""Options that say where things are, which no recipe needs."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run and what its model is called."""

    run: use.File
    """The folder with the checkpoints."""
    name: tyro.conf.Positional[str]
    """What the model is called."""
    score: str
    """The network's test score in results.json."""
    data_dir: str | None = None
    """Where the files of the test set are; default $ARJAX_DATA_DIR."""


def main(config: Config) -> Path:
    """Rounds, scores and writes. Returns the path of the file.

    Raises:
        FileNotFoundError: there is no checkpoint or no results.json, or the test set is missing.
        ValueError: results.json has no such score or comes from changed code, the test set is another, or the
            rounded parameters have another score.
    """
    run = use.open_run(config.run)
    results = results_of(config.run)
    if not isinstance(scored := results["scores"].get(config.score), float):
        raise ValueError(f"--score: one of {', '.join(results['scores'])} is wanted, got {config.score}")
    if (commit := results["commit"]) is None or commit.endswith("-dirty"):
        raise ValueError(f"results.json is of commit {commit}, wanted a clean one: run it again, to score alone")
    splits = results["data"]
    test = load(splits[-1]["name"], config.data_dir, text=run.vocabulary is not None)
    if (found := provenance.describe(test)) != splits[-1]:
        raise ValueError(f"the test set is {found}, wanted that of the run, {splits[-1]}")

    rounded = pretrained.round_off(run.variables)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), rounded)
    score = nats(run.model, variables, test)
    if not abs(score - scored) <= TOLERANCE * abs(scored):
        raise ValueError(f"the rounded parameters score {score:.4f} nats, wanted {scored:.4f}, as in results.json")
    tried = part(test)
    path = pretrained.save(
        config.name,
        run.model,
        rounded,
        command=recipe(results["command"]),
        commit=commit,
        data=splits,
        event=run.event,
        symbols=None if run.vocabulary is None else run.vocabulary.symbols,
        unit="example" if run.vocabulary is None else "character",
        nats=score,
        part_nats=nats(run.model, variables, tried),
        part_size=len(tried.x),
    )
    print(f"{path}: {path.stat().st_size:,} bytes, {score:.4f} nats ({scored:.4f} before rounding)")
    return path


def results_of(directory: Path) -> dict[str, Any]:
    """The results.json of a run's folder, or of the one around it."""
    found = (use.read_json(folder / "results.json") for folder in (directory, directory.absolute().parent))
    results = next(filter(None, found), None)
    if results is None:
        raise FileNotFoundError(f"no results.json in {directory} or around it, wanted that of a finished run")
    return results


def load(name: str, data_dir: str | None = None, *, text: bool = False) -> Any:
    """The test split of a data set, or of a text."""
    if text:
        return data.load_text(name, "test", data_dir=data_dir)[0]
    return data.load(name, "test", data_dir=data_dir)


def nats(model: Any, variables: Any, test: Dataset | Sequences) -> float:
    """Mean negative log-likelihood of an example, or of a character of a text."""
    if isinstance(test, Sequences):
        return char_rnn.nats(model, variables["params"], test)
    return common.test_nats(model, variables, test, conditional=num_classes(model) is not None)


def part(test: Any) -> Any:
    """Examples at equal distances, or the beginning of a text."""
    size = PART[type(test)]
    return test.head(size) if isinstance(test, Sequences) else test.take(slice(None, None, -(-len(test) // size)))


def recipe(command: str) -> str:
    """A command line without the options that say where things are."""
    kept, words = [], iter(shlex.split(command))
    for word in words:
        if word in PLACES:
            next(words, None)
        elif word.partition("=")[0] not in PLACES:
            kept.append(word)
    return shlex.join(kept)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
