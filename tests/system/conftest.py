"""What system tests stand on: the installed program, an unprivileged user, and userlands made from Debian packages."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import repositories
from tests.system.program import Program, eventually


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        raise pytest.UsageError("system tests are for an unprivileged user: run `make test`")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Where the preparation left its userlands (`debian.tar`)."""
    return Path(os.environ.get("SOLITON_FIXTURES", "/var/tmp/soliton-test/fixtures"))


@pytest.fixture(scope="session")
def foreign() -> Path:
    """SIF files made by another implementation. They are not part of the project."""
    directory = Path(os.environ.get("SOLITON_FOREIGN", Path(__file__).parents[3] / "shared/data/foreign"))
    if not (directory / "plain.sif").exists():
        pytest.skip("the foreign images are not here: set SOLITON_FOREIGN to their directory")
    return directory


@pytest.fixture(scope="session")
def has_subordinate_ids() -> bool:
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name
    return any(line.startswith(f"{name}:") for line in Path("/etc/subuid").read_text().splitlines())


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    return home


@pytest.fixture(scope="session")
def shared(shared_home: Path) -> Program:
    """The program for building fixtures once: its home and cache last for the whole session."""
    work = shared_home / "work"
    work.mkdir()
    return Program(home=shared_home, cwd=work)


@pytest.fixture
def soliton(tmp_path: Path) -> Iterator[Program]:
    """The program with a fresh home; afterwards nothing of it may be left in the temporary directory."""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    work = tmp_path / "work"
    work.mkdir()
    yield Program(home=home, cwd=work)

    def left() -> list[str]:
        return sorted(os.listdir(home / "tmp"))

    eventually(lambda: not left(), lambda: f"left in TMPDIR: {left()}")


@pytest.fixture(scope="session")
def rpms() -> Path:
    """A repository of RPM packages; both users of the tests have the same."""
    return repositories.shared("rpm", repositories.rpm_repository) / "repository-9"


@pytest.fixture(scope="session")
def arch() -> Path:
    """The same of pacman packages, with a `pacman.conf`."""
    return repositories.shared("arch", repositories.arch_repository) / "repository"


@pytest.fixture(scope="session")
def debian(shared: Program) -> Path:
    """A small Debian, made by the program itself."""
    suite, address = repositories.mirror()
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        pytest.skip("debootstrap is not installed")
    (shared.cwd / "debian.def").write_text(
        f"Bootstrap: debootstrap\nOSVersion: {suite}\nMirrorURL: {address}\nInclude: libcap2-bin\n"
    )
    shared("build", "debian.sif", "debian.def").ok()
    return shared.cwd / "debian.sif"


APPLETS = (
    "sh ls cat echo env id pwd true false sleep mkdir touch rm ln test grep sed head wc chown chmod stat kill ps mount "
    "find sort printf tty hostname readlink dd date expr tr cut uname tail"
)


def busybox_tar(target: Path) -> Path:
    """A userland of one static program: a tar as a layer or `docker import` would have it."""
    program = next(p for p in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if p.exists())
    with tarfile.open(target, "w") as tar:

        def add(
            name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", mode: int = 0o644, link: str = ""
        ) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.linkname, info.mtime = (
                kind,
                len(data),
                mode,
                link,
                1700000000,
            )
            tar.addfile(info, io.BytesIO(data))

        for directory in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var", "var/tmp", "home"):
            mode = 0o1777 if directory in ("tmp", "var/tmp") else 0o755
            add(directory, tarfile.DIRTYPE, mode=mode)
        add("bin/busybox", data=program.read_bytes(), mode=0o755)
        for name in APPLETS.split():
            add(f"bin/{name}", tarfile.SYMTYPE, link="busybox", mode=0o777)
        add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n")
        add("etc/group", data=b"root:x:0:\n")
        add("etc/hosts", data=b"127.0.0.1 localhost\n")
        add("etc/resolv.conf")
    return target


@pytest.fixture(scope="session")
def busybox_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that can be run as it is."""
    base = tmp_path_factory.mktemp("busybox")
    archive = busybox_tar(base / "busybox.tar")
    root = base / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", archive], check=True)
    return root


@pytest.fixture(scope="session")
def busybox_sif(shared: Program, busybox_sandbox: Path) -> Path:
    """A small image of the program's own making. Read it, do not change it."""
    target = shared.cwd / "busybox.sif"
    shared("build", target, busybox_sandbox).ok()
    return target


@pytest.fixture
def image(busybox_sif: Path, tmp_path: Path) -> Path:
    """A copy of the small image, to be damaged or replaced."""
    return Path(shutil.copy(busybox_sif, tmp_path / "image.sif"))
