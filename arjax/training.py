"""Training by maximum likelihood: a visible step, exact evaluation, a loop that may be killed at any time.

A run is a pure function of its settings: the batch of a step depends on (seed, step) only, and so do its
random streams. Stopped and resumed, it gives the same losses and parameters to the last bit; on another number
of devices (see `arjax.sharding`) the same to rounding.
"""

import contextlib
import json
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from arjax import checkpoints, sharding
from arjax.checks import check_batch
from arjax.data import Dataset, Windows, batches, epoch_batches
from arjax.decoding import kind
from arjax.layers.conditioning import num_classes
from arjax.modules import forward, hashable, init, log_probs, rematerialised

try:
    from tqdm import tqdm
except ImportError:  # it comes with the extra "experiments"
    tqdm = None

Batch = dict[str, Any]
"""`x`: integers `(b, *event)`; `cond`: what the model is conditioned on, absent where that is nothing; `scored`:
boolean `(b, *event)`, the dimensions whose likelihood counts, absent where all do. For truncated back-propagation
through time, `before`: `(b, 1)`, the value before `x`; `fresh`: whether the model's memory is to be empty."""


class TrainState(struct.PyTreeNode):
    """All that changes in training, and nothing but arrays: what a checkpoint holds.

    Attributes:
        step: number of updates made.
        params: the model's parameters.
        opt_state: the optimizer's state.
        ema_params: moving average of the parameters, for evaluation and sampling.
        key: from this and `step` come the random streams of a step.
        cache: what the model remembers of the batches before, in truncated back-propagation; else empty.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema_params: Any
    key: Key[Array, ""]
    cache: Any = struct.field(default_factory=dict)


def default_optimizer(
    learning_rate: float, steps: int, *, warmup: float = 0.05, clip: float = 1.0, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """AdamW on clipped gradients; the rate rises for `warmup * steps` steps, then falls as a cosine."""
    warmup_steps = int(warmup * steps)
    schedule = optax.warmup_cosine_decay_schedule(learning_rate / 10, learning_rate, warmup_steps, steps)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule, weight_decay=weight_decay))


UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def create_state(
    model: Any, optimizer: optax.GradientTransformation, seed: int, batch: Batch, *, mesh: Mesh | None = None
) -> TrainState:
    """The state before the first step. A model with data-dependent initialisation takes it from `batch`.

    On a mesh it is made where it stays, by one program (compiled without optimization, since it runs once): no
    device may be able to hold it whole. On one device it is not compiled, which takes long for the random numbers
    of a deep network's many parameters.

    Raises:
        ValueError: as `train_step`.
    """
    model = hashable(model)
    batch = check_batch(model, batch)
    if mesh is None:
        return _create(model, optimizer, seed, batch)
    create = partial(_create, model, optimizer, seed)
    batch = sharding.place(batch, mesh)
    shardings = _shardings(jax.eval_shape(create, batch), mesh)
    return jax.jit(create, out_shardings=shardings, compiler_options=UNOPTIMIZED)(batch)


def _create(model: Any, optimizer: optax.GradientTransformation, seed: int, batch: Batch) -> TrainState:
    init_key, key = jax.random.split(jax.random.key(seed))
    x, cond = jax.tree.map(jnp.asarray, (batch["x"], batch["cond"]))
    params = init(model, init_key, x.astype(kind(model.output.levels)), cond)["params"]
    step = jnp.zeros((), jnp.int32)
    cache = _empty_cache(model, params, batch) if "before" in batch else {}
    return TrainState(step, params, optimizer.init(params), jax.tree.map(jnp.copy, params), key, cache)


def _shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """How a state lies on a mesh; what the model remembers goes with its examples."""
    cache = jax.tree.map(lambda _: sharding.batch_sharding(mesh), state.cache)
    return sharding.state_shardings(state, mesh).replace(cache=cache)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    accumulate: int = 1,
    remat: bool = False,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of `state`, which is donated; compiled once per shape of a batch.

    The average's decay rises from 1/10 to `ema_decay`, so that the first parameters are soon forgotten.

    Args:
        state: the state before.
        batch: the examples; of several processes each gives its own, `arjax.sharding.own_rows`.
        model: a Linen module with an `output` distribution.
        optimizer: updates the parameters.
        ema_decay: decay of the parameters' average.
        accumulate: parts of the batch that are gone through one after the other, for less memory; the gradient is
            their mean. Every part is of examples of all devices.
        remat: whether the model's layers forget their inner activations until their gradient needs them, for less
            memory and one more forward pass (see `arjax.modules.rematerialised`).
        mesh: the devices, if more than one; see `arjax.sharding`.

    Returns:
        The new state, and from before the update `nats`, the mean negative log-likelihood of an example, and
        `grad_norm`.

    Raises:
        ValueError: the batch is not of integers or empty, its parts do not fit the model or each other, or values
            or labels are out of range; or the mesh or `accumulate` do not divide it, or `accumulate` or `remat`
            come with `before`. An array on a device is copied to the host for that. What cannot be read, traced or
            spread over several hosts, is not checked: out of range it makes `nats` NaN.
    """
    model = hashable(model)
    batch = check_batch(model, batch)
    if accumulate < 1 or len(batch["x"]) % (accumulate * (1 if mesh is None else len(mesh.local_devices))):
        devices = "" if mesh is None else f" on {mesh.size} devices"
        got = f"{accumulate} for {len(batch['x'])} examples"
        raise ValueError(f"accumulate: a divisor of the batch is wanted{devices}, got {got}")
    if "before" in batch and (accumulate > 1 or remat):
        raise ValueError("accumulate=1 and remat=False are wanted for truncated back-propagation, with `before`")
    if mesh is not None:
        batch = sharding.place(batch, mesh)
    settings: Any = {"ema_decay": ema_decay, "accumulate": accumulate, "remat": remat, "mesh": mesh}
    return _train_step(state, batch, model=model, optimizer=optimizer, **settings)


@partial(
    jax.jit,
    static_argnames=("model", "optimizer", "ema_decay", "accumulate", "remat", "mesh"),
    donate_argnames="state",
)
def _train_step(state, batch, *, model, optimizer, ema_decay, accumulate=1, remat=False, mesh=None):
    key = jax.random.fold_in(state.key, state.step)

    def loss(params: Any, batch: Batch, cache: Any, key: Any) -> tuple[Float[Array, ""], Any]:
        dropout, masks = jax.random.split(key)
        rngs = {"dropout": dropout, "masks": masks}
        with rematerialised() if remat else contextlib.nullcontext():
            nats, *updated = _nats(model, params, batch, cache, train=True, rngs=rngs)
        return nats.mean(), updated

    gradient = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        (nats, (cache, averages)), grads = gradient(state.params, batch, state.cache, key)
    else:
        parts = jax.tree.map(partial(_dealt, accumulate), batch)

        def mean(total: Any, index: Any) -> tuple[Any, None]:
            part = jax.tree.map(lambda leaf: leaf[index], parts)
            found = gradient(state.params, part, state.cache, jax.random.fold_in(key, index))
            return jax.tree.map(lambda total, leaf: total + leaf / accumulate, total, found), None

        like = jax.eval_shape(gradient, state.params, jax.tree.map(lambda leaf: leaf[0], parts), state.cache, key)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        ((nats, (cache, averages)), grads), _ = lax.scan(mean, nothing, jnp.arange(accumulate))
    with jax.numpy_dtype_promotion("standard"):  # optax needs it, also where the caller is stricter
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = _replaced(optax.apply_updates(state.params, updates), averages)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
    ema_params = jax.tree.map(lambda ema, new: decay * ema + (1 - decay) * new, state.ema_params, params)
    state = TrainState(state.step + 1, params, opt_state, ema_params, state.key, cache)
    if mesh is not None:
        state = lax.with_sharding_constraint(state, _shardings(state, mesh))
    return state, {"nats": nats, "grad_norm": optax.tree.norm(grads)}


def _dealt(hands: int, leaf: Array) -> Array:
    """The examples dealt out to so many hands in turn, so that each device has its own in each of them."""
    return leaf.reshape(-1, hands, *leaf.shape[1:]).swapaxes(0, 1)


def eval_step(
    model: Any, params: Any, batch: Batch, cache: Any, *, mesh: Mesh | None = None
) -> tuple[Float[Array, "b"], Int[Array, "b"], Any]:
    """Of each example, the negative log-likelihood in nats and the dimensions it is of; and the cache.

    On a mesh `batch` is as in `train_step`, and all processes get the results of all.

    Raises:
        ValueError: as `train_step`.
    """
    model = hashable(model)
    batch = check_batch(model, batch)
    if mesh is not None:
        batch = sharding.place(batch, mesh)
    return _eval_step(model, params, batch, cache, mesh=mesh)


@partial(jax.jit, static_argnames=("model", "mesh"))
def _eval_step(model, params, batch, cache, *, mesh=None):
    nats, cache, _ = _nats(model, params, batch, cache)
    scored = batch.get("scored", jnp.ones(batch["x"].shape, bool))
    found = nats, scored.reshape(len(scored), -1).sum(1, dtype=jnp.int32)
    if mesh is not None:
        found = lax.with_sharding_constraint(found, sharding.replicated(mesh))
        cache = lax.with_sharding_constraint(cache, sharding.batch_sharding(mesh)) if cache else cache
    return *found, cache


def evaluate(model: Any, params: Any, batches: Iterable[Batch], *, mesh: Mesh | None = None) -> dict[str, float]:
    """The mean over all examples of `nats`, and `bits_per_dim` over all scored dimensions.

    Whatever the sizes of the batches; with `before`, one batch goes on where the last one ended. On a mesh every
    process gives the same, whole batches, and a batch that its devices do not divide is filled up meanwhile.

    Raises:
        ValueError: there is no batch, or as `train_step`.
    """
    model = hashable(model)
    nats: list[Any] = []
    dims: list[Any] = []
    cache = None
    for batch in batches:
        batch = check_batch(model, batch)
        size = len(batch["x"])
        own = batch if mesh is None else _own(batch, mesh)
        if cache is None:
            cache = _empty_cache(model, params, own, mesh) if "before" in batch else {}
        *found, cache = eval_step(model, params, own, cache, mesh=mesh)
        for array, values in zip(found, (nats, dims), strict=True):
            values.append(np.asarray(array, np.float64)[:size])
    if not nats:
        raise ValueError("nothing to evaluate: got no batches, wanted at least one")
    total, count = np.concatenate(nats), np.concatenate(dims)
    return {"nats": float(total.mean()), "bits_per_dim": float(total.sum() / count.sum()) / math.log(2)}


def _own(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of a batch that is filled up with its first examples until the devices divide it."""
    size = len(batch["x"])
    filled = -(-size // mesh.size) * mesh.size
    rows = sharding.own_rows(mesh, filled) % size
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) else leaf, dict(batch))


def with_cond(batches: Iterable[dict[str, Any]], conditional: bool) -> Iterator[Batch]:
    """Batches of `arjax.data` as a model takes them: `cond` is the label, the features or both, or absent."""
    for batch in batches:
        batch = dict(batch)
        given = [batch.pop(name) for name in ("label", "features") if name in batch]
        if conditional:
            batch["cond"] = given[0] if len(given) == 1 else (*_parts(given[0]), *given[1:])
        yield batch


def _parts(label: Any) -> tuple[Any, ...]:
    return label if isinstance(label, tuple) else (label,)


def fit(
    model: Any,
    optimizer: optax.GradientTransformation,
    train: Dataset | Windows,
    valid: Dataset | Windows,
    *,
    directory: str | os.PathLike[str],
    steps: int,
    batch_size: int,
    eval_every: int,
    seed: int = 0,
    ema_decay: float = 0.999,
    patience: int | None = None,
    conditional: bool = False,
    accumulate: int = 1,
    remat: bool = False,
    mesh: Mesh | None = None,
    progress: bool = True,
    on_eval: Callable[[TrainState, dict[str, Any]], None] | None = None,
) -> tuple[TrainState, checkpoints.History]:
    """Trains, from the latest checkpoint in `directory` if there is one; a finished run returns at once.

    Every `eval_every` steps, and after the last, the averaged parameters are evaluated on `valid`, the latest
    and the best state are saved, and `<directory>/metrics.jsonl` gets a line: `step`, `train_nats` (the mean
    since the line before), `valid_nats`, `valid_bits_per_dim` and `seconds` (wall time, all resumptions).

    Args:
        model: a Linen module with an `output` distribution.
        optimizer: updates the parameters, and clips the gradient if need be; see `default_optimizer`.
        train: the examples to learn from.
        valid: the examples that choose the best state.
        directory: the run's folder, made if need be.
        steps: number of updates.
        batch_size: examples in an update, and in an evaluation's batch.
        eval_every: updates between evaluations.
        seed: decides the first parameters, the order of the data and all random streams.
        ema_decay: decay of the parameters' average.
        patience: evaluations without a new best after which to stop; None for no stopping.
        conditional: whether labels and features condition the model.
        accumulate: parts that a batch is gone through in; see `train_step`.
        remat: whether layers forget their inner activations; see `train_step`.
        mesh: the devices, of one process or of several that run the same (see `arjax.sharding.join`); None for
            that of `arjax.sharding.use_mesh`, and for one device without.
        progress: whether to print a line per evaluation, and on a terminal a bar if tqdm is installed.
        on_eval: called after every evaluation, once the state is saved, with the state and the new line of
            `metrics.jsonl`; it may print. The state's arrays are gone after the next step. Of several processes
            each calls it, with a state of its own.

    Returns:
        The best state (use its `ema_params`), and the lines of `metrics.jsonl` as dictionaries. The state lies on
        the mesh; but each of several processes has it whole on its first device.

    Raises:
        OSError: `directory` is not writable.
        ValueError: a setting or data set does not fit, the devices do not divide the batch, several processes do
            not share `directory`, or the checkpoint is damaged or of another model.
        SystemExit: with status 143, after SIGTERM.
        FloatingPointError: the loss or the gradient is not finite; the last good checkpoint stays.
    """
    model = hashable(model)
    if min(steps, eval_every) < 1:
        raise ValueError(f"got steps={steps} and eval_every={eval_every}, wanted 1 or more")
    mesh = sharding.current_mesh() if mesh is None else mesh
    if mesh is not None:
        sharding.check_divides(mesh, batch_size)
    elif jax.process_count() > 1:
        raise ValueError(f"mesh: one of the devices of all {jax.process_count()} processes is wanted, got None")
    directory = _writable(directory)
    sharding.check_shared(directory)
    leads = jax.process_index() == 0
    progress = progress and leads
    for dataset in (train, valid):
        _check_dataset(dataset, train, model, conditional)
    rows = slice(None) if mesh is None else sharding.own_rows(mesh, batch_size)
    first = next(with_cond(batches(train, batch_size, seed=seed), conditional))
    like = jax.eval_shape(partial(create_state, model, optimizer, seed), first)
    laid_out = like if mesh is None else _laid_out(like, mesh)
    resume = bool(checkpoints.steps(directory))
    if resume:
        state, history = checkpoints.restore(directory, laid_out, model)
        pending = checkpoints.load_pending(directory)
    else:
        own = first if mesh is None else _own(first, mesh)
        state, history, pending = create_state(model, optimizer, seed, own, mesh=mesh), [], {}
    if leads:
        _write_lines(directory / "metrics.jsonl", history)

    about = {"name": train.name, "event": train.event, "levels": train.levels}
    step = int(state.step)
    stream = with_cond(batches(train, batch_size, seed=seed, step=step, rows=rows), conditional)
    if resume and progress:
        done = step >= steps or _exhausted(history, patience)
        print(f"{directory}: {'trained already, at' if done else 'going on from'} step {step} of {steps}")
    last = pending or (history[-1] if history else {"seconds": 0.0})
    start = time.perf_counter() - last["seconds"]
    losses: list[float] = pending.get("losses", [])
    unread: list[tuple[int, Any]] = []
    settings: Any = {"ema_decay": ema_decay, "accumulate": accumulate, "remat": remat, "mesh": mesh}
    with _bar(steps, step, progress) as bar, _sigterm() as stopping:
        while step < steps and not _exhausted(history, patience):
            state, metrics = train_step(state, next(stream), model=model, optimizer=optimizer, **settings)
            step += 1
            unread.append((step, metrics))
            due = step % eval_every == 0 or step == steps
            stop = stopping(step)
            while len(unread) > (0 if due or stop else 1):  # metrics are read once the next step is under way
                losses.append(_finite(*unread.pop(0)))
            if bar:
                bar.set_postfix_str(f"{losses[-1]:.2f} nats" if losses else "", refresh=False)
                bar.update()
            if due:
                held_out = with_cond(epoch_batches(valid, batch_size), conditional)
                scores = evaluate(model, state.ema_params, held_out, mesh=mesh)
                line = {
                    "step": step,
                    "train_nats": sum(losses) / len(losses),
                    "valid_nats": _finite(step, scores),
                    "valid_bits_per_dim": scores["bits_per_dim"],
                    "seconds": round(time.perf_counter() - start, 2),
                }
                losses.clear()
                history.append(line)
                checkpoints.save(directory, state, history, model, about)
                if leads:
                    _write_lines(directory / "metrics.jsonl", history)
                if progress:
                    (bar.write if bar else print)("  ".join(f"{k} {v:.6g}" for k, v in line.items()))
                if on_eval is not None:
                    with bar.external_write_mode() if bar else contextlib.nullcontext():
                        on_eval(sharding.whole(state, mesh) if mesh and _spread(mesh) else state, line)
            elif stop:
                pending = {"losses": losses, "seconds": round(time.perf_counter() - start, 2)}
                checkpoints.save(directory, state, history, model, about, step=step, pending=pending)
            if stop:
                if progress:
                    print(f"{directory}: stopped by SIGTERM, saved at step {step} of {steps}", flush=True)
                raise SystemExit(128 + signal.SIGTERM)
    return checkpoints.restore(directory, like if _spread(mesh) else laid_out, model, best=True)[0], history


def _spread(mesh: Mesh | None) -> bool:
    """Whether the mesh has devices of other processes."""
    return mesh is not None and mesh.is_multi_process


def _laid_out(like: TrainState, mesh: Mesh) -> TrainState:
    """The shapes of a state with their shardings on `mesh`."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        like,
        _shardings(like, mesh),
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
    """`stopping(step)`: whether SIGTERM has come, to this process or any other, agreed on between all."""
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    came = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield lambda step: came.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)


def _nats(
    model: Any, params: Any, batch: Batch, cache: Any, train: bool = False, **options: Any
) -> tuple[Float[Array, "b"], Any, Any]:
    """Negative log-likelihood of each example, the model's memory after the batch, and in training the averages.

    These are the new values of parameters that a layer computes itself, the collection "averages".
    """
    x, variables = batch["x"].astype(kind(model.output.levels)), {"params": params}
    if "before" in batch:
        cache = jax.tree.map(lambda leaf: jnp.where(batch["fresh"], 0, leaf), cache)
        variables |= cache | {"before": {"x": batch["before"].astype(jnp.int32)}}
    kept = ["cache"] * ("before" in batch) + ["averages"] * train
    found, updated = log_probs(model, variables, x, batch.get("cond"), train=train, mutable=kept, **options)
    averages = updated.pop("averages", {})
    if "before" in batch:
        cache = updated
    if "scored" in batch:
        found = jnp.where(batch["scored"], found, 0)
    return -found.reshape(len(x), -1).sum(1), cache, averages


def _replaced(params: Any, averages: Any) -> Any:
    """The parameters, with those of `averages`, a part of the same tree, in their places."""
    if not isinstance(averages, dict):
        return averages
    return {**params, **{name: _replaced(params[name], own) for name, own in averages.items()}}


def _empty_cache(model: Any, params: Any, batch: Batch, mesh: Mesh | None = None) -> Any:
    """Zeros; on a mesh `batch` has this process's rows."""
    given = {"params": params}, batch["before"], batch.get("cond")
    _, cache = jax.eval_shape(partial(forward, model, mutable=["cache"]), *given)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), cache)
    return jax.tree.map(jnp.asarray, zeros) if mesh is None else sharding.place(zeros, mesh)


def _finite(step: int, metrics: dict[str, Any]) -> float:
    """The loss in the metrics of a step; raises unless all of them are finite."""
    values = {name: float(value) for name, value in metrics.items()}
    if not all(map(math.isfinite, values.values())):
        raise FloatingPointError(
            f"step {step}: got {values}, wanted finite values: lower the learning rate or clip the gradient "
            "(the last good checkpoint is kept)"
        )
    return values["nats"]


def _exhausted(history: checkpoints.History, patience: int | None) -> bool:
    scores = [line["valid_nats"] for line in history]
    return bool(scores) and patience is not None and len(scores) > scores.index(min(scores)) + patience


def _check_dataset(dataset: Dataset | Windows, train: Dataset | Windows, model: Any, conditional: bool) -> None:
    name = f"data set {dataset.name} ({dataset.split})"
    if conditional and dataset.labels is None and getattr(dataset, "features", None) is None:
        raise ValueError(f"{name} has no labels, wanted them for conditional=True")
    classes, own = num_classes(model), dataset.num_classes
    if conditional and classes is not None and isinstance(own, int) and own > classes:
        raise ValueError(f"{name} has {own} classes, wanted at most the model's {classes}")
    if dataset.event != train.event:
        raise ValueError(f"{name} has events of shape {dataset.event}, wanted {train.event} as in training")
    levels = model.output.levels
    if (dataset.levels is None) != (levels is None):
        held, wanted = ("real numbers" if own is None else "integers" for own in (dataset.levels, levels))
        raise ValueError(f"{name} is of {held}, wanted {wanted} for the model's {model.output}")
    if dataset.levels is not None and dataset.levels > levels:
        raise ValueError(f"{name} has {dataset.levels} levels, wanted at most the model's {levels}")


def _writable(directory: str | os.PathLike[str]) -> Path:
    path = Path(directory).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OSError(f"output folder {path} is not writable ({error.strerror}), wanted one that is") from error


def _write_lines(path: Path, history: checkpoints.History) -> None:
    """Writes `path` whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in history))
    temporary.replace(path)


def _bar(steps: int, step: int, progress: bool) -> Any:
    if tqdm is None or not progress:
        return contextlib.nullcontext()
    return tqdm(total=steps, initial=step, unit="step", disable=None)
