"""Images that are one file where they are: artifacts of a registry, a library, a hub, and plain addresses."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.system.conftest import busybox_tar
from tests.system.program import Program, eventually
from tests.system.registry import Registry, keep_silent, serve
from tests.zoo import GZIP, Layer, write_layout

_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"


def push(registry: Registry, name: str, image: Path, layer: str = _LAYER) -> str:
    """Puts a SIF into a registry as its tools do: one layer, an empty configuration. The digest of the manifest."""

    def upload(data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        parts = urlsplit(ask("POST", f"/v2/{name}/blobs/uploads/"))
        query = f"{parts.query}&" if parts.query else ""
        ask("PUT", f"{parts.path}?{query}digest={digest}", data, "application/octet-stream")
        return {"size": len(data), "digest": digest}

    def ask(method: str, path: str, data: bytes = b"", kind: str = "") -> str:
        connection.request(method, path, data, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 300, (method, path, answer.status)
        return answer.headers.get("Location", "")

    connection = http.client.HTTPConnection(registry.host)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": "application/vnd.sylabs.sif.config.v1+json", **upload(b"{}")},
        "layers": [{"mediaType": layer, **upload(image.read_bytes())}],
    }
    text = json.dumps(manifest, separators=(",", ":")).encode()
    ask("PUT", f"/v2/{name}/manifests/latest", text, kind)
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


@dataclass
class Shelf:
    """A server of files that may break off (after so many bytes, once for each number), and of an API of a library and a hub."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    changed: str = "Fri, 27 Nov 2020 10:00:00 GMT"
    ends: str = "with a length"
    address: str = ""
    stop: Callable[[], None] = lambda: None

    def describe(self, path: str, record: object) -> None:
        self.files[path] = json.dumps(record).encode()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            shelf.asked.append((self.path, self.headers.get("Range")))
            if self.path in shelf.redirects:
                self.send_response(303)
                self.send_header("Location", shelf.redirects[self.path])
                self.end_headers()
                return
            data = shelf.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.protocol_version = "HTTP/1.1" if shelf.ends == "in chunks" else "HTTP/1.0"
            self.close_connection = True
            start = 0
            if self.headers.get("Range") and self.headers.get("If-Range", shelf.changed) == shelf.changed:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if shelf.ends == "with a length":
                self.send_header("Content-Length", str(len(data) - start))
            elif shelf.ends == "in chunks":
                self.send_header("Transfer-Encoding", "chunked")
            if shelf.changed:
                self.send_header("Last-Modified", shelf.changed)
            self.end_headers()
            rest = data[start:]
            if shelf.ends == "in chunks":
                rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)
            if shelf.breaks and len(rest) > shelf.breaks[0]:
                rest = rest[: shelf.breaks.pop(0)]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(rest)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        shelf.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            keep_silent(server.server_address[1])

        shelf.stop = stop
        yield shelf
        server.shutdown()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serve(tmp_path_factory.mktemp("registry")) as running:
        yield running


def digest_of(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def test_an_artifact_of_a_registry_is_pulled_run_and_built_upon(
    soliton: Program, registry: Registry, busybox_sif: Path
) -> None:
    push(registry, "tools/busybox", busybox_sif)
    uri = f"oras://{registry.host}/tools/busybox"
    # A registry of this machine need not speak TLS, as with the peers.
    soliton("pull", uri).ok()
    assert (soliton.cwd / "busybox_latest.sif").read_bytes() == busybox_sif.read_bytes()
    listed = soliton("cache", "list", "--type", "oras", "--verbose").ok().out
    assert "There are 1 container file(s)" in listed and " oras\n" in listed
    soliton("cache", "clean", "--force", "--type", "net,library").ok()
    assert soliton("cache", "list", "--type", "oras").ok().out == soliton("cache", "list").ok().out
    soliton("cache", "clean", "--type", "oras", stdin="n\n").ok()
    assert "y/N" in soliton("cache", "clean", "--type", "oras", stdin="y\n").ok().err
    assert "There are 0 container file(s)" in soliton("cache", "list", "--type", "oras").ok().out
    soliton("pull", "--sandbox", "tree", uri).ok()
    assert soliton("exec", "tree", "echo", "ran").ok().out == "ran\n"
    assert soliton("exec", "--no-https", uri, "echo", "ran").ok().out == "ran\n"
    (soliton.cwd / "a.def").write_text(
        f"Bootstrap: oras\nFrom: {registry.host}/tools/busybox:latest\n%post\n    echo built > /note\n"
    )
    soliton("build", "--no-https", "a.sif", "a.def").ok()
    assert soliton("exec", "a.sif", "cat", "/note").ok().out == "built\n"
    soliton("build", "--no-https", "b.sif", uri).ok()
    assert soliton("exec", "b.sif", "echo", "ran").ok().out == "ran\n"


def test_an_unchanged_build_on_an_artifact_asks_nobody_and_a_lock_holds_it(
    soliton: Program, tmp_path: Path, busybox_sif: Path
) -> None:
    recipe = soliton.cwd / "a.def"
    with serve(tmp_path / "registry") as registry:
        push(registry, "tools/busybox", busybox_sif)
        recipe.write_text(
            f"Bootstrap: oras\nFrom: {registry.host}/tools/busybox\n%post\n    echo a > /note\n"
        )
        soliton("build", "--no-https", "--lock", "a.sif", "a.def").ok()
    soliton("build", "--no-https", "b.sif", "a.def").ok()
    assert soliton("exec", "b.sif", "cat", "/note").ok().out == "a\n"
    soliton("build", "--no-https", "--locked", "c.sif", "a.def").ok()
    assert f"sha256:{digest_of(busybox_sif)}" in (soliton.cwd / "a.def.lock").read_text()


def test_an_artifact_and_an_image_of_layers_are_told_apart(
    soliton: Program, registry: Registry, tmp_path: Path, busybox_sif: Path
) -> None:
    push(registry, "other/artifact", busybox_sif, "application/vnd.example.chart")
    push(registry, "other/sif", busybox_sif)
    registry.push(
        write_layout(tmp_path / "layout", [(Layer().directory("opt").bytes(), GZIP)]), "other/layers"
    )
    for name in ("artifact", "layers"):
        refused = soliton("pull", "--no-https", "x.sif", f"oras://{registry.host}/other/{name}")
        assert (refused.status, f"write docker://{registry.host}/other/{name}" in refused.err) == (255, True)
    refused = soliton("pull", "--no-https", "x.sif", f"docker://{registry.host}/other/sif")
    assert (refused.status, "write oras:// instead" in refused.err) == (255, True)
    refused = soliton("pull", "x.sif", "oras://busybox")
    assert (refused.status, "does not say which registry has it" in refused.err) == (255, True)
    assert list(soliton.cwd.glob("*x.sif*")) == []


def library(shelf: Shelf, image: Path, name: str = "me/tools/busybox:1", told: str = "") -> None:
    """Puts an image into the library of a shelf, whose files are at another address."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    data = {"hash": f"sha256.{told or digest_of(image)}", "size": image.stat().st_size}
    shelf.describe(f"/v1/images/{name}?arch={arch}", {"data": data})
    shelf.files["/store/1"] = image.read_bytes()
    shelf.redirects[f"/v1/imagefile/{name}?arch={arch}"] = f"{shelf.address}/store/1"


def test_an_image_of_a_library_is_pulled_although_connections_break(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    library(shelf, busybox_sif)
    shelf.breaks = [600_000, 300_000]
    soliton("pull", "--library", shelf.address, "library://me/tools/busybox:1").ok()
    assert (soliton.cwd / "busybox_1.sif").read_bytes() == busybox_sif.read_bytes()
    first, *later = [asked for path, asked in shelf.asked if path == "/store/1"]
    assert first is None and len(later) == 2 and None not in later, later
    named = soliton.having(SINGULARITY_LIBRARY=shelf.address)
    assert named("exec", "library://me/tools/busybox:1", "echo", "ran").ok().out == "ran\n"
    (soliton.cwd / "a.def").write_text(
        f"Bootstrap: library\nFrom: me/tools/busybox:1\nLibrary: {shelf.address}\n%post\n    true\n"
    )
    soliton("build", "a.sif", "a.def").ok()
    assert len([asked for asked in shelf.asked if asked[0] == "/store/1"]) == 3


def test_a_host_of_a_library_tells_where_it_is(soliton: Program, shelf: Shelf, busybox_sif: Path) -> None:
    library(shelf, busybox_sif)
    shelf.describe("/assets/config/config.prod.json", {"libraryAPI": {"uri": shelf.address}})
    uri = f"library://{urlsplit(shelf.address).netloc}/me/tools/busybox:1"
    soliton("pull", "--no-https", uri).ok()
    assert (soliton.cwd / "busybox_1.sif").read_bytes() == busybox_sif.read_bytes()
    nobody = soliton("pull", "x.sif", "library://me/tools/busybox:1")
    assert (nobody.status, "name one: `--library" in nobody.err) == (255, True)


def test_what_is_not_what_was_promised_gets_no_name(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    library(shelf, busybox_sif, told="0" * 64)
    lied = soliton("pull", "--library", shelf.address, "library://me/tools/busybox:1")
    assert (lied.status, "is not what it should be" in lied.err) == (255, True)
    shelf.files["/page.sif"] = b"<html>not found, but nicely</html>" * 100
    page = soliton("pull", f"{shelf.address}/page.sif")
    assert page.status == 255 and "page.sif" in page.err
    missing = soliton("pull", f"{shelf.address}/nothing.sif")
    assert (missing.status, "404" in missing.err) == (255, True)
    for text in ("library://a/b/c/d/e", "library://me/../x:1", "library://me/x:a b", "shub://x"):
        assert soliton("pull", "--library", shelf.address, "x.sif", text).status == 255
    assert list(soliton.cwd.glob("*.sif*")) == []
    assert list((soliton.home / "cache/blobs/sha256").iterdir()) == []


def test_a_file_at_an_address_is_fetched_once_and_again_when_it_has_changed(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    shelf.files["/images/tools.sif?token=1"] = busybox_sif.read_bytes()
    uri = f"{shelf.address}/images/tools.sif?token=1"
    # The connection on which only the size is looked up may break, too.
    shelf.breaks = [busybox_sif.stat().st_size - 1]
    soliton("pull", uri).ok()
    assert (soliton.cwd / "tools.sif").read_bytes() == busybox_sif.read_bytes()
    assert soliton("exec", uri, "echo", "ran").ok().out == "ran\n"
    fetched = len(shelf.asked)
    assert soliton("exec", uri, "echo", "again").ok().out == "again\n"
    assert len(shelf.asked) == fetched + 1
    soliton("build", "--sandbox", "tree", "tools.sif").ok()
    (soliton.cwd / "tree/new").write_text("new\n")
    soliton("build", "new.sif", "tree").ok()
    shelf.files["/images/tools.sif?token=1"] = (soliton.cwd / "new.sif").read_bytes()
    shelf.changed = "Sat, 28 Nov 2020 10:00:00 GMT"
    assert soliton("exec", uri, "cat", "/new").ok().out == "new\n"


@pytest.mark.parametrize("ends", ["in chunks", "by closing"])
def test_a_file_whose_size_nobody_says_is_fetched_to_its_end(
    soliton: Program, shelf: Shelf, busybox_sif: Path, ends: str
) -> None:
    shelf.files["/a.sif"] = busybox_sif.read_bytes()
    shelf.ends = ends
    shelf.breaks = [600_000, 600_000]
    cut = soliton("pull", f"{shelf.address}/a.sif")
    if ends == "in chunks":
        cut.ok()
    else:
        # Only the image itself can tell that a part is missing.
        assert (cut.status, "truncated" in cut.err) == (255, True), cut.err
        assert not list(soliton.cwd.iterdir()) and not list((soliton.home / "cache/blobs/sha256").iterdir())
        shelf.breaks = []
        soliton("pull", f"{shelf.address}/a.sif").ok()
    assert (soliton.cwd / "a.sif").read_bytes() == busybox_sif.read_bytes()


def test_a_file_that_nothing_tells_from_its_next_version_is_fetched_each_time(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    shelf.files["/a.sif"] = busybox_sif.read_bytes()
    shelf.changed = ""
    uri = f"{shelf.address}/a.sif"
    soliton("exec", uri, "true").ok()
    # As large as before.
    shelf.files["/a.sif"] = b"x" * busybox_sif.stat().st_size
    assert soliton("exec", uri, "true").status == 255


def test_an_image_goes_to_a_file_system_of_another_kind(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    shelf.files["/a.sif"] = busybox_sif.read_bytes()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        assert os.stat(memory).st_dev != os.stat(soliton.home).st_dev
        soliton("pull", f"{memory}/a.sif", f"{shelf.address}/a.sif").ok()
        assert Path(memory, "a.sif").read_bytes() == busybox_sif.read_bytes()


def test_what_was_fetched_once_runs_when_nobody_answers(
    soliton: Program, shelf: Shelf, busybox_sif: Path
) -> None:
    library(shelf, busybox_sif)
    shelf.files["/a.sif"] = busybox_sif.read_bytes()
    uris = (f"{shelf.address}/a.sif", "library://me/tools/busybox:1")
    named = soliton.having(APPTAINER_LIBRARY=shelf.address)
    for uri in uris:
        named("exec", uri, "true").ok()
    shelf.stop()
    for uri in uris:
        told = named("exec", uri, "echo", "ran").ok()
        assert (told.out, "cannot be reached; using what" in told.err) == ("ran\n", True)
        # Who pulls wants what is there now.
        assert named("pull", "x.sif", uri).status == 255


@pytest.mark.parametrize("where", ["address", "layout"])
@pytest.mark.parametrize("how", ["--disable-cache", "read-only"])
def test_an_image_that_is_not_kept_runs_and_is_gone(
    soliton: Program, shelf: Shelf, busybox_sif: Path, tmp_path: Path, where: str, how: str
) -> None:
    shelf.files["/a.sif"] = busybox_sif.read_bytes()
    write_layout(tmp_path / "layout", [(busybox_tar(tmp_path / "busybox.tar").read_bytes(), GZIP)])
    uri = f"{shelf.address}/a.sif" if where == "address" else f"oci:{tmp_path}/layout"
    room = tmp_path / "room"
    room.mkdir()
    options: tuple[str, ...] = ("--disable-cache",)
    passing = soliton.having(TMPDIR=str(room))
    if how == "read-only":
        (tmp_path / "closed").mkdir(mode=0o555)
        options, passing = (), passing.having(SOLITON_CACHEDIR=str(tmp_path / "closed/cache"))
    done = passing("exec", *options, uri, "/bin/busybox", "sh", "-c", f"ls {room}")
    assert done.ok().out.startswith("soliton-image-")
    assert ("nothing is kept" in done.err) == (how == "read-only")
    eventually(lambda: not list(room.iterdir()), lambda: f"left: {list(room.iterdir())}")


def test_an_image_of_a_hub_is_where_the_hub_says(soliton: Program, shelf: Shelf, busybox_sif: Path) -> None:
    shelf.files["/store/2"] = busybox_sif.read_bytes()
    shelf.describe("/api/container/user/tools:1", {"image": f"{shelf.address}/store/2", "name": "user/tools"})
    soliton("pull", "--no-https", f"shub://{urlsplit(shelf.address).netloc}/user/tools:1").ok()
    assert (soliton.cwd / "tools_1.sif").read_bytes() == busybox_sif.read_bytes()
