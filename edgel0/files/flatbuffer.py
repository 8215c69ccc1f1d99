"""How are FlatBuffers bytes taken apart without their library? Table by table, every offset checked before it is used.

Layout: https://flatbuffers.dev/internals. Tables may point to each other in circles or share one vector a million
times, so what is read of one file is bounded, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edgel0.files.graph import MalformedError

ENTRIES = 5_000_000  # tables, and elements of vectors, of one file


class Table:
    """One table: its fields by slot, in the order of the schema, from 0."""

    def __init__(self, data: memoryview, at: int, budget: list[int] | None = None) -> None:
        self.data, self.at = data, at
        self.budget = [ENTRIES] if budget is None else budget
        self._spend(1)
        self.fields = at - self._read("<i", at)
        self.slots = self._read("<H", self.fields) // 2 - 2

    def number(self, slot: int, form: str = "<i", default: int = 0) -> int:
        """Return a number stored in the table itself; ``form`` is a struct format."""
        place = self._place(slot)
        return self._read(form, place) if place else default

    def table(self, slot: int) -> Table | None:
        """Return the table a field refers to, or None."""
        place = self._place(slot)
        return Table(self.data, self._followed(place), self.budget) if place else None

    def tables(self, slot: int) -> Iterator[Table]:
        """Yield the tables in a vector."""
        begin, count = self._vector(slot, 4)
        for place in range(begin, begin + 4 * count, 4):
            yield Table(self.data, self._followed(place), self.budget)

    def numbers(self, slot: int) -> tuple[int, ...]:
        """Return a vector of 32-bit integers."""
        begin, count = self._vector(slot, 4)
        self._spend(count)
        return struct.unpack_from(f"<{count}i", self.data, begin)

    def bytes(self, slot: int) -> memoryview:
        """Return a vector of bytes, unread."""
        begin, count = self._vector(slot, 1)
        return self.data[begin : begin + count]

    def text(self, slot: int) -> str:
        """Return a text, or ""."""
        found = self.bytes(slot)
        self._spend(len(found) // 16)
        return bytes(found).decode("utf-8", "replace")

    def count(self, slot: int) -> int:
        """Return the number of elements of a vector of numbers or tables."""
        return self._vector(slot, 4)[1]

    def _place(self, slot: int) -> int:
        """Return where a field is, or 0 where it is left out."""
        if slot >= self.slots:
            return 0
        offset = self._read("<H", self.fields + 4 + 2 * slot)
        return self.at + offset if offset else 0

    def _followed(self, place: int) -> int:
        offset = self._read("<I", place)
        if not offset:
            raise MalformedError("an offset in it points at itself")
        return place + offset

    def _vector(self, slot: int, width: int) -> tuple[int, int]:
        """Return begin and length of a vector that lies within the file."""
        place = self._place(slot)
        if not place:
            return 0, 0
        at = self._followed(place)
        count = self._read("<I", at)
        if at + 4 + count * width > len(self.data):
            raise MalformedError("it is cut off, or a list in it reaches beyond its end")
        return at + 4, count

    def _read(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise MalformedError("it is cut off, or an offset in it leads nowhere")
        return int(struct.unpack_from(form, self.data, at)[0])

    def _spend(self, count: int) -> None:
        self.budget[0] -= count
        if self.budget[0] < 0:
            raise MalformedError(f"it has more than {ENTRIES:,} entries, as no model has")


def root(data: memoryview, identifier: bytes) -> Table:
    """Return the first table of a file with this identifier."""
    if len(data) < 8 or bytes(data[4:8]) != identifier:
        raise MalformedError(f"it does not begin as one ({identifier.decode()!r} is missing)")
    return Table(data, int(struct.unpack_from("<I", data)[0]))
