"""A stored plan is used where everything it depends on is as it was, and never where anything is not."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.program import Program

#: Tells by whom the container was started: `marked` changes the answer in the stored plans.
ASK = ("sh", "-c", 'echo "$APPTAINER_COMMAND"')
PYTHON, SHORTCUT = "exec\n", "stored\n"


@pytest.fixture
def fast(soliton: Program, tmp_path: Path) -> Program:
    """The program with a store of its own."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return soliton.having(XDG_RUNTIME_DIR=str(runtime), SOLITON_SHORTCUT="")


def store(program: Program) -> Path:
    return Path(program.variables["XDG_RUNTIME_DIR"]) / "soliton"


def plans(program: Program) -> list[Path]:
    return plans_in(store(program)) if store(program).exists() else []


def plans_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if len(path.name) == 32]


def marked(program: Program, *words: str | Path) -> None:
    """Starts once, and changes what was stored so that a start from it shows."""
    for path in plans(program):
        path.unlink()
    assert program("exec", *words, *ASK).ok().out == PYTHON
    new = plans(program)
    assert len(new) == 1, f"stored: {new}"
    for path in new:
        text = path.read_text()
        assert '"APPTAINER_COMMAND":"exec"' in text
        path.write_text(text.replace('"APPTAINER_COMMAND":"exec"', '"APPTAINER_COMMAND":"stored"'))


def asked(program: Program, *words: str | Path) -> str:
    return program("exec", *words, *ASK).ok().out


def test_the_second_start_needs_no_python(fast: Program, image: Path) -> None:
    marked(fast, image)
    assert asked(fast, image) == SHORTCUT
    assert fast("exec", image, "sh", "-c", "echo other words; exit 3").status == 3
    assert asked(fast.having(SOLITON_SHORTCUT="off"), image) == PYTHON


def test_a_hundred_binds_each_with_its_option_have_a_shortcut_too(
    fast: Program, image: Path, tmp_path: Path
) -> None:
    binds: list[str] = []
    for number in range(100):
        (tmp_path / f"source {number}").mkdir()
        binds += ["--bind", f"{tmp_path}/source {number}:/mnt/{number}"]
    marked(fast, *binds, image)
    assert asked(fast, *binds, image) == SHORTCUT
    shutil.rmtree(tmp_path / "source 99")
    missing = fast("exec", *binds, image, *ASK)
    assert missing.status == 255 and "source 99" in missing.err


def test_environment_directory_and_umask_are_those_of_each_call(
    fast: Program, image: Path, tmp_path: Path
) -> None:
    marked(fast, image)
    other = tmp_path / "elsewhere ü"
    other.mkdir()
    script = 'umask; pwd; echo "$RANK" "$APPTAINER_COMMAND"; touch here; env | grep -c RANK'
    there = fast.within(other).having(RANK="7")
    there_with_umask = Program(
        there.home, there.cwd, there.variables, ("sh", "-c", 'umask 027; exec "$@"', "sh")
    )
    out = there_with_umask("exec", image, "sh", "-c", script).ok().out
    assert out == f"0027\n{other}\n7 stored\n1\n"
    assert (other / "here").exists()
    # A directory that is never mounted is not by a stored plan either.
    assert "stored" in fast.within(Path("/usr"))("exec", image, "sh", "-c", f"{ASK[2]}; pwd").ok().out


def test_a_umask_that_was_asked_for_is_not_the_caller_s(fast: Program, image: Path) -> None:
    marked(fast, "--umask", "007", image)
    script = f"{ASK[2]}; umask"
    other = Program(fast.home, fast.cwd, fast.variables, ("sh", "-c", 'umask 027; exec "$@"', "sh"))
    assert other("exec", "--umask", "007", image, "sh", "-c", script).ok().out == f"{SHORTCUT}0007\n"
    assert other("exec", "--umask", "070", image, "sh", "-c", script).ok().out == f"{PYTHON}0070\n"
    assert other("exec", image, "sh", "-c", script).ok().out == f"{PYTHON}0027\n"
    by_variable = other.having(SOLITON_UMASK="700")
    assert by_variable("exec", image, "sh", "-c", script).ok().out == f"{PYTHON}0700\n"
    assert by_variable("exec", "--no-umask", image, "sh", "-c", script).ok().out == f"{PYTHON}0022\n"


def test_what_the_container_prints_is_the_same_from_a_stored_plan(fast: Program, image: Path) -> None:
    variables = fast.having(COLOUR="blue", APPTAINERENV_SHAPE="round", TERM="dumb")
    for words in (
        ["exec", image],
        ["exec", "-e", image],
        ["exec", "-C", "--writable-tmpfs", "-B", "/usr:/mnt", image],
    ):
        off = variables.having(SOLITON_SHORTCUT="off")(
            *words, "sh", "-c", "env | sort; id; pwd; cat /proc/mounts | wc -l"
        ).ok()
        seen = [line for line in off.out.splitlines() if "SHORTCUT" not in line]
        for _ in range(2):
            on = variables(*words, "sh", "-c", "env | sort; id; pwd; cat /proc/mounts | wc -l").ok()
            assert [line for line in on.out.splitlines() if "SHORTCUT" not in line] == seen
            assert on.err == off.err


def test_an_image_replaced_in_place_is_noticed(fast: Program, image: Path, busybox_sif: Path) -> None:
    marked(fast, image)
    times = image.stat()
    # The same size, the same time of change, the same inode.
    with image.open("r+b") as file:
        file.write(busybox_sif.read_bytes()[:64])
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert asked(fast, image) == PYTHON
    marked(fast, image)
    shutil.copy(busybox_sif, other := image.with_name("other.sif"))
    other.rename(image)
    assert asked(fast, image) == PYTHON


def test_an_image_that_is_gone_is_said_to_be(fast: Program, image: Path) -> None:
    marked(fast, image)
    image.unlink()
    gone = fast("exec", image, *ASK)
    assert gone.status == 255
    assert "no such image" in gone.err


def test_a_relative_image_is_that_of_the_working_directory(
    fast: Program, image: Path, tmp_path: Path
) -> None:
    here = fast.within(image.parent)
    marked(here, image.name)
    assert asked(here, image.name) == SHORTCUT
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(image, other / image.name)
    assert asked(fast.within(other), image.name) == PYTHON


def test_a_bind_source_that_vanishes_or_appears_is_noticed(
    fast: Program, image: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    bind = ("--bind", f"{data}:/mnt")
    marked(fast, *bind, image)
    assert asked(fast, *bind, image) == SHORTCUT
    data.rmdir()
    missing = fast("exec", *bind, image, *ASK)
    assert missing.status == 255
    assert str(data) in missing.err
    data.mkdir()
    (data / "file").write_text("new\n")
    assert fast("exec", *bind, image, "cat", "/mnt/file").ok().out == "new\n"


def test_variables_that_are_options_are_noticed(fast: Program, image: Path) -> None:
    marked(fast, image)
    for variable in ("SOLITON_CLEANENV", "APPTAINER_BIND", "SINGULARITY_CONTAIN", "SINGULARITYENV_A"):
        value = "/usr:/mnt" if variable.endswith("BIND") else "1"
        assert asked(fast.having(**{variable: value}), image) == PYTHON
    assert fast.having(SOLITON_BIND="/nowhere:/mnt")("exec", image, "true").status == 255
    assert asked(fast, image) == SHORTCUT


def test_another_home_is_another_plan(fast: Program, image: Path, tmp_path: Path) -> None:
    marked(fast, image)
    assert asked(fast.having(HOME=str(tmp_path)), image) == PYTHON


@pytest.mark.parametrize("table", ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"])
def test_an_edited_user_database_is_noticed(fast: Program, image: Path, tmp_path: Path, table: str) -> None:
    copy = tmp_path / "table"
    copy.write_text(Path(table).read_text())
    command = ["unshare", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"]
    script = f'mount --bind "{copy}" {table} && exec "$@"'
    within = Program(fast.home, fast.cwd, fast.variables, (*command, script, "sh"))
    marked(within, image)
    assert asked(within, image) == SHORTCUT
    copy.write_text(Path(table).read_text() + "\n")
    assert asked(within, image) == PYTHON
    assert asked(fast, image) == PYTHON


def test_root_by_mapped_ids_needs_no_python_either(
    fast: Program, image: Path, busybox_sandbox: Path, tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(busybox_sandbox, tmp_path / "tree", symlinks=True))
    for words in (
        ("--fakeroot", image),
        ("--fakeroot", "--ignore-subuid", image),
        ("-f", "--writable", tree),
    ):
        marked(fast, *words)
        assert asked(fast, *words) == SHORTCUT
    fast("exec", "-f", "--writable", tree, "sh", "-c", "echo new > /etc/file; chown 0:0 /etc/file").ok()
    assert fast("exec", "-f", "--writable", tree, "id", "-u").ok().out == "0\n"
    assert (tree / "etc/file").read_text() == "new\n"


@pytest.mark.parametrize("table", ["/etc/subuid", "/etc/subgid"])
def test_edited_subordinate_ids_are_noticed(fast: Program, image: Path, tmp_path: Path, table: str) -> None:
    """As seen from a mount namespace in which the table is the user's. There nobody is given ids, so at first it has none."""
    name = pwd.getpwuid(os.getuid()).pw_name
    other = "/etc/subgid" if table == "/etc/subuid" else "/etc/subuid"
    copies = {table: tmp_path / "table", other: tmp_path / "other"}
    copies[table].write_text("somebody:100000:65536\n")
    copies[other].write_text(f"{name}:100000:65536\n")
    command = ["unshare", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"]
    script = "".join(f'mount --bind "{copy}" {at} && ' for at, copy in copies.items()) + 'exec "$@"'
    within = Program(fast.home, fast.cwd, fast.variables, (*command, script, "sh"))
    marked(within, "--fakeroot", image)
    assert asked(within, "--fakeroot", image) == SHORTCUT
    copies[table].write_text("somebody:100000:65536\nanybody:200000:65536\n")
    assert asked(within, "--fakeroot", image) == PYTHON
    # With ids that cannot be given, which a plan without any would not say.
    copies[table].write_text(f"{name}:100000:65536\n")
    denied = within("exec", "--fakeroot", image, *ASK)
    assert (denied.status, denied.out) == (255, "")
    assert "subordinate ids cannot be mapped" in denied.err


@pytest.mark.parametrize("helper", ["newuidmap", "newgidmap"])
def test_another_helper_is_noticed(fast: Program, image: Path, tmp_path: Path, helper: str) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    system = shutil.which(helper)
    assert system is not None
    own = fast.having(PATH=f"{folder}:{fast.environment()['PATH']}")
    words = ("--fakeroot", image)
    marked(own, *words)
    assert asked(own, *words) == SHORTCUT
    # One that appears before it.
    (folder / helper).symlink_to(system)
    assert asked(own, *words) == PYTHON
    marked(own, *words)
    assert asked(own, *words) == SHORTCUT
    # One that is replaced, by one that is nobody's.
    shutil.copy(system, folder / "copy")
    (folder / "copy").rename(folder / helper)
    assert own("exec", *words, *ASK).out != SHORTCUT
    # One that may not be executed any more.
    (folder / helper).chmod(0o644)
    assert asked(own, *words) == PYTHON
    marked(own, *words)
    # One that becomes another kind of program in place, as by a privilege that is given or taken.
    (folder / helper).chmod(0o755)
    assert own("exec", *words, *ASK).out != SHORTCUT
    (folder / helper).unlink()
    assert asked(own, *words) == PYTHON


def test_another_group_is_another_plan(fast: Program, image: Path) -> None:
    marked(fast, image)
    # In a user namespace of its own the caller's groups show as others.
    apart = ("unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid() + 1}")
    result = Program(fast.home, fast.cwd, fast.variables, apart)("exec", image, *ASK)
    assert result.ok().out == PYTHON


def test_an_upgraded_program_makes_its_own_plans(fast: Program, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    copy = folder / "soliton"
    shutil.copy(fast.name, copy)
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    # A server of the image would be the program running, whose file nobody may write.
    own = Program(fast.home, fast.cwd, {**fast.variables, "SOLITON_IMAGE_SERVER": "off"}, name=str(copy))
    marked(own, image)
    assert asked(own, image) == SHORTCUT
    # As an installation does it: the old one may still be running.
    shutil.copy(fast.name, folder / "new")
    (folder / "new").rename(copy)
    assert asked(own, image) == PYTHON


def test_an_old_plan_is_not_believed(fast: Program, image: Path) -> None:
    marked(fast, image)
    for path in plans(fast):
        os.utime(path, (path.stat().st_mtime - 13 * 3600,) * 2)
    assert asked(fast, image) == PYTHON


def test_what_has_to_be_said_is_said_each_time(fast: Program, image: Path) -> None:
    old = fast.having(SINGULARITYENV_A="1", SINGULARITY_NO_HOME="1", APPTAINER_NO_HOME="0")
    first, second = (old("exec", image, "true").ok().err for _ in range(2))
    assert first == second != ""


def test_what_is_kept_from_misleading_the_image_is_said_from_a_stored_plan_too(
    fast: Program, image: Path
) -> None:
    guarded = fast.having(PYTHONPATH="/nowhere/lib")
    marked(guarded, image)
    stored = guarded("exec", image, *ASK).ok()
    assert stored.out == SHORTCUT
    assert stored.err == guarded.having(SOLITON_SHORTCUT="off")("exec", image, *ASK).ok().err != ""
    rank = guarded.having(SLURM_PROCID="3")("exec", image, *ASK).ok()
    assert (rank.out, rank.err) == (SHORTCUT, "")
    assert asked(fast.having(PYTHONPATH="/nowhere/other"), image) == PYTHON
    assert asked(fast, image) == PYTHON


def _open_to_all(folder: Path) -> None:
    folder.chmod(0o755)


def _a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def _plans_open_to_all(folder: Path) -> None:
    for path in plans_in(folder):
        path.chmod(0o666)


def _plans_are_links(folder: Path) -> None:
    for path in plans_in(folder):
        path.rename(folder.parent / path.name)
        path.symlink_to(folder.parent / path.name)


def _plans_are_pipes(folder: Path) -> None:
    for path in plans_in(folder):
        path.unlink()
        os.mkfifo(path, 0o600)


def _plans_are_garbage(folder: Path) -> None:
    for path in plans_in(folder):
        path.write_text(path.read_text()[:-100])


@pytest.mark.parametrize(
    "spoil",
    [_open_to_all, _a_link, _plans_open_to_all, _plans_are_links, _plans_are_pipes, _plans_are_garbage],
)
def test_a_store_that_others_may_have_touched_is_not_used(fast: Program, image: Path, spoil: object) -> None:
    marked(fast, image)
    assert callable(spoil)
    spoil(store(fast))
    for _ in range(2):
        assert asked(fast, image) == PYTHON


def test_the_store_does_not_grow_for_ever(fast: Program, image: Path) -> None:
    marked(fast, image)
    for number in range(1000):
        (store(fast) / f"{number:032x}").touch()
    marked_before = len(plans(fast))
    assert asked(fast, "--no-home", image) == PYTHON
    assert len(plans(fast)) < marked_before - 400


def test_many_at_once_store_and_start(fast: Program, image: Path) -> None:
    script = 'for i in 1 2 3 4 5 6 7 8; do "$0" exec "$1" true & done; wait'
    subprocess.run(["sh", "-c", script, fast.name, image], env=fast.environment(), cwd=fast.cwd, check=True)
    assert [path.name for path in store(fast).iterdir() if "." in path.name] == []
    assert len(plans(fast)) == 1
