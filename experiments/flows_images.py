"""Images by flows: MAF, RealNVP and TarFlow on dequantised digits or MNIST, in one table with models of integers.

Command: python -m experiments.flows_images   (with --steps 1500 8 minutes on one CPU core)
         python -m experiments.flows_images mnist --data-dir DIR   (hours on a CPU)

Bits/dim of a dequantised flow are an upper bound. Expect on the test set of the digits, after at most 1,500 of
the 3,000 steps: MAF 2.482 (worse than the per-position histogram, 2.400), RealNVP 2.057, TarFlow 2.122, which
still fell; the class-conditional Gated PixelCNN of experiments.digits has 1.70.

Each model's folder holds checkpoints, metrics.jsonl, curves.png and samples.png.
"""

import dataclasses
from pathlib import Path

import tyro

from arjax import plotting
from arjax.flows import Chain, Dequantised, Flow, Logit, maf, real_nvp, tarflow
from arjax.likelihood import nats_to_bits_per_dim
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    data: str = "digits"
    """The set: "digits" or "mnist"."""
    data_dir: str | None = None
    """Folder of the files; by default $ARJAX_DATA_DIR."""
    directory: Path = Path("runs/flows_images")
    """Where checkpoints, metrics and pictures go."""
    models: tuple[str, ...] = ("maf", "real_nvp", "tarflow")
    """Which flows."""
    margin: float = 0.05
    """What the logit leaves free on either side."""
    hidden: tuple[int, ...] = (256,)
    """Widths of MAF's hidden layers."""
    num_layers: int = 5
    """MAF's layers."""
    features: int = 64
    """Channels of TarFlow; RealNVP's first scale has half as many."""
    num_blocks: int = 4
    """TarFlow's blocks, of two attention layers each."""
    patch: int = 2
    """Side of its patches."""
    dropout: float = 0.1
    """Rate of its dropout."""
    learning_rate: float = 1e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 3000
    """Updates of each model at most."""
    patience: int = 5
    """Evaluations without improvement before stopping."""
    seed: int = 0
    """Seed of everything random."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


VARIANTS = {
    "digits": ("8 x 8 digits of scikit-learn, 17 levels", Config()),
    "mnist": (
        "28 x 28 MNIST, 256 levels",
        Config(
            data="mnist",
            directory=Path("runs/flows_mnist"),
            margin=1e-6,
            hidden=(1024,),
            features=256,
            patch=4,
            learning_rate=5e-4,
            weight_decay=1e-4,
            batch_size=100,
            steps=30_000,
        ),
    ),
}


def networks(config: Config, event: tuple[int, ...], levels: int) -> dict[str, Dequantised]:
    """The flows by name, each after the same logit."""
    logit = Logit(levels, config.margin)
    made = maf(event, num_layers=config.num_layers, hidden=config.hidden)
    flows = {
        "maf": Flow(Chain((logit, made.bijection))),
        "real_nvp": real_nvp(event, features=config.features // 2, entry=(logit,)),
        "tarflow": tarflow(
            event,
            patch=config.patch,
            features=config.features,
            num_blocks=config.num_blocks,
            dropout=config.dropout,
            entry=(logit,),
        ),
    }
    return {name: Dequantised(flows[name], levels) for name in config.models}


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, evaluates and draws. Returns test nats by model."""
    config = common.prepared(
        config, models=("maf", "tarflow"), hidden=(16,), num_layers=1, features=8, num_blocks=1, steps=4
    )
    train, valid, test = common.load(config.data, config.data_dir, smoke=config.smoke)
    nats = {"per-position histogram": common.histogram_nats(train, test)}
    baseline = "histogram", nats_to_bits_per_dim(nats["per-position histogram"], test.event)
    for name, model in networks(config, train.event, train.levels).items():
        folder = config.directory / name
        eval_every = max(1, config.steps // 20)
        variables, history = common.fit(model, config, train, valid, folder, eval_every=eval_every, ema_decay=0.99)
        nats[f"{name} (bound)"] = common.test_nats(model, variables, test)
        plotting.curves(history, folder / "curves.png", baseline, event=test.event)
        common.draw_samples(model, variables, folder, test.event, seed=config.seed)
    common.print_scores(nats, test.event)
    return common.record(config, nats, train, valid, test)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(VARIANTS, description=__doc__))
