"""Small networks as the exporters get them: traced, with a made-up cost."""

import importlib.util

import torch
import torch.nn.functional as F
from torch import nn

from edgel0.exporters.writing import EXPORTERS
from edgel0.types import Cost, Slimmed


class ImageNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        x = F.relu(self.norm(self.stem(image)))
        x = F.relu(self.norm2(self.depthwise(x)))
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


class AudioNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 5, stride=2)
        self.norm = nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 4, 3)
        self.norm2 = nn.BatchNorm1d(4)

    def forward(self, wave):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm(self.conv(wave)))))).mean(-1)


class TwoByTwo(nn.Module):
    """Two inputs, one of them token numbers; two named outputs, one of them named like a value inside."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.words = nn.Embedding(7, 4)

    def forward(self, picture, tokens):
        seen = F.relu(self.norm(self.conv(picture)))
        return {"relu": seen.mean((2, 3)) + self.words(tokens).sum(1), "map": seen}


def randomised(model, seed=0):
    """Give batch norms statistics and weights that folding cannot get right by luck."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.3)
            if module.affine:
                module.weight.data.copy_(torch.randn(module.num_features, generator=generator))
                module.bias.data.copy_(torch.randn(module.num_features, generator=generator))
    return model.eval()


def slimmed(model, *example):
    program = torch.export.export(model, example, strict=False)
    return Slimmed(program, Cost(1, 2, 3, 4), Cost(10, 20, 30, 40), {"rule": "median", "kept": {"stem": 8}})


# The formats whose libraries are installed; ExecuTorch is heavy, so its own tests skip without it.
WRITABLE = [suffix for suffix in EXPORTERS if suffix != ".pte" or importlib.util.find_spec("executorch")]
