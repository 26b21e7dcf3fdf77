"""Who the user is to a registry: flags, variables, `--authfile`, soliton's or Docker's file, credential helpers."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.errors import RegistryError
from soliton.registry.reference import DEFAULT_HOST
from soliton.site import paths

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True)
class Credentials:
    """identity_token: an OAuth refresh token instead of a password. bearer: sent as it is."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)


def find(
    host: str,
    environment: Mapping[str, str],
    *,
    user: str | None = None,
    password: str | None = None,
    authfile: str | None = None,
) -> Credentials | None:
    """The first source that knows the host; None is anonymous. Raises RegistryError for a file that is damaged."""
    user = user or paths.variable(environment, "DOCKER_USERNAME") or environment.get("DOCKER_USERNAME")
    password = (
        password or paths.variable(environment, "DOCKER_PASSWORD") or environment.get("DOCKER_PASSWORD")
    )
    if user and password:
        return Credentials(user, password)
    if authfile:
        return _from_file(authfile, host, required=True)
    home = environment.get("HOME") or paths.home_of_caller()
    docker = os.path.join(environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")
    for name in (
        os.path.join(paths.configuration(environment, home), "docker-config.json"),
        os.path.join(home, ".apptainer", "docker-config.json"),
        docker,
    ):
        if os.path.exists(name):
            return _from_file(name, host, required=False)
    return None


def _from_file(name: str, host: str, *, required: bool) -> Credentials | None:
    try:
        with open(name, "rb") as file:
            record = json.loads(file.read(1 << 20))
    except OSError as error:
        if required:
            raise RegistryError(f"the credentials file `{name}` cannot be read", why=error.strerror) from None
        return None
    except ValueError as error:
        raise RegistryError(
            f"the credentials file `{name}` is damaged", why=f"it is not JSON: {error}"
        ) from None
    if not isinstance(record, dict):
        raise RegistryError(f"the credentials file `{name}` is damaged", why="it is not a JSON object")
    helpers = record.get("credHelpers")
    helper = helpers.get(host) if isinstance(helpers, dict) else None
    helper = helper or record.get("credsStore")
    if isinstance(helper, str) and helper:
        found = _from_helper(helper, host)
        if found is not None:
            return found
    auths = record.get("auths")
    for key, value in (auths if isinstance(auths, dict) else {}).items():
        if _host_of(str(key)) == _host_of(_key(host)) and isinstance(value, dict):
            return _from_record(value, name)
    return None


def _key(host: str) -> str:
    return _DOCKER_HUB_KEY if host == DEFAULT_HOST else host


def _host_of(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _from_record(record: Mapping[str, Any], name: str) -> Credentials:
    if record.get("registrytoken"):
        return Credentials(bearer=str(record["registrytoken"]))
    if record.get("identitytoken"):
        return Credentials(identity_token=str(record["identitytoken"]))
    if record.get("username"):
        return Credentials(str(record["username"]), str(record.get("password", "")))
    try:
        user, _, password = (
            base64.b64decode(str(record.get("auth", "")), validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        raise RegistryError(
            f"the credentials file `{name}` is damaged", why="an `auth` is not base64"
        ) from None
    return Credentials(user, password)


def _from_helper(helper: str, host: str) -> Credentials | None:
    if "/" in helper:
        raise RegistryError(f"`{helper}` is not the name of a credential helper")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=_key(host).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        raise RegistryError(
            f"the credential helper `docker-credential-{helper}` is not installed",
            why="the credentials file names it",
        ) from None
    text = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode != 0:
        if _NOT_FOUND in text.lower():
            return None
        raise RegistryError(
            f"the credential helper `docker-credential-{helper}` failed", why=text.strip()[:200]
        )
    record = json.loads(done.stdout)
    user, secret = str(record.get("Username", "")), str(record.get("Secret", ""))
    return Credentials(identity_token=secret) if user == "<token>" else Credentials(user, secret)
