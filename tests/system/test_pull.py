"""Pulls from a real registry: what arrives, what is kept, and what a user is told when it goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.conftest import busybox_tar
from tests.system.program import AMPLE, Program, eventually, interrupt
from tests.system.registry import Registry, serve
from tests.system.test_errors import fatal
from tests.zoo import GZIP, PLAIN, ZSTD, Layer, write_layout, zoo


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serve(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def busybox_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runnable image of two layers, with the configuration of a container image."""
    base = tmp_path_factory.mktemp("layout")
    lower = busybox_tar(base / "busybox.tar").read_bytes()
    upper = Layer().directory("opt").add("opt/data", b"from above\n").remove("bin/expr").bytes()
    config = {
        "Env": ["PATH=/bin:/opt", "COLOUR=blue and $5", "EMPTY="],
        "Entrypoint": ["/bin/echo", "entry"],
        "Cmd": ["default words"],
        "Labels": {"org.example.name": "busy box"},
    }
    return write_layout(base / "layout", [(lower, GZIP), (upper, ZSTD)], config=config)


@pytest.fixture(scope="module")
def busybox_uri(registry: Registry, busybox_layout: Path) -> str:
    return registry.push(busybox_layout, "test/busybox")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest_of(layout: Path) -> dict[str, object]:
    index = json.loads((layout / "index.json").read_text())
    name = index["manifests"][0]["digest"].replace(":", "/")
    record: dict[str, object] = json.loads((layout / "blobs" / name).read_text())
    return record


def test_an_image_is_pulled_into_one_file_and_runs(soliton: Program, busybox_uri: str) -> None:
    soliton("pull", "--no-https", busybox_uri).ok()
    image = soliton.cwd / "busybox_latest.sif"
    assert image.exists()
    assert soliton("exec", image, "cat", "/opt/data").ok().out == "from above\n"
    assert soliton("exec", image, "expr", "1", "+", "1").status == 255
    assert soliton("run", image).ok().out == "entry default words\n"
    assert soliton("run", image, "mine").ok().out == "entry mine\n"
    assert soliton("exec", image, "sh", "-c", 'echo "$COLOUR"').ok().out == "blue and $5\n"
    assert "org.example.name: busy box" in soliton("inspect", image).ok().out


def test_two_pulls_anywhere_give_the_same_bytes(soliton: Program, busybox_uri: str, tmp_path: Path) -> None:
    soliton("pull", "--no-https", "one.sif", busybox_uri).ok()
    other = soliton.having(SOLITON_CACHEDIR=str(tmp_path / "other cache"), TZ="Asia/Tokyo", LC_ALL="C")
    narrow = Program(
        other.home,
        other.cwd,
        other.variables,
        ("sh", "-c", f'umask 077; exec taskset -c {min(os.sched_getaffinity(0))} "$@"', "sh"),
    )
    narrow("pull", "--no-https", "two.sif", busybox_uri).ok()
    assert digest(soliton.cwd / "one.sif") == digest(soliton.cwd / "two.sif")


def test_an_image_is_run_straight_from_the_registry_and_then_from_the_cache(
    soliton: Program, registry: Registry, busybox_uri: str
) -> None:
    out = soliton("exec", "--no-https", busybox_uri, "cat", "/opt/data").ok().out
    assert out == "from above\n"
    assert "1 container file(s)" in soliton("cache", "list").ok().out
    assert soliton("exec", "--no-https", busybox_uri, "cat", "/opt/data").ok().err == ""
    soliton("cache", "clean", "--force").ok()
    assert "Total space used: 0 B" in soliton("cache", "list").ok().out


def test_a_cached_image_runs_when_the_registry_is_gone(
    soliton: Program, busybox_layout: Path, tmp_path: Path
) -> None:
    with serve(tmp_path / "short-lived") as registry:
        uri = registry.push(busybox_layout, "test/short")
        soliton("exec", "--no-https", uri, "true").ok()
    result = soliton("exec", "--no-https", uri, "cat", "/opt/data").ok()
    assert result.out == "from above\n"
    assert "cannot be reached" in result.err


def test_tls_with_its_own_authority(soliton: Program, busybox_layout: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "tls", tls=True) as registry:
        uri = registry.push(busybox_layout, "test/tls")
        message = fatal(soliton("pull", "image.sif", uri))
        assert "certificate" in message
        assert "SSL_CERT_FILE" in message
        soliton.having(SSL_CERT_FILE=str(registry.authority))("pull", "image.sif", uri).ok()


def test_a_registry_with_users(soliton: Program, busybox_layout: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "users", users={"someone": "secret word"}) as registry:
        uri = registry.push(busybox_layout, "test/private")
        message = fatal(soliton("pull", "--no-https", "image.sif", uri))
        assert "does not let" in message
        wrong = soliton.having(SOLITON_DOCKER_USERNAME="someone", SOLITON_DOCKER_PASSWORD="wrong")
        assert "does not let" in fatal(wrong("pull", "--no-https", "image.sif", uri))
        right = soliton.having(APPTAINER_DOCKER_USERNAME="someone", APPTAINER_DOCKER_PASSWORD="secret word")
        right("pull", "--no-https", "image.sif", uri).ok()
        authfile = tmp_path / "auth file.json"
        authfile.write_text(json.dumps({"auths": {registry.host: {"auth": "c29tZW9uZTpzZWNyZXQgd29yZA=="}}}))
        soliton("pull", "--no-https", "--authfile", authfile, "second.sif", uri).ok()


def test_a_registry_without_tls_is_told_from_one_that_is_gone(soliton: Program, busybox_uri: str) -> None:
    assert "--no-https" in fatal(soliton("pull", "image.sif", busybox_uri))


def test_a_tag_that_does_not_exist(soliton: Program, registry: Registry, busybox_uri: str) -> None:
    message = fatal(soliton("pull", "--no-https", "image.sif", busybox_uri.replace(":latest", ":missing")))
    assert "`missing`" in message
    assert "latest" in message
    assert "no image" in fatal(soliton("pull", "--no-https", "x.sif", f"docker://{registry.host}/not/there"))


def test_an_altered_layer_is_refused_and_nothing_is_kept(
    soliton: Program, busybox_layout: Path, tmp_path: Path
) -> None:
    with serve(tmp_path / "altered") as registry:
        uri = registry.push(busybox_layout, "test/altered")
        layer = manifest_of(busybox_layout)["layers"][0]["digest"]  # type: ignore[index]
        blob = registry.blob(layer)
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
        message = fatal(soliton("pull", "--no-https", "image.sif", uri))
        assert "layer 1" in message or "damaged" in message
        assert not list(soliton.cwd.iterdir())


def test_a_platform_that_is_not_offered(
    soliton: Program, busybox_uri: str, registry: Registry, tmp_path: Path
) -> None:
    images = {}
    for architecture in ("amd64", "arm64"):
        layer = Layer().add("which", architecture.encode()).bytes()
        images[architecture] = write_layout(
            tmp_path / architecture, [(layer, GZIP)], architecture=architecture
        )
    merged = tmp_path / "merged"
    subprocess.run(["cp", "-r", images["amd64"], merged], check=True)
    subprocess.run(["cp", "-r", f"{images['arm64']}/blobs", merged], check=True)
    entries = []
    for architecture, layout in images.items():
        entry = json.loads((layout / "index.json").read_text())["manifests"][0]
        entries.append(
            {**entry, "annotations": {}, "platform": {"os": "linux", "architecture": architecture}}
        )
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    name = hashlib.sha256(index).hexdigest()
    (merged / "blobs/sha256" / name).write_bytes(index)
    outer = {
        "mediaType": kind,
        "digest": f"sha256:{name}",
        "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (merged / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [outer]}))
    uri = registry.push(merged, "test/many", many=True)
    for architecture in images:
        target = f"{architecture}.sif"
        soliton("pull", "--no-https", "--arch", architecture, target, uri).ok()
        assert f"org.label-schema.build-arch: {architecture}" in soliton("inspect", target).ok().out
    message = fatal(soliton("pull", "--no-https", "--arch", "s390x", "x.sif", uri))
    assert "amd64" in message and "arm64" in message


def test_an_interrupted_pull_goes_on_where_it_stopped(
    soliton: Program, registry: Registry, tmp_path: Path
) -> None:
    large = Layer().add("noise", os.urandom(64 << 20)).bytes()
    uri = registry.push(write_layout(tmp_path / "large", [(large, PLAIN)]), "test/large")
    process = soliton.start("pull", "--no-https", "large.sif", uri)
    blobs = soliton.home / "cache/blobs/sha256"

    def begun() -> bool:
        for partial in blobs.glob("*.partial-*"):
            with suppress(FileNotFoundError):  # it has its name meanwhile
                if partial.stat().st_size > 1 << 20:
                    return True
        return False

    eventually(lambda: process.poll() is not None or begun())
    interrupt(process)
    assert not list(soliton.cwd.iterdir()) or process.returncode == 0
    kept = list(blobs.glob("*.partial-*"))
    result = soliton("-v", "pull", "--no-https", "--force", "large.sif", uri).ok()
    if kept and process.returncode != 0:
        assert "going on from byte" in result.err
    assert not list(blobs.glob("*.partial-*"))


def test_two_pulls_of_the_same_image_at_once(soliton: Program, busybox_uri: str) -> None:
    started = [soliton.start("pull", "--no-https", f"{i}.sif", busybox_uri) for i in range(4)]
    for process in started:
        _, err = process.communicate(timeout=AMPLE)
        assert process.returncode == 0, err
    assert len({digest(soliton.cwd / f"{i}.sif") for i in range(4)}) == 1


def test_archives_with_tags_and_compression(soliton: Program, tmp_path: Path) -> None:
    # `docker save` knows no zstd.
    lower = busybox_tar(tmp_path / "busybox.tar").read_bytes()
    upper = Layer().directory("opt").add("opt/data", b"from above\n").bytes()
    layout = write_layout(tmp_path / "gzip", [(lower, GZIP), (upper, GZIP)])
    for kind in ("oci-archive", "docker-archive"):
        archive = soliton.cwd / f"{kind}.tar"
        docker = kind == "docker-archive"
        destination = f"{kind}:{archive}" + (":name:v1" if docker else ":v1")
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:latest", destination],
            check=True,
            capture_output=True,
        )
        soliton("pull", f"{kind}.sif", f"{kind}:{archive}:v1").ok()
        if docker:
            for name in ("name:v1", "docker.io/library/name:v1"):
                soliton("pull", "--force", f"{kind}.sif", f"{kind}:{archive}:{name}").ok()
            assert "name:v1" in fatal(soliton("pull", "x.sif", f"{kind}:{archive}:name:v2"))
        for program, ending in (("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2")):
            subprocess.run([program, "-k", archive], check=True)
            soliton("pull", f"{kind}-{ending}.sif", f"{kind}:{archive}.{ending}").ok()
        assert soliton("exec", f"{kind}-xz.sif", "cat", "/opt/data").ok().out == "from above\n"


def test_a_directory_is_pulled_and_a_single_image_is_told_from_what_was_asked_for(
    soliton: Program, busybox_uri: str
) -> None:
    soliton("pull", "--no-https", "--sandbox", busybox_uri).ok()
    assert soliton("exec", "busybox_latest.sif", "cat", "/opt/data").ok().out == "from above\n"
    tree = soliton.cwd / "busybox_latest.sif"
    (tree / "mine").write_text("mine")
    assert "--force" in fatal(soliton("pull", "--no-https", "--sandbox", busybox_uri))
    assert (tree / "mine").exists()
    soliton("pull", "--no-https", "--sandbox", "--force", busybox_uri).ok()
    assert not (tree / "mine").exists()
    assert "`amd` is not the name of an architecture" in fatal(
        soliton("pull", "--no-https", "--arch", "amd", "x.sif", busybox_uri)
    )
    other = "s390x" if os.uname().machine != "s390x" else "amd64"
    told = soliton("pull", "--no-https", "--arch", other, "x.sif", busybox_uri).ok().err
    assert told.startswith("WARNING: ") and f"not for {other}" in told


def test_the_zoo_is_the_same_however_its_layers_are_stored(soliton: Program, tmp_path: Path) -> None:
    digests = set()
    for storage in (GZIP, ZSTD, PLAIN):
        layout = zoo(tmp_path / f"zoo{storage[0]}", storage=storage)
        soliton("pull", "--force", "zoo.sif", f"oci:{layout}:latest").ok()
        soliton("build", "--force", "--sandbox", "tree", "zoo.sif").ok()
        files = sorted(str(p.relative_to(soliton.cwd / "tree")) for p in (soliton.cwd / "tree").rglob("*"))
        digests.add(hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest())
        assert (soliton.cwd / "tree/keep/a").read_text() == "a from above"
        assert not (soliton.cwd / "tree/hide/one").exists()
        assert (soliton.cwd / "tree/usr/lib/through-link").exists()
    assert len(digests) == 1
