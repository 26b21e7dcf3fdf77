"""Small package repositories of other distributions, made from Debian's own tools: a userland of busybox and one more package.

`tool` is what a real package can bring: a file of another owner, a set-user-id program, a directory, a script that runs when it
is installed and changes an owner.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

APPLETS = "sh ls cat echo id chown chmod mkdir rm mv readlink dirname test stat env true sed grep ln touch"
SCRIPT = "echo installed > /var/tool.state; chown 33:44 /var/tool.state"
PASSWD = r"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/:/bin/sh\n"
GROUP = r"root:x:0:\nvideo:x:44:\n"


def busybox() -> Path:
    return next(path for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if path.exists())


def mirror() -> tuple[str, str]:
    """(suite, address) of the package source that this machine uses."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        text = Path(path).read_text() if Path(path).exists() else ""
        deb822 = re.search(r"^URIs:\s*(\S+).*?^Suites:\s*(\S+)", text, re.MULTILINE | re.DOTALL)
        if deb822:
            return deb822[2], deb822[1]
        line = re.search(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", text, re.MULTILINE)
        if line:
            return line[2], line[1]
    pytest.skip("no Debian package source is configured on this machine")


def shared_place() -> Path:
    """A directory of all users that run these tests."""
    return Path(os.environ.get("TMPDIR", "/tmp"))


def shared(name: str, make: Callable[[Path, Path], None]) -> Path:
    """What `make` makes in a directory, which is given the place where it will be, too; made by the first user who needs it."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    place = shared_place() / f"soliton-repository-{version}-{name}"
    if not place.exists():
        with tempfile.TemporaryDirectory() as work:
            partial = Path(tempfile.mkdtemp(prefix=f"{place.name}.partial-", dir=place.parent))
            make(Path(work), partial)
            for path in partial.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            for conf in partial.glob("repository/*.conf"):
                conf.write_text(conf.read_text().replace(str(partial), str(place)))
            partial.chmod(0o755)
            try:
                partial.rename(place)
            except OSError:  # somebody else was faster
                shutil.rmtree(partial)
    return place


def rpm_repository(work: Path, target: Path) -> None:
    """Repository metadata and packages as dnf and zypper read them: `repository-9`."""
    directory = target / "repository-9"
    directory.mkdir()
    build = work / "build"
    build.mkdir()
    links = " ".join(f"ln -s busybox %{{buildroot}}/bin/{name};" for name in APPLETS.split())
    etc = "mkdir -p %{buildroot}/etc;"
    _rpm(
        build, "coreutils",
        install=f"mkdir -p %{{buildroot}}/bin; cp {busybox()} %{{buildroot}}/bin/busybox; {links}",
        files="/bin",
    )  # fmt: skip
    _rpm(
        build, "test-release",
        install=f"{etc} echo 'Test release 9' > %{{buildroot}}/etc/redhat-release; echo ID=test > %{{buildroot}}/etc/os-release; "
        f"printf '{PASSWD}' > %{{buildroot}}/etc/passwd; printf '{GROUP}' > %{{buildroot}}/etc/group; "
        "mkdir -p %{buildroot}/usr/bin %{buildroot}/var/lib; printf '#!/bin/sh\\necho /usr/lib/sysimage/rpm\\n' > %{buildroot}/usr/bin/rpm; "
        "chmod 755 %{buildroot}/usr/bin/rpm",
        files="/etc/redhat-release\n/etc/passwd\n/etc/group\n/etc/os-release\n/usr/bin/rpm\n%dir /var/lib",
    )  # fmt: skip
    _rpm(
        build,
        "aaa_base",
        requires="coreutils test-release",
        install=f"{etc} touch %{{buildroot}}/etc/SuSE",
        files="/etc/SuSE",
    )
    _rpm(
        build, "tool", requires="coreutils test-release", script=SCRIPT,
        install="mkdir -p %{buildroot}/opt/tool %{buildroot}/var; echo tool > %{buildroot}/opt/tool/data; "
        f"cp {busybox()} %{{buildroot}}/opt/tool/su",
        files="%dir %attr(750,www,video) /opt/tool\n%attr(640,www,video) /opt/tool/data\n%attr(4755,root,root) /opt/tool/su",
    )  # fmt: skip
    for package in build.glob("RPMS/*/*.rpm"):
        package.rename(directory / package.name)
    subprocess.run(["createrepo_c", "--quiet", directory], check=True, capture_output=True)
    _sign(directory / "repodata/repomd.xml", build / "keys")


def _sign(file: Path, keys: Path) -> None:
    """What zypper insists on: a signature, and the key beside it."""
    gpg = new_key(keys)
    gpg("--armor", "--detach-sign", "--output", f"{file}.asc", file)
    gpg("--armor", "--output", f"{file}.key", "--export")
    end_agents(keys)


def new_key(keys: Path) -> Callable[..., str]:
    """gpg with a key of its own in a new directory."""
    keys.mkdir(mode=0o700)

    def gpg(*arguments: str | Path) -> str:
        command = ["gpg", "--homedir", keys, "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    gpg("--quick-generate-key", "test@localhost", "rsa2048", "sign", "never")
    return gpg


def end_agents(keys: Path) -> None:
    subprocess.run(["gpgconf", "--homedir", keys, "--kill", "all"], check=False, capture_output=True)


def _rpm(build: Path, name: str, *, install: str, files: str, requires: str = "", script: str = "") -> None:
    spec = build / f"{name}.spec"
    spec.write_text(
        f"Name: {name}\nVersion: 1.0\nRelease: 1\nSummary: a test\nLicense: none\nAutoReqProv: no\n"
        + "".join(f"Requires: {other}\n" for other in requires.split())
        + f"%description\na test\n%install\n{install}\n"
        + (f"%post\n{script}\n" if script else "")
        + f"%files\n%defattr(-,root,root)\n{files}\n"
    )
    subprocess.run(
        [
            "rpmbuild", "-bb", "--define", f"_topdir {build}", "--define", f"_dbpath {build}/db",
            "--define", "__os_install_post %{nil}", "--define", "debug_package %{nil}",
            "--define", "_build_id_links none", spec,
        ],
        check=True, capture_output=True, env={**os.environ, "HOME": str(build)},
    )  # fmt: skip


def arch_repository(work: Path, target: Path) -> None:
    """A repository of pacman packages, and a `pacman.conf` that names it: `repository`."""
    directory = target / "repository"
    directory.mkdir()
    program = busybox().read_bytes()
    _arch(directory, "base", depends=("filesystem",), files=[])
    _arch(
        directory, "filesystem",
        files=[
            *((path, "d", b"", 0o755, 0) for path in ("bin", "etc", "var")),
            ("bin/busybox", "f", program, 0o755, 0),
            *((f"bin/{name}", "l", b"busybox", 0o777, 0) for name in APPLETS.split()),
            ("etc/os-release", "f", b"ID=test\n", 0o644, 0),
        ],
    )  # fmt: skip
    _arch(directory, "unsigned", files=[("opt", "d", b"", 0o755, 0)])
    _arch(
        directory, "tool", script=f"post_install() {{\n  {SCRIPT}\n}}\n",
        files=[
            ("opt", "d", b"", 0o755, 0),
            ("opt/tool", "d", b"", 0o750, 33),
            ("opt/tool/data", "f", b"tool\n", 0o640, 33),
            ("opt/tool/su", "f", program, 0o4755, 0),
        ],
    )  # fmt: skip
    packages = sorted(directory.glob("*.pkg.tar"))
    # A signature of every package but one, and the keyring of a distribution.
    keys = work / "keys"
    gpg = new_key(keys)
    for package in packages:
        if not package.name.startswith("unsigned-"):
            gpg("--detach-sign", "--output", f"{package}.sig", package)
    (target / "keyrings").mkdir()
    gpg("--output", target / "keyrings/test.gpg", "--export")
    fingerprint = gpg("--with-colons", "--list-keys").partition("\nfpr:")[2].strip(":").partition(":")[0]
    (target / "keyrings/test-trusted").write_text(f"{fingerprint}:4:\n")
    end_agents(keys)
    subprocess.run(
        ["repo-add", "-q", directory / "test.db.tar.gz", *packages], check=True, capture_output=True
    )
    for name, level in (("pacman.conf", "Never"), ("signed.conf", "Required DatabaseOptional")):
        (directory / name).write_text(
            f"[options]\nArchitecture = auto\nSigLevel = {level}\n[test]\nServer = file://{directory}\n"
        )


def _arch(
    directory: Path, name: str, *, files: list[tuple[str, str, bytes, int, int]],
    depends: tuple[str, ...] = (), script: str = "",
) -> None:  # fmt: skip
    machine = os.uname().machine
    info = f"pkgname = {name}\npkgbase = {name}\npkgver = 1.0-1\npkgdesc = a test\nurl = http://localhost\n"
    info += f"builddate = 1700000000\npackager = nobody\nsize = 1\narch = {machine}\n"
    info += "".join(f"depend = {other}\n" for other in depends)
    with tarfile.open(directory / f"{name}-1.0-1-{machine}.pkg.tar", "w") as tar:

        def add(path: str, kind: str, data: bytes, mode: int, owner: int) -> None:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime, entry.uid = mode, 1700000000, owner
            entry.gid = 44 if owner else 0
            if kind == "l":
                entry.type, entry.linkname = tarfile.SYMTYPE, data.decode()
            elif kind == "d":
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data) if kind == "f" else None)

        add(".PKGINFO", "f", info.encode(), 0o644, 0)
        if script:
            add(".INSTALL", "f", script.encode(), 0o644, 0)
        for file in files:
            add(*file)
