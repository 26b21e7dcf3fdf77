"""What programs write into every image although no image needs it, and never twice the same: times of day, logs, random ids.

The image has these files as its base has them. What a step removes is removed. `--keep-logs` keeps everything; the
guide's chapter "Building" repeats this list.
"""

from __future__ import annotations

#: Patterns of paths; a `*` does not reach beyond a `/`.
TRACES = (
    # Logs of package managers.
    "/var/log/alternatives.log",
    "/var/log/apt/*",
    "/var/log/bootstrap.log",
    "/var/log/dnf*.log",
    "/var/log/dpkg.log",
    "/var/log/fontconfig.log",
    "/var/log/hawkey.log",
    "/var/log/pacman.log",
    "/var/log/yum.log",
    "/var/log/zypp/*",
    "/var/log/zypper.log",
    # dnf's own history. Without it dnf takes every package for one that somebody asked for.
    "/var/lib/dnf/history.sqlite*",
    "/usr/lib/sysimage/libdnf5/transaction_history.sqlite*",
    # What is computed again when it is missing.
    "/root/.cache/pip/*",
    "/var/cache/apt/*.bin",
    "/var/cache/dnf/*",
    "/var/cache/ldconfig/aux-cache",
    "/var/cache/libdnf5/*",
    "/var/cache/man/*",
    "/var/cache/yum/*",
    "/var/cache/zypp/*",
    "/var/lib/apt/lists/auxfiles",
    "/var/lib/systemd/catalog/database",
    # Copies that `useradd` and its kin leave behind, with an owner that depends on who builds.
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    # What each machine makes of its own.
    "/etc/machine-id",
    "/root/.gnupg/random_seed",
    "/root/.gnupg/trustdb.gpg",
    "/root/.wget-hsts",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
)
#: What a bootstrap that installs packages copies from the host.
OF_HOST = ("/etc/hostname", "/etc/resolv.conf")
