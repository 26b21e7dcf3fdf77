"""What the benchmarks work on: a Debian with SciPy of about 1 GB, as an OCI image in a registry on loopback, as a SIF,
as a directory, and mounted by the kernel. Made once in the bench directory and kept there."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = "python3-scipy,python3-sympy,python3-pip,gfortran,perl-doc"


def _sources() -> tuple[str, str]:
    fields = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if Path(path).exists():
            return fields["VERSION_CODENAME"].strip('"'), path
    raise RuntimeError("no Debian package source is configured on this machine")


def userland(directory: Path) -> Path:
    """The tar of the userland (needs root, or subordinate ids)."""
    target = directory / "scipy.tar"
    if not target.exists():
        suite, sources = _sources()
        partial = target.with_suffix(".partial")
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--format=tar",
                f"--include={PACKAGES}",
                suite,
                partial,
                sources,
            ],
            check=True,
        )
        partial.rename(target)
    return target


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layout(directory: Path) -> Path:
    """An OCI layout of two gzip layers, as a registry would hold it: the userland, and one small file on top."""
    target = directory / "layout"
    if target.exists() and _has_history(target):
        return target
    shutil.rmtree(target, ignore_errors=True)
    partial = directory / "layout.partial"
    shutil.rmtree(partial, ignore_errors=True)
    blobs = partial / "blobs/sha256"
    blobs.mkdir(parents=True)
    small = directory / "top.tar"
    (directory / "VERSION").write_text("1\n")
    with tarfile.open(small, "w") as tar:
        tar.add(directory / "VERSION", "opt/VERSION")
    layers, diff_ids = [], []
    for tar_path in (userland(directory), small):
        diff_ids.append(f"sha256:{digest(tar_path)}")
        packed = blobs / "packed"
        with packed.open("wb") as out:
            subprocess.run(["gzip", "-6", "-n", "-c", tar_path], stdout=out, check=True)
        name = digest(packed)
        size = packed.stat().st_size
        packed.rename(blobs / name)
        layers.append(
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": f"sha256:{name}",
                "size": size,
            }
        )

    def blob(value: object) -> tuple[str, int]:
        data = json.dumps(value).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return f"sha256:{name}", len(data)

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config, config_size = blob(
        {
            "created": "2026-01-01T00:00:00Z",
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": ["bash"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            # One for each layer: podman builds on nothing else.
            "history": [{"created_by": what} for what in ("userland", "version")],
        }
    )
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest, manifest_size = blob(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config,
                "size": config_size,
            },
            "layers": layers,
        }
    )
    (partial / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (partial / "index.json").write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": manifest_type,
                        "digest": manifest,
                        "size": manifest_size,
                        "annotations": {"org.opencontainers.image.ref.name": "latest"},
                    }
                ],
            }
        )
    )
    partial.rename(target)
    return target


def _manifest(layout_directory: Path) -> tuple[Path, dict[str, Any]]:
    """The directory of the blobs, and the manifest of the one image."""
    index = json.loads((layout_directory / "index.json").read_text())
    blobs = layout_directory / "blobs"
    return blobs, json.loads((blobs / index["manifests"][0]["digest"].replace(":", "/")).read_text())


def _has_history(layout_directory: Path) -> bool:
    """Whether the image is one that this program would make, and not an older one's."""
    blobs, manifest = _manifest(layout_directory)
    return "history" in json.loads((blobs / manifest["config"]["digest"].replace(":", "/")).read_text())


def layers_of(layout_directory: Path) -> list[Path]:
    blobs, manifest = _manifest(layout_directory)
    return [blobs / layer["digest"].replace(":", "/") for layer in manifest["layers"]]


@contextmanager
def registry(directory: Path) -> Iterator[str]:
    """A registry on loopback holding the image; yields `HOST:PORT/NAME:TAG`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = directory / "registry"
    storage.mkdir(exist_ok=True)
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        reference = f"127.0.0.1:{port}/bench/scipy:latest"
        subprocess.run(
            [
                "skopeo",
                "--insecure-policy",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                f"oci:{layout(directory)}:latest",
                f"docker://{reference}",
            ],
            check=True,
        )
        yield reference
    finally:
        server.terminate()
        server.wait()


def plain_directory(directory: Path) -> Path:
    """The userland unpacked, for the peers that run directories."""
    target = directory / "plain"
    if not target.exists():
        partial = directory / "plain.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        # Owned by whoever runs this, without devices: what a peer's own unpacking leaves to a user.
        subprocess.run(
            ["tar", "-C", partial, "-xf", userland(directory), "--exclude=./dev/*", "--no-same-owner"],
            check=True,
        )
        subprocess.run(["chmod", "-R", "u+rwX,a+rX", partial], check=True)
        (partial / "opt").mkdir(exist_ok=True)
        partial.rename(target)
    return target


def uncompressed_size(layer: Path) -> int:
    with gzip.open(layer) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 20), b""))


def _ask(program: Path, script: str, *arguments: str | Path) -> str:
    """Output of a Python script run by the interpreter that soliton is installed for."""
    return subprocess.run(
        [program.parent / "python3", "-c", script, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def partition(sif: Path, program: Path) -> tuple[int, int]:
    """Offset and size in bytes of the root file system inside a SIF."""
    answer = _ask(
        program,
        "import sys; from soliton.images.detect import open_image; r = open_image(sys.argv[1]).root; print(r.offset, r.size)",
        sif,
    )
    offset, size = answer.split()
    return int(offset), int(size)


def plan_of(program: Path, image: Path, bind: str, words: Sequence[str]) -> str:
    """The plan of `exec --bind BIND IMAGE WORD…`, as the native program reads it."""
    return _ask(
        program,
        "import sys; from soliton.api.action import prepare; from soliton.core import encode, to_json\n"
        "from soliton.images.detect import open_image; from soliton.launch.request import ActionRequest\n"
        "request = ActionRequest('exec', sys.argv[1], tuple(sys.argv[3:]), bind=(sys.argv[2],))\n"
        "print(to_json(encode(prepare(request, open_image(request.image)))))",
        image,
        bind,
        *words,
    )


def kernel_mount(sif: Path, at: Path, program: Path) -> bool:
    """Mounts the image by the kernel (root); False where the kernel cannot."""
    offset, size = partition(sif, program)
    done = subprocess.run(
        ["mount", "-t", "squashfs", "-o", f"ro,loop,offset={offset},sizelimit={size}", sif, at],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
