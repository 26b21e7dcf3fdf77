"""What a whole build is about, and what is known of each of its stages while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.build.bootstrap import Base, Sources
from soliton.build.compression import Packing
from soliton.build.definition import Definition, Stage
from soliton.build.plans import Scene
from soliton.build.steps import Choice
from soliton.build.workspace import Workspace
from soliton.launch.identity import is_single
from soliton.launch.plan import Bind, Identity, ImageRoot


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    epoch: the time that images bear, Unix seconds; None: see `epoch`. keep_logs: see `traces`. writable_test: `%test` may write, into memory. environment: the host's. injected:
    `APPTAINERENV_*`. cwd: what relative names are relative to.
    """

    choice: Choice
    environment: Mapping[str, str]
    cwd: str
    epoch: int | None = None
    keep_logs: bool = False
    force: bool = False
    packing: Packing = field(default_factory=Packing)
    binds: tuple[Bind, ...] = ()
    injected: Mapping[str, str] = field(default_factory=dict)
    writable_test: bool = False


@dataclass(frozen=True)
class Job:
    """identity: the builder's, root inside. update: the sandbox that the last stage is, None for an ordinary build."""

    definition: Definition
    settings: Settings
    identity: Identity
    workspace: Workspace
    sources: Sources
    update: str | None = None

    @property
    def single_id(self) -> bool:
        return is_single(self.identity)

    @property
    def unprivileged(self) -> bool:
        return bool(self.identity.uid_map)


@dataclass
class StageState:
    """base: once bootstrapped. scene: where steps happen. base_tree: `/.singularity.d` of the base.

    epoch: once bootstrapped, the time that files of the stage bear. temporary: what `/tmp` and `/var/tmp` held before %post, None without one. frozen: the stage as an image.
    architecture: OCI name.
    """

    index: int
    stage: Stage
    folder: str
    scene: Scene
    upper: str | None = None
    base: Base | None = None
    base_tree: dict[str, bytes] = field(default_factory=dict)
    epoch: int = 0
    temporary: frozenset[str] | None = None
    frozen: ImageRoot | None = None
    architecture: str = ""

    @property
    def started(self) -> Base:
        assert self.base is not None, "the stage is bootstrapped first"
        return self.base


#: A layer of `squash`, see docs/architecture.md.
Layer = dict[str, Any]
