"""The tables of the pages are those of the files of results."""

import json
import math
import shutil

import pytest

from benchmarks import tables


@pytest.fixture
def checkout(tmp_path):
    """The pages and the files of results, to be changed."""
    for page in tables.pages(tables.ROOT):
        copy = tmp_path / page.relative_to(tables.ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(page.read_text())
    for folder in ("experiments/results", "benchmarks/results"):
        shutil.copytree(tables.ROOT / folder, tmp_path / folder)
    return tmp_path


def change(path, function):
    found = json.loads(path.read_text())
    function(found)
    path.write_text(json.dumps(found))


def test_pages_are_up_to_date():
    for page, text in tables.pages(tables.ROOT).items():
        assert page.read_text() == text, f"{page.name} and its files differ: python -m benchmarks.tables"


def test_a_new_number_reaches_its_pages(checkout, monkeypatch, capsys):
    nats = 64 * math.log(2) * 1.23456
    result, speed = checkout / "experiments/results/digits.json", checkout / "benchmarks/results/hierarchies.json"
    change(result, lambda run: run["scores"].update({"Gated PixelCNN": nats}))
    change(speed, lambda found: found["rows"][0].update(seconds=0.4321))
    monkeypatch.setattr(tables, "ROOT", checkout)
    tables.main()
    written = [line.split(" is ")[0] for line in capsys.readouterr().out.splitlines()]
    assert written == ["README.md", "experiments/README.md", "benchmarks/README.md"]
    for page, number in (("README.md", "**1.235**"), ("experiments/README.md", "**1.235**")):
        assert number in (checkout / page).read_text()
    assert "| 0.432 |" in (checkout / "benchmarks/README.md").read_text()
    tables.main()
    assert capsys.readouterr().out == "", "they are up to date now"


def test_what_is_left_out_is_refused(checkout):
    shutil.copy(checkout / "experiments/results/digits.json", checkout / "experiments/results/other.json")
    with pytest.raises(ValueError, match=r"^experiments/results and RESULTS are .*, other is in one$"):
        tables.pages(checkout)
    (checkout / "experiments/results/other.json").unlink()
    shutil.copy(checkout / "benchmarks/results/flows.json", checkout / "benchmarks/results/other.json")
    with pytest.raises(ValueError, match=r"^benchmarks/README.md: <!-- other --> and <!-- end --> are wanted"):
        tables.pages(checkout)
    (checkout / "benchmarks/results/other.json").unlink()
    change(checkout / "benchmarks/results/flows.json", lambda found: found.update(rows=found["rows"][:1]))
    with pytest.raises(ValueError, match=r"^flows: one row with {'model': 'maf', .*} is wanted, got 0$"):
        tables.pages(checkout)


def test_units():
    run = {"data": [{"event": [2, 2, 1]}], "scores": {"a": {"b": 8 * math.log(2)}, "c": 0.25}}

    def shown(unit):
        return tables.score(tables.Result("file", "model", "data", "{a[b]:.2f}, {c:.2f}", unit), run)

    assert shown("bits/dim") == ["model", "data", "bits/dim", "2.00, 0.09", "-"]
    assert shown("nats, log-likelihood")[3] == "-5.55, -0.25"
    assert shown("AUROC")[3] == "5.55, 0.25"
