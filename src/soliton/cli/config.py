"""`config`: show, get, set, unset, import, and the peers' `global`; `buildcfg` and `confgen`."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

from soliton import messages
from soliton.api import config as api
from soliton.errors import SolitonError, UsageError
from soliton.site import peer, settings, toml
from soliton.site.config import Place
from soliton.site.directives import DIRECTIVES

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation


def show(invocation: Invocation) -> int:
    """What holds, as a file that could be used."""
    found = api.show(invocation.positionals)
    if invocation.flag("json"):
        import json

        record = {s.name: {"value": s.value, "origin": s.origin, "locked": s.locked} for s in found}
        sys.stdout.write(json.dumps(record, indent="\t") + "\n")
        return 0
    group = ""
    for setting in found:
        if setting.group != group and not invocation.positionals:
            sys.stdout.write(f"{'' if not group else chr(10)}# {setting.group}\n")
            group = setting.group
        line = f"{setting.name} = {toml.written(setting.value)}"
        if invocation.flag("origin"):
            line += f"  # {setting.origin}"
            if setting.locked:
                line += ", locked" if setting.locked in setting.origin else f", locked by {setting.locked}"
        sys.stdout.write(messages.printable(line) + "\n")
    return 0


def get(invocation: Invocation) -> int:
    """The value alone: what a script wants."""
    (setting,) = api.show(invocation.positionals)
    if invocation.flag("json"):
        import json

        sys.stdout.write(json.dumps(setting.value) + "\n")
    elif isinstance(setting.value, list):
        sys.stdout.write("".join(f"{part}\n" for part in setting.value))
    else:
        sys.stdout.write(
            f"{setting.value if isinstance(setting.value, str) else toml.written(setting.value)}\n"
        )
    return 0


def set_(invocation: Invocation) -> int:
    name, *words = invocation.positionals
    return _finish(invocation, where := _place(invocation), api.changed(where, api.find(name), words))


def unset(invocation: Invocation) -> int:
    (name,) = invocation.positionals
    return _finish(invocation, where := _place(invocation), api.changed(where, api.find(name), None))


def import_(invocation: Invocation) -> int:
    (path,) = invocation.positionals
    text, warnings = api.take_over(path)
    for warning in warnings:
        messages.warning(warning)
    where = _place(invocation)
    if not invocation.flag("dry-run") and not invocation.flag("force") and os.path.exists(where.path):
        raise SolitonError(
            f"`{where.path}` exists already",
            remedy="`--force` replaces it, `--dry-run` only shows what would stand in it",
        )
    settings.checked(where, text)
    return _finish(invocation, where, text)


def global_(invocation: Invocation) -> int:
    """The peers' way: one directive of the site's file."""
    name, *words = invocation.positionals
    chosen = [option for option in ("set", "unset", "get", "reset") if invocation.flag(option)]
    if len(chosen) != 1:
        raise UsageError("one of --set, --unset, --get and --reset is needed")
    directive = api.find(name)
    (setting,) = api.show([name])
    if chosen == ["get"]:
        sys.stdout.write(f"{peer.spoken(setting.value)}\n")
        return 0
    if chosen == ["reset"]:
        return _finish(invocation, where := api.place(system=True), api.changed(where, directive, None))
    if not words:
        raise UsageError(f"a value for `{name}` is missing")
    given = [part.strip() for part in words[0].split(",") if part.strip()]
    where = api.place(system=True)
    if directive.kind == "list":
        assert isinstance(setting.value, list)
        if chosen == ["set"]:
            given = list(dict.fromkeys([*setting.value, *given]))
        else:
            given = [part for part in setting.value if part not in given]
    elif chosen == ["unset"]:
        return _finish(invocation, where, api.changed(where, directive, None))
    return _finish(invocation, where, api.changed(where, directive, given))


def buildcfg(invocation: Invocation) -> int:
    """NAME=VALUE of what this program was installed with."""
    from soliton import __version__, core
    from soliton.site import config as configuration

    prefix = configuration.prefix_of(configuration.__file__)
    known = {
        "PACKAGE_NAME": "soliton",
        "PACKAGE_VERSION": __version__,
        "PREFIX": prefix,
        "BINDIR": os.path.dirname(core.program()),
        "SYSCONFDIR": os.path.dirname(os.path.dirname(configuration.of_installation())),
        "SOLITON_CONF_FILE": configuration.of_installation(),
        "APPTAINER_SUID_INSTALL": "0",
        "SINGULARITY_SUID_INSTALL": "0",
    }
    if invocation.positionals:
        name = invocation.positionals[0]
        if name not in known:
            raise SolitonError(
                f"`{name}` is not a build setting", why=f"there are {', '.join(known)}", status=1
            )
        sys.stdout.write(f"{known[name]}\n")
        return 0
    sys.stdout.write("".join(f"{name}={value}\n" for name, value in known.items()))
    return 0


def confgen(invocation: Invocation) -> int:
    """A file with every directive: with its default, or as an older file of a peer says."""
    *old, new = invocation.positionals
    given: dict[str, object] = {}
    if old:
        text, warnings = api.take_over(old[0])
        for warning in warnings:
            messages.warning(warning)
        given = {entry.name: entry.value for entry in toml.parse(text, old[0])}
    lines = []
    for directive in DIRECTIVES:
        if not directive.built:
            continue
        lines += [f"# {line}" for line in textwrap.wrap(directive.help, 100)]
        default = peer.plain(directive, directive.default)
        mark = "" if directive.name in given else "# "
        lines.append(f"{mark}{directive.name} = {toml.written(given.get(directive.name, default))}\n")
    api.write(Place("user", os.path.abspath(new)), "".join(f"{line}\n" for line in lines))
    return 0


def _place(invocation: Invocation) -> Place:
    if invocation.flag("system") and invocation.flag("user"):
        raise UsageError("`--system` and `--user` exclude each other")
    system = True if invocation.flag("system") else False if invocation.flag("user") else None
    return api.place(system=system)


def _finish(invocation: Invocation, where: Place, text: str) -> int:
    """Writes the file, or shows what it would hold."""
    if invocation.flag("dry-run"):
        sys.stdout.write(text)
    else:
        api.write(where, text)
        messages.info(f"written: {where.path}")
    return 0
