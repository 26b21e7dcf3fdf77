"""Options that several families of commands have in common."""

from __future__ import annotations

from soliton.cli.options import TEXT, Option

REGISTRIES = "Registries"
ENCRYPTION = "Encryption"
TESTING = "For testing"
OTHERS = "Of other implementations"

AUTHFILE = Option(
    "authfile",
    None,
    TEXT,
    "FILE",
    keys=("AUTH_FILE",),
    group=REGISTRIES,
    help="credentials in the form of Docker's config.json, instead of the usual ones",
)
DISABLE_CACHE = Option(
    "disable-cache", keys=("DISABLE_CACHE",), group=REGISTRIES, help="neither read nor write the image cache"
)
DOCKER_HOST = Option(
    "docker-host",
    None,
    TEXT,
    "URL",
    keys=("DOCKER_HOST",),
    bare=True,
    group=REGISTRIES,
    help="address of the Docker daemon for docker-daemon:",
)
DOCKER_LOGIN = Option(
    "docker-login", keys=("DOCKER_LOGIN",), group=REGISTRIES, help="ask for the registry's user and password"
)
DOCKER_USERNAME = Option(
    "docker-username",
    None,
    TEXT,
    "NAME",
    keys=("DOCKER_USERNAME",),
    bare=True,
    group=REGISTRIES,
    help="user at the registry",
    hidden=True,
)
DOCKER_PASSWORD = Option(
    "docker-password",
    None,
    TEXT,
    "SECRET",
    keys=("DOCKER_PASSWORD",),
    bare=True,
    group=REGISTRIES,
    help="password at the registry",
    hidden=True,
)
NO_HTTPS = Option(
    "no-https",
    keys=("NOHTTPS", "NO_HTTPS"),
    group=REGISTRIES,
    help="plain HTTP for docker://, oras:// and library://",
)
NOHTTPS = Option(
    "nohttps",
    alias="no-https",
    deprecated="--no-https",
    hidden=True,
    group=REGISTRIES,
    help="old spelling of --no-https",
)
LIBRARY = Option(
    "library",
    None,
    TEXT,
    "URL",
    keys=("LIBRARY",),
    group=REGISTRIES,
    help="the library that library:// means",
)
TMPDIR = Option(
    "tmpdir",
    None,
    TEXT,
    "DIR",
    keys=("TMPDIR",),
    hidden=True,
    help="directory for temporary files, instead of $TMPDIR or /tmp",
)
PASSPHRASE = Option(
    "passphrase",
    group=ENCRYPTION,
    help="ask for the passphrase of an encrypted image",
    supported=False,
    instead="encrypted images cannot be opened yet: use one that is not encrypted",
)
PEM_PATH = Option(
    "pem-path",
    None,
    TEXT,
    "FILE",
    group=ENCRYPTION,
    supported=False,
    instead="encrypted images cannot be opened yet: use one that is not encrypted",
    help="RSA key of an encrypted image: private to run it, public to build it",
)
DOCKER = (DOCKER_HOST, DOCKER_LOGIN, DOCKER_USERNAME, DOCKER_PASSWORD)
IGNORE = (
    Option(
        "ignore-subuid",
        keys=("IGNORE_SUBUID",),
        hidden=True,
        group=TESTING,
        help="behave as if the user had no subordinate ids",
    ),
    Option(
        "ignore-userns",
        keys=("IGNORE_USERNS",),
        hidden=True,
        group=TESTING,
        supported=False,
        instead="leave it out: without user namespaces only root can run containers",
        help="behave as if there were no user namespaces",
    ),
    Option(
        "ignore-fakeroot-command",
        keys=("IGNORE_FAKEROOT_COMMAND",),
        hidden=True,
        group=TESTING,
        help="accepted: soliton never uses the fakeroot command",
    ),
)
