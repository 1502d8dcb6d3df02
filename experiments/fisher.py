"""Fisher scores of a Gated PixelCNN as features of digits: a linear probe, and points between two images.

Command: python -m experiments.fisher   (4 minutes on a shared CPU core)

The model is trained without labels on scikit-learn's 8x8 digits. The features of an image are the gradient of its
log-probability with respect to all parameters, divided by the square root of the Fisher information's diagonal and
projected to `size` numbers (`arjax.fisher`). A logistic regression on them is compared with one on the pixels and
one on the activations of all layers, averaged over the image; its penalty is chosen on the validation set.
Accuracy on the 397 test images:

    pixels               0.8942
    mean activations     0.9370
    Fisher scores        0.8438

The scores do not beat the pixels: they are five points behind them. A picture follows Yan et al. (2019), section
4: a small network is trained to give an image back from its features, and decodes points on the straight line
between the features of two test images. Below each such row stands what the same network makes of lines between
pixels. The folder holds the model, curves.png, interpolations.png and results.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from arjax import fisher, plotting
from arjax.data import Dataset
from arjax.distributions import Categorical
from arjax.models import GatedPixelCNN
from experiments import common


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run."""

    directory: Path = Path("runs/fisher")
    """Where the model and pictures go."""
    size: int = 2048
    """Numbers of a feature."""
    layers: str | None = None
    """A regular expression: only parameters in whose name it is found count."""
    damping: float = 0.1
    """Share of the mean that is added to the diagonal of the Fisher information."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Inverse penalties of the logistic regressions to choose from."""
    features: int = 32
    """Channels of each stack."""
    num_layers: int = 5
    """Gated layers."""
    dropout: float = 0.5
    """Rate of dropout in the horizontal stack."""
    learning_rate: float = 3e-3
    """Peak of AdamW's warm-up and cosine schedule."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    batch_size: int = 50
    """Examples per step."""
    steps: int = 1000
    """Updates."""
    eval_every: int = 200
    """Steps between evaluations on the validation set."""
    decoder_steps: int = 1000
    """Updates of the network that gives images back."""
    seed: int = 0
    """Seed of everything."""
    smoke: bool = False
    """Shrink everything to seconds, in the subfolder "smoke"."""


class Decoder(nn.Module):
    """From features to the pixels of an image of `event`, 0 to 1."""

    event: tuple[int, ...]

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`Float[b, d] -> Float[b, *event]`."""
        h = features
        for _ in range(2):
            h = nn.relu(nn.Dense(256)(h))
        return nn.sigmoid(nn.Dense(int(np.prod(self.event)))(h)).reshape(-1, *self.event)


def activations(model: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    """What all layers put out, averaged over the positions of an image: `Float[n, d]`."""
    _, captured = model.apply(variables, x.astype(np.int32), capture_intermediates=True)
    arrays = [leaf for leaf in jax.tree.leaves(captured["intermediates"]) if leaf.ndim == 4]
    return np.concatenate([np.asarray(leaf.mean((1, 2))) for leaf in arrays], -1)


def accuracy(sets: list[tuple[np.ndarray, np.ndarray]], penalties: tuple[float, ...]) -> float:
    """Of a logistic regression on the test set; (features, labels) of training, validation and test."""
    scaler = StandardScaler().fit(sets[0][0])
    (x, y), *held_out = [(scaler.transform(features), labels) for features, labels in sets]
    probes = [LogisticRegression(C=penalty, max_iter=2000).fit(x, y) for penalty in penalties]
    best = max(probes, key=lambda probe: probe.score(*held_out[0]))
    return float(best.score(*held_out[1]))


def decoder(features: np.ndarray, images: np.ndarray, steps: int, seed: int) -> Any:
    """A function from features to images, trained by squared error."""
    scale = float(features.std()) + 1e-8
    net = Decoder(images.shape[1:])
    params = net.init(jax.random.key(seed), features[:1])
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params: Any, state: Any, key: Array) -> tuple[Any, Any]:
        noise = 0.1 * jax.random.normal(key, features.shape)
        grads = jax.grad(lambda p: jnp.mean((net.apply(p, features / scale + noise) - images) ** 2))(params)
        with jax.numpy_dtype_promotion("standard"):  # optax needs it, also where the caller is stricter
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in tqdm(jax.random.split(jax.random.key(seed), steps), "decoder", unit="step", disable=None):
        params, state = step(params, state, key)
    return lambda features: np.asarray(net.apply(params, features / scale))


def between(features: np.ndarray, decode: Any, levels: int) -> np.ndarray:
    """Images at eight points between each and the next: `Int[n, 8, *event]`."""
    along = np.linspace(0, 1, 8, dtype=np.float32)[None, :, None]
    points = features[:, None] * (1 - along) + np.roll(features, -1, 0)[:, None] * along
    images = decode(points.reshape(-1, features.shape[-1]))
    return np.rint(images * (levels - 1)).astype(np.int32).reshape(len(features), 8, *images.shape[1:])


def main(config: Config) -> dict[str, float]:
    """Trains or resumes, probes, draws. Returns the accuracy by kind of features."""
    config = common.prepared(
        config, size=32, features=4, num_layers=1, steps=2, eval_every=1, decoder_steps=2, penalties=(1e-2,)
    )
    splits = common.load("digits", smoke=config.smoke)
    train, valid, test = splits
    model = GatedPixelCNN(
        Categorical(17),
        features=config.features,
        num_layers=config.num_layers,
        first_kernel_size=5,
        dropout=config.dropout,
    )
    variables, history = common.fit(model, config, train, valid, config.directory, ema_decay=0.99)
    plotting.curves(history, config.directory / "curves.png", event=train.event)
    diagonal = fisher.diagonal(model, variables, train.x.astype(np.int32))

    def scores(split: Dataset) -> np.ndarray:
        return fisher.features(
            model,
            variables,
            split.x.astype(np.int32),
            size=config.size,
            seed=config.seed,
            layers=config.layers,
            diagonal=diagonal,
            damping=config.damping,
        )

    found = [scores(split) for split in splits]
    kinds = {
        "pixels": [split.x.reshape(len(split), -1).astype(np.float64) for split in splits],
        "mean activations": [activations(model, variables, split.x) for split in splits],
        "Fisher scores": found,
    }
    labels = [np.asarray(split.labels) for split in splits]
    results = {
        name: accuracy(list(zip(sets, labels, strict=True)), config.penalties) for name, sets in kinds.items()
    }
    print(f"\n{'linear probe, test accuracy':32}{'numbers':>10}{'accuracy':>10}")
    for name, value in results.items():
        print(f"{name:32}{kinds[name][0].shape[1]:10}{value:10.4f}")

    chosen = np.unique(labels[2], return_index=True)[1][:10]
    images = test.x[chosen].astype(np.int32)
    pixels = [x.astype(np.float32) for x in kinds["pixels"]]
    rows = []
    for train_features, test_features in ((found[0], found[2]), (pixels[0], pixels[2])):
        decode = decoder(train_features, train.x.astype(np.float32) / 16, config.decoder_steps, config.seed)
        drawn = between(test_features[chosen], decode, 17)
        rows.append(np.concatenate([images[:, None], drawn, np.roll(images, -1, 0)[:, None]], 1))
    grid = np.stack(rows, 1).reshape(-1, *test.event)
    plotting.image_grid(grid, config.directory / "interpolations.png", levels=17, columns=10)
    print(f"\nthe model, curves.png, interpolations.png and results.json are in {config.directory}")
    return common.record(config, results, train, valid, test)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
