"""One merge of layers into one squashfs, by the core, its progress shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from soliton import core, messages, progress
from soliton.build.compression import COMPRESSORS, Packing
from soliton.build.job import Job, Layer
from soliton.images import squashfs, target


@dataclass(frozen=True)
class Work:
    """layers: lowest first. exclude: paths that do not go along. epoch: see docs/architecture.md."""

    layers: tuple[Layer, ...]
    exclude: tuple[str, ...]
    epoch: int


def squash(
    job: Job, work: Work, packing: Packing, fd: int, offset: int, shown: str, title: str = "Writing the image"
) -> int:
    """Writes the file system into `fd` from `offset` on; its size. shown: the file, for messages."""
    request = {
        "layers": list(work.layers),
        "output": {"fd": fd, "offset": offset},
        "compressor": packing.compressor,
        "level": packing.level,
        "block_size": packing.block_size,
        "epoch": work.epoch,
        "threads": packing.threads,
        "ids": "root" if packing.all_root else "keep",
        "modes": "owner" if packing.fix_perms else "keep",
        "identity": core.encode(job.identity) if job.unprivileged else None,
        "exclude": list(work.exclude),
    }
    messages.debug(f"squash {json.dumps(request)}")

    with target.explaining(shown), progress.report(title) as report:
        task = report.task("image")

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "warning":
                messages.warning(event["message"])
            elif event["event"] == "progress":
                task.update(completed=event["written"])

        done = core.converse("squash", request, on_event, pass_fds=(fd,))
    return int(done["size"])


def settle(wish: Packing, layers: Sequence[Layer], *, own: bool) -> Packing:
    """The packing of an image of these layers. own: the wish beats what the base has."""
    base = next((layer for layer in layers if layer["kind"] == "squashfs"), None)
    compressor, block = wish.compressor, wish.block_size
    if base is not None:
        with open(base["path"], "rb") as file:
            file.seek(base["offset"])
            found = squashfs.check_superblock(file.read(squashfs.SUPERBLOCK_SIZE), base["size"], base["path"])
        if found.compressor in COMPRESSORS and (compressor is None or not own):
            compressor = found.compressor
        block = block or found.block_size
    return Packing(
        compressor or "zstd",
        wish.level,
        block or 131072,
        wish.threads or _threads(),
        wish.all_root,
        wish.fix_perms,
    )


def _threads() -> int:
    """As configured; 0 is as many as this process may use."""
    from soliton.site import config as configuration

    return configuration.current().config.mksquashfs_procs
