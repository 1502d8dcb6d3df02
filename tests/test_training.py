"""Training: the step, exact evaluation, and runs that are stopped, killed and resumed."""

import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_variables

import arjax
from arjax import checkpoints, distributions, training
from arjax.data import Dataset, Sequences, Windows, batches, epoch_batches, load
from arjax.distributions import Categorical
from arjax.layers import Classes
from arjax.models import RNN, GatedPixelCNN, WaveNet

OPTIMIZER = optax.adam(0.02)


class Linear(nn.Module):
    """Logits of every conditional are linear in the entries before, and in a class; dropout on the inputs."""

    output: distributions.Categorical = distributions.Categorical(3)
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x, cond=None, *, train=False):
        d, levels = x.shape[1], self.output.levels
        inputs = nn.Dropout(self.dropout)(jax.nn.one_hot(x, levels), deterministic=not train)
        weights = self.param("weights", nn.initializers.normal(0.3), (d, levels, d, levels))
        earlier = jnp.tril(jnp.ones((d, d)), -1).T[:, None, :, None]
        logits = jnp.einsum("bik,ikjl->bjl", inputs, weights * earlier)
        logits += self.param("bias", nn.initializers.zeros, (1, d, levels))
        return logits if cond is None else logits + nn.Embed(2, levels)(cond)[:, None]


MODEL = Linear()


def toy(n: int, seed: int, split: str = "train") -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = np.cumsum(rng.integers(0, 2, (n, 5)), 1) + labels[:, None]
    return Dataset(x % 3, labels, levels=3, name="toy", split=split, num_classes=2)


TRAIN, VALID = toy(64, 0), toy(27, 1, "valid")


def fit(directory, steps=12, **settings):
    settings = {"batch_size": 8, "eval_every": 2, "conditional": True, "progress": False} | settings
    model, optimizer = settings.pop("model", MODEL), settings.pop("optimizer", OPTIMIZER)
    train, valid = settings.pop("train", TRAIN), settings.pop("valid", VALID)
    return training.fit(model, optimizer, train, valid, directory=directory, steps=steps, **settings)


def batch(n=8):
    return {"x": TRAIN.x[:n].astype(np.int32), "cond": TRAIN.labels[:n]}


def lines(directory):
    """metrics.jsonl but for the seconds."""
    rows = [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]
    assert all(list(row)[-1] == "seconds" and row.pop("seconds") >= 0 for row in rows)
    return rows


def latest(directory):
    return checkpoints.restore(directory, training.create_state(MODEL, OPTIMIZER, 0, batch()), MODEL)[0]


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_steps_lower_the_loss_and_are_reproducible():
    def run():
        state, losses = training.create_state(MODEL, OPTIMIZER, 0, batch()), []
        for _ in range(5):
            state, metrics = training.train_step(state, batch(), model=MODEL, optimizer=OPTIMIZER, ema_decay=0.9)
            losses.append(float(metrics["nats"]))
        assert float(metrics["grad_norm"]) > 0
        return state, losses

    (state, losses), (again, _) = run(), run()
    assert losses[-1] < losses[0]
    assert int(state.step) == 5
    assert_same_bits(state, again)


def test_loss_is_the_mean_negative_log_likelihood():
    model = Linear(dropout=0.0)
    state = training.create_state(model, OPTIMIZER, 0, batch())
    logits = model.apply({"params": state.params}, batch()["x"], batch()["cond"])
    want = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch()["x"][..., None], -1).sum() / 8
    _, metrics = training.train_step(state, batch(), model=model, optimizer=OPTIMIZER, ema_decay=0.9)
    np.testing.assert_allclose(metrics["nats"], want, rtol=1e-5)


def test_ema_equals_its_closed_form():
    state = training.create_state(MODEL, OPTIMIZER, 0, batch())
    want = np.asarray(state.params["weights"], np.float64)
    for k in range(12):
        state, _ = training.train_step(state, batch(), model=MODEL, optimizer=OPTIMIZER, ema_decay=0.4)
        decay = min(0.4, (1 + k) / (10 + k))
        want = decay * want + (1 - decay) * np.asarray(state.params["weights"], np.float64)
    np.testing.assert_allclose(state.ema_params["weights"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
def test_evaluate_is_the_mean_over_examples(conditional):
    everything = next(training.with_cond([{"x": VALID.x.astype(np.int32), "label": VALID.labels}], conditional))
    uneven = [jax.tree.map(lambda a, i=i: a[i : i + 8], everything) for i in range(0, 27, 8)]
    params = training.create_state(MODEL, OPTIMIZER, 0, everything).params
    compiled = training._eval_step._cache_size()
    got = training.evaluate(MODEL, params, uneven)
    assert training._eval_step._cache_size() == compiled + 2
    want = np.asarray(training.eval_step(MODEL, params, everything, {})[0], np.float64).mean()
    assert got["nats"] == pytest.approx(want, rel=1e-6)
    assert got["bits_per_dim"] == pytest.approx(want / 5 / math.log(2), rel=1e-6)


def test_evaluate_wants_a_batch():
    with pytest.raises(ValueError, match="no batches"):
        training.evaluate(MODEL, {}, [])


def test_fit_learns_and_returns_the_best(tmp_path):
    state, history = fit(tmp_path, steps=60, eval_every=10)
    best = min(history, key=lambda line: line["valid_nats"])
    assert [line["step"] for line in history] == [10, 20, 30, 40, 50, 60]
    assert best["valid_nats"] < 0.9 * history[0]["valid_nats"]
    assert int(state.step) == best["step"]
    held_out = training.with_cond(epoch_batches(VALID, 10), conditional=True)
    got = training.evaluate(MODEL, state.ema_params, held_out)["nats"]
    assert got == pytest.approx(best["valid_nats"], rel=1e-6)
    assert_same_bits(state.ema_params, checkpoints.load_params(tmp_path, MODEL))


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, history = fit(tmp_path / "whole")
    fit(tmp_path / "parts", steps=6)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train_na')  # of a step that the checkpoint does not know
    parts, resumed = fit(tmp_path / "parts")
    assert_same_bits(whole, parts)
    assert_same_bits(latest(tmp_path / "whole"), latest(tmp_path / "parts"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert len(history) == len(resumed) == 6
    assert resumed[-1]["seconds"] >= resumed[2]["seconds"]


def test_finished_run_returns_at_once(tmp_path, monkeypatch):
    first = fit(tmp_path, steps=3)
    monkeypatch.setattr(training, "train_step", None)
    again = fit(tmp_path, steps=3)
    assert_same_bits(first[0], again[0])
    assert first[1] == again[1]
    assert [line["step"] for line in lines(tmp_path)] == [2, 3]


def test_patience_stops_and_the_best_is_kept(tmp_path):
    ascent = optax.sgd(-0.1)
    state, history = fit(tmp_path, steps=100, optimizer=ascent, patience=3)
    assert [line["step"] for line in history] == [2, 4, 6, 8]
    assert int(state.step) == 2
    assert checkpoints.steps(tmp_path) == [2, 8]
    assert fit(tmp_path, steps=100, optimizer=ascent, patience=3)[1] == history


@pytest.mark.parametrize(("eval_every", "step"), [(2, 6), (4, 7)])
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, eval_every, step):
    broken = optax.sgd(lambda count: jnp.where(count < 5, 0.1, jnp.nan))
    with pytest.raises(FloatingPointError, match=f"step {step}: .*lower the learning rate"):
        fit(tmp_path, optimizer=broken, eval_every=eval_every)
    assert checkpoints.steps(tmp_path)[-1] == 4
    assert lines(tmp_path)[-1]["step"] == 4
    _, history = fit(tmp_path, optimizer=optax.sgd(lambda count: 0.1), eval_every=eval_every)
    assert history[-1]["step"] == 12


def test_default_optimizer_warms_up_and_clips():
    optimizer = training.default_optimizer(0.1, 100, warmup=0.1, weight_decay=0.01)
    state = training.create_state(MODEL, optimizer, 0, batch())
    before = jax.tree.map(np.asarray, state.params)
    state, _ = training.train_step(state, batch(), model=MODEL, optimizer=optimizer, ema_decay=0.9)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, state.params)), strict=True))
    assert 0 < moved < 0.02


def test_progress_is_a_line_per_evaluation(tmp_path, capsys, monkeypatch):
    fit(tmp_path / "bar", steps=4, progress=True)
    monkeypatch.setattr(training, "tqdm", None)
    fit(tmp_path / "plain", steps=4, progress=True)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("seconds")[0] for line in printed[:2]] == [line.split("seconds")[0] for line in printed[2:]]
    assert printed[0].startswith("step 2  train_nats ")


@pytest.mark.parametrize("bar", [True, False])
def test_on_eval_gets_the_saved_state_and_the_new_line(tmp_path, capsys, monkeypatch, bar):
    if not bar:
        monkeypatch.setattr(training, "tqdm", None)
    seen = []

    def on_eval(state, line):
        print("called at", line["step"])
        assert_same_bits(state, latest(tmp_path))
        seen.append((int(state.step), line))

    state, history = fit(tmp_path, steps=5, progress=True, on_eval=on_eval)
    assert seen == [(line["step"], line) for line in history]
    assert [step for step, _ in seen] == [2, 4, 5]
    printed = [line.split("train_nats")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert printed == [text for k in (2, 4, 5) for text in (f"step {k}", f"called at {k}")]
    assert_same_bits(state, fit(tmp_path, steps=5, on_eval=on_eval)[0])
    assert len(seen) == 3, "a finished run evaluates nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": Dataset(TRAIN.x, levels=3)}, r"data \(train\) has no labels"),
        ({"valid": Dataset(VALID.x[:, :4], VALID.labels, levels=3)}, r"shape \(4,\), wanted \(5,\)"),
        (
            {"model": Linear(distributions.Categorical(2))},
            "toy .* has 3 levels, wanted at most the model's 2",
        ),
        ({"batch_size": 65}, "batch size 65"),
        ({"eval_every": 0}, "got steps=12 and eval_every=0, wanted 1 or more"),
    ],
)
def test_settings_and_data_that_do_not_fit(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, **settings)


def test_folder_that_is_not_writable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(training, "create_state", None)
    for folder in ("file", "file/run"):
        with pytest.raises(OSError, match=f"output folder .*{folder} is not writable"):
            fit(tmp_path / folder)
    assert (tmp_path / "file").read_text() == "kept"


def test_resume_after_sigkill(tmp_path):
    """Killed in a step, in an evaluation and at file operations all over two saves; then run to its end."""
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | cache)
    assert process.stdout.split() == [str(-signal.SIGKILL)] * 10, process.stderr
    assert 2 < checkpoints.steps(tmp_path / "killed")[-1] < 40
    killed, _ = fit(tmp_path / "killed", steps=40)
    whole, _ = fit(tmp_path / "whole", steps=40)
    assert_same_bits(killed, whole)
    assert_same_bits(latest(tmp_path / "killed"), latest(tmp_path / "whole"))
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    left = [{path.name for path in (tmp_path / run / "checkpoints").iterdir()} for run in ("killed", "whole")]
    assert left[0] == left[1]


def run_and_kill(directory: str, kind: str, count: int) -> None:
    """A run that kills itself at its `count`-th operation on files in `directory`, or `count`-th batch."""

    def tick():
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event, args):
        if kind == "file" and args and f"{directory}/" in str(args[0]):
            tick()

    def with_cond(*args, draw=training.with_cond):
        for example in draw(*args):
            if kind == "batch":
                tick()
            yield example

    sys.addaudithook(audit)
    training.with_cond = with_cond
    fit(directory, steps=40)


if __name__ == "__main__":  # every run in a fork of this process, which has no JAX backend yet
    for kind, count in [("batch", 6), *(("file", n) for n in (6, 22, 43, 60, 80, 100, 130, 180)), ("batch", 3)]:
        child = os.fork()
        if child == 0:
            run_and_kill(sys.argv[1], kind, count)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def test_more_classes_than_the_model_has(tmp_path):
    digits = load("digits").take(slice(40))
    model = GatedPixelCNN(distributions.Categorical(17), features=2, num_layers=1, conditioning=Classes(7))
    with pytest.raises(ValueError, match="10 classes, wanted at most the model's 7"):
        training.fit(
            model,
            optax.sgd(0.1),
            digits,
            digits,
            directory=tmp_path,
            steps=1,
            batch_size=4,
            eval_every=1,
            conditional=True,
        )


def text(length, levels=5, seed=0):
    """A sequence in which each symbol is the sum of the two before it, but for an occasional error."""
    rng = np.random.default_rng(seed)
    x = [1, 2]
    while len(x) < length:
        x.append(int((x[-1] + x[-2] + (rng.random() < 0.1)) % levels))
    return Sequences(np.array(x), np.array([length]), levels)


def test_truncated_back_propagation_carries_the_state():
    """Windows one after the other have the likelihood of the whole sequence, in training and in evaluation."""
    model = RNN(Categorical(5), features=6, num_layers=1)
    sequence = text(48)
    whole = sequence.sequence(0)[None]
    params = model.init(jax.random.key(0), whole)["params"]
    nats = -float(arjax.log_prob(model, {"params": params}, whole)[0])
    windows = Windows(sequence, 8, carry=True)
    scores = training.evaluate(model, params, epoch_batches(windows, 1))
    assert scores["nats"] == pytest.approx(nats / 6, rel=1e-5)
    assert scores["bits_per_dim"] == pytest.approx(nats / 48 / np.log(2), rel=1e-5)

    optimizer = optax.sgd(0.0)
    stream = batches(windows, 1, seed=0)
    state = training.create_state(model, optimizer, 0, next(batches(windows, 1, seed=0)))
    state = state.replace(params=params)
    for _ in range(2):  # the second epoch starts afresh
        total = 0.0
        for _ in range(6):
            state, metrics = training.train_step(
                state, next(stream), model=model, optimizer=optimizer, ema_decay=0.9
            )
            total += float(metrics["nats"])
        assert total == pytest.approx(nats, rel=1e-5)


def test_windows_with_context_score_what_the_whole_sequence_has():
    model = WaveNet(Categorical(5), (1, 2), features=4, gate_features=4, skip_features=4)
    sequence = text(50)
    whole = sequence.sequence(0)[None]
    params = random_variables(model, whole)["params"]
    nats = -float(arjax.log_prob(model, {"params": params}, whole)[0])
    windows = Windows(sequence, 8, context=model.receptive_field + 4)
    scores = training.evaluate(model, params, epoch_batches(windows, 3))
    assert scores["bits_per_dim"] == pytest.approx(nats / 50 / np.log(2), rel=1e-5)


def test_fit_resumes_truncated_back_propagation(tmp_path):
    """Stopped and resumed in the middle of an epoch, it goes on with the state it had carried."""
    model = RNN(Categorical(5), features=6, num_layers=1)
    train, valid = (Windows(text(200, seed=i), 8, carry=True) for i in range(2))
    settings = {"batch_size": 2, "eval_every": 5, "progress": False}
    fit = partial(training.fit, model, optax.adam(1e-2), train, valid, **settings)
    whole, history = fit(directory=tmp_path / "whole", steps=20)
    fit(directory=tmp_path / "parts", steps=5)
    resumed, same = fit(directory=tmp_path / "parts", steps=20)
    assert [line["valid_nats"] for line in same] == [line["valid_nats"] for line in history]
    chex.assert_trees_all_equal(resumed.params, whole.params)
    assert history[-1]["valid_nats"] < history[0]["valid_nats"]
