"""The first 96 bytes of a squashfs: enough to tell a sound image from a truncated or foreign one.

    0   magic "hsqs"    4  inodes       8   time        12  block size   16  fragments
    20  compressor      22 block log    24  flags       26  ids          28  version 4, 0
    32  root inode      40 bytes used   48… positions of id, xattr, inode, directory, fragment and export table

Little-endian, see squashfs(4.0). Reading what lies behind is the core's work.
"""

from __future__ import annotations

import struct

from soliton.errors import ImageError
from soliton.record import record

_LAYOUT = struct.Struct("<IIIIIHHHHHHQQ")
SUPERBLOCK_SIZE = 96
COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


@record
class Superblock:
    """inodes: files of all kinds, hard links once. time: Unix seconds. bytes_used: length without padding."""

    inodes: int
    time: int
    block_size: int
    compressor: str
    bytes_used: int


def check_superblock(head: bytes, size: int, name: str, part: str = "its root partition") -> Superblock:
    """The superblock of the squashfs at the start of `head`, for which `size` bytes are there.

    part: where in the image that is, for people. Raises ImageError, naming `name`, if it is none, is damaged or runs past its end.
    """
    if len(head) < SUPERBLOCK_SIZE or size < SUPERBLOCK_SIZE:
        if head[:4] != b"hsqs"[: len(head[:4])]:
            raise _damaged(name, f"{part} has no squashfs in it")
        raise _truncated(name, min(len(head), size), SUPERBLOCK_SIZE)
    (magic, inodes, time, block, _, kind, log, _, ids, major, minor, _, used) = _LAYOUT.unpack_from(head)
    if magic != 0x73717368:
        raise _damaged(name, f"{part} has no squashfs in it")
    if (major, minor) != (4, 0):
        raise ImageError(
            f"`{name}` holds a squashfs of version {major}.{minor}",
            why="only version 4.0, in use since 2009, can be read",
        )
    if kind not in COMPRESSORS:
        raise _damaged(name, f"its squashfs names the unknown compressor {kind}")
    if log not in range(12, 21) or block != 1 << log:
        raise _damaged(name, f"its squashfs has an impossible block size ({block})")
    if inodes == 0 or ids == 0 or used < SUPERBLOCK_SIZE or used >= 1 << 63:
        raise _damaged(name, "the superblock of its squashfs makes no sense")
    if used > size:
        raise _truncated(name, size, used)
    return Superblock(inodes, time, block, COMPRESSORS[kind], used)


def _damaged(name: str, why: str) -> ImageError:
    return ImageError(f"`{name}` is a damaged image", why=why, remedy="copy or pull the image again")


def _truncated(name: str, has: int, of: int) -> ImageError:
    return ImageError(
        f"`{name}` is truncated: its file system has {has} of {of} bytes",
        why="a copy or download of it ended early",
        remedy="copy or pull the image again",
    )
