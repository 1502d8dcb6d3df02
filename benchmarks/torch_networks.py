"""PixelCNN, Gated PixelCNN and PixelCNN++ in plain PyTorch, of the architectures and sizes of `arjax.models`.

Written as public PyTorch code is: PixelCNN masks its kernels (the masked part takes its time, too), the networks
of two stacks pad theirs and shift the image once, PixelCNN++ normalises its weights by `parametrizations`. Images
are `Int[b, channels, h, w]`, binary for the first two and of 256 levels and three channels for the third;
memory is laid out as PyTorch does it unasked. No network has conditions.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from arjax import models
from arjax.distributions import Bernoulli, DiscretizedLogisticMixture


def shift(x: Tensor, axis: int) -> Tensor:
    """What stands one row above (axis 2) or one column to the left (axis 3), zeros at the edge."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1] if axis == 2 else F.pad(x, (1, 0))[..., :-1]


def scaled(x: Tensor, levels: int) -> Tensor:
    """Levels in [-1, 1], and a channel of ones: what tells a pixel from padding."""
    value = x.float() * (2 / (levels - 1)) - 1
    return torch.cat([value, torch.ones_like(value[:, :1])], 1)


class MaskedConv(nn.Conv2d):
    """Sees what comes before a pixel in raster order, and with mask B the pixel itself."""

    def __init__(self, mask_type: str, inputs: int, outputs: int, size: int):
        super().__init__(inputs, outputs, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + (mask_type == "B")] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w) -> (b, outputs, h, w)`."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class ResidualBlock(nn.Module):
    """1 x 1 to h features, k x k, 1 x 1 back to 2h."""

    def __init__(self, features: int, size: int):
        super().__init__()
        self.reduce = nn.Conv2d(2 * features, features, 1)
        self.conv = MaskedConv("B", features, features, size)
        self.expand = nn.Conv2d(features, 2 * features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, 2h, height, width)` to the same."""
        return x + self.expand(F.relu(self.conv(F.relu(self.reduce(F.relu(x))))))


class PixelCNN(nn.Module):
    """As `arjax.models.PixelCNN` of one channel and binary outputs."""

    def __init__(self, model: models.PixelCNN):
        super().__init__()
        h, head = model.features, model.head_features
        self.first = MaskedConv("A", 2, 2 * h, model.first_kernel_size)
        self.blocks = nn.Sequential(*[ResidualBlock(h, model.kernel_size) for _ in range(model.num_blocks)])
        layers = [nn.Conv2d(2 * h, head, 1), nn.Conv2d(head, head, 1), nn.Conv2d(head, 1, 1)]
        self.head = nn.Sequential(*[part for layer in layers for part in (nn.ReLU(), layer)])

    def forward(self, x: Tensor) -> Tensor:
        """Images `(b, 1, h, w)` to logits of the same shape."""
        return self.head(self.blocks(self.first(scaled(x, 2))))

    def nats(self, x: Tensor) -> Tensor:
        """Negative log-likelihood, the mean of the examples."""
        return binary_nats(self(x), x)


class GatedLayer(nn.Module):
    """One layer of both stacks."""

    def __init__(self, inputs: int, features: int, size: int, first: bool):
        super().__init__()
        past, p = size // 2 + 1, features
        self.size, self.past, self.first = size, past, first
        self.vertical = nn.Conv2d(inputs, 2 * p, (past, size))
        self.horizontal = nn.Conv2d(inputs, 2 * p, (1, past), bias=False)
        self.link = nn.Conv2d(2 * p, 2 * p, 1)
        self.out = nn.Conv2d(p, p, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The next features of both stacks."""
        side = self.size // 2
        v = self.vertical(F.pad(v, (side, side, self.past - 1, 0)))
        out = self.out(gate(self.horizontal(F.pad(h, (self.past - 1, 0))) + self.link(v)))
        return gate(v), out if self.first else h + out


def gate(x: Tensor) -> Tensor:
    """`tanh(f) * sigmoid(g)` of both halves of the channels."""
    f, g = x.chunk(2, 1)
    return torch.tanh(f) * torch.sigmoid(g)


class GatedPixelCNN(nn.Module):
    """As `arjax.models.GatedPixelCNN` of one channel and binary outputs."""

    def __init__(self, model: models.GatedPixelCNN):
        super().__init__()
        p, head = model.features, model.head_features
        sizes = [model.first_kernel_size] + [model.kernel_size] * (model.num_layers - 1)
        self.layers = nn.ModuleList([GatedLayer(p if i else 2, p, size, not i) for i, size in enumerate(sizes)])
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(p, head, 1), nn.ReLU(), nn.Conv2d(head, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images `(b, 1, h, w)` to logits of the same shape."""
        x = scaled(x, 2)
        v, h = shift(x, 2), shift(x, 3)
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h)

    def nats(self, x: Tensor) -> Tensor:
        """Negative log-likelihood, the mean of the examples."""
        return binary_nats(self(x), x)


def binary_nats(logits: Tensor, x: Tensor) -> Tensor:
    """Negative log-likelihood of binary images, the mean of the examples."""
    return F.binary_cross_entropy_with_logits(logits, x.float(), reduction="sum") / len(x)


class Padded(nn.Module):
    """A weight-normalised convolution of an image padded on its left, right and top, and at its bottom never."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], padding=(0, 0, 0, 0), stride: int = 1):
        super().__init__()
        self.padding = padding
        self.conv = parametrizations.weight_norm(nn.Conv2d(inputs, outputs, size, stride))

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w) -> (b, outputs, h / stride, w / stride)`."""
        return self.conv(F.pad(x, self.padding) if any(self.padding) else x)


def rows_conv(inputs: int, outputs: int, stride: int = 1) -> Padded:
    """2 x 3: the rows above and the present one."""
    return Padded(inputs, outputs, (2, 3), (1, 1, 1, 0), stride)


def pixels_conv(inputs: int, outputs: int, stride: int = 1) -> Padded:
    """2 x 2: the row above, the column on the left and the pixel."""
    return Padded(inputs, outputs, (2, 2), (1, 0, 1, 0), stride)


def grow(features: int, size: tuple[int, int], padding: int) -> nn.Module:
    """Twice the height and width."""
    conv = nn.ConvTranspose2d(features, features, size, 2, (0, padding), (0, padding))
    return parametrizations.weight_norm(conv, dim=1)


def concat_elu(x: Tensor) -> Tensor:
    """`elu([x, -x])`, twice the channels."""
    return F.elu(torch.cat([x, -x], 1))


class Block(nn.Module):
    """A gated residual block."""

    def __init__(self, conv: Callable[[int, int], nn.Module], n: int, dropout: float, short_cut: bool):
        super().__init__()
        self.first, self.second = conv(2 * n, n), conv(2 * n, 2 * n)
        self.earlier = Padded(2 * n, n, (1, 1)) if short_cut else None
        self.dropping = nn.Dropout(dropout)

    def forward(self, x: Tensor, earlier: Tensor | None = None, link: Tensor | None = None) -> Tensor:
        """`x` and what the gates add; `earlier` and `link` are added after the first convolution."""
        y = self.first(concat_elu(x))
        if link is not None:
            y = y + link
        if self.earlier is not None:
            y = y + self.earlier(concat_elu(earlier))
        a, b = self.second(self.dropping(concat_elu(y))).chunk(2, 1)
        return x + a * torch.sigmoid(b)


class Level(nn.Module):
    """The blocks of both streams at one size, and between down and up the level of half that size."""

    def __init__(self, depth: int, n: int, num_blocks: int, dropout: float):
        super().__init__()
        downs, ups = num_blocks, num_blocks + (depth > 0)
        self.rows = nn.ModuleList([Block(rows_conv, n, dropout, i >= downs) for i in range(downs + ups)])
        self.pixels = nn.ModuleList([Block(pixels_conv, n, dropout, i >= downs) for i in range(downs + ups)])
        self.links = nn.ModuleList([Padded(2 * n, n, (1, 1)) for _ in range(downs + ups)])
        self.downs, self.depth = downs, depth
        if depth:
            self.shrink_rows, self.shrink_pixels = rows_conv(n, n, 2), pixels_conv(n, n, 2)
            self.grow_rows, self.grow_pixels = grow(n, (2, 3), 1), grow(n, (2, 2), 0)
            self.coarse = Level(depth - 1, n, num_blocks, dropout)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The next features of both streams."""
        stored: list[Any] = [(u, h)]
        for i, (rows, pixels, link) in enumerate(zip(self.rows, self.pixels, self.links, strict=True)):
            if i == self.downs:
                if self.depth:
                    u, h = self.coarse(self.shrink_rows(u), self.shrink_pixels(h))
                    u, h = self.grow_rows(u), self.grow_pixels(h)
                else:
                    stored.pop()
            earlier = stored.pop() if i >= self.downs else (None, None)
            u = rows(u, earlier[0])
            h = pixels(h, earlier[1], link(concat_elu(u)))
            if i < self.downs:
                stored.append((u, h))
        return u, h


class PixelCNNPP(nn.Module):
    """As `arjax.models.PixelCNNPP` of three channels with 256 levels."""

    def __init__(self, model: models.PixelCNNPP):
        super().__init__()
        n = model.features
        self.first_rows = rows_conv(4, n)
        self.first_above = Padded(4, n, (1, 3), (1, 1, 0, 0))
        self.first_left = Padded(4, n, (2, 1), (0, 0, 1, 0))
        self.level = Level(model.num_levels - 1, n, model.num_blocks, model.dropout)
        self.head = Padded(n, model.output.num_joint_params(3), (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images `(b, 3, h, w)` to parameters of the mixture, `(b, 10 K, h, w)`."""
        x = scaled(x, 256)
        above, left = shift(x, 2), shift(x, 3)
        _, h = self.level(self.first_rows(above), self.first_above(above) + self.first_left(left))
        return self.head(F.elu(h))

    def nats(self, x: Tensor) -> Tensor:
        """Negative log-likelihood, the mean of the examples."""
        return mixture_nats(self(x), x)


def mixture_nats(params: Tensor, x: Tensor) -> Tensor:
    """Of the mixture of discretized logistics of three coupled channels, as in the authors' code."""
    values = x.permute(0, 2, 3, 1)[..., None].float() / 127.5 - 1
    weights, *others = params.permute(0, 2, 3, 1).unflatten(-1, (10, -1)).unbind(-2)
    means, log_scales = torch.stack(others[:3], -2), torch.stack(others[3:6], -2).clamp(min=-7.0)
    first, second, third = (torch.tanh(coefficient) for coefficient in others[6:])
    red, green = values[..., 0, :], values[..., 1, :]
    shifts = [torch.zeros_like(first), first * red, second * red + third * green]
    centred, inverse = values - (means + torch.stack(shifts, -2)), torch.exp(-log_scales)
    plus, minus, middle = (inverse * (centred + edge / 255) for edge in (1, -1, 0))
    mass = torch.sigmoid(plus) - torch.sigmoid(minus)
    density = middle - log_scales - 2 * F.softplus(middle) - np.log(127.5)
    inner = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density)
    edged = torch.where(values > 0.999, -F.softplus(minus), inner)
    log_probs = torch.where(values < -0.999, plus - F.softplus(plus), edged).sum(-2) + F.log_softmax(weights, -1)
    return -torch.logsumexp(log_probs, -1).sum() / len(x)


NETWORKS: dict[type, type] = {
    models.PixelCNN: PixelCNN,
    models.GatedPixelCNN: GatedPixelCNN,
    models.PixelCNNPP: PixelCNNPP,
}
"""Of each model the network like it."""
OUTPUTS = (Bernoulli(), DiscretizedLogisticMixture())
"""The outputs that they have."""


def num_params(network: nn.Module) -> int:
    """Parameters that masks leave."""
    masked = sum(
        conv.weight.numel() - int((conv.mask.expand_as(conv.weight) != 0).sum())
        for conv in network.modules()
        if isinstance(conv, MaskedConv)
    )
    return sum(parameter.numel() for parameter in network.parameters()) - masked


def train_step(network: nn.Module, x: np.ndarray, ema_decay: float) -> Callable[[], float]:
    """A step of training on `x`, `Int[b, h, w, c]`: gradient, clipping, AdamW, moving average. Returns nats."""
    images = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0, fused=True)
    average = copy.deepcopy(network)
    averages, parameters = list(average.parameters()), list(network.parameters())

    def step() -> float:
        optimizer.zero_grad()
        nats = network.nats(images)
        nats.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - ema_decay)
        return nats.item()

    return step
