"""An OCI image into one SIF: layers go through pipes into the core as they arrive, and come out as squashfs inside the
file. Nothing is unpacked, and nothing is written twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from soliton import core, messages
from soliton.errors import ImageError, TargetError
from soliton.images import metadata, ociconfig, sif_write
from soliton.images.labels import BuildFacts
from soliton.images.oci import Layer, OciImage, check_layers
from soliton.site import config as configuration

#: Changes whenever the same image would give other bytes.
VERSION = 2


def time_of(created: str | None) -> int:
    """Unix seconds of an RFC 3339 time; 0 for none, or one that makes no sense."""
    if not created:
        return 0
    text = created.replace("Z", "+00:00")
    head, dot, tail = text.partition(".")
    if dot:
        # Nanoseconds, which Python does not read.
        zone = next((tail[i:] for i, c in enumerate(tail) if c in "+-"), "")
        text = head + zone
    try:
        return max(0, min(int(datetime.fromisoformat(text).timestamp()), 0xFFFFFFFF))
    except ValueError:
        return 0


class _Feeder(threading.Thread):
    """Passes one layer on; its failure is kept for the one who waits for the whole."""

    def __init__(self, layer: Layer, pipe: int) -> None:
        super().__init__(daemon=True)
        self.layer, self.pipe = layer, pipe
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.layer.source.feed(self.pipe)
        except BrokenPipeError:
            # The core has ended early, and says why.
            pass
        except BaseException as error:
            self.failure = error
        finally:
            os.close(self.pipe)


def to_sif(
    image: OciImage, fd: int, *, on_progress: Callable[[dict[str, Any]], None] | None = None
) -> str | None:
    """Writes the SIF into the empty file `fd`, the same bytes for the same image everywhere.

    Returns the architecture. Raises ImageError for damaged or hostile layers, and whatever the layers' sources raise.
    """
    config = ociconfig.parse(image.config, image.name)
    time = time_of(config.created)
    name = image.origin[0] if image.origin else image.name
    extra = metadata.of_oci_image(
        config,
        BuildFacts(
            time=time,
            architecture=config.architecture,
            header={"bootstrap": image.bootstrap, "from": name},
            source=image.origin,
        ),
        definition=f"bootstrap: {image.bootstrap}\nfrom: {name}\n\n",
    )
    layout = sif_write.plan_sif(extra.objects)
    feeders: list[_Feeder] = []
    opened: list[int] = []
    diff_ids: dict[int, str] = {}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "layer":
            diff_ids[event["index"]] = event["diff_id"]
        elif event["event"] == "warning":
            messages.warning(event["message"])
        elif on_progress is not None:
            on_progress(event)

    records: list[dict[str, Any]] = []
    try:
        opened.append(_memory(extra.below))
        records.append({"kind": "tar", "fd": opened[-1]})
        for layer in image.layers:
            read_end, write_end = os.pipe()
            opened.append(read_end)
            feeders.append(_Feeder(layer, write_end))
            records.append({"kind": "tar", "fd": read_end, "path": layer.source.path()})
        opened.append(_memory(extra.above))
        records.append({"kind": "tar", "fd": opened[-1]})
        request = {
            "layers": records,
            "output": {"fd": fd, "offset": layout.partition_offset},
            "epoch": time,
            "threads": configuration.current().config.mksquashfs_procs,
        }
        for feeder in feeders:
            _widen(feeder.pipe)
            feeder.start()
        try:
            done = core.converse("squash", request, on_event, pass_fds=(fd, *opened), close_fds=opened)
        except core.CoreError as error:
            for feeder in feeders:
                if feeder.failure is not None:
                    raise feeder.failure from None
            raise explain(error, image.name) from None
        finally:
            opened.clear()
    finally:
        for left in opened:
            os.close(left)
    for feeder in feeders:
        feeder.join()
        if feeder.failure is not None:
            raise feeder.failure
    check_layers([diff_ids.get(i + 1) for i in range(len(image.layers))], config.diff_ids, image.name)
    sif_write.finish(fd, layout, partition_size=done["size"], architecture=config.architecture, time=None)
    return config.architecture


def explain(error: core.CoreError, name: str) -> Exception:
    """What the core says of a conversion, for people."""
    path = error.detail.get("path")
    place = f" (`{path}`)" if path else ""
    if error.code == "corrupt":
        return ImageError(f"{name} is damaged or hostile", why=f"{error.what}{place}")
    if error.code == "no-space":
        return TargetError(
            "the image cannot be written", why=error.what, remedy="make room, or choose another place"
        )
    if error.code == "quota":
        return TargetError(
            "the image cannot be written", why="your disk quota is used up", remedy="make room"
        )
    return ImageError(f"{name} could not be converted", why=f"{error.what}{place}")


def _memory(data: bytes) -> int:
    fd = os.memfd_create("soliton-layer")
    sif_write.write_all(fd, data, 0)
    return fd


def _widen(pipe: int) -> None:
    """A larger pipe lets sender and receiver run further apart; a limit of the machine is no reason to fail."""
    import contextlib
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
