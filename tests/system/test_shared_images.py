"""One server for all launches of an image by one user in one job: who joins, who does not, and what its end means."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.conftest import busybox_tar
from tests.system.program import AMPLE, Program, eventually
from tests.zoo import PLAIN, write_layout

_NAMESPACE = ("readlink", "/proc/self/ns/user")


@pytest.fixture
def own(soliton: Program, tmp_path: Path) -> Iterator[Program]:
    """The program with a private directory for its servers, which end with the test."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    program = soliton.having(XDG_RUNTIME_DIR=str(runtime), SOLITON_IMAGE_SERVER="60")
    yield program
    for pid in servers_of(tmp_path) + holders(program):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    eventually(lambda: not servers_of(tmp_path) and not holders(program))


def servers_of(folder: Path) -> list[int]:
    """Servers that have an image below this folder open. What one of them has begun for a moment is in its session."""

    def is_below(descriptor: Path) -> bool:
        return os.readlink(descriptor).startswith(f"{folder}/")

    found = []
    for pid in processes.own():
        with suppress(ProcessLookupError):
            if processes.name_of(pid) == "soliton-image" and os.getsid(pid) == pid:
                found += [pid] if processes.has_open(pid, is_below) else []
    return found


def sockets(program: Program) -> list[str]:
    folder = Path(program.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts"
    return sorted(p.name for p in folder.iterdir() if p.is_socket()) if folder.exists() else []


def holders(program: Program) -> list[int]:
    """Processes that hold nothing but a user namespace."""
    folder = Path(program.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts"
    links = [p for p in folder.iterdir() if p.is_symlink()] if folder.exists() else []
    found = []
    for link in links:
        with suppress(FileNotFoundError):
            found.append(int(os.readlink(link).partition(":")[0]))
    # The number of one that has ended may be another's.
    return [pid for pid in found if processes.name_of(pid) == "soliton-ranks"]


def listed(program: Program) -> dict[str | None, int]:
    """What is mounted, and for how many processes."""
    mounts = json.loads(program("mounts", "list", "--json").ok().out)["mounts"]
    return {mount["image"]: mount["processes"] for mount in mounts}


def namespace(program: Program, image: Path, *options: str) -> str:
    return program("exec", *options, image, *_NAMESPACE).ok().out


def test_launches_share_one_server_and_one_user_namespace(own: Program, image: Path, tmp_path: Path) -> None:
    first = namespace(own, image)
    assert namespace(own, image) == first
    assert namespace(own, image, "--pid", "--contain") == first
    assert len(servers_of(tmp_path)) == len(sockets(own)) == 1


def test_many_at_once_start_one_server(own: Program, image: Path, tmp_path: Path) -> None:
    script = 'for i in $(seq 16); do "$0" exec "$1" readlink /proc/self/ns/user & done; wait'
    done = subprocess.run(
        ["sh", "-c", script, own.name, image],
        env=own.environment(),
        cwd=own.cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 16 and len(set(done.stdout.splitlines())) == 1
    assert len(servers_of(tmp_path)) == 1


def test_an_image_of_the_cache_is_shared_too(own: Program, tmp_path: Path) -> None:
    layer = busybox_tar(tmp_path / "layer.tar").read_bytes()
    uri = f"oci:{write_layout(tmp_path / 'layout', [(layer, PLAIN)])}:latest"
    for _ in range(2):
        own("exec", uri, "true").ok()
    assert len(servers_of(tmp_path)) == 1


def test_who_is_root_inside_has_a_server_of_their_own(own: Program, image: Path) -> None:
    as_user = namespace(own, image)
    assert namespace(own, image, "--fakeroot") != as_user
    assert own("exec", "--fakeroot", image, "id", "-u").ok().out == "0\n"
    assert own("exec", image, "id", "-u").ok().out == f"{os.getuid()}\n"


def test_an_image_replaced_in_place_is_served_anew(own: Program, image: Path, tmp_path: Path) -> None:
    own("exec", image, "true").ok()
    sandbox = tmp_path / "sandbox"
    own("build", "--sandbox", sandbox, image).ok()
    (sandbox / "new").write_text("new\n")
    own("build", "--force", image, sandbox).ok()
    assert own("exec", image, "cat", "/new").ok().out == "new\n"


def test_the_server_outlives_who_started_it_and_containers_outlive_the_server_s_idle_time(
    own: Program, image: Path, tmp_path: Path
) -> None:
    program = own.having(SOLITON_IMAGE_SERVER="0")
    running = subprocess.Popen(
        [program.name, "exec", str(image), "sh", "-c", "echo in; read line; ls /bin/busybox"],
        env=program.environment(),
        cwd=program.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout and running.stdout.readline() == b"in\n"
    # Idle from its first moment on, it takes its door away, and goes on for the container.
    eventually(lambda: servers_of(tmp_path) and not sockets(program))
    out, _ = running.communicate(b"\n", timeout=AMPLE)
    assert out == b"/bin/busybox\n"
    eventually(lambda: not servers_of(tmp_path))


_ROOT = ("stat", "-c", "%d", "/")


def test_containers_with_the_same_mount_points_are_in_one_file_system(own: Program, image: Path) -> None:
    """So what the kernel has learnt of the image for one of them it knows for the others."""
    missing = ("--bind", "/usr:/not/there", "--bind", "/etc/hosts:/a file")
    first = own("exec", *missing, image, *_ROOT).ok().out
    again = (
        own("exec", "--pid", *missing, image, "sh", "-c", "stat -c %d / && ls /not/there '/a file'").ok().out
    )
    assert again.splitlines()[0] == first.strip() and "share" in again and "/a file" in again
    other = (
        own("exec", "--bind", "/usr:/elsewhere", image, "sh", "-c", "ls / && stat -c %d /").ok().out.split()
    )
    assert "elsewhere" in other and "not" not in other and other[-1] != first.strip()
    without = own("exec", image, "sh", "-c", "ls /").ok().out.split()
    assert not {"elsewhere", "not"} & set(without)
    alone = own.having(SOLITON_IMAGE_SERVER="off")
    assert (
        alone("exec", *missing, image, "ls", "/not/there").ok().out
        == own("exec", *missing, image, "ls", "/not/there").out
    )


@pytest.mark.parametrize("missing", [(), ("--bind", "/usr:/not/there", "--bind", "/etc/hosts:/etc/no/file")])
def test_an_image_is_one_file_system_with_the_image_s_numbers(
    own: Program, image: Path, missing: tuple[str, ...]
) -> None:
    """`du -x` and `df` tell of it what they tell of the image alone."""
    devices = own("exec", *missing, image, "stat", "-c", "%d", "/", "/etc", "/bin", "/bin/busybox").ok().out
    assert len(set(devices.splitlines())) == 1
    look = ("sh", "-c", 'stat -c %i /bin /bin/busybox; du -sx /bin; stat -f -c "%b %a %S" /')
    assert own("exec", *missing, image, *look).ok().out == own("exec", "--underlay", image, *look).ok().out


def test_an_interpreter_s_question_whether_a_file_is_a_terminal_stays_in_the_kernel(
    own: Program, image: Path
) -> None:
    kind = ("sh", "-c", "awk '$2 == \"/\" { print $3 }' /proc/mounts | tail -n 1")
    # With every mount point there, else it is an overlay of mount points.
    whole = ("--no-mount", "home,cwd,tmp,bind-paths", "--pwd", "/")
    assert own("exec", *whole, image, *kind).ok().out == "fuse.soliton\n"
    ask = "i=0; while [ $i -lt 120 ]; do test -t 0 < /bin/busybox; i=$((i + 1)); done"
    own("exec", *whole, image, "sh", "-c", ask)
    assert own("exec", *whole, image, *kind).ok().out == "overlay\n"
    assert own("exec", "--underlay", image, *kind).ok().out == "fuse.soliton\n"


def test_a_server_keeps_only_so_many_sets_of_mount_points(own: Program, image: Path, tmp_path: Path) -> None:
    running = own.start("exec", "--bind", "/usr:/first", image, "sh", "-c", "echo in; sleep 1000")
    assert running.stdout and running.stdout.readline() == b"in\n"
    for number in range(20):
        assert own("exec", "--bind", f"/usr:/{number}", image, "ls", f"/{number}").ok().out
    (server,) = servers_of(tmp_path)
    mounts = Path(f"/proc/{server}/mountinfo").read_text()
    assert 2 < mounts.count(" - overlay ") < 20
    assert own("exec", "--bind", "/usr:/first", image, "ls", "/first").ok().out
    running.kill()
    running.wait()


@pytest.mark.parametrize("options", [(), ("--bind", "/usr:/not/there")])
def test_what_starts_late_in_a_long_job_shares_too(
    own: Program, image: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    program = own.having(SOLITON_IMAGE_SERVER="1")
    running = program.start("exec", *options, image, "sh", "-c", "sleep 1000 > /dev/null 2>&1 &")
    assert running.wait() == 0
    eventually(lambda: servers_of(tmp_path))
    server = servers_of(tmp_path)
    time.sleep(2.5)
    program("exec", image, "true").ok()
    assert servers_of(tmp_path) == server
    os.killpg(running.pid, signal.SIGKILL)
    eventually(lambda: not servers_of(tmp_path))


def test_a_server_that_nobody_can_find_any_more_ends(own: Program, image: Path, tmp_path: Path) -> None:
    own.having(SOLITON_IMAGE_SERVER="1")("exec", image, "true").ok()
    shutil.rmtree(Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton")
    eventually(lambda: not servers_of(tmp_path))


def test_mounts_are_listed_and_let_go_of(own: Program, image: Path, tmp_path: Path) -> None:
    name = tmp_path / "an image.sif"
    image.rename(name)
    script = "echo in; until [ -e go ]; do sleep 0.1; done; cat /etc/passwd"
    running = own.start("exec", name, "sh", "-c", script)
    assert running.stdout is not None and running.stdout.readline() == b"in\n"
    (mount,) = json.loads(own("mounts", "list", "--json").ok().out)["mounts"]
    assert (mount["image"], mount["pid"]) == (str(name), servers_of(tmp_path)[0])
    assert mount["processes"] >= 1
    assert str(name) in own("mounts", "list").ok().out
    assert own("mounts", "stop", tmp_path / "other.sif").status == 255
    assert str(name) in own("mounts", "stop", name).ok().err
    assert json.loads(own("mounts", "list", "--json").ok().out) == {"mounts": []}
    # Who had it, has it.
    (own.cwd / "go").touch()
    assert b"root:" in running.communicate(timeout=AMPLE)[0]


def test_a_server_that_was_killed_is_started_again(own: Program, image: Path, tmp_path: Path) -> None:
    own("instance", "start", image, "bereft").ok()
    (server,) = servers_of(tmp_path)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not servers_of(tmp_path))
    lost = own("exec", "instance://bereft", "true")
    assert (lost.status, lost.out) == (255, "")
    assert "the process that serves its files has ended" in lost.err and lost.err.count("\n") <= 3
    own("instance", "stop", "bereft").ok()
    own("exec", image, "true").ok()
    assert len(servers_of(tmp_path)) == 1


def test_what_others_could_have_put_there_is_not_used(own: Program, image: Path, tmp_path: Path) -> None:
    folder = Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton"
    folder.mkdir()
    folder.chmod(0o777)
    own("exec", image, "true").ok()
    assert not sockets(own)
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    own("exec", image, "true").ok()
    assert not list(elsewhere.iterdir())


def test_a_limited_process_starts_no_server_that_others_would_lose(own: Program, image: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -t 600; exec "$0" exec "$1" true', own.name, image],
        env=own.environment(),
        cwd=own.cwd,
        check=True,
    )
    assert done.returncode == 0 and not sockets(own)
    # But in the user namespace of the job's it is.
    assert len(holders(own)) == 1


def test_different_images_of_one_job_started_at_once_are_in_one_user_namespace(
    own: Program, image: Path, tmp_path: Path
) -> None:
    images = [Path(shutil.copy(image, tmp_path / f"{number}.sif")) for number in range(4)]
    runtime = Path(own.variables["XDG_RUNTIME_DIR"])
    ranks = [
        subprocess.Popen(
            [own.name, "exec", each, *_NAMESPACE], env=own.environment(), cwd=own.cwd, stdout=subprocess.PIPE
        )
        for each in images
    ]
    assert len({rank.communicate()[0] for rank in ranks}) == 1
    assert all(rank.returncode == 0 for rank in ranks)
    assert len(sockets(own)) == len(servers_of(tmp_path)) == 4
    # Each lets go although the others are in its user namespace, and nothing stays behind.
    own("mounts", "stop").ok()
    eventually(lambda: not servers_of(tmp_path))
    assert not list((runtime / "soliton/mounts").iterdir())


def test_an_image_is_let_go_of_while_another_of_the_job_is_in_use(
    own: Program, image: Path, tmp_path: Path
) -> None:
    short = own.having(SOLITON_IMAGE_SERVER="1")
    folder = tmp_path / "apart"
    folder.mkdir()
    other = Path(shutil.copy(image, folder / "other.sif"))
    with short.start("exec", image, "sleep", "98766") as used:
        try:
            eventually(lambda: servers_of(tmp_path))
            eventually(lambda: processes.name_of(used.pid) == "sleep")
            assert namespace(short, other).strip() == os.readlink(f"/proc/{used.pid}/ns/user")
            eventually(lambda: not servers_of(folder))
            assert len(servers_of(tmp_path)) == 1
        finally:
            used.kill()
    eventually(lambda: not servers_of(tmp_path))


@pytest.mark.parametrize("first", ["image", "sandbox"])
@pytest.mark.parametrize("second", ["image", "other", "sandbox"])
def test_ranks_may_read_each_other_s_memory(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path, first: str, second: str
) -> None:
    """What MPI does on one node (process_vm_readv(2)): both sides have to be in one user namespace, also where they run
    different programs from different images."""
    roots = {"image": image, "sandbox": busybox_sandbox, "other": tmp_path / "other.sif"}
    shutil.copy(image, roots["other"])
    probe = (
        "import ctypes, subprocess, sys\n"
        "class Iovec(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "pid, address = int(sys.argv[1]), int(sys.argv[2])\n"
        "text = ctypes.create_string_buffer(5)\n"
        "here, there = Iovec(ctypes.addressof(text), 5), Iovec(address, 5)\n"
        "n = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)\n"
        "print(text.raw if n == 5 else ctypes.get_errno())\n"
    )
    partner = (
        "import ctypes, os, sys\n"
        "text = ctypes.create_string_buffer(b'rank0')\n"
        "print(os.getpid(), ctypes.addressof(text), flush=True)\n"
        "sys.stdin.read()\n"
    )
    # The interpreter comes from the host: the image is a shell and little else.
    binds = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64") if Path(path).exists()]
    python = "/usr/bin/python3"
    with subprocess.Popen(
        [own.name, "exec", *binds, roots[first], python, "-c", partner],
        env=own.environment(),
        cwd=own.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as rank:
        assert rank.stdout is not None and rank.stdin is not None
        pid, address = rank.stdout.readline().split()
        # Where Yama allows it to descendants only (ptrace_scope 1), that is the host's rule and not the container's.
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        answer = own("exec", *binds, roots[second], python, "-c", probe, pid, address).ok().out.strip()
        rank.stdin.close()
    assert len(sockets(own)) == len({first, second} - {"sandbox"})
    allowed = not scope.exists() or scope.read_text().strip() == "0"
    assert answer == ("b'rank0'" if allowed else "1")


def test_containers_from_directories_are_in_the_user_namespace_of_the_job(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    (layer / "upper").mkdir(parents=True)
    first = namespace(own, busybox_sandbox)
    for root, options in (
        (busybox_sandbox, ("--pid", "--contain")),
        (busybox_sandbox, ("--writable-tmpfs",)),
        (image, ()),
        (image, ("--overlay", f"{layer}:ro")),
        (busybox_sandbox, ("--overlay", f"{layer}:ro")),
    ):
        assert namespace(own, root, *options) == first
    assert len(holders(own)) == len(servers_of(tmp_path)) == 1
    assert namespace(own.having(SOLITON_IMAGE_SERVER="off"), busybox_sandbox) != first


def test_many_from_a_directory_at_once_are_in_one_user_namespace(own: Program, busybox_sandbox: Path) -> None:
    ranks = [own.start("exec", busybox_sandbox, *_NAMESPACE) for _ in range(16)]
    assert len({rank.communicate(timeout=AMPLE)[0] for rank in ranks}) == 1
    assert len(holders(own)) == 1


def test_who_holds_a_user_namespace_ends_when_nobody_is_left(own: Program, busybox_sandbox: Path) -> None:
    program = own.having(SOLITON_IMAGE_SERVER="1")
    with program.start("exec", busybox_sandbox, "sleep", "98767") as running:
        eventually(lambda: holders(program) and processes.name_of(running.pid) == "sleep")
        holder = holders(program)
        time.sleep(2.5)
        assert namespace(program, busybox_sandbox).strip() == os.readlink(f"/proc/{running.pid}/ns/user")
        assert holders(program) == holder
        running.kill()
    eventually(lambda: not holders(program))
    # Without any idle time nobody would hold it for others.
    program.having(SOLITON_IMAGE_SERVER="0")("exec", busybox_sandbox, "true").ok()
    assert not any((Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts").iterdir())


def test_who_holds_a_user_namespace_may_be_killed(own: Program, busybox_sandbox: Path) -> None:
    first = namespace(own, busybox_sandbox)
    (holder,) = holders(own)
    # Kept from going away, so that the next one does not get its number.
    with open(f"/proc/{holder}/ns/user"):
        os.kill(holder, signal.SIGKILL)
        eventually(lambda: not holders(own))
        assert namespace(own, busybox_sandbox) != first
    assert len(holders(own)) == 1


@pytest.mark.parametrize(("root", "options"), [("image", ("--writable-tmpfs",)), ("sandbox", ())])
def test_an_instance_counts_as_a_user_although_nobody_may_look_at_it(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path, root: str, options: tuple[str, ...]
) -> None:
    """Nothing runs in it but what watches over it; what it has of the image is a layer of its overlay."""
    program = own.having(SOLITON_IMAGE_SERVER="1")
    path = image if root == "image" else busybox_sandbox
    program("instance", "start", *options, path, "idle").ok()
    served = servers_of(tmp_path) + holders(program)
    assert len(served) == 1
    time.sleep(2.5)
    inside = program("exec", "instance://idle", *_NAMESPACE).ok().out
    assert namespace(program, path) == inside
    assert servers_of(tmp_path) + holders(program) == served
    program("instance", "stop", "idle").ok()
    eventually(lambda: not servers_of(tmp_path) and not holders(program))


def test_what_is_left_of_who_asked_keeps_the_image_of_an_overlay(
    own: Program, image: Path, tmp_path: Path
) -> None:
    program = own.having(SOLITON_IMAGE_SERVER="1")
    # The process that asked has ended; its child has the image as a layer only.
    asked = program.start(
        "exec", "--writable-tmpfs", image, "sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $!"
    )
    child = int(asked.communicate(timeout=AMPLE)[0])
    try:
        server = servers_of(tmp_path)
        time.sleep(2.5)
        program("exec", image, "true").ok()
        assert servers_of(tmp_path) == server and len(server) == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_processes_are_counted_for_the_image_that_they_have(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(image, tmp_path / "other.sif"))
    starts = [(image,), (image,), ("--writable-tmpfs", other), (busybox_sandbox,)]
    running = [own.start("exec", *words, "sh", "-c", "echo in; exec sleep 98768") for words in starts]
    for each in running:
        assert each.stdout is not None and each.stdout.readline() == b"in\n"
    assert listed(own) == {str(image): 2, str(other): 1, None: 1}
    assert "(containers from directories)" in own("mounts", "list").ok().out
    own("mounts", "stop").ok()
    assert listed(own) == {} and not holders(own)
    for each in running:
        each.kill()
        each.communicate()
    eventually(lambda: not servers_of(tmp_path))
    assert not list((Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts").iterdir())


def test_what_was_left_by_who_was_killed_goes_with_the_next(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path
) -> None:
    folder = Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts"
    own("exec", image, "true").ok()
    own("exec", busybox_sandbox, "true").ok()
    for pid in servers_of(tmp_path) + holders(own):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not servers_of(tmp_path) and not holders(own))
    assert list(folder.iterdir())
    other = Path(shutil.copy(image, tmp_path / "other.sif"))
    own.having(SOLITON_IMAGE_SERVER="0")("exec", other, "true").ok()
    eventually(lambda: not list(folder.iterdir()))


def test_starts_that_are_killed_leave_nothing_and_nobody_waits_for_them(
    own: Program, image: Path, busybox_sandbox: Path, tmp_path: Path
) -> None:
    """Whenever they are killed: others start at the same time and after them, and the last server takes all away."""
    program = own.having(SOLITON_IMAGE_SERVER="1")
    other = Path(shutil.copy(image, tmp_path / "other.sif"))
    for delay in range(0, 30, 3):
        starts = [program.start("exec", root, "true") for root in (image, other, busybox_sandbox)]
        time.sleep(delay / 1000)
        for started in starts:
            started.kill()
            started.communicate()
        survivors = [program.start("exec", root, "echo", "in") for root in (busybox_sandbox, other, image)]
        assert [each.communicate(timeout=AMPLE) for each in survivors] == [(b"in\n", b"")] * 3
    eventually(lambda: not servers_of(tmp_path) and not holders(program))
    program.having(SOLITON_IMAGE_SERVER="0")("exec", image, "true").ok()
    eventually(lambda: not list((Path(own.variables["XDG_RUNTIME_DIR"]) / "soliton/mounts").iterdir()))
