"""How are protobuf bytes taken apart without their library? Field by field, within bounds, contents left unread.

Wire format: https://protobuf.dev/programming-guides/encoding. A mapped file of gigabytes is no work: what lies in a
field that nobody asks for is stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgel0.files.graph import RANK, MalformedError

FIELDS = 3_000_000  # of one file: no model comes near, and a file made of empty fields ends in seconds


class Message:
    """The fields of one message: numbers as ``int``, everything else as a piece of the file."""

    def __init__(self, data: memoryview, budget: list[int] | None = None) -> None:
        self.budget = [FIELDS] if budget is None else budget
        self.fields: dict[int, list[int | memoryview]] = {}
        at, end = 0, len(data)
        while at < end:
            self.budget[0] -= 1
            if self.budget[0] < 0:
                raise MalformedError(f"it has more than {FIELDS:,} fields, as no model has")
            tag, at = varint(data, at)
            value: int | memoryview
            if tag & 7 == 0:
                value, at = varint(data, at)
            else:
                size = FIXED.get(tag & 7)
                if tag & 7 == 2:
                    size, at = varint(data, at)
                if size is None or tag < 8 or at + size > end:
                    raise MalformedError("it is cut off or is no protobuf message")
                value, at = data[at : at + size], at + size
            self.fields.setdefault(tag >> 3, []).append(value)

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the messages in one field."""
        for value in self.fields.get(number, ()):
            yield Message(_piece(value), self.budget)

    def message(self, number: int) -> Message | None:
        """Return the last message in one field, or None."""
        found = self.fields.get(number)
        return Message(_piece(found[-1]), self.budget) if found else None

    def texts(self, number: int) -> list[str]:
        """Return the texts in one field."""
        return [bytes(_piece(value)).decode("utf-8", "replace") for value in self.fields.get(number, ())]

    def text(self, number: int) -> str:
        """Return the last text in one field, or ""."""
        found = self.fields.get(number)
        return bytes(_piece(found[-1])).decode("utf-8", "replace") if found else ""

    def number(self, number: int, default: int = 0) -> int:
        """Return the last number in one field as a signed 64-bit one."""
        found = self.fields.get(number)
        if not found:
            return default
        if not isinstance(found[-1], int):
            raise MalformedError("it has text where a number is expected")
        return _signed(found[-1])

    def numbers(self, number: int, most: int = RANK) -> tuple[int, ...]:
        """Return the numbers in one field, packed or not."""
        found: list[int] = []
        for value in self.fields.get(number, ()):
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            at = 0
            while at < len(value) and len(found) <= most:
                one, at = varint(value, at)
                found.append(_signed(one))
        if len(found) > most:
            raise MalformedError(f"it has a list of more than {most} numbers where shapes and settings are expected")
        return tuple(found)

    def size(self, number: int) -> int:
        """Return the bytes of a field, of all its entries together; a number takes one."""
        return sum(1 if isinstance(value, int) else len(value) for value in self.fields.get(number, ()))

    def data(self, number: int) -> memoryview:
        """Return the last content of one field, unread."""
        return _piece(self.fields.get(number, [memoryview(b"")])[-1])

    def __contains__(self, number: int) -> bool:
        """Tell whether a field is there."""
        return number in self.fields


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a base-128 number; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise MalformedError("it is cut off or is no protobuf message")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _piece(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("it has a number where text or a message is expected")
    return value


# Bytes of a field by wire type.
FIXED = {1: 8, 5: 4}
