"""Files read through a container's file system are what was packed, in whatever order and by how many they are read."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from tests.system.program import Program

#: Reads everything three times at once: as listed, backwards, and large files from the middle on before the rest.
_READ = """
ls -lR /data >/dev/null
(find /data -type f | xargs sha256sum | sort > /out/listed) &
(find /data -type f | sort -r | xargs sha256sum | sort > /out/backwards) &
(for f in /data/large/*; do
    for n in 90 3 41 200 7 100 42; do dd if=$f bs=4096 skip=$n count=1 2>/dev/null >/dev/null; done
 done
 find /data -type f | xargs sha256sum | sort > /out/random) &
wait
"""


@pytest.mark.parametrize("block", ["4K", "128K"])
def test_files_are_what_was_packed_whoever_reads_them_in_what_order(
    soliton: Program, busybox_sandbox: Path, tmp_path: Path, block: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(busybox_sandbox, root, symlinks=True)
    chance = random.Random(5)
    expected = []

    def add(name: str, content: bytes) -> None:
        target = root / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        expected.append(f"{hashlib.sha256(content).hexdigest()}  /data/{name}")

    for number in range(600):
        # Small ones share blocks; some are empty, some as long as a page, some the same as another.
        size = chance.choice([0, 1, 100, 4095, 4096, 4097, 3000, 20_000, 131_072, 140_000])
        content = chance.randbytes(size // 7 + 1) * 7
        add(f"{number % 9}/{chance.randrange(10**6)}-{number}", content[:size])
    for number in range(4):
        add(f"large/{number}", bytes(chance.randrange(4) for _ in range(1_000_000 + 7 * number)))
    image, out = tmp_path / "image.sif", tmp_path / "out"
    out.mkdir()
    soliton("build", "--mksquashfs-args", f"-b {block}", image, root).ok()
    soliton("exec", "--bind", f"{out}:/out", image, "sh", "-c", _READ).ok()
    for order in ("listed", "backwards", "random"):
        assert (out / order).read_text().splitlines() == sorted(expected)
