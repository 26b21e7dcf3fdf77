"""`inspect` and `run-help`: what an image says about itself, as text or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from soliton.errors import SolitonError
from soliton.images.inspection import Described

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation

#: Options that choose what is shown, in the order in which it is; labels if there is none of them.
PARTS = ("list-apps", "deffile", "runscript", "startscript", "test", "helpfile", "environment", "labels")


def inspect(invocation: Invocation) -> int:
    from soliton.api.inspect import inspect as describe

    path = invocation.positionals[0]
    if invocation.flag("provenance"):
        return show_provenance(path)
    described = describe(path)
    everything = invocation.flag("all")
    app = None if everything else invocation.text("app") or None
    chosen = set(PARTS) if everything else {part for part in PARTS if invocation.flag(part)} or {"labels"}
    if app is not None and app not in described.apps:
        raise no_such_app(app, described, path)
    if everything:
        write(with_provenance(as_json(described, chosen, None), path))
        return 0
    shape = as_json if everything or invocation.flag("json") else as_text
    write(shape(described, chosen, app))
    return 0


def show_provenance(path: str) -> int:
    from soliton.api.inspect import provenance
    from soliton.images import metadata_json

    statement = provenance(path)
    if statement is None:
        raise SolitonError(
            f"`{path}` holds no provenance",
            why="it was pulled, or built by another program",
            remedy=f"`soliton inspect --deffile {path}` shows its recipe, if it has one",
        )
    write(metadata_json.indented(statement) + "\n")
    return 0


def with_provenance(text: str, path: str) -> str:
    """The document of `--all` with one more attribute, where there is one; the peers' readers pass it over."""
    import json

    from soliton.api.inspect import provenance
    from soliton.images import metadata_json

    statement = provenance(path)
    if statement is None:
        return text
    document = json.loads(text)
    document["data"]["attributes"]["provenance"] = statement
    return metadata_json.indented(document) + "\n"


def run_help(invocation: Invocation) -> int:
    from soliton.api.inspect import inspect as describe

    path = invocation.positionals[0]
    described = describe(path)
    app = invocation.text("app")
    if app:
        if app not in described.apps:
            raise no_such_app(app, described, path)
        described = described.apps[app]
    write(f"{described.help}\n" if described.help else "No help sections were defined for this image\n")
    return 0


def no_such_app(app: str, described: Described, path: str) -> SolitonError:
    known = ", ".join(f"`{name}`" for name in described.apps)
    return SolitonError(
        f"there is no app `{app}` in `{path}`",
        why=f"its apps are {known}" if known else "it has no apps",
        status=1,
    )


def select(described: Described, chosen: set[str], app: str | None) -> Described:
    """Only what was asked for. Apps appear whole where they are listed, else only the asked parts of the asked one."""
    if app is not None:
        part = select(described.apps[app], chosen - {"list-apps", "deffile", "startscript"}, None)
        definition = described.definition if "deffile" in chosen else ""
        apps = described.apps if "list-apps" in chosen else {app: part}
        return Described(definition=definition, apps=apps)
    return Described(
        environment=described.environment if "environment" in chosen else {},
        labels=described.labels if "labels" in chosen else {},
        runscript=described.runscript if "runscript" in chosen else "",
        startscript=described.startscript if "startscript" in chosen else "",
        test=described.test if "test" in chosen else "",
        help=described.help if "helpfile" in chosen else "",
        definition=described.definition if "deffile" in chosen else "",
        apps=described.apps if "list-apps" in chosen else {},
    )


def as_json(described: Described, chosen: set[str], app: str | None) -> str:
    from soliton.images import inspection, metadata_json

    return metadata_json.indented(inspection.to_json(select(described, chosen, app))) + "\n"


def as_text(described: Described, chosen: set[str], app: str | None) -> str:
    parts = select(described, chosen, app)
    lines: list[str] = []
    if "list-apps" in chosen:
        lines += sorted(described.apps)
    if parts.definition:
        lines.append(parts.definition)
    if app is not None:
        parts = select(described.apps[app], chosen - {"list-apps", "deffile", "startscript"}, None)
    lines += [text for text in (parts.runscript, parts.startscript, parts.test, parts.help) if text]
    for path, text in sorted(parts.environment.items()):
        lines.append(f"=== {path} ===\n{text}\n")
    lines += [f"{key}: {value}" for key, value in sorted(parts.labels.items())]
    return "".join(f"{line}\n" for line in lines)


def write(text: str) -> None:
    """To stdout, as bytes: scripts of an image need not be text in the locale's sense."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
