"""The README's code runs, what it shows of a file stands in that file, and what the pages name exists."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "experiments/README.md", "benchmarks/README.md")]
README = PAGES[0].read_text()
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
    for page in PAGES:
        for package, name in re.findall(r"python -m (experiments|benchmarks)\.(\w+)", page.read_text()):
            assert (ROOT / f"{package}/{name}.py").exists(), f"{page}: {package}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text())
    assert links
    for name, heading in links:
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), name
        headings = re.findall("^#+ (.+)$", path.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in [title.lower().replace(" ", "-") for title in headings], heading


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
