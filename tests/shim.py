"""Make torchvision importable beside a torch that its compiled operators were not built for."""

import importlib

import torch

try:
    importlib.import_module("torchvision")
except (ImportError, RuntimeError):
    _LIBRARY = torch.library.Library("torchvision", "DEF")  # the library lives as long as the reference
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
