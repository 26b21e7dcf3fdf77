"""What a start imports. Every module here is paid for by each of a hundred thousand ranks, so the list is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soliton.images.sif_write import definition, finish, plan_sif

ROOT = Path(__file__).resolve().parents[2]
#: How the native program starts Python, see core/src/handover.rs.
ENTRY = "from soliton.__main__ import main; main()"

SAYING = {
    "soliton",
    "soliton.__main__",
    "soliton.cli",
    "soliton.cli.commands",
    "soliton.cli.invocation",
    "soliton.cli.main",
    "soliton.cli.options",
    "soliton.cli.parser",
    "soliton.cli.tables",
    "soliton.cli.tables.root",
    "soliton.errors",
    "soliton.messages",
}
HELPING = SAYING | {"soliton.cli.help"}
#: The page of all commands is made from the tables of all commands.
TABLES = {f"soliton.cli.tables.{path.stem}" for path in (ROOT / "src/soliton/cli/tables").glob("[!_]*.py")}
STARTING = SAYING | {
    "soliton.api",
    "soliton.api.action",
    "soliton.cli.action",
    "soliton.cli.tables.action",
    "soliton.cli.tables.action_options",
    "soliton.cli.tables.shared",
    "soliton.core",
    "soliton.images",
    "soliton.images.architecture",
    "soliton.images.detect",
    "soliton.images.sif",
    "soliton.images.squashfs",
    "soliton.launch",
    "soliton.launch.binds",
    "soliton.launch.compile",
    "soliton.launch.environment",
    "soliton.launch.guard",
    "soliton.launch.identity",
    "soliton.launch.mounts",
    "soliton.launch.plan",
    "soliton.launch.request",
    "soliton.record",
    "soliton.site",
    "soliton.site.config",
    "soliton.site.host",
    "soliton.site.paths",
}
#: Of the standard library and beyond what the interpreter loads anyway: extension modules of one kind or another.
LIBRARY = {"__future__", "_json", "_struct", "errno", "grp", "pwd", "struct"}
#: The interpreter itself brings about forty, more or fewer by its version.
CEILING = 100

#: The costly ones, by name: whoever adds one of these gets to read which.
FORBIDDEN = {
    "argparse",
    "ast",
    "asyncio",
    "base64",
    "bz2",
    "collections",
    "contextlib",
    "csv",
    "ctypes",
    "dataclasses",
    "email",
    "enum",
    "functools",
    "hashlib",
    "http",
    "httpx",
    "inspect",
    "ipaddress",
    "json",
    "locale",
    "logging",
    "lzma",
    "pathlib",
    "platform",
    "random",
    "re",
    "rich",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tarfile",
    "tempfile",
    "threading",
    "tomllib",
    "traceback",
    "typing",
    "urllib",
    "uuid",
    "zlib",
}


def loaded(
    words: list[str], entry: str = ENTRY, variables: dict[str, str] | None = None
) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """What one call has imported by its end, or by the moment at which it becomes the core."""
    # Without `site`, whose .pth files are the machine's affair; the core is a program that does nothing.
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {entry}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", "-c", program, *words],
        env={"PATH": os.defpath, "_SOLITON_CORE": "/bin/true", "LANG": "C.UTF-8", **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}, done


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What the interpreter imports for a program that does nothing but these two."""
    return loaded([], "import os, stat")[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SIF that passes every look at its structure."""
    path = tmp_path_factory.mktemp("image") / "a.sif"
    layout = plan_sif([definition("bootstrap: scratch\n")])
    superblock = b"hsqs" + (1).to_bytes(4, "little") + bytes(4) + (131072).to_bytes(4, "little") + bytes(4)
    superblock += b"".join(number.to_bytes(2, "little") for number in (6, 17, 0, 1, 4, 0)) + bytes(8)
    superblock += (4096).to_bytes(8, "little")
    machine = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "riscv64": "riscv64"}
    with open(path, "wb+") as file:
        os.pwrite(file.fileno(), superblock.ljust(4096, b"\0"), layout.partition_offset)
        finish(
            file.fileno(),
            layout,
            partition_size=4096,
            architecture=machine.get(os.uname().machine, os.uname().machine),
            time=None,
        )
    return str(path)


def judge(modules: set[str], bare: set[str], allowed: set[str]) -> None:
    own = {name for name in modules if name.partition(".")[0] == "soliton"}
    assert own == allowed
    others = modules - own - bare
    heavy = {name for name in others if name.partition(".")[0] in FORBIDDEN}
    assert not heavy, f"the start path imports {', '.join(sorted(heavy))}"
    assert others <= LIBRARY
    assert len(modules) <= CEILING


def test_the_native_program_starts_python_as_this_test_does() -> None:
    assert f'"{ENTRY}"' in (ROOT / "core/src/handover.rs").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["exec", "IMAGE", "true"],
        ["run", "IMAGE", "argument"],
        ["shell", "IMAGE"],
        ["test", "IMAGE"],
        ["exec", "-e", "-B", "/usr:/mnt:ro,/opt", "--env", "A=b,C=d", "--pwd", "/", "IMAGE", "true"],
        ["exec", "--containall", "--writable-tmpfs", "--home", "/tmp:/home/me", "IMAGE", "true"],
        ["exec", "--hostname", "here", "--dns", "10.0.0.1", "IMAGE", "true"],
        ["exec", "--fakeroot", "IMAGE", "true"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["sif", "sandbox"])
def test_starting_a_local_image_imports_exactly_this(
    bare: set[str], image: str, tmp_path: Path, words: list[str], kind: str
) -> None:
    name = image if kind == "sif" else str(tmp_path)
    modules, done = loaded(
        ["--invoked-as", "soliton", *(name if word == "IMAGE" else word for word in words)]
    )
    assert (done.returncode, done.stdout) == (0, "")
    judge(modules, bare, STARTING)


def test_storing_the_plan_for_the_next_start_costs_two_modules(
    bare: set[str], image: str, tmp_path: Path
) -> None:
    store, names = tmp_path / "store", ",".join(f"{number:032x}" for number in range(6))
    modules, done = loaded(
        ["exec", image, "true"],
        variables={"_SOLITON_STORE": str(store), "_SOLITON_NAMES": f"3:{names}"},
    )
    # Root's plans are not stored.
    stored = os.listdir(store) if store.exists() else []
    assert (done.returncode, stored) == (0, [f"{2:032x}"] if os.geteuid() else [])
    judge(modules, bare, STARTING | {"soliton.launch.shortcut", "soliton.site.witness"})


def test_a_network_costs_one_module_more(bare: set[str], image: str) -> None:
    modules, done = loaded(["exec", "--net", "--network", "none", image, "true"])
    assert done.returncode == 0
    judge(modules, bare, STARTING | {"soliton.launch.network"})


def test_capabilities_by_name_cost_one_module_more(bare: set[str], image: str) -> None:
    modules, done = loaded(["exec", "--add-caps", "chown", image, "true"])
    assert done.returncode == 0
    judge(modules, bare, STARTING | {"soliton.launch.capabilities"})


def test_a_configuration_costs_a_few_modules_more_and_no_parser_of_the_library(
    bare: set[str], image: str, tmp_path: Path
) -> None:
    (tmp_path / "soliton.toml").write_text('bind-path = ["/a:/b:ro"] # ours\nmount-dev = "minimal"\n')
    modules, done = loaded(["exec", image, "true"], variables={"SOLITON_CONFIGDIR": str(tmp_path)})
    assert done.returncode == 0
    own = {"launch.policy", "site.directives", "site.settings", "site.toml", "site.trust"}
    judge(modules, bare, STARTING | {f"soliton.{name}" for name in own})


@pytest.mark.parametrize(
    ("words", "allowed", "out"),
    [
        (["--version"], SAYING | {"soliton.cli.version"}, "soliton version "),
        (["--help"], HELPING | TABLES, "Usage:"),
        (
            ["exec", "--help"],
            HELPING
            | {
                "soliton.cli.tables.about",
                "soliton.cli.tables.action",
                "soliton.cli.tables.action_options",
                "soliton.cli.tables.shared",
            },
            "Usage:",
        ),
    ],
    ids=["--version", "--help", "exec --help"],
)
def test_saying_something_imports_exactly_this(
    bare: set[str], words: list[str], allowed: set[str], out: str
) -> None:
    modules, done = loaded(["--invoked-as", "soliton", *words])
    assert done.returncode == 0
    assert out in done.stdout
    judge(modules, bare, allowed)


def test_the_forbidden_are_noticed(bare: set[str]) -> None:
    modules, _ = loaded([], "import json")
    with pytest.raises(AssertionError, match=r"imports .*\bjson\b"):
        judge(modules | SAYING, bare, SAYING)
