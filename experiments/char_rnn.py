"""A recurrent network that writes: LSTM or GRU over the characters of a text, state carried from window to window.

Command: python -m experiments.char_rnn   (12 minutes on 2 shared CPU cores; --data tiny_shakespeare, or a file)

Expect, in nats per character:

    data                validation     test    unigram histogram
    tiny_shakespeare         1.381    1.525                3.362

What is reported is exact: one pass over a whole split as a single sequence. While it trains, and in the end, text
is drawn in chunks that go on from one another (`arjax.start`, `arjax.extend`), so it may be of any length. A run
that is over is not trained again: `--prompt` and `--temperature` may then be tried at no cost.

The folder holds checkpoints, metrics.jsonl (nats there are of a window), curves.png and samples.txt.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import tyro

import arjax
from arjax import data, plotting, training
from arjax.data import Bytes, Sequences, Vocabulary, Windows
from arjax.distributions import Categorical
from arjax.models import RNN
from experiments import common

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/char_rnn")
    """Where checkpoints, metrics, picture and text go, in a subfolder of the data's name."""
    data: str = "pydoc"
    """"pydoc" (the help texts of Python), "tiny_shakespeare", a text file or a folder of such."""
    data_dir: str | None = None
    """Where the files of tiny_shakespeare are; default $ARJAX_DATA_DIR."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of the layers."""
    features: int = 256
    """Units of every layer."""
    num_layers: int = 2
    """Layers."""
    dropout: float = 0.1
    """Rate of dropout between layers."""
    window: int = 64
    """Characters through which a gradient goes back."""
    batch_size: int = 64
    """Streams of text read side by side."""
    learning_rate: float = 6e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    ema_decay: float = 0.99
    """Decay of the moving average of the parameters."""
    steps: int = 1600
    """Updates."""
    eval_every: int = 200
    """Steps between evaluations on the validation set, each with a sample of text."""
    prompt: str = "\n"
    """What the text goes on from; may be empty."""
    temperature: float = 0.8
    """Below 1 the text keeps to what is likely."""
    top_p: float | None = None
    """Draw from the most probable characters alone whose probabilities sum to this."""
    length: int = 1600
    """Characters of a text in the end."""
    count: int = 4
    """Texts in samples.txt, the first of which is also printed."""
    seed: int = 0
    """Seed of initialisation, dropout and texts."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def texts(model: Any, params: Any, prompt: np.ndarray, config: Config, length: int) -> Iterator[np.ndarray]:
    """What follows `prompt`, in chunks `Int32[count, 16]` each of which goes on from the one before."""
    variables, key = {"params": params}, jax.random.key(config.seed)
    state = arjax.start(model, variables, np.broadcast_to(prompt, (config.count, len(prompt))))
    for position in range(0, length, 16):
        noise = jax.random.uniform(jax.random.fold_in(key, position), (config.count, 16))
        state, chunk = arjax.extend(
            model, variables, state, noise, temperature=config.temperature, top_p=config.top_p
        )
        yield np.asarray(chunk)[:, : length - position]


def write(model: Any, params: Any, vocabulary: Vocabulary | Bytes, config: Config, length: int) -> list[str]:
    """Prints a text while it is drawn. Returns it and those that were drawn beside it."""
    print(f"\n----- {config.prompt}", end="")
    chunks = []
    for chunk in texts(model, params, vocabulary.encode(config.prompt), config, length):
        print(vocabulary.decode(chunk[0]), end="", flush=True)
        chunks.append(chunk)
    print("\n-----\n")
    return [config.prompt + vocabulary.decode(row) for row in np.concatenate(chunks, 1)]


def nats(model: Any, params: Any, split: Sequences) -> float:
    """Nats per character of a split, as the one sequence that it is."""
    return -float(arjax.log_prob(model, {"params": params}, split.sequence(0)[None])[0]) / len(split.x)


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and writes. Returns nats per character by model and split."""
    small = {"features": 8, "window": 8, "batch_size": 4, "steps": 4, "eval_every": 2, "length": 24}
    config = common.prepared(config, **small)
    loaded = [data.load_text(config.data, split, data_dir=config.data_dir) for split in data.SPLITS]
    train, valid, test = (split.head(400) if config.smoke else split for split, _ in loaded)
    vocabulary = loaded[0][1]
    vocabulary.encode(config.prompt)  # raises now rather than after training
    directory = config.directory / Path(config.data).stem
    model = RNN(
        Categorical(train.levels),
        features=config.features,
        num_layers=config.num_layers,
        cell=CELLS[config.cell],
        dropout=config.dropout,
    )

    def on_eval(state: training.TrainState, line: dict[str, Any]) -> None:
        write(model, state.ema_params, vocabulary, config, min(config.length, 200))

    streams, held_out = (Windows(split, config.window, carry=True) for split in (train, valid))
    variables, history = common.fit(model, config, streams, held_out, directory, on_eval=on_eval)
    common.keep_vocabulary(directory, vocabulary)
    written = write(model, variables["params"], vocabulary, config, config.length)
    (directory / "samples.txt").write_text("\n\n-----\n\n".join(written) + "\n", encoding="utf-8")

    scores = {}
    for split in (valid, test):
        scores[f"unigram histogram, {split.split}"] = common.histogram_of_values(train, split)
        scores[f"{config.cell.upper()}, {split.split}"] = nats(model, variables["params"], split)
    print(f"{'per character':32}{'nats':>10}{'bits':>10}")
    for name, value in scores.items():
        print(f"{name:32}{value:10.4f}{value / math.log(2):10.4f}")
    read, seconds = history[-1]["step"] * config.batch_size * config.window, history[-1]["seconds"]
    print(f"\n{read} characters in {seconds:.0f} s of training and evaluation, {read / seconds:.0f} a second")
    by_character = [
        line
        | {
            "train_nats": line["train_nats"] / config.window,
            "valid_nats": line["valid_bits_per_dim"] * math.log(2),
        }
        for line in history
    ]
    baseline = "unigram histogram", scores["unigram histogram, valid"]
    plotting.curves(by_character, directory / "curves.png", baseline)
    print(f"checkpoints, metrics.jsonl, curves.png and samples.txt are in {directory}")
    return common.record(config, scores, train, valid, test, directory=directory)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
