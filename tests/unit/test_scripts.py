"""The scripts in an image do what the contract says, in every shell at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soliton.images import scripts

SHELLS = [
    command
    for command in (["/bin/sh"], ["bash", "--posix"], ["dash"], ["busybox", "sh"], ["mksh"])
    if shutil.which(command[0])
]

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
nasty = st.one_of(texts, st.text(st.sampled_from("'\"\\`$}{ \n*?~!#&;|<>()=aé"), max_size=12))


def shell(command: list[str], script: str, *args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*command, "-c", script, "script", *args],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def show(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that prints its arguments, each closed by a NUL, so that nothing about them is lost."""
    path = tmp_path_factory.mktemp("bin") / "show"
    path.write_text('#!/bin/sh\nfor a in "$@"; do printf \'%s\\000\' "$a"; done\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
@settings(max_examples=50)
@given(st.lists(nasty, min_size=1, max_size=4))
def test_any_value_of_env_arrives_as_it_was(command: list[str], values: list[str]) -> None:
    names = [f"V{n}" for n in range(len(values))]
    script = scripts.oci_environment([f"{name}={value}" for name, value in zip(names, values, strict=True)])
    printed = "".join(f'printf "%s\\000" "${name}"\n' for name in names)
    ran = shell(command, script + printed)
    assert ran.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == values, ran.stderr


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
def test_a_value_from_outside_wins_but_for_path(command: list[str]) -> None:
    script = scripts.oci_environment(["A=image", "B=image", "C", "PATH=/image"]) + 'echo "$A $B $C $PATH"'
    assert shell(command, script, A="host", B="", C="host").stdout == b"host image host /image\n"


def test_names_that_no_shell_can_set_are_left_out() -> None:
    assert scripts.oci_environment(["bad-name=1", "1a=2", "=3", "", "a b=4", "ok=5", "n\n=6"]) == (
        '#!/bin/sh\nexport ok="${ok:-5}"\n'
    )


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
@settings(max_examples=20)
@given(st.lists(nasty, max_size=3), st.lists(nasty, max_size=3), st.lists(nasty, max_size=3), st.booleans())
def test_the_words_of_an_oci_image_are_not_changed(
    show: str, command: list[str], entrypoint: list[str], cmd: list[str], args: list[str], exact: bool
) -> None:
    """The image's words always; the caller's with `--no-eval`."""
    if not exact:
        args = []
    script = scripts.oci_runscript([show, *entrypoint], cmd)
    environment = {"SINGULARITY_NO_EVAL": "1"} if exact else {}
    ran = shell(command, script, *args, **environment)
    assert ran.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == entrypoint + (args or cmd), (
        ran.stderr
    )


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("entrypoint", "cmd", "args", "expected"),
    [
        ([], ["SHOW", "cmd"], [], ["cmd"]),
        ([], ["echo", "cmd"], ["SHOW", "a b"], ["a b"]),
        (["SHOW", "entry"], ["cmd"], [], ["entry", "cmd"]),
        (["SHOW", "entry"], ["cmd"], ["arg"], ["entry", "arg"]),
        (["SHOW", "entry"], [], [], ["entry"]),
        (["SHOW", "entry"], [], ["a b", "c"], ["entry", "a b", "c"]),
        ([], [], ["SHOW", "given"], ["given"]),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_the_arguments_of_a_caller_replace_cmd(
    show: str,
    command: list[str],
    entrypoint: list[str],
    cmd: list[str],
    args: list[str],
    expected: list[str],
    exact: bool,
) -> None:
    def named(words: list[str]) -> list[str]:
        return [show if word == "SHOW" else word for word in words]

    script = scripts.oci_runscript(named(entrypoint), named(cmd))
    environment = {"SINGULARITY_NO_EVAL": "1"} if exact else {}
    ran = shell(command, script, *named(args), **environment)
    assert ran.stdout.decode().split("\0")[:-1] == expected


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
def test_arguments_are_evaluated_once_more_unless_told_otherwise(show: str, command: list[str]) -> None:
    script = scripts.oci_runscript([show, "$WORD"], [])
    ran = shell(command, script, "$WORD", "`echo cmd`", WORD="value")
    assert ran.stdout == b"$WORD\0value\0cmd\0"
    ran = shell(command, script, "$WORD", "`echo cmd`", WORD="value", SINGULARITY_NO_EVAL="1")
    assert ran.stdout == b"$WORD\0$WORD\0`echo cmd`\0"


def test_the_image_s_words_can_be_read_from_the_runscript() -> None:
    lines = scripts.oci_runscript(["/entry", "it's"], ["a b", "$c"]).splitlines()
    assert lines[1] == 'OCI_ENTRYPOINT=\'"/entry" "it\'"\'"\'s"\''
    assert lines[2] == 'OCI_CMD=\'"a b" "\\$c"\''
    assert scripts.oci_runscript([], []).splitlines()[1:3] == ["OCI_ENTRYPOINT=''", "OCI_CMD=''"]


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
@pytest.mark.parametrize(
    "text",
    [
        scripts.ACTION_EXEC,
        scripts.ACTION_RUN,
        scripts.ACTION_SHELL,
        scripts.ACTION_START,
        scripts.ACTION_TEST,
        scripts.ENV_01_BASE,
        scripts.ENV_90_ENVIRONMENT,
        scripts.ENV_95_APPS,
        scripts.ENV_99_BASE,
        scripts.ENV_99_RUNTIMEVARS,
        scripts.app_base("a"),
        scripts.app_exports("a", environment=True, runscript=True),
        scripts.app_install("a", "true"),
    ],
)
def test_every_script_is_valid_shell(tmp_path: Path, command: list[str], text: str) -> None:
    (tmp_path / "script").write_text(text)
    checked = subprocess.run([*command, "-n", str(tmp_path / "script")], capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
def test_libraries_of_the_launcher_come_last_and_the_prompt_is_kept(command: list[str]) -> None:
    shown = scripts.ENV_99_BASE + 'echo "$LD_LIBRARY_PATH|$PS1"'
    # Shells that are not interactive may forget a PS1 from outside, so it is set inside.
    assert (
        shell(command, f"PS1=mine\n{shown}", LD_LIBRARY_PATH="/a").stdout == b"/a:/.singularity.d/libs|mine\n"
    )
    assert shell(command, f"PS1=\n{shown}").stdout == b"/.singularity.d/libs|Apptainer> \n"


@pytest.mark.parametrize("command", SHELLS, ids=lambda c: c[0])
def test_search_paths_of_the_caller_surround_or_replace_the_image_s(command: list[str]) -> None:
    script = "PATH=/image\n" + scripts.ENV_99_RUNTIMEVARS + 'echo "$PATH${SING_USER_DEFINED_PATH:-}"'
    both = {"SING_USER_DEFINED_PREPEND_PATH": "/first", "SING_USER_DEFINED_APPEND_PATH": "/last"}
    assert shell(command, script, **both).stdout == b"/first:/image:/last\n"
    assert shell(command, script, SING_USER_DEFINED_PATH="/only", **both).stdout == b"/only\n"


def test_a_script_keeps_its_own_interpreter() -> None:
    assert scripts.with_shebang("echo\n") == "#!/bin/sh\n\necho\n\n"
    assert scripts.with_shebang("#!/bin/bash -x\necho\n", "-e # why") == "#!/bin/bash -x -e\n\necho\n\n"
    assert scripts.with_shebang("\n#! /usr/bin/python3\nprint()\n") == "#! /usr/bin/python3\n\nprint()\n\n"
    assert scripts.with_shebang("#!/bin/true") == "#!/bin/true\n\n\n"
