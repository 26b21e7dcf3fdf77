"""`python -m soliton`: where the native program hands over. See `soliton.cli.main`."""

from __future__ import annotations

import sys


def main() -> None:
    # The part without Python, which is there already.
    import _signal as signal  # type: ignore[import-not-found]

    from soliton.cli.main import die_quietly, run, unheard

    sys.unraisablehook = unheard
    try:
        status = run(sys.argv[1:])
        # All is done: an end from outside has nothing to clean up any more, and nobody to tell.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
    except KeyboardInterrupt as ended:
        status = die_quietly(getattr(ended, "number", signal.SIGINT))
    sys.exit(status)


if __name__ == "__main__":
    main()
