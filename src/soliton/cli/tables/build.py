"""build: a definition file, or any image, into an image."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import LIST, TEXT, WHOLE, Option
from soliton.cli.tables.shared import (
    AUTHFILE,
    DISABLE_CACHE,
    DOCKER,
    ENCRYPTION,
    IGNORE,
    LIBRARY,
    NO_HTTPS,
    NOHTTPS,
    OTHERS,
    PASSPHRASE,
    PEM_PATH,
    REGISTRIES,
    TMPDIR,
)

RESULT = "The result"
STEPS = "Steps"
INSIDE = "Inside the steps"
DOCKERFILES = "Dockerfiles"

OPTIONS = (
    Option("force", "F", keys=("FORCE",), group=RESULT, help="replace an existing target"),
    Option("sandbox", "s", keys=("SANDBOX",), group=RESULT, help="make a directory instead of a file"),
    Option(
        "update",
        "u",
        keys=("UPDATE",),
        group=RESULT,
        help="run the definition over an existing sandbox",
    ),
    Option(
        "arch",
        None,
        TEXT,
        "NAME",
        keys=("BUILD_ARCH",),
        group=RESULT,
        help="architecture, instead of this machine's",
    ),
    Option(
        "arch-variant",
        None,
        TEXT,
        "NAME",
        keys=("BUILD_ARCH_VARIANT",),
        group=RESULT,
        help="its variant, as v7",
    ),
    Option(
        "data",
        keys=("DATA",),
        group=RESULT,
        help="SOURCE is a squashfs file of data: a SIF that holds it, to be bound by --bind SIF:DST:image-src=/",
    ),
    Option("fix-perms", keys=("FIXPERMS",), group=RESULT, help="the owner may read and write everything"),
    Option(
        "reproducible",
        keys=("REPRODUCIBLE",),
        group=RESULT,
        help="the same bytes from the same input (always so)",
    ),
    Option(
        "lock",
        keys=("LOCK",),
        group=RESULT,
        help="write SOURCE.lock: digests of bases and files, packages, time",
    ),
    Option(
        "locked",
        keys=("LOCKED",),
        group=RESULT,
        help="take the bases that SOURCE.lock names, and fail if anything else differs from it",
    ),
    Option(
        "keep-logs",
        keys=("KEEP_LOGS",),
        group=RESULT,
        help="keep package managers' logs and caches, which differ in every build",
    ),
    Option(
        "mksquashfs-args",
        None,
        TEXT,
        "ARGS",
        keys=("MKSQUASHFS_ARGS",),
        group=RESULT,
        help="how to compress, in the words of mksquashfs",
    ),
    Option("encrypt", "e", group=ENCRYPTION, help="encrypt the image", supported=False),
    PASSPHRASE,
    PEM_PATH,
    Option(
        "section",
        None,
        LIST,
        "NAME",
        keys=("SECTION",),
        default=("all",),
        group=STEPS,
        help="only these of setup, files, environment, test, labels, help, runscript, startscript; or all, or none",
    ),
    Option("notest", "T", keys=("NOTEST",), group=STEPS, help="leave out %test"),
    Option(
        "build-arg", None, WHOLE, "NAME=VALUE", group=STEPS, help="a value for {{ NAME }} in the definition"
    ),
    Option("build-arg-file", None, TEXT, "FILE", group=STEPS, help="a file with a NAME=VALUE on each line"),
    Option("warn-unused-build-args", group=STEPS, help="only warn of arguments that nothing uses"),
    Option("target", None, TEXT, "STAGE", group=DOCKERFILES, help="build up to this stage of a Dockerfile"),
    Option(
        "context",
        None,
        TEXT,
        "DIR",
        group=DOCKERFILES,
        help="where COPY finds files, instead of the Dockerfile's directory",
    ),
    Option(
        "secret",
        None,
        WHOLE,
        "id=NAME,src=FILE",
        group=DOCKERFILES,
        help="a file that RUN --mount=type=secret shows, and that is kept nowhere",
    ),
    Option(
        "ssh",
        None,
        WHOLE,
        "ID[=SOCKET]",
        group=DOCKERFILES,
        help="an SSH agent that RUN --mount=type=ssh shows; `default` is that of SSH_AUTH_SOCK",
    ),
    Option("no-cache", group=STEPS, help="run every step, whatever is kept of earlier builds"),
    Option(
        "explain-cache",
        group=STEPS,
        help="say of every step that runs why its result is not taken from the cache",
    ),
    Option("debug-shell", group=STEPS, help="open a shell in a step that fails"),
    Option(
        "pull", group=STEPS, help="ask registries whether base images have changed since they were fetched"
    ),
    Option("no-cleanup", keys=("NO_CLEANUP",), group=STEPS, help="keep what a failed build has made"),
    Option("json", keys=("JSON",), group=STEPS, help="the definition is JSON, as programs write it"),
    Option(
        "fakeroot",
        "f",
        keys=("FAKEROOT",),
        group=INSIDE,
        help="be root in %post (always so for ordinary users)",
    ),
    Option("userns", keys=("USERNS",), group=INSIDE, help="a user namespace (always so)"),
    Option(
        "bind",
        "B",
        WHOLE,
        "SRC[:DST[:OPTS]]",
        group=INSIDE,
        help="show a file or directory of the host in %post",
    ),
    Option(
        "mount",
        None,
        WHOLE,
        "SPEC",
        keys=("MOUNT",),
        additive=True,
        separator="\n",
        group=INSIDE,
        help="the same as type=bind,source=…,destination=…",
    ),
    Option(
        "writable-tmpfs",
        keys=("WRITABLE_TMPFS",),
        group=INSIDE,
        help="%test may write, what it writes is forgotten",
    ),
    Option("nv", group=INSIDE, help="NVIDIA GPUs in %post, RUN and %test: devices, libraries and tools"),
    Option(
        "nvccli",
        keys=("NVCCLI",),
        group=INSIDE,
        help="NVIDIA GPUs by nvidia-container-cli, which needs root",
        supported=False,
        instead="use `--nv`",
    ),
    Option("rocm", group=INSIDE, help="AMD GPUs in %post, RUN and %test: devices, libraries and tools"),
    Option(
        "intel-hpu", keys=("INTEL_HPU",), group=INSIDE, help="Intel Gaudi devices in %post, RUN and %test"
    ),
    AUTHFILE,
    DISABLE_CACHE,
    NO_HTTPS,
    NOHTTPS,
    *DOCKER,
    Option(
        "buildkit-host",
        None,
        TEXT,
        "URL",
        keys=("BUILDKIT_HOST",),
        bare=True,
        group=REGISTRIES,
        supported=False,
        help="address of a BuildKit daemon",
    ),
    LIBRARY,
    TMPDIR,
    *IGNORE,
    Option(
        "remote",
        "r",
        hidden=True,
        group=OTHERS,
        help="build elsewhere",
        supported=False,
        instead="build here: no privilege is needed",
    ),
    Option(
        "builder", None, TEXT, "URL", hidden=True, group=OTHERS, help="the remote builder", supported=False
    ),
    Option(
        "detached", "d", hidden=True, group=OTHERS, help="do not wait for the remote builder", supported=False
    ),
    Option("oci", hidden=True, group=OTHERS, help="make an OCI-SIF", supported=False),
    Option("no-oci", hidden=True, group=OTHERS, help="accepted: a SIF is what is made"),
    Option("keep-layers", hidden=True, group=OTHERS, help="keep layers apart in an OCI-SIF", supported=False),
    Option("no-setgroups", hidden=True, group=OTHERS, help="keep the groups", supported=False),
)

_SHARED_WITH_REBUILD = {
    *(
        "build-arg",
        "build-arg-file",
        "secret",
        "ssh",
        "context",
        "bind",
        "mount",
        "authfile",
        "disable-cache",
        "no-https",
        "nohttps",
    ),
    *("docker-host", "docker-login", "docker-username", "docker-password", "tmpdir", "ignore-subuid"),
}

COMMANDS = (
    Command(
        "build",
        "TARGET SOURCE",
        "make an image from a definition file or another image",
        least=2,
        most=2,
        options=OPTIONS,
        handler="soliton.cli.build:build",
        group="Making images",
        description=(
            "SOURCE is a definition file, a Dockerfile or a directory with one, an image, a sandbox directory, or a URI: docker://, docker-daemon:, oci:, oci-archive:,"
            " docker-archive:. TARGET comes first. No privilege is needed, and nothing is left if it fails."
        ),
        examples=(
            Example("soliton build image.sif recipe.def", "from a definition file", "recipe.def"),
            Example("soliton build image.sif Dockerfile", "from a Dockerfile", "Dockerfile"),
            Example("soliton build --sandbox tree image.sif", "a directory to change", "image.sif"),
            Example("soliton build --force image.sif tree", "and a file again", "image.sif", "tree"),
            Example("soliton build --json image.sif recipe.json", "written by a program", "recipe.json"),
            Example(
                "soliton build --section labels,help image.sif recipe.def", "some sections only", "recipe.def"
            ),
            Example("soliton build alpine.sif docker://alpine:3.20", "from a registry", "registry"),
            Example("soliton build --lock image.sif recipe.def", "note what went in", "recipe.def"),
            Example(
                "soliton build --bind data.sqfs:/data:image-src=/ image.sif recipe.def",
                "a data image for the steps",
                "data.sqfs",
                "recipe.def",
            ),
            Example(
                "soliton build --data data.sif data.sqfs", "a data image with a SIF around it", "data.sqfs"
            ),
            Example("soliton build --nv image.sif recipe.def", "GPUs for the steps", "recipe.def"),
        ),
    ),
    Command(
        "rebuild",
        "IMAGE [TARGET]",
        "build an image again from what it holds",
        least=1,
        most=2,
        options=(
            Option("check", group=RESULT, help="make no image: tell whether and where it differs"),
            Option("json", "j", group=RESULT, help="the differences as JSON"),
            Option("force", "F", group=RESULT, help="replace an existing target"),
            Option(
                "run-setup", group=STEPS, help="allow the recipe's %pre and %setup, which run on this machine"
            ),
            *(option for option in OPTIONS if option.name in _SHARED_WITH_REBUILD),
        ),
        handler="soliton.cli.rebuild:rebuild",
        group="Making images",
        description=(
            "An image holds its recipe, the digests of bases and files, and the arguments that it was built with. It is built"
            " again from the same bases; files that the recipe copies are taken from the working directory and have to be the"
            " same. With --check the exit status is 0 if every byte is the same, 1 if not: then the first differences are"
            " told. Secrets that were build arguments have to be given again."
        ),
        examples=(
            Example("soliton rebuild --check image.sif", "is it what its recipe makes?", "image.sif"),
            Example("soliton rebuild image.sif again.sif", "make it again", "image.sif"),
        ),
    ),
)
