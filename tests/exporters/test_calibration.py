"""Samples of a file: shaped as the program takes them, and refused in one paragraph where they are not."""

import numpy as np
import pytest
import torch

from edgel0.errors import UsageError
from edgel0.exporters.calibration import read_samples, spread_out

RNG = np.random.default_rng(0)
PICTURES, TOKENS = RNG.normal(size=(7, 3, 8, 8)).astype(np.float32), RNG.integers(0, 7, (7, 3))


def test_an_array_per_input_by_name(slims, tmp_path):
    program = slims["two"].program
    np.savez(tmp_path / "data.npz", tokens=TOKENS[:, None], picture=PICTURES)
    samples = read_samples(tmp_path / "data.npz", program)
    assert len(samples) == 7
    for at, sample in enumerate(samples):
        assert [(t.shape, t.dtype) for t in sample] == [((1, 3, 8, 8), torch.float32), ((1, 3), torch.int64)]
        assert torch.equal(sample[0][0], torch.from_numpy(PICTURES[at]))
        assert sample[1].tolist() == [TOKENS[at].tolist()]
        program.module()(*sample)


def test_a_single_input_needs_no_name(slims, tmp_path):
    waves = RNG.normal(size=(5, 1, 64))
    np.save(tmp_path / "a.npy", waves)
    np.savez(tmp_path / "a.npz", anything=waves[:, None])
    for file in ("a.npy", "a.npz"):
        samples = read_samples(tmp_path / file, slims["audio"].program)
        assert [x.shape for (x,) in samples] == [(1, 1, 64)] * 5
        assert samples[0][0].dtype == torch.float32


def test_what_is_no_file_of_samples_is_refused(slims, tmp_path):
    program = slims["two"].program

    def refused(content, *words):
        if callable(content):
            content(tmp_path / "data.npz")
        else:
            (tmp_path / "data.npz").write_bytes(content)
        with pytest.raises(UsageError) as told:
            read_samples(tmp_path / "data.npz", program)
        assert "\n" not in str(told.value)
        for word in words:
            assert word in str(told.value)

    refused(b"", "is no file of samples")
    refused(b"PK\x03\x04 cut off", "is no file of samples")
    refused(b"nonsense", "is no file of samples")
    refused(lambda path: np.savez(path, picture=PICTURES), "holds 'picture'", "takes 'picture', 'tokens'")
    refused(lambda path: np.savez(path, picture=PICTURES, tokens=TOKENS[:3]), "{'picture': 7, 'tokens': 3}")
    refused(lambda path: np.savez(path, picture=PICTURES[:0], tokens=TOKENS[:0]), "above 0 is needed")
    refused(lambda path: np.savez(path, picture=PICTURES[:, :2], tokens=TOKENS), "shape (7, 2, 8, 8)", "(1, 3, 8, 8)")
    refused(lambda path: np.savez(path, picture=PICTURES.astype("U9"), tokens=TOKENS), "samples of shape")
    objects = np.array([{}] * 7, dtype=object)
    refused(lambda path: np.savez(path, allow_pickle=True, picture=objects, tokens=TOKENS), "is no file of samples")
    with pytest.raises(UsageError, match="is no file of samples"):
        read_samples(tmp_path / "absent.npz", program)


@pytest.mark.parametrize(("count", "chosen"), [(3, [0, 3, 6]), (1, [0]), (10, list(range(10))), (99, list(range(10)))])
def test_samples_are_spread_evenly(count, chosen):
    assert spread_out(list(range(10)), count) == chosen
