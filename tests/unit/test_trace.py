"""Marks of line numbers in a shell's trace: taken out of what is shown, however it arrives."""

from __future__ import annotations

from pathlib import Path

import pytest

from soliton.build.trace import Watch

OUTPUT = b"+ PS4='+\x1d${LINENO-}\x1d '\n+\x1d2\x1d echo a\na\n++\x1d3\x1d date\n+\x1d\x1d odd\nleft \x1d9"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("output", [OUTPUT, OUTPUT.replace(b"+ PS4", b"+\x1d1\x1d PS4")])
def test_marks_are_taken_out_in_pieces_of_any_size(size: int, output: bytes, tmp_path: Path) -> None:
    watch = Watch(str(tmp_path / "log"), numbered=True)
    shown = b"".join(
        watch.pass_on(4, output[at : at + size]) for at in range(0, len(output), size)
    ) + watch.rest(4)
    watch.close()
    assert shown == b"+ echo a\na\n++ date\n+ odd\nleft \x1d9"
    assert watch.line == 2
    assert (tmp_path / "log").read_bytes() == shown


def test_without_numbers_everything_passes() -> None:
    assert Watch().pass_on(4, OUTPUT) == OUTPUT
