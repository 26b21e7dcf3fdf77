"""Binds in all their forms, out of the host and out of images, and images that do not want to be bound into."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.system.program import Program
from tests.system.test_overlays import IN_NAMESPACE, tool


@pytest.fixture(scope="session")
def data(shared: Program) -> Path:
    """Data in every kind of image."""
    folder = shared.cwd / "data images"
    (folder / "tree/sub").mkdir(parents=True)
    (folder / "tree/sub/file").write_text("42\n")
    (folder / "tree/link").symlink_to("/sub")
    (folder / "tree/out").symlink_to("../../../../etc/hostname")
    subprocess.run([tool("mksquashfs"), "tree", "d.sqfs", "-quiet", "-no-progress"], cwd=folder, check=True)
    with open(folder / "d.img", "wb") as file:
        file.truncate(16 << 20)
    subprocess.run([tool("mkfs.ext3"), "-q", "-d", "tree", "d.img"], cwd=folder, check=True)
    here = shared.within(folder)
    here("sif", "new", "d.sif").ok()
    words = ["--datatype", "4", "--partfs", "1", "--parttype", "3", "--partarch", "2"]
    here("sif", "add", *words, "d.sif", "d.sqfs").ok()
    here(
        "sif",
        "add",
        "--datatype",
        "4",
        "--partfs",
        "2",
        "--parttype",
        "3",
        "--partarch",
        "2",
        "d.sif",
        "d.img",
    ).ok()
    return folder


@pytest.mark.parametrize(
    "bind",
    [
        ["--bind", "{d}/tree:/in"],
        ["--bind", "{d}/tree/sub:/in/sub"],
        ["--bind", "{d}/tree/sub/file:/in/sub/file:ro"],
        ["--bind", "{d}/d.sqfs:/in:image-src=/"],
        ["--bind", "{d}/d.sqfs:/in/sub:image-src=/sub"],
        ["--bind", "{d}/d.sqfs:/in/sub:image-src=/link"],
        ["--bind", "{d}/d.sqfs:/in/sub/file:image-src=/sub/file"],
        ["--bind", "{d}/d.img:/in:image-src=/,ro"],
        ["--bind", "{d}/d.sif:/in:image-src=/"],
        ["--bind", "{d}/d.sif:/in:id=2,ro"],
        ["--mount", "type=bind,src={d}/d.sqfs,dst=/in,image-src=/"],
        ["--mount", "type=bind,src={d}/d.sif,dst=/in/sub,image-src=/sub,id=1"],
        ["--data", "{d}/d.sqfs:/in"],
        ["--data", "{d}/d.sif:/in"],
    ],
)
def test_data_appears_inside(soliton: Program, busybox_sif: Path, data: Path, bind: list[str]) -> None:
    words = [word.format(d=data) for word in bind]
    assert soliton("exec", *words, busybox_sif, "cat", "/in/sub/file").ok().out == "42\n"


def test_images_are_bound_several_times_and_written_if_they_can_be(
    soliton: Program, busybox_sif: Path, data: Path
) -> None:
    shutil.copy(data / "d.img", soliton.cwd)
    binds = [
        "-B",
        "d.img:/a:image-src=/",
        "-B",
        "d.img:/b:image-src=/sub",
        "-B",
        f"{data}/d.sqfs:/c:image-src=/",
    ]
    script = "echo 43 > /b/file; cat /a/sub/file; touch /c/x"
    result = soliton("exec", *binds, busybox_sif, "sh", "-c", script)
    assert result.out == "43\n"
    assert "Read-only" in result.err
    out = soliton("exec", "-B", "d.img:/a:image-src=/sub,ro", busybox_sif, "cat", "/a/file").ok().out
    assert out == "43\n"


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("nothing:/in", "nothing"),
        ("ring:/in", "ring"),
        ("{d}/d.sqfs:/in:image-src=/nothing", "/nothing"),
        ("{d}/d.sqfs:/in:image-src=/out", "/out"),
        ("{d}/d.sif:/in:id=9", "d.sif"),
        ("{d}/d.sqfs:/in:id=1", "d.sqfs"),
        ("{d}/tree/sub/file:/in:image-src=/", "file"),
        ("nothing:/in:image-src=/", "nothing"),
        ("/etc/hosts:/bin", "a file cannot cover a directory"),
        ("/etc:/etc/hosts", "a directory cannot cover a file"),
    ],
)
def test_what_cannot_be_bound_is_named(
    soliton: Program, busybox_sif: Path, data: Path, bind: str, said: str
) -> None:
    (soliton.cwd / "ring").symlink_to("ring")
    result = soliton("exec", "--bind", bind.format(d=data), busybox_sif, "true")
    assert result.status == 255
    assert said in result.err
    assert result.err.count("\n") <= 3


def copy_of(sandbox: Path, to: Path) -> Path:
    return Path(shutil.copytree(sandbox, to, symlinks=True))


@pytest.mark.parametrize("form", ["sandbox", "sif"])
def test_links_of_an_image_lead_inside_it(soliton: Program, busybox_sandbox: Path, form: str) -> None:
    """Mount points that are links: to the host by an absolute path, by `..`, to nowhere, to each other."""
    root: Path = copy_of(busybox_sandbox, soliton.cwd / "root")
    outside = soliton.home / "outside"
    outside.mkdir()
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../../../../../../.." + str(outside))
    (root / "nowhere").symlink_to("/opt/later")
    shutil.rmtree(root / "tmp")
    (root / "tmp").symlink_to("/opt/elsewhere")
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to(outside / "hosts")
    data = soliton.cwd / "data"
    data.mkdir()
    (data / "f").write_text("1\n")
    image: Path | str = root
    if form == "sif":
        soliton("build", "links.sif", root).ok()
        image = "links.sif"
    for target in ("/absolute", "/relative", "/nowhere", "/absolute/new/deep"):
        words = ["--no-home", "--no-mount", "tmp,cwd", "--bind", f"{data}:{target}"]
        assert soliton("exec", *words, image, "cat", f"{target}/f").ok().out == "1\n"
    soliton("exec", "--contain", image, "touch", "/tmp/x").ok()
    assert os.listdir(outside) == []


@pytest.mark.parametrize("name", ["etc", "dev", "proc", "sys", "tmp", "home", "var"])
@pytest.mark.parametrize("kind", ["link", "ring", "file"])
def test_an_image_whose_directories_are_something_else(
    soliton: Program, busybox_sandbox: Path, name: str, kind: str
) -> None:
    """It starts, or it is said in a few words why not; nothing on the host is touched."""
    root: Path = copy_of(busybox_sandbox, soliton.cwd / "root")
    outside = soliton.home / "outside"
    outside.mkdir()
    shutil.rmtree(root / name)
    if kind == "file":
        (root / name).write_text("")
    else:
        (root / name).symlink_to(outside if kind == "link" else name)
    for words in ([], ["--contain"], ["--writable-tmpfs"]):
        result = soliton("exec", *words, root, "/bin/busybox", "true")
        assert result.status in (0, 255), result.err
        assert result.err.count("\n") <= 4, result.err
        assert "Traceback" not in result.err
        # A link below what it stands for leads in a circle, and that is said.
        if kind == "link" and name != "var":
            assert result.status == 0, result.err
    assert os.listdir(outside) == []


@pytest.mark.parametrize("state", ["huge", "missing", "directory", "pipe", "link-out"])
def test_any_passwd_of_an_image_will_do(soliton: Program, busybox_sandbox: Path, state: str) -> None:
    root: Path = copy_of(busybox_sandbox, soliton.cwd / "root")
    passwd = root / "etc/passwd"
    passwd.unlink()
    if state == "huge":
        passwd.write_text("x:x:4000000:1::/:/bin/sh\n" * 1_000_000)
    elif state == "directory":
        passwd.mkdir()
    elif state == "pipe":
        os.mkfifo(passwd)
    elif state == "link-out":
        passwd.symlink_to("/proc/self/environ")
    result = soliton("exec", root, "sh", "-c", "echo fine").ok()
    assert result.out == "fine\n"
    assert "passwd" in result.err


def test_a_renamer_at_work_leads_nothing_out_of_the_image(soliton: Program, busybox_sandbox: Path) -> None:
    """Somebody changes a mount point into a link and back all the while."""
    root: Path = copy_of(busybox_sandbox, soliton.cwd / "root")
    outside = soliton.home / "outside"
    outside.mkdir()
    data = soliton.cwd / "data"
    data.mkdir()
    (data / "mark").write_text("mine\n")
    (root / "point").mkdir()
    (root / "trap").symlink_to("/../../../../../../../.." + str(outside))
    stop = threading.Event()

    def rename() -> None:
        while not stop.is_set():
            for a, b in (("point", "kept"), ("trap", "point"), ("point", "trap"), ("kept", "point")):
                with contextlib.suppress(OSError):
                    os.rename(root / a, root / b)
            if (root / "kept").exists():  # `--writable` made a directory of its own meanwhile
                shutil.rmtree(root / "point", ignore_errors=True)

    renamer = threading.Thread(target=rename)
    renamer.start()
    try:
        for words in (["--writable"], [], ["--writable-tmpfs"]) * 4:
            bind = ["--no-home", "--no-mount", "cwd,tmp", "--bind", f"{data}:/point/deep"]
            result = soliton.once()("exec", *words, *bind, root, "true")
            assert result.status in (0, 255), result.err
    finally:
        stop.set()
        renamer.join()
    assert os.listdir(outside) == []


def test_no_shell_in_the_image(soliton: Program, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/true")
    soliton("exec", root, "true").ok()
    for words in (["run", root], ["shell", root]):
        result = soliton(*words)
        assert result.status == 255
        assert "/bin/sh" in result.err


def test_an_environment_of_a_megabyte(soliton: Program, busybox_sif: Path) -> None:
    # One text may have 128 KiB (execve(2)).
    large = soliton.having(**{f"BIG{number}": "x" * 100_000 for number in range(10)})
    out = large("exec", busybox_sif, "sh", "-c", "env | wc -c").ok().out
    assert int(out) > 1_000_000


def test_five_thousand_binds(soliton: Program, busybox_sif: Path) -> None:
    source = soliton.cwd / "s"
    source.mkdir()
    (source / "f").write_text("1\n")
    binds = ",".join(f"{source}:/many/{number % 70}/d{number}" for number in range(5000))
    out = soliton.having(SOLITON_BIND=binds[:120_000].rpartition(",")[0])(
        "exec", busybox_sif, "cat", "/many/3/d3/f"
    )
    assert out.ok().out == "1\n"
    words = [word for number in range(5000) for word in ("-B", f"{source}:/many/{number % 70}/d{number}")]
    assert soliton("exec", *words, busybox_sif, "cat", "/many/29/d4999/f").ok().out == "1\n"


def test_a_deep_working_directory(soliton: Program, busybox_sif: Path) -> None:
    deep = soliton.cwd
    for _ in range(18):
        deep = deep / ("d" * 200)
    os.makedirs(deep)
    assert soliton.within(deep)("exec", busybox_sif, "sh", "-c", "pwd | wc -c").ok().out.strip() == str(
        len(str(deep)) + 1
    )


def test_a_working_directory_that_is_gone_or_closed(soliton: Program, busybox_sif: Path) -> None:
    (soliton.cwd / "closed").mkdir()
    for script in (
        'mkdir gone && cd gone && rmdir ../gone && exec "$0" exec "$1" echo fine',
        'cd closed && chmod 0 . && "$0" exec "$1" echo fine; s=$?; chmod 700 .; exit $s',
    ):
        done = subprocess.run(
            ["sh", "-c", script, soliton.name, busybox_sif],
            cwd=soliton.cwd,
            env=soliton.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_home_on_a_read_only_mount(soliton: Program, busybox_sif: Path) -> None:
    script = 'mount --bind "$HOME" "$HOME" && mount -o remount,bind,ro "$HOME" && exec "$0" exec "$1" sh -c "echo fine; touch ~/x"'
    done = subprocess.run(
        [*IN_NAMESPACE, "sh", "-c", script, soliton.name, busybox_sif],
        cwd="/",
        env={**soliton.environment(), "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr
    assert "Read-only" in done.stderr


def test_hostfs_shows_other_file_systems_and_devpts_can_be_left_out(
    soliton: Program, busybox_sif: Path
) -> None:
    out = soliton("exec", "--contain", "--no-mount", "devpts", busybox_sif, "ls", "/dev").ok().out.split()
    assert "pts" not in out
    assert "null" in out


@pytest.mark.parametrize("identity", [[], ["--fakeroot"]])
@pytest.mark.parametrize(
    ("words", "inside", "made"),
    [
        (["-B", "{d}:/in", "-B", "{d}/file:/in/new/file"], "/in/new/file", "outer/new/file"),
        (["-B", "{d}:/in", "-B", "{d}:/in/new/dir"], "/in/new/dir/file", "outer/new/dir"),
        (["--home", "{d}:/home/x", "-B", "{d}:/home/x/new"], "/home/x/new/file", "outer/new"),
        (["-cW", "{w}", "-B", "{d}:/tmp/new"], "/tmp/new/file", "workdir/tmp/new"),
        (["-W", "{w}", "-S", "/s", "-B", "{d}:/s/new"], "/s/new/file", "workdir/scratch/s/new"),
    ],
)
def test_a_mount_point_in_a_directory_of_the_host_is_made_there(
    soliton: Program, busybox_sif: Path, identity: list[str], words: list[str], inside: str, made: str
) -> None:
    outer, workdir = soliton.cwd / "outer", soliton.cwd / "workdir"
    outer.mkdir()
    workdir.mkdir()
    (outer / "file").write_text("42\n")
    words = [word.format(d=outer, w=workdir) for word in words]
    assert soliton("exec", *identity, *words, busybox_sif, "cat", inside).ok().out == "42\n"
    left = soliton.cwd / made
    assert left.exists() and left.stat().st_uid == os.getuid()


def test_no_mount_point_is_made_where_nobody_asked_for_it(
    soliton: Program, busybox_sandbox: Path, busybox_sif: Path
) -> None:
    outer = soliton.cwd / "outer"
    outer.mkdir()
    # Read-only, or led there by a link of the image.
    root = copy_of(busybox_sandbox, soliton.cwd / "root")
    (root / "link").symlink_to("/in")
    for image, words in (
        (busybox_sif, ["-B", f"{outer}:/in:ro", "-B", "/etc:/in/new"]),
        (root, ["-B", f"{outer}:/in", "-B", "/etc:/link/new"]),
    ):
        result = soliton("exec", *words, image, "true")
        assert result.status == 255 and "lies in a directory of the host's" in result.err
        assert result.err.count("\n") <= 3
    # The working directory is optional: a bind may hide where it would be.
    hiding = Path("/", *soliton.cwd.parts[1:2])
    soliton("exec", "-B", f"{outer}:{hiding}", busybox_sif, "true").ok()
    assert not list(outer.iterdir())


@pytest.mark.parametrize("form", ["sandbox", "sif"])
def test_a_link_from_one_temporary_directory_to_the_other_leaves_one(
    soliton: Program, busybox_sandbox: Path, form: str
) -> None:
    """What the image calls /var/tmp is its /tmp; the host's /var/tmp must not cover that."""
    root: Path = copy_of(busybox_sandbox, soliton.cwd / "root")
    (root / "var/tmp").rmdir()
    (root / "var/tmp").symlink_to("/tmp")
    image = root
    if form == "sif":
        image = soliton.cwd / "linked.sif"
        soliton("build", image, root).ok()
    workdir = soliton.cwd / "workdir"
    for name in ("tmp", "var_tmp"):
        (workdir / name).mkdir(parents=True)
        (workdir / name / "which").write_text(f"{name}\n")
    shown = soliton("exec", "-cW", workdir, image, "cat", "/tmp/which", "/var/tmp/which").ok()
    assert shown.out == "tmp\ntmp\n"
    same = soliton("exec", image, "stat", "-c", "%i", "/tmp").ok().out
    assert same == f"{os.stat('/tmp').st_ino}\n"
    asked = soliton("exec", "-B", f"{workdir}/var_tmp:/var/tmp", image, "cat", "/tmp/which").ok()
    assert asked.out == "var_tmp\n"


def test_the_host_s_name_servers_are_left_out_when_asked(soliton: Program, busybox_sif: Path) -> None:
    for contain in ([], ["--contain"]):
        words = ["exec", *contain, "--no-mount", "/etc/resolv.conf", busybox_sif, "cat", "/etc/resolv.conf"]
        assert soliton(*words).ok().out == ""


def test_containers_inside_are_told_of_binds_but_for_those_that_are_not_nested(
    soliton: Program, busybox_sif: Path
) -> None:
    (soliton.cwd / "data").mkdir()
    hidden = "src=data,dst=/hidden,nonested"
    words = ["-B", "data:/shown", "--mount", hidden, busybox_sif]
    assert soliton("exec", *words, "env").ok().out.count("_BIND=/shown\n") == 2
    soliton("exec", *words, "ls", "/hidden").ok()
