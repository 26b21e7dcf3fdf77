"""The plan: what a container is and sees, as plain data.

A plan is compiled by `soliton.launch.compile`, printed, stored, and executed by the native core
(`core/src/plan.rs` has the same records, with the same names). Nothing here looks at the machine.
Every variant of a union carries its name in `kind`; the wire form is JSON, see `soliton.core.encode`.
"""

from __future__ import annotations

from soliton.messages import INFO
from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    Namespace = Literal["pid", "ipc", "uts", "net", "cgroup"]
    #: Device and inode of what was looked at, with which the core compares what it opens; None: it takes what is there.
    Seen = tuple[int, int] | None


@record
class IdRange:
    """`count` ids from `inside` on are the ids from `outside` on (user_namespaces(7))."""

    inside: int
    outside: int
    count: int


@record
class Identity:
    """Who the payload is, and how that maps to the caller.

    uid_map, gid_map: empty = no user namespace (real root). One entry of count 1 is written by the
    process itself; anything else through `newuidmap`/`newgidmap`, absolute paths.
    uid, gid: ids inside, which the payload gets. groups: further ones, empty = those it has.
    keep_groups: nobody inside can change the groups they have (setgroups(2) is denied for good).
    """

    uid: int
    gid: int
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    newuidmap: str | None = None
    newgidmap: str | None = None
    groups: tuple[int, ...] = ()
    keep_groups: bool = False


@record
class ImageRoot:
    """A squashfs image inside the file `path`, `size` bytes from `offset`.

    ids: "stored" shows the ids recorded in the image, "caller" shows every file as owned by `uid`/`gid`
    of the identity (for maps of a single id).
    """

    path: str
    offset: int
    size: int
    ids: Literal["stored", "caller"] = "caller"
    seen: Seen = None
    kind: Literal["image"] = "image"


@record
class DirectoryRoot:
    path: str
    seen: Seen = None
    kind: Literal["directory"] = "directory"


@record
class ExtRoot:
    """An ext3 file system inside the file `path`, `size` bytes from `offset`, locked for one writer or many readers.

    inside: as a layer, the directory of it that counts, if it is there. ids: as those of an ImageRoot.
    """

    path: str
    offset: int
    size: int
    writable: bool = False
    inside: str = ""
    ids: Literal["stored", "caller"] = "caller"
    seen: Seen = None
    kind: Literal["ext"] = "ext"


@record
class StackRoot:
    """Layers over one another, lowest first; in all but the lowest the marks of overlayfs count."""

    layers: tuple[ImageRoot | DirectoryRoot | ExtRoot, ...]
    kind: Literal["stack"] = "stack"


Root = ImageRoot | DirectoryRoot | ExtRoot | StackRoot


@record
class ReadOnlySurface:
    """Nothing in the root can be written; missing mount points are made all the same.

    layer: "overlay" makes them in a discarded upper directory, "underlay" by binds around them,
    "auto" takes the first that works here.
    """

    layer: Literal["auto", "overlay", "underlay"] = "auto"
    kind: Literal["read-only"] = "read-only"


@record
class TmpfsSurface:
    """Writes go to memory, `size` bytes at most, and are gone with the container."""

    size: int
    kind: Literal["tmpfs"] = "tmpfs"


@record
class UpperSurface:
    """Writes go to the directory `upper`; `work` is an empty directory on the same file system. With an image both are
    directories at its root, made if they are missing.

    lock: a file, made if it is missing, that whoever writes there keeps locked: one container at a time. seen: of a directory
    `upper` of the host.
    """

    upper: str
    work: str
    image: ExtRoot | None = None
    lock: str | None = None
    seen: Seen = None
    kind: Literal["upper"] = "upper"


@record
class DirectSurface:
    """The root directory itself is written."""

    kind: Literal["direct"] = "direct"


Surface = ReadOnlySurface | TmpfsSurface | UpperSurface | DirectSurface


@record
class Bind:
    """`source` of the host (absolute, resolved there) appears at `target` inside, submounts included.

    optional: a missing source, or a target that cannot be made, is passed over.
    apart: left out where a link of the image leads the target to a place at which something is mounted already.
    origin: the flag, variable, directive or default this comes from, for people.
    """

    source: str
    target: str
    read_only: bool = False
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    optional: bool = False
    apart: bool = False
    origin: str = ""
    kind: Literal["bind"] = "bind"


@record
class DataBind:
    """`source` inside another image appears at `target`; an image is mounted once, whatever is bound out of it."""

    root: ImageRoot | DirectoryRoot | ExtRoot
    source: str
    target: str
    read_only: bool = False
    origin: str = ""
    kind: Literal["data"] = "data"


@record
class FuseMount:
    """A file system that a program serves: `argv`, then `-f` unless it goes into the background by itself (`daemon`), then
    `/dev/fd/N` for the device. host: it is started on the host, and not in the container.
    """

    argv: tuple[str, ...]
    target: str
    host: bool
    daemon: bool
    origin: str = ""
    kind: Literal["fuse"] = "fuse"


@record
class Tmpfs:
    target: str
    size: int
    mode: int = 0o1777
    origin: str = ""
    kind: Literal["tmpfs"] = "tmpfs"


@record
class Proc:
    """A new procfs where there is a PID namespace, else the host's."""

    target: str = "/proc"
    origin: str = ""
    kind: Literal["proc"] = "proc"


@record
class Sys:
    target: str = "/sys"
    origin: str = ""
    kind: Literal["sys"] = "sys"


@record
class Cgroups:
    """The tree of control groups as a container with a cgroup namespace sees it; left out where it cannot be mounted."""

    target: str = "/sys/fs/cgroup"
    origin: str = ""
    kind: Literal["cgroups"] = "cgroups"


@record
class Emulator:
    """A table of interpreters (binfmt_misc) of the container's user namespace, with the rule `content` in it."""

    content: str
    target: str = "/proc/sys/fs/binfmt_misc"
    origin: str = ""
    kind: Literal["emulator"] = "emulator"


@record
class Dev:
    """`minimal`: null zero full random urandom tty, fd and std links, shm, a new pts (and mqueue with an IPC
    namespace); else the host's /dev, whole. pts: a minimal one has terminals of its own.
    """

    minimal: bool = False
    pts: bool = True
    target: str = "/dev"
    origin: str = ""
    kind: Literal["dev"] = "dev"


@record
class SynthesizedFile:
    """A file with this text, bound over `target`. owner: user and group; None: who makes it."""

    target: str
    content: str
    mode: int = 0o644
    owner: tuple[int, int] | None = None
    optional: bool = False
    origin: str = ""
    kind: Literal["file"] = "file"


@record
class PasswdFile:
    """The image's /etc/passwd with the caller's line: name, gecos and home of an existing uid are replaced
    (only home for uid 0), else the line is appended.
    """

    uid: int
    gid: int
    name: str
    gecos: str
    home: str
    shell: str
    target: str = "/etc/passwd"
    origin: str = ""
    kind: Literal["passwd"] = "passwd"


@record
class GroupFile:
    """The image's /etc/group, and one line for each of (name, gid) that it lacks, with `member` in it."""

    groups: tuple[tuple[str, int], ...]
    member: str
    target: str = "/etc/group"
    origin: str = ""
    kind: Literal["group"] = "group"


Mount = (
    Bind
    | DataBind
    | FuseMount
    | Tmpfs
    | Proc
    | Sys
    | Cgroups
    | Emulator
    | Dev
    | SynthesizedFile
    | PasswdFile
    | GroupFile
)


@record
class Copy:
    """Before the payload starts, `source` is copied to `target` in the root, as `cp -a` (or `cp -rL`) does.

    from_root: where `source` is: None for the host, else an image or directory, resolved inside it; a link named
    as such a source is followed, those below it as `follow` says.
    source may hold glob characters. A target that ends in "/" or is a directory receives the source's name; one that
    is empty is the source's own path. A source that ends in "/." is what is in the directory.
    time: Unix seconds that every copy bears, None: its source's. owner: (user, group) of every copy, mode: its permissions, None: its source's.
    """

    source: str
    target: str
    follow: bool = True
    from_root: Root | None = None
    time: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None


@record
class Environment:
    """How the payload's environment is made: host, then image scripts, then injected.

    host: what the host's environment contributes, already filtered.
    injected: beats the image (`--env`, `APPTAINERENV_*`); values are shell-evaluated if `evaluate`.
    files: scripts (`--env-file`) that are carried out before `injected` is set.
    prepend_path, append_path, path: the special keys (`APPTAINERENV_PREPEND_PATH`, …).
    fixed: set last, whatever the image says (`APPTAINER_NAME`, `HOME`, …).
    scripts: whether /.singularity.d/env/*.sh of the image count.
    """

    host: Mapping[str, str] = {}
    injected: Mapping[str, str] = {}
    fixed: Mapping[str, str] = {}
    path: str | None = None
    prepend_path: str | None = None
    append_path: str | None = None
    files: tuple[str, ...] = ()
    evaluate: bool = True
    scripts: bool = True


@record
class Label:
    """What the kernel's security module is told of the payload: an SELinux context, or the name of an AppArmor profile."""

    kind: Literal["selinux", "apparmor"]
    value: str


@record
class LocaleFallback:
    """name: of a locale that every image has. told_by: of many that start together the one tells the user whose variables of
    these are all 0 or unset.
    """

    name: str
    told_by: tuple[str, ...] = ()


@record
class Process:
    """action: "exec" runs argv; "run", "test" and "start" run the image's script of that name with argv as its
    arguments; "shell" runs the first of `shells` that exists, with argv; "boot" makes /sbin/init process 1 of an instance.
    cwd: candidates inside, the first that exists is taken; with `cwd_required` only the first counts.
    capabilities: "none", "all", or names (CAP_CHOWN) kept in all sets.
    emulate_root: ownership and device calls succeed without effect (seccomp), for a root of a single id.
    emulate_devices: only device calls do, for a root of many ids.
    owners: with emulate_root and an upper directory, a file where owners are noted that links and pipes are given.
    patience: seconds that the image's environment scripts may take, None for a minute.
    filter: a seccomp program for the payload and the image's scripts, an instruction a number: code, jt, jf, k from the top.
    locale: what stands for a locale of the caller's that the image lacks; None: all stay.
    init: with a PID namespace, process 1 is a minimal init and the payload its child.
    Everything above descriptor 2 is closed but the socket that the caller's PMI_FD names, if the payload sees that variable.
    """

    action: Literal["exec", "run", "shell", "test", "start", "boot"]
    argv: tuple[str, ...]
    environment: Environment
    cwd: tuple[str, ...]
    cwd_required: bool = False
    app: str | None = None
    shells: tuple[str, ...] = ()
    umask: int | None = None
    no_new_privs: bool = True
    capabilities: Literal["none", "all"] | tuple[str, ...] = "none"
    emulate_root: bool = False
    emulate_devices: bool = False
    owners: str | None = None
    patience: int | None = None
    label: Label | None = None
    filter: tuple[int, ...] = ()
    locale: LocaleFallback | None = None
    init: bool = True


@record
class Helper:
    """A program of the host's that connects the container's network namespace (user-mode networking).

    argv: absolute path first; the word NETNS stands for the path of the namespace.
    ready: "background" when its first process has ended well, "descriptor" when it writes to descriptor 3.
    """

    argv: tuple[str, ...]
    ready: Literal["background", "descriptor"]


@record
class Sharing:
    """The image may be mounted by a server that other launches of this job use too, and the user namespace is the job's.

    idle: seconds without a new launch after which the server lets go of both.
    """

    idle: int = 30


@record
class Plan:
    """Everything the core needs to start one container.

    mounts are carried out in order. `mount_at`: the assembled root appears at this existing directory of the
    host, whose own root stays `/`: for steps of a build that run outside the container (`%setup`).
    helper: connects a network namespace of the container's own. netns: an existing one that is joined.
    outfitter: argv of a program of the host that adds to the root before it is entered; the word ROOT stands for its path.
    sharing: None mounts the image for this container alone, in a user namespace of its own.
    attached: the container ends when the process that starts the core does, even if that is killed.
    reporter: argv that explains a failure; the core appends one argument, the failure as JSON.
    level: the least important messages that the core tells, a number of `soliton.messages`.
    """

    identity: Identity
    root: Root
    surface: Surface
    mounts: tuple[Mount, ...]
    process: Process
    namespaces: tuple[Namespace, ...] = ()
    hostname: str | None = None
    helper: Helper | None = None
    netns: str | None = None
    outfitter: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    mount_at: str | None = None
    name: str = ""
    sharing: Sharing | None = None
    attached: bool = False
    reporter: tuple[str, ...] = ()
    level: int = INFO
    version: int = 1
