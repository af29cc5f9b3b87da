"""Reading a file in pieces. A memory map would do, but ends the process where a disk cannot be read."""

from __future__ import annotations

import os

PIECE = 1 << 20


class FileView:
    """The first `size` bytes of an open file. Its slices are read from disk, and raise OSError where that
    fails; a file that has become shorter gives shorter ones."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        first = os.pread(self._fd, max(0, stop - start), start)
        if len(first) >= stop - start:
            return first
        pieces, start = [first], start + len(first)
        while start < stop and (piece := os.pread(self._fd, stop - start, start)):
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def find(self, wanted: bytes, start: int) -> int:
        """Offset of the first occurrence at or after `start`, or -1."""
        while start < self._size:
            at = self[start : start + PIECE + len(wanted) - 1].find(wanted)
            if at >= 0:
                return start + at
            start += PIECE
        return -1
