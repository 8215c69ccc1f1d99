"""From a PyTorch model and a budget to a smaller, verified, measured edge artefact.

Names are loaded when they are used: importing edgel0 imports neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from edgel0.attaching import attach as attach
    from edgel0.attaching import detach as detach
    from edgel0.budget import Budget as Budget
    from edgel0.checks.verdict import check as check
    from edgel0.cost import COST as COST
    from edgel0.devices.measure import measure as measure
    from edgel0.exporters.loading import load as load
    from edgel0.exporters.loading import save as save
    from edgel0.exporters.writing import export as export
    from edgel0.flow import FLOW as FLOW
    from edgel0.masks import masked as masked
    from edgel0.masks import stabilize as stabilize
    from edgel0.scheduling import Schedule as Schedule
    from edgel0.shrinking import shrink_ as shrink_
    from edgel0.shrinking import shrunk as shrunk
    from edgel0.slimming import slim as slim
    from edgel0.tracing import trace as trace
    from edgel0.types import Masks as Masks

# Public name -> (module, the extra that brings what the module imports).
_HOMES = {
    "trace": ("edgel0.tracing", "train"),
    "FLOW": ("edgel0.flow", "train"),
    "COST": ("edgel0.cost", "train"),
    "attach": ("edgel0.attaching", "train"),
    "detach": ("edgel0.attaching", "train"),
    "Budget": ("edgel0.budget", "train"),
    "Schedule": ("edgel0.scheduling", "train"),
    "stabilize": ("edgel0.masks", "train"),
    "masked": ("edgel0.masks", "train"),
    "Masks": ("edgel0.types", ""),
    "shrink_": ("edgel0.shrinking", "train"),
    "shrunk": ("edgel0.shrinking", "train"),
    "slim": ("edgel0.slimming", "train"),
    "export": ("edgel0.exporters.writing", "onnx"),
    "save": ("edgel0.exporters.loading", "train"),
    "load": ("edgel0.exporters.loading", "train"),
    "measure": ("edgel0.devices.measure", ""),
    "check": ("edgel0.checks.verdict", ""),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its home; say which extra is missing if that fails."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgel0' has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        from edgel0.errors import ExtraError

        if not extra or (error.name or "").startswith("edgel0"):
            raise
        raise ExtraError(
            f"edgel0.{name} needs {error.name!r}, which is not installed; it comes with the extra {extra!r}: run  "
            f'pip install "edgel0[{extra}]"  and try again.'
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
