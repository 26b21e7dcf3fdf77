"""What a bootstrap agent is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from soliton.build.header import Header
from soliton.build.plans import Scene
from soliton.build.workspace import Workspace
from soliton.launch.plan import DirectoryRoot, DirectSurface, ImageRoot, Plan, UpperSurface
from soliton.record import replace


@dataclass(frozen=True)
class Base:
    """What a stage starts from; read, never written.

    is_image: brings a `/.singularity.d`. bare: an image that lacks scripts which every image has now, and gets them. oci_config: the configuration of an OCI image, for the SIF. source: reference and
    digest of an image in a registry. architecture: OCI name, None where nobody says. digest: `sha256:…` of what was named;
    empty where it is to be computed from the file, or there is none.
    """

    root: ImageRoot | DirectoryRoot
    is_image: bool = True
    bare: bool = False
    oci_config: bytes | None = None
    source: tuple[str, str] | None = None
    architecture: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Fetched:
    """An image of the cache: a SIF, where it comes from, and the digest of its manifest."""

    path: str
    source: tuple[str, str] | None = None
    digest: str = ""


@dataclass(frozen=True)
class Sources:
    """How images that are not files here are had; filled in by `soliton.api.build`.

    fetch: a reference such as `docker://alpine` or `oci-archive:/tmp/x.tar` → a SIF; the second argument is a path in
    the workspace that it may be made at; the third the digest of the manifest to take, whatever the name means, or empty.
    known: the digest of what a reference would give without asking anybody; None if somebody has to be asked.
    on: the same for images of another platform, `arm64/v8`, or of a library by its address; empty for those that are meant otherwise.
    of_dockerfile: builds the Dockerfile that a header names as a SIF at a place; its digest.
    """

    fetch: Callable[[str, str, str], Fetched]
    known: Callable[[str, str], str | None] = lambda reference, pinned: None
    on: Callable[[str, str], Sources] | None = None
    of_dockerfile: Callable[[Header, str], str] | None = None

    def of(self, header: Header) -> Sources:
        """As a header wants them."""
        platform, library = header.get("platform"), header.get("library")
        return self.on(platform, library) if (platform or library) and self.on is not None else self


@dataclass(frozen=True)
class Request:
    """folder: the stage's own in the workspace, as parts for `Workspace.place`. scene: of the stage, its root still
    empty. execute: carries out a plan whose payload is on the host or in the base, output going live to the user;
    capture: its output is returned.
    machine: the architecture that the root is wanted for, empty for this machine's.
    pinned: digest that a reference is held to, or empty. environment: the host's. cwd: what relative names in the definition are relative to. say: one line for the user.
    """

    header: Header
    name: str
    workspace: Workspace
    folder: str
    scene: Scene
    sources: Sources
    execute: Callable[[Plan], None]
    capture: Callable[[Plan], str]
    environment: Mapping[str, str]
    cwd: str
    say: Callable[[str], None]
    pinned: str = ""
    machine: str = ""

    def scene_of(self, root: ImageRoot | DirectoryRoot, surface: DirectSurface | UpperSurface) -> Scene:
        """The stage's scene with this root."""
        return replace(self.scene, root=root, surface=surface)


Agent = Callable[[Request], Base]
