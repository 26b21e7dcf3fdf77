"""Hostile bytes for the parsers written in Python: `python -m tests.fuzz TARGET --seconds N`, or `--list`.

A target is a module of this package with `seeds()`, examples to start from, and `target(data)`, which may raise
SolitonError and nothing else. Every input is a mutation of a seed, made from a number that is printed when it fails,
so that `--only NUMBER` repeats it.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import random
import sys
import time
from pathlib import Path

from soliton.errors import SolitonError

#: Words that lead into corners of formats: sizes at the edges of integers, line ends, empty things.
_WORDS = (
    *(
        b"\0",
        b"\xff" * 4,
        b"\x7f" + b"\xff" * 7,
        b"\x80" + b"\0" * 7,
        b"\n",
        b"\r\n",
        b"%",
        b"{{",
        b"}}",
        b'"',
    ),
    *(b"'", b"\\", b"#", b":", b"../", b"/" * 300, b"[" * 200, b"{" * 200, b"-1", b"18446744073709551616"),
)


def mutate(seed: bytes, number: int) -> bytes:
    """The mutation of `seed` with this number: always the same."""
    dice = random.Random(number)
    data = bytearray(seed)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 2, 8, 64)))
        match dice.randrange(5):
            case 0:
                data[at:end] = dice.randbytes(end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = dice.choice(_WORDS)
            case 3:
                data[at:at] = data[dice.randrange(len(data) + 1) :][: end - at]
            case _:
                data[at:end] = dice.choice(_WORDS)
    return bytes(data)


def main() -> int:
    names = [
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_"
    ]
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("target", nargs="?", choices=names)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    if options.list or options.target is None:
        print("\n".join(names))
        return 0
    module = importlib.import_module(f"tests.fuzz.{options.target}")
    seeds: list[bytes] = list(module.seeds())
    first = options.only if options.only is not None else int(time.time()) << 20
    end = time.monotonic() + options.seconds
    number = first
    while number == first or (options.only is None and time.monotonic() < end):
        data = mutate(seeds[number % len(seeds)], number)
        try:
            module.target(data)
        except SolitonError:
            pass
        except BaseException:
            print(f"{options.target}: --only {number} fails", file=sys.stderr)
            raise
        number += 1
    print(f"{options.target}: {number - first} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
