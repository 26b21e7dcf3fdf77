"""Recipes in the forms that public projects use, written anew on Debian bases, built and used by an ordinary user.

Each file of `recipes/` says in the comments at its top what is to be seen of its image:

    # build: OPTIONS                     of `soliton build`
    # $ soliton WORDS                    a command, and in the lines below all that it prints
    # owner PATH UID/GID                 by unsquashfs, whoever built it
    # mode PATH MODE, # group PATH NAME
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.judges import listing
from tests.system.program import Program
from tests.system.test_reproducible import elsewhere


def has_ids() -> bool:
    name = pwd.getpwuid(os.getuid()).pw_name
    return any(line.startswith(f"{name}:") for line in Path("/etc/subuid").read_text().splitlines())


HERE = Path(__file__).parent / "recipes"
ALL = sorted([*HERE.glob("*.def"), *HERE.glob("*.Dockerfile")])
#: Long ones; they are built as the user without subordinate ids only, who has it harder.
LONG = ("mpi", "static", "musl", "library", "r", "stages")
#: Built again elsewhere, on another day, without subordinate ids: the same bytes.
TWICE = ("pip", "scif", "local-package", "service-user", "mamba")
RECIPES = [path for path in ALL if path.stem not in LONG or not has_ids()]

FILES = {
    "requirements.txt": "greet>=1.2\n",
    "arguments.txt": "BLAS=openblas\n",
    "lines.txt": "one\ntwo\nthree\n",
    "alone.c": '#include <stdio.h>\nint main(void) { puts("static and alone"); return 0; }\n',
    "hello_mpi.c": "#include <mpi.h>\n#include <stdio.h>\n"
    "int main(int n, char **v) { int r, s, all[8]; MPI_Init(&n, &v); MPI_Comm_rank(MPI_COMM_WORLD, &r);\n"
    "MPI_Comm_size(MPI_COMM_WORLD, &s); MPI_Gather(&r, 1, MPI_INT, all, 1, MPI_INT, 0, MPI_COMM_WORLD);\n"
    # One speaks for all: whose output arrives first nobody knows.
    'if (!r) for (int i = 0; i < s; i++) printf("%d of %d\\n", all[i], s);\nMPI_Finalize(); return 0; }\n',
    "give.c": "#include <grp.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(int n, char **v)\n"
    "{ return n != 4 || setgroups(0, 0) || chown(v[3], atoi(v[1]), atoi(v[2])); }\n",
    "project/Makefile": "PREFIX = /usr\nall: sum\nlibsum.so.1.0: libsum.c\n\t$(CC) -shared -fPIC -Wl,-soname,libsum.so.1 -o $@ $<\n"
    "sum: sum.c libsum.so.1.0\n\t$(CC) -o $@ $^\ninstall:\n\tinstall -D -m 755 sum $(DESTDIR)$(PREFIX)/bin/sum\n"
    "\tinstall -D -m 644 libsum.so.1.0 $(DESTDIR)$(PREFIX)/lib/libsum.so.1.0\n",
    "project/libsum.c": "int sum(int a, int b) { return a + b; }\n",
    "project/sum.c": "#include <stdio.h>\n#include <stdlib.h>\nint sum(int, int);\n"
    'int main(int n, char **v) { printf("%d\\n", n == 3 ? sum(atoi(v[1]), atoi(v[2])) : 0); return 0; }\n',
    "modules/Sorter.pm": "package Sorter;\nsub sorted { join ' ', sort split / /, shift }\n1;\n",
    "a name with blanks.txt": "here\n",
    "package/DEBIAN/control": "Package: mytool\nVersion: 1.0\nArchitecture: all\nMaintainer: Jo Doe <jo@example.org>\nDescription: a test\n",
    "package/DEBIAN/postinst": "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/mytool mytool /usr/bin/mytool.real 10\n"
    "mkdir -p /var/lib/mytool\nchown games:games /var/lib/mytool\n",
    "package/usr/bin/mytool.real": "#!/bin/sh\necho my tool\n",
}


@pytest.fixture(scope="session")
def project(shared: Program, fixtures: Path) -> Path:
    """A directory with what recipes name: their files, and images to start from."""
    directory = shared.cwd / "project"
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _release(directory)
    _wheel(directory / "wheels")
    here = shared.within(directory)
    _layout(directory / "layout", fixtures / "debian.tar")
    (directory / "debian.def").write_text("Bootstrap: oci\nFrom: layout\n%post\n    apt-get update\n")
    here("build", "--keep-logs", "debian.sif", "debian.def").ok()
    shutil.rmtree(directory / "layout")
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
    bases = {"python": "python3 python3-venv"}
    if not has_ids():
        bases["toolchain"] = "gcc libc6-dev make musl-tools libmpich-dev mpich"
    for name, packages in bases.items():
        (directory / f"{name}.def").write_text(
            f"Bootstrap: localimage\nFrom: debian.sif\n%post\n    {install} {packages}\n"
        )
        here("build", f"{name}.sif", f"{name}.def").ok()
    return directory


def _layout(directory: Path, layer: Path) -> None:
    """An OCI layout of one layer that is somewhere else."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}+json",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    with open(layer, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (blobs / digest).symlink_to(layer)
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "config": {},
    }
    layers = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": f"sha256:{digest}",
            "size": layer.stat().st_size,
        }
    ]
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1"),
        "layers": layers,
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1")]}
    (directory / "index.json").write_text(json.dumps(index))


def _wheel(directory: Path) -> None:
    """A package as the index of Python packages would hand it out."""
    directory.mkdir()
    info = "greet-1.2.dist-info"
    files = {
        "greet.py": "import sys\ndef main():\n    print('Hello', *(sys.argv[1:] or ['you']), 'from', sys.prefix)\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greet:main\n",
    }
    with zipfile.ZipFile(directory / "greet-1.2-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        wheel.writestr(f"{info}/RECORD", record)


def _release(directory: Path) -> None:
    """What a project puts on its download page."""
    path = directory / "release.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text, owner in (("env.sh", "export RELEASE=3.1\n", 0), ("data", "data\n", 12)):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(text), owner, owner + bool(owner)
            tar.addfile(info, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "release.sha256").write_text(f"{digest}  release.tar.gz\n")


def promises(recipe: Path) -> Iterator[tuple[str, list[str]]]:
    """Each promise of a recipe, and the lines below it."""
    found: list[tuple[str, list[str]]] = []
    for line in recipe.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line[2:]
        if text.startswith(("$ ", "build: ", "owner ", "mode ", "group ")):
            found.append((text, []))
        else:
            found[-1][1].append(text)
    yield from found


def test_there_are_recipes_enough() -> None:
    assert len(ALL) >= 20


@pytest.mark.parametrize("recipe", RECIPES, ids=[path.name.removesuffix(".def") for path in RECIPES])
def test_a_recipe(soliton: Program, project: Path, recipe: Path) -> None:
    said = list(promises(recipe))
    options = [word for text, _ in said if text.startswith("build: ") for word in shlex.split(text[7:])]
    if recipe.suffix == ".Dockerfile":
        options += ["--context", str(project)]
    places = [soliton, elsewhere(soliton)] if recipe.stem in TWICE else [soliton]
    for place in places:
        for entry in project.iterdir():
            (place.cwd / entry.name).symlink_to(entry)
        shutil.copy(recipe, place.cwd)
        ids = () if place is soliton else ("--ignore-subuid", "--mksquashfs-args", "-processors 1")
        place("build", *options, *ids, "image.sif", recipe.name).ok()
    assert len({(place.cwd / "image.sif").read_bytes() for place in places}) == 1
    files = listing(soliton, "image.sif")
    for text, lines in said:
        kind, *words = shlex.split(text)
        match kind:
            case "$":
                out = soliton(*words[1:]).ok().out
                assert [line for line in lines if line not in out.splitlines()] == [], (text, out)
                if words[1] != "inspect":
                    assert out.splitlines() == lines, text
            case "owner":
                assert files[words[0]][1] == words[1], words[0]
            case "mode":
                assert files[words[0]][0] == words[1], words[0]
            case "group":
                group = soliton("exec", "image.sif", "getent", "group", words[1]).ok().out.split(":")[2]
                assert files[words[0]][1].partition("/")[2] == group
