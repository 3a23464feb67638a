"""How much a Parquet file declares to hold, from the footer that describes it.

Arrow knows this too, but in the versions that we allow it ends the whole process at some
damaged footers when asked, where it raises an error when it reads the same file. So the few
figures are read here: the footer is one struct in Thrift's compact protocol.

Source: github.com/apache/parquet-format (parquet.thrift), github.com/apache/thrift
(thrift-compact-protocol.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
_DEEPEST = 30  # structs within structs; Parquet's own have seven levels
_ROW_GROUPS, _COLUMNS, _COLUMN_DATA = 4, 1, 3  # fields of FileMetaData, RowGroup, ColumnChunk
_NUM_VALUES, _UNCOMPRESSED = 5, 6  # fields of ColumnMetaData


def declared_bytes(path: Path) -> int:
    """Bytes that reading the file takes by its own account.

    By values too, eight bytes each: a run of equal ones is encoded in a few bytes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has no footer, or a damaged one.
    """
    footer = _footer(path)
    try:
        columns = [
            column.get(_COLUMN_DATA, {})
            for group in _Decoder(footer).struct().get(_ROW_GROUPS, [])
            for column in group.get(_COLUMNS, [])
        ]
        return sum(max(8 * data[_NUM_VALUES], data[_UNCOMPRESSED], 0) for data in columns)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("its footer is damaged") from error


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length > size - 8:
            raise ValueError("it has no footer")
        file.seek(size - 8 - length)
        return file.read(length)


class _Decoder:
    """Thrift's compact protocol as plain values: structs by field number, lists, numbers."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0

    def struct(self) -> dict[int, Any]:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2, 3):  # a boolean in a list, a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15) for _ in range(self._plausible(count))]
        if kind == 12:
            return self.struct()
        raise ValueError(f"its footer has a value of unknown kind {kind}")

    def _plausible(self, count: int) -> int:
        # A struct takes at least one byte, as everything else does.
        if count > len(self._data) - self._at:
            raise ValueError("its footer counts more than it holds")
        return count

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its footer has an endless number")

    def _bytes(self, count: int) -> bytes:
        self._at += self._plausible(count)
        return self._data[self._at - count : self._at]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]
