"""The image that a stage becomes: its layers, and over them what `/.singularity.d` says for its configuration."""

from __future__ import annotations

import json

from soliton.build import assemble, layers, stage
from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile.parser import Dockerfile
from soliton.build.dockerfile.work import Current
from soliton.build.job import Job
from soliton.images import labels, metadata, ociconfig
from soliton.images.metadata_layer import File


def contents(job: Job, current: Current, file: Dockerfile) -> assemble.Contents:
    state, base = current.state, current.state.started
    wanted = "".join(state.stage.header.get("platform").split("/")[:1]) or job.settings.architecture
    if not state.architecture:
        # A base of nothing does not say; what the steps have brought may.
        state.architecture = wanted or stage.of_programs(layers.of_stage(job, state))
    found = configuration.finished(current.config)
    document = {"os": "linux", "architecture": state.architecture, "config": found}
    parsed = ociconfig.parse(json.dumps(document).encode(), file.name)
    facts = labels.BuildFacts(
        time=state.epoch, architecture=state.architecture, header={}, source=base.source
    )
    own = {k: v for k, v in parsed.labels.items() if not k.startswith(labels.SCHEMA)}
    merged, _ = labels.merge(own, labels.of_build(facts))
    above = (
        *metadata.base(),
        *metadata.from_oci(parsed),
        File(metadata.DEFINITION, file.text.encode("utf-8", "surrogateescape")),
        File(metadata.LABELS, labels.encode(merged)),
    )
    return assemble.of_parts(
        job,
        state,
        above,
        metadata.sif_objects(file.text, metadata.with_entries({}, above), ociconfig.encode(parsed)),
    )
