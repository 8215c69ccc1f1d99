"""What artefacts cost at a revision of git: exactly their files are taken out of it, and counted as today's are.

git is asked for objects alone (``rev-parse``, ``ls-tree``, ``cat-file``): no checkout, no filter, no hook, no network,
nothing of the repository is run or written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from edgel0.checks.baseline import REVISION, Baseline
from edgel0.checks.figures import POINTER, RESULT
from edgel0.checks.onnx_files import external_files
from edgel0.checks.paths import chosen, plain
from edgel0.checks.recording import by_artifact, record
from edgel0.errors import DeviceError, UsageError
from edgel0.types import Limit

# Whatever the repository or its host has configured, nothing is started, fetched, asked or taken for another object.
CALM = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1"}
UNTRACKED = "git does not track this file, so that no revision has it: add it, or compare with edgel0-baseline.json"
SILENT = "without a word"
REGULAR = (b"100644", b"100755", b"100664")


def baseline_of(ref: str, limits: Iterable[Limit], folder: Path) -> Baseline:
    """Take the figures of all artefacts that limits are about from the revision ``ref``, below ``folder``.

    Raises:
        UsageError: ``ref`` names no commit, or the folder is in no repository.
        DeviceError: git is not installed, or failed.
    """
    limits = [limit for limit in limits if limit.level != "off"]
    commit = _commit(ref, folder)
    with tempfile.TemporaryDirectory(prefix="edgel0-base-") as made:
        tree = Tree(folder, commit, Path(made))
        about: dict[str, list[Limit]] = {}
        for limit in limits:
            patterns = limit.patterns or (limit.path,)
            for name in chosen(tree.files, patterns):
                about.setdefault(name, []).append(limit)
        for name in about:
            tree.take([name, f"{name}.json", (PurePosixPath(name).parent / RESULT).as_posix()])
            tree.take(_external(tree.place / name, name))
        tree.take(plain(limit.qualifiers["result"]) for limit in limits if "result" in limit.qualifiers)
        found = record([], tree.place, about)
    tracked = set(map(os.fsdecode, _git(folder, "ls-files", "-z").split(b"\0")))
    unknown = {*by_artifact(limits, folder)} - tracked - {*about}
    return replace(found, origin=f"{REVISION} {ref} ({commit[:9]})", absent=dict.fromkeys(unknown, UNTRACKED))


class GitError(DeviceError):
    """git ran, and failed."""


class Tree:
    """The files of one commit below a folder; those that are taken are written into ``place``."""

    def __init__(self, folder: Path, commit: str, place: Path) -> None:
        self.folder, self.place = folder, place
        listed = _git(folder, "ls-tree", "-r", "-z", commit)
        self.files: dict[str, tuple[bytes, str]] = {}
        for row in filter(None, listed.split(b"\0")):
            about, _, name = row.partition(b"\t")
            mode, _, digest = about.split(b" ")
            self.files[os.fsdecode(name)] = (mode, digest.decode("ascii"))

    def take(self, names: Iterable[str]) -> None:
        """Write files out of the commit; links and submodules are no files, and what is not there is left out."""
        for name in names:
            mode, digest = self.files.get(name, (b"", ""))
            target = self.place / name
            if mode not in REGULAR or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                _git(self.folder, "cat-file", "blob", digest, into=file.fileno())
            self._point(target)

    def _point(self, target: Path) -> None:
        """Put the content in the place of a Git LFS pointer where the repository has it."""
        content = target.read_bytes() if target.stat().st_size < 1024 else b""
        if not content.startswith(POINTER):
            return
        digest = next(
            (line[11:].decode("ascii", "replace") for line in content.splitlines() if line[:11] == b"oid sha256:"), ""
        )
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            return
        home = os.fsdecode(_git(self.folder, "rev-parse", "--git-common-dir").strip())
        stored = self.folder / home / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        if stored.is_file():
            shutil.copyfile(stored, target)


def _external(path: Path, name: str) -> Iterator[str]:
    """Yield the names of an ONNX model's external data files; those outside of its folder are no files of the tree."""
    if path.suffix.casefold() == ".onnx" and path.is_file():
        with contextlib.suppress(ValueError):
            for location in external_files(path.read_bytes()):
                yield (PurePosixPath(name).parent / location).as_posix()


def _commit(ref: str, folder: Path) -> str:
    """Return the digest of the commit that a name means."""
    if not ref or ref.startswith("-") or not ref.isprintable():
        raise UsageError(
            f"--base {ref!r:.80} is no name of a revision; give a branch, a tag or a commit, as origin/main."
        )
    try:
        found = _git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").decode("ascii").strip()
    except GitError as error:
        said = "" if SILENT in str(error) else f" ({str(error).rstrip('.')})"
        text = f"--base {ref!r:.80} names no commit of a repository that '{folder}' is in{said}"
        hint = "give a branch, a tag or a commit; in CI, fetch it first (actions/checkout with fetch-depth: 0)"
        raise UsageError(f"{text}; {hint}.") from error
    return found


def _git(folder: Path, *arguments: str, into: int | None = None) -> bytes:
    """Run git in a folder; what it says on failure is in the error."""
    command = ["git", "--no-pager", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **CALM},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if into is None else into,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise DeviceError(f"git cannot be started ({error.strerror}), and --base needs it; install git.") from error
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise GitError(f"git {arguments[0]} failed in '{folder}': {said or SILENT}.")
    return done.stdout or b""
