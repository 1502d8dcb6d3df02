"""Lossless compression: the bits of a file are those of the model's likelihood, `-log2 p(x)`.

The cached sampler goes over the positions in the order of generation. Where it would draw a level it computes the
probabilities of all levels and hands them to an entropy coder on the host (the range coder of the package
constriction, which rounds them to integers that sum to 2**24, none of them 0). When a file is written the coder is
told the level, when it is read the coder tells it: both run the same compiled program, which is all that can make
them agree to the last bit. Levels of a mixture are coded in digits of four bits, from the masses of ranges of
levels, so that 65,536 of them need no table.

Examples are coded a fixed number of `lanes` at a time and long sequences in chunks, with a memory that does not
grow; all go into one stream of bits. A file holds (little endian)

    5 bytes   "arjax"                       4 bytes   CRC-32 of all that follows
    1 byte    version of this format        4 bytes   levels
    4 bytes   lanes                         4 bytes   CRC-32 of the data
    8 bytes   digest of the parameters      8 bytes   digest of the model's description
    8 bytes   digest of cond                1 + n     where it was written: platform, device, version of jax
    1 + 4 n   shape of the data             the rest  words of the range coder

A file can be read where it was written: another machine or another jax may round another way, which the CRC of the
data finds out. It never gives a wrong image.
"""

import contextlib
import hashlib
import json
import platform
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax import Array
from jax.experimental import io_callback
from jax.typing import ArrayLike

from arjax import sampling, streaming
from arjax.checks import check_cond, check_data
from arjax.decoding import Draw, Drawn, Plan
from arjax.descriptions import describe
from arjax.extras import require
from arjax.modules import hashable, log_probs

try:
    from tqdm import tqdm
except ImportError:  # it comes with the extra "experiments"
    tqdm = None

MAGIC, VERSION = b"arjax", 2
LANES = 256
"""Examples at once by default: at fewer, the calls of the coder cost as much as a small network."""
CHUNK = 1024
"""Positions of a sequence at once."""
DIGIT_BITS = 4
"""Of the digits of an output that knows the masses of ranges of levels."""
TINY = 1e-30
"""What is added to each probability: after digits that are next to impossible all may be 0."""


def compress(
    model: Any, variables: Any, x: ArrayLike, cond: Any = None, *, lanes: int = LANES, progress: bool = False
) -> bytes:
    """A file of the data: about `-log2 p(x)` bits and a header of about 80 bytes.

    Args:
        model: a Linen module with an `output` distribution that is discrete, or `arjax.Causal`.
        variables: its variables, such as `{"params": ...}`.
        x: integers `0..levels-1` of shape `(batch, *event)`. Sequences `(batch, t)` may be of any length, if the
            network does not tell positions apart.
        cond: conditioning as the model wants it, one per example. It is not kept in the file.
        lanes: examples at once, at most; more of them are faster, up to what memory allows.
        progress: whether to show a bar on a terminal.

    Raises:
        ValueError: as `arjax.log_prob`; the model is continuous, has samples of several parts or an output
            distribution without `log_probs` or `masses`, or it gives NaN.
        ImportError: the extra `compression` is missing.
    """
    model = _checked(model)
    x = np.asarray(check_data(x, model.output.levels)).astype(np.int32)
    cond = check_cond(model, cond, len(x))
    if lanes < 1:
        raise ValueError(f"lanes: 1 or more are wanted, got {lanes}")
    coder = _Encoder()
    lanes = min(lanes, len(x))
    _run(model, variables, x, cond, lanes, coder, progress)
    header = _Header(model.output.levels, lanes, zlib.crc32(x.tobytes()), **_own(model, variables, cond))
    return _packed(header, x.shape, coder.words())


def decompress(model: Any, variables: Any, data: bytes, cond: Any = None, *, progress: bool = False) -> np.ndarray:
    """The data of a file, `Int32[batch, *event]`, to the last bit; arguments as for `compress`.

    Raises:
        ValueError: the file is damaged or cut short, of another version of its format, another platform or jax,
            another model, other parameters or another `cond`, or what comes out of it is not what went in.
        ImportError: the extra `compression` is missing.
    """
    model = _checked(model)
    header, size, words = _unpacked(data)
    cond = check_cond(model, cond, size[0])
    for name, here in _own(model, variables, cond).items():
        if (held := getattr(header, name)) != here:
            raise ValueError(f"the file was written with {name} {held}, wanted {name} {here} as here")
    coder = _Decoder(words)
    x = _run(model, variables, np.zeros(size, np.int32), cond, header.lanes, coder, progress)
    if (content := zlib.crc32(x.tobytes())) != header.content:
        raise ValueError(
            f"the data that came out have the CRC {content:08x}, wanted {header.content:08x} as went in: "
            "this machine rounds otherwise than the one that wrote the file"
        )
    return x


def payload_bits(data: bytes) -> int:
    """Bits of the code alone, without the header, to be compared with `-log2 p`; raises as `decompress`."""
    return 32 * len(_unpacked(data)[2])


def shape(data: bytes) -> tuple[int, ...]:
    """The shape of the data in a file, `(batch, *event)`; raises as `decompress`."""
    return _unpacked(data)[1]


class _Header(NamedTuple):
    levels: int
    lanes: int
    content: int
    parameters: str
    model: str
    cond: str
    platform: str


_FIXED = struct.Struct("<III8s8s8sB")


def _packed(header: _Header, size: tuple[int, ...], words: np.ndarray) -> bytes:
    place = header.platform.encode()
    digests = (bytes.fromhex(digest) for digest in header[3:6])
    body = _FIXED.pack(*header[:3], *digests, len(place)) + place
    body += struct.pack(f"<B{len(size)}I", len(size), *size) + words.astype("<u4").tobytes()
    return MAGIC + struct.pack("<BI", VERSION, zlib.crc32(body)) + body


def _unpacked(data: bytes) -> tuple[_Header, tuple[int, ...], np.ndarray]:
    start = len(MAGIC) + 5
    if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) < start + _FIXED.size:
        got = (
            type(data).__name__ if not hasattr(data, "__len__") else f"{type(data).__name__} of length {len(data)}"
        )
        raise ValueError(f"the bytes of a compressed file are wanted, {start + _FIXED.size} or more, got {got}")
    data = bytes(data)
    if not data.startswith(MAGIC):
        raise ValueError(f"the file begins with {data[: len(MAGIC)]!r}, wanted {MAGIC!r}")
    version, checksum = struct.unpack_from("<BI", data, len(MAGIC))
    if version != VERSION:
        raise ValueError(f"the file has version {version} of the format, wanted version {VERSION}")
    body = data[start:]
    if (found := zlib.crc32(body)) != checksum:
        raise ValueError(
            f"the file is damaged: its content has the CRC {found:08x}, wanted {checksum:08x} as written"
        )
    levels, lanes, content, parameters, own, cond, length = _FIXED.unpack_from(body)
    place, rest = body[_FIXED.size : _FIXED.size + length].decode(), body[_FIXED.size + length :]
    size = struct.unpack_from(f"<{rest[0]}I", rest, 1)
    header = _Header(levels, lanes, content, parameters.hex(), own.hex(), cond.hex(), place)
    return header, size, np.frombuffer(rest[1 + 4 * rest[0] :], "<u4").astype(np.uint32)


def _own(model: Any, variables: Any, cond: Any) -> dict[str, str]:
    """What has to be the same where a file is written and where it is read."""
    device = jax.devices()[0]
    description = json.dumps(describe(model), sort_keys=True).encode()
    return {
        "parameters": _digest(variables),
        "model": hashlib.sha256(description).hexdigest()[:16],
        "cond": _digest(cond),
        "platform": f"{device.platform} {device.device_kind} {platform.machine()} jax {jax.__version__}",
    }


def _digest(tree: Any) -> str:
    """Of the paths, the dtypes, the shapes and the values of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {array.dtype.name} {array.shape};".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _checked(model: Any) -> Any:
    model = hashable(model)
    if model.output.levels is None:
        raise ValueError(f"a model of integers is wanted, got {model.output}, which is continuous")
    if hasattr(model, "parts"):
        raise ValueError(f"a model whose samples are the data alone is wanted, got {type(model).__name__}")
    return model


# The coders. A compiled program cannot hold one of them, so it calls the one that is at work.


class _Coder:
    """A stream of levels or digits."""

    def __init__(self):
        self.stream = require("constriction", "compression").stream
        self.family = self.stream.model.Categorical(perfect=False)
        self.error: Exception | None = None

    def code(self, digits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """The digits `(n,)` that were written or are read, given the probabilities `(n, values)` of each."""
        raise TypeError("an encoder or a decoder is wanted")

    def check(self) -> None:
        """Raises `ValueError` if the stream refused something."""
        if self.error is not None:
            message = f"the range coder stopped: {self.error}; finite probabilities are wanted"
            raise ValueError(message) from self.error


class _Encoder(_Coder):
    def __init__(self):
        super().__init__()
        self.queue = self.stream.queue.RangeEncoder()

    def code(self, digits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        self.queue.encode(digits, self.family, probabilities)
        return digits

    def words(self) -> np.ndarray:
        return self.queue.get_compressed()


class _Decoder(_Coder):
    def __init__(self, words: np.ndarray):
        super().__init__()
        self.queue = self.stream.queue.RangeDecoder(words)

    def code(self, digits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return self.queue.decode(self.family, probabilities)


_at_work: list[_Coder] = []
_one_at_a_time = threading.Lock()


def _code(table: Any) -> np.ndarray:
    """The digits of some positions. A row has the probabilities of all values, then its own or -1."""
    table = np.asarray(table)
    digits, coder = table[:, -1].astype(np.int32), _at_work[-1]
    try:
        if coder.error is not None:
            pass
        elif digits.min() >= 0:
            digits = coder.code(digits, np.ascontiguousarray(table[:, :-1]))
        elif (coded := digits >= 0).any():
            digits[coded] = coder.code(digits[coded], np.ascontiguousarray(table[coded, :-1]))
    except Exception as error:  # it would be lost in the runtime
        coder.error = error
    return np.maximum(digits, 0)


@jax.custom_batching.custom_vmap
def _asked(table: Array) -> Array:
    """`_code` from within a compiled program; of several tables at once, end to end."""
    return io_callback(_code, jax.ShapeDtypeStruct(table.shape[:1], jnp.int32), table, ordered=True)


@_asked.def_vmap
def _asked_together(count, batched, tables):
    return _asked(tables.reshape(-1, tables.shape[-1])).reshape(count, -1), True


class _Coded(Draw):
    """Draws what the coder says; when a file is written that is the evidence. What is not `known` is filled up."""

    def __call__(self, params: Array, plan: Plan) -> Drawn:
        values = jnp.zeros(plan.noise.shape, jnp.int32)
        for size, masses in _digits(self.output, params):
            probs = masses(values) + TINY
            probs = probs / probs.sum(-1, keepdims=True)
            count = probs.shape[-1]
            own = jnp.where(plan.known, jnp.clip((plan.values - values) // size, 0, count - 1), -1)
            table = jnp.concatenate([probs, own[..., None].astype(jnp.float32)], -1).reshape(-1, count + 1)
            values = values + size * _asked(table).reshape(values.shape)
        return Drawn(values)


def _digits(output: Any, params: Array) -> Iterator[tuple[int, Callable[[Array], Array]]]:
    """The digits of a level from the highest on: what one counts, and the probabilities of its values.

    The latter is a function of the sum of the digits before, up to a factor.
    """
    if not hasattr(output, "masses"):
        if not hasattr(output, "log_probs"):
            raise ValueError(f"an output with log_probs or masses is wanted, got {output}")
        yield 1, lambda _: jnp.exp(output.log_probs(params))
        return
    for power in reversed(range(-(-(output.levels - 1).bit_length() // DIGIT_BITS))):
        size = 2 ** (DIGIT_BITS * power)
        count = min(2**DIGIT_BITS, -(-output.levels // size))
        yield size, partial(output.masses, params, size=size, count=count)


# The programs: of whole events, and of the next positions of sequences.


def _run(
    model: Any,
    variables: Any,
    x: np.ndarray,
    cond: Any,
    lanes: int,
    coder: _Coder,
    progress: bool,
) -> np.ndarray:
    """Codes `x`, or puts what comes out of the coder in its place."""
    size = (lanes, *x.shape[1:])
    first_lanes = _lanes(cond, 0, lanes)
    hop, _ = streaming.hop_and_past(model)
    state = None
    if x.ndim == 2:
        frames = -(-x.shape[1] // hop)
        whole = jax.ShapeDtypeStruct((lanes, frames * hop), np.int32)
        jax.eval_shape(partial(log_probs, model, variables), whole, _frames(first_lanes, 0, frames))
        state = _stream(model, variables, first_lanes, lanes)
    if state is not None:
        size = (lanes, hop * -(-min(CHUNK, x.shape[1]) // hop))
    parts = [
        np.s_[first : first + lanes, start : start + size[1]]
        for first in range(0, len(x), lanes)
        for start in range(0, x.shape[1], size[1])
    ]
    with _one_at_a_time, contextlib.ExitStack() as stack:
        _at_work.append(coder)
        stack.callback(_at_work.pop)
        for part in tqdm(parts, unit="part", disable=None) if progress and tqdm else parts:
            own = _lanes(cond, part[0].start, lanes)
            values, known = _filled(x[part], size), _filled(np.ones(x[part].shape, bool), size)
            if state is None:
                drawn = _whole(model, variables, values, known, own)
            else:
                if part[1].start == 0 and part[0].start:
                    state = _stream(model, variables, own, lanes)
                now = _frames(own, part[1].start // hop, size[1] // hop)
                state, drawn = _next(model, variables, state, values, known, now)
            x[part] = np.asarray(drawn)[tuple(map(slice, x[part].shape))]
            coder.check()
    return x


def _stream(model: Any, variables: Any, cond: Any, lanes: int) -> Any:
    """The state before the first position of sequences of any length, or None if the model is not one of such.

    That is one whose own code takes no part of an event, too: it may raise what it likes. What is wrong with the
    model itself has to be found out before.
    """
    try:
        state = streaming.start(model, variables, np.zeros((lanes, 0), np.int32), _frames(cond, 0, 0))
    except (TypeError, ValueError, FlaxError):
        return None
    return state if state.length is None else None


def _lanes(cond: Any, first: int, lanes: int) -> Any:
    """The conditioning of the examples from `first` on; the last one fills the lanes that are left."""

    def cut(leaf: Any) -> np.ndarray:
        own = np.asarray(leaf)[first : first + lanes]
        return np.pad(own, ((0, lanes - len(own)), *[(0, 0)] * (own.ndim - 1)), "edge")

    return jax.tree.map(cut, cond)


def _frames(cond: Any, first: int, count: int) -> Any:
    """The part of the series in `cond` that has `count` frames from `first` on, 0 beyond the last."""

    def cut(leaf: np.ndarray) -> np.ndarray:
        if not streaming.is_series(leaf):
            return leaf
        return _filled(leaf[:, first : first + count], (len(leaf), count, *leaf.shape[2:]))

    return jax.tree.map(cut, cond)


def _filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.pad(array, [(0, n - own) for own, n in zip(array.shape, shape, strict=True)])


@partial(jax.jit, static_argnames="model")
def _whole(model, variables, values, known, cond):
    plan = Plan(jnp.zeros(values.shape, jnp.float32), values, known)
    return sampling.cached(model, variables, plan, cond, _Coded(model.output, sampler=sampling.cached)).values


@partial(jax.jit, static_argnames="model")
def _next(model, variables, state, values, known, cond):
    plan = Plan(jnp.zeros(values.shape, jnp.float32), values, known)
    state, drawn = streaming.extended(model, variables, state, plan, cond, _Coded(model.output))
    return state, drawn.values
