"""A real registry on loopback: Debian's `docker-registry`, plain or with TLS of its own authority, with or without users."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Registry:
    """authority: certificate to trust, for TLS. credentials: user:password, where it wants them."""

    host: str
    storage: Path
    authority: Path | None = None
    credentials: str | None = None

    def push(self, layout: Path, name: str, *, tag: str = "latest", many: bool = False) -> str:
        """Fills the registry by skopeo; the image's docker:// name. many: all platforms of an index."""
        command = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        if self.credentials:
            command += ["--dest-creds", self.credentials]
        if many:
            command.append("--all")
        subprocess.run(
            [*command, f"oci:{layout}:{tag}", f"docker://{self.host}/{name}:{tag}"],
            check=True,
            capture_output=True,
            # Not what the machine has of logins, which other users' programs may have left unreadable.
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.storage)},
        )
        return f"docker://{self.host}/{name}:{tag}"

    def blob(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"


def free_port() -> int:
    """Below those that the kernel gives to callers: who asks again and again for one of these is answered by itself in the end."""
    while True:
        port = random.randrange(10000, 30000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def serve(directory: Path, *, tls: bool = False, users: dict[str, str] | None = None) -> Iterator[Registry]:
    """Starts a registry that keeps its files below `directory`; it ends with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    storage = directory / "storage"
    lines = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {storage}}}}}",
        "http:",
        f"  addr: 127.0.0.1:{port}",
    ]
    authority = None
    if tls:
        authority = _certificates(directory)
        lines.append(f"  tls: {{certificate: {directory}/server.pem, key: {directory}/server.key}}")
    if users:
        htpasswd = directory / "htpasswd"
        htpasswd.unlink(missing_ok=True)
        htpasswd.touch()
        for user, password in users.items():
            subprocess.run(["htpasswd", "-Bb", htpasswd, user, password], check=True, capture_output=True)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}")
    config = directory / "config.yml"
    config.write_text("\n".join(lines) + "\n")
    server = subprocess.Popen(
        ["docker-registry", "serve", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        for _ in range(600):
            assert server.poll() is None, "the registry has ended"
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError("the registry does not answer")
        credentials = ":".join(next(iter(users.items()))) if users else None
        yield Registry(f"localhost:{port}", storage, authority, credentials)
    finally:
        server.terminate()
        server.wait()


def _certificates(directory: Path) -> Path:
    """An authority and a certificate for localhost that it signed."""

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority, authority_key = directory / "authority.pem", directory / "authority.key"
    openssl(
        "req",
        "-x509",
        *key,
        "-keyout",
        authority_key,
        "-out",
        authority,
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
    )
    request, extensions = directory / "server.csr", directory / "server.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("req", *key, "-keyout", directory / "server.key", "-out", request, "-subj", "/CN=localhost")
    openssl(
        "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
        "-out", directory / "server.pem", "-days", "2", "-extfile", extensions,
    )  # fmt: skip
    return authority
