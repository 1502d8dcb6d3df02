"""Trained models that come with the package: `load` gives one in a moment, `about` says what it is.

    model, variables = arjax.pretrained.load("digits")
    images = arjax.sample(model, variables, jax.random.key(0), (10, 8, 8, 1), np.arange(10))

`python -m arjax.pretrained` lists them and draws samples of each. Parameters are kept in float16 and computed with
in float32; the scores are those of what is kept. A file holds arrays, a description of the network (see
`arjax.descriptions`) and a card: nothing is unpickled and no code of it runs. `python -m experiments.export` makes
one of a training run.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from arjax.data.files import read_npz
from arjax.descriptions import build, describe

FOLDER = Path(__file__).parent
"""Where the files `NAME.npz` are."""


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a trained model.

    Attributes:
        command: what it was trained with.
        commit: the code that scored the run at its end.
        data: name, split, number of examples, shape and digest of what it was trained, chosen and tested on.
        event: shape of an example; of a model of texts, which have any length, that of a window of training.
        symbols: the characters of a model of texts, in the order of their integers, for `arjax.data.Vocabulary`;
            else None.
        unit: what `nats` are counted for, "example" or "character".
        nats: the score: mean negative log-likelihood of the test set, in nats a unit.
        part_nats: the same over a part of the test set that takes seconds: examples at equal distances, or the
            characters at its beginning.
        part_size: how many these are.
        parameters: how many numbers were learned.
        digest: the SHA-256 of all this, the description and the arrays, in hexadecimal.
    """

    command: str
    commit: str
    data: Sequence[Mapping[str, Any]]
    event: Sequence[int]
    symbols: str | None
    unit: str
    nats: float
    part_nats: float
    part_size: int
    parameters: int
    digest: str


def names() -> list[str]:
    """The names of the models there are."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def about(name: str) -> Card:
    """The card of a model; raises as `load`."""
    _, _, card = _read(name)
    return card


def load(name: str) -> tuple[Any, dict[str, Any]]:
    """A trained model and its variables, `{"params": ...}` in float32.

    Raises:
        ValueError: there is none of that name, or its file is damaged.
    """
    arrays, description, _ = _read(name)
    variables = {path: jnp.asarray(array.astype(np.float32)) for path, array in arrays.items()}
    return build(description), traverse_util.unflatten_dict(variables, sep="/")


def round_off(variables: Any) -> Any:
    """The variables as a file keeps them, in float16."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), variables)


def save(name: str, model: Any, variables: Any, **facts: Any) -> Path:
    """Writes the file of a model, which may replace one of that name. Returns its path.

    Args:
        name: what it will be called.
        model: a Linen module, of classes and functions of `arjax`, `jax` and `flax`.
        variables: what `round_off` returned.
        facts: the fields of `Card`, but for `parameters` and `digest`.

    Raises:
        ValueError: the model cannot be told by names.
    """
    description = describe(model)
    build(description)  # raises now rather than when it is loaded
    arrays = traverse_util.flatten_dict(variables, sep="/")
    card = Card(**facts, parameters=sum(array.size for array in arrays.values()), digest="")
    record = {"model": description, **dataclasses.asdict(card)}
    record["digest"] = _digest(arrays, record)
    path = FOLDER / f"{name}.npz"
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
    return unfinished.replace(path)


def _read(name: str) -> tuple[dict[str, np.ndarray], Any, Card]:
    """The arrays of a model by their paths, its description and its card."""
    if name not in names():
        raise ValueError(f"no pretrained model {name!r}, wanted {' or '.join(names())}")
    path = FOLDER / f"{name}.npz"
    try:
        arrays = read_npz(path)
        record = json.loads(arrays.pop("record").tobytes())
        if record["digest"] != _digest(arrays, record):
            raise ValueError("the file does not fit its digest")
        return arrays, record.pop("model"), Card(**record)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, wanted it as installed: install arjax anew") from error


def _digest(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps({**record, "digest": ""}, sort_keys=True).encode())
    for path, array in sorted(arrays.items()):
        digest.update(f"{path} {array.dtype} {array.shape};".encode() + array.tobytes())
    return digest.hexdigest()
