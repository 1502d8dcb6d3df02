"""Many devices: a mesh, one rule for the state, one for the batch. What moves the data is `jax.jit`.

A mesh has the axes "data" and "fsdp". A batch is split over all its devices. A state is split over "fsdp" alone,
each leaf along its largest axis that divides (fully sharded data parallelism), and repeated along "data". The same
program runs on every process, each of which reads its own examples of a batch.
"""

import contextlib
import math
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

AXES = ("data", "fsdp")
SMALL = 2**10
"""Leaves of fewer numbers are repeated on every device: to gather them costs more than to hold them."""
PATIENCE = 60
"""Seconds that a process waits for the others, to begin with or once one has fallen silent."""

_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh(data: int = 1, fsdp: int = 1) -> Mesh:
    """A mesh of `data * fsdp` devices, all there are.

    Raises:
        ValueError: there are more or fewer devices.
    """
    if min(data, fsdp) < 1 or data * fsdp != jax.device_count():
        raise ValueError(f"a mesh of all {jax.device_count()} devices is wanted, got data={data}, fsdp={fsdp}")
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def parse_mesh(text: str) -> Mesh:
    """The mesh of a text such as "data=4,fsdp=2"; an axis that is left out has size 1.

    Raises:
        ValueError: the text is of another form, or as `make_mesh`.
    """
    parts = [part.partition("=") for part in text.split(",")]
    sizes = {axis: size for axis, _, size in parts}
    if not set(sizes) <= set(AXES) or not all(size.isdecimal() for size in sizes.values()):
        raise ValueError(f"a mesh such as data=4,fsdp=2 is wanted, got {text!r}")
    return make_mesh(**{axis: int(size) for axis, size in sizes.items()})


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Within this context `mesh` is what `arjax.training.fit` trains on, unless it is given another."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def current_mesh() -> Mesh | None:
    """The mesh of the innermost `use_mesh`, or None."""
    return _MESH.get()


def join(coordinator: str, processes: int, process: int, *, patience: int = PATIENCE) -> None:
    """Joins the processes that train together; to be called before JAX is used otherwise.

    Args:
        coordinator: host and port of process 0, such as "10.0.0.1:1234".
        processes: how many there are.
        process: the number of this one, from 0.
        patience: seconds to wait for the others, and after which one that has fallen silent ends all.

    Raises:
        ValueError: the numbers or the address do not fit.
        OSError: the port is taken; `TimeoutError`, if not all came in time.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"coordinator: host:port is wanted, got {coordinator!r}")
    if not 0 <= process < processes:
        raise ValueError(f"process: a number in 0..{processes - 1} is wanted, got {process}")
    try:
        _meet(host, int(port), processes, process, time.monotonic() + patience)
    except (TimeoutError, ConnectionError) as error:
        wanted = f"{processes} processes are wanted at {coordinator} within {patience} seconds"
        raise TimeoutError(f"process {process}: {wanted}, {error}") from error
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        initialization_timeout=patience,
        heartbeat_timeout_seconds=patience,
        shutdown_timeout_seconds=patience,
    )


def _meet(host: str, port: int, processes: int, process: int, deadline: float) -> None:
    """Returns once all processes are there. JAX would end a program that waits in vain by a dump of its stack."""

    def left() -> float:
        return max(deadline - time.monotonic(), 0.01)

    if process == 0:
        others: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.create_server(("", port)))
            while len(others) < processes - 1:
                server.settimeout(left())
                try:
                    connection = stack.enter_context(server.accept()[0])
                    connection.settimeout(left())
                    others[int.from_bytes(connection.recv(4))] = connection
                except TimeoutError:
                    missing = sorted(set(range(1, processes)) - set(others))
                    raise TimeoutError(f"{', '.join(map(str, missing))} did not come") from None
            for connection in others.values():
                connection.sendall(b"go")
        return
    while True:
        try:
            with socket.create_connection((host, port), left()) as connection:
                connection.sendall(process.to_bytes(4))
                connection.settimeout(left())
                if connection.recv(2) == b"go":
                    return
                raise TimeoutError("not all came")
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise TimeoutError("process 0 did not come") from None
            time.sleep(0.1)


def leaf_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """How a leaf of a state is split: along its largest axis that `fsdp` divides, if it is not small."""
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if math.prod(shape) < SMALL or not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * largest, "fsdp")


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of `state`, a pytree of arrays or of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, leaf_spec(leaf.shape, mesh.shape["fsdp"])), state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is that of the examples: over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_divides(mesh: Mesh, batch_size: int) -> None:
    """`ValueError` unless the devices of `mesh` divide `batch_size`."""
    if batch_size % mesh.size:
        raise ValueError(f"batch size: a multiple of the mesh's {mesh.size} devices is wanted, got {batch_size}")


def own_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, "r"]:
    """Which examples of a batch are on this process's devices, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices if index is not None]
    return np.unique(np.concatenate(rows))


def place(batch: Any, mesh: Mesh) -> Any:
    """A batch on the devices of `mesh`, from the rows of it that are this process's own (see `own_rows`).

    Raises:
        ValueError: the devices do not divide the batch.
    """
    local = len(mesh.local_devices)

    def leaf(array: Any) -> jax.Array:
        array = np.asarray(array)
        if array.ndim == 0:
            return jax.make_array_from_callback((), replicated(mesh), lambda _: array)
        if len(array) % local:
            raise ValueError(f"batch: a multiple of {local} devices is wanted, got {len(array)} examples")
        batch_size = len(array) // local * mesh.size
        rows = own_rows(mesh, batch_size)

        def part(index: Any) -> np.ndarray:
            first, last = np.searchsorted(rows, [index[0].start or 0, (index[0].stop or batch_size) - 1])
            return array[first : last + 1]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), batch_sharding(mesh), part)

    return jax.tree.map(leaf, batch)


def whole(tree: Any, mesh: Mesh) -> Any:
    """`tree` with its arrays whole on the first of this process's devices, for what one process does alone."""
    tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def check_shared(directory: Path) -> None:
    """`ValueError`, on all processes alike, unless all of them see the same folder `directory`."""
    if jax.process_count() == 1:
        return
    number = np.frombuffer(uuid.uuid4().bytes[:4], np.int32)
    token = directory / f".shared-{int(multihost_utils.broadcast_one_to_all(number)[0]) & 0xFFFFFFFF:08x}"
    if jax.process_index() == 0:
        token.touch()
    multihost_utils.sync_global_devices("a file is written")
    seen = multihost_utils.process_allgather(np.int32(token.exists())).astype(bool)
    if jax.process_index() == 0:
        os.unlink(token)
    if not seen.all():
        blind = ", ".join(map(str, np.flatnonzero(~seen)))
        raise ValueError(f"run folder {directory}: one that all processes share is wanted, {blind} has another")
