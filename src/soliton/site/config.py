"""The site's rules for what a container sees: the peers' directives, with their defaults."""

from __future__ import annotations

from soliton.record import record


@record
class Config:
    """Names as the peers' configuration file has them; sessiondir_max_size in bytes."""

    mount_proc: bool = True
    mount_sys: bool = True
    mount_dev: str = "yes"
    mount_home: bool = True
    mount_tmp: bool = True
    config_passwd: bool = True
    config_group: bool = True
    config_resolv_conf: bool = True
    bind_path: tuple[str, ...] = ("/etc/localtime", "/etc/hosts")
    sessiondir_max_size: int = 64 << 20


DEFAULTS = Config()
