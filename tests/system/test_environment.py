"""The environment that an image's scripts make, with and without a shell in the image."""

from __future__ import annotations

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
    done = soliton("run", "--runscript-timeout", "1s", sandbox).ok()
    assert done.out == "started\n"
    assert "took longer than 1 s" in done.err


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
