# $ soliton run image.sif
# Hello, world!
FROM ./debian.sif
ENV DEBIAN_FRONTEND noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update -q \
    && apt-get install -y -q --no-install-recommends hello \
    && rm -rf /var/lib/apt/lists/*
CMD hello
