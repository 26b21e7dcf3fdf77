"""Bad input gets a clear error and loses nothing. What a user sees, compared as text."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.program import AMPLE, Program, Result, eventually, interrupt


def fatal(result: Result) -> str:
    """The message of a failure: status 255, nothing on stdout, no traceback, at most three lines."""
    assert result.status == 255, (result.status, result.out, result.err)
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert lines and lines[0].startswith("FATAL:   "), result.err
    assert len(lines) <= 3, result.err
    return "\n".join(lines)


def test_an_image_that_does_not_exist(soliton: Program) -> None:
    message = fatal(soliton("exec", "missing image.sif", "true"))
    assert "missing image.sif" in message
    assert "no such" in message.lower()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>" * 100, "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
        (b"\x00" * 5000, "not"),
    ],
)
def test_a_file_that_is_not_an_image(soliton: Program, content: bytes, word: str) -> None:
    (soliton.cwd / "thing.sif").write_bytes(content)
    message = fatal(soliton("exec", "thing.sif", "true"))
    assert "thing.sif" in message
    assert word in message


def test_a_truncated_image_is_said_at_once(soliton: Program, image: Path) -> None:
    os.truncate(image, image.stat().st_size - 5000)
    message = fatal(soliton("exec", image, "true"))
    assert "truncated" in message


def test_an_image_for_another_architecture(soliton: Program, image: Path) -> None:
    from soliton.images.architecture import host_architecture

    foreign = "arm64" if host_architecture() != "arm64" else "amd64"
    soliton("pull", "--arch", foreign, "other.sif", f"oci:{other_layout(soliton.cwd, foreign)}:latest").ok()
    message = fatal(soliton("exec", "other.sif", "true"))
    assert foreign in message


def other_layout(directory: Path, architecture: str) -> Path:
    from tests.zoo import GZIP, base_layer, write_layout

    return write_layout(directory / "layout", [(base_layer(), GZIP)], architecture=architecture)


def test_a_command_that_the_container_does_not_have(soliton: Program, busybox_sif: Path) -> None:
    message = fatal(soliton("exec", busybox_sif, "no-such-program"))
    assert "no-such-program" in message
    assert "not found" in message


def test_a_working_directory_that_the_container_does_not_have(soliton: Program, busybox_sif: Path) -> None:
    message = fatal(soliton("exec", "--cwd", "/no/such", busybox_sif, "true"))
    assert "/no/such" in message


def test_a_bind_source_that_does_not_exist(soliton: Program, busybox_sif: Path) -> None:
    message = fatal(soliton("exec", "--bind", "/no/such/source:/mnt", busybox_sif, "true"))
    assert "/no/such/source" in message


def test_an_existing_target_is_kept_unless_forced(soliton: Program, busybox_sandbox: Path) -> None:
    target = soliton.cwd / "image.sif"
    target.write_text("precious")
    message = fatal(soliton("build", target, busybox_sandbox))
    assert "--force" in message
    assert target.read_text() == "precious"
    soliton("build", "--force", target, busybox_sandbox).ok()
    soliton("exec", target, "true").ok()


def test_a_target_directory_that_cannot_be_written(soliton: Program, busybox_sandbox: Path) -> None:
    closed = soliton.cwd / "closed"
    closed.mkdir(mode=0o555)
    message = fatal(soliton("build", closed / "image.sif", busybox_sandbox))
    assert "closed" in message
    assert not list(closed.iterdir())


def test_a_file_size_limit_leaves_nothing_half_written(soliton: Program, busybox_sandbox: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the write fails in the middle."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [soliton.name, "build", "image.sif", str(busybox_sandbox)],
        cwd=soliton.cwd,
        env=soliton.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 255, done
    assert b"FATAL:" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not list(soliton.cwd.iterdir())


def test_a_definition_file_with_an_unknown_section(soliton: Program) -> None:
    (soliton.cwd / "bad.def").write_text("Bootstrap: busybox\n\n%pots\n    true\n")
    message = fatal(soliton("build", "image.sif", "bad.def"))
    assert "bad.def" in message
    assert "line 3" in message or "bad.def:3" in message
    assert "%post" in message
    assert not (soliton.cwd / "image.sif").exists()


def test_a_failing_post_shows_its_output_and_status(soliton: Program) -> None:
    (soliton.cwd / "bad.def").write_text("Bootstrap: busybox\n%post\n    echo before the end\n    exit 42\n")
    result = soliton("build", "image.sif", "bad.def")
    assert result.status == 255
    assert "42" in result.err
    assert "before the end" in result.out + result.err
    assert not list(soliton.cwd.glob("*.sif*"))
    assert not list(soliton.cwd.glob(".*"))


def test_a_registry_that_cannot_be_reached(soliton: Program) -> None:
    message = fatal(soliton("pull", "docker://localhost:1/nothing/here:latest"))
    assert "localhost:1" in message


def test_flags_that_are_not_built_yet_say_so(soliton: Program, busybox_sif: Path) -> None:
    for flag in (["--proot", "x"], ["--keep-layers"], ["--ignore-userns"]):
        message = fatal(soliton("exec", *flag, busybox_sif, "true"))
        assert "is not supported\n" in message and message.count("\n") == 1
        assert flag[0].lstrip("-") in message


def test_an_unknown_flag_is_a_usage_error(soliton: Program, busybox_sif: Path) -> None:
    result = soliton("exec", "--no-such-flag", busybox_sif, "true")
    assert result.status == 1
    assert "--no-such-flag" in result.err


def test_interrupting_a_build_leaves_nothing(soliton: Program) -> None:
    (soliton.cwd / "long.def").write_text("Bootstrap: busybox\n%post\n    echo started\n    sleep 1000\n")
    process = soliton.start("build", "image.sif", "long.def")
    assert process.stdout is not None and process.stderr is not None
    seen = b""
    os.set_blocking(process.stdout.fileno(), False)
    os.set_blocking(process.stderr.fileno(), False)

    def has_started() -> bool:
        nonlocal seen
        assert process.stdout is not None and process.stderr is not None
        seen += (process.stdout.read() or b"") + (process.stderr.read() or b"")
        return b"started" in seen.replace(b"echo started", b"")

    eventually(has_started, lambda: repr(seen))
    result = interrupt(process)
    assert result.status in (130, -2), (result, seen)
    assert [p.name for p in soliton.cwd.iterdir()] == ["long.def"]


def test_a_machine_without_the_fuse_device_is_told_the_remedy(soliton: Program, busybox_sif: Path) -> None:
    """/dev/fuse is hidden by running in a container whose /dev has none."""
    hide = 'mount -t tmpfs none /dev && exec "$@"'
    hidden = Program(
        home=soliton.home,
        cwd=soliton.cwd,
        wrapper=("unshare", "-Urm", "--map-root-user", "sh", "-c", hide, "sh"),
        name=soliton.name,
    )
    message = fatal(hidden("exec", busybox_sif, "true"))
    assert "/dev/fuse" in message
    assert "--unsquash" in message


def test_ending_a_job_takes_along_what_it_has_unpacked(soliton: Program, busybox_sif: Path) -> None:
    """While it is being unpacked, or later: nobody can tell."""
    process = soliton.start("exec", "--unsquash", busybox_sif, "sleep", "1000")
    eventually(lambda: list((soliton.home / "tmp").glob("soliton-unsquash-*/root")) or process.poll())
    process.terminate()
    _, err = process.communicate(timeout=AMPLE)
    assert (process.returncode, err) == (128 + signal.SIGTERM, b"")
    assert not list((soliton.home / "tmp").iterdir())
