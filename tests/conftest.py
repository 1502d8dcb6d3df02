"""Strict settings for every test: no silent dtype or rank promotion, warnings are errors (pyproject.toml)."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_THREEFRY_PARTITIONABLE"] = "false"  # compiles initialisations in a tenth of the time

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(tempfile.gettempdir()) / f"arjax-tests-{os.getuid()}")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def bounded_memory_maps():
    """Drop compiled programs in time: each holds memory maps, of which Linux lets a process have 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
