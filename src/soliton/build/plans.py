"""The plan of each step of a build that needs the stage's root: pure functions from facts to `Plan`.

A step happens in one of two places. In the container: the root is `/`, with its own /proc, /dev and process tree, a clean
environment and the host's network (`%post`, `%test`). On the host: the root lies at a directory, everything else is
the host's (`%setup`, and copying where the image has nothing that could run).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soliton.images.metadata import POST_ENVIRONMENT, POST_LABELS
from soliton.launch.identity import is_single
from soliton.launch.plan import (
    Bind,
    Copy,
    DataBind,
    Dev,
    Environment,
    Identity,
    Mount,
    Plan,
    Proc,
    Process,
    Root,
    Surface,
    SynthesizedFile,
    Sys,
    UpperSurface,
)

#: Holds what a step needs inside, and is never part of an image.
STEP_FOLDER = "/.soliton-build"
#: What steps in the container take for the machine's name: one that can be resolved.
HOSTNAME = "localhost"
SCRIPT = f"{STEP_FOLDER}/post.script"
APT_CONF = f"{STEP_FOLDER}/apt.conf"
#: apt hands downloading to another user and checks that this worked, which a root of a single id cannot have; and gives
#: directories to that user, which is to be the same whoever builds.
APT_AS_ROOT = 'APT::Sandbox::User "root";\n'
#: Variables of the host that reach a step in the container.
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")
PASSED = ("TERM", *_PROXIES, *(name.upper() for name in _PROXIES))
_PREFIXES = ("SOLITON", "APPTAINER", "SINGULARITY")


@dataclass(frozen=True)
class Scene:
    """What the steps of one stage have in common.

    surface: where writes go. environment: the host's, whole. injected: `APPTAINERENV_*`. hosts, resolv_conf: texts of
    the host's files, None where there is none. binds: of the user. reporter: see Plan.
    epoch: the time that the steps are told, None before there is one.
    """

    identity: Identity
    root: Root
    surface: Surface
    environment: Mapping[str, str]
    injected: Mapping[str, str] = field(default_factory=dict)
    hosts: str | None = None
    resolv_conf: str | None = None
    binds: tuple[Bind | DataBind, ...] = ()
    reporter: tuple[str, ...] = ()
    epoch: int | None = None

    @property
    def mapped(self) -> bool:
        """Root in a user namespace only."""
        return bool(self.identity.uid_map)

    @property
    def single_id(self) -> bool:
        """Root is all there is: ownership and devices are emulated."""
        return is_single(self.identity)

    @property
    def owners(self) -> str | None:
        """Where owners are noted that such a root gives to what cannot carry them."""
        return (
            notes_of(self.surface.upper)
            if self.single_id and isinstance(self.surface, UpperSurface)
            else None
        )


def notes_of(upper: str) -> str:
    """The file beside an upper directory where owners of its links and pipes are noted."""
    return f"{upper}.owners"


def both(name: str, value: str) -> dict[str, str]:
    """A variable under every prefix by which scripts know it."""
    return {f"{prefix}_{name}": value for prefix in _PREFIXES}


def in_container(scene: Scene, argv: tuple[str, ...], script: str, copies: tuple[Copy, ...] = ()) -> Plan:
    """A step inside: `argv` runs the text `script`, which lies at SCRIPT, as root, in `/`."""
    files = [
        SynthesizedFile(SCRIPT, script, 0o755, origin="%post"),
        SynthesizedFile(APT_CONF, APT_AS_ROOT, origin="build"),
    ]
    variables = {**both("ENVIRONMENT", POST_ENVIRONMENT), **both("LABELS", POST_LABELS), "HOME": "/root"}
    variables["APT_CONFIG"] = APT_CONF
    return Plan(
        identity=scene.identity,
        root=scene.root,
        surface=scene.surface,
        mounts=(*system(scene), *files, *scene.binds),
        process=_process(scene, "exec", argv, variables),
        namespaces=("pid", "uts"),
        hostname=HOSTNAME,
        copies=copies,
        name="%post",
        reporter=scene.reporter,
    )


def test(scene: Scene) -> Plan:
    """The image's own test, as `test` would run it, but as the builder."""
    return Plan(
        identity=scene.identity,
        root=scene.root,
        surface=scene.surface,
        mounts=(*system(scene), *scene.binds),
        process=_process(scene, "test", (), {"HOME": "/root"}),
        namespaces=("pid",),
        name="%test",
        reporter=scene.reporter,
    )


def on_host(
    scene: Scene,
    argv: tuple[str, ...],
    mount_at: str,
    cwd: str,
    copies: tuple[Copy, ...] = (),
    *,
    mounts: tuple[Mount, ...] = (),
    more: Mapping[str, str] | None = None,
) -> Plan:
    """A step on the host, with the root at `mount_at`. mounts: in the root. more: variables."""
    variables = {
        **scene.environment,
        **both("ENVIRONMENT", POST_ENVIRONMENT),
        **both("ROOTFS", mount_at),
        **same_everywhere(scene),
        **(more or {}),
    }
    return Plan(
        identity=scene.identity,
        root=scene.root,
        surface=scene.surface,
        mounts=mounts,
        process=Process(
            action="exec",
            argv=argv,
            environment=Environment(fixed=variables, evaluate=False, scripts=False),
            cwd=(cwd, "/"),
            umask=0o022,
            capabilities="all",
            emulate_root=scene.single_id,
            emulate_devices=scene.mapped and not scene.single_id,
            owners=scene.owners,
        ),
        copies=copies,
        mount_at=mount_at,
        name="%setup",
        reporter=scene.reporter,
    )


def system(scene: Scene) -> tuple[Mount, ...]:
    taken = {bind.target for bind in scene.binds}
    mounts: list[Mount] = [
        Proc(origin="build"),
        Sys(origin="build"),
        Dev(minimal=True, origin="build"),
    ]
    for target, text in (("/etc/hosts", scene.hosts), ("/etc/resolv.conf", scene.resolv_conf)):
        if text is not None and target not in taken:
            # Not quite the host's text: package managers replace a file that looks untouched, which a mount forbids.
            mounts.append(SynthesizedFile(target, text + "\n", optional=True, origin="build"))
    return tuple(mounts)


def same_everywhere(scene: Scene) -> dict[str, str]:
    """Variables by which programs leave the clock and chance out of what they make."""
    return {} if scene.epoch is None else {"SOURCE_DATE_EPOCH": str(scene.epoch), "PYTHONHASHSEED": "0"}


def _process(scene: Scene, action: str, argv: tuple[str, ...], variables: Mapping[str, str]) -> Process:
    assert action in ("exec", "test")
    passed = {name: scene.environment[name] for name in PASSED if name in scene.environment}
    return Process(
        action="test" if action == "test" else "exec",
        argv=argv,
        environment=Environment(
            host={**passed, **same_everywhere(scene), "LANG": "C"},
            injected=dict(scene.injected),
            fixed=dict(variables),
        ),
        cwd=("/",),
        umask=0o022,
        capabilities="all",
        emulate_root=scene.single_id,
        emulate_devices=scene.mapped and not scene.single_id,
        owners=scene.owners,
    )
