"""Many devices and processes: the same losses, samples and checkpoints as one; stopped, killed and misused."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worker
from helpers import random_variables
from jax.sharding import PartitionSpec
from test_training import TRAIN, assert_same_bits, lines, text
from test_training import fit as fit_toy
from zoo import pixelsnail

from arjax import checkpoints, sharding, training
from arjax.data import Windows, batches, epoch_batches
from arjax.distributions import Bernoulli, Categorical
from arjax.models import RNN, GatedPixelCNN, PixelCNNPP, Transformer
from arjax.modules import log_probs, rematerialised
from experiments import __main__ as launcher

PAIR = {"data": 1, "fsdp": 2}
BOUND = 240
"""Seconds after which a process counts as hanging, on a machine that is busy with other tests."""


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), PartitionSpec()),
        ((31, 32), PartitionSpec()),  # small
        ((63, 63), PartitionSpec()),  # 4 divides nothing
        ((32, 32), PartitionSpec("fsdp")),
        ((3, 3, 32, 64), PartitionSpec(None, None, None, "fsdp")),
        ((3, 90, 64), PartitionSpec(None, None, "fsdp")),
    ],
)
def test_rule(shape, spec):
    assert sharding.leaf_spec(shape, 4) == spec


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data", "a mesh such as data=4,fsdp=2 is wanted, got 'data'"),
        ("rows=2", "a mesh such as data=4,fsdp=2 is wanted, got 'rows=2'"),
        ("data=2,fsdp=2", "a mesh of all 2 devices is wanted, got data=2, fsdp=2"),
        ("data=0", "a mesh of all 2 devices is wanted, got data=0, fsdp=1"),
    ],
)
def test_meshes_that_are_none(mesh, message):
    with pytest.raises(ValueError, match=message):
        sharding.parse_mesh(mesh)


def test_batches_that_the_devices_do_not_divide(tmp_path):
    mesh = sharding.make_mesh(data=2)
    with pytest.raises(ValueError, match="batch size: a multiple of the mesh's 2 devices is wanted, got 7"):
        fit_toy(tmp_path, batch_size=7, mesh=mesh)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="batch: a multiple of 2 devices is wanted, got 3 examples"):
        sharding.place({"x": np.zeros((3, 2))}, mesh)
    for accumulate, size in ((0, 8), (3, 8), (4, 4)):
        batch = {"x": TRAIN.x[:size].astype(np.int32)}
        with pytest.raises(ValueError, match=f"accumulate: .* on 2 devices, got {accumulate} for {size} examples"):
            training.train_step(
                None, batch, model=worker.MODEL, optimizer=None, ema_decay=0.9, accumulate=accumulate, mesh=mesh
            )


def test_processes_without_a_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="mesh: one of the devices of all 2 processes is wanted, got None"):
        fit_toy(tmp_path)


def test_rows_of_batches():
    """Each process's rows together are the batch, carried streams included."""
    carried = Windows(text(300), 8, carry=True)
    for dataset in (TRAIN, carried):
        whole = batches(dataset, 6, seed=3, step=2)
        parts = [batches(dataset, 6, seed=3, step=2, rows=rows) for rows in (np.arange(2), np.arange(2, 6))]
        for _ in range(12):
            first, second, both = next(parts[0]), next(parts[1]), next(whole)
            for name, leaf in both.items():
                joined = np.concatenate([first[name], second[name]]) if leaf.ndim else second[name]
                np.testing.assert_array_equal(joined, leaf)


def step_of(model, x, **settings):
    """The loss and the parameters after a step by SGD."""
    optimizer = optax.sgd(0.1)
    variables = random_variables(model, x)
    state = training.create_state(model, optimizer, 0, {"x": x}).replace(params=variables["params"])
    state = jax.tree.map(jnp.asarray, state)
    state, metrics = training.train_step(
        state, {"x": x}, model=model, optimizer=optimizer, ema_decay=0.9, **settings
    )
    return float(metrics["nats"]), state.params


def small(num_layers=2, **fields):
    return GatedPixelCNN(Bernoulli(), features=4, num_layers=num_layers, head_features=4, **fields)


def test_accumulated_and_rematerialised_steps_are_the_same():
    x = np.random.default_rng(0).integers(0, 2, (8, 3, 3, 1)).astype(np.int32)
    loss, params = step_of(small(), x)
    for settings in ({"accumulate": 4}, {"remat": True}, {"accumulate": 2, "remat": True}):
        same, equal = step_of(small(), x, **settings)
        assert same == pytest.approx(loss, rel=1e-6)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(equal), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert step_of(small(dropout=0.5), x, remat=True)[0] == step_of(small(dropout=0.5), x)[0] != loss


def residuals(model, x, cond, context):
    """Bytes that the gradient keeps of the forward pass, besides the parameters."""
    params = random_variables(model, x, cond)["params"]

    def loss(params):
        with context():
            return log_probs(model, {"params": params}, x, cond).sum()

    kept = jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept) - sum(
        leaf.nbytes for leaf in jax.tree.leaves(params)
    )


DEEP = {
    "gated_pixelcnn": lambda: (small(num_layers=8), np.zeros((64, 8, 8, 1), np.int32), None),
    "pixelcnnpp": lambda: (PixelCNNPP(features=8, num_blocks=2), np.zeros((16, 8, 8, 3), np.int32), None),
    "transformer": lambda: (
        Transformer((32,), Categorical(4), features=16, num_layers=6, num_heads=2),
        np.zeros((64, 32), np.int32),
        None,
    ),
    "pixelsnail": lambda: (
        pixelsnail((4, 4, 1), 4).clone(num_blocks=3),
        np.zeros((64, 4, 4, 1), np.int32),
        None,
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_rematerialised_layers_keep_little(name):
    """In bytes between the two passes, since XLA recomputes at once on a CPU, and saves nothing there."""
    model, x, cond = DEEP[name]()
    assert residuals(model, x, cond, rematerialised) < 0.6 * residuals(model, x, cond, contextlib.nullcontext)


def test_accumulation_saves_memory():
    model, x, _ = DEEP["gated_pixelcnn"]()
    optimizer = optax.sgd(0.1)
    state = jax.eval_shape(partial(training.create_state, model, optimizer, 0, {"x": x}))

    def temporaries(**settings):
        step = partial(training._train_step, model=model, optimizer=optimizer, ema_decay=0.9, **settings)
        program = jax.jit(step).lower(state, {"x": x, "cond": None}).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(accumulate=8) < 0.4 * temporaries()


def test_truncated_back_propagation_takes_neither(tmp_path):
    model = RNN(Categorical(5), features=6, num_layers=1)
    windows = Windows(text(200), 8, carry=True)
    for settings in ({"accumulate": 2}, {"remat": True}):
        with pytest.raises(ValueError, match="accumulate=1 and remat=False are wanted for truncated"):
            training.fit(
                model,
                optax.sgd(0.1),
                windows,
                windows,
                directory=tmp_path,
                steps=1,
                batch_size=2,
                eval_every=1,
                **settings,
            )


def test_bfloat16_trains(tmp_path):
    """Computed in half of the bits it learns as much, by parameters and moments of float32."""
    scores = {}
    for dtype in ("float32", "bfloat16"):
        model = worker.MODEL.clone(features=8, head_features=8, dtype=dtype, dropout=0.0)
        state, history = training.fit(
            model,
            optax.adam(0.02),
            worker.TRAIN,
            worker.VALID,
            directory=tmp_path / dtype,
            steps=80,
            batch_size=16,
            eval_every=20,
            ema_decay=0.9,
            conditional=True,
            progress=False,
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        scores[dtype] = history[-1]["train_nats"]
        assert scores[dtype] < 0.75 * history[0]["train_nats"]
    assert scores["bfloat16"] == pytest.approx(scores["float32"], rel=0.05)


def test_a_mesh_carries_the_state_of_truncated_back_propagation(tmp_path):
    """And evaluates batches that its devices do not divide."""
    model = RNN(Categorical(5), features=6, num_layers=1)
    train, valid = Windows(text(400), 8, carry=True), Windows(text(300, seed=1), 8, carry=True)
    settings = {"batch_size": 2, "eval_every": 5, "progress": False, "steps": 15}
    fit = partial(training.fit, model, optax.adam(1e-2), train, valid, **settings)
    one, two = (
        fit(directory=tmp_path / "one")[1],
        fit(directory=tmp_path / "two", mesh=sharding.make_mesh(**PAIR))[1],
    )
    for a, b in zip(one, two, strict=True):
        assert b["train_nats"] == pytest.approx(a["train_nats"], rel=1e-5)
        assert b["valid_nats"] == pytest.approx(a["valid_nats"], rel=1e-5)
    params = training.create_state(model, optax.sgd(0.1), 0, next(batches(train, 2, seed=0))).params
    held_out = list(epoch_batches(valid, 3))
    assert training.evaluate(model, params, held_out, mesh=sharding.make_mesh(**PAIR)) == pytest.approx(
        training.evaluate(model, params, held_out), rel=1e-5
    )


def test_sigterm_saves_and_leaves(tmp_path, monkeypatch):
    """Between two evaluations; what is run on then is what had not been stopped, to the last bit."""
    whole, _ = fit_toy(tmp_path / "whole")
    step, count = training.train_step, 0

    def stopped(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training, "train_step", stopped)
    with pytest.raises(SystemExit) as left:
        fit_toy(tmp_path / "parts")
    monkeypatch.setattr(training, "train_step", step)
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints.steps(tmp_path / "parts")[-1] == 5
    assert [line["step"] for line in lines(tmp_path / "parts")] == [2, 4]
    parts, _ = fit_toy(tmp_path / "parts")
    assert_same_bits(whole, parts)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mesh", "data=3", "digits"], "a mesh of all 2 devices is wanted, got data=3, fsdp=1"),
        (["digitz"], "invalid choice: 'digitz'"),
        (["--coordinator", "here", "digits"], "coordinator: host:port is wanted, got 'here'"),
        (
            ["--coordinator", "a:1", "--processes", "2", "--process", "2", "digits"],
            "process: a number in 0..1 is wanted, got 2",
        ),
    ],
)
def test_launcher_with_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit):
        launcher.main(argv)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_launcher_gives_the_mesh_to_the_experiment(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda *args, **settings: seen.append(sharding.current_mesh()) or 1 / 0)
    monkeypatch.delitem(sys.modules, "experiments.digits", raising=False)
    with pytest.raises(ZeroDivisionError):
        launcher.main(["--mesh", "data=2", "digits", "--smoke", "--directory", str(tmp_path)])
    assert dict(seen[0].shape) == {"data": 2, "fsdp": 1}
    assert sharding.current_mesh() is None


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(code, devices, cache):
    """A process with so many devices that runs `code`, arguments of the interpreter."""
    here = Path(__file__).parent
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{here}:{here.parent}",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_THREEFRY_PARTITIONABLE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen([sys.executable, *code], stderr=subprocess.PIPE, text=True, env=environment)


def start_two(cache, **settings):
    """Two processes of 4 devices each that train together, process `i` with settings of its own in `each[i]`."""
    each, port = settings.pop("each", ({}, {})), free_port()
    processes = []
    for i in range(2):
        join = {"coordinator": f"127.0.0.1:{port}", "processes": 2, "process": i}
        own = {"mesh": "data=2,fsdp=4", "join": join, **settings, **each[i]}
        processes.append(start([worker.__file__, json.dumps(own)], 4, cache))
    return processes


def ended(process):
    """Its exit status and what it wrote to stderr."""
    try:
        _, errors = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, errors


def wait_for_step(log, step, processes, start=0):
    """Until the log has this step, in its lines from `start` on."""
    limit = time.monotonic() + BOUND
    while not (Path(log).exists() and max(worker.losses(log, start), default=0) >= step):
        assert time.monotonic() < limit, "no progress"
        assert all(process.poll() is None for process in processes), [ended(process) for process in processes]
        time.sleep(0.05)


def check_losses(log, reference):
    """Every loss of every attempt at a step is the reference's; and no step is missing."""
    found = worker.losses(log)
    assert sorted(found) == list(range(1, len(reference) + 1))
    for step, values in found.items():
        np.testing.assert_allclose(values, reference[step][0], rtol=1e-5, err_msg=f"step {step}")


EIGHT = """
import json, sys
import arjax, jax, numpy as np, optax, worker
from arjax import sharding, training
from arjax.models import PixelCNNPP
from helpers import random_variables

folder, (batch, *_) = sys.argv[1], [8]
mesh = sharding.parse_mesh("data=2,fsdp=4")
worker.run(f"{folder}/eight", f"{folder}/eight.log", mesh="data=2,fsdp=4", steps=6)
state, _ = worker.run(f"{folder}/two", f"{folder}/two.log", mesh="data=2,fsdp=4", steps=16)

noise = np.load(f"{folder}/noise.npy")
labels = np.arange(batch) % 2
params = jax.device_put(state.ema_params, sharding.replicated(mesh))
noise = jax.device_put(noise, sharding.batch_sharding(mesh))
x = arjax.sample_from_noise(worker.MODEL, {"params": params}, noise, labels)
np.save(f"{folder}/sharded.npy", x)
params = jax.tree.map(np.asarray, state.ema_params)
x = arjax.sample_from_noise(worker.MODEL, {"params": params}, np.asarray(noise), labels)
np.save(f"{folder}/whole.npy", x)

mesh = sharding.parse_mesh("fsdp=8")
batch = {"x": np.zeros((8, 32, 32, 3), np.int32)}
create = lambda: training.create_state(PixelCNNPP(features=64), optax.adam(1e-3), 0, batch)
like = jax.eval_shape(create)
like = like.params, like.opt_state, like.ema_params
zeros = lambda leaf, where: jax.device_put(np.zeros(leaf.shape, leaf.dtype), where)
leaves = jax.tree.leaves(jax.tree.map(zeros, like, sharding.state_shardings(like, mesh)))
held = [sum(leaf.addressable_shards[i].data.nbytes for leaf in leaves) for i in range(8)]
json.dump([held, sum(leaf.nbytes for leaf in leaves)], open(f"{folder}/bytes.json", "w"))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run on one device; and another that goes from two processes to eight devices and to one."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "noise.npy", np.random.default_rng(0).random((8, 4, 4, 1), np.float32))
    worker.run(folder / "one", folder / "one.log")
    two = start_two(folder, directory=str(folder / "two"), log=str(folder / "two.log"), pause=0.2)
    wait_for_step(folder / "two.log", 7, two)
    two[1].send_signal(signal.SIGTERM)
    statuses = [ended(process) for process in two]
    stopped = checkpoints.steps(folder / "two")
    process = start(["-c", EIGHT, str(folder)], 8, folder)
    eight = ended(process)
    worker.run(folder / "two", folder / "two.log")
    return folder, statuses, stopped, eight


def test_sigterm_to_one_of_two_processes_saves_and_leaves_both(runs):
    _, statuses, stopped, _ = runs
    assert [status for status, _ in statuses] == [143, 143], statuses
    assert 7 <= stopped[-1] < 16


def test_losses_are_the_same_on_one_device_eight_and_two_processes(runs):
    folder, _, _, (status, errors) = runs
    assert status == 0, errors
    reference = worker.losses(folder / "one.log")
    check_losses(folder / "two.log", reference)
    check_losses(folder / "eight.log", {step: reference[step] for step in range(1, 7)})
    resumed = {line["step"]: line["valid_nats"] for line in lines(folder / "two")}
    for line in lines(folder / "one"):
        assert resumed[line["step"]] == pytest.approx(line["valid_nats"], rel=1e-5)


def test_samples_over_eight_devices_are_those_of_one(runs):
    folder, *_ = runs
    sharded, whole = np.load(folder / "sharded.npy"), np.load(folder / "whole.npy")
    np.testing.assert_array_equal(sharded, whole)
    assert len(np.unique(whole)) == 3


def test_each_of_eight_devices_holds_an_eighth_of_pixelcnnpp(runs):
    held, whole = json.loads((runs[0] / "bytes.json").read_text())
    assert max(held) <= 1.1 * whole / 8
    assert min(held) >= whole / 8


def test_processes_that_do_not_share_the_folder(tmp_path):
    each = [{"directory": str(tmp_path / str(i)), "log": str(tmp_path / "log")} for i in range(2)]
    for status, errors in map(ended, start_two(tmp_path, each=each)):
        assert status == 1, errors
        assert "one that all processes share is wanted, 1 has another" in errors.splitlines()[-1]


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_does_not_come(tmp_path, process):
    join = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "process": process, "patience": 5}
    settings = {"directory": str(tmp_path), "log": str(tmp_path / "log"), "join": join}
    began = time.monotonic()
    status, errors = ended(start([worker.__file__, json.dumps(settings)], 1, tmp_path))
    assert status == 1
    assert time.monotonic() - began < 90
    wanted = f"process {process}: 2 processes are wanted at {join['coordinator']} within 5 seconds"
    assert wanted in errors.splitlines()[-1]
    assert f"{1 - process} did not come" in errors


@pytest.mark.slow
def test_twenty_signals_lose_nothing(tmp_path):
    """SIGTERM and SIGKILL by turns at random moments to either of two processes; neither hangs.

    The losses are those of two processes that nobody disturbed: over hundreds of steps another number of devices
    rounds its way elsewhere.
    """
    steps, rng = 400, random.Random(0)

    def run(name, pause=0.0):
        folder = str(tmp_path / name)
        return start_two(tmp_path, directory=folder, log=f"{folder}.log", steps=steps, pause=pause)

    undisturbed = list(map(ended, run("undisturbed")))
    log, saved = tmp_path / "two.log", 0
    for k in range(20):
        start = log.read_bytes().count(b"\n") if k else 0  # a killed run went beyond what it saved
        processes = run("two", pause=0.1)
        wait_for_step(log, saved + 1, processes, start)
        time.sleep(rng.uniform(0, 3))
        hit = rng.randrange(2)
        processes[hit].send_signal((signal.SIGTERM, signal.SIGKILL)[k % 2])
        results = [ended(process) for process in processes]
        if k % 2 == 0:
            assert [status for status, _ in results] == [143, 143], results
        latest = checkpoints.steps(tmp_path / "two")[-1] if (tmp_path / "two" / "checkpoints").exists() else 0
        assert latest >= saved
        saved = latest
    assert saved < steps
    for status, errors in [*undisturbed, *map(ended, run("two"))]:
        assert status == 0, errors
    check_losses(log, worker.losses(tmp_path / "undisturbed.log"))
