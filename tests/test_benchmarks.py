import importlib
import json
from functools import partial

import jax
import numpy as np
import pytest

from arjax import sample_from_noise
from arjax.layers import Map
from arjax.models import GatedPixelCNN, PixelCNN, PixelCNNPP
from benchmarks import attention, common, flows, hierarchies, image_models, sampling, training, wavenet
from experiments import provenance

ROW = {
    *("model", "batch", "method", "seconds", "compile_seconds", "over_naive", "over_forward"),
    *("identical", "check", "mismatches", "extrapolated", "iterations"),
}
MACHINE = {"device", "cpu", "cores", "jax", "python"}


def document(main, capsys, *argv):
    """The table's lines and the JSON document of a run."""
    main(["--models", "tiny", "--seconds", "0", *argv])
    *table, last = capsys.readouterr().out.splitlines()
    return table, json.loads(last)


def test_sampling(capsys):
    table, found = document(sampling.main, capsys, "--batches", "3")
    rows = found["rows"]
    forward, naive, cached, fixed_point = rows
    assert [row["method"] for row in rows] == ["forward", "naive", "cached", "fixed_point"]
    assert len(table) == 1 + len(rows)
    assert found["machine"].keys() == MACHINE
    assert found["commit"] == provenance.commit()
    assert found["command"] == "python -m benchmarks.sampling --models tiny --seconds 0 --batches 3"
    for row in rows:
        assert row.keys() == ROW
        assert (row["model"], row["batch"], row["extrapolated"]) == ("tiny", 3, False)
        assert row["seconds"] > 0
        assert row["compile_seconds"] > 0
        assert row["over_naive"] == pytest.approx(naive["seconds"] / row["seconds"])
        assert row["over_forward"] == pytest.approx(row["seconds"] / forward["seconds"])
    assert forward["over_forward"] == 1
    assert forward["identical"] is None
    for row in (naive, cached, fixed_point):
        assert (row["identical"], row["check"], row["mismatches"]) == (True, "naive", 0)
    assert 2 < fixed_point["iterations"] <= 17


def test_naive_sampling_over_the_budget_is_extrapolated(capsys):
    argv = ["--batches", "2", "--methods", "naive", "cached", "--naive-seconds", "0"]
    table, found = document(sampling.main, capsys, *argv)
    _, naive, cached = found["rows"]
    assert naive["extrapolated"] is True
    assert naive["identical"] is None
    assert "naive*" in table[2]
    assert (cached["identical"], cached["check"], cached["mismatches"]) == (True, "teacher_forced", 0)


@pytest.mark.parametrize(("methods", "check"), [(["cached"], "teacher_forced"), (["naive", "cached"], "naive")])
def test_a_wrong_sampler_is_not_identical(capsys, monkeypatch, methods, check):
    def wrong(*args, method, return_iterations):
        x = sample_from_noise(*args, method="naive")
        return x if method == "naive" else x.at[0, 3].set(1 - x[0, 3])

    monkeypatch.setattr(sampling, "sample_from_noise", wrong)
    _, found = document(sampling.main, capsys, "--batches", "2", "--methods", *methods)
    row = found["rows"][-1]
    assert (row["identical"], row["check"]) == (False, check)
    assert row["mismatches"] > 0


def test_first_dimensions_are_those_of_the_naive_sampler():
    model, event = common.MODELS["tiny"]
    noise = jax.random.uniform(jax.random.key(0), (2, *event))
    variables = model.init(jax.random.key(1), common.random_data(model, event, 2))
    whole = sample_from_noise(model, variables, noise, method="naive")
    first = jax.jit(partial(sampling.first_dimensions, model, 10))(variables, noise)
    np.testing.assert_array_equal(first, whole.at[:, 10:].set(0))


def test_sampling_without_the_naive_method(capsys):
    _, found = document(sampling.main, capsys, "--batches", "1", "3", "--methods", "fixed_point")
    assert [(row["batch"], row["method"]) for row in found["rows"]] == [
        *((1, "forward"), (1, "fixed_point")),
        *((3, "forward"), (3, "fixed_point")),
    ]
    for row in found["rows"]:
        assert row["over_naive"] is None
        assert row["check"] == (None if row["method"] == "forward" else "teacher_forced")


def test_wavenet(capsys, monkeypatch):
    monkeypatch.setattr(wavenet, "PEER", "no_such_package")
    options = ["--batches", "1", "2", "--length", "20", "--naive-seconds", "0.1"]
    table, found = document(wavenet.main, capsys, *options)
    assert len(table) == 3
    for row, batch in zip(found["rows"], (1, 2), strict=True):
        assert (row["model"], row["batch"], row["mismatches"], row["over_peer"]) == ("tiny", batch, 0, None)
        assert row["per_second"] == pytest.approx(20 * batch / row["seconds"])
        assert row["over_naive"] == pytest.approx(row["naive_seconds"] / row["seconds"])
        assert row["over_forward"] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training(capsys, dtype):
    table, found = document(training.main, capsys, "--batches", "4", "--dtype", dtype)
    [row] = found["rows"]
    assert len(table) == 2
    assert found["machine"].keys() == MACHINE
    assert (row["model"], row["batch"], row["dtype"]) == ("tiny", 4, dtype)
    assert row["examples_per_second"] == pytest.approx(4 / row["seconds"])
    assert row["compile_seconds"] > 0
    assert row["memory_bytes"] > 0
    assert "device_peak_bytes" in row
    assert (row["peer_seconds"], row["over_peer"]) == (None, None)


@pytest.mark.parametrize(
    ("model", "event"),
    [
        (PixelCNN(features=4, num_blocks=2, first_kernel_size=5, head_features=4), (4, 5, 1)),
        (GatedPixelCNN(features=4, num_layers=2, first_kernel_size=5, head_features=4), (4, 5, 1)),
        (PixelCNNPP(features=4, num_blocks=1, num_levels=2), (4, 6, 3)),
    ],
)
def test_torch_networks(model, event):
    """As many parameters as ours, causal, and trainable."""
    torch = pytest.importorskip("torch")
    torch_networks = importlib.import_module("benchmarks.torch_networks")
    torch.manual_seed(0)
    network = torch_networks.NETWORKS[type(model)](model)
    x = np.asarray(common.random_data(model, event, 2))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert torch_networks.num_params(network) == sum(leaf.size for leaf in jax.tree.leaves(variables))

    network.eval()
    images = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    row, column = 2, 3
    changed = images.clone()
    changed[:, :, row, column] = model.output.levels - 1 - changed[:, :, row, column]
    params, others = network(images), network(changed)
    width = model.output.num_joint_params(3) if event[-1] == 3 else 1
    assert params.shape == (2, width, *event[:2])
    differ = (params != others).any(1).any(0).numpy()
    places = np.arange(event[0] * event[1]).reshape(event[:2])
    assert not differ[places <= places[row, column]].any()
    assert differ[row, column + 1]
    assert differ[row + 1, column]

    step = training.peer_step(model, x)
    losses = [step() for _ in range(30)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_training_beside_a_peer(capsys, monkeypatch):
    monkeypatch.setattr(training, "peer_step", lambda model, x: lambda: len(x))
    _, found = document(training.main, capsys, "--batches", "2", "--device", "cpu")
    [row] = found["rows"]
    assert row["over_peer"] == pytest.approx(row["peer_seconds"] / row["seconds"])


def test_attention(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "STEPS", 16)
    picture = tmp_path / "curve.png"
    argv = ["--lengths", "16", "--batches", "2", "--features", "8", "--seconds", "0", "--picture", str(picture)]
    attention.main(argv)
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["pattern"] for row in rows] == ["itself", "dense", "local", "strided", "fixed"]
    assert len(table) == 1 + len(rows)
    assert rows[0]["attention"] == 0
    assert all(row["seconds_per_step"] > 0 for row in rows)
    assert picture.stat().st_size > 1000


def test_flows(capsys, monkeypatch):
    """Without the peer; of TarFlow the naive sampler beside the cached one."""
    own = flows.own_programs
    monkeypatch.setattr(flows, "peer_programs", own)
    monkeypatch.setattr(flows, "LAYERS", 1)
    monkeypatch.setattr(flows, "IMAGE", (8, 8, 1))
    argv = ["--sizes", "6", "--hidden", "8", "--batches", "2", "--tarflow-batches", "2", "--features", "8"]
    flows.main([*argv, "--seconds", "0"])
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["what"] for row in rows] == ["sample", "density", "train", "forward", "cached", "naive*"]
    assert len(table) == 1 + len(rows)
    for row in rows:
        peer, forward = row["peer_seconds"], rows[3]["seconds"]
        if row["model"] == "maf":
            assert row["ratio"] == pytest.approx(peer / row["seconds"])
        else:
            assert row["over_forward"] == pytest.approx(row["seconds"] / forward)


def test_image_models(capsys, monkeypatch):
    shapes = [
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.int32))
        for model in image_models.MODELS.values()
    ]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in shapes]
    assert max(sizes) < 1.01 * min(sizes), "models of equal size"

    load, small = image_models.data.load, image_models.MODELS["row_lstm"].clone(features=3, num_layers=1)
    monkeypatch.setattr(image_models.data, "load", lambda *args: load(*args).take(slice(50)))
    monkeypatch.setitem(image_models.MODELS, "row_lstm", small)
    image_models.main(["--models", "row_lstm", "--epochs", "2", "--samples", "2"])
    *table, last = capsys.readouterr().out.splitlines()
    [row] = json.loads(last)["rows"]
    assert len(table) == 2
    assert (row["model"], row["epochs"]) == ("row_lstm", 2)
    assert 1 <= row["best_epoch"] <= 2
    assert 0 < row["bits_per_dim"] < np.log2(17) + 0.5
    assert min(row["seconds_per_epoch"], row["sampling_seconds"]) > 0


@pytest.mark.parametrize(
    ("main", "argv", "message"),
    [
        (attention.main, ["--lengths", "8"], "argument --lengths: 256 or more are wanted, got 8"),
        (sampling.main, ["--models", "nade"], "argument --models: invalid choice: 'nade'"),
        (sampling.main, ["--methods", "fast"], "argument --methods: invalid choice: 'fast'"),
        (sampling.main, ["--batches", "0"], "argument --batches: integers of 1 or more are wanted, got '0'"),
        (sampling.main, ["--device", "abacus"], "argument --device: no abacus here"),
        (image_models.main, ["--epochs", "0"], "argument --epochs: integers of 1 or more are wanted, got '0'"),
        (training.main, ["--models", "histogram"], "argument --models: invalid choice: 'histogram'"),
    ],
)
def test_a_wrong_argument_gives_one_line(capsys, main, argv, message):
    with pytest.raises(SystemExit):
        main(argv)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_hierarchies(capsys, monkeypatch):
    full = GatedPixelCNN(features=8, num_layers=2, head_features=8)
    of_map = partial(GatedPixelCNN, features=8, num_layers=1, head_features=8)
    stages = {
        "base": (full.clone(num_layers=1), (4, 4, 1)),
        "slice": (of_map(conditioning=Map(4, 4, hierarchies.GIVEN)), (4, 4, 1)),
    }
    monkeypatch.setattr(hierarchies, "FULL", full)
    monkeypatch.setattr(hierarchies, "STAGES", stages)
    monkeypatch.setattr(
        hierarchies,
        "RASTER",
        {"tiny": (full, lambda side: of_map(conditioning=Map(side // 2, side // 2, hierarchies.GIVEN)))},
    )
    hierarchies.main(
        ["--seconds", "0", "--sides", "8", "--stage-batch", "2", "--memory-batch", "2", "--memory-side", "8"]
    )
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert len(table) == 1 + len(rows)
    assert [(row["what"], row["model"]) for row in rows] == [
        *(("sampling", "full"), ("sampling", "multiscale"), ("sampling", "tapered")),
        *(("stage", "base"), ("stage", "slice")),
        *(("memory", "tiny"), ("memory", "subscale tiny")),
    ]
    full_row, multiscale, tapered, *stages_rows = rows[:5]
    assert (full_row["calls"], multiscale["calls"], tapered["calls"]) == (64, 16 + 3, 16 + 3)
    assert min(multiscale["parameters"], tapered["parameters"]) >= full_row["parameters"]
    assert full_row["over_full"] == 1
    assert multiscale["over_full"] == pytest.approx(full_row["seconds"] / multiscale["seconds"])
    assert all(row["over_forward"] > 0 for row in stages_rows)
    assert all(row["memory_bytes"] > 0 for row in rows[5:])


def test_sides_that_no_doubling_reaches():
    with pytest.raises(ValueError, match=r"^a side of 8, 16, 32, ... is wanted, got 12$"):
        hierarchies.multiscale_as_large_as(hierarchies.FULL, 12)
