import pytest
import torch

from edgel0.exporters.writing import export

from .small_nets import WRITABLE, AudioNet, ImageNet, TwoByTwo, randomised, slimmed


@pytest.fixture(scope="session")
def nets():
    """Name -> (model, example), seeded."""
    torch.manual_seed(0)
    return {
        "image": (randomised(ImageNet()), (torch.randn(1, 3, 12, 10),)),
        "audio": (randomised(AudioNet()), (torch.randn(1, 1, 64),)),
        "two": (randomised(TwoByTwo()), (torch.randn(1, 3, 8, 8), torch.tensor([[1, 6, 0]]))),
    }


@pytest.fixture(scope="session")
def slims(nets):
    return {name: slimmed(model, *example) for name, (model, example) in nets.items()}


@pytest.fixture(scope="session")
def artifacts(slims, tmp_path_factory):
    """Every net in every format, exported once; TFLite of the image net in both layouts."""
    folder = tmp_path_factory.mktemp("artifacts")
    made = {(name, s): export(slims[name], folder / f"{name}{s}") for name in slims for s in WRITABLE}
    made["image", "nhwc"] = export(slims["image"], folder / "image_nhwc.tflite", layout="nhwc")
    return made
