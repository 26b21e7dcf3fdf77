"""What the user asked for: one record for exec, run, shell and test. Field names are those of the options."""

from __future__ import annotations

from soliton.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from soliton.launch.limits import Asked

    Action = Literal["exec", "run", "shell", "test", "start"]

#: As the kernel takes them.
_LONGEST_HOSTNAME = 64


@record
class ActionRequest:
    """image: as typed. argv: the command or the arguments. program: the name soliton was called by.

    env_files: text of every `--env-file`, in order. origins: for each option that was given, by its long name, where each
    value comes from: a flag as it was written, or a variable.
    """

    action: Action
    image: str
    argv: tuple[str, ...] = ()
    program: str = "soliton"
    app: str | None = None
    bind: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    overlay: tuple[str, ...] = ()
    contain: bool = False
    containall: bool = False
    compat: bool = False
    cleanenv: bool = False
    env: Mapping[str, str] = {}
    env_files: tuple[str, ...] = ()
    no_env: tuple[str, ...] = ()
    no_eval: bool = False
    no_guard: bool = False
    runscript_timeout: float | None = None
    home: str | None = None
    no_home: bool = False
    no_mount: tuple[str, ...] = ()
    cwd: str | None = None
    workdir: str | None = None
    scratch: tuple[str, ...] = ()
    pid: bool = False
    no_pid: bool = False
    ipc: bool = False
    uts: bool = False
    net: bool = False
    network: tuple[str, ...] = ()
    network_args: tuple[str, ...] = ()
    netns_path: str | None = None
    hostname: str | None = None
    dns: tuple[str, ...] = ()
    no_init: bool = False
    sharens: bool = False
    fusemount: tuple[str, ...] = ()
    fakeroot: bool = False
    writable: bool = False
    writable_tmpfs: bool = False
    underlay: bool = False
    unsquash: bool = False
    umask: int | None = None
    no_umask: bool = False
    no_privs: bool = False
    keep_privs: bool = False
    security: tuple[str, ...] = ()
    nv: bool = False
    nvccli: bool = False
    no_nv: bool = False
    no_rocm: bool = False
    rocm: bool = False
    intel_hpu: bool = False
    device: tuple[str, ...] = ()
    cdi_dirs: tuple[str, ...] = ()
    containlibs: tuple[str, ...] = ()
    allow_setuid: bool = False
    add_caps: tuple[str, ...] = ()
    drop_caps: tuple[str, ...] = ()
    ignore_subordinate_ids: bool = False
    no_setgroups: bool = False
    shell: str | None = None
    tmpdir: str | None = None
    instance: str | None = None
    boot: bool = False
    limits: Asked | None = None
    origins: Mapping[str, tuple[str, ...]] = {}

    def settled(self) -> ActionRequest:
        """Options that stand for others, spelled out."""
        request = self
        if request.compat:
            request = replace(
                request,
                containall=True,
                no_init=True,
                no_umask=self.no_umask or self.umask is None,
                no_eval=True,
                writable_tmpfs=not self.writable,
            )
        if request.boot:
            # An init clears /tmp, sets the host name and configures interfaces: none of the host's.
            request = replace(request, containall=True, uts=True)
            if not (request.net or request.network or request.network_args or request.netns_path):
                request = replace(request, net=True, network=("none",))
            if request.hostname is None and request.instance is not None:
                request = replace(request, hostname=request.instance[:_LONGEST_HOSTNAME])
        if request.containall:
            request = replace(request, contain=True, cleanenv=True, pid=True, ipc=True)
        if request.no_pid:
            request = replace(request, pid=False)
        if request.fusemount:
            # Else a program inside would keep its own file system, and itself, for ever.
            request = replace(request, pid=True)
        if request.nvccli:
            request = replace(request, nv=True)
        if request.network or request.network_args:
            request = replace(request, net=True)
        if request.hostname:
            request = replace(request, uts=True)
        return request
