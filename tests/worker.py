"""One process of a training run, for the tests of many devices: `python worker.py SETTINGS` in JSON.

It trains a small network and prints `{"step": loss}` as it goes. The number of devices comes from XLA_FLAGS.
"""

import json
import sys

import jax
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


def run(directory, mesh=None, steps=20, join=None, losses=True, **settings):
    """A run, and its loss at each step."""
    if join:
        sharding.join(**join)
    mesh = sharding.parse_mesh(mesh) if mesh else None
    found, step = {}, training.train_step

    def logged(state, *args, **kwargs):
        number = int(state.step) + 1
        state, metrics = step(state, *args, **kwargs)
        found[str(number)] = float(metrics["nats"])
        return state, metrics

    training.train_step = logged if losses else step
    settings = {"batch_size": 16, "eval_every": 5, "conditional": True, "progress": False} | settings
    try:
        state, history = training.fit(
            MODEL, OPTIMIZER, TRAIN, VALID, directory=directory, steps=steps, mesh=mesh, **settings
        )
    finally:
        training.train_step = step
    return state, history, found


if __name__ == "__main__":
    jax.config.update("jax_threefry_partitionable", False)
    try:
        _, history, found = run(**json.loads(sys.argv[1]))
    except (ValueError, TimeoutError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps({"losses": found, "history": history}))
