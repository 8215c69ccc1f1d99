"""Do the snippets of docs/training.md run, and end within the budget?"""

import os
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from workbench import EXAMPLE, batch, differ, plain

import edgel0

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ELSEWHERE = ("DistributedDataParallel", "fully_shard (FSDP2)")  # test_ddp.py and test_fsdp.py run these


def space():
    return {
        **{"edgel0": edgel0, "torch": torch, "F": F, "os": os},
        **{"AveragedModel": AveragedModel, "get_ema_multi_avg_fn": get_ema_multi_avg_fn},
        **{"model": plain().train(), "example": EXAMPLE, "loader": [batch(at) for at in range(60)], "steps": 60},
    }


def names():
    return re.findall(r"^## (.*)$", TEXT, re.MULTILINE)


def snippet(name):
    start = TEXT.index(f"## {name}\n") if name else 0
    return TEXT[start:].split("```python\n", 1)[1].split("```", 1)[0]


# Dynamo looks at .grad of all that goes into a graph; users do not see it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["", *(name for name in names() if name not in ELSEWHERE)])
def test_a_snippet_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, given = snippet(name), space()
    if "torch.compile" in code:
        code = code.replace("torch.compile(model)", 'torch.compile(model, backend="eager")')
    exec(code, given)
    schedule = given["schedule"]
    assert schedule.phase == "settle"
    assert schedule.budget.limits.fits(schedule.masks.open)
    if "slim" in given:
        assert given["slim"].cost.macs < given["slim"].dense.macs


def test_a_resumed_snippet_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, first, second = snippet("Checkpoint and resume"), space(), space()
    first["loader"] = first["loader"][:45]
    exec(code, first)
    exec(code, second)
    whole = space()
    (tmp_path / "checkpoint.pt").unlink()
    exec(code, whole)
    assert not differ(second["model"].state_dict(), whole["model"].state_dict())
    assert (first["schedule"].at, second["schedule"].at) == (45, 60)


def test_every_test_that_is_named_is_there():
    for name in re.findall(r"`(test_\w+\.py)`", TEXT):
        assert Path(__file__).with_name(name).exists(), name
