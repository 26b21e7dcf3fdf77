"""The environment that an image's scripts make, with and without a shell in the image."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.system.program import Program

#: As `docker2singularity`, soliton and authors write them.
SCRIPTS = {
    "10-docker2singularity.sh": '#!/bin/sh\nexport PATH="/opt/bin:/bin"\nexport KEPT="${KEPT:-"image"}"\nexport NEW="${NEW:-"a b"}"\n',
    "90-environment.sh": "#!/bin/sh\nif [ -d /opt ]; then export HAS_OPT=yes; fi\nexport LIST=$LIST:x\n",
    "99-base.sh": '#!/bin/sh\nif [ -z "${PS1:-}" ]; then\n    PS1="Apptainer> "\nfi\nexport PS1\n',
}
OWN_RUNSCRIPT = """#!/bin/sh
OCI_ENTRYPOINT='"/bin/busybox" "echo"'
OCI_CMD='"from" "the image"'
CMDLINE_ARGS="$OCI_CMD"
eval "set -- $OCI_ENTRYPOINT $CMDLINE_ARGS"
exec "$@"
"""


@pytest.fixture
def sandbox(busybox_sandbox: Path, tmp_path: Path) -> Path:
    """A directory with environment scripts; its shell can be taken away."""
    root = tmp_path / "root"
    shutil.copytree(busybox_sandbox, root, symlinks=True)
    environment = root / ".singularity.d/env"
    environment.mkdir(parents=True)
    (root / "opt").mkdir()
    for name, text in SCRIPTS.items():
        (environment / name).write_text(text)
    return root


def without_shell(root: Path) -> Path:
    (root / "bin/sh").unlink()
    return root


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_files_of_variables_are_evaluated_in_their_order(soliton: Program, sandbox: Path) -> None:
    (soliton.cwd / "one").write_text("Z=1\nB=\"$Z x\"\nC='$Z'\nPATH=/own:$PATH\n")
    (soliton.cwd / "two").write_text("Z=2\nD=$B\nE=$(echo made)\n")
    words = ["exec", "--env-file", "one", "--env-file", "two", "--env", "F=$Z", sandbox, "env"]
    found = variables(soliton(*words).ok().out)
    assert [found[name] for name in "ZBCDEF"] == ["2", "1 x", "$Z", "1 x", "made", "2"]
    assert found["PATH"].startswith("/own:/opt/bin:")


def test_values_are_evaluated_in_an_image_without_scripts_too(
    soliton: Program, busybox_sandbox: Path
) -> None:
    show = [busybox_sandbox, "sh", "-c", 'echo "$X"']
    assert soliton("exec", "--env", "X=$HOME/x", *show).ok().out == f"{soliton.home}/x\n"
    assert soliton("exec", "--no-eval", "--env", "X=$HOME/x", *show).ok().out == "$HOME/x\n"


def test_scripts_that_take_too_long_are_given_up_when_asked(soliton: Program, sandbox: Path) -> None:
    (sandbox / ".singularity.d/env/95-slow.sh").write_text("sleep 600\n")
    (sandbox / ".singularity.d/runscript").write_text("#!/bin/sh\necho started\n")
    (sandbox / ".singularity.d/runscript").chmod(0o755)
    done = soliton("run", "--runscript-timeout", "1s", sandbox)
    assert (done.status, done.out) == (255, "")
    assert "took longer than 1 s" in done.err and done.err.count("\n") <= 3


def test_an_app_that_is_not_there_is_status_1(
    soliton: Program, busybox_sandbox: Path, tmp_path: Path
) -> None:
    for options in ((), ("--pid",)):
        for words in (("exec",), ("run",), ("test",), ("shell",)):
            command = ["true"] if words == ("exec",) else []
            result = soliton(*words, *options, "--app", "nope", busybox_sandbox, *command)
            assert result.status == 1, words
            assert "the app `nope` cannot be used" in result.err
    root = tmp_path / "with app"
    shutil.copytree(busybox_sandbox, root, symlinks=True)
    (root / "scif/apps/own/scif").mkdir(parents=True)
    assert soliton("exec", "--app", "own", root, "echo", "x").ok().out == "x\n"
    result = soliton("test", "--app", "own", root)
    assert (result.status, "it has no test" in result.err) == (1, True)


def test_a_shell_that_is_asked_for_is_not_replaced(soliton: Program, busybox_sandbox: Path) -> None:
    result = soliton("shell", "--shell", "/nope", busybox_sandbox)
    assert result.status == 255
    assert "/nope" in result.err


def test_exec_honours_the_environment_of_an_image_without_a_shell(soliton: Program, sandbox: Path) -> None:
    program = soliton.having(KEPT="host", APPTAINERENV_ASKED="$HAS_OPT", LIST="l")
    with_shell = program("exec", sandbox, "/bin/busybox", "env").ok()
    result = program("exec", without_shell(sandbox), "/bin/busybox", "env").ok()
    assert result.err == ""
    found = variables(result.out)
    assert found == variables(with_shell.out)
    assert found["PATH"].startswith("/opt/bin:/bin:")
    assert (found["KEPT"], found["NEW"], found["LIST"]) == ("host", "a b", "l:x")
    assert (found["HAS_OPT"], found["ASKED"]) == ("yes", "yes")


def test_scripts_that_need_a_shell_get_it(soliton: Program, sandbox: Path) -> None:
    (sandbox / ".singularity.d/env/91-environment.sh").write_text("export SAID=$(echo hello)\n")
    result = soliton("exec", sandbox, "env").ok()
    assert result.err == ""
    assert variables(result.out)["SAID"] == "hello"
    assert variables(result.out)["NEW"] == "a b"


def test_what_needs_a_shell_that_is_not_there_is_left_out_and_said(soliton: Program, sandbox: Path) -> None:
    script = sandbox / ".singularity.d/env/91-environment.sh"
    script.write_text("export BEFORE=1\nexport SAID=$(echo hello)\nexport AFTER=1\n")
    result = soliton("exec", without_shell(sandbox), "/bin/busybox", "env").ok()
    found = variables(result.out)
    assert (found["BEFORE"], found["AFTER"], found["NEW"]) == ("1", "1", "a b")
    assert "SAID" not in found
    assert "/.singularity.d/env/91-environment.sh, line 2: a command substitution" in result.err
    assert len(result.err.splitlines()) == 1


def test_an_oci_image_without_a_shell_runs(soliton: Program, sandbox: Path) -> None:
    runscript = sandbox / ".singularity.d/runscript"
    runscript.write_text(OWN_RUNSCRIPT)
    runscript.chmod(0o755)
    root = without_shell(sandbox)
    assert soliton("run", root).ok().out == "from the image\n"
    assert soliton("run", root, "$HAS_OPT", "b  c").ok().out == "yes b  c\n"
    assert soliton("run", "--no-eval", root, "$HAS_OPT").ok().out == "$HAS_OPT\n"
    refused = soliton("run", root, "$(id)")
    assert refused.status == 255
    assert "--no-eval" in refused.err


def test_a_script_without_its_interpreter_is_said_to_be_one(soliton: Program, sandbox: Path) -> None:
    runscript = sandbox / ".singularity.d/runscript"
    runscript.write_text("#!/bin/sh\necho hello\n")
    runscript.chmod(0o755)
    result = soliton("run", without_shell(sandbox))
    assert result.status == 255
    assert "/.singularity.d/runscript is a script for /bin/sh, which is not in the image" in result.err


STANDARD = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What makes the interpreter leave a script to the image's shell.
FOR_A_SHELL = "soliton_f() { :; }\n"


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize(
    ("words", "path"),
    [
        ([], f"/opt/bin:/bin:{STANDARD.removesuffix(':/bin')}"),
        (["--env", "PATH=/mine"], "/mine"),
        (["--env", "PATH=/mine:$PATH"], "/mine:/opt/bin:/bin"),
        (["--no-eval", "--env", "PATH=/mine:$PATH"], "/mine:$PATH"),
        (
            ["--env", "PREPEND_PATH=$X/bin", "--env", "X=/x"],
            f"/x/bin:/opt/bin:/bin:{STANDARD.removesuffix(':/bin')}",
        ),
        (["--env-file", "file"], "/opt/bin:/bin:/file"),
        (["--env-file", "file", "--env", "PATH=/mine"], "/mine"),
    ],
)
def test_the_search_path_is_the_caller_s_where_they_give_one(
    soliton: Program, sandbox: Path, shell: bool, words: list[str], path: str
) -> None:
    if shell:
        (sandbox / ".singularity.d/env/91-environment.sh").write_text(FOR_A_SHELL)
    (soliton.cwd / "file").write_text('PATH="\\$PATH:/file"\n')
    found = variables(soliton("exec", *words, sandbox, "/bin/env").ok().out)
    assert found["PATH"] == path
    assert not [name for name in found if name.startswith(("SING_USER", "soliton_"))]


def test_values_may_name_the_user(soliton: Program, sandbox: Path) -> None:
    shown = soliton("exec", "--env", "X=$UID.$EUID.$GID", sandbox, "sh", "-c", 'echo "$X"').ok().out
    assert shown == f"{os.getuid()}.{os.getuid()}.{os.getgid()}\n"


def test_the_environment_of_an_old_image_is_a_single_file(soliton: Program, busybox_sandbox: Path) -> None:
    root = Path(shutil.copytree(busybox_sandbox, soliton.cwd / "old", symlinks=True))
    (root / "environment").write_text("PATH=/canary:$PATH\nexport PATH OLD=yes\n")
    found = variables(soliton("exec", "--env", "X=$OLD", root, "env").ok().out)
    assert found["PATH"].startswith("/canary:") and found["OLD"] == found["X"] == "yes"


def test_what_the_caller_sets_beats_an_app(soliton: Program, sandbox: Path) -> None:
    (sandbox / "scif/apps/one/scif/env").mkdir(parents=True)
    (sandbox / "scif/apps/one/scif/env/90-environment.sh").write_text("export A=app B=app\n")
    found = variables(soliton("exec", "--app", "one", "--env", "A=mine", sandbox, "env").ok().out)
    assert (found["A"], found["B"]) == ("mine", "app")


def test_libraries_of_the_image_come_before_those_of_the_host(soliton: Program, sandbox: Path) -> None:
    (sandbox / "etc/ld.so.cache").touch()
    (sandbox / "etc/ld.so.conf.d").mkdir()
    (sandbox / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    (sandbox / "etc/ld.so.conf.d/a.conf").write_text("/usr/local/lib\n/missing\n")
    for name in ("usr/local/lib", "lib"):
        (sandbox / name).mkdir(parents=True, exist_ok=True)
    shown = ["-B", "/etc/hosts:/.singularity.d/libs/libx.so"]
    for words, path in (
        ([], "/.singularity.d/libs"),
        (shown, "/usr/local/lib:/lib:/.singularity.d/libs"),
        ([*shown, "--env", "LD_LIBRARY_PATH=/mine"], "/mine:/.singularity.d/libs"),
        (["--env", "PREPEND_LD_LIBRARY_PATH=/a"], "/a:/usr/local/lib:/lib:/.singularity.d/libs"),
        (["--env", "APPEND_LD_LIBRARY_PATH=/a"], "/usr/local/lib:/lib:/.singularity.d/libs:/a"),
    ):
        found = variables(soliton("exec", *words, sandbox, "env").ok().out)
        assert found["LD_LIBRARY_PATH"] == path, words
