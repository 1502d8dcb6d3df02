"""The wheel has the package and its trained models alone, and works where the checkout is not."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from arjax import pretrained

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel(tmp_path):
    def run(*command):
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    [wheel] = tmp_path.glob("*.whl")
    installed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {Path(name).suffix for name in installed} == {".py", ".npz", ".typed"}
    own = [path for path in (ROOT / "arjax").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert installed == {path.relative_to(ROOT).as_posix() for path in own}

    # Dependencies come from the environment of the tests, but the checkout that it may name in a .pth does not.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    python = tmp_path / "fresh" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    place = run(python, "-I", "-c", "import arjax, json; print(json.dumps(arjax.__file__))")
    assert Path(json.loads(place)).is_relative_to(packages)
    written = run(python, "-I", "-W", "error", "-m", "arjax.pretrained")
    for name in pretrained.names():
        assert f"\n{name}: drawn in " in written
