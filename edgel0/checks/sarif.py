"""Verdicts as SARIF 2.1.0, which code scanning shows at the budget's line: one rule for each metric."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from edgel0 import __version__
from edgel0.checks.wording import NAMES, advice, file_of
from edgel0.quantities import METRICS
from edgel0.types import Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_sarif(verdicts: Sequence[Verdict]) -> str:
    """Return one result for each limit that does not hold, at its line, with the layers as logical locations."""
    metrics = [metric for metric in METRICS if any(verdict.limit.metric == metric for verdict in verdicts)]
    driver = {
        "name": "edgel0",
        "version": __version__,
        "rules": [
            {"id": metric, "shortDescription": {"text": f"The budget of {NAMES.get(metric, metric)} is kept."}}
            for metric in metrics
        ],
    }
    results = [_result(verdict, metrics) for verdict in verdicts if not verdict.passed]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(verdict: Verdict, metrics: list[str]) -> dict[str, Any]:
    """Return the result of one verdict."""
    limit = verdict.limit
    uri = quote(os.fsencode(file_of(limit)))
    physical = {"artifactLocation": {"uri": uri}, "region": {"startLine": limit.line or 1}}
    location: dict[str, Any] = {"physicalLocation": physical}
    if verdict.largest:
        names = dict.fromkeys(layer for layer, _, _ in verdict.largest)
        layers = [{"name": layer, "fullyQualifiedName": f"{limit.path}/{layer}"} for layer in names]
        location["logicalLocations"] = layers
    return {
        "ruleId": limit.metric,
        "ruleIndex": metrics.index(limit.metric),
        "level": "warning" if limit.level == "warn" else "error",
        "message": {"text": f"{limit.name}: {advice(verdict)}"},
        "locations": [location],
        "partialFingerprints": {"budget/v1": f"{limit.name} {limit.path} {limit.metric} {limit.bound}"},
    }
