import math

import numpy as np
import pytest

from edgel0.errors import ParityError
from edgel0.exporters.parity import compare


def parity(expected, found, tolerance=1e-5, names=("a", "b")):
    names = names[: len(expected[0])]
    return compare(expected, found, names=names, reference="torch", runtime="board", tolerance=tolerance)


def arrays(*rows):
    return [tuple(np.array(value, dtype=np.float32) for value in row) for row in rows]


def test_figures_by_hand():
    expected = arrays([[[1.0, 2.0]], [[4.0, 0.0]]], [[[3.0, 1.0]], [[0.0, 8.0]]])
    found = arrays([[[1.0, 2.5]], [[4.0, 0.0]]], [[[1.0, 1.5]], [[0.0, 7.0]]])
    result = parity(expected, found, tolerance=2.0)
    assert (result.samples, result.max_abs, result.mean_abs) == (2, 2.0, 0.75)
    assert result.relative == pytest.approx(2 / 3)  # the first output; the second is off by 1 of 8
    assert result.top1 == 0.5
    assert (result.reference, result.runtime, result.tolerance) == ("torch", "board", 2.0)


def test_equal_is_zero_even_where_all_is_zero():
    zero = arrays([[0.0, 0.0]])
    result = parity(zero, zero, tolerance=0.0)
    assert (result.max_abs, result.relative, result.top1) == (0.0, 0.0, 1.0)


def test_a_difference_says_how_much_and_where():
    expected, found = (
        arrays([[[1.0, 2.0]], [[0.0]]], [[[1.0, 2.0]], [[0.0]]]),
        arrays([[[1, 2]], [[0]]], [[[1, 5]], [[0]]]),
    )
    with pytest.raises(ParityError, match=r"output 'a' differs by 3 in sample 1 at \(0, 1\): torch gives 2, board 5"):
        parity(expected, found)


def test_the_worst_output_counts():
    expected, found = arrays([[1.0], [1.0]]), arrays([[1.0], [3.0]])
    with pytest.raises(ParityError, match="'b' differs by 2"):
        parity(expected, found)
    assert parity(expected, found, tolerance=math.inf).max_abs == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["torch", "board"])
def test_what_is_not_finite_is_never_equal(bad, side):
    good, broken = arrays([[1.0, 2.0]]), arrays([[1.0, bad]])
    expected, found = (broken, good) if side == "torch" else (good, broken)
    with pytest.raises(ParityError, match=f"holds NaN or infinity in {side}"):
        parity(expected, found, tolerance=math.inf)
    with pytest.raises(ParityError, match="NaN"):
        parity(broken, broken)


def test_shapes_and_counts_must_agree():
    with pytest.raises(ParityError, match=r"'a' of sample 0 has shape \(2,\) in torch and \(1, 2\) in board"):
        parity(arrays([[1.0, 2.0]]), arrays([[[1.0, 2.0]]]))
    with pytest.raises(ParityError, match="torch gives 1 outputs and board 2"):
        parity(arrays([[1.0]]), arrays([[1.0], [1.0]]))
    with pytest.raises(ParityError, match="answered 1 samples and board 2"):
        parity(arrays([[1.0]]), arrays([[1.0]], [[1.0]]))


def test_integers_and_scalars_compare_as_numbers():
    result = parity(
        [(np.array(3, dtype=np.int64), np.array([True]))], [(np.array(3, dtype=np.int32), np.array([True]))]
    )
    assert (result.max_abs, result.top1) == (0.0, 1.0)
