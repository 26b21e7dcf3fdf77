"""Dockerfiles, as far as no file is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from soliton.build.dockerfile import config, context, mounts, parser, stages, words

_TYPICAL = b"""# escape=\\
ARG BASE=alpine
FROM ${BASE:-x}:3 AS build
ARG V=1
ENV A="b c" D=$A
WORKDIR /src
COPY --from=0 --chown=1:2 a b* /dst/
RUN --mount=type=cache,target=/c,id=x --mount=type=secret,id=t,required=true \\
    # comment
    echo $V && make
RUN <<-EOF
\tone
\tEOF
FROM build
HEALTHCHECK --interval=1m CMD ["x"]
LABEL a=b "c d"=e
CMD ["a", "b"]
"""


def seeds() -> Iterable[bytes]:
    yield _TYPICAL
    for file in sorted((Path(__file__).parents[1] / "corpus" / "dockerfile").glob("*.Dockerfile")):
        yield file.read_bytes()


def target(data: bytes) -> None:
    recipe = stages.read(parser.parse(data, "fuzz"), {"V": "2"}, {"TARGETARCH": "amd64"}, None)
    context.read_rules(data.decode("utf-8", "surrogateescape"))
    for part in recipe.stages:
        said = config.Config()
        for item in part.instructions:
            for key, value in item.flags:
                if key == "mount":
                    mounts.read(value, "fuzz", item.line)
            if item.word not in ("RUN", "COPY", "ADD"):
                config.apply(said, item, recipe.file, {"V": "2"}, recipe.arguments)
            else:
                words.split(item.rest, recipe.file.escape, "fuzz", item.line)
        config.finished(said)
