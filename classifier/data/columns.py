"""How do a million paths, labels and digests fit into memory?

As NumPy arrays, about 65 bytes for each image, that hand out plain values one by one and otherwise look like lists.
Python's own lists of them would take over 300.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

DIGEST = 16  # bytes
BLOCK = 4096  # values that are made ready at once when all are gone through


class Column(Sequence):
    """Values behind numbers: `_values` makes those at some places."""

    def _values(self, places: np.ndarray | slice) -> list:
        raise NotImplementedError

    def take(self, places: np.ndarray) -> "Column":
        """Those at these places, in their order."""
        raise NotImplementedError

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # a negative one counts from the end, one too large is an IndexError
        return self._values(slice(place, place + 1))[0]

    def __iter__(self) -> Iterator:
        for start in range(0, len(self), BLOCK):
            yield from self._values(slice(start, start + BLOCK))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None

    def __add__(self, other: Sequence) -> list:
        return [*self, *other]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self):,}"


class Labels(Column):
    """Whole numbers, `array` (N,) int32."""

    def __init__(self, values: Sequence[int] | np.ndarray):
        self.array = np.asarray(values, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.array)

    def _values(self, places: np.ndarray | slice) -> list[int]:
        return self.array[places].tolist()

    def take(self, places: np.ndarray) -> "Labels":
        """As in `Column`."""
        return Labels(self.array[places])


class Digests(Column):
    """Bytes, all of one length, `array` (N, length) uint8."""

    def __init__(self, values: Sequence[bytes] | np.ndarray):
        if isinstance(values, np.ndarray):
            self.array = values
        else:
            length = len(values[0]) if len(values) else DIGEST
            self.array = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), length)

    def __len__(self) -> int:
        return len(self.array)

    def _values(self, places: np.ndarray | slice) -> list[bytes]:
        return [row.tobytes() for row in self.array[places]]

    def take(self, places: np.ndarray) -> "Digests":
        """As in `Column`."""
        return Digests(self.array[places])

    @property
    def keys(self) -> np.ndarray:
        """(N,), sorted and compared as the bytes are."""
        return np.ascontiguousarray(self.array).view(f"S{self.array.shape[1]}")[:, 0]

    def order(self) -> np.ndarray:
        """What sorts them, as bytes are sorted: their places, (N,)."""
        order, tied = self._by_first_eight
        order = order.copy()
        order[tied] = order[tied][self.keys[order[tied]].argsort()]
        return order

    def last_copies(self) -> np.ndarray:
        """For each the place of the last one that is equal to it, (N,) int32; mostly its own."""
        last = np.arange(len(self), dtype=np.int32)
        order, tied = self._by_first_eight
        places = np.sort(order[tied])
        some = self.take(places)
        last[places] = places[some.find(some)]
        return last

    @cached_property
    def _by_first_eight(self) -> tuple[np.ndarray, np.ndarray]:
        """What sorts them by these, (N,) int32, and where in it are those that begin as others do.

        Many times faster than by all bytes, and kept, since several ask for it.
        """
        first = _first_eight(self.array)
        order = first.argsort().astype(np.int32)
        first = first[order]
        alike = np.flatnonzero(first[1:] == first[:-1])
        return order, np.union1d(alike, alike + 1)

    def find(self, wanted: "Digests") -> np.ndarray:
        """Where each of the wanted ones stands here, the last one, (len(wanted),) int32; -1 where it does not."""
        found = np.full(len(wanted), -1, np.int32)
        if not len(self):
            return found
        order, _ = self._by_first_eight
        first = _first_eight(self.array)[order]  # many times faster than a dictionary, and smaller
        begins = np.flatnonzero(np.append(True, first[1:] != first[:-1]))
        first, last = first[begins], np.maximum.reduceat(order, begins)
        del begins
        asked, _ = wanted._by_first_eight  # in their order they are found faster, too
        for start in range(0, len(asked), BLOCK):
            places = asked[start : start + BLOCK]
            some = wanted.array[places]
            at = np.searchsorted(first, _first_eight(some)).clip(max=len(first) - 1)
            here = last[at]
            same = (self.array[here] == some).all(1)
            for i in np.flatnonzero(~same & (first[at] == _first_eight(some))):  # two digests that begin alike
                exact = np.flatnonzero((self.array == some[i]).all(1))
                here[i], same[i] = (exact[-1], True) if len(exact) else (-1, False)
            found[places] = np.where(same, here, -1)
        return found


def _first_eight(digests: np.ndarray) -> np.ndarray:
    """(N, length) uint8 -> (N,) uint64 that are sorted as these bytes are; of shorter ones with zeros behind"""
    first = np.zeros((len(digests), 8), np.uint8)
    first[:, : digests.shape[1]] = digests[:, :8]
    return first.view(">u8")[:, 0].astype(np.uint64)


class Paths(Column):
    """Names of files: bytes one after the other, as the system has them, and what stands before each of them.

    Args:
        prefix: the folder, with the separator at its end; may be empty.
        text: all names, without anything between them.
        ends: (M,) int64, where each ends in `text`.
        rows: which of the M names these are, in this order; all of them where it is missing.
    """

    def __init__(self, prefix: str, text: bytes, ends: np.ndarray, rows: np.ndarray | None = None):
        self.prefix, self.text, self.ends, self._rows = prefix, text, ends, rows

    @classmethod
    def of(cls, paths: Sequence[str]) -> "Paths":
        """From plain paths."""
        names = [os.fsencode(path) for path in paths]
        return cls("", b"".join(names), np.cumsum([len(name) for name in names], dtype=np.int64))

    @property
    def rows(self) -> np.ndarray:
        """Which of the names these are, (N,)."""
        return np.arange(len(self.ends), dtype=np.int32) if self._rows is None else self._rows

    def __len__(self) -> int:
        return len(self.ends if self._rows is None else self._rows)

    def names(self, places: np.ndarray | slice = slice(None)) -> list[bytes]:
        """Without the prefix, as the system has them."""
        if self._rows is not None:
            rows = self._rows[places]
        else:
            rows = np.arange(*places.indices(len(self))) if isinstance(places, slice) else places
        begins = np.where(rows > 0, self.ends[rows - 1], 0).tolist() if len(rows) else []
        return [self.text[begin:end] for begin, end in zip(begins, self.ends[rows].tolist(), strict=True)]

    def _values(self, places: np.ndarray | slice) -> list[str]:
        return [self.prefix + os.fsdecode(name) for name in self.names(places)]

    def take(self, places: np.ndarray) -> "Paths":
        """As in `Column`."""
        rows = places if self._rows is None else self._rows[places]
        return Paths(self.prefix, self.text, self.ends, rows.astype(np.int32, copy=False))

    def places_in(self, whole: "Paths") -> np.ndarray:
        """Where each of these stands among those that they were taken from, (N,) int32."""
        if self.text is not whole.text:
            raise ValueError("paths that were not taken from these")
        places = np.full(len(whole.ends), -1, np.int32)
        places[whole.rows] = np.arange(len(whole), dtype=np.int32)
        found = places[self.rows]
        if (found < 0).any():
            raise ValueError("paths of which some were not taken from these")
        return found
