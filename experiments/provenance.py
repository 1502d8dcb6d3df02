"""Where numbers come from: commit, command, machine, versions and data of experiments and benchmarks."""

import dataclasses
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

PACKAGES = "arjax", "flax", "jax", "jaxlib", "numpy", "optax"


@functools.cache
def commit() -> str | None:
    """The commit of this checkout, as git describes it, ending in "-dirty" if a file differs; None without git.

    As of the first call: a run calls it when it starts, since others may commit before it ends.
    """
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def command() -> str | None:
    """The command line of this process, `python -m experiments.digits ...`; None if it did not run a module."""
    argv = sys.orig_argv
    return shlex.join(["python", *argv[argv.index("-m") :]]) if "-m" in argv else None


def machine(device: jax.Device | None = None) -> dict[str, Any]:
    """What times depend on besides the code: of `device`, by default JAX's first, and of its host."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "device": (device or jax.devices()[0]).device_kind,
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that scores depend on; None for one that runs without being installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def describe(split: Any) -> dict[str, Any]:
    """Name, split, number of examples, shape of an event and digest of a `Dataset`, `Windows` or `Sequences`."""
    return {
        "name": split.name,
        "split": split.split,
        "examples": len(split),
        "event": list(getattr(split, "event", ())),
        "digest": digest(split),
    }


def digest(data: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a pytree or dataclass of arrays: of dtypes, shapes and values.

    What is not an array, such as a data set's name, does not count.
    """
    sha = hashlib.sha256()
    for array in _arrays(data):
        sha.update(f"{array.dtype.name} {array.shape};".encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def _arrays(data: Any) -> list[Any]:
    if dataclasses.is_dataclass(data):
        data = [getattr(data, field.name) for field in dataclasses.fields(data)]
    elif isinstance(data, np.ndarray | jax.Array):
        return [data]
    return [array for part in data for array in _arrays(part)] if isinstance(data, list | tuple) else []
