"""How do programs run on a board that has no Python, and leave nothing there? In a folder that a connection holds.

One connection makes the folder and waits; when it ends, however that happens, the board's own shell kills what runs in
the folder and removes it. Files and commands come by connections of their own meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgel0.devices.base import Job, Parcel, Session
from edgel0.devices.links import CANDIDATES, MAKE, PLACES, Link
from edgel0.errors import DeviceError


@dataclasses.dataclass(frozen=True)
class Held:
    """A folder on a board; ``link`` runs its commands in it, and names of files there are relative."""

    link: Link
    session: Session

    def send(self, source: Path, name: str) -> None:
        """Write a file into the folder and see that it arrived as it was."""
        with self._told():
            self.link.push(source, name)

    def run(self, argv: Sequence[str], seconds: float) -> str:
        """Run a program in the folder and return what it printed, both outputs together.

        Raises DeviceError, with its last words, when it fails, takes longer than ``seconds``, or is ended from here.
        """
        with self._told():
            link = dataclasses.replace(self.link, patience=seconds)
            return link.run(["sh", "-c", RUN, *argv]).decode("utf-8", errors="replace")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            if self.session.why:
                raise DeviceError(f"{self.link.board.name}: {self.session.why}.") from error
            raise


@contextlib.contextmanager
def held(link: Link, what: str, begin: Callable[[Callable[[], Session]], Session]) -> Iterator[Held]:
    """Hold a folder on a board for the length of a ``with`` block; ``what`` it is for is what errors say.

    ``begin`` starts the session, and may keep it to end it from elsewhere. Raises DeviceError when the board does not
    answer, or has no place.
    """
    name, marker = f"edgel0.{secrets.token_hex(8)}", secrets.token_hex(8)

    def release() -> None:
        link.run(["sh", "-c", RELEASE, name, link.folder])

    command = link.command(["sh", "-c", HOLD, name, marker, link.folder])
    nothing = Parcel(marker, lambda: iter(()), link.patience)
    job = Job(what, (), "", 1)
    with begin(lambda: Session(link.board.name, job, command, link.patience, release, nothing)) as session:
        session.hear("stored")
        inside = dataclasses.replace(
            link, command=lambda argv: link.command(["sh", "-c", INSIDE, name, link.folder, *argv])
        )
        yield Held(inside, session)


END = '{ [ ! -s "$made/pid" ] || kill -9 "$(cat "$made/pid")"; rm -rf -- "$made"; } 2> /dev/null'
RELEASE = PLACES + f"for place do made=$place/$0; {END}; done"
HOLD = (
    "marker=$1 made=; shift\n"
    + PLACES
    + f"""trap 'cd /; [ -z "$made" ] || {END}' EXIT
trap 'exit 129' HUP INT TERM
"""
    + MAKE
    + """printf '\\n%s\\n%s\\n' "$marker" '{"event": "stored"}'
cat > /dev/null
"""
)
INSIDE = f"""name=$0 folder=$1; shift
for place in "$folder" {CANDIDATES}; do
  [ -d "$place/$name" ] && cd -- "$place/$name" && exec "$@"
done
exit 73
"""
RUN = """"$0" "$@" > said 2>&1 & echo $! > pid
wait $!; code=$?; rm -f pid
if [ $code = 0 ]; then cat said; else tail -n 5 said >&2; fi
exit $code
"""
