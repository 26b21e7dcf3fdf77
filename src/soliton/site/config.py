"""The one configuration, `soliton.toml`: the values that hold, and where they are looked for.

Files are read in this order, and a later one wins: `/etc/soliton/soliton.toml` of the machine, `PREFIX/etc/soliton/soliton.toml` of
an installation elsewhere, `~/.config/soliton/soliton.toml` of the user (or, instead of these two, the file of `--config`). What is the
site's to settle, and what a site locks, no later file, flag or variable changes: see `soliton.site.settings`.

On the start path: where there is no file, this costs a `stat` each and nothing else.
"""

from __future__ import annotations

import os

from soliton.record import record
from soliton.site import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "soliton.toml"
#: Of the machine. Everybody's installation reads it.
MACHINE = f"/etc/soliton/{NAME}"


@record
class Config:
    """Every directive with its default; names as in the file, `-` as `_`. What they mean is in `soliton.site.directives`.

    sessiondir_max_size in bytes. The lists of the peers that are unset by default are empty.
    """

    bind_path: tuple[str, ...] = ("/etc/localtime", "/etc/hosts")
    mount_proc: bool = True
    mount_sys: bool = True
    mount_dev: str = "yes"
    mount_devpts: bool = True
    mount_home: bool = True
    mount_tmp: bool = True
    mount_hostfs: bool = False
    config_passwd: bool = True
    config_group: bool = True
    config_resolv_conf: bool = True
    enable_overlay: str = "yes"
    enable_underlay: str = "yes"
    sessiondir_max_size: int = 64 << 20
    guard: str = "soliton"
    cache_dir: str = ""
    tmp_dir: str = ""
    binary_path: str = "$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    download_concurrency: int = 3
    mksquashfs_procs: int = 0
    systemd_cgroups: bool = True
    always_use_nv: bool = False
    always_use_rocm: bool = False
    use_nvidia_container_cli: bool = False
    user_bind_control: bool = True
    enable_fusemount: bool = True
    allow_user_ns: bool = True
    allow_pid_ns: bool = True
    allow_ipc_ns: bool = True
    allow_uts_ns: bool = True
    allow_container_sif: bool = True
    allow_container_encrypted: bool = True
    allow_container_squashfs: bool = True
    allow_container_extfs: bool = True
    allow_container_dir: bool = True
    limit_container_owners: tuple[str, ...] = ()
    limit_container_groups: tuple[str, ...] = ()
    limit_container_paths: tuple[str, ...] = ()
    root_default_capabilities: str = "full"


DEFAULTS = Config()


@record
class Settings:
    """The configuration and where it comes from.

    looked_at: every place where a file could be, in order: if one of them appears, changes or goes, so may all this.
    origins: of each directive that a file sets, by its name: `path:line`, one for each value of a list.
    locked: of each directive that no later file may set: `path:line` of what says so.
    notices: what to tell the user, as warnings.
    """

    config: Config = DEFAULTS
    looked_at: tuple[str, ...] = ()
    origins: Mapping[str, tuple[str, ...]] = {}
    locked: Mapping[str, str] = {}
    notices: tuple[str, ...] = ()


@record
class Place:
    """Where a file may be. role: `machine`, `installation`, `user`, or `chosen` for the file of `--config`."""

    role: str
    path: str


_chosen: str | None = None
_current: Settings | None = None


def current() -> Settings:
    """What holds for this process, read once. Raises SolitonError for a file that cannot be read or makes no sense."""
    global _current
    if _current is None:
        _current = load(places(os.environ, paths.home_of_caller(os.environ), chosen=_chosen))
        if _current.notices:
            from soliton import messages

            for notice in _current.notices:
                messages.warning(notice)
    return _current


def choose(path: str) -> None:
    """Takes the file of `--config` from now on. Raises SolitonError where that is not for the caller to say."""
    global _chosen, _current
    from soliton.site.settings import require_may_choose

    require_may_choose()
    _chosen, _current = os.path.abspath(path), None


def places(environment: Mapping[str, str], home: str, *, chosen: str | None = None) -> tuple[Place, ...]:
    """Where configuration may be, in the order in which it is read."""
    found = [Place("machine", MACHINE)]
    if chosen is not None:
        return (*found, Place("chosen", chosen))
    installation = of_installation()
    if installation != MACHINE:
        found.append(Place("installation", installation))
    return (*found, Place("user", of_user(environment, home)))


def of_user(environment: Mapping[str, str], home: str) -> str:
    return f"{paths.configuration(environment, home)}/{NAME}"


def of_installation() -> str:
    """`PREFIX/etc/soliton/soliton.toml`; for an installation in `/usr` that is the machine's."""
    prefix = prefix_of(__file__)
    return MACHINE if prefix in ("/usr", "/") else f"{prefix}/etc/soliton/{NAME}"


def prefix_of(module: str) -> str:
    """PREFIX of `PREFIX/lib/pythonX.Y/site-packages/soliton/…`. `make install` has an environment of its own in `PREFIX/lib/soliton`."""
    head, found, _ = os.path.abspath(module).rpartition("/lib/python3")
    if not found:
        import sys

        head = sys.prefix
    return head.removesuffix("/lib/soliton") or "/"


def load(where: tuple[Place, ...]) -> Settings:
    """What the files in these places say. Raises SolitonError."""
    present = []
    for place in where:
        try:
            os.stat(place.path)
        except (FileNotFoundError, NotADirectoryError):
            if place.role == "chosen":
                present.append(place)  # is missed when it is read
        except OSError as error:
            # A home that cannot be entered holds no wishes; rules of the site that cannot be read must not be passed over.
            if place.role != "user":
                from soliton.site.settings import unreadable

                raise unreadable(place, error) from None
        else:
            present.append(place)
    looked_at = tuple(place.path for place in where)
    if not present:
        return Settings(looked_at=looked_at)
    from soliton.record import replace
    from soliton.site.settings import read

    return replace(read(tuple(present)), looked_at=looked_at)
