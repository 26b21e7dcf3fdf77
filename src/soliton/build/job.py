"""What a whole build is about, and what is known of each of its stages while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.build.bootstrap import Base, Sources
from soliton.build.compression import Packing
from soliton.build.definition import Definition, Stage
from soliton.build.lockfile import Lock
from soliton.build.plans import Scene
from soliton.build.provenance import Arguments
from soliton.build.step_cache import StepCache
from soliton.build.steps import Choice
from soliton.build.workspace import Workspace
from soliton.launch.identity import is_single
from soliton.launch.plan import Bind, DataBind, Identity, ImageRoot, Plan


def _as_it_is(plan: Plan) -> Plan:
    return plan


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    architecture: of an image whose base has none, OCI name. epoch: the time that images bear, Unix seconds; None: see `epoch`. keep_logs: see `traces`.
    arguments: for the provenance. lock: whether the image keeps one, and the recipe's is written. held_to: the lock that the build has to
    agree with, held_by: its name, held_packages: whether in its packages, too. kept_lock: text of a lock that the image keeps as it is. writable_test: `%test` may write, into memory. debug_shell: a failed step is shown from inside. environment: the host's. injected:
    `APPTAINERENV_*`. furnish: shows the plan of a step devices of the host; shown: what tells them from others. cwd: what relative names are relative to.
    """

    choice: Choice
    environment: Mapping[str, str]
    cwd: str
    architecture: str = ""
    epoch: int | None = None
    keep_logs: bool = False
    arguments: Arguments = field(default_factory=Arguments)
    lock: bool = False
    held_to: Lock | None = None
    held_by: str = ""
    kept_lock: str = ""
    held_packages: bool = True
    force: bool = False
    packing: Packing = field(default_factory=Packing)
    binds: tuple[Bind | DataBind, ...] = ()
    furnish: Callable[[Plan], Plan] = _as_it_is
    shown: str = ""
    injected: Mapping[str, str] = field(default_factory=dict)
    writable_test: bool = False
    debug_shell: bool = False


@dataclass(frozen=True)
class Job:
    """identity: the builder's, root inside. update: the sandbox that the last stage is, None for an ordinary build.

    cache: of the results of steps; None: nothing is kept. log: where the output of a step goes, too.
    """

    definition: Definition
    settings: Settings
    identity: Identity
    workspace: Workspace
    sources: Sources
    update: str | None = None
    cache: StepCache | None = None
    log: str | None = None

    @property
    def single_id(self) -> bool:
        return is_single(self.identity)

    @property
    def unprivileged(self) -> bool:
        return bool(self.identity.uid_map)


@dataclass
class StageState:
    """base: once bootstrapped. scene: where steps happen. base_tree: `/.singularity.d` of the base.

    epoch: once bootstrapped, the time that files of the stage bear. base_digest: of the base, empty if there is none.
    force_matters: whether `--force` makes a difference. taken: files of the host that were copied → their digests. temporary: what `/tmp` and `/var/tmp` held before %post, None without one. frozen: the stage as an image.
    architecture: OCI name, empty while nothing says it. layers: results of steps, lowest first; upper: over them, what is
    written now. maker: without subordinate ids, whose new files are of which nothing is said. joined: the lowest `joined_count` of the layers as one. key: of what is there so far, in the step cache.
    """

    index: int
    stage: Stage
    folder: str
    scene: Scene
    upper: str | None = None
    maker: tuple[int, int] = (0, 0)
    layers: list[ImageRoot] = field(default_factory=list)
    joined: ImageRoot | None = None
    joined_count: int = 0
    key: str = ""
    base: Base | None = None
    base_tree: dict[str, bytes] = field(default_factory=dict)
    epoch: int = 0
    base_digest: Callable[[], str] = str
    force_matters: bool = False
    taken: dict[str, str] = field(default_factory=dict)
    temporary: frozenset[str] | None = None
    frozen: ImageRoot | None = None
    architecture: str = ""

    @property
    def started(self) -> Base:
        assert self.base is not None, "the stage is bootstrapped first"
        return self.base


#: A layer of `squash`, see docs/architecture.md.
Layer = dict[str, Any]
