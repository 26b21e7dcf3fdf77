"""exec, run, shell and test as a user finds them on the first day."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.program import AMPLE, Program, eventually


def test_limits_that_leave_no_room_to_start_are_named(soliton: Program, busybox_sif: Path) -> None:
    for limit, said in (("-f 0", "`ulimit -f`"), ("-n 16", "`ulimit -n`")):
        limited = replace(soliton, wrapper=("sh", "-c", f'ulimit {limit}; exec "$@"', "sh"))
        result = limited("exec", busybox_sif, "true")
        assert result.status == 255 and said in result.err, result
        assert "os error" not in result.err


def test_a_missing_app_is_told_once(soliton: Program, busybox_sif: Path) -> None:
    recipe = (
        f"Bootstrap: localimage\nFrom: {busybox_sif}\n%environment\n    export NEEDS_A_SHELL=$(echo yes)\n"
    )
    (soliton.cwd / "shell.def").write_text(recipe)
    soliton("build", "shell.sif", "shell.def").ok()
    assert soliton("exec", "shell.sif", "sh", "-c", "echo $NEEDS_A_SHELL").ok().out == "yes\n"
    for command in ("exec", "run", "test"):
        result = soliton(command, "--app", "none", "shell.sif", "true")
        assert result.status == 1
        assert result.err == "FATAL:   the app `none` cannot be used\n         the image has no such app\n"


def test_all_messages_tell_what_is_started(soliton: Program, busybox_sif: Path) -> None:
    told = soliton("-d", "exec", "--bind", "/usr:/mnt", busybox_sif, "true").ok().err
    assert f"the image is `{busybox_sif}`: sif" in told
    assert "bind at `/mnt` of `/usr` (--bind)" in told
    assert soliton("exec", "--bind", "/usr:/mnt", busybox_sif, "true").ok().err == ""


def test_exec_runs_a_command_and_passes_its_status_on(soliton: Program, busybox_sif: Path) -> None:
    assert soliton("exec", busybox_sif, "echo", "hello").ok().out == "hello\n"
    assert soliton("exec", busybox_sif, "sh", "-c", "exit 7").status == 7


def test_a_successful_run_prints_nothing_of_its_own(soliton: Program, busybox_sif: Path) -> None:
    assert soliton("exec", busybox_sif, "true").ok().err == ""


def test_a_signal_is_128_and_its_number(soliton: Program, busybox_sif: Path) -> None:
    result = soliton("exec", busybox_sif, "sh", "-c", "kill -TERM $$")
    assert result.status in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert soliton("exec", "--pid", busybox_sif, "sh", "-c", "kill -TERM $$").status == 128 + signal.SIGTERM


def test_the_user_inside_is_the_user_outside(soliton: Program, busybox_sif: Path) -> None:
    out = soliton("exec", busybox_sif, "sh", "-c", "id -u; id -un; id -g").ok().out.split()
    me = pwd.getpwuid(os.getuid())
    assert out == [str(me.pw_uid), me.pw_name, str(me.pw_gid)]


def test_home_and_working_directory_are_there_and_writable(soliton: Program, busybox_sif: Path) -> None:
    soliton(
        "exec", busybox_sif, "sh", "-c", "pwd > from-inside; touch /tmp/of-a-test-$$ && rm /tmp/of-a-test-$$"
    ).ok()
    assert (soliton.cwd / "from-inside").read_text() == f"{soliton.cwd}\n"


def test_the_root_cannot_be_written(soliton: Program, busybox_sif: Path) -> None:
    assert soliton("exec", busybox_sif, "touch", "/etc/new").status != 0


def test_binds_appear_where_they_are_asked_for(soliton: Program, busybox_sif: Path) -> None:
    data = soliton.cwd / "data äöü with spaces"
    data.mkdir()
    (data / "file").write_text("42\n")
    bind = f"{data}:/not/in the/image"
    assert soliton("exec", "--bind", bind, busybox_sif, "cat", "/not/in the/image/file").ok().out == "42\n"
    read_only = soliton("exec", "--bind", f"{bind}:ro", busybox_sif, "touch", "/not/in the/image/new")
    assert read_only.status != 0
    assert "Read-only" in read_only.err


def test_the_environment_passes_through_and_the_injected_wins(soliton: Program, busybox_sif: Path) -> None:
    outside = soliton.having(COLOUR="blue", APPTAINERENV_SHAPE="round")
    out = outside("exec", busybox_sif, "sh", "-c", "echo $COLOUR $SHAPE").ok().out
    assert out == "blue round\n"
    assert outside("exec", "--env", "COLOUR=red", busybox_sif, "sh", "-c", "echo $COLOUR").ok().out == "red\n"
    assert outside("exec", "--cleanenv", busybox_sif, "sh", "-c", "echo -$COLOUR-").ok().out == "--\n"


def test_contain_hides_the_home_and_tmp_of_the_host(soliton: Program, busybox_sif: Path) -> None:
    (soliton.home / "secret").write_text("x")
    assert soliton("exec", "--contain", busybox_sif, "ls", soliton.home / "secret").status != 0


def test_a_new_pid_namespace_has_an_init(soliton: Program, busybox_sif: Path) -> None:
    out = (
        soliton("exec", "--pid", busybox_sif, "sh", "-c", "echo $$; ls -d /proc/[0-9]* | wc -l")
        .ok()
        .out.split()
    )
    assert int(out[0]) < 10
    assert int(out[1]) < 10


def test_a_writable_tmpfs_forgets(soliton: Program, busybox_sif: Path) -> None:
    script = "echo x > /etc/new && cat /etc/new"
    assert soliton("exec", "--writable-tmpfs", busybox_sif, "sh", "-c", script).ok().out == "x\n"
    assert soliton("exec", busybox_sif, "cat", "/etc/new").status != 0


def test_a_sandbox_runs_and_can_be_written_when_asked(soliton: Program, busybox_sif: Path) -> None:
    soliton("build", "--sandbox", "tree", busybox_sif).ok()
    soliton("exec", "--writable", "tree", "sh", "-c", "echo x > /opt-file").ok()
    assert (soliton.cwd / "tree/opt-file").read_text() == "x\n"
    assert soliton("exec", "tree", "cat", "/opt-file").ok().out == "x\n"
    assert soliton("exec", "tree", "touch", "/other").status != 0


def test_fakeroot_is_root_inside(soliton: Program, busybox_sif: Path) -> None:
    assert soliton("exec", "--fakeroot", busybox_sif, "id", "-u").ok().out == "0\n"


def test_exec_needs_no_shell_in_the_image(soliton: Program, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for directory in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / directory).mkdir(parents=True)
    (root / "bin/true").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/true").chmod(0o755)
    soliton("exec", root, "true").ok()
    soliton("build", "bare.sif", root).ok()
    soliton("exec", "bare.sif", "/bin/true").ok()


def test_hello_needs_nothing_but_the_program(soliton: Program) -> None:
    first = soliton("run", "hello://").ok()
    assert first.out.startswith("Hello from inside a container.\n") and first.err == ""


def test_it_works_with_streams_closed(soliton: Program, busybox_sif: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" exec "$1" echo fine <&- 2>&-', soliton.name, busybox_sif],
        cwd=soliton.cwd,
        env=soliton.environment(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"fine\n")


def test_it_works_from_a_read_only_home(soliton: Program, busybox_sif: Path) -> None:
    (soliton.home / "tmp2").mkdir()
    elsewhere = soliton.having(TMPDIR=str(soliton.home / "tmp"))
    soliton.home.chmod(0o555)
    try:
        elsewhere("exec", busybox_sif, "true").ok()
    finally:
        soliton.home.chmod(0o755)


def test_it_works_with_nothing_but_path_in_the_environment(soliton: Program, busybox_sif: Path) -> None:
    done = subprocess.run(
        ["env", "-", "PATH=/usr/bin:/bin", soliton.name, "exec", busybox_sif, "true"],
        cwd=soliton.cwd,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["plain.sif", "plain-xz.sif", "plain-lz4.sif", "plain-lzo.sif", "plain-zstd.sif"]
)
def test_images_of_another_implementation_run(soliton: Program, foreign: Path, name: str) -> None:
    image = foreign / name
    assert soliton("run", image, "one", "two").ok().out == "run: hello from the image\nargs: 2 one two\n"
    assert soliton("run", "--app", "foo", image, "x").ok().out == "app foo: x foo-file\n"
    assert soliton("test", image).ok().out == "test-ok\n"
    assert soliton("exec", image, "cat", "/opt/stage").ok().out == "built\n"
    assert soliton("exec", image, "sh", "-c", 'echo "$SPACED"').ok().out == "a b  c\n"


def _processes_of(marker: str) -> list[int]:
    return [pid for pid in processes.own() if marker in " ".join(processes.command_of(pid))]


def _image_servers() -> set[int]:
    return {pid for pid in processes.own() if processes.name_of(pid).startswith("soliton-image")}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("idle", ["off", "1"])
def test_no_process_outlives_the_container(
    soliton: Program, image: Path, how: signal.Signals, idle: str
) -> None:
    """Nor, for longer than it was told to, the server that would give the image to others."""
    before = _image_servers()
    process = soliton.having(SOLITON_IMAGE_SERVER=idle).start("exec", "--pid", image, "sleep", "98765")
    eventually(lambda: any(processes.command_of(pid) == ["sleep", "98765"] for pid in _processes_of("98765")))
    os.kill(process.pid, how)
    process.wait(timeout=AMPLE)
    eventually(lambda: not _processes_of("98765"))
    eventually(lambda: not (_image_servers() - before))


def test_a_script_that_does_not_say_by_what_is_run_by_the_shell(soliton: Program, busybox_sif: Path) -> None:
    script = soliton.cwd / "bare"
    script.write_text('echo "$1 from $0"\n')
    script.chmod(0o755)
    for name, words in ((f"{soliton.cwd}/bare", []), ("bare", ["--env", f"PREPEND_PATH={soliton.cwd}"])):
        shown = soliton("exec", *words, busybox_sif, name, "hello").ok().out
        assert shown == f"hello from {soliton.cwd}/bare\n"
    # A program of another machine's is none.
    script.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    result = soliton("exec", busybox_sif, script)
    assert result.status == 255 and "Exec format error" in result.err
