"""The answers of statements: rows read fast, any bytes as text."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pymysql
import pymysql.connections
from pymysql.constants import CR, FIELD_TYPE

INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
)
_FLOATS = (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE)
_HEADER = struct.Struct("<I")  # of a packet: 3 bytes length, 1 byte number
_LARGEST = 0xFFFFFF  # a packet of this length goes on in the next one
_ERROR, _END, _END_SIZE = 0xFF, 0xFE, 9  # how these packets begin; a row that begins so is longer
_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}  # bytes of the length that follows


@dataclass(frozen=True)
class Result:
    r"""What a statement answered, by columns.

    The columns that `integers` names hold int, those of floats float, all others text, where bytes that are no UTF-8
    are written as ``\xNN``: one session's bytes must not end the whole list. None is NULL. `warnings` are those of code
    1105, by which TiDB says what a KILL did not do and which instance did not answer; others are of values, as of a
    division by 0.
    """

    columns: tuple[str, ...]
    integers: frozenset[str]
    data: tuple[Sequence[Any], ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The same by rows."""
        return tuple(zip(*self.data, strict=True))

    @cached_property
    def by_name(self) -> dict[str, Sequence[Any]]:
        """The columns by their names."""
        return dict(zip(self.columns, self.data, strict=True))

    def take(self, rows: Sequence[int]) -> "Result":
        """Return the rows with these numbers, in this order."""
        return replace(self, data=tuple([column[row] for row in rows] for column in self.data))

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> "Result":
        """Return the rows of all of them, by names: instances of several versions have other columns.

        >>> one, two = Result(("a", "b"), frozenset("a"), ([1], ["x"])), Result(("a",), frozenset("a"), ([2],))
        >>> Result.joined([one, two]).rows
        ((1, 'x'), (2, None))
        """
        if len(results) == 1:
            return results[0]
        names = tuple(dict.fromkeys(name for result in results for name in result.columns))
        integers = frozenset[str]().union(*(result.integers for result in results))
        nothing = [[None] * len(result.data[0]) for result in results]
        parts = [[one.by_name.get(name, none) for one, none in zip(results, nothing, strict=True)] for name in names]
        return cls(names, integers, tuple([value for part in column for value in part] for column in parts))


class Answer(pymysql.connections.MySQLResult):
    """Rows taken apart in one loop: 2,000 sessions are 38,000 fields, for each of which PyMySQL makes three calls.

    Each text and number is converted once an answer: most of a list's values are there many times. `python -m
    benchmarks` shows the list beside PyMySQL's own reading of the same rows.
    """

    data: Sequence[list[Any]] = ()
    fields: Any = None

    def result(self, warnings: tuple[str, ...] = ()) -> Result:
        """Return what was read."""
        fields = self.fields or ()
        integers = frozenset(field.name for field in fields if field.type_code in INTEGERS)
        return Result(tuple(field.name for field in fields), integers, tuple(self.data), warnings)

    def _read_rowdata_packet(self) -> None:
        driver: Any = self.connection
        read, number = driver._rfile.read, driver._next_seq_id  # noqa: SLF001
        texts, integers, floats = _Converted(_text), _Converted(int), _Converted(float)
        kinds = {**dict.fromkeys(INTEGERS, integers), **dict.fromkeys(_FLOATS, floats)}
        self.data = [[] for _ in self.fields]
        columns = [
            (column.append, kinds.get(field.type_code, texts))
            for column, field in zip(self.data, self.fields, strict=True)
        ]
        try:
            while True:
                (header,) = _HEADER.unpack(read(4))
                length = header & _LARGEST
                row = read(length)
                if header >> 24 != number or len(row) < length:
                    raise ConnectionResetError("it was cut off")
                number = (number + 1) % 256
                if length == _LARGEST:
                    row, number = _continued(read, row, number)
                elif row[0] == _ERROR or (row[0] == _END and length < _END_SIZE):
                    break
                at = 0
                for append, converted in columns:
                    size = row[at]
                    at += 1
                    if size > 0xFA:  # numbers of the protocol, as literals: this runs for every field
                        if size == 0xFB:
                            append(None)
                            continue
                        width = _WIDTHS[size]
                        size = int.from_bytes(row[at : at + width], "little")
                        at += width
                    end = at + size
                    append(converted[row[at:end]])
                    at = end
        except (OSError, struct.error) as error:
            driver._force_close()  # noqa: SLF001
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server ({error})") from error
        driver._next_seq_id = number  # noqa: SLF001
        self.connection = None  # its own way of letting go of a cycle
        if row[0] == _ERROR:
            pymysql.connections.MysqlPacket(row, driver.encoding).raise_for_error()  # type: ignore[attr-defined]
        self.warning_count = int.from_bytes(row[1:3], "little")
        self.affected_rows = len(self.data[0])


class _Converted(dict[bytes, Any]):
    def __init__(self, convert: Callable[[bytes], Any]) -> None:
        self._convert = convert

    def __missing__(self, value: bytes) -> Any:
        self[value] = converted = self._convert(value)
        return converted


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _continued(read: Callable[[int], bytes], data: bytes, number: int) -> tuple[bytes, int]:
    """Read on in a packet that did not fit into one."""
    parts, length = [data], _LARGEST
    while length == _LARGEST:
        (header,) = _HEADER.unpack(read(4))
        length = header & _LARGEST
        parts.append(read(length))
        number = (number + 1) % 256
    return b"".join(parts), number
