"""What an image carries beside its files: `/.singularity.d`, labels, scripts, and the same as objects of its SIF.

Pure functions from a source (an OCI configuration, the sections of a definition file) and what is there already (`tree`: path →
content of the few files concerned) to entries of layers. There are two such layers in an image:

    above   files that hold whatever the source brought: scripts, labels, the definition
    …       the layers of the source
    below   what there is only where nothing else says otherwise: /proc, /tmp, the links at the root, an empty /etc/hosts

Who merges them with the source's layers is `convert` and the builder; who reads `tree` out of an image is `inspect`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soliton.errors import BuildError
from soliton.images import labels as label
from soliton.images import metadata_layer, ociconfig, scripts, sif_write
from soliton.images.inspection import PREFIX, inspect_tree, to_sif_json
from soliton.images.metadata_layer import Entry, File, Folder, Link
from soliton.images.ociconfig import OciConfig

ENV = f"{PREFIX}/env"
APPSBASE = f"{ENV}/94-appsbase.sh"
ENVIRONMENT = f"{ENV}/90-environment.sh"
DEFINITION = f"{PREFIX}/Singularity"
HISTORY = f"{PREFIX}/bootstrap_history"
HELP = f"{PREFIX}/runscript.help"
LABELS = f"{PREFIX}/labels.json"
#: Files in which %post may leave labels, and lines for the environment.
POST_LABELS = "/.build.labels"
POST_ENVIRONMENT = f"{ENV}/91-environment.sh"


@dataclass(frozen=True)
class Script:
    """A section of a definition file: its text, and what stands behind its name."""

    text: str
    arguments: str = ""


@dataclass(frozen=True)
class App:
    """The sections of one SCIF app; empty text where there is no such section."""

    name: str
    environment: str = ""
    runscript: str = ""
    startscript: str = ""
    test: str = ""
    help: str = ""
    labels: str = ""


@dataclass(frozen=True)
class Sections:
    """What a definition file says about the finished image. definition: its whole text."""

    definition: str
    environment: str = ""
    runscript: Script | None = None
    startscript: Script | None = None
    test: Script | None = None
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """above: entries over everything else. tree: the files concerned as they are then. removed: paths that have to go.
    notes: what the user should hear about.
    """

    above: tuple[Entry, ...]
    tree: Mapping[str, bytes]
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageMetadata:
    """below, above: tars for `squash`, as the lowest and the uppermost layer. objects: of the SIF, in their order."""

    below: bytes
    above: bytes
    objects: tuple[sif_write.NewObject, ...]


def skeleton() -> tuple[Entry, ...]:
    """What every root file system has, wherever it comes from; belongs below the source's layers."""
    return (
        Folder("/dev"),
        Folder("/etc"),
        Folder("/home"),
        Folder("/proc"),
        Folder("/root"),
        Folder("/sys"),
        Folder("/tmp", 0o1777),
        Folder("/var"),
        Folder("/var/tmp", 0o1777),
        Folder(PREFIX),
        Folder(f"{PREFIX}/actions"),
        Folder(ENV),
        Folder(f"{PREFIX}/libs"),
        File("/etc/hosts", b""),
        File("/etc/resolv.conf", b""),
        Link("/.exec", f"{PREFIX[1:]}/actions/exec"),
        Link("/.run", f"{PREFIX[1:]}/actions/run"),
        Link("/.shell", f"{PREFIX[1:]}/actions/shell"),
        Link("/.test", f"{PREFIX[1:]}/actions/test"),
        Link("/environment", f"{PREFIX[1:]}/env/90-environment.sh"),
        Link("/singularity", f"{PREFIX[1:]}/runscript"),
    )


def base() -> tuple[Entry, ...]:
    """The scripts of an image that says nothing itself: above the layers of an OCI image or a bootstrap, below those
    of an image that has its own.
    """
    texts = {
        f"{PREFIX}/actions/exec": scripts.ACTION_EXEC,
        f"{PREFIX}/actions/run": scripts.ACTION_RUN,
        f"{PREFIX}/actions/shell": scripts.ACTION_SHELL,
        f"{PREFIX}/actions/start": scripts.ACTION_START,
        f"{PREFIX}/actions/test": scripts.ACTION_TEST,
        f"{ENV}/01-base.sh": scripts.ENV_01_BASE,
        ENVIRONMENT: scripts.ENV_90_ENVIRONMENT,
        APPSBASE: "",
        f"{ENV}/95-apps.sh": scripts.ENV_95_APPS,
        f"{ENV}/99-base.sh": scripts.ENV_99_BASE,
        f"{ENV}/99-runtimevars.sh": scripts.ENV_99_RUNTIMEVARS,
        f"{PREFIX}/runscript": scripts.EMPTY,
        f"{PREFIX}/startscript": scripts.EMPTY,
    }
    folders = (Folder(PREFIX), Folder(f"{PREFIX}/actions"), Folder(ENV), Folder(f"{PREFIX}/libs"))
    return folders + tuple(_script(path, text) for path, text in texts.items())


def supplement() -> tuple[Entry, ...]:
    """Of `base`, what an image gets that lacks some of it: all but what says what to run, which it says by having none."""
    left_out = (f"{PREFIX}/runscript", f"{PREFIX}/startscript")
    return tuple(entry for entry in base() if entry.path not in left_out)


def has_scripts(tree: Mapping[str, bytes]) -> bool:
    """Whether an image has all environment scripts of `base`; those of others, or of old, may lack some."""
    return all(entry.path in tree for entry in base() if entry.path.startswith(f"{ENV}/"))


def from_oci(config: OciConfig) -> tuple[Entry, ...]:
    """What an OCI image's configuration becomes; over `base`."""
    return (
        _script(f"{ENV}/10-docker2singularity.sh", scripts.oci_environment(config.env)),
        _script(f"{PREFIX}/runscript", scripts.oci_runscript(config.entrypoint, config.cmd)),
        File(LABELS, label.encode(config.labels)),
    )


def for_apps(apps: Sequence[App], tree: Mapping[str, bytes]) -> tuple[Entry, ...]:
    """Folders, scripts and labels of the apps, needed before %post runs since `%appinstall` is a part of it."""
    entries: list[Entry] = []
    exports = tree.get(APPSBASE, b"").decode("utf-8", "surrogateescape")
    for app in apps:
        if not app.name or "/" in app.name or app.name in (".", "..") or any(c.isspace() for c in app.name):
            raise BuildError(
                f"`{app.name}` cannot be the name of an app", why="it becomes the name of a directory"
            )
        root, data = f"/scif/apps/{app.name}", f"/scif/data/{app.name}"
        meta = f"{root}/scif"
        entries += [
            Folder(path) for path in ("/scif", "/scif/apps", "/scif/data", root, f"{root}/bin", f"{root}/lib")
        ]
        entries += [Folder(path) for path in (meta, f"{meta}/env", data, f"{data}/input", f"{data}/output")]
        entries.append(_script(f"{meta}/env/01-base.sh", scripts.app_base(app.name)))
        if app.environment:
            entries.append(_script(f"{meta}/env/90-environment.sh", app.environment))
        for name, text in (
            ("runscript", app.runscript),
            ("startscript", app.startscript),
            ("test", app.test),
        ):
            if text:
                entries.append(_script(f"{meta}/{name}", scripts.with_shebang(text)))
        if app.help:
            entries.append(File(f"{meta}/runscript.help", _bytes(app.help)))
        found = {"SCIF_APP_NAME": app.name, **label.parse(app.labels)}
        entries.append(File(f"{meta}/labels.json", label.encode(found)))
        exports += scripts.app_exports(
            app.name, environment=bool(app.environment), runscript=bool(app.runscript)
        )
    if apps:
        entries.append(_script(APPSBASE, exports))
    return tuple(entries)


def finish(
    sections: Sections, tree: Mapping[str, bytes], facts: label.BuildFacts, *, force: bool = False
) -> Finished:
    """The last layer of a build: what the definition file says, put over what is there.

    tree: contents by path after %post (see `inspection.wanted_paths`). force: labels and help replace existing ones.
    """
    above: list[Entry] = []
    notes: list[str] = []
    removed: list[str] = []
    if sections.environment:
        there = tree.get(ENVIRONMENT)
        start = there if there is not None else b"#!/bin/sh\n"
        above.append(File(ENVIRONMENT, start + b"\n" + _bytes(sections.environment) + b"\n", 0o755))
    for name in ("runscript", "startscript", "test"):
        script: Script | None = getattr(sections, name)
        if script is not None and script.text:
            above.append(_script(f"{PREFIX}/{name}", scripts.with_shebang(script.text, script.arguments)))
    if sections.help:
        if HELP in tree and not force:
            notes.append("the base image has a help text already; `--force` replaces it")
        else:
            above.append(File(HELP, _bytes(sections.help) + b"\n"))
    old = tree.get(DEFINITION)
    if old is not None:
        count = sum(1 for path in tree if path.startswith(f"{HISTORY}/"))
        above.append(Folder(HISTORY))
        above.append(File(f"{HISTORY}/Apptainer{count}", old))
    above.append(File(DEFINITION, _bytes(sections.definition)))
    merged, kept = label.merge(
        label.decode(tree.get(LABELS, b""), "the base image"),
        label.of_build(facts),
        post=label.parse(tree.get(POST_LABELS, b"").decode("utf-8", "replace")),
        definition=sections.labels,
        force=force,
    )
    notes += [f"the label `{key}` exists already; `--force` replaces it" for key in kept]
    above.append(File(LABELS, label.encode(merged)))
    if POST_LABELS in tree:
        removed.append(POST_LABELS)
    after = {path: data for path, data in with_entries(tree, above).items() if path not in removed}
    return Finished(tuple(above), after, tuple(removed), tuple(notes))


def of_oci_image(config: OciConfig, facts: label.BuildFacts, *, definition: str) -> ImageMetadata:
    """All that a plain conversion adds to an OCI image.

    definition: text that stands for a definition file, `bootstrap: docker\\nfrom: …\\n\\n`. facts.time is the time of
    every file added.
    """
    merged, _ = label.merge(config.labels, label.of_build(facts))
    above = (
        *base(),
        *from_oci(config),
        File(DEFINITION, _bytes(definition)),
        File(LABELS, label.encode(merged)),
    )
    return ImageMetadata(
        below=metadata_layer.layer(skeleton(), time=facts.time),
        above=metadata_layer.layer(above, time=facts.time),
        objects=sif_objects(definition, with_entries({}, above), ociconfig.encode(config)),
    )


def sif_objects(
    definition: str, tree: Mapping[str, bytes], oci_config: bytes | None = None
) -> tuple[sif_write.NewObject, ...]:
    """The objects before the root partition: definition, inspect-metadata.json, and oci-config.json if there is one."""
    objects = [sif_write.definition(definition)]
    objects.append(sif_write.generic_json("inspect-metadata.json", to_sif_json(inspect_tree(tree))))
    if oci_config is not None:
        objects.append(sif_write.generic_json("oci-config.json", oci_config))
    return tuple(objects)


def with_entries(tree: Mapping[str, bytes], entries: Sequence[Entry]) -> dict[str, bytes]:
    """`tree` as it is when `entries` lie over it."""
    return {**tree, **{entry.path: entry.data for entry in entries if isinstance(entry, File)}}


def _script(path: str, text: str) -> File:
    return File(path, _bytes(text), 0o755)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
