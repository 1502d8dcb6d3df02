"""The README's code runs, and what it shows of a file stands in that file."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE, NETWORK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_example():
    assert "range(200)" in EXAMPLE
    names = {}
    exec(EXAMPLE.replace("range(200)", "range(2)"), names)
    assert (names["samples"] == names["same"]).all()
    assert (np.asarray(names["completed"])[:, :4] == names["x"][:, :4]).all()


def test_network():
    assert NETWORK in (ROOT / "experiments/own_network.py").read_text()


def test_every_file_and_experiment_it_names_exists():
    for name in re.findall(
        r"^ +(?:  )?(\w+\.py|\w+/)", README.split("## Files")[1].split("## How")[0], re.MULTILINE
    ):
        assert list(ROOT.rglob(name.rstrip("/"))), name
    for name in re.findall(r"python -m experiments\.(\w+)", README):
        assert (ROOT / f"experiments/{name}.py").exists(), name
