"""`python -m soliton`: where the native program hands over. See `soliton.cli.main`."""

from __future__ import annotations

import sys


def main() -> None:
    from soliton.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
