"""Spoken digits (the Free Spoken Digit Dataset, CC BY-SA 4.0) as pictures of their sound, and two networks for them.

The data are one second at 8 kHz each, in an .npz: ``x`` int16 (clips, 8000), ``y`` the digits, ``index`` the number of
the recording; recordings 0 to 4 of each speaker and digit are the official test.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

RATE, WINDOW, HOP, BANDS = 8000, 256, 160, 20  # 32 ms windows every 20 ms: 49 of them in a second


class DSCNN(nn.Module):
    """A convolution over time and frequency, then depthwise separable ones: (N, 1, 49, 20) -> (N, 10)."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, width, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(blocks):
            layers += [nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.classifier(self.features(x).mean((2, 3)))


class Listener(nn.Module):
    """A small transformer over the time series of spectra: (N, 49, 20) -> (N, 10)."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(BANDS, width), nn.Parameter(torch.zeros(1, 49, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.classifier(self.encoder(self.embed(x) + self.place).mean(1))


def build_dscnn() -> nn.Module:
    """Make the convolutional network with fresh weights."""
    return DSCNN()


def build_transformer() -> nn.Module:
    """Make the transformer with fresh weights."""
    return Listener()


def load_pictures(path: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x_train, y_train, x_test, y_test; samples are (1, 49, 20), one channel of time by frequency."""
    x_train, y_train, x_test, y_test = load_series(path)
    return x_train[:, None], y_train, x_test[:, None], y_test


def load_series(path: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x_train, y_train, x_test, y_test; samples are (49, 20), a spectrum of 20 bands every 20 ms."""
    if path is None:
        raise ValueError(
            "the recordings are needed: give --data fsdd_8k.npz (x, y and index, one second at 8 kHz each)"
        )
    with np.load(path) as file:
        x, y, test = spectra(file["x"]), file["y"], file["index"] < 5
    mean, spread = x[~test].mean((0, 1)), x[~test].std((0, 1))
    x = (x - mean) / spread
    return x[~test], y[~test], x[test], y[test]


def spectra(sound: np.ndarray) -> np.ndarray:
    """Return log energies (clips, 49, 20) float32 in bands as wide as the ear's (mel), of int16 (clips, 8000)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound / 32768, WINDOW, axis=1)[:, ::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    return np.log(power @ mel() + 1e-6).astype(np.float32)


def mel() -> np.ndarray:
    """Return triangular filters (129 frequencies, 20 bands), evenly spaced by pitch from 60 Hz to 4 kHz."""
    pitch = np.linspace(*(2595 * np.log10(1 + np.array([60, RATE / 2]) / 700)), BANDS + 2)
    edges = 700 * (10 ** (pitch / 2595) - 1)
    frequency = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def shift(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each sample (..., 49, 20) up to eight windows earlier or later, and a little louder or quieter."""
    steps = torch.randint(-8, 9, (len(x),), generator=generator)
    places = (torch.arange(x.shape[-2]) - steps[:, None]).clamp(0, x.shape[-2] - 1)
    places = places.view(len(x), *[1] * (x.dim() - 3), -1, 1).expand(x.shape)
    louder = 0.2 * torch.randn((len(x), *[1] * (x.dim() - 1)), generator=generator)
    return x.gather(-2, places) + louder


def patchwork(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, and silence a band of time and one of frequency: a transformer would learn 2,700 clips by heart."""
    x = shift(x, generator)
    for axis, widest in ((-2, 10), (-1, 4)):
        size = x.shape[axis]
        start = torch.randint(size, (len(x), 1), generator=generator)
        width = torch.randint(widest + 1, (len(x), 1), generator=generator)
        index = torch.arange(size)
        silent = (index >= start) & (index < start + width)
        shape = (len(x), *[1] * (x.dim() - 3), size, 1) if axis == -2 else (len(x), *[1] * (x.dim() - 2), size)
        x = x.masked_fill(silent.view(shape), 0.0)
    return x
