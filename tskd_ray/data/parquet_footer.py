"""How much a Parquet file declares to hold: by its footer, and by the pages themselves.

Arrow knows the footer's figures too, but in the versions that we allow it ends the whole
process at some damaged footers when asked, where it raises an error when it reads the same
file. And it believes a page that says of itself to hold more than the footer does. So both are
read here: the footer and each page's header are structs in Thrift's compact protocol.

Source: github.com/apache/parquet-format (parquet.thrift), github.com/apache/thrift
(thrift-compact-protocol.md).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
_DEEPEST = 30  # structs within structs; Parquet's own have seven levels
_ROW_GROUPS, _COLUMNS, _COLUMN_DATA = 4, 1, 3  # fields of FileMetaData, RowGroup, ColumnChunk
# Fields of ColumnMetaData:
_NUM_VALUES, _UNCOMPRESSED, _FIRST_PAGE, _DICTIONARY = 5, 6, 9, 11
_PAGE_UNCOMPRESSED, _PAGE_COMPRESSED = 2, 3  # fields of PageHeader
_DATA, _DICTIONARY_PAGE, _DATA_2 = 5, 7, 8  # further ones, each with the number of values
_PAGE_VALUES = 1
_WIDTH = 8  # bytes of a value: a run of equal ones is encoded in a few


def declared_bytes(path: Path) -> int:
    """Bytes that reading the file takes by its own account, and by that of its pages.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has no footer, or a damaged one, or damaged pages.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        length = int.from_bytes(data[-8:-4], "little")
        start = len(data) - 8 - length
        if data[-4:] != MAGIC or start < 0:
            raise ValueError("it has no footer")
        try:
            columns = [
                column.get(_COLUMN_DATA, {})
                for group in _Decoder(data, start).struct().get(_ROW_GROUPS, [])
                for column in group.get(_COLUMNS, [])
            ]
            return sum(_column_bytes(data, column) for column in columns)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError("its footer or a page is damaged") from error


def _column_bytes(data: mmap.mmap, column: dict[int, Any]) -> int:
    values = column[_NUM_VALUES]
    at = column[_FIRST_PAGE]
    if 0 < column.get(_DICTIONARY, 0) < at:
        at = column[_DICTIONARY]
    seen = pages = 0
    while seen < values:  # as Arrow does, which looks no further
        decoder = _Decoder(data, at)
        page = decoder.struct()
        in_data = (page.get(_DATA) or page.get(_DATA_2) or {}).get(_PAGE_VALUES, 0)
        held = in_data or (page.get(_DICTIONARY_PAGE) or {}).get(_PAGE_VALUES, 0)
        pages += max(_WIDTH * held, page[_PAGE_UNCOMPRESSED])
        seen += max(in_data, 0)
        at = decoder.at + max(page[_PAGE_COMPRESSED], 0)
    return max(_WIDTH * values, column[_UNCOMPRESSED], pages, 0)


class _Decoder:
    """Thrift's compact protocol as plain values: structs by field number, lists, numbers."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        if at < 0:
            raise ValueError("its footer points before the file")
        self._data = data
        self.at = at
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
        if count > len(self._data) - self.at:
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
        self.at += self._plausible(count)
        return self._data[self.at - count : self.at]

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]
