"""Every example that --help and the manual pages show works as it stands there.

Those that fetch from a registry are left to the tests of pulling.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from soliton.cli import commands
from soliton.cli.commands import Example
from tests.system.program import Program
from tests.system.test_overlays import tool

RECIPE = """\
Bootstrap: busybox

%post
    echo 'ID=example' > /etc/os-release

%runscript
    echo "called with: $*"

%test
    test -e /etc/os-release

%help
    An image for examples.
"""

EXAMPLES = [
    example
    for _, command in commands.walk()
    for example in command.examples
    if "registry" not in example.needs
]


@pytest.fixture(scope="session")
def material(shared: Program) -> Path:
    """A directory with everything that an example may need."""
    directory = shared.cwd / "examples"
    directory.mkdir()
    (directory / "recipe.def").write_text(RECIPE)
    record = {"header": {"bootstrap": "busybox"}, "imageData": {"labels": {"Made": "by a program"}}}
    (directory / "recipe.json").write_text(json.dumps(record))
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    here = shared.within(directory)
    here("build", "image.sif", "recipe.def").ok()
    here("build", "--sandbox", "tree", "image.sif").ok()
    subprocess.run(
        [tool("mksquashfs"), directory / "tree/etc", directory / "data.sqfs", "-quiet"], check=True
    )
    (directory / "apptainer.conf").write_text("allow setuid = no\nbind path = /etc/hosts\n")
    return directory


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.line for example in EXAMPLES])
def test_an_example_works_as_it_is_shown(soliton: Program, material: Path, example: Example) -> None:
    for name in example.needs:
        if name == "web":
            soliton("instance", "start", "image.sif", name).ok()
        elif (material / name).is_dir():
            shutil.copytree(material / name, soliton.cwd / name, symlinks=True)
        else:
            shutil.copy(material / name, soliton.cwd / name)
    program, *words = shlex.split(example.line)
    assert program == "soliton"
    # What others have mounted on this node is not the example's.
    runtime = soliton.home / "runtime"
    runtime.mkdir(mode=0o700)
    try:
        result = soliton.having(XDG_RUNTIME_DIR=str(runtime))(*words, stdin="")
        assert result.status == example.status, result
    finally:
        if "instance" in words:
            soliton("instance", "stop", "--all", "--force")
