"""One process of a training run, for the tests of many devices: `python worker.py SETTINGS`, in JSON.

Each step's loss is a line of the file `log`. The number of devices comes from XLA_FLAGS.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import optax

from arjax import sharding, training
from arjax.data import Dataset
from arjax.distributions import Categorical
from arjax.layers import Classes
from arjax.models import GatedPixelCNN

MODEL = GatedPixelCNN(
    Categorical(3), features=32, num_layers=1, head_features=32, conditioning=Classes(2), dropout=0.1
)
OPTIMIZER = optax.adam(0.01)


def toy(n, seed, split="train"):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = (np.cumsum(rng.integers(0, 2, (n, 4, 4, 1)), 1) + labels[:, None, None, None]) % 3
    return Dataset(x, labels, levels=3, name="toy", split=split, num_classes=2)


TRAIN, VALID = toy(64, 0), toy(27, 1, "valid")


def run(directory, log, mesh=None, steps=20, join=None, pause=0.0, **settings):
    """A run whose losses go to `log`; `pause`: seconds to wait after each step."""
    if join:
        sharding.join(**join)
    step = training.train_step

    def logged(state, *args, **kwargs):
        number = int(state.step) + 1
        state, metrics = step(state, *args, **kwargs)
        with open(log, "a") as file:
            file.write(json.dumps([number, float(metrics["nats"])]) + "\n")
        time.sleep(pause)
        return state, metrics

    training.train_step = logged
    settings = {"batch_size": 16, "eval_every": 5, "conditional": True, "progress": False} | settings
    mesh = sharding.parse_mesh(mesh) if mesh else None
    try:
        return training.fit(
            MODEL, OPTIMIZER, TRAIN, VALID, directory=directory, steps=steps, mesh=mesh, **settings
        )
    finally:
        training.train_step = step


def losses(log, start=0):
    """Every loss that was found for a step, by step; in the lines from `start` on."""
    found = {}
    for step, loss in map(json.loads, Path(log).read_text().splitlines()[start:]):
        found.setdefault(step, []).append(loss)
    return found


if __name__ == "__main__":
    try:
        run(**json.loads(sys.argv[1]))
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
