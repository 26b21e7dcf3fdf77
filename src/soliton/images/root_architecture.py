"""For which architecture a root file system is made: read from its programs, since a directory does not say.

The shell counts, as with the peers; else any program. Off the start path: it asks the core.
"""

from __future__ import annotations

from soliton import core
from soliton.images import architecture
from soliton.launch.plan import Root

#: Where a shell is, or what stands for one.
_FIRST = ("/bin/sh", "/bin/bash", "/bin/busybox", "/usr/bin/env", "/usr/bin/python3")
#: Folders in which any program will do; the last one for images of a single static program.
_ANYWHERE = ("/bin/*", "/usr/bin/*", "/usr/local/bin/*", "/sbin/*", "/usr/sbin/*", "/opt/*", "/*")
#: Bytes of an ELF header that are looked at.
_HEAD = 64


def of_root(root: Root) -> str | None:
    """OCI name, None where there is no program that tells. Raises CoreError if the root cannot be read."""
    for paths in (_FIRST, _ANYWHERE):
        files = core.read_files(root, paths, limit=_HEAD)
        for path in sorted(
            files, key=lambda found: (paths.index(found) if found in paths else len(paths), found)
        ):
            name = architecture.from_elf(files[path].data)
            if name is not None:
                return name
    return None
