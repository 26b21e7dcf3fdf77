"""Options of everything that starts a container: exec, run, shell, test and instances."""

from __future__ import annotations

from soliton.cli.options import DURATION, INTEGER, LIST, MAP, PERMISSIONS, TEXT, WHOLE, Option
from soliton.cli.tables.shared import (
    AUTHFILE,
    DISABLE_CACHE,
    DOCKER,
    IGNORE,
    NO_HTTPS,
    NOHTTPS,
    OTHERS,
    PASSPHRASE,
    PEM_PATH,
    TMPDIR,
)

FILES = "Files and directories"
ENVIRONMENT = "Environment and program"
ISOLATION = "Isolation"
IDENTITY = "Identity and privileges"
WRITING = "Writing"
DEVICES = "Devices"
NETWORK = "Network"
LIMITS = "Resource limits"
INSTANCES = "Instances"
EXPLAINING = "Looking before running"

_FILES = (
    Option(
        "bind",
        "B",
        WHOLE,
        "SRC[:DST[:OPTS]]",
        keys=("BIND", "BINDPATH"),
        additive=True,
        group=FILES,
        help="show a file or directory of the host inside; options ro, rw, image-src=, id=; commas separate several",
    ),
    Option(
        "mount",
        None,
        WHOLE,
        "SPEC",
        keys=("MOUNT",),
        additive=True,
        separator="\n",
        group=FILES,
        help="the same as type=bind,source=…,destination=…[,ro][,image-src=…][,id=…]",
    ),
    Option(
        "home",
        "H",
        TEXT,
        "SRC[:DST]",
        keys=("HOME",),
        group=FILES,
        help="home directory inside, instead of the caller's own",
    ),
    Option("no-home", keys=("NO_HOME",), group=FILES, help="do not mount the home directory"),
    Option(
        "no-mount",
        None,
        LIST,
        "NAME",
        keys=("NO_MOUNT",),
        group=FILES,
        help="leave out proc, sys, dev, devpts, home, tmp, hostfs, cwd, bind-paths, or a configured bind by its target",
    ),
    Option(
        "workdir",
        "W",
        TEXT,
        "DIR",
        keys=("WORKDIR",),
        group=FILES,
        help="with --contain: existing directory that holds /tmp, /var/tmp, home and scratch",
    ),
    Option(
        "scratch",
        "S",
        LIST,
        "DIR",
        keys=("SCRATCH", "SCRATCHDIR"),
        group=FILES,
        help="an empty writable directory at this place inside",
    ),
)

_CWD = (
    Option(
        "cwd",
        None,
        TEXT,
        "DIR",
        keys=("CWD", "TARGET_CWD"),
        group=FILES,
        help="working directory inside; it must exist",
    ),
    Option(
        "pwd",
        None,
        TEXT,
        "DIR",
        keys=("PWD", "TARGET_PWD"),
        alias="cwd",
        hidden=True,
        group=FILES,
        help="old spelling of --cwd",
    ),
)

_ENVIRONMENT = (
    Option(
        "env",
        None,
        MAP,
        "NAME=VALUE",
        group=ENVIRONMENT,
        help="set a variable inside; commas separate several; evaluated by shell rules without --no-eval",
    ),
    Option(
        "env-file",
        None,
        LIST,
        "FILE",
        keys=("ENV_FILE",),
        group=ENVIRONMENT,
        help="assignments from a file, later files win, --env wins over files",
    ),
    Option("cleanenv", "e", keys=("CLEANENV",), group=ENVIRONMENT, help="drop the host's environment"),
    Option(
        "no-env", None, LIST, "NAME", keys=("NOENV",), group=ENVIRONMENT, help="do not pass this variable on"
    ),
    Option(
        "no-guard",
        keys=("NO_GUARD",),
        group=ENVIRONMENT,
        help="pass settings of the host's Python, R, Perl and conda too (as under the names of the peers)",
    ),
    Option(
        "no-eval",
        keys=("NO_EVAL",),
        group=ENVIRONMENT,
        help="take injected variables and OCI arguments literally, no shell rules",
    ),
    Option(
        "app", None, TEXT, "NAME", keys=("APP", "APPNAME"), group=ENVIRONMENT, help="a SCIF app of the image"
    ),
    Option(
        "umask",
        None,
        PERMISSIONS,
        "OCTAL",
        keys=("UMASK",),
        group=ENVIRONMENT,
        help="this umask instead of the caller's",
    ),
    Option("no-umask", keys=("NO_UMASK",), group=ENVIRONMENT, help="umask 0022 instead of the caller's"),
)

_ISOLATION = (
    Option(
        "contain",
        "c",
        keys=("CONTAIN",),
        group=ISOLATION,
        help="minimal /dev, empty home, /tmp and /var/tmp, nothing else of the host",
    ),
    Option(
        "containall",
        "C",
        keys=("CONTAINALL",),
        group=ISOLATION,
        help="--contain, --cleanenv, and PID and IPC namespaces of its own",
    ),
    Option(
        "compat",
        keys=("COMPAT",),
        group=ISOLATION,
        help="close to Docker: --containall --no-init --no-umask --no-eval --writable-tmpfs",
    ),
    Option("ipc", "i", keys=("IPC", "UNSHARE_IPC"), group=ISOLATION, help="an IPC namespace of its own"),
    Option("uts", keys=("UTS", "UNSHARE_UTS"), group=ISOLATION, help="a UTS namespace of its own"),
    Option(
        "hostname",
        None,
        TEXT,
        "NAME",
        keys=("HOSTNAME",),
        group=ISOLATION,
        help="host name inside; implies --uts",
    ),
    Option(
        "no-init",
        keys=("NOSHIMINIT",),
        group=ISOLATION,
        help="in a PID namespace, the program itself is process 1",
    ),
)

_PID = (
    Option(
        "pid",
        "p",
        keys=("PID", "UNSHARE_PID"),
        group=ISOLATION,
        help="a PID namespace of its own, with an init process",
    ),
    Option(
        "no-pid", keys=("NO_PID",), group=ISOLATION, help="no PID namespace, whatever another option implies"
    ),
    Option(
        "sharens",
        keys=("SHARENS",),
        group=ISOLATION,
        help="processes started by the same parent share one container",
    ),
)

_IDENTITY = (
    Option(
        "fakeroot",
        "f",
        keys=("FAKEROOT",),
        group=IDENTITY,
        help="be root inside: by subordinate ids where there are any, else mapped from the caller alone",
    ),
    Option(
        "userns", "u", keys=("USERNS", "UNSHARE_USERNS"), group=IDENTITY, help="a user namespace (always so)"
    ),
    Option(
        "keep-privs",
        keys=("KEEP_PRIVS",),
        group=IDENTITY,
        help="root keeps every capability, whatever the site's default is",
    ),
    Option("no-privs", keys=("NO_PRIVS",), group=IDENTITY, help="root gives up every capability"),
    Option(
        "add-caps",
        None,
        LIST,
        "CAP",
        keys=("ADD_CAPS",),
        group=IDENTITY,
        help="capabilities to keep; over --drop-caps and --no-privs",
    ),
    Option(
        "drop-caps", None, LIST, "CAP", keys=("DROP_CAPS",), group=IDENTITY, help="capabilities to give up"
    ),
    Option(
        "allow-setuid",
        keys=("ALLOW_SETUID",),
        group=IDENTITY,
        help="let setuid programs inside take effect (root, or --fakeroot with subordinate ids)",
    ),
    Option(
        "security",
        None,
        LIST,
        "SETTING",
        keys=("SECURITY",),
        group=IDENTITY,
        help="uid:N, gid:N[:N…], selinux:LABEL, apparmor:PROFILE or seccomp:FILE, a profile in the OCI's JSON",
    ),
)

_WRITING = (
    Option(
        "writable",
        "w",
        keys=("WRITABLE",),
        group=WRITING,
        help="write into the image itself: a sandbox, ext3, or a SIF that holds an overlay",
    ),
    Option(
        "writable-tmpfs",
        keys=("WRITABLE_TMPFS",),
        group=WRITING,
        help="writes go to memory and are forgotten",
    ),
    Option(
        "overlay",
        "o",
        LIST,
        "PATH[:ro]",
        keys=("OVERLAY", "OVERLAYIMAGE"),
        group=WRITING,
        help="a directory or image laid over the root, the last one uppermost; at most one writable",
    ),
    Option(
        "unsquash", keys=("UNSQUASH",), group=WRITING, help="unpack the image to a temporary directory first"
    ),
    Option(
        "underlay",
        keys=("UNDERLAY",),
        hidden=True,
        group=WRITING,
        deprecated="nothing instead: what fits is chosen by itself",
        help="make missing mount points by binds rather than an overlay",
    ),
)

_DEVICES = (
    Option("nv", keys=("NV",), group=DEVICES, help="NVIDIA GPUs: devices, libraries and tools"),
    Option(
        "nvccli",
        keys=("NVCCLI",),
        group=DEVICES,
        help="NVIDIA GPUs as NVIDIA's own tool sets them up, nvidia-container-cli; implies --nv and --writable-tmpfs",
    ),
    Option("rocm", keys=("ROCM",), group=DEVICES, help="AMD GPUs: devices, libraries and tools"),
    Option("intel-hpu", keys=("INTEL_HPU",), group=DEVICES, help="Intel Gaudi devices"),
    Option(
        "no-nv",
        keys=("NV_OFF", "NO_NV"),
        hidden=True,
        group=DEVICES,
        help="no NVIDIA GPUs, whatever is configured",
    ),
    Option(
        "no-rocm",
        keys=("ROCM_OFF", "NO_ROCM"),
        hidden=True,
        group=DEVICES,
        help="no AMD GPUs, whatever is configured",
    ),
    Option(
        "containlibs",
        None,
        LIST,
        "FILE",
        keys=("CONTAINLIBS",),
        hidden=True,
        group=DEVICES,
        help="libraries of the host to show in /.singularity.d/libs",
    ),
    Option(
        "fusemount",
        None,
        WHOLE,
        "SPEC",
        keys=("FUSESPEC",),
        group=DEVICES,
        help="a FUSE file system inside: TYPE:PROGRAM MOUNTPOINT",
    ),
)

_CDI = (
    Option(
        "device",
        None,
        LIST,
        "VENDOR/CLASS=NAME",
        group=DEVICES,
        help="a device by its CDI name",
    ),
    Option("cdi-dirs", None, LIST, "DIR", group=DEVICES, help="where CDI specifications are"),
)

_NETWORK = (
    Option(
        "net",
        "n",
        keys=("NET", "UNSHARE_NET"),
        group=NETWORK,
        help="a network of its own, connected by the program pasta or slirp4netns",
    ),
    Option(
        "network",
        None,
        LIST,
        "NAME",
        keys=("NETWORK",),
        group=NETWORK,
        help="pasta (also bridge, ptp), slirp4netns, or none for a loopback only; implies --net",
    ),
    Option(
        "network-args",
        None,
        LIST,
        "ARG",
        keys=("NETWORK_ARGS",),
        group=NETWORK,
        help="portmap=HOST:CONTAINER/tcp lets connections in, hostport=PORT/tcp reaches the host's loopback; implies --net",
    ),
    Option(
        "netns-path",
        None,
        TEXT,
        "FILE",
        keys=("NETNS_PATH",),
        group=NETWORK,
        help="join an existing network namespace",
    ),
    Option(
        "dns", None, LIST, "ADDRESS", keys=("DNS",), group=NETWORK, help="name servers for /etc/resolv.conf"
    ),
)

_LIMITS = (
    Option(
        "cpus",
        None,
        TEXT,
        "NUMBER",
        keys=("CPU_SHARES",),
        group=LIMITS,
        help="processors, fractions allowed",
    ),
    Option(
        "cpu-shares",
        None,
        INTEGER,
        "N",
        keys=("CPU_SHARES",),
        default=-1,
        group=LIMITS,
        help="weight for processor time",
    ),
    Option(
        "cpuset-cpus",
        None,
        TEXT,
        "LIST",
        keys=("CPUSET_CPUS",),
        group=LIMITS,
        help="processors to run on",
    ),
    Option(
        "cpuset-mems",
        None,
        TEXT,
        "LIST",
        keys=("CPUSET_MEMS",),
        group=LIMITS,
        help="memory nodes to use",
    ),
    Option(
        "memory",
        None,
        TEXT,
        "SIZE",
        keys=("MEMORY",),
        group=LIMITS,
        help="hard limit of memory",
    ),
    Option(
        "memory-reservation",
        None,
        TEXT,
        "SIZE",
        keys=("MEMORY_RESERVATION",),
        group=LIMITS,
        help="soft limit of memory",
    ),
    Option(
        "memory-swap",
        None,
        TEXT,
        "SIZE",
        keys=("MEMORY_SWAP",),
        group=LIMITS,
        help="limit of memory and swap together, -1 for none",
    ),
    Option("oom-kill-disable", keys=("OOM_KILL_DISABLE",), group=LIMITS, help="no OOM killer"),
    Option(
        "pids-limit",
        None,
        INTEGER,
        "N",
        keys=("PIDS_LIMIT",),
        default=0,
        group=LIMITS,
        help="number of processes, -1 for no limit",
    ),
    Option(
        "blkio-weight",
        None,
        INTEGER,
        "N",
        keys=("BLKIO_WEIGHT",),
        default=0,
        group=LIMITS,
        help="weight for block devices, 10 to 1000",
    ),
    Option(
        "blkio-weight-device",
        None,
        LIST,
        "DEVICE:N",
        keys=("BLKIO_WEIGHT_DEVICE",),
        group=LIMITS,
        help="the same for one device",
    ),
    Option(
        "apply-cgroups",
        None,
        TEXT,
        "FILE",
        keys=("APPLY_CGROUPS",),
        group=LIMITS,
        help="limits from a TOML file",
    ),
)

_OTHERS = (
    Option(
        "oci",
        hidden=True,
        group=OTHERS,
        help="an OCI runtime",
        supported=False,
        instead="leave it out: images of registries run without an OCI runtime; `--compat` is close to one",
    ),
    Option("no-oci", hidden=True, group=OTHERS, help="accepted: soliton has one way to run"),
    Option(
        "keep-layers",
        hidden=True,
        group=OTHERS,
        help="keep an image's layers apart",
        supported=False,
        instead="leave it out: an image has one layer here",
    ),
    Option(
        "no-compat",
        hidden=True,
        group=OTHERS,
        help="accepted: native behaviour is what there is without --compat",
    ),
    Option(
        "data",
        None,
        LIST,
        "IMAGE:DST",
        hidden=True,
        group=FILES,
        help="all of a data image, read-only, at this place",
    ),
    Option("sif-fuse", hidden=True, group=OTHERS, help="accepted: images are always mounted by FUSE"),
    Option("tmp-sandbox", hidden=True, group=OTHERS, alias="unsquash", help="another spelling of --unsquash"),
    Option("no-tmp-sandbox", hidden=True, group=OTHERS, help="accepted: nothing is unpacked unless asked"),
    Option(
        "no-setgroups",
        hidden=True,
        group=OTHERS,
        help="with --fakeroot: nobody inside can give up the caller's groups",
    ),
    Option(
        "proot",
        None,
        TEXT,
        "PROGRAM",
        hidden=True,
        group=OTHERS,
        help="run by proot",
        supported=False,
        instead="leave it out: no privilege is needed without it",
    ),
)

_REGISTRIES = (AUTHFILE, DISABLE_CACHE, NO_HTTPS, NOHTTPS, *DOCKER)

#: Everything that starts a container.
COMMON = (
    *_FILES,
    *_ENVIRONMENT,
    *_ISOLATION,
    *_IDENTITY,
    *_WRITING,
    *_DEVICES,
    *_NETWORK,
    *_LIMITS,
    *_REGISTRIES,
    PASSPHRASE,
    PEM_PATH,
    TMPDIR,
    *IGNORE,
    *_OTHERS,
)

_EXPLAIN = (
    Option(
        "explain",
        group=EXPLAINING,
        help="start nothing: say what would be mounted and set, and which flag, variable, directive or default asks for it",
    ),
    Option("json", group=EXPLAINING, help="with --explain: as JSON, the plan included"),
)

#: exec, run, shell and test, but not instances.
FOREGROUND = (*COMMON, *_CWD, *_PID, *_CDI, *_EXPLAIN)

SHELL = Option("shell", "s", TEXT, "PROGRAM", keys=("SHELL",), group=ENVIRONMENT, help="the shell to start")

RUNSCRIPT_TIMEOUT = Option(
    "runscript-timeout",
    None,
    DURATION,
    "TIME",
    keys=("RUNSCRIPT_TIMEOUT",),
    group=ENVIRONMENT,
    help="limit for evaluating the image's scripts, as 90s or 1m30s",
)

BACKGROUND = (
    Option(
        "boot",
        keys=("BOOT",),
        group=INSTANCES,
        help="start the image's /sbin/init as process 1 and root inside, with nothing of the host's",
    ),
    Option(
        "pid-file",
        None,
        TEXT,
        "FILE",
        keys=("PID_FILE",),
        group=INSTANCES,
        help="write the process id to a file",
    ),
    Option(
        "dmtcp-launch",
        None,
        TEXT,
        "NAME",
        keys=("DMTCP_LAUNCH",),
        group=INSTANCES,
        supported=False,
        instead="programs that save their own state can be started again without it",
        help="run under DMTCP, saving to this checkpoint",
    ),
    Option(
        "dmtcp-restart",
        None,
        TEXT,
        "NAME",
        keys=("DMTCP_RESTART",),
        group=INSTANCES,
        supported=False,
        instead="programs that save their own state can be started again without it",
        help="restart from this DMTCP checkpoint",
    ),
)
