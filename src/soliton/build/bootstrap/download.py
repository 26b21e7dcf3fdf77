"""A small file from a web server, in memory and bounded."""

from __future__ import annotations

from soliton.errors import BuildError


def download(url: str, limit: int, what: str) -> bytes:
    """The bytes at an http(s) address, `limit` at most. what: for messages. Raises BuildError."""
    import httpx

    if not url.startswith(("http://", "https://")):
        raise BuildError(f"`{url}` is no address of {what}", remedy="it begins with https:// or http://")
    data = bytearray()
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer:
            if answer.status_code != 200:
                raise BuildError(
                    f"{what} cannot be downloaded from {url}", why=f"the server answers {answer.status_code}"
                )
            for piece in answer.iter_bytes(1 << 16):
                data += piece
                if len(data) > limit:
                    raise BuildError(f"what {url} sends is no {what}", why=f"it is larger than {limit} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BuildError(f"{what} cannot be downloaded from {url}", why=str(error)) from None
    return bytes(data)
