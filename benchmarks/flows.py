"""Flows: MAF beside flowjax's of the same size, and TarFlow's samplers beside one forward pass.

    python -m benchmarks.flows --sizes 64 784 --batches 100 --device cpu

MAF has 5 layers of one masked network each, 512 hidden units, affine conditionals, no normalisation between them;
flowjax's `masked_autoregressive_flow` (extra "peer") the same with its own parametrization, nn_depth 1. Both are
compiled, and run in turn on the same data; weights are random, each library's own. `ratio` is flowjax's seconds /
ours.

- `sample`: a batch of samples. flowjax inverts a layer by one pass for each dimension, arjax by MADE's sampler,
  which computes each unit once.
- `density`: the log-density of a batch.
- `train`: loss, gradient and an Adam step.

TarFlow's rows (28 x 28 images, patches of 4, 4 blocks of 2 attention layers of 128 channels) have `over_forward`:
seconds / those of one forward pass. `naive` evaluates a block anew for each dimension of each patch; it is
extrapolated from its first dimensions.
"""

import sys
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from arjax import sample_from_noise, training
from arjax.decoding import Draw, Plan
from arjax.extras import require
from arjax.flows import maf, tarflow
from arjax.modules import init, log_probs
from arjax.sampling import _naive
from benchmarks import common

LAYERS, HIDDEN, IMAGE = 5, 512, (28, 28, 1)
COLUMNS = ["model", "size", "batch", "what", "seconds", "peer_seconds", "ratio", "over_forward"]


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    options = common.parser(__doc__, (), batches=[100])
    options.add_argument("--sizes", nargs="*", type=common.positive, default=[64, 784], metavar="D")
    options.add_argument("--hidden", type=common.positive, default=HIDDEN, help="units of MAF (default: 512)")
    options.add_argument(
        "--features", type=common.positive, default=128, help="channels of TarFlow (default: 128)"
    )
    options.add_argument("--tarflow-batches", nargs="*", type=common.positive, default=[16], metavar="SIZE")
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    cells: list[Any] = [partial(beside_flowjax, n, b, args.hidden) for n in args.sizes for b in args.batches]
    cells += [partial(of_tarflow, b, args.features) for b in args.tarflow_batches]
    with jax.default_device(device):
        rows = (row for cell in common.progress(cells) for row in cell(args.seconds))
        common.report(rows, COLUMNS, device, ["benchmarks.flows", *argv])


def row(model: str, size: int, batch: int, what: str, seconds: float, **others: Any) -> common.Row:
    """A row of the table."""
    found = {"model": model, "size": size, "batch": batch, "what": what, "seconds": seconds}
    return found | {"peer_seconds": None, "ratio": None, "over_forward": None} | others


def beside_flowjax(size: int, batch: int, hidden: int, seconds: float) -> list[common.Row]:
    """The rows of MAF."""
    programs = {
        **{("own", name): program for name, program in own_programs(size, batch, hidden).items()},
        **{("peer", name): program for name, program in peer_programs(size, batch, hidden).items()},
    }
    rows = []
    for what in ("sample", "density", "train"):
        pair = {who: programs[who, what] for who in ("own", "peer")}
        times, _ = common.fewest_seconds(pair, seconds)
        rows.append(
            row(
                "maf",
                size,
                batch,
                what,
                times["own"],
                peer_seconds=times["peer"],
                ratio=times["peer"] / times["own"],
            )
        )
    return rows


def own_programs(size: int, batch: int, hidden: int) -> dict[str, Any]:
    """Arjax's sampler, density and training step, compiled."""
    model = maf((size,), num_layers=LAYERS, hidden=(hidden,), norm=None)
    noise = jax.random.uniform(jax.random.key(0), (batch, size))
    x = jax.random.normal(jax.random.key(1), (batch, size))
    optimizer = optax.adam(1e-4)
    state = training.create_state(model, optimizer, 0, {"x": x})
    variables = {"params": jax.tree.map(np.asarray, state.params)}
    sampled, _ = common.compiled(jax.jit(partial(sample_from_noise, model)), variables, noise)
    density, _ = common.compiled(jax.jit(partial(log_probs, model)), variables, x)
    step = jax.jit(
        partial(training.train_step, model=model, optimizer=optimizer, ema_decay=0.999), donate_argnums=0
    )
    step, _ = common.compiled(step, state, {"x": x})

    def train() -> Any:
        nonlocal state
        state, metrics = step(state, {"x": x})
        return state, metrics

    return {
        "sample": partial(sampled, variables, noise),
        "density": partial(density, variables, x),
        "train": train,
    }


def peer_programs(size: int, batch: int, hidden: int) -> dict[str, Any]:
    """flowjax's, likewise."""
    flowjax = {name: require(f"flowjax.{name}", "peer") for name in ("flows", "distributions")}
    eqx, paramax = require("equinox", "peer"), require("paramax", "peer")
    flow = flowjax["flows"].masked_autoregressive_flow(
        jax.random.key(0),
        base_dist=flowjax["distributions"].Normal(np.zeros(size, np.float32)),
        flow_layers=LAYERS,
        nn_width=hidden,
        nn_depth=1,
        invert=True,
    )
    x = jax.random.normal(jax.random.key(1), (batch, size))
    key = jax.random.key(2)
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    optimizer = optax.adam(1e-4)
    opt_state = optimizer.init(params)

    def whole(params: Any) -> Any:
        return paramax.unwrap(eqx.combine(params, static))

    @jax.jit
    def step(params: Any, opt_state: Any) -> Any:
        nats, grads = jax.value_and_grad(lambda params: -whole(params).log_prob(x).mean())(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, nats

    state = params, opt_state

    def train() -> Any:
        nonlocal state
        params, opt_state, nats = step(*state)
        state = params, opt_state
        return state, nats

    return {
        "sample": partial(jax.jit(lambda params, key: whole(params).sample(key, (batch,))), params, key),
        "density": partial(jax.jit(lambda params, x: whole(params).log_prob(x)), params, x),
        "train": train,
    }


def of_tarflow(batch: int, features: int, seconds: float) -> list[common.Row]:
    """The rows of TarFlow."""
    model = tarflow(IMAGE, features=features)
    noise = jax.random.uniform(jax.random.key(0), (batch, *IMAGE))
    x = jax.random.normal(jax.random.key(1), (batch, *IMAGE))
    variables = init(model, jax.random.key(2), x)
    size, few = x[0].size, 8
    programs = {
        "forward": jax.jit(partial(log_probs, model)),
        "cached": jax.jit(partial(sample_from_noise, model)),
    }
    times, _ = common.fewest_seconds(
        {
            "forward": partial(common.compiled(programs["forward"], variables, x)[0], variables, x),
            "cached": partial(common.compiled(programs["cached"], variables, noise)[0], variables, noise),
        },
        seconds,
    )
    naive = common.compiled(jax.jit(partial(first_dimensions, model, few)), variables, noise)[0]
    first, _ = common.fewest_seconds({"naive": partial(naive, variables, noise)}, seconds)
    times["naive*"] = first["naive"] * size / few
    return [
        row("tarflow", size, batch, name, value, over_forward=value / times["forward"])
        for name, value in times.items()
    ]


def first_dimensions(model: Any, count: int, variables: Any, noise: Array) -> Array:
    """What the naive sampler does at the first `count` dimensions of every layer."""

    def sampler(module: Any, variables: Any, plan: Plan, cond: Any, draw: Draw) -> Any:
        if hasattr(module, "log_prob"):
            return module.apply(variables, draw, plan, cond, method="generate")
        return _naive(module, variables, plan, cond, draw, count)

    draw = Draw(model.output, sampler=sampler)
    return sampler(model, variables, Plan(noise), None, draw).values


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
