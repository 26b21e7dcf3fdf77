"""A real registry on loopback: Debian's `docker-registry`, plain or with TLS of its own authority, with or without users."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.program import eventually

#: Ports of servers that have ended (`keep_silent`).
_SILENT: dict[int, socket.socket] = {}


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
    """Below those that the kernel gives to callers: who asks again and again for one of these is answered by itself in the end.

    Every user has some of their own, so that two who run these tests at once do not take them from each other.
    """
    first = 10000 + os.getuid() % 20 * 1000
    while True:
        port = random.randrange(first, first + 1000)
        if port in _SILENT:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def keep_silent(port: int) -> None:
    """A port whose server has ended stays without one: whoever asks there is refused, and nobody else's server answers."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError):  # somebody calls from it already
        held.bind(("127.0.0.1", port))
    _SILENT[port] = held


def _started(config: Path, port: int) -> subprocess.Popen[bytes]:
    """A registry that is reached at its port, or has ended, because somebody has taken that meanwhile."""
    server = subprocess.Popen(
        ["docker-registry", "serve", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    eventually(
        lambda: server.poll() is not None or _listens(server, port), lambda: "the registry does not answer"
    )
    return server


def _listens(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether this process, and not another one, is reached at a port."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in table if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    with contextlib.suppress(OSError):  # one that is being opened or closed
        return bool(sockets & {os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()})
    return False


@contextmanager
def serve(directory: Path, *, tls: bool = False, users: dict[str, str] | None = None) -> Iterator[Registry]:
    """Starts a registry that keeps its files below `directory`; it ends with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    storage = directory / "storage"
    lines = ["version: 0.1", "log: {level: error}", f"storage: {{filesystem: {{rootdirectory: {storage}}}}}"]
    http = ""
    authority = None
    if tls:
        authority = _certificates(directory)
        http = f", tls: {{certificate: {directory}/server.pem, key: {directory}/server.key}}"
    if users:
        htpasswd = directory / "htpasswd"
        htpasswd.unlink(missing_ok=True)
        htpasswd.touch()
        for user, password in users.items():
            subprocess.run(["htpasswd", "-Bb", htpasswd, user, password], check=True, capture_output=True)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}")
    config = directory / "config.yml"
    for _ in range(5):
        port = free_port()
        config.write_text("\n".join([*lines, f"http: {{addr: '127.0.0.1:{port}'{http}}}"]) + "\n")
        server = _started(config, port)
        if server.poll() is None:
            break
    else:
        raise AssertionError("the registry has ended")
    try:
        credentials = ":".join(next(iter(users.items()))) if users else None
        yield Registry(f"localhost:{port}", storage, authority, credentials)
    finally:
        server.terminate()
        server.wait()
        keep_silent(port)


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
