"""Images that a Docker engine (or Podman's service) of this machine holds: `docker-daemon:NAME[:TAG]`.

The engine is asked through its HTTP API and sends what `docker save` would write. That is kept in a file without a name as long as
it is read, since an archive tells at its end what is in it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

import httpx

from soliton import progress
from soliton.errors import ImageError, RegistryError, UsageError
from soliton.images.layout import open_archive
from soliton.images.oci import OciImage, Platform
from soliton.record import replace

DEFAULT = "unix:///var/run/docker.sock"
#: What an image's name in an engine can be: name, name:tag, name@digest, or the image's own id.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
_LONGEST_COMPLAINT = 4096


@contextmanager
def opened(name: str, address: str, platform: Platform) -> Iterator[OciImage]:
    """The image called `name` in the engine at `address` (unix://PATH, tcp://HOST:PORT, http(s)://…; empty: as usual).

    Raises RegistryError: no engine there, or no such image; UsageError for an address that is none.
    """
    name = name.removeprefix("//")
    if not _NAME.fullmatch(name):
        raise ImageError(f"`docker-daemon:{name[:80]}` is not the name of an image")
    url, socket = locate(address, os.environ)
    with tempfile.TemporaryFile(prefix="soliton-") as file:
        with _client(socket) as client:
            _save(client, url, with_tag(name), address or socket or url, file.fileno())
        with open_archive(f"/proc/self/fd/{file.fileno()}", None, platform) as image:
            yield replace(image, name=name, bootstrap="docker-daemon")


def with_tag(name: str) -> str:
    """A name without tag or digest means `latest`, as for registries; an id is left as it is."""
    last = name.rpartition("/")[2]
    bare = ":" in last or "@" in name or re.fullmatch(r"[0-9a-f]{12,64}", name)
    return name if bare else f"{name}:latest"


def locate(address: str, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """(base of URLs, unix socket or None). Where nobody says: Docker's socket, else that of the caller's own engine."""
    if not address:
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        own = (f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock") if runtime else ()
        places = (DEFAULT.removeprefix("unix://"), *own)
        return "http://engine", next((place for place in places if os.path.exists(place)), places[0])
    scheme, _, rest = address.partition("://")
    if scheme == "unix" and rest:
        return "http://engine", rest
    if scheme == "tcp" and rest:
        secure = environment.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
        return f"{'https' if secure else 'http'}://{rest.rstrip('/')}", None
    if scheme in ("http", "https") and rest:
        return address.rstrip("/"), None
    raise UsageError(
        f"`{address}` is not the address of a Docker engine",
        why="it is given by `--docker-host` or DOCKER_HOST",
        remedy="write unix:///PATH or tcp://HOST:PORT; over ssh, forward the socket first",
    )


def _client(socket: str | None) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=socket) if socket else None,
        # An engine packs a large image for a while before it sends the first byte.
        timeout=httpx.Timeout(600.0, connect=20.0),
        trust_env=socket is None,
    )


def _save(client: httpx.Client, url: str, name: str, shown: str, fd: int) -> None:
    """The image as an archive into an empty file."""
    try:
        with (
            client.stream("GET", f"{url}/images/{quote(name, safe='/:@')}/get") as answer,
            progress.report(f"Fetching {name} from the engine") as report,
        ):
            if answer.status_code != 200:
                raise _refused(answer, name, shown)
            task = report.task("image")
            count = 0
            for piece in answer.iter_raw(1 << 20):
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
                count += len(piece)
                task.update(completed=count)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RegistryError(
            f"no Docker engine answers at {shown}",
            why=str(error) or type(error).__name__,
            remedy="start it, or name its address with `--docker-host` or DOCKER_HOST (Podman: `podman system service`)",
        ) from None


def _refused(answer: httpx.Response, name: str, shown: str) -> RegistryError:
    data = b""
    for piece in answer.iter_bytes(1024):
        data += piece
        if len(data) > _LONGEST_COMPLAINT:
            break
    said = re.search(rb'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', data)
    why = said[1].decode(errors="replace") if said else f"it answers with status {answer.status_code}"
    if answer.status_code == 404:
        return RegistryError(f"the engine at {shown} has no image `{name}`", why=why)
    return RegistryError(f"the engine at {shown} does not give the image `{name}`", why=why)
