"""Lists the trained models and draws samples of each: `python -m arjax.pretrained`.

Of what is installed this is also the test: files that are damaged, or samples that one parallel pass does not give
back, end it with an error.
"""

import io
import sys
import textwrap
import time

import jax
import numpy as np

import arjax
from arjax import pretrained
from arjax.data import Vocabulary
from arjax.layers.conditioning import num_classes
from arjax.modules import forward


def main() -> None:
    """Prints a table and samples; exits with an error where a sample is not the one that its noise belongs to."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that does not have the blocks
    print(f"{'name':16}{'model':15}{'data':18}{'parameters':>10}{'bytes':>11}{'nats, test set':>24}")
    for name in pretrained.names():
        model, card = type(pretrained.load(name)[0]).__name__, pretrained.about(name)
        size = (pretrained.FOLDER / f"{name}.npz").stat().st_size
        score = f"{card.nats:.3f} per {card.unit}"
        print(f"{name:16}{model:15}{card.data[-1]['name']:18}{card.parameters:10,}{size:11,}{score:>24}")
    if wrong := [name for name in pretrained.names() if not sampled(name)]:
        sys.exit(f"error: the samples of {', '.join(wrong)} are not those of their noise")


def sampled(name: str) -> bool:
    """Draws samples and prints them. Whether one parallel pass gives them back, but for ties in their noise."""
    (model, variables), card = pretrained.load(name), pretrained.about(name)
    shape = (1, 400) if card.symbols else (10, *card.event)
    classes = num_classes(model)
    labels = None if classes is None else np.arange(shape[0], dtype=np.int32) % classes
    noise = jax.random.uniform(jax.random.key(0), shape)
    begun = time.perf_counter()
    x = np.asarray(arjax.sample_from_noise(model, variables, noise, labels))
    seconds = time.perf_counter() - begun
    params = jax.jit(forward, static_argnums=0)(model, variables, x, labels)
    same = int((np.asarray(model.output.quantile(params, noise)) == x).sum())
    print(f"\n{text(x[0], card.symbols) if card.symbols else picture(x[..., 0], model.output.levels)}\n")
    print(f"{name}: drawn in {seconds:.1f} s, with compilation; one parallel pass gives {same} of {x.size} back")
    return same >= 0.99 * x.size


def text(x: np.ndarray, symbols: str) -> str:
    """Characters `Int[t]` as indented lines."""
    return textwrap.indent(Vocabulary(symbols).decode(x), "    ")


def picture(images: np.ndarray, levels: int, width: int = 90) -> str:
    """Images `Int[n, h, w]` in blocks, of two levels at half size; at most two rows, `width` characters wide."""
    if levels == 2:
        halves = np.pad(images, ((0, 0), (0, images.shape[1] % 2), (0, 0)))
        blocks = np.array(list(" ▄▀█"))[2 * halves[:, ::2] + halves[:, 1::2]]
    else:
        blocks = np.array(list(" ░▒▓█"))[np.rint(images * 4 / (levels - 1)).astype(np.int32)].repeat(2, axis=2)
    columns = max(1, width // (blocks.shape[2] + 1))
    rows = [blocks[first : first + columns] for first in range(0, min(len(blocks), 2 * columns), columns)]
    return "\n\n".join("\n".join(" ".join(map("".join, line)) for line in row.swapaxes(0, 1)) for row in rows)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
