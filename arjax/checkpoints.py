"""Checkpoints of a training run: the latest and the best are kept, each written whole or not at all.

`<directory>/checkpoints/<step>` holds every array of a state by its path, and a record: a description of the model
they belong to (see `arjax.descriptions`), what it was trained on, the evaluations so far, and a digest of all
files, since orbax gives back some damaged arrays without a word. A finished checkpoint is renamed into place, and
older ones are deleted after that: a process killed on the way loses nothing. Of several processes each writes the
arrays that its devices hold, into a folder that all share; what was written from one mesh is read into any other.
"""

import hashlib
import json
import os
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils

from arjax.checks import readable
from arjax.descriptions import Description, build, describe

History = list[dict[str, Any]]
"""A dictionary of JSON values per evaluation, `step` and `valid_nats` among them; the best has the lowest."""


def steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps that have a checkpoint in the run's folder `directory`, ascending."""
    return sorted(int(path.name) for path in _folder(directory).glob("*") if path.name.isdigit())


def save(
    directory: str | os.PathLike[str],
    state: Any,
    history: History,
    model: Any,
    data: dict[str, Any] | None = None,
    *,
    step: int | None = None,
    pending: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint of step `history[-1]["step"]`, then deletes all but this and the best.

    Of several processes all call it, with the same arguments.

    Args:
        directory: the run's folder.
        state: a pytree of arrays.
        history: the evaluations so far.
        model: the Linen module that the state belongs to.
        data: what it is trained on, as JSON values; see `load_data`.
        step: the step of the state, where it is not that of the last evaluation.
        pending: JSON values that belong to the evaluation to come; see `load_pending`.
    """
    path = _folder(directory) / str(history[-1]["step"] if step is None else step)
    unfinished = path.with_name(f"{path.name}.unfinished")
    if jax.process_index() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
    arrays = {name: np.asarray(leaf) if readable(leaf) else leaf for name, leaf in _by_name(state).items()}
    _wait_for_all()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
        orbax.save(unfinished / "arrays", args=ocp.args.StandardSave(arrays), force=True)
    _wait_for_all()
    if jax.process_index() == 0:
        record = {"model": describe(model), "data": data or {}, "history": history, "pending": pending or {}}
        _finish(unfinished, path, record)
    _wait_for_all()


def _finish(unfinished: Path, path: Path, record: dict[str, Any]) -> None:
    """Renames a checkpoint into place, with its record, and deletes what is neither it nor the best."""
    record["digest"] = _digest(unfinished / "arrays", record)
    (unfinished / "record.json").write_text(json.dumps(record))
    unfinished.rename(path)
    kept = path.name, _best(record["history"])
    for other in path.parent.iterdir():
        if other.name.split(".")[0].isdigit() and other.name not in kept:
            shutil.rmtree(other)


def load_pending(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What the latest checkpoint was saved with as `pending`: empty unless it was saved between evaluations."""
    return _read_record(_latest_path(directory)).get("pending", {})


def restore(
    directory: str | os.PathLike[str], state: Any, model: Any, *, best: bool = False
) -> tuple[Any, History]:
    """The state and the history of the latest or the best checkpoint.

    Args:
        directory: the run's folder.
        state: what the state looks like: a pytree of arrays or of `jax.ShapeDtypeStruct`. A leaf of the latter
            with a sharding is laid out like that, on whatever devices it was; all else is on the default device.
        model: the Linen module that the checkpoint must belong to.
        best: the checkpoint with the lowest validation loss instead of the latest.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or of another model, optimizer or event size.
    """
    arrays, history = _read_of(model, directory, best)
    stored = {k: f"{v.dtype}{list(v.shape)}" for k, v in arrays.items()}
    wanted = {k: f"{v.dtype}{list(v.shape)}" for k, v in jax.eval_shape(_by_name, state).items()}
    for k in {**stored, **wanted}:
        if stored.get(k) != wanted.get(k):
            raise ValueError(
                f"checkpoint in {directory} is of another optimizer or event size: "
                f"{k} is {stored.get(k, 'absent')}, wanted {wanted.get(k, 'absent')}"
            )

    def leaf(path: Any, like: Any) -> Any:
        array = _placed(arrays[_name(path)], like)
        return jax.random.wrap_key_data(array) if _is_key(like) else array

    return jax.tree_util.tree_map_with_path(leaf, state), history


def load(directory: str | os.PathLike[str], *, modules: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """The network of a run's folder, made of what its checkpoint records, and its variables, `{"params": ...}`.

    These are the `ema_params` of the best checkpoint. Nothing is unpickled and no code of the folder runs: the
    record names classes and functions of `arjax`, `jax` and `flax`, or of `modules`.

    Args:
        directory: the run's folder.
        modules: names of modules or packages of your own that the network's classes are in, such as
            `("experiments",)`. They are imported.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, of an arjax that did not record the network yet, or its network is of other
            modules, or has a function without a name, such as a lambda.
    """
    path, arrays, record = _read(directory, best=True)
    try:
        model = build(record["model"], modules)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    return model, {"params": _ema_params(arrays)}


def load_data(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run was trained on: of `arjax.training.fit` the `name`, `event` and `levels` of its training set.

    Raises as `load`.
    """
    return _read_record(_latest_path(directory))["data"]


def load_params(directory: str | os.PathLike[str], model: Any) -> dict[str, Any]:
    """The `ema_params` of the best checkpoint, for `model.apply({"params": ...}, x)`; raises as `restore`."""
    arrays, _ = _read_of(model, directory, best=True)
    return _ema_params(arrays)


def _ema_params(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    names = [name for name in arrays if name.startswith("ema_params/")]
    return traverse_util.unflatten_dict({tuple(n.split("/")[1:]): jnp.array(arrays[n]) for n in names})


def _read_of(model: Any, directory: str | os.PathLike[str], best: bool) -> tuple[dict[str, np.ndarray], History]:
    path, arrays, record = _read(directory, best)
    held, given = _by_field(record["model"]), _by_field(describe(model))
    different = [name for name in {**held, **given} if held.get(name) != given.get(name)]
    if different:
        holds, wanted = (
            ", ".join(f"{name}={_text(fields.get(name))}" for name in dict.fromkeys(["model", *different]))
            for fields in (held, given)
        )
        raise ValueError(f"checkpoint {path} is of another model: it holds {holds}; wanted {wanted}")
    return arrays, record["history"]


def _read(directory: str | os.PathLike[str], best: bool) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]]:
    """The latest or the best checkpoint: its folder, its arrays and its record."""
    path = _latest_path(directory)
    arrays, record = _read_step(path)
    name = _best(record["history"])
    if best and name not in (None, path.name):
        path = path.with_name(str(name))
        arrays, record = _read_step(path)
    return path, arrays, record


def _latest_path(directory: str | os.PathLike[str]) -> Path:
    if not steps(directory):
        raise FileNotFoundError(f"no checkpoint: wanted {_folder(directory)}/<step>, as written by fit")
    return _folder(directory) / str(steps(directory)[-1])


def _read_step(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    record = _read_record(path)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            names = orbax.metadata(path / "arrays").item_metadata.tree
            as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            arrays = orbax.restore(path / "arrays", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
            return arrays, record
    except Exception as error:
        raise ValueError(_damaged(path)) from error


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint whose files are as they were saved."""
    try:
        record = json.loads((path / "record.json").read_text())
        if record.pop("digest") != _digest(path / "arrays", record):
            raise ValueError("the files do not fit their digest")
    except Exception as error:
        raise ValueError(_damaged(path)) from error
    if "class" not in record["model"]:
        raise ValueError(
            f"checkpoint {path} is of an arjax that did not record its network, wanted one with a description: "
            "train it anew"
        )
    return record


def _damaged(path: Path) -> str:
    return f"checkpoint {path} is damaged, wanted it as saved: delete it to go on with an older one"


def _by_field(description: Description) -> dict[str, Any]:
    """The class and the fields of a model."""
    return {"model": description["class"], **description["fields"]}


def _text(field: Description) -> str:
    return textwrap.shorten(field if isinstance(field, str) else json.dumps(field), 80)


def _folder(directory: str | os.PathLike[str]) -> Path:
    return Path(directory).absolute() / "checkpoints"


def _best(history: History) -> str | None:
    return str(min(history, key=lambda line: line["valid_nats"])["step"]) if history else None


def _placed(array: np.ndarray, like: Any) -> jax.Array:
    sharding = like.sharding if isinstance(like, jax.ShapeDtypeStruct) else None
    if sharding is None:
        return jnp.array(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _wait_for_all() -> None:
    """Returns once all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoint")


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves by their paths, such as `params/Dense_0/kernel`; PRNG keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(folder: Path, record: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
