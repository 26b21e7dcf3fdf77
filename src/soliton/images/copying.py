"""A stretch of a file copied to another file or into a pipe, by the kernel where it can.

Blocks are shared where the file system offers that (copy_file_range(2)); between file systems of two kinds the kernel
copies (sendfile(2)); what neither can do goes through a buffer: a file opened for appending, some network file systems.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from soliton.images.sif import read_exactly

_STEP = 1 << 30
_BUFFER = 1 << 20


def copy(source: int, at: int, size: int, to: int, name: str) -> None:
    """`size` bytes from byte `at` of `source`, to where `to` stands.

    name: of the source, for messages. Raises ImageError if it is shorter, OSError for what cannot be written.
    """

    def shared(count: int) -> int:
        return os.copy_file_range(source, to, min(count, _STEP), at)

    def sent(count: int) -> int:
        return os.sendfile(to, source, at, min(count, _STEP))

    def buffered(count: int) -> int:
        return os.write(to, read_exactly(source, at, min(count, _BUFFER), name))

    ways: list[Callable[[int], int]] = [buffered, sent, shared]
    while size:
        try:
            count = ways[-1](size)
        except OSError as error:
            if len(ways) == 1 or isinstance(error, BrokenPipeError):
                raise
            ways.pop()
            continue
        if not count:
            # Whether it is at its end, or this way does not work here (of files in /proc): the buffered way tells.
            ways = [buffered]
            continue
        at += count
        size -= count
