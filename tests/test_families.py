"""Every torchvision classification family, as it is: nothing unknown, something to remove, masked == slim."""

import pytest
import shim  # noqa: F401 - makes the next import work where torchvision's compiled operators are missing
import torch
import torchvision
from oracle import agree, outputs, randomise

from edgel0.tracing import trace
from edgel0.types import Masks

MODELS = torchvision.models

# Name: (side of the example, removable units, arguments).
FAMILIES = {
    "alexnet": (64, 9344, {}),
    "vgg11_bn": (32, 10944, {}),
    "resnet18": (32, 2880, {}),
    "resnext50_32x4d": (32, 4376, {}),
    "densenet121": (32, 10240, {}),
    "googlenet": (32, 7280, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (75, 17216, {"init_weights": False}),
    "mobilenet_v2": (32, 9128, {}),
    "mobilenet_v3_small": (32, 4872, {}),
    "mnasnet0_5": (32, 5744, {}),
    "efficientnet_b0": (32, 11404, {}),
    "squeezenet1_1": (32, 2944, {}),
    "shufflenet_v2_x0_5": (32, 2080, {}),
    "regnet_y_400mf": (32, 2048, {}),
    "convnext_tiny": (32, 26496, {}),
    "vit_b_16": (32, 37008, {"image_size": 32}),
    "swin_t": (64, 17802, {}),
}
SWIN_V2 = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [3, 6],
    "window_size": [4, 4],
    "stochastic_depth_prob": 0.0,
}
MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 16,
    "partition_size": 2,
    "block_channels": [16, 32],
    "block_layers": [2, 2],
    "head_dim": 8,
    "stochastic_depth_prob": 0.2,
}


def swin_v2():
    swin = MODELS.swin_transformer
    return swin.SwinTransformer(**SWIN_V2, block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)


def removes_half(model, side, units):
    model = randomise(model)
    example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).double()
    coupling = trace(model, example)
    assert not coupling.unknown
    assert coupling.units == units
    wanted = agree(model, Masks.random(coupling, 0.5, seed=0), example)[0]
    dense = outputs(model, example)[0]
    assert float((wanted - dense).abs().max()) > 1e-3 * float(dense.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    side, units, settings = FAMILIES[name]
    removes_half(getattr(MODELS, name)(weights=None, **settings), side, units)


def test_small_swin_v2():
    removes_half(swin_v2(), 64, 2 * (3 + 4 * 24) + 2 * (6 + 4 * 48))


def test_small_maxvit():
    removes_half(MODELS.MaxVit(**MAXVIT), 64, 1264)
