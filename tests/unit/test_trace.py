"""Marks of line numbers in a shell's trace: taken out of what is shown, however it arrives."""

from __future__ import annotations

from pathlib import Path

import pytest

from soliton.build.trace import Watch, next_line

OUTPUT = b"+ PS4='+\x1d${LINENO-}\x1d '\n+\x1d2\x1d echo a\na\n++\x1d3\x1d date\n+\x1d\x1d odd\nleft \x1d9"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("output", [OUTPUT, OUTPUT.replace(b"+ PS4", b"+\x1d1\x1d PS4")])
def test_marks_are_taken_out_in_pieces_of_any_size(size: int, output: bytes, tmp_path: Path) -> None:
    watch = Watch(str(tmp_path / "log"), script=["echo a", "date"])
    shown = b"".join(
        watch.pass_on(4, output[at : at + size]) for at in range(0, len(output), size)
    ) + watch.rest(4)
    watch.close()
    assert shown == b"+ echo a\na\n++ date\n+ odd\nleft \x1d9"
    assert watch.line == 2
    assert (tmp_path / "log").read_bytes() == shown


def test_what_a_command_prints_may_be_read_before_the_shell_s_first_word() -> None:
    watch = Watch(script=["echo a", "date"])
    assert (
        watch.pass_on(3, b"a\n") + watch.pass_on(4, b"+ PS4='+\x1d${LINENO-}\x1d '\n+ echo a\n")
        == b"a\n+ echo a\n"
    )


def test_without_numbers_everything_passes() -> None:
    assert Watch().pass_on(4, OUTPUT) == OUTPUT


SCRIPT = """\
# the tool
apt-get update
apt-get install -y \\
    gcc "$EXTRA" && \\
    rm -rf /var/lib/apt/lists
for name in a b; do
    make -C $name
done
cd src && ./configure --prefix="$PREFIX"
make
make
""".splitlines()


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_shell_that_does_not_know_its_lines_is_followed_by_its_commands(size: int) -> None:
    def at(commands: bytes) -> int:
        watch = Watch(script=SCRIPT)
        output = b"+\x1d\x1d PS4=+\x1d${LINENO-}\x1d \n" + commands
        for start in range(0, len(output), size):
            watch.pass_on(3, output[start : start + size])
        return watch.line

    told = [
        (b"+\x1d\x1d apt-get update\nHit:1\n", 2),
        (b"+\x1d\x1d apt-get install -y gcc g++\n", 3),
        (b"+\x1d\x1d rm -rf /var/lib/apt/lists\n", 5),
        (b"+\x1d\x1d make -C a\n++\x1d\x1d cd src\n", 7),
        (b"+\x1d\x1d make -C b\n", 7),
        (b"+\x1d\x1d cd src\n+\x1d\x1d ./configure --prefix=/opt\n", 9),
        (b"+\x1d\x1d make\n", 10),
        (b"+\x1d\x1d make\nmake: *** No targets.\n", 11),
    ]
    for count in range(1, len(told) + 1):
        assert at(b"".join(output for output, _ in told[:count])) == told[count - 1][1], told[count - 1]


def test_a_command_that_stands_nowhere_leaves_the_line_as_it_is() -> None:
    assert next_line(SCRIPT, 3, "x='1 2'") == 3
    assert next_line([], 0, "true") == 0
    assert next_line(SCRIPT, 0, "") == 0
