"""Smaller parts of a build: where it happens, how steps' output is passed on, what a base lacks."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.build import console, epoch, layout, traces, workspace
from soliton.build.bootstrap import busybox, oci
from soliton.build.header import parse_header
from soliton.build.layout import Found
from soliton.build.lines import Line
from soliton.errors import TargetError
from soliton.images import architecture
from soliton.images.metadata_layer import File, Folder, Link


def shell(script: str) -> console.Starter:
    def start(stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", script], stdin=stdin, stdout=stdout, stderr=stderr)

    return start


def test_output_goes_through_and_the_last_lines_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    ended = console.run(shell("echo one; echo two >&2; seq 100; printf open; exit 3"))
    assert ended.status == 3
    # What comes by two pipes is kept as it arrives: `two` may be seen after the rest.
    assert [line for line in ended.last_lines if line != "two"][-3:] == ["99", "100", "open"]
    assert len(ended.last_lines) == console.KEPT_LINES
    out, err = capfd.readouterr()
    assert out.startswith("one\n1\n") and out.endswith("100\nopen")
    assert err == "two\n"


def test_a_line_of_one_stream_does_not_go_on_in_the_other() -> None:
    ended = console.run(shell("printf open; sleep 0.2; echo two >&2; sleep 0.2; echo ed"))
    assert sorted(ended.last_lines) == ["opened", "two"]


def test_a_signal_is_a_status_as_shells_have_it() -> None:
    assert console.run(shell("kill -9 $$")).status == 137


def test_what_is_left_running_does_not_keep_a_step(capfd: pytest.CaptureFixture[str]) -> None:
    ended = console.run(shell("sleep 1000 & echo $!"))
    assert ended.status == 0
    os.kill(int(ended.last_lines[-1]), 9)
    capfd.readouterr()


def test_a_step_gets_no_input_of_a_shell_loop() -> None:
    code = "import sys; sys.path.insert(0, 'src'); from soliton.build import console; import subprocess\n"
    code += "console.run(lambda i, o, e: subprocess.Popen(['cat'], stdin=i, stdout=o, stderr=e))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"eaten",
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout == b""


def test_a_long_line_is_kept_in_part(capfd: pytest.CaptureFixture[str]) -> None:
    ended = console.run(shell("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"))
    assert ended.last_lines[-1] == "end"
    assert 0 < len(ended.last_lines[0]) <= console.KEPT_BYTES
    assert len(capfd.readouterr().out) == 3000005


def test_a_line_rewritten_in_place_is_kept_as_it_was_seen_last(capfd: pytest.CaptureFixture[str]) -> None:
    assert console.run(shell("printf '10%%\\r50%%\\r100%%\\r\\n'")).last_lines == ("100%",)
    capfd.readouterr()


def test_the_place_of_a_build_is_the_strongest_wish() -> None:
    variables = {"TMPDIR": "/t", "APPTAINER_TMPDIR": "/a", "SOLITON_TMPDIR": "/s"}
    assert workspace.parent("/o", variables) == ("/o", "--tmpdir")
    assert workspace.parent(None, variables) == ("/s", "SOLITON_TMPDIR")
    assert workspace.parent(None, {"TMPDIR": "/t"}) == ("/t", "TMPDIR")
    assert workspace.parent(None, {"TMPDIR": ""})[1] == "the default"


def test_a_workspace_is_private_and_goes_away(tmp_path: Path) -> None:
    with workspace.workspace(str(tmp_path), "x", None) as place:
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o700
        locked = Path(place.folder("stage-1", "work"))
        (locked / "work").mkdir(mode=0)
        (locked / "file").write_text("x")
        locked.chmod(0o500)
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_goes_away_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workspace.workspace(str(tmp_path), "x", None) as place:
        place.folder("stage-1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_cannot_be_made_names_who_wants_it_there(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"No such file or directory \(TMPDIR\)"),
        workspace.workspace(str(tmp_path / "none"), "TMPDIR", None),
    ):
        pass


def test_what_a_base_has_is_left_alone() -> None:
    found = {"/": Found("directory"), "/tmp": Found("directory", 0o777), "/var": Found("directory", 0o711)}
    wanted = [Folder("/tmp", 0o1777), Folder("/var/tmp", 0o1777), Folder("/var")]
    assert layout.plan(wanted, found) == [Folder("/var", 0o711), Folder("/var/tmp", 0o1777)]


def test_what_a_base_has_in_the_way_is_not_covered() -> None:
    found = {"/var": Found("symlink"), "/etc": Found("file")}
    assert layout.plan([Folder("/var/tmp"), File("/etc/x", b""), File("/opt/x", b"")], found) == [
        Folder("/opt"),
        File("/opt/x", b""),
    ]


def test_missing_entries_are_written_with_their_modes(tmp_path: Path) -> None:
    entries = layout.plan([File("/a/b/c", b"text", 0o700), Link("/l", "a"), Folder("/t", 0o1777)], {})
    layout.write(str(tmp_path), entries)
    assert (tmp_path / "l/b/c").read_text() == "text"
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700


def test_applets_are_paths_and_nothing_else() -> None:
    listing = "bin/busybox\nbin/ls\nusr/bin/[\nusr/bin/[[\nsbin/init\nlinuxrc\n../../etc/passwd\n/bin/sh\nbin/a b\n\n"
    assert busybox.applets(listing) == ["bin/ls", "bin/sh", "linuxrc", "sbin/init", "usr/bin/[", "usr/bin/[["]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_static_program_or_not(data: bytes) -> None:
    architecture.is_static(b"\x7fELF" + data)
    architecture.is_static(data)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bootstrap: docker\nFrom: alpine:3", "docker://alpine:3"),
        (
            "Bootstrap: docker\nFrom: a/b@sha256:0\nRegistry: r.io:5000\nNamespace: n",
            "docker://r.io:5000/n/a/b@sha256:0",
        ),
        ("Bootstrap: oci\nFrom: layout:tag", "oci:/w/layout:tag"),
        ("Bootstrap: oci-archive\nFrom: /x/y.tar", "oci-archive:/x/y.tar"),
    ],
)
def test_references_of_headers(header: str, expected: str) -> None:
    lines = [Line(number, text) for number, text in enumerate(header.split("\n"), 1)]
    assert oci.reference(parse_header(lines, "x"), "/w") == expected


def test_a_sandbox_bears_the_time_of_its_label() -> None:
    def of(date: str) -> int | None:
        return epoch.of_labels(json.dumps({"org.label-schema.build-date": date}).encode())

    assert of("Tuesday_14_November_2023_22:13:20_UTC") == 1700000000
    assert of("Tuesday_4_November_2023_2:3:2_CET") == 1699063382
    for nonsense in ("", "yesterday", "X_31_February_2023_0:0:0_UTC", "X_1_Brumaire_2023_0:0:0_UTC"):
        assert of(nonsense) is None
    assert epoch.of_labels(b"") is None


def test_a_release_of_debian_has_a_date() -> None:
    assert epoch.of_release("Origin: Debian\nDate: Sat, 17 May 2025 09:53:08 UTC\nX: y\n") == 1747475588
    assert epoch.of_release("Origin: Debian\n") is None
    assert epoch.of_release("Date: the day after tomorrow\n") is None


def test_the_guide_lists_what_stays_out_of_images() -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/building.md").read_text(encoding="utf-8")
    for pattern in traces.TRACES:
        names = (pattern, *(pattern.removeprefix(folder) for folder in ("/var/log/", "/var/cache/", "/etc/")))
        assert any(f"`{name}`" in guide for name in names), pattern
