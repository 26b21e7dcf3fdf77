"""A Dockerfile's wishes settled against the machine: its context, secrets, SSH agents and platform; `soliton.build.dockerfile` does the rest."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from soliton import messages
from soliton.build import secrets
from soliton.build.definition import Definition
from soliton.build.dockerfile import context, needs, parser, stages
from soliton.build.dockerfile.work import Wishes
from soliton.errors import BuildError, UsageError
from soliton.images import architecture

if TYPE_CHECKING:
    from soliton.api.build import BuildOptions

#: Bytes of a secret.
_LARGEST_SECRET = 1 << 20


def settle(path: str, options: BuildOptions) -> tuple[Definition, Wishes]:
    """Raises UsageError for options that say nothing to a Dockerfile, else BuildError and DefinitionError."""
    if options.update or options.sections not in ((), ("all",)):
        raise UsageError(
            "`--update` and `--section` are for definition files", why=f"`{path}` is a Dockerfile"
        )
    folder = os.path.abspath(options.context or os.path.dirname(path) or ".")
    if not os.path.isdir(folder):
        raise UsageError(f"the build context `{options.context}` is no directory")
    try:
        with open(path, "rb") as file:
            data = file.read(parser.MAX_SIZE + 1)
    except OSError as error:
        raise BuildError(f"`{path}` cannot be read", why=error.strerror) from None
    machine = architecture.host_architecture()
    wanted = options.fetching
    target = ((wanted and wanted.architecture) or machine, (wanted and wanted.variant) or "")
    recipe = stages.read(
        parser.parse(data, path),
        options.build_args,
        stages.platform_arguments(target, machine),
        options.stage or None,
    )
    predefined = {*stages.PREDEFINED, *(name.lower() for name in stages.PREDEFINED)}
    unused = sorted(options.build_args.keys() - recipe.used - predefined)
    if unused:
        messages.warning(f"no ARG asks for the build argument(s) {', '.join(unused)}")
    here = context.open_context(folder, os.path.abspath(path))
    return needs.definition(recipe), Wishes(
        recipe, here, options.build_args, _secrets(options), _agents(options)
    )


def _secrets(options: BuildOptions) -> dict[str, str]:
    """Contents of `--secret id=NAME,src=FILE` and `id=NAME,env=VARIABLE`, by id."""
    found: dict[str, str] = {}
    for text in options.secrets:
        values = dict(secrets.of_option(text))
        name, path = values["id"], values["src"]
        if not path:
            variable = values["env"] or name
            value = os.environ.get(variable)
            if value is None:
                raise UsageError(f"the secret `{name}` has no value", why=f"`{variable}` is not set")
            found[name] = value
            continue
        try:
            with open(os.path.expanduser(path), encoding="utf-8", errors="surrogateescape") as file:
                found[name] = file.read(_LARGEST_SECRET)
        except OSError as error:
            raise UsageError(
                f"the secret `{name}` cannot be read from `{path}`", why=error.strerror
            ) from None
    return found


def _agents(options: BuildOptions) -> dict[str, str]:
    """Sockets of `--ssh ID` and `--ssh ID=SOCKET`, by id."""
    found: dict[str, str] = {}
    for text in options.ssh:
        name, _, path = text.partition("=")
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise UsageError(f"`--ssh {name}` names no agent", why="SSH_AUTH_SOCK is not set")
        try:
            kind = os.stat(path).st_mode
        except OSError as error:
            raise UsageError(f"the SSH agent `{path}` cannot be used", why=error.strerror) from None
        if not stat.S_ISSOCK(kind):
            raise UsageError(
                f"`{path}` is not the socket of an SSH agent",
                remedy="add the key to an agent (`ssh-add`): keys themselves are not handed to a build",
            )
        found[name] = os.path.abspath(path)
    return found
