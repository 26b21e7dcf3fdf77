"""Manual pages say what --help says, in a form that a formatter reads without complaint."""

from __future__ import annotations

from pathlib import Path

from soliton.cli import commands, main, manpages


def test_there_is_a_page_for_the_program_and_each_command_that_is_built() -> None:
    names = {f"soliton-{c.name}.1" for c in commands.every() if c.built() and not c.hidden}
    assert set(manpages.pages()) == {"soliton.1"} | names
    assert {"soliton-exec.1", "soliton-build.1", "soliton-sif.1"} <= names
    assert "soliton-sign.1" not in names


def test_a_page_shows_options_with_their_variables_and_examples() -> None:
    page = manpages.pages()["soliton-exec.1"]
    assert page.startswith('.TH "SOLITON\\-EXEC" 1 ')
    assert "\\fB\\-B, \\-\\-bind SRC[:DST[:OPTS]]\\fR" in page
    assert "[SOLITON_BIND, SOLITON_BINDPATH]" in page
    assert "\\fBsoliton exec image.sif cat /etc/os\\-release\\fR" in page
    assert "dmtcp" not in manpages.pages()["soliton-instance.1"]


def test_no_line_of_text_is_taken_for_a_request() -> None:
    requests = (".TH ", ".nh", ".SH ", ".SS ", ".TP", ".br")
    for name, page in manpages.pages().items():
        assert page.isascii()
        for line in page.splitlines():
            assert not line.startswith("'"), name
            assert not line.startswith(".") or line.startswith(requests), (name, line)


def test_pages_are_written(tmp_path: Path) -> None:
    assert main.run(["help", "--man", str(tmp_path / "man")]) == 0
    assert sorted(path.name for path in (tmp_path / "man").iterdir()) == sorted(manpages.pages())
    (tmp_path / "file").touch()
    assert main.run(["help", "--man", str(tmp_path / "file")]) == 255
