"""Checkpoints: what goes in comes out, or an error says why not; nothing good is ever deleted."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arjax import checkpoints
from arjax.descriptions import describe
from arjax.models import MADE


class Net(nn.Module):
    width: int = 3
    activation: Callable[..., Any] = nn.relu
    sizes: tuple[int, ...] = ()

    def __call__(self, x):
        return x


def state(seed=0):
    key = jax.random.key(seed)
    weights = {"Dense_0": {"kernel": jax.random.normal(key, (64, 32)), "bias": jnp.zeros(32, jnp.bfloat16)}}
    return {
        "step": jnp.int32(seed),
        "ema_params": weights,
        "opt": (weights, [jnp.ones(2, bool)], ()),
        "key": key,
    }


def history(*scores):
    return [{"step": 10 * i, "valid_nats": score} for i, score in enumerate(scores, 1)]


def save(directory, *scores, model=Net()):  # noqa: B008
    """Saves after each score; the seed of a state is its step."""
    for i in range(1, len(scores) + 1):
        checkpoints.save(directory, state(10 * i), history(*scores[:i]), model)


def assert_same(got, want):
    def plain(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(plain(x), plain(y))


def test_round_trip(tmp_path):
    save(tmp_path, 2.5)
    for like in (state(), jax.eval_shape(state)):
        got, record = checkpoints.restore(tmp_path, like, Net())
        assert_same(got, state(10))
        assert record == history(2.5)
    assert_same(checkpoints.load_params(tmp_path, Net()), state(10)["ema_params"])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [((3.0, 2.0, 1.0), [30]), ((1.0, 2.0, 3.0), [10, 30]), ((2.0, 1.0, 1.0), [20, 30])],
)
def test_the_latest_and_the_best_are_kept(tmp_path, scores, kept):
    save(tmp_path, *scores)
    assert checkpoints.steps(tmp_path) == kept
    assert int(checkpoints.restore(tmp_path, state(), Net())[0]["step"]) == 30
    best, record = checkpoints.restore(tmp_path, state(), Net(), best=True)
    assert int(best["step"]) == kept[0] == record[-1]["step"]
    assert_same(checkpoints.load_params(tmp_path, Net()), state(kept[0])["ema_params"])


def test_remains_of_a_killed_process_do_no_harm(tmp_path):
    save(tmp_path, 1.0, 2.0)
    folder = tmp_path / "checkpoints"
    (folder / "5").mkdir()  # deletion not finished
    shutil.copytree(folder / "20", folder / "30.4711")  # save not finished
    (folder / "notes.txt").write_text("mine")
    assert int(checkpoints.restore(tmp_path, state(), Net())[0]["step"]) == 20
    checkpoints.save(tmp_path, state(30), history(1.0, 2.0, 3.0), Net())
    assert sorted(path.name for path in folder.iterdir()) == ["10", "30", "notes.txt"]
    assert_same(checkpoints.restore(tmp_path, state(), Net())[0], state(30))


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint: wanted .*checkpoints/<step>"):
        checkpoints.restore(tmp_path, state(), Net())
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load_params(tmp_path, Net())
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_model(tmp_path):
    class Other(Net):
        pass

    save(tmp_path, 1.0)
    with pytest.raises(
        ValueError, match=r"holds model=test_checkpoints:Net, width=3; wanted model=test_checkpoints:Net, width=4$"
    ):
        checkpoints.restore(tmp_path, state(), Net(width=4))
    with pytest.raises(
        ValueError, match=r"holds model=test_checkpoints:Net; wanted model=test_checkpoints:\S+Other$"
    ):
        checkpoints.load_params(tmp_path, Other())
    with pytest.raises(ValueError, match=r"relu.*wanted .*gelu") as error:
        checkpoints.load_params(tmp_path, Net(activation=nn.gelu, sizes=tuple(range(1000))))
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_model_with_functions_is_known_in_another_process(tmp_path):
    code = "import test_checkpoints as t; print(t.describe(t.Net()))"
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    printed = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(describe(Net()))


def test_checkpoint_of_another_optimizer_or_event(tmp_path):
    save(tmp_path, 1.0)
    with pytest.raises(ValueError, match=r"opt/1/0 is bool\[2\], wanted absent"):
        checkpoints.restore(tmp_path, {**state(), "opt": state()["opt"][:1]}, Net())
    with pytest.raises(ValueError, match=r"step is int32\[\], wanted int32\[7\]"):
        checkpoints.restore(tmp_path, {**state(), "step": jnp.zeros(7, jnp.int32)}, Net())


def truncate(content):
    return content[: len(content) // 2]


def overwrite(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [None, truncate, overwrite])
def test_damaged_files(tmp_path, damage):
    """Each file in turn, deleted where `damage` is None."""
    save(tmp_path, 1.0)
    folder = tmp_path / "checkpoints" / "10"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        path.unlink()
        if damage:
            path.write_bytes(damage(content))
        with pytest.raises(ValueError, match=rf"^checkpoint {folder} is damaged, .*delete it to go on") as error:
            checkpoints.restore(tmp_path, state(), Net())
        assert error.value.__cause__
        path.write_bytes(content)
    assert_same(checkpoints.restore(tmp_path, state(), Net())[0], state(10))


def test_load(tmp_path):
    nets = Net(5, sizes=(2, 3)), MADE((4,), hidden=(3,))
    for net, directory in zip(nets, (tmp_path / "own", tmp_path / "made"), strict=True):
        checkpoints.save(directory, state(10), history(1.0), net, {"event": (4,)})
        checkpoints.save(directory, state(20), history(1.0, 2.0), net, {"event": (4,)})
        model, variables = checkpoints.load(directory, modules=(__name__,))
        assert model == net
        assert_same(variables, {"params": state(10)["ema_params"]})
        assert checkpoints.load_data(directory) == {"event": [4]}
    assert checkpoints.load(tmp_path / "made")[0] == nets[1]
    with pytest.raises(
        ValueError, match=r"^checkpoint \S*10: the network holds test_checkpoints:Net, wanted one of"
    ):
        checkpoints.load(tmp_path / "own")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load(tmp_path)


def test_checkpoint_without_a_description(tmp_path):
    save(tmp_path, 1.0)
    folder = tmp_path / "checkpoints" / "10"
    record = {"model": {"model": "Net", "width": "3"}, "history": history(1.0)}
    record["digest"] = checkpoints._digest(folder / "arrays", record)
    (folder / "record.json").write_text(json.dumps(record))
    for read in (checkpoints.load, checkpoints.load_data, lambda path: checkpoints.load_params(path, Net())):
        with pytest.raises(
            ValueError, match=r"did not record its network, wanted one with a description"
        ) as error:
            read(tmp_path)
        assert "\n" not in str(error.value)
