"""Density estimation of vectors: MAF, MADE MoG and RealNVP beside a normal distribution and a Gaussian mixture.

Command: python -m experiments.flows_tabular   (7 minutes on one CPU core)
         python -m experiments.flows_tabular --data miniboone.npz   (any npz file of real numbers)

Without a file the set is one of image patches, as BSDS300 is: 4 x 4 patches of the two photographs that come with
scikit-learn, in gray, dequantised, without their mean and their last pixel (15 numbers), in one fixed permutation
8:1:1. Expect these mean log-likelihoods in nats on its test set: normal distribution 5.49, Gaussian mixture by EM
31.31, MADE MoG 27.33, Real NVP (10) 31.53, MAF (5) 31.34, MAF MoG (5) 31.57.

Published (Papamakarios et al., 2017, table 1; mean test log-likelihood, nats): on MINIBOONE a normal distribution
has -37.24, MADE MoG -12.27, Real NVP (5) -13.55, MAF (5) -11.75, MAF MoG (5) -11.68.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.datasets import load_sample_images
from sklearn.mixture import GaussianMixture

from arjax import data, plotting
from arjax.continuous import Mixture, Normal
from arjax.data import Dataset
from arjax.flows import maf, real_nvp_of_vectors
from arjax.models import MADE
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/flows_tabular")
    """Where checkpoints, metrics and curves go."""
    data: Path | None = None
    """An npz file of real numbers `x`, or of `x_train`, `x_valid` and `x_test`; None for patches."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    num_layers: int = 5
    """Layers of MAF; RealNVP has twice as many."""
    num_mixtures: int = 10
    """Components of the conditionals of MADE MoG and MAF MoG."""
    steps: int = 4000
    """Updates of each model at most."""
    batch_size: int = 200
    """Examples per update."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    learning_rate: float = 2e-3
    """Peak of the schedule."""
    patience: int = 5
    """Evaluations without improvement before stopping."""
    components: tuple[int, ...] = (5, 10, 20, 40)
    """Components of the Gaussian mixture, of which the validation set chooses one number."""
    seed: int = 0
    """Seed of everything random."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


def main(config: Config) -> dict[str, float]:
    """Fits all models and prints the table. Returns test nats by model, less being better."""
    config = common.prepared(config, hidden=(8,), num_layers=2, steps=4, components=(2,))
    train, valid, test = splits(config)
    size = train.event[0]
    nats = {"normal": fitted_nats(train, valid, test, (1,), 0)}
    nats["Gaussian mixture (EM)"] = fitted_nats(train, valid, test, config.components, config.seed)
    models: dict[str, Any] = {
        "MADE MoG": MADE((size,), Mixture(Normal(), config.num_mixtures), config.hidden),
        f"Real NVP ({2 * config.num_layers})": real_nvp_of_vectors(
            num_layers=2 * config.num_layers, hidden=config.hidden
        ),
        f"MAF ({config.num_layers})": maf((size,), num_layers=config.num_layers, hidden=config.hidden),
        f"MAF MoG ({config.num_layers})": maf(
            (size,),
            num_layers=config.num_layers,
            hidden=config.hidden,
            output=Mixture(Normal(), config.num_mixtures),
        ),
    }
    for name, model in models.items():
        folder = config.directory / name.split(" (")[0].replace(" ", "_").lower()
        variables, history = common.fit(
            model,
            config,
            train,
            valid,
            folder,
            batch_size=min(config.batch_size, len(train)),
            eval_every=max(1, config.steps // 20),
            ema_decay=0.99,
        )
        nats[name] = common.test_nats(model, variables, test)
        plotting.curves(history, folder / "curves.png", ("Gaussian mixture", nats["Gaussian mixture (EM)"]))
    print(f"\n{'test set':32}{'mean log-likelihood, nats':>28}")
    for name, value in nats.items():
        print(f"{name:32}{-value:28.3f}")
    return common.record(config, nats, train, valid, test)


def splits(config: Config) -> list[Dataset]:
    """The training, validation and test split, standardised by the first."""
    if config.data is not None:
        parts = [data.load(config.data, split) for split in data.SPLITS]
    else:
        whole = Dataset(patches(np.random.default_rng(config.seed)), levels=None, name="photographs")
        whole = whole.take(np.random.default_rng(0).permutation(len(whole)))
        tenth = len(whole) // 10
        ends = {"train": slice(-2 * tenth), "valid": slice(-2 * tenth, -tenth), "test": slice(-tenth, None)}
        parts = [dataclasses.replace(whole.take(part), split=split) for split, part in ends.items()]
    if config.smoke:
        parts = [part.take(slice(64)) for part in parts]
    return parts


def patches(rng: np.random.Generator, side: int = 4) -> np.ndarray:
    """Patches of scikit-learn's photographs in units of their standard deviation, `(n, side * side - 1)`."""
    found = []
    for photograph in load_sample_images().images:
        gray = photograph.mean(2)
        height, width = (n // side * side for n in gray.shape)
        squares = gray[:height, :width].reshape(height // side, side, width // side, side).swapaxes(1, 2)
        found.append(squares.reshape(-1, side * side))
    x = np.concatenate(found)
    x = (x + rng.random(x.shape)) / 256
    return ((x - x.mean(1, keepdims=True)) / x.std())[:, :-1]


def fitted_nats(train: Dataset, valid: Dataset, test: Dataset, components: tuple[int, ...], seed: int) -> float:
    """Test nats of the full-covariance Gaussian mixture with the best number of components."""
    fitted = [GaussianMixture(k, reg_covar=1e-5, random_state=seed).fit(np.float64(train.x)) for k in components]
    return float(-max(fitted, key=lambda mixture: mixture.score(valid.x)).score(test.x))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
