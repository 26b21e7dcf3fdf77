"""The distribution protocol: manifests and blobs of one registry, with authentication and retries.

Answers are hostile until proven: sizes are capped, digests compared, and credentials never follow a redirect to
another host.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import httpx

from soliton import __version__, messages
from soliton.errors import RegistryError, Unreachable
from soliton.registry.credentials import Credentials
from soliton.registry.reference import Reference

LARGEST_MANIFEST = 8 << 20
_ATTEMPTS = 5
_RETRIED = frozenset({408, 429, 499, 500, 502, 503, 504, 522})
_LONGEST_WAIT = 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
#: What Python puts before the words of the system.
_ERRNO = re.compile(r"^\[Errno -?[0-9]+\] ")
_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


class Interrupted(Exception):
    """The connection broke in the middle of a blob: what has arrived is kept."""


class Client:
    """One registry, one set of credentials. May be used by several threads."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials | None,
        *,
        plain_http: bool = False,
        plain_on_loopback: bool = False,
    ) -> None:
        """plain_on_loopback: a registry of this machine that does not speak TLS is asked without."""
        self.reference = reference
        self.credentials = credentials
        self.scheme = "http" if plain_http else "https"
        self._may_be_plain = plain_on_loopback and _is_loopback(reference.endpoint)
        self._authorization: str | None = None
        self._http = httpx.Client(
            timeout=httpx.Timeout(60.0, connect=20.0),
            limits=httpx.Limits(max_connections=16),
            headers={"User-Agent": f"soliton/{__version__}"},
            follow_redirects=False,
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _url(self, kind: str, what: str) -> str:
        return f"{self.scheme}://{self.reference.endpoint}/v2/{self.reference.name}/{kind}/{what}"

    def manifest(self, what: str, accept: str) -> tuple[bytes, str]:
        """The manifest with this tag or digest: its bytes and media type. The digest is compared if it was asked for."""
        with self.get(self._url("manifests", what), {"Accept": accept}) as answer:
            data = capped(answer, LARGEST_MANIFEST, f"the manifest of {self.reference}")
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if what.startswith("sha256:"):
            check_digest(data, what, f"the manifest of {self.reference}")
        return data, kind

    def blob_bytes(self, digest: str, size: int) -> bytes:
        """A small blob, whole."""
        if size > LARGEST_MANIFEST:
            raise RegistryError(
                f"a configuration of {self.reference} is too large", why=f"it has {size} bytes"
            )
        with self.get(self._url("blobs", digest)) as answer:
            data = capped(answer, LARGEST_MANIFEST, f"a blob of {self.reference}")
        check_digest(data, digest, f"a blob of {self.reference}")
        return data

    @contextmanager
    def blob(self, digest: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The blob from byte `start` on: where the answer really begins (0 if the registry knows no ranges), and
        its bytes. Raises Interrupted when the connection breaks.
        """
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self.get(self._url("blobs", digest), headers) as answer:
            begins = 0
            if answer.status_code == 206:
                match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
                begins = int(match[1]) if match else start
            yield begins, _chunks(answer)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """An answer that is a success; waits, authenticates and asks again as needed."""
        host = urlsplit(url).netloc
        challenged = False
        redirects = 0
        attempt = 0
        while True:
            sent = dict(headers or {})
            if self._authorization and urlsplit(url).netloc == host:
                sent["Authorization"] = self._authorization
            try:
                answer = self._http.send(self._http.build_request("GET", url, headers=sent), stream=True)
            except httpx.TransportError as error:
                if self._may_be_plain and self.scheme == "https" and _is_plain(error):
                    self.scheme, url = "http", url.replace("https:", "http:", 1)
                    continue
                attempt += 1
                if attempt >= _ATTEMPTS or not _may_pass(error):
                    raise self._unreachable(error, url) from None
                _wait(min(0.5 * 2**attempt, _LONGEST_WAIT), f"{host} does not answer")
                continue
            try:
                status = answer.status_code
                if status in (200, 206):
                    yield answer
                    return
                if status in _REDIRECTS and "Location" in answer.headers:
                    redirects += 1
                    if redirects > _MOST_REDIRECTS:
                        raise RegistryError(f"{host} redirects in a circle")
                    target = urljoin(url, answer.headers["Location"])
                    if urlsplit(target).scheme != "https" and self.scheme == "https":
                        raise RegistryError(f"{host} redirects to an unencrypted address", why=target[:200])
                    url = target
                    continue
                if status == 401 and not challenged and urlsplit(url).netloc == host:
                    challenged = True
                    self._authenticate(answer.headers.get_list("WWW-Authenticate"))
                    continue
                if status in _RETRIED and attempt + 1 < _ATTEMPTS:
                    attempt += 1
                    pause = _retry_after(answer.headers.get("Retry-After"), 0.5 * 2**attempt)
                    if pause <= _LONGEST_WAIT:
                        _wait(pause, f"{host} answers {status}")
                        continue
                answer.read()
                raise self._refused(answer, url)
            finally:
                answer.close()

    def _authenticate(self, challenges: list[str]) -> None:
        text = ", ".join(challenges)
        credentials = self.credentials
        if credentials and credentials.bearer:
            self._authorization = f"Bearer {credentials.bearer}"
            return
        bearer = next((c for c in challenges if c.lower().startswith("bearer ")), None)
        if bearer is None and "bearer " in text.lower():
            bearer = text[text.lower().index("bearer ") :]
        if bearer is not None:
            self._authorization = f"Bearer {self._token(dict(_CHALLENGE.findall(bearer)))}"
        elif "basic" in text.lower() and credentials and credentials.user:
            self._authorization = _basic(credentials)

    def _token(self, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and self.scheme == "http"):
            raise RegistryError(
                f"{self.reference.endpoint} wants credentials at an unsafe address",
                why=f"`{realm[:200]}` is not https",
            )
        own = urlsplit(f"//{self.reference.endpoint}").hostname
        if parts.hostname != own and _is_private(parts.hostname or ""):
            raise RegistryError(
                f"{self.reference.endpoint} wants credentials at a private address", why=f"`{realm[:200]}`"
            )
        service, scope = (
            challenge.get("service", ""),
            challenge.get("scope") or f"repository:{self.reference.name}:pull",
        )
        credentials = self.credentials
        if credentials and credentials.identity_token:
            answer = self._http.post(
                realm,
                data={
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "service": service,
                    "scope": scope,
                    "client_id": "soliton",
                },
            )
        else:
            headers = {"Authorization": _basic(credentials)} if credentials and credentials.user else {}
            try:
                answer = self._http.get(realm, params={"service": service, "scope": scope}, headers=headers)
            except httpx.TransportError as error:
                raise self._unreachable(error, realm) from None
        if answer.status_code in (401, 403):
            raise self._unauthorised()
        try:
            record = json.loads(answer.content[:LARGEST_MANIFEST])
            token = record.get("token") or record.get("access_token")
        except ValueError:
            token = None
        if not isinstance(token, str) or not token:
            raise RegistryError(
                f"{self.reference.endpoint} gave no token",
                why=f"its token service answered {answer.status_code}",
            )
        return token

    def _unauthorised(self) -> RegistryError:
        who = (
            f"`{self.credentials.user}`" if self.credentials and self.credentials.user else "anonymous users"
        )
        return RegistryError(
            f"{self.reference.host} does not let {who} pull `{self.reference.name}`",
            why="the image is private, does not exist, or the credentials are wrong",
            remedy="set SOLITON_DOCKER_USERNAME and SOLITON_DOCKER_PASSWORD, or use `--authfile`",
        )

    def _refused(self, answer: httpx.Response, url: str) -> RegistryError:
        status = answer.status_code
        codes = _error_codes(answer.content)
        if status in (401, 403):
            return self._unauthorised()
        if status == 404 and "/manifests/" in url:
            if "NAME_UNKNOWN" in codes:
                return RegistryError(f"{self.reference.host} has no image `{self.reference.name}`")
            tags = self._tags()
            if not tags:
                return RegistryError(
                    f"{self.reference.host} has no image `{self.reference.name}` with the tag `{self.reference.wanted}`"
                )
            return RegistryError(
                f"`{self.reference.name}` has no tag `{self.reference.wanted}` at {self.reference.host}",
                remedy=f"its tags are: {', '.join(tags)}",
            )
        if status == 429:
            limit = answer.headers.get("ratelimit-limit")
            return RegistryError(
                f"{self.reference.host} has had enough requests from here for now",
                why=f"its limit is {limit}" if limit else "it answers 429",
                remedy="log in, or wait: "
                + (
                    f"it asks for {answer.headers['Retry-After']} s"
                    if "Retry-After" in answer.headers
                    else "an hour or so"
                ),
            )
        return RegistryError(
            f"{self.reference.host} refuses `{self.reference.name}`",
            why=f"it answers {status} {answer.reason_phrase} {' '.join(codes)}".strip(),
        )

    def _tags(self) -> list[str]:
        """Some of the repository's tags; none if there is no such repository."""
        url = f"{self.scheme}://{self.reference.endpoint}/v2/{self.reference.name}/tags/list?n=20"
        headers = {"Authorization": self._authorization} if self._authorization else {}
        try:
            answer = self._http.get(url, headers=headers)
            tags = (
                json.loads(answer.content[:LARGEST_MANIFEST]).get("tags")
                if answer.status_code == 200
                else None
            )
        except (httpx.TransportError, ValueError, AttributeError):
            return []
        return [str(tag)[:128] for tag in tags[:20]] if isinstance(tags, list) else []

    def _unreachable(self, error: Exception, url: str) -> RegistryError:
        host = urlsplit(url).netloc
        text = str(error) or type(error).__name__
        if isinstance(error.__context__, ssl.SSLError) or "SSL" in text or "CERTIFICATE" in text:
            if _is_plain(error):
                return RegistryError(
                    f"{host} does not speak TLS",
                    why="it answers in plain HTTP",
                    remedy="use `--no-https` if that is meant",
                )
            return RegistryError(
                f"the certificate of {host} is not trusted",
                why=text[:200],
                remedy="name your authority's certificate in SSL_CERT_FILE",
            )
        return Unreachable(
            f"the registry {host} cannot be reached",
            why=_ERRNO.sub("", text)[:200],
            remedy="check its name and your network; for a registry without TLS use `--no-https`"
            if self.scheme == "https"
            else "check its name and your network",
        )


def _is_plain(error: Exception) -> bool:
    """Whether a failed handshake was with somebody who does not speak TLS."""
    return "WRONG_VERSION_NUMBER" in str(error) or "record layer" in str(error)


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0] if ":" in endpoint.rpartition("]")[2] else endpoint
    return host in ("localhost", "[::1]") or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None


def check_digest(data: bytes, digest: str, what: str) -> None:
    """Raises RegistryError unless `data` has this digest."""
    algorithm, _, expected = digest.partition(":")
    actual = hashlib.new(algorithm, data).hexdigest()
    if actual != expected:
        raise digest_mismatch(what, digest, f"{algorithm}:{actual}")


def digest_mismatch(what: str, expected: str, actual: str) -> RegistryError:
    return RegistryError(
        f"{what} is not what it should be",
        why=f"its digest is {actual}, expected {expected}",
        remedy="try again; if it stays so, the registry or something on the way alters it",
    )


def capped(answer: httpx.Response, limit: int, what: str) -> bytes:
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > limit:
            raise RegistryError(f"{what} is too large", why=f"more than {limit} bytes")
    return bytes(data)


def _chunks(answer: httpx.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_raw(256 * 1024)
    except httpx.TransportError as error:
        raise Interrupted(str(error) or type(error).__name__) from None


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()


def _may_pass(error: httpx.TransportError) -> bool:
    """Whether waiting may help: not against a name or a certificate."""
    text = str(error)
    if isinstance(error, httpx.ConnectError):
        return "timed out" in text or "reset" in text.lower()
    return not isinstance(error, httpx.UnsupportedProtocol)


def _retry_after(value: str | None, otherwise: float) -> float:
    if value is None:
        return otherwise
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return otherwise


def _wait(seconds: float, why: str) -> None:
    messages.verbose(f"{why}; trying again in {seconds:.1f} s")
    time.sleep(seconds)


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_private or address.is_loopback or address.is_link_local


def _error_codes(body: bytes) -> list[str]:
    try:
        record: Any = json.loads(body[:65536])
        return [str(error["code"])[:40] for error in record["errors"]][:4]
    except (ValueError, KeyError, TypeError):
        return []
