"""Bootstraps of other distributions, from small repositories, and of an engine of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.system import repositories
from tests.system.judges import listing
from tests.system.program import Program, eventually
from tests.system.test_build import fatal, names, sh, write


def check_tool(soliton: Program, image: str) -> dict[str, tuple[str, str]]:
    """What the package `tool` brings is there, to its owners; nothing of the machine that built it is."""
    files = listing(soliton, image)
    assert files["/opt/tool"] == ("drwxr-x---", "33/44")
    assert files["/opt/tool/data"] == ("-rw-r-----", "33/44")
    assert files["/opt/tool/su"] == ("-rwsr-xr-x", "0/0")
    assert files["/var/tool.state"][1] == "33/44"
    assert sh(soliton, image, "cat /var/tool.state /seen") == "installed\ninstalled\n"
    assert not [path for path in files if "soliton-build" in path or ".rpmdb" in path]
    assert files["/tmp"][0] == "drwxrwxrwt"
    return files


@pytest.mark.parametrize("agent", ["dnf", "yum", "zypper"])
def test_a_system_of_rpm_packages(soliton: Program, rpms: Path, agent: str) -> None:
    url = str(rpms).replace("repository-9", "repository-%{OSVERSION}")
    write(
        soliton,
        f"Bootstrap: {agent}\nOSVersion: 9\nMirrorURL: file://{url}\nInclude: tool\n"
        + ("SetOpt: install_weak_deps=False tsflags=nodocs\n" if agent != "zypper" else "")
        + "%post\n  cp /var/tool.state /seen\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    files = check_tool(soliton, "image.sif")
    assert "/etc/redhat-release" in files
    # The package database is where the new system's own rpm looks for it.
    assert "/usr/lib/sysimage/rpm/rpmdb.sqlite" in files and "/var/lib/rpm" not in files
    assert ("/etc/zypp/repos.d/repo-oss.repo" in files) is (agent == "zypper")


def test_a_system_of_pacman_packages(soliton: Program, arch: Path) -> None:
    write(
        soliton,
        f"Bootstrap: arch\nConfURL: {arch}/pacman.conf\nInclude: tool\n%post\n  cp /var/tool.state /seen\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    files = check_tool(soliton, "image.sif")
    assert any(path.startswith("/var/lib/pacman/local/tool-1.0-1/") for path in files)


@pytest.mark.parametrize("by", ["the keyring of a distribution", "a key of the caller's"])
def test_signatures_of_pacman_packages_are_checked(soliton: Program, arch: Path, by: str) -> None:
    keyrings = arch.parent / "keyrings"
    there = keyrings if by == "the keyring of a distribution" else keyrings.parent / "repository"
    script = f'mount --bind "{there}" /usr/share/keyrings && exec "$@"'
    machine = Program(
        home=soliton.home,
        cwd=soliton.cwd,
        wrapper=("unshare", "-Urm", "sh", "-c", script, "sh"),
        name=soliton.name,
    )
    trusting = machine if there == keyrings else machine.having(GPG=f"{keyrings}/test.gpg")
    recipe = f"Bootstrap: arch\nConfURL: {arch}/signed.conf\nInclude: tool\n"
    write(soliton, recipe)
    trusting("build", "image.sif", "recipe.def").ok()
    assert listing(soliton, "image.sif")["/opt/tool/data"] == ("-rw-r-----", "33/44")
    # Nobody's signature, and a signature of nobody that is trusted.
    write(soliton, recipe.replace("tool", "unsigned"))
    message = fatal(trusting("build", "--force", "image.sif", "recipe.def"))
    assert "`pacman` failed" in message
    if trusting is not machine:
        write(soliton, recipe)
        assert "`pacman` failed" in fatal(machine("build", "--force", "image.sif", "recipe.def"))
    eventually(lambda: not agents(soliton), lambda: f"left: {agents(soliton)}")


def agents(soliton: Program) -> list[str]:
    """What serves keys for this program, in its temporary directory or, where that has too long a name, in one of /tmp."""
    command = ["ps", "-eo", "uid=,args="]
    running = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        line
        for line in running
        if "gpg-agent" in line
        and (
            str(soliton.home) in line
            or (line.split()[0] == str(os.getuid()) and "/tmp/soliton-keys-" in line)
        )
    ]


@pytest.mark.parametrize("agent", ["dnf", "zypper", "arch"])
def test_a_package_that_is_not_there_ends_the_build(
    soliton: Program, rpms: Path, arch: Path, agent: str
) -> None:
    header = f"ConfURL: {arch}/pacman.conf" if agent == "arch" else f"MirrorURL: {rpms}"
    write(soliton, f"Bootstrap: {agent}\n{header}\nInclude: no-such-package\n")
    message = fatal(soliton("build", "image.sif", "recipe.def"))
    assert "recipe.def:1" in message and "no-such-package" in message
    assert names(soliton) == {"recipe.def"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Bootstrap: dnf\nMirrorURL: http://x/%{OSVERSION}/\n", ":2: `%{OSVERSION}` has no value"),
        ("Bootstrap: dnf\nMirrorURL: --nogpgcheck\n", ":2: `--nogpgcheck` is not the address"),
        ("Bootstrap: dnf\nMirrorURL: http://x/\nInclude: -x\n", ":3: `-x` is not the name of a package"),
        ("Bootstrap: dnf\nMirrorURL: http://x/\nSetOpt: reposdir\n", ":3: `reposdir` is not a setting"),
        ("Bootstrap: zypper\n", "names no repository"),
        ("Bootstrap: zypper\nMirrorURL: http://x/\nProduct: SLES\n", "a registration needs `Regcode`"),
        ("Bootstrap: zypper\nProduct: SLES\nOSVersion: 15.6\nRegcode: abc\n", "`SUSEConnect` is not on this machine"),
        ("Bootstrap: arch\nConfURL: /etc/hostname\n", "is not a pacman.conf"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_is_said_before_anything_is_done(
    soliton: Program, header: str, said: str
) -> None:
    write(soliton, header)
    message = fatal(soliton("build", "image.sif", "recipe.def"))
    assert said in message and len(message.splitlines()) <= 3


@contextmanager
def engine(directory: Path) -> Iterator[str]:
    """Podman's service, which speaks Docker's API; it holds the image `test/box:v1`. The address of its socket."""
    directory.mkdir()
    configuration = directory / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{directory}/run"\ngraphroot = "{directory}/graph"\n'
        '[storage.options.vfs]\nignore_chown_errors = "true"\n'
    )
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
        "CONTAINERS_STORAGE_CONF": str(configuration),
    }
    root = directory / "root.tar"
    subprocess.run(
        ["tar", "-C", "/", "-cf", root, str(repositories.busybox()).lstrip("/")],
        check=True,
        capture_output=True,
    )
    podman = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    subprocess.run([*podman, "import", root, "test/box:v1"], check=True, capture_output=True, env=environment)
    # The name of a socket may not be as long as that of a directory of tests.
    place = tempfile.TemporaryDirectory(prefix="soliton-engine-", dir="/tmp")
    address = Path(place.name, "engine.sock")
    service = subprocess.Popen(
        [*podman, "system", "service", "--time=0", f"unix://{address}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: service.poll() is not None or answers(address))
        assert service.poll() is None, "the engine has ended"
        yield f"unix://{address}"
    finally:
        service.terminate()
        service.wait()
        place.cleanup()
        subprocess.run(
            ["podman", "unshare", "rm", "-rf", directory / "graph", directory / "run"],
            check=False, capture_output=True, env=environment,
        )  # fmt: skip
        # Podman keeps a process that holds its user namespace.
        pause = directory / "libpod/tmp/pause.pid"
        if pause.exists():
            with suppress(ProcessLookupError):
                os.kill(int(pause.read_text()), signal.SIGKILL)


def answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(address)) == 0


def test_images_of_an_engine(soliton: Program, tmp_path: Path) -> None:
    program = repositories.busybox()
    with engine(tmp_path / "engine") as address:
        asking = soliton.having(DOCKER_HOST=address)
        write(soliton, "Bootstrap: docker-daemon\nFrom: test/box:v1\n%labels\n  A b\n")
        asking("build", "image.sif", "recipe.def").ok()
        assert asking("exec", "docker-daemon:test/box:v1", program, "echo", "hello").ok().out == "hello\n"
        soliton("pull", "--docker-host", address, "docker-daemon://localhost/test/box:v1").ok()
        message = fatal(asking("build", "other.sif", "docker-daemon:none"))
        assert "has no image `none:latest`" in message
    labels = soliton("inspect", "image.sif").ok().out
    assert "A: b" in labels and "deffile.from: test/box:v1" in labels
    assert soliton("exec", "box_v1.sif", program, "echo", "pulled").ok().out == "pulled\n"
    message = fatal(asking("build", "other.sif", "docker-daemon:test/box:v1"))
    assert "no Docker engine answers" in message and len(message.splitlines()) == 3
    assert names(soliton) == {"recipe.def", "image.sif", "box_v1.sif"}


def test_an_address_of_an_engine_that_is_none(soliton: Program) -> None:
    result = soliton("build", "--docker-host", "ssh://host", "image.sif", "docker-daemon:x")
    assert result.status == 1 and "`ssh://host` is not the address" in result.err


def test_a_product_is_registered_as_the_header_says(soliton: Program) -> None:
    """SUSEConnect is only on SUSE's machines: what it would be asked is written down by one that then fails."""
    tool = soliton.cwd / "bin/SUSEConnect"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$*" >> {soliton.cwd}/asked\ntest $# -lt 7\n')
    tool.chmod(0o755)
    write(
        soliton,
        "Bootstrap: zypper\nOSVersion: 15.6\nProduct: SLES\nUser: jo@example.org\nRegcode: abc-123\n"
        "RegisterURL: https://scc.example.org\nModules: sle-module-basesystem\n",
    )
    path = f"{tool.parent}:{soliton.environment()['PATH']}"
    message = fatal(soliton.having(PATH=path)("build", "image.sif", "recipe.def"))
    assert "`SUSEConnect` failed with exit status 1 (recipe.def:1)" in message
    words = (soliton.cwd / "asked").read_text().split()
    machine = os.uname().machine
    assert words[0] == "--root" and words[2:] == [
        *("--url", "https://scc.example.org", "--product", f"SLES/15.6/{machine}"),
        *("--email", "jo@example.org", "--regcode", "abc-123"),
    ]
