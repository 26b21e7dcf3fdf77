"""An OCI image of everything a layer can do to the ones below it, written as an OCI layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

EPOCH = 1_700_000_000

#: security.capability, revision 2: cap_net_raw permitted and effective (capabilities(7), linux/capability.h).
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


class Layer:
    """A tar being written, member by member."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(  # noqa: SIM115 - closed by bytes()
            fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT
        )

    def add(
        self,
        name: str,
        data: bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        link: str = "",
        owner: tuple[int, int] = (0, 0),
        device: tuple[int, int] = (0, 0),
        xattrs: dict[str, bytes] | None = None,
        mtime: int = EPOCH,
    ) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.mtime, info.size = kind, mode, link, mtime, len(data)
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.pax_headers = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
            for key, value in (xattrs or {}).items()
        }
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def directory(self, name: str, mode: int = 0o755, **more: Any) -> Layer:
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode, **more)

    def symlink(self, name: str, link: str) -> Layer:
        return self.add(name, kind=tarfile.SYMTYPE, mode=0o777, link=link)

    def hardlink(self, name: str, link: str) -> Layer:
        return self.add(name, kind=tarfile.LNKTYPE, link=link)

    def remove(self, name: str) -> Layer:
        head, _, tail = name.rpartition("/")
        return self.add(f"{head}/.wh.{tail}" if head else f".wh.{tail}")

    def opaque(self, name: str) -> Layer:
        return self.add(f"{name}/.wh..wh..opq")

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def base_layer() -> bytes:
    """Every kind of thing, for the upper layers to meet."""
    layer = Layer()
    for name in (
        "bin",
        "dev",
        "etc",
        "opt",
        "usr",
        "usr/lib",
        "usr/bin",
        "var",
        "srv",
        "keep",
        "hide",
        "hide/deep",
    ):
        layer.directory(name)
    layer.directory("tmp", 0o1777).directory("var/tmp", 0o1777)
    layer.symlink("lib", "usr/lib").symlink("abs", "/usr/lib").symlink("loop", "loop").symlink(
        "up", "../../../etc"
    )
    layer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n").add("etc/group", b"root:x:0:\n")
    layer.add("bin/setuid", b"#!/bin/sh\n", mode=0o4755).add("bin/setgid", b"x", mode=0o2755, owner=(0, 42))
    layer.add("bin/ping", b"ping", mode=0o755, xattrs={"security.capability": NET_RAW})
    layer.add("opt/noted", b"noted", xattrs={"user.note": "from below ü".encode(), "user.empty": b""})
    layer.add("opt/owned", b"owned", owner=(1000, 1001)).add("opt/high", b"high", owner=(3_000_000, 70_000))
    layer.add("keep/a", b"a from below").add("keep/b", b"b from below").add("keep/gone", b"gone")
    layer.add("hide/one", b"1").add("hide/deep/two", b"2")
    layer.add("srv/target", b"linked " * 50).hardlink("srv/link", "srv/target").hardlink(
        "srv/third", "srv/link"
    )
    layer.add("srv/original", b"o" * 300_000)
    layer.add("dev/null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3))
    layer.add("dev/disk", kind=tarfile.BLKTYPE, mode=0o660, device=(8, 300))
    layer.add("srv/pipe", kind=tarfile.FIFOTYPE, mode=0o600)
    layer.add("opt/dir-to-be", b"a file now").directory("opt/file-to-be").add("opt/file-to-be/inside", b"x")
    layer.symlink("opt/link-to-be-dir", "/usr/bin")
    for size in (0, 1, 4095, 4096, 131071, 131072, 131073, 1_000_000):
        layer.add(
            f"usr/lib/size-{size}",
            bytes((i * 31 + size) & 0xFF for i in range(min(size, 65536))) * (size // 65536 + 1)
            if size
            else b"",
        )
    layer.add("usr/lib/zeros", bytes(700_000)).add("usr/lib/twin-1", b"t" * 200_000).add(
        "usr/lib/twin-2", b"t" * 200_000
    )
    for odd in (
        "white space",
        "ünïcödé",
        "new\nline",
        "-dash",
        "a" * 200,
        "back\\slash",
        "quote'\"",
        "*",
        "\udcff\udcfe",
    ):
        layer.add(f"opt/{odd}", odd.encode("utf-8", "surrogateescape"))
    layer.add("opt/old", b"old", mtime=1).add("opt/late", b"late", mtime=4_000_000_000)
    return layer.bytes()


def upper_layer() -> bytes:
    layer = Layer()
    layer.remove("keep/gone").add("keep/a", b"a from above", mode=0o600)
    layer.directory("keep", 0o750, owner=(7, 8))
    layer.add("hide/new", b"new").opaque("hide")
    layer.add("lib/through-link", b"in usr/lib").add("abs/through-absolute", b"in usr/lib too").add(
        "up/climbed", b"in etc"
    )
    layer.hardlink("keep/linked-from-below", "srv/original").remove("srv/original")
    layer.remove("srv/third")
    layer.directory("opt/dir-to-be").add("opt/dir-to-be/inside", b"y").add("opt/file-to-be", b"now a file")
    layer.add("opt/link-to-be-dir", b"a file where a link was")
    layer.add("opt/noted", b"noted again", xattrs={"user.note": b"from above"})
    layer.add("twice", b"first").add("twice", b"second")
    layer.add("no/parents/here", b"orphan")
    return layer.bytes()


def top_layer() -> bytes:
    layer = Layer()
    layer.directory("hide").add("hide/newer", b"newer").remove("no/parents/here").remove("never-was")
    layer.hardlink("srv/fourth", "srv/link").remove("bin/setgid")
    return layer.bytes()


def many_files_layer(count: int) -> bytes:
    layer = Layer()
    layer.directory("many")
    for directory in range(0, count, 1000):
        layer.directory(f"many/{directory:06}")
        for i in range(directory, min(directory + 1000, count)):
            layer.add(f"many/{directory:06}/{i:06}", b"%d\n" % i)
    return layer.bytes()


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-3", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


#: How a layer is stored: the end of its media type, and the function.
PLAIN: tuple[str, Callable[[bytes], bytes]] = ("", lambda data: data)
GZIP: tuple[str, Callable[[bytes], bytes]] = ("+gzip", lambda data: gzip.compress(data, 6, mtime=0))
ZSTD: tuple[str, Callable[[bytes], bytes]] = ("+zstd", _zstd)


def write_layout(
    target: Path,
    layers: list[tuple[bytes, tuple[str, Callable[[bytes], bytes]]]],
    *,
    tag: str = "latest",
    config: dict[str, Any] | None = None,
    architecture: str | None = None,
) -> Path:
    """An OCI image layout (image-layout.md of the OCI image specification) holding one image."""
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    stored = [
        {"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", **blob(pack(data))}
        for data, (suffix, pack) in layers
    ]
    record = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": architecture or machine,
        "os": "linux",
        "config": config or {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data, _ in layers],
        },
    }
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **blob(json.dumps(record).encode()),
        },
        "layers": stored,
    }
    entry = {"mediaType": kind, **blob(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return target


def zoo(target: Path, *, many: int = 0, storage: tuple[str, Callable[[bytes], bytes]] = GZIP) -> Path:
    """The whole zoo, its middle layer stored as `storage` has it, the top one uncompressed; with `many`, a further
    layer of that many small files."""
    layers = [(base_layer(), GZIP), (upper_layer(), storage), (top_layer(), PLAIN)]
    if many:
        layers.append((many_files_layer(many), GZIP))
    return write_layout(target, layers)
