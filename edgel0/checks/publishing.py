"""Where verdicts are written beside the terminal: a file that was asked for, and the summary of a CI step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgel0.checks.markdown import as_markdown
from edgel0.errors import DeviceError
from edgel0.types import Verdict

SUMMARY = "GITHUB_STEP_SUMMARY"


def publish(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it into it.

    Raises:
        DeviceError: it cannot be written; what stood there is untouched.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DeviceError(
            f"{path} cannot be written ({error.strerror}); give a file in a folder that exists and is writable. What "
            "stood there is untouched."
        ) from error


def step_summary(verdicts: Sequence[Verdict]) -> None:
    """Append the Markdown table to the file that GitHub Actions (Gitea, Forgejo) offers for it, if any."""
    place = os.environ.get(SUMMARY)
    if not place:
        return
    try:
        with Path(place).open("a", encoding="utf-8", newline="\n") as file:
            file.write(as_markdown(verdicts) + "\n\n")
    except OSError as error:
        raise DeviceError(
            f"the step summary {place!r} cannot be written ({error.strerror}); unset {SUMMARY}."
        ) from error
