"""What a build as an ordinary user makes, judged by the kernel's own mount and in Podman's storage, which need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.root.test_ownership import kernel_mount, partition
from tests.system import repositories
from tests.system.program import Program, eventually
from tests.tree import read_tree
from tests.zoo import zoo

RECIPE = """\
Bootstrap: busybox
Stage: one

%post
    mkdir -p /srv/app /opt
    echo data > /srv/app/data
    chown -R 33:44 /srv/app
    cp /bin/busybox /opt/su && chown 0:50 /opt/su && chmod 4750 /opt/su
    ln -s app /srv/link && ln /srv/app/data /srv/hard && mkfifo /opt/pipe

%runscript
    cat /srv/app/data
"""


@pytest.fixture
def built(soliton: Program) -> Path:
    (soliton.cwd / "recipe.def").write_text(RECIPE)
    soliton("build", "image.sif", "recipe.def").ok()
    return soliton.cwd / "image.sif"


def test_the_kernel_sees_the_owners_that_steps_gave(built: Path, tmp_path: Path) -> None:
    with kernel_mount(built, tmp_path / "kernel") as root:

        def owner(name: str) -> tuple[int, int, int]:
            status = os.lstat(root / name)
            return status.st_uid, status.st_gid, status.st_mode & 0o7777

        assert owner("srv/app") == (33, 44, 0o755)
        assert owner("srv/app/data") == owner("srv/hard") == (33, 44, 0o644)
        assert os.lstat(root / "srv/hard").st_nlink == 2
        assert owner("opt/su") == (0, 50, 0o4750)
        assert owner("bin/busybox")[:2] == (0, 0)
        assert (root / "opt/pipe").is_fifo() and (root / "srv/link").is_symlink()
        # The note beside a file is gone: the kernel knows no attributes in an image without any.
        with pytest.raises(OSError, match="not supported"):
            os.listxattr(root / "srv/app/data")


def test_podman_s_storage_takes_it_over_from_skopeo(built: Path, tmp_path: Path) -> None:
    """skopeo reads SIF, and a container of Podman's storage has the same files and owners."""
    configuration = tmp_path / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n'
    )
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(configuration), "HOME": str(tmp_path)}

    def run(*words: str | Path) -> str:
        return subprocess.run(
            [str(word) for word in words], check=True, capture_output=True, text=True, env=environment
        ).stdout.strip()

    run("skopeo", "--insecure-policy", "copy", "-q", f"sif:{built}", f"oci:{tmp_path}/layout:latest")
    container = run("buildah", "from", "-q", f"oci:{tmp_path}/layout:latest")
    inside = ("buildah", "run", "--isolation=chroot", container, "--")
    assert run(*inside, "cat", "/srv/app/data") == "data"
    assert run(*inside, "/srv/../.singularity.d/runscript") == "data"
    assert run(*inside, "stat", "-c", "%u:%g %a", "/srv/app/data", "/opt/su") == "33:44 644\n0:50 4750"


#: In mounts that spread, where control groups are as they are on current systems: crun refuses the mixed form.
APART = (
    "mount --make-rshared /; "
    '[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
)


def test_podman_runs_it_after_skopeo_as_an_ordinary_user(built: Path, tmp_path: Path) -> None:
    home = tmp_path / "podman"
    (home / "run").mkdir(parents=True)
    (home / "run").chmod(0o700)
    run_in(tmp_path, "skopeo", "--insecure-policy", "copy", "-q", f"sif:{built}", f"oci:{home}/layout:latest")
    shutil.chown(home, "soliton-subids")
    shutil.chown(home / "run", "soliton-subids")
    variables = [f"HOME={home}", f"XDG_RUNTIME_DIR={home}/run", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"]
    user = ["runuser", "-u", "soliton-subids", "--", "env", "-i", *variables]
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", APART, "sh", *user]
    podman = [*alone, "podman", "--runtime=crun", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    # The entry point that skopeo makes up is a script for bash.
    options = ["--rm", "--entrypoint=", "--cgroups=disabled", "--network=none"]
    once = [*podman, "run", *options, f"oci:{home}/layout:latest"]
    try:
        assert run_in(home, *once, "/.singularity.d/runscript") == "data"
        assert run_in(home, *once, "stat", "-c", "%u:%g %a", "/srv/app/data", "/opt/su") == (
            "33:44 644\n0:50 4750"
        )
    finally:
        # What it stored belongs to subordinate ids, and it keeps a process for its namespaces. Whatever cleans up behind a container
        # may still write there.
        away = [*alone, "podman", "unshare", "rm", "-rf", f"{home}/.local"]
        eventually(lambda: subprocess.run(away, cwd=home, check=False).returncode == 0)
        subprocess.run([*alone, "podman", "system", "migrate"], cwd=home, capture_output=True, check=False)


def run_in(folder: Path, *words: str) -> str:
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


#: A recipe of every kind; `{rpms}` and `{arch}` are repositories, `zoo` an OCI layout with whatever a tar can hold.
KINDS = {
    "image": "Bootstrap: localimage\nFrom: first.sif\n%post\n  rm -r /srv/app; echo new > /srv/new; chown 7:8 /srv/new\n",
    "layout": "Bootstrap: oci\nFrom: zoo\n%labels\n  A b\n",
    "scratch": "Bootstrap: scratch\n%files\n  recipe /recipe\n",
    "dnf": "Bootstrap: dnf\nMirrorURL: {rpms}\nInclude: tool\n",
    "arch": "Bootstrap: arch\nConfURL: {arch}/pacman.conf\nInclude: tool\n%post\n  rm /opt/tool/su\n",
    "Dockerfile": "FROM ./first.sif AS one\nRUN rm /opt/su && chown -R 9:9 /opt\nFROM scratch\nCOPY --from=one --chown=5:6 / /all/\nENV A=b\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_sees_the_same_of_every_kind_of_image(
    built: Path, soliton: Program, tmp_path: Path, kind: str
) -> None:
    built.rename(soliton.cwd / "first.sif")
    zoo(soliton.cwd / "zoo")
    text = KINDS[kind].format(
        rpms=repositories.shared("rpm", repositories.rpm_repository) / "repository-9",
        arch=repositories.shared("arch", repositories.arch_repository) / "repository",
    )
    name = "Dockerfile" if kind == "Dockerfile" else "recipe"
    (soliton.cwd / name).write_text(text)
    soliton("build", "image.sif", name).ok()
    image = soliton.cwd / "image.sif"
    offset, _ = partition(image)
    unpacked = tmp_path / "unpacked"
    subprocess.run(
        ["unsquashfs", "-q", "-o", str(offset), "-d", unpacked, image], check=True, capture_output=True
    )
    with kernel_mount(image, tmp_path / "kernel") as mounted:
        seen = read_tree(mounted)
        assert len(seen) > 10
        assert read_tree(unpacked) == seen
    # What skopeo makes of it, umoci unpacks.
    layout = f"{tmp_path}/layout:latest"
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"sif:{image}", f"oci:{layout}"], check=True)
    subprocess.run(
        ["umoci", "unpack", "--image", layout, tmp_path / "bundle"], check=True, capture_output=True
    )
    assert set(seen) <= set(read_tree(tmp_path / "bundle/rootfs"))
