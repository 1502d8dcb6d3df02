"""Training by maximum likelihood: a visible step, exact evaluation, a loop that may be killed at any time.

A run is a pure function of its settings: the batch of a step depends on (seed, step) only, and so do its
random streams. Stopped and resumed, it gives the same losses and parameters to the last bit.
"""

import contextlib
import json
import math
import os
import tempfile
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
from jaxtyping import Array, Float, Int, Key

from arjax import checkpoints
from arjax.checks import check_batch
from arjax.data import Dataset, Windows, batches, epoch_batches
from arjax.drawing import kind
from arjax.layers.conditioning import num_classes
from arjax.modules import forward, hashable, init, log_probs

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


def create_state(model: Any, optimizer: optax.GradientTransformation, seed: int, batch: Batch) -> TrainState:
    """The state before the first step. A model with data-dependent initialisation takes it from `batch`.

    Not jitted: to compile the random numbers of a deep network's many parameters takes minutes.

    Raises:
        ValueError: as `train_step`.
    """
    model = hashable(model)
    batch = check_batch(model, batch)
    init_key, key = jax.random.split(jax.random.key(seed))
    x, cond = jax.tree.map(jnp.asarray, (batch["x"], batch["cond"]))
    params = init(model, init_key, x.astype(kind(model.output.levels)), cond)["params"]
    step = jnp.zeros((), jnp.int32)
    cache = _empty_cache(model, params, batch) if "before" in batch else {}
    return TrainState(step, params, optimizer.init(params), jax.tree.map(jnp.copy, params), key, cache)


def train_step(
    state: TrainState, batch: Batch, *, model: Any, optimizer: optax.GradientTransformation, ema_decay: float
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of `state`, which is donated; compiled once per shape of a batch.

    The average's decay rises from 1/10 to `ema_decay`, so that the first parameters are soon forgotten.

    Returns:
        The new state, and from before the update `nats`, the mean negative log-likelihood of an example, and
        `grad_norm`.

    Raises:
        ValueError: the batch is not of integers or empty, its parts do not fit the model or each other, or values
            or labels are out of range. An array on a device is copied to the host for that. What cannot be read,
            traced or spread over several hosts, is not checked: out of range it makes `nats` NaN.
    """
    model = hashable(model)
    batch = check_batch(model, batch)
    return _train_step(state, batch, model=model, optimizer=optimizer, ema_decay=ema_decay)


@partial(jax.jit, static_argnames=("model", "optimizer", "ema_decay"), donate_argnames="state")
def _train_step(state, batch, *, model, optimizer, ema_decay):
    dropout, masks = jax.random.split(jax.random.fold_in(state.key, state.step))

    def loss(params: Any) -> tuple[Float[Array, ""], Any]:
        rngs = {"dropout": dropout, "masks": masks}
        nats, *updated = _nats(model, params, batch, state.cache, train=True, rngs=rngs)
        return nats.mean(), updated

    (nats, (cache, averages)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it, also where the caller is stricter
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = _replaced(optax.apply_updates(state.params, updates), averages)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
    ema_params = jax.tree.map(lambda ema, new: decay * ema + (1 - decay) * new, state.ema_params, params)
    state = TrainState(state.step + 1, params, opt_state, ema_params, state.key, cache)
    return state, {"nats": nats, "grad_norm": optax.tree.norm(grads)}


def eval_step(model: Any, params: Any, batch: Batch, cache: Any) -> tuple[Float[Array, "b"], Int[Array, "b"], Any]:
    """Of each example, the negative log-likelihood in nats and the dimensions it is of; and the cache.

    Raises:
        ValueError: as `train_step`.
    """
    model = hashable(model)
    return _eval_step(model, params, check_batch(model, batch), cache)


@partial(jax.jit, static_argnames="model")
def _eval_step(model, params, batch, cache):
    nats, cache, _ = _nats(model, params, batch, cache)
    scored = batch.get("scored", jnp.ones(batch["x"].shape, bool))
    return nats, scored.reshape(len(scored), -1).sum(1, dtype=jnp.int32), cache


def evaluate(model: Any, params: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """The mean over all examples of `nats`, and `bits_per_dim` over all scored dimensions.

    Whatever the sizes of the batches; with `before`, one batch goes on where the last one ended.

    Raises:
        ValueError: there is no batch, or as `train_step`.
    """
    model = hashable(model)
    nats: list[Any] = []
    dims: list[Any] = []
    cache = None
    for batch in batches:
        if cache is None:
            cache = _empty_cache(model, params, batch) if "before" in batch else {}
        *found, cache = eval_step(model, params, batch, cache)
        for array, values in zip(found, (nats, dims), strict=True):
            values.append(np.asarray(array, np.float64))
    if not nats:
        raise ValueError("nothing to evaluate: got no batches, wanted at least one")
    total, count = np.concatenate(nats), np.concatenate(dims)
    return {"nats": float(total.mean()), "bits_per_dim": float(total.sum() / count.sum()) / math.log(2)}


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
        progress: whether to print a line per evaluation, and on a terminal a bar if tqdm is installed.
        on_eval: called after every evaluation, once the state is saved, with the state and the new line of
            `metrics.jsonl`; it may print. The state's arrays are gone after the next step.

    Returns:
        The best state (use its `ema_params`), and the lines of `metrics.jsonl` as dictionaries.

    Raises:
        OSError: `directory` is not writable.
        ValueError: a setting or data set does not fit, or the checkpoint is damaged or of another model.
        FloatingPointError: the loss or the gradient is not finite; the last good checkpoint stays.
    """
    model = hashable(model)
    if min(steps, eval_every) < 1:
        raise ValueError(f"got steps={steps} and eval_every={eval_every}, wanted 1 or more")
    directory = _writable(directory)
    for dataset in (train, valid):
        _check_dataset(dataset, train, model, conditional)
    first = next(with_cond(batches(train, batch_size, seed=seed), conditional))
    create = partial(create_state, model, optimizer, seed, first)
    like = jax.eval_shape(create)
    resume = bool(checkpoints.steps(directory))
    state, history = checkpoints.restore(directory, like, model) if resume else (create(), [])
    _write_lines(directory / "metrics.jsonl", history)

    about = {"name": train.name, "event": train.event, "levels": train.levels}
    step = int(state.step)
    stream = with_cond(batches(train, batch_size, seed=seed, step=step), conditional)
    if resume and progress:
        done = step >= steps or _exhausted(history, patience)
        print(f"{directory}: {'trained already, at' if done else 'going on from'} step {step} of {steps}")
    start = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    losses: list[float] = []
    unread: list[tuple[int, Any]] = []
    with _bar(steps, step, progress) as bar:
        while step < steps and not _exhausted(history, patience):
            state, metrics = train_step(state, next(stream), model=model, optimizer=optimizer, ema_decay=ema_decay)
            step += 1
            unread.append((step, metrics))
            due = step % eval_every == 0 or step == steps
            while len(unread) > (0 if due else 1):  # metrics are read once the next step is under way
                losses.append(_finite(*unread.pop(0)))
            if bar:
                bar.set_postfix_str(f"{losses[-1]:.2f} nats" if losses else "", refresh=False)
                bar.update()
            if due:
                held_out = with_cond(epoch_batches(valid, batch_size), conditional)
                scores = evaluate(model, state.ema_params, held_out)
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
                _write_lines(directory / "metrics.jsonl", history)
                if progress:
                    (bar.write if bar else print)("  ".join(f"{k} {v:.6g}" for k, v in line.items()))
                if on_eval is not None:
                    with bar.external_write_mode() if bar else contextlib.nullcontext():
                        on_eval(state, line)
    return checkpoints.restore(directory, like, model, best=True)[0], history


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


def _empty_cache(model: Any, params: Any, batch: Batch) -> Any:
    given = {"params": params}, batch["before"], batch.get("cond")
    _, cache = jax.eval_shape(partial(forward, model, mutable=["cache"]), *given)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)


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
