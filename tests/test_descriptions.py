"""Networks as JSON: every model of the zoo comes back equal, and nothing but what is allowed is imported."""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from zoo import ZOO

from arjax.descriptions import build, describe
from arjax.distributions import Bernoulli
from arjax.models import MADE

HERE = (__name__, "experiments")


class Pair(NamedTuple):
    first: int
    second: Any


class Net(nn.Module):
    field: Any = None


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    model, _, _ = ZOO[name]()
    if name == "histogram":  # its initial parameters come from a function made by a function
        model = model.clone(kernel_init=nn.initializers.ones)
    description = json.loads(json.dumps(describe(model)))
    built = build(description, HERE)
    assert built == model
    assert describe(built) == description


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        float("inf"),
        "text",
        (1, (2.0, False)),
        Pair(1, (Bernoulli(), Net(3))),
        FrozenDict({"a": (1,), 2: None}),
        frozenset({3, 1}),
        jnp.bfloat16,
        nn.relu,
        jnp.tanh,
        nn.GRUCell,
        Net(name="named"),
        functools.partial(nn.leaky_relu, negative_slope=0.2),
    ],
)
def test_values(value):
    description = json.loads(json.dumps(describe(Net(value))))
    built = build(description, HERE)
    assert describe(built) == description
    if not isinstance(value, functools.partial):
        assert built == Net(value)
    assert type(built.field) is type(value)
    assert getattr(built.field, "name", None) == getattr(value, "name", None)


def test_equal_models_have_equal_descriptions():
    assert describe(Net([1, np.int64(2)])) == describe(Net((1, 2)))
    assert describe(Net(np.float32)) == describe(Net(jnp.float32)) == describe(Net(np.dtype("float32")))
    assert describe(Net(nn.relu)) == describe(Net(jax.nn.relu)) != describe(Net(nn.gelu))


def described(path, **fields):
    return {"class": path, "fields": fields}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (describe(Net()), r"holds test_descriptions:Net, wanted one of arjax, jax, flax: modules=.*adds$"),
        ({"name": "os:system"}, "holds os:system, wanted one of arjax, jax, flax"),
        ({"name": "arjax.checkpoints:os.system"}, "which is of posix:system, wanted one of"),
        ({"name": "arjax.checkpoints:json"}, "wanted one of arjax"),
        ({"name": "arjax_evil:f"}, "wanted one of arjax"),
        ({"name": "arjax.nowhere:f"}, "holds arjax.nowhere:f, which cannot be found"),
        (described("arjax.models.made:Nobody"), "holds arjax.models.made:Nobody, which cannot be found"),
        (described("jax.nn:relu"), "a module, a dataclass or a named tuple is wanted"),
        (described("jax.numpy:ndarray", shape=1), "a module, a dataclass or a named tuple is wanted"),
        (described("arjax.models.made:MADE", size=3), "MADE does not have the fields size"),
        (
            describe(MADE((3,), activation=lambda x: x)),
            r"holds <function <lambda>>, wanted a function .* its name$",
        ),
        ({"fields": {}}, "a description of a network is wanted, got"),
        ([1], "a description of a network is wanted, got"),
    ],
)
def test_refused(description, message):
    with pytest.raises(ValueError, match=message) as error:
        build(description)
    assert "\n" not in str(error.value)


def test_local_class():
    @dataclasses.dataclass(frozen=True)
    class Local:
        size: int

    with pytest.raises(ValueError, match="Local, which cannot be found"):
        build(describe(Net(Local(3))), HERE)
