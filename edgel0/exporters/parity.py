"""Does a file compute what its model computes? The outputs of both, compared on the same samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgel0.errors import ParityError
from edgel0.types import Parity

Arrays = tuple[np.ndarray, ...]


def compare(
    expected: Sequence[Arrays],
    found: Sequence[Arrays],
    *,
    names: Sequence[str],
    reference: str,
    runtime: str,
    tolerance: float,
    floor: float = 1.0,
) -> Parity:
    """Measure how far ``found`` is from ``expected``: one tuple of outputs per sample, outputs called ``names``.

    The figures are those of the worst output; ``top1`` is of the first. Raises :class:`~edgel0.errors.ParityError`
    where the largest absolute difference of an output exceeds ``tolerance``, where outputs differ in number or shape,
    and where a value on either side is NaN or infinite. ``tolerance`` is a share of the reference's largest absolute
    value, or of ``floor`` where all are smaller. A caller who only wants the figures passes ``math.inf``.
    """
    if not expected or len(expected) != len(found):
        raise ParityError(
            f"{reference} answered {len(expected)} samples and {runtime} {len(found)}; both need the same."
        )
    for sample, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        _check_comparable(sample, wanted, got, names, reference, runtime)

    pairs = [
        (np.stack(wanted).astype(np.float64), np.stack(got).astype(np.float64))
        for wanted, got in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    ]
    gaps = [np.abs(got - wanted) for wanted, got in pairs]
    parity = Parity(
        reference=reference,
        runtime=runtime,
        samples=len(expected),
        max_abs=max(_largest(gap) for gap in gaps),
        mean_abs=max(float(gap.mean()) if gap.size else 0.0 for gap in gaps),
        relative=max(_largest(gap) / (_largest(wanted) or 1.0) for gap, (wanted, _) in zip(gaps, pairs, strict=True)),
        top1=_top1(*pairs[0]),
        tolerance=tolerance,
    )
    allowed = [tolerance * max(floor, _largest(wanted)) for wanted, _ in pairs]
    worst = max(range(len(gaps)), key=lambda index: _largest(gaps[index]) - allowed[index])
    if _largest(gaps[worst]) > allowed[worst]:
        place = tuple(int(index) for index in np.unravel_index(gaps[worst].argmax(), gaps[worst].shape))
        left, right = (float(side[place]) for side in pairs[worst])
        raise ParityError(
            f"output {names[worst]!r} differs by {_largest(gaps[worst]):.3g} in sample {place[0]} at {place[1:]}: "
            f"{reference} gives {left:.6g}, {runtime} {right:.6g}, and the tolerance is {allowed[worst]:.3g}."
        )
    return parity


def _check_comparable(
    sample: int, wanted: Arrays, got: Arrays, names: Sequence[str], reference: str, runtime: str
) -> None:
    if not len(wanted) == len(got) == len(names):
        raise ParityError(
            f"{reference} gives {len(wanted)} outputs and {runtime} {len(got)}; "
            f"the program has {len(names)}: {', '.join(names)}."
        )
    for name, left, right in zip(names, wanted, got, strict=True):
        if left.shape != right.shape:
            raise ParityError(
                f"output {name!r} of sample {sample} has shape {left.shape} in {reference} "
                f"and {right.shape} in {runtime}."
            )
        for side, array in ((reference, left), (runtime, right)):
            if not np.isfinite(array).all():
                raise ParityError(
                    f"output {name!r} of sample {sample} holds NaN or infinity in {side}; nothing can be equal to that."
                )


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _top1(wanted: np.ndarray, got: np.ndarray) -> float:
    """Return the share of rows (along the last axis, over all samples) whose largest entry is the same."""
    if wanted.ndim < 2 or not wanted.size:
        return 1.0
    return float((wanted.argmax(-1) == got.argmax(-1)).mean())


def accuracy(found: Sequence[Arrays], labels: Sequence[int]) -> float:
    """Return the share of samples whose first output is largest, along its last axis, at the sample's label."""
    right = [int(answer[0].reshape(-1).argmax()) == label for answer, label in zip(found, labels, strict=True)]
    return sum(right) / len(right)


def check_drop(expected: Sequence[Arrays], found: Sequence[Arrays], labels: Sequence[int] | None, most: float) -> None:
    """Refuse a file that answers worse than its reference by more than ``most``, a share of the samples.

    With ``labels`` the accuracy counts; without, the share of samples whose largest output is another one.

    Raises:
        ParityError: it does.
    """
    if labels is None:
        changed = [(want[0].argmax(-1) != got[0].argmax(-1)).mean() for want, got in zip(expected, found, strict=True)]
        drop, told = float(np.mean(changed)), "has another largest output than its reference in"
    else:
        before, after = accuracy(expected, labels), accuracy(found, labels)
        drop, told = before - after, f"answers {after:.2%} of the samples right and its reference {before:.2%}:"
    if drop > most + 1e-9:
        raise ParityError(
            f"it {told} {drop:.2%} {'of the samples' if labels is None else 'fewer'}, where {most:.2%} is allowed; "
            "calibrate on more samples, keep the most sensitive layers in float32 (keep_float='auto'), or allow more."
        )
