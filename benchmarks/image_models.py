"""PixelCNN, Gated PixelCNN, Row LSTM and Diagonal BiLSTM of equal size on the 8 x 8 digits: one table.

    python -m benchmarks.image_models --device cpu   (3 to 4 minutes on 2 CPU cores)

As table 1 and the results of van den Oord et al. (2016a) set them side by side, in small: the first layer, the
1 x 1 layers before the output, data, batches, steps and optimizer are the same for all, and the numbers of
parameters differ by less than 1%. No labels, no dropout. After every epoch the averaged parameters are scored on
the validation set, and the best are those of the table.

- `bits_per_dim`: of the test set; `best_epoch` (JSON only) tells which parameters these are, of `epochs`.
- `seconds_per_epoch`: of the shortest epoch's training steps, compilation and scoring apart.
- `sampling_seconds`: of one batch of samples by the cached sampler, the shortest of repeats.

The PixelRNNs have 3 LSTM layers for 5 blocks or layers of the others, since an LSTM's four gates have more
parameters. The settings were not tuned for any of the models.
"""

import argparse
import itertools
import sys
import time
from typing import Any

import jax
import numpy as np

from arjax import data, sample_from_noise, training
from arjax.distributions import Categorical
from arjax.models import DiagonalBiLSTM, GatedPixelCNN, PixelCNN, PixelRNN, RowLSTM
from benchmarks import common

COMMON: dict[str, Any] = {"first_kernel_size": 5, "head_features": 64}
MODELS: dict[str, Any] = {
    "pixelcnn": PixelCNN(Categorical(17), features=33, num_blocks=5, **COMMON),
    "gated_pixelcnn": GatedPixelCNN(Categorical(17), features=25, num_layers=5, **COMMON),
    "row_lstm": PixelRNN(Categorical(17), features=23, num_layers=3, layer=RowLSTM, **COMMON),
    "diagonal_bilstm": PixelRNN(Categorical(17), features=21, num_layers=3, layer=DiagonalBiLSTM, **COMMON),
}
COLUMNS = ["model", "parameters", "bits_per_dim", "seconds_per_epoch", "sampling_seconds"]
BATCH_SIZE = 50


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    formatter = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    options.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    options.add_argument("--epochs", type=common.positive, default=50, help="of training (default: 50)")
    options.add_argument("--samples", type=common.positive, default=100, help="in a batch (default: 100)")
    options.add_argument("--seed", type=int, default=0, help="of parameters, order of the data and samples")
    options.add_argument("--device", metavar="PLATFORM", help="such as cpu or gpu (default: JAX's choice)")
    args = options.parse_args(argv)
    device = common.find_device(options, args.device)
    splits = [data.load("digits", split) for split in data.SPLITS]
    with jax.default_device(device):
        rows = (
            {"model": name} | measure(MODELS[name], splits, args.epochs, args.samples, args.seed)
            for name in common.progress(args.models)
        )
        common.report(rows, COLUMNS, device, ["benchmarks.image_models", *argv])


def measure(model: Any, splits: list[data.Dataset], epochs: int, samples: int, seed: int) -> common.Row:
    """The row of one model."""
    train, valid, test = splits
    steps_per_epoch = len(train) // BATCH_SIZE
    optimizer = training.default_optimizer(3e-3, epochs * steps_per_epoch, weight_decay=0.05)
    batches = training.with_cond(data.batches(train, BATCH_SIZE, seed=seed), conditional=False)
    first = next(batches)
    state = training.create_state(model, optimizer, seed, first)
    step, compile_seconds = common.compiled(
        training._train_step, state, first, model=model, optimizer=optimizer, ema_decay=0.99
    )

    def bits_per_dim(params: Any, dataset: data.Dataset) -> float:
        held_out = training.with_cond(data.epoch_batches(dataset, len(dataset)), conditional=False)
        return training.evaluate(model, params, held_out)["bits_per_dim"]

    seconds, scores, best = [], [], None
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in itertools.islice(batches, steps_per_epoch):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
        scores.append(bits_per_dim(state.ema_params, valid))
        if scores[-1] == min(scores):
            best = jax.tree.map(np.asarray, state.ema_params)

    noise = jax.random.uniform(jax.random.key(seed), (samples, *train.event))
    sampler, sampler_compile_seconds = common.compiled(
        jax.jit(sample_from_noise, static_argnums=0), model, {"params": best}, noise
    )
    times, _ = common.fewest_seconds({"sampling": lambda: sampler({"params": best}, noise)}, seconds=2)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bits_per_dim": bits_per_dim(best, test),
        "valid_bits_per_dim": min(scores),
        "best_epoch": 1 + int(np.argmin(scores)),
        "epochs": epochs,
        "seconds_per_epoch": min(seconds),
        "compile_seconds": compile_seconds,
        "sampling_seconds": times["sampling"],
        "sampling_compile_seconds": sampler_compile_seconds,
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1:])
