"""Overlays of every kind, made, written, read, shared and locked, by containers of an ordinary user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.program import AMPLE, Program, eventually

CHANGES = (
    "echo new > /new; rm -r /usr/share/tree; mkdir -p /usr/share/tree; echo other > /usr/share/tree/own;"
    " mv /usr/share/moved /usr/share/there; ln -s /new /link; chmod 700 /new; echo more >> /etc/hosts2"
)
CHECK = "cat /link /usr/share/tree/own /usr/share/there/deep/f /etc/hosts2; ls /usr/share/tree /usr/share; stat -c %a /new"
SEEN = "new\nother\ndeep\nold\nmore\n/usr/share:\nthere\ntree\n\n/usr/share/tree:\nown\n700\n"


#: What may mount, as the caller itself.
IN_NAMESPACE = ("unshare", "--user", "--mount", "--map-current-user", "--keep-caps")


@pytest.fixture
def soliton(soliton: Program) -> Program:
    """What is written once is not there twice."""
    return soliton.once()


def tool(name: str) -> str:
    return next(str(p) for d in ("/usr/sbin", "/sbin", "/usr/bin") if (p := Path(d) / name).exists())


def is_sound(image: Path) -> bool:
    """What the file system's own checker thinks of it, once the last of what was written is there."""
    eventually(lambda: not servers_of(image))
    done = subprocess.run([tool("e2fsck"), "-f", "-n", image], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout)
    return done.returncode == 0


@pytest.fixture(scope="session")
def tree(busybox_sandbox: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("overlay") / "root"
    shutil.copytree(busybox_sandbox, root, symlinks=True)
    for folder in ("tree/sub", "moved/deep"):
        (root / "usr/share" / folder).mkdir(parents=True)
    (root / "usr/share/tree/sub/f").write_text("x\n")
    (root / "usr/share/moved/deep/f").write_text("deep\n")
    (root / "etc/hosts2").write_text("old\n")
    return root


@pytest.fixture(scope="session")
def base(shared: Program, tree: Path) -> Path:
    target = shared.cwd / "overlay base.sif"
    shared("build", target, tree).ok()
    return target


@pytest.mark.parametrize("kind", ["directory", "ext3", "sif"])
def test_what_is_written_stays_and_is_seen_again(soliton: Program, base: Path, kind: str) -> None:
    image, layer = str(base), soliton.cwd / "läyer 1"
    write, read = ["--overlay", str(layer)], ["--overlay", f"{layer}:ro"]
    if kind == "directory":
        layer.mkdir()
    elif kind == "ext3":
        soliton("overlay", "create", "--sparse", layer).ok()
    else:
        layer = soliton.cwd / "own.sif"
        shutil.copy(base, layer)
        soliton("overlay", "create", "--sparse", layer).ok()
        image, write, read = str(layer), ["--writable"], []
    soliton("exec", *write, image, "sh", "-c", CHANGES).ok()
    assert soliton("exec", *write, image, "sh", "-c", CHECK).ok().out == SEEN
    assert soliton("exec", *read, image, "sh", "-c", CHECK).ok().out == SEEN
    refused = soliton("exec", *read, image, "touch", "/refused")
    assert refused.status != 0
    assert "Read-only" in refused.err
    assert soliton("exec", base, "cat", "/usr/share/tree/sub/f").ok().out == "x\n"
    if kind == "ext3":
        assert is_sound(layer)


def test_an_overlay_of_root_inside(soliton: Program, base: Path) -> None:
    soliton("overlay", "create", "--sparse", "--fakeroot", "--create-dir", "/srv/a b", "o.img").ok()
    soliton(
        "exec", "--fakeroot", "-o", "o.img", base, "sh", "-c", "id -u > '/srv/a b/who'; chmod 600 /srv"
    ).ok()
    assert soliton("exec", "--fakeroot", "-o", "o.img:ro", base, "cat", "/srv/a b/who").ok().out == "0\n"


def test_layers_lie_over_one_another_in_the_order_given(soliton: Program, base: Path) -> None:
    for name in ("one", "two", "three"):
        (soliton.cwd / name / "etc").mkdir(parents=True)
        (soliton.cwd / name / "etc/last").write_text(f"{name}\n")
        (soliton.cwd / name / f"etc/{name}").write_text("")
    subprocess.run(
        [tool("mksquashfs"), "two", "two.sqfs", "-quiet", "-no-progress"], cwd=soliton.cwd, check=True
    )
    layers = ["--overlay", "one:ro", "--overlay", "two.sqfs,three:ro"]
    out = soliton("exec", *layers, base, "sh", "-c", "cat /etc/last; ls /etc").ok().out.split()
    assert out[0] == "three"
    assert {"one", "two", "three", "passwd"} <= set(out)
    layers = ["--overlay", "three:ro", "--overlay", "one:ro", "--writable-tmpfs"]
    script = "cat /etc/last; echo mine > /etc/last; cat /etc/last"
    assert soliton("exec", *layers, base, "sh", "-c", script).ok().out == "one\nmine\n"
    assert (soliton.cwd / "one/etc/last").read_text() == "one\n"


def test_users_of_an_overlay_are_known_and_bind_targets_in_it_are_used(soliton: Program, base: Path) -> None:
    (soliton.cwd / "o").mkdir()
    script = "echo daemon:x:7:7::/:/bin/sh >> /etc/passwd; mkdir -p /mine/here; rmdir /home"
    # Of root, whose files are the image's own.
    soliton("exec", "--fakeroot", "-o", "o", base, "sh", "-c", script).ok()
    bind = ["--bind", f"{soliton.cwd}:/mine/here/deeper", "--bind", f"{soliton.cwd}:/home/x"]
    out = (
        soliton("exec", "-o", "o:ro", *bind, base, "sh", "-c", "cat /etc/passwd; ls -d /mine/here/deeper/o")
        .ok()
        .out
    )
    assert "daemon:x:7" in out
    assert "/mine/here/deeper/o" in out
    # A mount point below what was deleted from a writable layer is made in it.
    soliton("exec", "-o", "o", *bind, base, "ls", "/home/x/o").ok()


def test_an_ext3_image_as_root(soliton: Program, tree: Path) -> None:
    image = soliton.cwd / "root.img"
    with open(image, "wb") as file:
        file.truncate(100 << 20)
    subprocess.run([tool("mkfs.ext3"), "-q", "-d", tree, image], check=True)
    assert soliton("exec", image, "cat", "/usr/share/moved/deep/f").ok().out == "deep\n"
    assert soliton("exec", image, "touch", "/x").status != 0
    soliton("exec", "--writable", image, "sh", "-c", CHANGES).ok()
    assert soliton("exec", image, "sh", "-c", CHECK).ok().out == SEEN
    soliton("exec", "--writable-tmpfs", image, "touch", "/x").ok()
    soliton("exec", "--bind", f"{soliton.cwd}:/not/there", image, "ls", "/not/there/root.img").ok()
    assert is_sound(image)


def test_other_programs_read_what_was_written_and_the_other_way_round(soliton: Program, base: Path) -> None:
    soliton("overlay", "create", "o.img").ok()
    soliton(
        "exec", "-o", "o.img", base, "sh", "-c", "dd if=/dev/urandom of=/data bs=1000 count=3000 2>&1"
    ).ok()
    inside = soliton("exec", "-o", "o.img:ro", base, "sh", "-c", "cat /data | tail -c 1500000").ok().out
    (soliton.cwd / "m").mkdir()
    script = (
        "fuse2fs o.img m -o fakeroot && tail -c 1500000 m/upper/data | tr -dc a-z > seen; cp seen m/upper/seen;"
        " rm m/upper/data; umount m; while pgrep -u $(id -u) -x fuse2fs >/dev/null; do sleep 0.1; done"
    )
    subprocess.run([*IN_NAMESPACE, "sh", "-c", script], cwd=soliton.cwd, check=True)
    seen = (soliton.cwd / "seen").read_text()
    assert len(inside) > 1000
    assert seen
    assert soliton("exec", "-o", "o.img", base, "cat", "/seen").ok().out == seen
    assert soliton("exec", "-o", "o.img", base, "ls", "/data").status != 0
    assert is_sound(soliton.cwd / "o.img")


def test_one_writes_or_many_read_and_the_owner_is_named(soliton: Program, base: Path) -> None:
    soliton("overlay", "create", "--sparse", "o.img").ok()
    writer = soliton.start("exec", "-o", "o.img", base, "sleep", "1000")
    eventually(lambda: processes.command_of(writer.pid) == ["sleep", "1000"])
    for mode in ("", ":ro"):
        second = soliton("exec", "-o", f"o.img{mode}", base, "true")
        assert second.status == 255
        assert "in use" in second.err
        assert f"process {writer.pid} (`sleep 1000`)" in second.err
        assert second.err.count("\n") <= 3
    # Nothing is left of a writer that was killed: the next one needs no repair.
    writer.kill()
    writer.wait()
    soliton("exec", "-o", "o.img", base, "touch", "/after").ok()
    readers = [
        soliton.start("exec", "-o", "o.img:ro", base, "sh", "-c", "echo ready; exec sleep 1000") for _ in "12"
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
    assert "in use" in soliton("exec", "-o", "o.img", base, "true").err
    for reader in readers:
        reader.kill()
        reader.wait()
    for number in range(5):  # one after another: each waits for the last writes of the one before
        soliton("exec", "-o", "o.img", base, "sh", "-c", f"echo {number} >> /sequence").ok()
    assert soliton("exec", "-o", "o.img:ro", base, "cat", "/sequence").ok().out == "0\n1\n2\n3\n4\n"


def test_one_writes_into_a_directory_and_the_owner_is_named(soliton: Program, base: Path, tree: Path) -> None:
    folder = soliton.cwd / "over lay é"
    folder.mkdir()
    for image, isolation in ((base, ()), (tree, ("--pid",))):
        writer = soliton.start(
            "exec", *isolation, "-o", folder, image, "sh", "-c", "echo ready; exec sleep 1000"
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        second = soliton("exec", "-o", folder, image, "true")
        assert second.status == 255
        assert f"`{folder}` is in use for writing" in second.err
        assert f"process {writer.pid} (" in second.err
        assert second.err.count("\n") <= 3
        # Who only reads is free to.
        soliton("exec", "-o", f"{folder}:ro", image, "true").ok()
        # Nothing is left of a writer that was killed.
        writer.kill()
        writer.wait()
        soliton("exec", "-o", folder, image, "touch", "/after").ok()
    # What goes on in the background writes, too.
    ready = soliton("exec", "-o", folder, base, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").ok()
    assert "is in use" in soliton("exec", "-o", folder, base, "true").err
    os.kill(int(ready.out), signal.SIGKILL)
    for number in range(5):
        soliton("exec", "-o", folder, base, "sh", "-c", f"echo {number} >> /sequence").ok()
    assert soliton("exec", "-o", f"{folder}:ro", base, "cat", "/sequence").ok().out == "0\n1\n2\n3\n4\n"
    assert sorted(os.listdir(folder)) == [".soliton-lock", "upper", "work"]


def test_of_many_that_would_write_at_once_one_does(soliton: Program, base: Path) -> None:
    (soliton.cwd / "o").mkdir()
    script = "echo in; while [ ! -e stop ]; do sleep 0.1; done"
    many = [soliton.start("exec", "-o", "o", base, "sh", "-c", script) for _ in range(4)]
    try:
        eventually(lambda: sum(process.poll() is None for process in many) <= 1)
    finally:
        (soliton.cwd / "stop").touch()
    ended = [(process.communicate(timeout=AMPLE), process.returncode) for process in many]
    assert sorted(status for _, status in ended) == [0, 255, 255, 255], ended
    assert [out for (out, _), status in ended if status == 0] == [b"in\n"]


def test_a_lock_that_is_a_link_leads_nowhere(soliton: Program, base: Path) -> None:
    (soliton.cwd / "o").mkdir()
    victim = soliton.cwd / "victim"
    victim.write_text("precious\n")
    (soliton.cwd / "o/.soliton-lock").symlink_to(victim)
    failed = soliton("exec", "-o", "o", base, "true")
    assert (failed.status, victim.read_text()) == (255, "precious\n")
    assert failed.err.count("\n") <= 3


def servers_of(image: Path) -> list[int]:
    """Processes that have the image open."""
    return [pid for pid in processes.own() if processes.has_open(pid, image.samefile)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_server_leaves_a_file_system_that_is_whole(
    soliton: Program, base: Path, how: signal.Signals
) -> None:
    image = soliton.cwd / "o.img"
    soliton("overlay", "create", "--sparse", image).ok()
    script = "i=0; echo ready; while true; do mkdir /d$i; echo $i > /d$i/f; mv /d$i /e$i; i=$((i+1)); done"
    container = soliton.start("exec", "-o", image, base, "sh", "-c", script)
    assert container.stdout is not None and container.stderr is not None
    assert container.stdout.readline() == b"ready\n"
    time.sleep(0.7)
    for number in servers_of(image):
        # With one its child goes.
        with suppress(ProcessLookupError):
            os.kill(number, how)
    container.kill()
    told = container.stderr.read(4096).decode()
    container.wait()
    eventually(lambda: not servers_of(image))
    soliton("exec", "-o", image, base, "touch", "/after").ok()
    assert is_sound(image), told


def test_a_full_overlay_is_told_as_no_space(soliton: Program, base: Path) -> None:
    soliton("overlay", "create", "--sparse", "o.img").ok()
    filled = soliton("exec", "-o", "o.img", base, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=100")
    assert "No space left" in filled.err
    soliton("exec", "-o", "o.img", base, "sh", "-c", "rm /big; echo y > /y").ok()
    assert is_sound(soliton.cwd / "o.img")


def test_what_the_file_of_an_overlay_does_not_take_is_told_and_leaves_it_whole(
    soliton: Program, base: Path
) -> None:
    """Here for a limit on the size of files; a full disk under a sparse overlay is the same."""
    soliton("overlay", "create", "--sparse", "o.img").ok()
    limited = Program(soliton.home, soliton.cwd, soliton.variables, ("prlimit", f"--fsize={16 << 20}"))
    write = "echo a > /a; for i in 1 2 3; do dd if=/dev/zero of=/big$i bs=1M count=15; done"
    told = limited("exec", "-o", "o.img", base, "sh", "-c", write).err
    assert "File too large" in told, told
    shown = soliton("exec", "-o", "o.img", base, "sh", "-c", "cat /a; cat /big* | wc -c").ok().out.split()
    assert shown[0] == "a" and int(shown[1]) < 16 << 20
    assert is_sound(soliton.cwd / "o.img")
    soliton("exec", "-o", "o.img", base, "sh", "-c", "rm /a /big*; echo y > /y").ok()
    assert is_sound(soliton.cwd / "o.img")


def test_a_file_system_that_cannot_carry_a_writable_layer_is_named(soliton: Program, base: Path) -> None:
    """fuse2fs knows no whiteouts, as little as most network file systems do."""
    soliton("overlay", "create", "--sparse", "other.img").ok()
    (soliton.cwd / "m").mkdir()
    script = (
        'fuse2fs other.img m -o fakeroot && "$0" exec --overlay m/upper "$1" true; s=$?; umount m; exit $s'
    )
    done = subprocess.run(
        [*IN_NAMESPACE, "sh", "-c", script, soliton.name, base],
        cwd=soliton.cwd,
        env=soliton.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 255, done.stderr
    assert "fuse.ext4) cannot carry a writable overlay" in done.stderr
    assert "overlay create" in done.stderr


def test_create_leaves_nothing_when_it_cannot(soliton: Program, base: Path) -> None:
    (soliton.cwd / "there").write_text("x" * 5000)
    for words in (["there"], ["--size", "10", "o.img"], ["nowhere/o.img"], ["--size", "9999999", "o.img"]):
        result = soliton("overlay", "create", *words)
        assert result.status == 255, words
        assert result.err.count("\n") <= 3
    copy = Path(shutil.copy(base, soliton.cwd / "c.sif"))
    before = copy.read_bytes()
    limited = Program(soliton.home, soliton.cwd, soliton.variables, ("prlimit", f"--fsize={16 << 20}"))
    assert limited("overlay", "create", copy).status == 255
    assert copy.read_bytes() == before
    soliton("overlay", "create", "--sparse", copy).ok()
    assert "already" in soliton("overlay", "create", copy).err
    assert sorted(os.listdir(soliton.cwd)) == ["c.sif", "there"]


def test_a_signed_image_gets_no_overlay(soliton: Program, foreign: Path) -> None:
    copy = shutil.copy(foreign / "signed.sif", soliton.cwd / "signed.sif")
    result = soliton("overlay", "create", copy)
    assert result.status == 255
    assert "signed" in result.err


def test_hostile_layers_lead_nowhere(soliton: Program, base: Path) -> None:
    """`upper` as a link, in a directory and in an image."""
    secret = soliton.cwd / "secret"
    secret.mkdir()
    (secret / "s").write_text("s")
    hostile = soliton.cwd / "hostile"
    hostile.mkdir()
    (hostile / "upper").symlink_to(secret)
    assert "cannot be written" in soliton("exec", "-o", hostile, base, "true").err
    image = soliton.cwd / "hostile.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run([tool("mkfs.ext3"), "-q", "-d", hostile, image], check=True)
    assert soliton("exec", "-o", image, base, "ls", "/s").status == 255
    assert soliton("exec", "-o", f"{image}:ro", base, "ls", "/s").status == 255
    assert os.listdir(secret) == ["s"]
    image.write_bytes(os.urandom(1024) + image.read_bytes()[1024:1100] + os.urandom(1 << 16))
    result = soliton("exec", "-o", image, base, "true")
    assert result.status == 255
    assert "Traceback" not in result.err
