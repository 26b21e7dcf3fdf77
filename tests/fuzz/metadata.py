"""What an image says about itself, and an OCI image about how it is to be run."""

from __future__ import annotations

import json
from collections.abc import Iterable

from soliton.errors import ImageError
from soliton.images import inspection, labels, metadata, ociconfig

_CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "created": "2023-11-14T22:13:20Z",
    "config": {
        "Env": ["PATH=/bin", "A=b c"],
        "Cmd": ["sh", "-c", "echo 'x'"],
        "Entrypoint": ["/e"],
        "Labels": {"a": "b"},
        "Healthcheck": {"Test": ["CMD", "true"], "Retries": 3},
        "Volumes": {"/data": {}},
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]},
}
_RECORD = inspection.Described(
    environment={"/.singularity.d/env/90-environment.sh": "#!/bin/sh"},
    labels={"a": "b"},
    apps={"foo": inspection.Described(labels={"SCIF_APP_NAME": "foo"})},
)


def seeds() -> Iterable[bytes]:
    yield json.dumps(_CONFIG).encode()
    yield inspection.to_sif_json(_RECORD)
    yield labels.encode({"a": "b", "c": "d"})


def target(data: bytes) -> None:
    for attempt in (_described, _configured, _labelled):
        attempt(data)


def _described(data: bytes) -> None:
    try:
        inspection.to_sif_json(inspection.from_json(data, "fuzz"))
    except ImageError:
        return


def _configured(data: bytes) -> None:
    try:
        config = ociconfig.parse(data, "fuzz")
    except ImageError:
        return
    metadata.of_oci_image(config, labels.BuildFacts(0, "amd64"), definition="")


def _labelled(data: bytes) -> None:
    try:
        labels.encode(labels.decode(data, "fuzz"))
    except ImageError:
        return
    labels.parse(data.decode("utf-8", "replace"))
