"""Files for ExecuTorch: equal, deterministic, in few pieces. They need the extra executorch, which is heavy."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.errors import ExtraError, UsageError
from edgel0.exporters.executorch_file import NOTE
from edgel0.exporters.writing import export

from .small_nets import slimmed


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def slim():
    torch.manual_seed(0)
    return slimmed(Net().eval(), torch.randn(1, 3, 8, 8))


def test_without_the_library_the_extra_is_named(slim, tmp_path):
    try:
        import executorch  # noqa: F401
    except ImportError:
        with pytest.raises(ExtraError, match=r'pip install "edgel0\[executorch\]"'):
            export(slim, tmp_path / "m.pte")


def test_a_file_is_equal_and_the_same_every_time(slim, tmp_path):
    pytest.importorskip("executorch", reason="the extra executorch is not installed")
    made = export(slim, tmp_path / "m.pte")
    assert made.parity.max_abs < 1e-6
    assert made.provenance["pte"] == {"partitions": 1, "outside": []}
    assert [i.shape for i in made.inputs] == [(1, 3, 8, 8)]
    again = export(slim, tmp_path / "n.pte")
    assert made.path.read_bytes() == again.path.read_bytes()
    from executorch.runtime import Runtime

    (note,) = Runtime.get().load_program(made.path.read_bytes()).load_method(NOTE).execute([])
    assert json.loads(note) == made.provenance


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "float16"}, "float32 alone"),
        ({"layout": "nhwc"}, "'nchw' only"),
        ({"dynamic_batch": True}, "one"),
    ],
)
def test_what_it_cannot(slim, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        export(slim, tmp_path / "m.pte", **options)
    assert not list(tmp_path.iterdir())
