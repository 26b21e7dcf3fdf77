"""What scripts written for the peers meet: under their names and, where nothing speaks against it, under soliton's own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.system.program import Program


@pytest.fixture
def peer(soliton: Program, tmp_path: Path) -> Program:
    """The program under the name `apptainer`."""
    link = tmp_path / "apptainer"
    link.symlink_to(soliton.name)
    return dataclasses.replace(soliton, name=str(link))


@pytest.fixture
def bare(busybox_sandbox: Path, tmp_path: Path) -> Path:
    """A userland without any metadata."""
    return Path(shutil.copytree(busybox_sandbox, tmp_path / "bare", symlinks=True))


def test_an_image_without_a_test_passes_and_says_so(soliton: Program, bare: Path) -> None:
    result = soliton("test", bare, stdin="exit 3\n").ok()
    assert result.out == ""
    assert result.err.splitlines()[0] == "INFO:    No test script found in container, exiting"
    assert "%test" in result.err
    assert soliton("-q", "test", bare).ok().err == ""


def test_an_image_without_a_runscript_runs_a_shell(soliton: Program, bare: Path) -> None:
    result = soliton("run", bare, "-c", "exit 3")
    assert (result.status, result.err) == (3, "INFO:    No runscript found in container, executing /bin/sh\n")
    assert soliton("--silent", "run", bare, "-c", "true").ok().err == ""


def test_the_shell_that_is_open_is_the_one_that_programs_start(soliton: Program, bare: Path) -> None:
    of_host = soliton.having(SHELL="/bin/zsh")
    assert of_host("shell", bare, "-c", "echo $SHELL").ok().out == "/bin/sh\n"
    assert of_host("exec", bare, "sh", "-c", "echo $SHELL").ok().out == "/bin/zsh\n"


def test_an_instance_s_missing_app_has_the_peers_status(soliton: Program, busybox_sif: Path) -> None:
    soliton("instance", "start", busybox_sif, "one").ok()
    try:
        for image in (busybox_sif, "instance://one"):
            assert soliton("run", "--app", "none", image).status == 1
    finally:
        soliton("instance", "stop", "one")


def test_silence_reaches_what_is_said_inside_the_container_too(soliton: Program, busybox_sif: Path) -> None:
    gone = soliton.cwd / "gone"
    gone.mkdir()
    words = ("exec", "--no-mount", "cwd,home,tmp", busybox_sif, "true")
    here = soliton.within(gone)
    assert "WARNING: the current directory" in here(*words).ok().err
    assert "WARNING: the current directory" in here("-q", *words).ok().err
    assert here("-s", *words).ok().err == ""


def test_what_the_peers_warn_of_is_no_error_under_their_names(
    peer: Program, soliton: Program, bare: Path
) -> None:
    words: tuple[object, ...] = ("exec", "--no-mount", "proc,nonsense", bare, "true")
    for _ in range(2):  # A stored plan would be silent.
        assert peer(*words).ok().err == "WARNING: Ignoring unknown mount type 'nonsense'\n"
    assert soliton(*words).status == 255
    words = ("exec", "--writable", "--writable-tmpfs", bare, "touch", "/etc/new")
    assert soliton(*words).status == 255
    assert peer(*words).ok().err == (
        "WARNING: Disabling --writable-tmpfs flag, mutually exclusive with --writable\n"
    )
    assert (bare / "etc/new").exists()


def test_a_home_below_tmp_is_there_when_contained(soliton: Program, busybox_sif: Path) -> None:
    """The home of a test's user lies in /var/tmp or /tmp."""
    for words in (["--contain"], ["--containall"], ["--contain", "--workdir", "."]):
        result = soliton("exec", *words, busybox_sif, "sh", "-c", "pwd; touch ~/x && ls ~").ok()
        assert result.out.endswith("x\n") and result.err == ""


@pytest.fixture
def of_glibc(bare: Path) -> Path:
    """What shows that an image is glibc's, with one locale as a directory and one in an archive."""
    (bare / "etc/ld.so.cache").touch()
    folder = bare / "usr/lib/locale"
    (folder / "de_DE.utf8").mkdir(parents=True)
    (folder / "de_DE.utf8/LC_CTYPE").touch()
    names = b"\0fr_FR.utf8\0"
    words = (0xDE020109, 0, 32, 0, 0, 32, len(names), len(names))
    (folder / "locale-archive").write_bytes(b"".join(w.to_bytes(4, "little") for w in words) + names)
    return bare


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        ("de_DE.UTF-8", "de_DE.UTF-8"),
        ("fr_FR.UTF-8", "fr_FR.UTF-8"),
        ("C.UTF-8", "C.UTF-8"),
        ("C", "C"),
        ("not a locale", "not a locale"),
        ("en_US.UTF-8", "C.UTF-8"),
        ("fr_FR", "C.UTF-8"),
    ],
)
def test_a_locale_that_the_image_lacks_is_replaced(
    soliton: Program, of_glibc: Path, given: str, inside: str
) -> None:
    there = soliton.having(LC_ALL=given)
    for _ in range(2):
        result = there("exec", of_glibc, "sh", "-c", "echo $LC_ALL").ok()
        assert result.out == f"{inside}\n"
        assert (result.err == "") == (given == inside), result.err
    if given != inside:
        assert result.err == f"INFO:    the locale `{given}` is not in the image; C.UTF-8 takes its place\n"
    explained = json.loads(there("exec", "--explain", "--json", of_glibc, "true").ok().out)
    (shown,) = (variable for variable in explained["environment"] if variable["name"] == "LC_ALL")
    why = "your environment" if given == inside else f"the image lacks the locale {given}; guard, the default"
    assert (shown["value"], shown["because"]) == (inside, why)


def test_a_locale_is_looked_for_in_an_image_file_too(soliton: Program, of_glibc: Path) -> None:
    soliton("build", "glibc.sif", of_glibc).ok()
    there = soliton.having(LANG="fr_FR.UTF-8", LC_TIME="de_DE.UTF-8", LC_ALL="ru_RU.UTF-8")
    text = there("exec", "--explain", "glibc.sif", "true").ok().out
    (line,) = (line for line in text.splitlines() if "lacks the locale" in line)
    assert line.split(maxsplit=1) == [
        "LC_ALL=C.UTF-8",
        "the image lacks the locale ru_RU.UTF-8; guard, the default",
    ]


def test_what_is_said_of_a_locale_is_said_once_and_only_where_it_matters(
    soliton: Program, peer: Program, of_glibc: Path, busybox_sif: Path
) -> None:
    words = ("sh", "-c", "echo $LANG $LC_TIME")
    german = {"LANG": "en_US.UTF-8", "LC_TIME": "en_US.UTF-8"}
    result = soliton.having(**german)("exec", of_glibc, *words).ok()
    assert result.out == "C.UTF-8 C.UTF-8\n" and result.err.count("en_US") == 1
    assert soliton.having(**german, SLURM_PROCID="3")("exec", of_glibc, *words).ok().err == ""
    for program, image, option in (
        (peer, of_glibc, "--pid"),
        (soliton, busybox_sif, "--pid"),
        (soliton, of_glibc, "--no-guard"),
    ):
        result = program.having(**german)("exec", option, image, *words).ok()
        assert (result.out, result.err) == ("en_US.UTF-8 en_US.UTF-8\n", "")
    result = soliton.having(LANG="en_US.UTF-8")("exec", "--env", "LANG=ru_RU.UTF-8", of_glibc, *words).ok()
    assert (result.out, result.err) == ("ru_RU.UTF-8\n", "")


def test_an_overlay_that_may_not_be_written_is_only_read(
    peer: Program, soliton: Program, busybox_sif: Path
) -> None:
    soliton("overlay", "create", "site.img").ok()
    soliton("exec", "-o", "site.img", busybox_sif, "touch", "/there").ok()
    (soliton.cwd / "site.img").chmod(0o444)
    done = peer("exec", "-o", "site.img", busybox_sif, "ls", "/there").ok()
    assert "`site.img` may not be written by you and is only read" in done.err
    assert peer("exec", "-o", "site.img", busybox_sif, "touch", "/new").status == 1
    # Whoever says that it is to be written means it; so does soliton in its own name.
    for program, name in ((peer, "site.img:rw"), (soliton, "site.img")):
        refused = program("exec", "-o", name, busybox_sif, "true")
        assert refused.status == 255 and "cannot be written" in refused.err
