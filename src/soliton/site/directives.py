"""Every directive of `soliton.toml` as data: what it may hold, what it is for, whose it is to settle.

Validation, `soliton config`, the import of a peer's configuration and the guide's list read the same records. Defaults are
those of `soliton.site.config.Config`, which has a field for each.
"""

from __future__ import annotations

from soliton.record import record
from soliton.site.config import DEFAULTS, Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["flag", "choice", "mebibytes", "count", "list", "text", "folder"]
    Value = bool | int | str | tuple[str, ...]

MOUNTS = "What every container sees"
WRITING = "Writing and memory"
PLACES = "Places and programs"
TRANSFER = "Fetching and building"
DEVICES = "Devices and limits"
POLICY = "What users may do"

#: A directive is `yes` or `no` and more: these words are also written as true and false.
_YES_OR_NO = {True: "yes", False: "no"}


class ValueProblem(Exception):
    """A value that its directive cannot take; the text says what was expected."""


@record
class Directive:
    """name: as in the file. choices: the only values of a `choice`. peer: the name in the peers' configuration, None: it has none.

    policy: for the site to settle: counts only in a file of root's that nobody else can write. built: False if it is not read yet.
    """

    name: str
    kind: Kind
    group: str
    help: str
    choices: tuple[str, ...] = ()
    peer: str | None = None
    policy: bool = False
    built: bool = True

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    @property
    def default(self) -> Value:
        return value_of(DEFAULTS, self)

    def read(self, value: object) -> Value:
        """The value as the configuration holds it. Raises ValueProblem."""
        return _READERS[self.kind](self, value)


def value_of(config: Config, directive: Directive) -> Value:
    found: Value = getattr(config, directive.field)
    return found


def _flag(directive: Directive, value: object) -> Value:
    if isinstance(value, bool):
        return value
    raise ValueProblem("expected true or false")


def _choice(directive: Directive, value: object) -> Value:
    word = _YES_OR_NO[value] if isinstance(value, bool) else value
    if isinstance(word, str) and word in directive.choices:
        return word
    raise ValueProblem(f"expected one of {', '.join(directive.choices)}")


def _mebibytes(directive: Directive, value: object) -> Value:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 30:
        return value << 20
    raise ValueProblem("expected a number of MiB, at least 1")


def _count(directive: Directive, value: object) -> Value:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4096:
        return value
    raise ValueProblem("expected a number from 0 to 4096")


def _list(directive: Directive, value: object) -> Value:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueProblem("expected a list of texts in brackets")
    for part in value:
        if not part or "\0" in part:
            raise ValueProblem("expected no empty text in the list")
        if directive.name == "limit-container-paths" and not part.startswith("/"):
            raise ValueProblem(f"`{part}` is not an absolute path")
        if directive.name == "bind-path":
            _require_bind(part)
    return tuple(value)


def _require_bind(text: str) -> None:
    fields = text.split(":")
    if len(fields) > 3 or not all(field.startswith("/") for field in fields[:2] if field):
        raise ValueProblem(f"`{text}` is not /SRC, /SRC:/DST or /SRC:/DST:ro")
    if not fields[0] or (len(fields) == 3 and fields[2] not in ("ro", "rw")):
        raise ValueProblem(f"`{text}` is not /SRC, /SRC:/DST or /SRC:/DST:ro")


def _text(directive: Directive, value: object) -> Value:
    if isinstance(value, str) and "\0" not in value and "\n" not in value:
        return value
    raise ValueProblem("expected a text of one line")


def _folder(directive: Directive, value: object) -> Value:
    if (isinstance(value, str) and "\0" not in value and value.startswith(("/", "~/", "$"))) or value == "":
        return str(value)
    raise ValueProblem("expected an absolute path, which may begin with ~/ or hold $USER and other variables")


_READERS = {
    "flag": _flag,
    "choice": _choice,
    "mebibytes": _mebibytes,
    "count": _count,
    "list": _list,
    "text": _text,
    "folder": _folder,
}


def _peers(name: str, kind: Kind, group: str, help: str, **more: object) -> Directive:
    """A directive that the peers have under the same name, written with blanks."""
    return Directive(name, kind, group, help, **{"peer": name.replace("-", " "), **more})  # type: ignore[arg-type]


def _policy(name: str, kind: Kind, help: str, **more: object) -> Directive:
    return _peers(name, kind, POLICY, help, policy=True, **more)


DIRECTIVES = (
    _peers(
        "bind-path",
        "list",
        MOUNTS,
        "shown in every container that is not contained, as /SRC, /SRC:/DST or /SRC:/DST:ro; absent ones are passed over",
    ),
    _peers("mount-proc", "flag", MOUNTS, "/proc"),
    _peers("mount-sys", "flag", MOUNTS, "/sys"),
    _peers(
        "mount-dev",
        "choice",
        MOUNTS,
        "/dev of the host, only what programs need of it, or none",
        choices=("yes", "no", "minimal"),
    ),
    _peers("mount-devpts", "flag", MOUNTS, "terminals of its own in a minimal /dev"),
    _peers("mount-home", "flag", MOUNTS, "the user's home directory"),
    _peers("mount-tmp", "flag", MOUNTS, "/tmp and /var/tmp"),
    _peers("mount-hostfs", "flag", MOUNTS, "every other file system of the host, at its own path"),
    _peers("config-passwd", "flag", MOUNTS, "a line for the user in /etc/passwd"),
    _peers("config-group", "flag", MOUNTS, "lines for the user's groups in /etc/group"),
    _peers(
        "config-resolv-conf",
        "flag",
        MOUNTS,
        "/etc/resolv.conf of the host",
        peer="config resolv_conf",
    ),
    Directive(
        "guard",
        "choice",
        MOUNTS,
        "leave out settings of the host's Python, R, Perl and conda: when called as soliton, under every name, or never",
        choices=("soliton", "always", "never"),
    ),
    _peers(
        "enable-overlay",
        "choice",
        WRITING,
        "use the kernel's overlay: for missing mount points, --overlay and --writable-tmpfs",
        choices=("yes", "no", "try", "driver"),
    ),
    _peers(
        "enable-underlay",
        "choice",
        WRITING,
        "make missing mount points by binds where there is no overlay, or rather than by one",
        choices=("yes", "no", "preferred"),
    ),
    _peers(
        "sessiondir-max-size",
        "mebibytes",
        WRITING,
        "MiB of memory for each of --writable-tmpfs, --scratch, and /tmp and home of --contain",
        peer="sessiondir max size",
    ),
    Directive(
        "cache-dir",
        "folder",
        PLACES,
        "where fetched images are kept, instead of ~/.cache/soliton; $USER and other variables are filled in",
    ),
    Directive(
        "tmp-dir",
        "folder",
        PLACES,
        "for temporary files, where no variable says otherwise; $USER and other variables are filled in",
    ),
    _peers(
        "binary-path",
        "text",
        PLACES,
        "where programs that soliton calls are looked for; $PATH is the user's",
    ),
    _peers("download-concurrency", "count", TRANSFER, "layers of an image that are fetched at the same time"),
    _peers("mksquashfs-procs", "count", TRANSFER, "processors that write an image, 0 for all"),
    _peers(
        "systemd-cgroups",
        "flag",
        DEVICES,
        "ask the user's systemd for a control group where a limit needs one; else only what is delegated is used",
    ),
    _peers("always-use-nv", "flag", DEVICES, "--nv for everybody"),
    _peers("always-use-rocm", "flag", DEVICES, "--rocm for everybody"),
    _peers(
        "use-nvidia-container-cli",
        "flag",
        DEVICES,
        "--nvccli where --nv is given",
        peer="use nvidia-container-cli",
    ),
    _policy("user-bind-control", "flag", "binds of the user's choice, and the working directory"),
    _policy("enable-fusemount", "flag", "--fusemount"),
    _policy("allow-user-ns", "flag", "user namespaces; without them only root can run containers"),
    _policy("allow-pid-ns", "flag", "PID namespaces"),
    _policy("allow-ipc-ns", "flag", "IPC namespaces"),
    _policy("allow-uts-ns", "flag", "UTS namespaces"),
    _policy("allow-container-sif", "flag", "SIF images"),
    _policy("allow-container-encrypted", "flag", "encrypted SIF images"),
    _policy("allow-container-squashfs", "flag", "bare squashfs images"),
    _policy("allow-container-extfs", "flag", "ext3 images"),
    _policy("allow-container-dir", "flag", "sandbox directories"),
    _policy("limit-container-owners", "list", "only images that belong to these users"),
    _policy("limit-container-groups", "list", "only images that belong to these groups"),
    _policy("limit-container-paths", "list", "only images in these directories and below"),
    _policy(
        "root-default-capabilities",
        "choice",
        "what root can do in a container without --keep-privs",
        choices=("full", "no"),
    ),
)

BY_NAME = {directive.name: directive for directive in DIRECTIVES}

_SETUID = "it is about a setuid program, and soliton has none"
#: Directives of the peers that say nothing to soliton, by their names there, and why.
WITHOUT_MEANING = {
    "allow setuid": _SETUID,
    "allow setuid-mount encrypted": _SETUID,
    "allow setuid-mount squashfs": _SETUID,
    "allow setuid-mount extfs": _SETUID,
    "allow net users": "networks of soliton need no privilege that could be granted",
    "allow net groups": "networks of soliton need no privilege that could be granted",
    "allow net networks": "networks of soliton need no privilege that could be granted",
    "allow netns paths": "only root can join another's network namespace",
    "mount slave": "file systems mounted later on the host always appear, and never the other way",
    "max loop devices": "no loop devices are used",
    "shared loop devices": "no loop devices are used",
    "memory fs type": "memory is always a tmpfs, which can be limited",
    "cni configuration path": "networks are not made by CNI plugins",
    "cni plugin path": "networks are not made by CNI plugins",
    "image driver": "images are always mounted by soliton itself",
    "mksquashfs mem": "the memory of writing is bounded anyway",
    "mksquashfs path": "images are written by soliton itself",
    "unsquashfs path": "images are read by soliton itself",
    "suidbinary path": _SETUID,
    "sync writable extfs": "what was committed to an ext3 image is always on disk",
    "download part size": "each layer comes in one stream, which is resumed if it breaks off",
    "download buffer size": "each layer comes in one stream, which is resumed if it breaks off",
    "apptheus communication socket path": "there is no monitoring by Apptheus",
    "allow monitoring": "there is no monitoring by Apptheus",
    "allow kernel squashfs": "the kernel never reads an image",
    "allow kernel extfs": "the kernel never reads an image",
    "oci mode": "there is one way to run",
    "sif fuse": "images are always mounted by FUSE",
    "tmp sandbox": "images are unpacked only if `--unsquash` asks for it",
    "root search path": "use `binary path`",
    "user search path": "use `binary path`",
    "cryptsetup path": "use `binary path`",
    "go path": "plugins are not compiled by soliton",
    "ldconfig path": "use `binary path`",
    "nvidia-container-cli path": "use `binary path`",
}


def named(word: str) -> Directive | None:
    """The directive of this name, however its words are joined, or by its name at the peers."""
    return BY_NAME.get("-".join(word.lower().replace("_", " ").replace("-", " ").split()))


def nearest(word: str) -> str | None:
    """A question naming what may have been meant, or why it has no meaning here."""
    from difflib import get_close_matches

    spaced = " ".join(word.lower().replace("_", " ").split())
    for name, why in WITHOUT_MEANING.items():
        if name.replace("-", " ") == spaced.replace("-", " "):
            return f"it has no meaning here: {why}"
    found = named(word)
    if found is not None:
        return f"did you mean `{found.name}`?"
    near = get_close_matches(word, BY_NAME, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else "`soliton config show` lists all there are"
