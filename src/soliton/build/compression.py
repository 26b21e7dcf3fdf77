"""How the image's file system is packed: `--mksquashfs-args`, in the words of mksquashfs, made into a request of our own.

The peers hand these words to mksquashfs. soliton has a writer of its own and understands those that have a meaning there.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from soliton.errors import NotSupported, UsageError

COMPRESSORS = ("zstd", "gzip", "xz", "lz4", "none")
_LEVELS = {"gzip": (1, 9), "zstd": (1, 22), "xz": (0, 9), "lz4": (1, 12)}
_SIZES = {"k": 1 << 10, "m": 1 << 20}
#: Words without effect here: what they ask for is so anyway.
_IMPLIED = {"-noappend", "-no-progress", "-quiet", "-no-recovery", "-reproducible", "-no-exports", "-exports"}


@dataclass(frozen=True)
class Packing:
    """compressor: None leaves it to the base image's, else zstd. level: None is the compressor's usual one.

    block_size in bytes; None as compressor. threads: 0 is as many as this process may use. all_root: every file is root's. fix_perms: its owner may read and write it.
    """

    compressor: str | None = None
    level: int | None = None
    block_size: int | None = None
    threads: int = 0
    all_root: bool = False
    fix_perms: bool = False


def parse(arguments: str) -> Packing:
    """The value of `--mksquashfs-args`. Raises UsageError for nonsense, NotSupported for what has no meaning here."""
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"`--mksquashfs-args {arguments}` is not understood", why=str(error)) from None
    compressor: str | None = None
    level: int | None = None
    block: int | None = None
    threads = 0
    all_root = False
    queue = iter(words)
    for word in queue:
        if word in _IMPLIED:
            continue
        if word in ("-all-root", "-root-owned"):
            all_root = True
            continue
        if word not in ("-comp", "-Xcompression-level", "-b", "-processors", "-mem"):
            raise NotSupported(
                f"`{word}` in `--mksquashfs-args`",
                why="the file system is written without mksquashfs",
                remedy="understood are -comp, -Xcompression-level, -b, -processors, -mem and -all-root",
            )
        value = next(queue, None)
        if value is None:
            raise UsageError(f"`{word}` in `--mksquashfs-args` needs a value")
        match word:
            case "-comp":
                if value not in COMPRESSORS[:-1]:
                    raise NotSupported(
                        f"the compressor `{value}`", remedy="use one of " + ", ".join(COMPRESSORS[:-1])
                    )
                compressor = value
            case "-Xcompression-level":
                level = _number(word, value, 0, 22)
            case "-b":
                block = _block(value)
            case "-processors":
                threads = _number(word, value, 1, 4096)
            case "-mem":
                pass  # memory is bounded by the writer itself
    if level is not None:
        low, high = _LEVELS[compressor or "zstd"]
        if not low <= level <= high:
            raise UsageError(
                f"`-Xcompression-level {level}` is out of range",
                why=f"{compressor or 'zstd'} has the levels {low} to {high}",
            )
        compressor = compressor or "zstd"
    return Packing(compressor, level, block, threads, all_root)


def _block(value: str) -> int:
    unit = _SIZES.get(value[-1:].lower(), 1)
    digits = value[:-1] if unit != 1 else value
    size = int(digits) * unit if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
    if size not in (1 << power for power in range(12, 21)):
        raise UsageError(f"`-b {value}` is no block size", remedy="use a power of two from 4096 to 1M")
    return size


def _number(word: str, value: str, low: int, high: int) -> int:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1
    if not low <= number <= high:
        raise UsageError(f"`{word} {value}` is not a number from {low} to {high}")
    return number
