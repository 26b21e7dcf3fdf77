"""What the SOURCE of a build is: a definition file, an image or directory here, or a reference to fetch.

Content decides for files, as everywhere; a name with a known scheme in front is a reference.
"""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from typing import Literal

from soliton.build.definition import Definition, of_source, parse
from soliton.build.lines import MAX_SIZE
from soliton.errors import BuildError, NotSupported
from soliton.images.detect import open_image

#: Schemes whose images can be fetched.
FETCHED = (
    "docker",
    "docker-daemon",
    "docker-archive",
    "oci",
    "oci-archive",
    "oras",
    "library",
    "shub",
)
#: Of these, what has `//` behind the scheme.
_REMOTE = ("docker", "oras", "library", "shub")
#: Schemes of the contract that nothing is built from, yet or ever.
REFUSED = ("http", "https", "ipfs", "instance")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_LOOKED_AT = 4096


@dataclass(frozen=True)
class Origin:
    """kind: "definition" has one read from a file; "reference" is fetched; "dockerfile" is one, by its path in `reference`; "image" is a definition that only names an image.

    reference: with its scheme, for references.
    """

    kind: Literal["definition", "image", "reference", "dockerfile"]
    definition: Definition
    reference: str = ""


def settle(source: str, build_args: dict[str, str], *, as_json: bool = False) -> Origin:
    """What `source` is. as_json: a definition in the form of `--json`. Raises BuildError, ImageError, NotSupported or DefinitionError."""
    scheme, colon, rest = source.partition(":")
    if colon and not os.path.lexists(source):
        if scheme in FETCHED:
            rest = rest.removeprefix("//")
            return Origin(
                "reference",
                of_source(scheme, rest, source),
                f"{scheme}:{'//' if scheme in _REMOTE else ''}{rest}",
            )
        if scheme in REFUSED:
            raise NotSupported(
                f"building from `{scheme}:`",
                remedy=f"get it first: `pull base.sif {source}`, and build from `base.sif`"
                if scheme in ("http", "https")
                else "build from a definition file, an image or docker://",
                yet=False,
            )
    if os.path.isdir(source):
        inside = dockerfile_in(source)
        if inside is not None and not os.path.isdir(os.path.join(source, ".singularity.d")):
            return Origin("dockerfile", of_source("dockerfile", inside, inside), inside)
        return _of_image(source)
    try:
        with open(source, "rb") as file:
            head = file.read(_LOOKED_AT)
            if b"\0" in head and not head.startswith(_BYTE_ORDER_MARKS):
                return _of_image(source)
            data = head + file.read(MAX_SIZE + 1 - len(head))
    except FileNotFoundError:
        raise BuildError(
            f"no such file: `{source}`",
            why="expected a definition file, an image, a sandbox directory or a URI",
            remedy=f"if it is in a registry, write `docker://{source}`"
            if _like_a_reference(source)
            else None,
        ) from None
    except OSError as error:
        raise BuildError(f"`{source}` cannot be read", why=error.strerror) from None
    if not as_json and is_dockerfile(data):
        return Origin("dockerfile", of_source("dockerfile", source, source), source)
    if as_json:
        from soliton.build import definition_json

        data = definition_json.text_of(data, source)
    return Origin("definition", parse(data, source, build_args))


def dockerfile_in(directory: str) -> str | None:
    """A project's Dockerfile, by the names that it usually has."""
    paths = (os.path.join(directory, name) for name in ("Dockerfile", "Containerfile"))
    return next(filter(os.path.isfile, paths), None)


def is_dockerfile(data: bytes) -> bool:
    """Whether a text begins as Dockerfiles do: FROM or ARG, in the first line that is no comment."""
    for line in data.removeprefix(codecs.BOM_UTF8).splitlines():
        words = line.split()
        if words and not words[0].startswith(b"#"):
            return words[0].upper() in (b"FROM", b"ARG") and len(words) > 1
    return False


def _of_image(source: str) -> Origin:
    kind = open_image(source, shown=source).kind
    if kind in ("oci-layout", "oci-archive", "docker-archive"):
        scheme = "oci" if kind == "oci-layout" else kind
        # As it was typed: the name is kept in the image, which is the same wherever it is made.
        return Origin("reference", of_source(scheme, source, source), f"{scheme}:{source}")
    return Origin("image", of_source("localimage", source, source))


def _like_a_reference(source: str) -> bool:
    return not source.startswith(("/", ".")) and not source.endswith((".def", ".sif", ".recipe"))
