"""`rebuild`: an image again, from the recipe, the digests and the arguments that it holds; and whether the result is the same.

    found = check("tools.sif")
    if not found.same: print(found.difference.files[0].name)

Files that the recipe copies are looked for in the working directory, as when it was built, and have to be those.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from soliton import messages
from soliton.api import build as api
from soliton.api import diff
from soliton.api.diff import Difference
from soliton.api.inspect import object_data
from soliton.build import lockfile, provenance, secrets, workspace
from soliton.build.lockfile import Lock
from soliton.build.origin import is_dockerfile
from soliton.build.provenance import Origin
from soliton.errors import BuildError, ImageError, NotSupported
from soliton.images import compare, sif
from soliton.images.compare import Change
from soliton.images.detect import Image, open_image

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Check:
    """same: every byte but signatures and what was added later. difference: of the contents. objects: of the SIF's other parts
    (recipe, lock, provenance), by their digests.
    """

    same: bool
    difference: Difference
    objects: tuple[Change, ...]


@dataclass(frozen=True)
class Stored:
    """What an image holds to be built again. lock: its text, empty without one."""

    recipe: bytes
    origin: Origin
    lock: str

    @property
    def inputs(self) -> Lock:
        return lockfile.decode(self.lock, "the lock in the image") if self.lock else self.origin.inputs


def stored(image: Image, shown: str) -> Stored:
    """Raises ImageError for an image that cannot tell."""
    found = image.sif
    statement = found.find(sif.GENERIC_JSON, provenance.OBJECT) if found is not None else None
    recipe = found.find(sif.DEFINITION) if found is not None else None
    if found is None or statement is None or recipe is None:
        raise ImageError(
            f"`{shown}` does not say how it was built",
            why="it holds no provenance: it was pulled, or built by another program",
        )
    lock = found.find(sif.GENERIC_JSON, provenance.LOCK_OBJECT)
    return Stored(
        object_data(image, recipe, shown),
        provenance.origin(object_data(image, statement, shown), shown),
        object_data(image, lock, shown).decode("utf-8", "replace") if lock is not None else "",
    )


#: Options of an image's provenance that a build can be given again.
_KNOWN = {
    *("target", "secret-files"),
    *("force", "keep-logs", "nv", "rocm", "intel-hpu", "section", "compressor", "level", "block-size"),
    *("all-root", "fix-perms"),
}


def rebuild(image: str, target: str, options: api.BuildOptions | None = None) -> None:
    """Builds `target` as `image` was built. options: build_args for secrets, fetching, tmpdir, binds, force."""
    options = options or api.BuildOptions()
    kept = stored(open_image(image), image)
    arguments = kept.origin.arguments
    _check_given(image, kept.origin, options)
    if arguments.options.keys() - _KNOWN:
        raise NotSupported(f"an option that `{image}` was built with", remedy="use a newer soliton")
    wishes = replace(
        options,
        replace=options.force or options.replace,
        force=bool(arguments.options.get("force")),
        keep_logs=bool(arguments.options.get("keep-logs")),
        nv=bool(arguments.options.get("nv")),
        rocm=bool(arguments.options.get("rocm")),
        intel_hpu=bool(arguments.options.get("intel-hpu")),
        sections=_words(arguments.options.get("section", [])),
        packing=_packing(arguments.options),
        fix_perms=bool(arguments.options.get("fix-perms")),
        build_args={
            # Of a definition file the others have been put into the recipe.
            **(arguments.build_args if is_dockerfile(kept.recipe) else {}),
            **{name: options.build_args[name] for name in arguments.secrets},
        },
        stage=str(arguments.options.get("target", "")),
        context=(options.context or os.getcwd()) if is_dockerfile(kept.recipe) else "",
        warn_unused=True,
        # What was kept of the first build would prove nothing.
        anew=True,
        told=arguments,
        test=False,
        held_to=kept.inputs,
        held_by=image,
        kept_lock=kept.lock,
    )
    with _recipe(kept, options) as path:
        api.build(target, path, wishes)


def check(image: str, options: api.BuildOptions | None = None) -> Check:
    """Builds it again, aside, and compares."""
    options = options or api.BuildOptions()
    with workspace.workspace(*workspace.parent(options.tmpdir, os.environ), None) as place:
        again = place.place("again.sif")
        rebuild(image, again, options)
        objects = tuple(compare.values(_objects(image), _objects(again)))
        if not objects:
            return Check(True, Difference((), (), (), ()), ())
        others = tuple(change for change in objects if change.name != _ROOT)
        if len(others) == len(objects):
            return Check(False, Difference((), (), (), ()), others)
        return Check(False, diff.diff(image, again), others)


_ROOT = "root file system"


def _objects(path: str) -> dict[str, str]:
    """Name → digest of what a build puts into a SIF: not signatures, nor overlays that came later."""
    image = open_image(path)
    assert image.sif is not None
    found: dict[str, str] = {}
    for item in image.sif.objects:
        if item.type == sif.PARTITION and item is image.sif.primary:
            name = _ROOT
        elif item.type == sif.DEFINITION:
            name = "recipe"
        elif item.type == sif.GENERIC_JSON:
            name = item.name
        else:
            continue
        found[name] = _digest(path, item)
    return found


def _digest(path: str, item: sif.Descriptor) -> str:
    digest = hashlib.sha256()
    left = item.size
    with open(path, "rb") as file:
        file.seek(item.offset)
        while left > 0 and (part := file.read(min(_CHUNK, left))):
            digest.update(part)
            left -= len(part)
    return f"sha256:{digest.hexdigest()}"


@contextlib.contextmanager
def _recipe(kept: Stored, options: api.BuildOptions) -> Iterator[str]:
    """The recipe as a file under its own name."""
    name = os.path.basename(kept.origin.inputs.recipe[0])
    if name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > 255:
        name = "recipe.def"
    with workspace.workspace(*workspace.parent(options.tmpdir, os.environ), None) as place:
        path = place.place(name)
        with open(path, "wb") as file:
            file.write(kept.recipe)
        yield path


def _check_given(image: str, origin: Origin, options: api.BuildOptions) -> None:
    """What the image names and does not hold has to be given again."""
    arguments = origin.arguments
    missing = sorted(set(arguments.secrets) - set(options.build_args))
    if missing:
        raise BuildError(
            f"`{image}` was built with the secret build argument `{missing[0]}`",
            why="an image does not keep the values of secrets",
            remedy=f"give it with `--build-arg {missing[0]}=VALUE`",
        )
    given = {dict(secrets.of_option(text))["id"] for text in options.secrets}
    for name in _words(arguments.options.get("secret-files", [])):
        if name not in given:
            raise BuildError(
                f"`{image}` was built with the secret `{name}`",
                why="an image does not keep the values of secrets",
                remedy=f"give it with `--secret id={name},src=FILE`",
            )
    bound = {bind.target for bind in options.binds}
    for target in arguments.binds:
        if target not in bound:
            raise BuildError(
                f"`{image}` was built with something of the host bound to `{target}`",
                remedy=f"give it with `--bind SOURCE:{target}`",
            )
    for name in arguments.injected:
        if name not in api.injected(os.environ):
            messages.warning(f"`{image}` was built with APPTAINERENV_{name} set, which it is not now")


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, list) else ()


def _packing(options: Mapping[str, object]) -> str:
    words = {"compressor": "-comp", "level": "-Xcompression-level", "block-size": "-b"}
    found = [f"{word} {options[key]}" for key, word in words.items() if key in options]
    return " ".join([*found, "-all-root"] if options.get("all-root") else found)
