"""Files that ADD takes from the web, kept with what their server said of them, so that it has to send only what has changed.

    <cache>/steps/downloads/NAME         the file
    <cache>/steps/downloads/NAME.json    its digest, and the server's ETag and Last-Modified

NAME is a digest of the address. A server that cannot be reached does not stop a build that has the file already.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from typing import TYPE_CHECKING

from soliton import messages
from soliton.build import digests
from soliton.errors import BuildError
from soliton.images.target import explaining

if TYPE_CHECKING:
    import httpx

#: Bytes that are taken from an address.
LARGEST = 4 << 30
_HEADERS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}


def fetch(url: str, folder: str, wanted: str, place: str) -> tuple[str, str]:
    """(file, `sha256:…`) of what is at `url`. wanted: a digest that makes asking needless if the file has it, or empty.

    place: of the instruction, for messages. Raises BuildError and TargetError.
    """
    import httpx

    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest())
    known = _known(path)
    if known and known["digest"] == wanted:
        return path, wanted
    asked = {_HEADERS[key]: known[key] for key in _HEADERS if known.get(key)}
    try:
        with httpx.stream("GET", url, headers=asked, follow_redirects=True, timeout=60) as answer:
            if known and answer.status_code == 304:
                return path, known["digest"]
            if answer.status_code != 200:
                raise BuildError(
                    f"{place}: {url} cannot be downloaded", why=f"the server answers {answer.status_code}"
                )
            return path, _keep(answer, path, url, place)
    except httpx.InvalidURL as error:
        raise BuildError(f"{place}: {url} is no address", why=str(error)) from None
    except httpx.HTTPError as error:
        if not known:
            raise BuildError(f"{place}: {url} cannot be downloaded", why=str(error)) from None
        messages.warning(f"{url} cannot be asked for ({error}); what it gave before is taken")
        return path, known["digest"]


def _known(path: str) -> dict[str, str]:
    """What is noted of a file that is still what was noted; empty if there is none."""
    try:
        with open(f"{path}.json", encoding="ascii") as file:
            found = json.load(file)
        if found["digest"] == digests.of_file(path):
            return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _keep(answer: httpx.Response, path: str, url: str, place: str) -> str:
    partial = f"{path}.partial-{secrets.token_hex(6)}"
    found, size = hashlib.sha256(), 0
    try:
        with explaining(path), open(partial, "xb") as file:
            for piece in answer.iter_bytes(1 << 16):
                size += len(piece)
                if size > LARGEST:
                    raise BuildError(f"{place}: {url} is larger than {LARGEST >> 30} GiB")
                found.update(piece)
                file.write(piece)
        digest = f"sha256:{found.hexdigest()}"
        note = {"digest": digest, **{key: answer.headers.get(key, "") for key in _HEADERS}}
        with open(f"{partial}.json", "x", encoding="ascii") as file_:
            json.dump(note, file_)
        os.rename(partial, path)
        os.rename(f"{partial}.json", f"{path}.json")
        return digest
    finally:
        for name in (partial, f"{partial}.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
