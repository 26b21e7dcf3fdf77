"""The same input gives the same bytes: another day, directory, umask, locale, number of threads, cache, and another user."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

import soliton as package
from tests.system import repositories
from tests.system.judges import listing
from tests.system.program import Program, find_program
from tests.zoo import PLAIN, write_layout, zoo

#: The other circumstances: 400 days later, nobody else may read what is made, another place on earth.
ELSEWHERE = ("faketime", "-f", "+400d", "sh", "-c", 'umask 077; exec "$@"', "sh")

PACKAGES = """\
Bootstrap: oci
From: debian
%files
    note.txt /opt/note.txt
    program.py /opt/app/
%post
    apt-get update
    apt-get install -y --no-install-recommends hello openssh-client python3-minimal
    useradd -m -s /bin/sh tester
    cd /opt/app && python3 -c 'import program'
    hostname > /opt/hostname
    date -u -d "@$SOURCE_DATE_EPOCH" +%F > /opt/date
"""

SMALL = """\
Bootstrap: busybox
Stage: one
%post
    mkdir -p /out/deep && echo 1 > /out/deep/one && ln -s deep /out/link
Bootstrap: busybox
Stage: two
%files from one
    /out /out
%files
    note.txt
%post
    echo "$SOURCE_DATE_EPOCH" > /epoch
    chown 7:7 /epoch
    mkdir -p /var/log/apt /var/cache/man && date > /var/log/apt/history.log && date > /var/cache/man/index.db
    date > /var/log/own.log || true; echo own > /var/log/own.log
%environment
    export WHERE=there
%runscript
    cat /out/link/one
%labels
    Zebra 1
    Aardvark 2
"""


@pytest.fixture(scope="session")
def debian_layout(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = (fixtures / "debian.tar").read_bytes()
    return write_layout(tmp_path_factory.mktemp("oci") / "debian", [(layer, PLAIN)])


def elsewhere(soliton: Program, name: str = "ein anderer Ort äöü") -> Program:
    """The program in another directory, with another home and an empty cache, in other circumstances."""
    home = soliton.home.parent / "another home"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    cwd = soliton.cwd.parent / name
    cwd.mkdir(exist_ok=True)
    other = Program(home=home, cwd=cwd, wrapper=ELSEWHERE, name=soliton.name)
    return other.having(LC_ALL="C", LANG="tr_TR.UTF-8", TZ="Asia/Tokyo", USER="somebody")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def material(soliton: Program, *, time: int) -> None:
    """The files that recipes copy, with the time that a checkout happened to give them."""
    for name, text in (("note.txt", "a note\n"), ("program.py", "print('fine')\n")):
        path = soliton.cwd / name
        path.write_text(text)
        path.chmod(0o644)
        os.utime(path, (time, time))


def compare_with_the_other_user(name: str, value: str) -> None:
    """Whoever runs these tests second compares with the first: they share TMPDIR, the same installed program, and busybox."""
    files = sorted(Path(package.__file__).parent.rglob("*.py"))
    ingredients = [*files, Path(find_program()), repositories.busybox()]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in ingredients)).hexdigest()[:16]
    place = repositories.shared_place() / f"soliton-digests-{version}-{name}"
    # With its content at once: the other user may come at the same moment.
    with tempfile.NamedTemporaryFile("w", dir=place.parent, encoding="ascii") as file:
        file.write(value)
        file.flush()
        os.chmod(file.name, 0o644)
        with suppress(FileExistsError):
            os.link(file.name, place)
    assert place.read_text(encoding="ascii") == value, "another user got other bytes"


def test_a_recipe_with_every_section(soliton: Program) -> None:
    digests: list[str] = []
    for here, time, more in (
        (soliton, 100_000_000, ("-processors 2",)),
        (elsewhere(soliton), 1_790_000_000, ("-processors 1",)),
    ):
        material(here, time=time)
        (here.cwd / "recipe.def").write_text(SMALL)
        here("build", "--mksquashfs-args", *more, "image.sif", "recipe.def").ok()
        digests.append(digest(here.cwd / "image.sif"))
    assert digests[0] == digests[1]
    shown = soliton("exec", "image.sif", "cat", "/epoch", "/var/log/own.log").ok().out
    assert shown == "315532800\nown\n"
    missing = soliton(
        "exec", "image.sif", "ls", "/var/log/apt/history.log", "/var/cache/man/index.db", "/tmp"
    )
    assert missing.status != 0 and missing.err.count("No such file") == 2
    # With subordinate ids and without.
    compare_with_the_other_user("small", digests[0])


def test_packages_that_apt_installs(soliton: Program, debian_layout: Path) -> None:
    other = elsewhere(soliton)
    for here, time in ((soliton, 100_000_000), (other, 1_790_000_000)):
        material(here, time=time)
        (here.cwd / "debian").symlink_to(debian_layout)
        (here.cwd / "recipe.def").write_text(PACKAGES)
        here("build", "image.sif", "recipe.def").ok()
    archive = archive_of(soliton, other)
    if archive_of(soliton, soliton) != archive:
        # It has changed meanwhile, which it does every few hours.
        soliton("build", "--force", "--no-cache", "image.sif", "recipe.def").ok()
        assert archive_of(soliton, soliton) == archive
    ours = digest(soliton.cwd / "image.sif")
    assert ours == digest(other.cwd / "image.sif")
    script = (
        "cat /opt/hostname /opt/date; test ! -e /var/log/dpkg.log || cat /var/log/dpkg.log | grep -c openssh;"
        "stat -c %Y /opt/note.txt /opt/app/program.py; hello"
    )
    compare_with_the_other_user(f"packages-{archive}", ours)
    # The time is that of the base image, and compiled Python is taken as it is: nothing of it is compiled anew.
    shown = soliton("exec", "image.sif", "sh", "-c", script).ok().out
    assert shown == "localhost\n2023-11-14\n1700000000\n1700000000\nHello, world!\n"
    compiled = soliton(
        "exec", "image.sif", "sh", "-c", "cd /opt/app && python3 -vc 'import program' 2>&1"
    ).ok()
    assert "/opt/app/__pycache__/program.cpython" in compiled.out and "is stale" not in compiled.out


def archive_of(soliton: Program, built: Program) -> str:
    """Which state of the archive of packages an image was made from."""
    script = "cat /var/lib/apt/lists/*Release | sha256sum"
    return soliton("exec", built.cwd / "image.sif", "sh", "-c", script).ok().out[:16]


BOOTSTRAPS = {
    "dnf": "Bootstrap: dnf\nOSVersion: 9\nMirrorURL: file://{rpms}\nInclude: tool\n",
    "zypper": "Bootstrap: zypper\nMirrorURL: {rpms}\nInclude: tool\n",
    "arch": "Bootstrap: arch\nConfURL: {arch}/pacman.conf\nInclude: tool\n",
}


@pytest.mark.parametrize("agent", BOOTSTRAPS)
def test_a_system_made_of_packages(soliton: Program, rpms: Path, arch: Path, agent: str) -> None:
    text = BOOTSTRAPS[agent].format(rpms=rpms, arch=arch) + "%post\n  cp /var/tool.state /seen\n"
    digests: list[str] = []
    # With the user's subordinate ids, if there are any, and certainly without.
    for here, more in ((soliton, "-processors 2"), (elsewhere(soliton), "-processors 1")):
        (here.cwd / "recipe.def").write_text(text)
        ids = ("--ignore-subuid",) if digests else ()
        here("build", *ids, "--mksquashfs-args", more, "image.sif", "recipe.def").ok()
        digests.append(digest(here.cwd / "image.sif"))
    assert digests[0] == digests[1]
    compare_with_the_other_user(agent, digests[0])
    files = listing(soliton, "image.sif")
    assert "/opt/tool/data" in files and not [path for path in files if path.startswith("/dev/")]
    # From results that are kept.
    (soliton.cwd / "image.sif").unlink()
    assert "(cached)" in soliton("build", "image.sif", "recipe.def").ok().err
    assert digest(soliton.cwd / "image.sif") == digests[0]


def test_a_debian_made_of_packages(soliton: Program, has_subordinate_ids: bool, debian: Path) -> None:
    if not has_subordinate_ids:
        return  # what is made with them is compared here with what is made without
    other = elsewhere(soliton)
    (other.cwd / "debian.def").write_bytes(debian.with_suffix(".def").read_bytes())
    packing = ("--mksquashfs-args", "-processors 1")
    other("build", "--ignore-subuid", *packing, "debian.sif", "debian.def").ok()
    assert digest(other.cwd / "debian.sif") == digest(debian)


def test_logs_are_kept_if_asked_for(soliton: Program) -> None:
    material(soliton, time=100_000_000)
    (soliton.cwd / "recipe.def").write_text(SMALL)
    soliton("build", "--keep-logs", "image.sif", "recipe.def").ok()
    assert soliton("exec", "image.sif", "cat", "/var/log/apt/history.log").ok().out != ""


def test_a_pull_and_a_build_of_what_was_pulled(soliton: Program) -> None:
    digests: list[list[str]] = []
    layout = zoo(soliton.home / "zoo")
    for here in (soliton, elsewhere(soliton), soliton):
        link = here.cwd / "zoo"
        if not link.exists():
            link.symlink_to(layout)
        here("pull", "--force", "image.sif", "oci:zoo").ok()
        (here.cwd / "recipe.def").write_text("Bootstrap: oci\nFrom: zoo\n%labels\n  Own 1\n")
        here("build", "--force", "built.sif", "recipe.def").ok()
        here("build", "--force", "--disable-cache", "again.sif", "recipe.def").ok()
        here("build", "--force", "--sandbox", "tree", "built.sif").ok()
        here("build", "--force", "from-tree.sif", "tree").ok()
        names = ("image.sif", "built.sif", "again.sif", "from-tree.sif")
        digests.append([digest(here.cwd / name) for name in names])
    assert digests[0] == digests[1] == digests[2]
    assert digests[0][1] == digests[0][2]
    compare_with_the_other_user("pulled", json.dumps(digests[0][:3]))


def test_the_time_of_an_image(soliton: Program) -> None:
    def date(image: str) -> str:
        told = json.loads(soliton("inspect", "--json", image).ok().out)
        return str(told["data"]["attributes"]["labels"]["org.label-schema.build-date"])

    write_layout(soliton.cwd / "layout", [(b"\0" * 1024, PLAIN)])
    (soliton.cwd / "recipe.def").write_text("Bootstrap: oci\nFrom: layout\n")
    soliton("build", "created.sif", "recipe.def").ok()
    assert date("created.sif") == "Tuesday_14_November_2023_22:13:20_UTC"
    soliton("build", "--sandbox", "tree", "created.sif").ok()
    soliton("build", "again.sif", "tree").ok()
    assert date("again.sif") == date("created.sif")
    soliton.having(SOURCE_DATE_EPOCH="1000000000")("build", "-F", "created.sif", "recipe.def").ok()
    assert date("created.sif") == "Sunday_9_September_2001_1:46:40_UTC"
    (soliton.cwd / "scratch.def").write_text("Bootstrap: scratch\n")
    soliton("build", "scratch.sif", "scratch.def").ok()
    assert date("scratch.sif") == "Tuesday_1_January_1980_0:0:0_UTC"


def test_the_clock_was_really_another(soliton: Program) -> None:
    """The wrapper of these tests does what they rely on."""
    other = elsewhere(soliton)
    shown = subprocess.run(
        [*ELSEWHERE, "sh", "-c", "date +%Y; umask"], capture_output=True, text=True, check=True
    )
    year, umask = shown.stdout.split()
    assert int(year) >= int(subprocess.run(["date", "+%Y"], capture_output=True, check=True).stdout) + 1
    assert umask == "0077" and other.cwd != soliton.cwd
