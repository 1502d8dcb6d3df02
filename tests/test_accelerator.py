"""The command for an accelerator, run dry: rows as they come, a limit of time, and nothing lost that was found."""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import accelerator


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Noise in the form of binarized MNIST."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        np.savetxt(folder / f"binarized_mnist_{split}.amat", rng.integers(0, 2, (64, 784)), "%d")
    return folder


def rows(results):
    return [json.loads(line) for line in results.read_text().splitlines()]


def dry(results, data_dir, *argv):
    fast = ["--seconds", "0", "--naive-seconds", "0.1", "--train-seconds", "0", "--tiny"]
    accelerator.main(["--results", str(results), "--data-dir", str(data_dir), *fast, *argv])


def check_rows(found, names):
    assert not [row for row in found if "error" in row]
    assert [row["cell"] for row in found if row.get("finished")] == names
    for row in found:
        kind = row["cell"].split()[0]
        if row.get("finished"):
            assert row["machine"]["jax"] == jax.__version__
        elif kind == "sample":
            assert row["seconds"] > 0
            assert row["mismatches"] in (None, 0)
        elif kind == "train":
            assert row["flops"] > 0
            assert row["share_of_peak"] is None, "of this CPU no peak is known"
        elif kind == "fit":
            assert 0 < row["nats"] < 784
        else:
            assert row["same"] is True
            assert row["seconds_per_step"] > 0
            assert row["kernels_per_step"] >= 1


def test_rows_are_kept_and_not_repeated(tmp_path, data_dir, capfd):
    results = tmp_path / "new" / "rows.jsonl"
    dry(results, data_dir, "--only", "loop wavenet 1 default")
    check_rows(rows(results), ["loop wavenet 1 default"])
    lines = results.read_text()
    results.write_text(lines + '{"cell": "loop wavenet 1 unroll_2", "secon')  # cut off
    began = time.monotonic()
    dry(results, data_dir, "--only", "loop wavenet 1 default")
    assert time.monotonic() - began < 5, "there is nothing to do"
    assert "1 of 1 cells are finished" in capfd.readouterr().out
    accelerator.append(results, {"cell": "next"})
    assert results.read_text().splitlines()[-1] == '{"cell": "next"}'


def test_cells_in_this_process(tmp_path, data_dir):
    """One of each kind but the slowest to compile, by the worker itself."""
    results = tmp_path / "rows.jsonl"
    names = ["sample wavenet 2", "train gated_pixelcnn 4 bfloat16", "fit"]
    for name in names:
        dry(results, data_dir, "--worker", "--only", name)
    check_rows(rows(results), names)
    assert [row["method"] for row in rows(results)[:3]] == ["forward", "cached", "naive"]


def test_a_cell_that_fails_or_takes_too_long_is_a_row(tmp_path, monkeypatch):
    results = tmp_path / "rows.jsonl"
    dry(results, tmp_path / "nowhere", "--worker", "--only", "fit")
    [row] = rows(results)
    assert row["finished"]
    assert "nowhere" in row["error"]

    results = tmp_path / "late.jsonl"
    popen, sleep = subprocess.Popen, [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(accelerator, "STARTING", 0)
    monkeypatch.setattr(accelerator.subprocess, "Popen", lambda command, **options: popen(sleep, **options))
    dry(results, tmp_path, "--only", "sample wavenet", "--limit", "1")
    assert rows(results) == [{"cell": "sample wavenet 2", "error": "took longer than 1 seconds", "finished": True}]

    fail = [sys.executable, "-c", "import sys; sys.exit('out of memory')"]
    monkeypatch.setattr(accelerator.subprocess, "Popen", lambda command, **options: popen(fail, **options))
    dry(results, tmp_path, "--only", "loop", "--limit", "60")
    assert [row["error"] for row in rows(results)[1:]] == ["out of memory"] * 2


def test_the_end_is_kept(tmp_path, capsys):
    dry(tmp_path / "rows.jsonl", tmp_path, "--minutes", "0")
    assert "0 of 9 cells are finished" in capsys.readouterr().out
    assert not rows(tmp_path / "rows.jsonl")


def test_list_is_in_order_of_importance(tmp_path, capsys):
    accelerator.main(["--list", "--results", str(tmp_path / "rows.jsonl")])
    names = capsys.readouterr().out.splitlines()
    assert names[0] == "sample pixelcnnpp_160 1"
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--only", "nothing"], "argument --only: a part"),
        (["--results", "/proc/no/rows"], "argument --results: a"),
    ],
)
def test_a_wrong_argument_gives_one_line(argv, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        accelerator.main(["--results", str(tmp_path / "rows"), *argv])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_kernels_are_those_of_the_innermost_loop():
    def nested(x):
        def row(x, _):
            x, _ = lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=5)
            return x + 1, None

        return lax.scan(row, x, length=3)[0]

    text = jax.jit(nested).lower(jnp.ones((8, 8))).compile().as_text()
    assert 2 <= accelerator.kernels(text) <= 6, "a product, the sine, the counter"
    assert accelerator.kernels(jax.jit(jnp.sin).lower(1.0).compile().as_text()) == 0


@pytest.mark.slow
def test_dry_run(tmp_path, data_dir):
    began = time.monotonic()
    dry(tmp_path / "rows.jsonl", data_dir, "--limit", "300")
    check_rows(rows(tmp_path / "rows.jsonl"), [cell.name for cell in accelerator.cells(tiny=True)])
    assert time.monotonic() - began < 120
