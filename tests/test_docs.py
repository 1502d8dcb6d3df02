"""What readers are given: API pages of one style, with examples that hold, and the tutorial."""

import ast
import doctest
import functools
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

import arjax

ROOT = Path(arjax.__file__).parent
TUTORIAL = ROOT.parent / "experiments/tutorial.ipynb"
NAMES = [info.name for info in pkgutil.walk_packages(arjax.__path__, "arjax.")]


def public(module):
    """The names and objects of a module's own public classes and functions, and of the methods of the classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for attribute, member in vars(value).items():
                if isinstance(member, property):
                    member = member.fget
                if isinstance(member, (classmethod, staticmethod)):
                    member = member.__func__
                if isinstance(member, functools.cached_property):
                    member = member.func
                ours = getattr(member, "__module__", None) == module.__name__
                if ours and inspect.isroutine(member) and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member
        elif callable(value) and not isinstance(value, type(module)):
            yield name, value


def undocumented(module):
    found = [name for name, value in public(module) if not written(value)]
    return found if (module.__doc__ or "").strip() else ["the module", *found]


def written(value):
    """A docstring, but for the signature that a dataclass or a named tuple writes itself."""
    doc = (value.__doc__ or "").strip()
    return doc and not doc.startswith(f"{value.__name__}(")


@pytest.mark.parametrize("name", ["arjax", *NAMES])
def test_every_public_name_has_a_docstring(name):
    assert undocumented(importlib.import_module(name)) == []


def test_what_is_undocumented_is_found():
    namespace = {"__name__": "arjax.example"}
    source = """
import typing
class A:
    "It."
    def b(self): pass
class C(typing.NamedTuple):
    d: int
def e(): pass
"""
    exec(source, namespace)
    module = type(arjax)("arjax.example")
    vars(module).update(namespace)
    assert undocumented(module) == ["the module", "A.b", "C", "e"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_errors_have_one_style(path):
    """Single backticks; descriptions of arguments that begin small; errors that say "wanted"."""
    tree = ast.parse(path.read_text())
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    raised = [node for raising in ast.walk(tree) if isinstance(raising, ast.Raise) for node in ast.walk(raising)]
    for node in strings:
        assert "``" not in node.value, f"line {node.lineno}"
        entry = re.search(r"\n +(\w+: (?:A|[A-Z][a-z]+) [a-z`].*)", node.value)
        assert not entry, f"line {node.lineno}: {entry[1]}"
        if node in raised:
            assert not re.search(r"\bwants?\b", node.value), f"line {node.lineno}"


def test_the_example_of_the_engine():
    result = doctest.testmod(importlib.import_module("arjax.incremental"))
    assert result.attempted > 10
    assert result.failed == 0


def cells():
    return [cell for cell in json.loads(TUTORIAL.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_tutorial_has_its_outputs():
    assert TUTORIAL.stat().st_size < 600_000
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert all(output["output_type"] in ("stream", "display_data") for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 10
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))


@pytest.mark.slow
def test_the_tutorial_runs(capsys):
    matplotlib.use("agg")
    names = {"__name__": "tutorial"}
    for number, cell in enumerate(cells(), 1):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        plt.close("all")
    scores = names["scores"]
    better = ["nothing known", "histogram", "PixelCNN", "Gated PixelCNN, by class"]
    assert sorted(better, key=scores.get, reverse=True) == better
    assert scores["mine"] < scores["histogram"]
    assert (names["completed"] == names["values"])[:, :4].all()
    assert names["seconds"]["cached"] < names["seconds"]["naive"]
    assert (names["drawn"]["cached"] == names["drawn"]["naive"]).mean() > 0.99
    assert "refused: not causal" in capsys.readouterr().out
