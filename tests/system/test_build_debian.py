"""A Debian made from its packages by an ordinary user, and packages installed in it: what root without privilege must do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.judges import listing
from tests.system.program import Program


def build(soliton: Program, base: Path, post: str) -> Path:
    (soliton.cwd / "recipe.def").write_text(f"Bootstrap: localimage\nFrom: {base}\n%post\n{post}")
    soliton("build", "image.sif", "recipe.def").ok()
    return soliton.cwd / "image.sif"


def sh(soliton: Program, image: Path, script: str) -> str:
    return soliton("exec", "--no-home", image, "sh", "-c", script).ok().out


def test_a_debian_runs(soliton: Program, debian: Path) -> None:
    assert sh(soliton, debian, ". /etc/os-release; echo $ID").strip() == "debian"
    # Devices are not a part of an image.
    assert soliton("sif", "list", debian).ok()
    assert sh(soliton, debian, "test ! -e /debootstrap && echo clean") == "clean\n"


def test_packages_install(soliton: Program, debian: Path) -> None:
    image = build(
        soliton,
        debian,
        "  apt-get update\n  apt-get install -y --no-install-recommends hello openssh-client\n  rm -rf /var/lib/apt/lists/*\n",
    )
    assert sh(soliton, image, "hello") == "Hello, world!\n"
    assert "hello" in sh(soliton, image, "dpkg -l hello | tail -1")


def test_apt_is_left_as_it_was(soliton: Program, debian: Path) -> None:
    image = build(soliton, debian, "  apt-get update\n")
    assert sh(soliton, image, "apt-config dump | grep -c Sandbox || true") == sh(
        soliton, debian, "apt-config dump | grep -c Sandbox || true"
    )
    assert sh(soliton, image, "ls -d /.soliton* 2>/dev/null || echo none") == "none\n"


def test_users_owners_capabilities_and_devices(soliton: Program, debian: Path) -> None:
    image = build(
        soliton,
        debian,
        "  useradd -m tester\n  echo x > /opt/file\n  chown tester:tester /opt/file\n  chmod 4755 /opt/file\n"
        "  cp /bin/true /opt/ping\n  setcap cap_net_raw+ep /opt/ping\n  mknod /opt/null c 1 3\n"
        "  mkfifo /opt/pipe\n  ln /opt/file /opt/hard\n  su tester -c true || test $? = 1\n",
    )
    assert "tester" in sh(soliton, image, "grep ^tester: /etc/passwd")
    # The kernel shows a capability only where user 0 is mapped.
    shown = soliton("exec", "--fakeroot", image, "getcap", "/opt/ping").ok().out
    assert shown == "/opt/ping cap_net_raw=ep\n"
    assert sh(soliton, image, "test -p /opt/pipe && stat -c %h /opt/file") == "2\n"
    files = listing(soliton, image)
    assert files["/opt/file"] == ("-rwsr-xr-x", "1000/1000")
    assert files["/opt/hard"] == files["/opt/file"]
    assert files["/home/tester"][1] == "1000/1000"
    assert files["/opt/ping"] == ("-rwxr-xr-x", "0/0")
    # Rewritten by useradd, which gives a file the owner that it sees.
    assert files["/etc/shadow"] == ("-rw-r-----", "0/42")


def test_a_missing_debootstrap_names_its_package(soliton: Program, tmp_path: Path) -> None:
    (soliton.cwd / "recipe.def").write_text("Bootstrap: debootstrap\nOSVersion: bookworm\n")
    (tmp_path / "empty").mkdir()
    hide = f'mount --bind {tmp_path}/empty /usr/sbin && exec "$@"'
    hidden = Program(
        home=soliton.home,
        cwd=soliton.cwd,
        wrapper=("unshare", "-Urm", "sh", "-c", hide, "sh"),
        name=soliton.name,
    )
    result = hidden("build", "image.sif", "recipe.def")
    assert result.status == 255
    assert "Debian package debootstrap" in result.err


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("OSVersion: --foo\n", ":2: `--foo`"),
        ("OSVersion: x\nMirrorURL: --foo\n", ":3: `--foo`"),
        ("OSVersion: x\nInclude: a;b\n", ":3: `a;b`"),
    ],
)
def test_values_that_are_none_are_refused(soliton: Program, lines: str, place: str) -> None:
    (soliton.cwd / "recipe.def").write_text(f"Bootstrap: debootstrap\n{lines}")
    result = soliton("build", "image.sif", "recipe.def")
    assert result.status == 255
    assert f"recipe.def{place}" in result.err
