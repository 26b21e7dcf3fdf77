"""The command pull."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from soliton import messages
from soliton.errors import UsageError
from soliton.site import paths

if TYPE_CHECKING:
    from soliton.api.pull import PullOptions
    from soliton.cli.invocation import Invocation


def options_of(invocation: Invocation) -> PullOptions:
    """What a command line says about registries; used by every command that may fetch."""
    from soliton.api.pull import PullOptions

    given = invocation.options
    user, password = invocation.text("docker-username"), invocation.text("docker-password")
    if "docker-login" in given and invocation.flag("docker-login"):
        import getpass

        user = user or input("User name: ")
        password = password or getpass.getpass("Password: ")
    architecture, variant = platform(invocation)
    return PullOptions(
        architecture=architecture,
        variant=variant,
        plain_http=invocation.flag("no-https"),
        user=user,
        password=password,
        authfile=invocation.text("authfile"),
        cache=not invocation.flag("disable-cache"),
        quiet=not messages.shows(messages.INFO),
        daemon=invocation.text("docker-host") or "",
        library=(invocation.text("library") if "library" in given else None)
        or paths.variable(os.environ, "LIBRARY"),
    )


def platform(invocation: Invocation) -> tuple[str | None, str | None]:
    """Architecture and variant: `--arch` and `--arch-variant`, else what `--platform` says in one word."""
    given = invocation.options
    architecture = invocation.text("arch") if "arch" in given else None
    variant = invocation.text("arch-variant") if "arch-variant" in given else None
    word = invocation.text("platform") if "platform" in given else None
    if not word:
        return architecture, variant
    system, *rest = word.split("/")
    if system != "linux" or not 1 <= len(rest) <= 2 or not all(rest):
        raise UsageError(
            f"`--platform {word}` is no platform that can be run here",
            remedy="write linux/ARCHITECTURE or linux/ARCHITECTURE/VARIANT, for example linux/arm64",
        )
    if architecture not in (None, rest[0]):
        raise UsageError(f"`--arch {architecture}` and `--platform {word}` contradict each other")
    return rest[0], rest[1] if len(rest) == 2 else variant


def pull(invocation: Invocation) -> int:
    from soliton.api.pull import default_name
    from soliton.api.pull import pull as pull_image

    words = list(invocation.positionals)
    if len(words) > 2:
        raise UsageError("`pull` takes a target and a URI")
    uri = words.pop()
    target = words[0] if words else invocation.text("name")
    target = target or default_name(uri)
    folder = invocation.text("dir")
    if folder:
        target = os.path.join(folder, target)
    options = options_of(invocation)
    pull_image(uri, target, options, force=invocation.flag("force"), sandbox=invocation.flag("sandbox"))
    return 0
