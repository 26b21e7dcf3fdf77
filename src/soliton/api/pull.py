"""`pull`: an image from elsewhere into one file, or into the cache to be run from there.

    pull("docker://debian:12", "debian.sif")
    path = to_cache("oci-archive:tools.tar:v1")

To a file, the image is written once, at its final place; the cache keeps the layers. To the cache, the finished image
is kept too, under what it was made from, so that the next run starts at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from soliton import __version__, messages, progress
from soliton.errors import NotSupported, SolitonError, TargetError
from soliton.images import convert, oci
from soliton.images import target as targets
from soliton.images.cache import Cache, of_user
from soliton.images.layout import open_archive, open_layout, split_tag
from soliton.images.oci import OciImage, Platform
from soliton.site import config as configuration
from soliton.site import paths
from soliton.undisturbed import passing_directory, undisturbed

if TYPE_CHECKING:
    from soliton.registry.client import Client
    from soliton.registry.reference import Reference

#: Seconds after which it is noted anew that an image of the cache is in use.
_TOUCHED = 3600

#: Where images are one file already (`api/finished.py`).
_FINISHED = ("oras", "library", "shub", "http", "https")
_LATER = ("ipfs",)


class PullOptions(NamedTuple):
    """architecture, variant: OCI names, the host's by default. plain_http: `--no-https`. cache: keep what is fetched.

    library: address of the library that library: means.
    daemon: address of the engine that docker-daemon: means, empty: its usual socket.
    pinned: digest of the manifest that is taken, whatever the name in a registry means today.
    """

    architecture: str | None = None
    variant: str | None = None
    plain_http: bool = False
    user: str | None = None
    password: str | None = None
    authfile: str | None = None
    cache: bool = True
    quiet: bool = False
    offline_is_fine: bool = False
    daemon: str = ""
    library: str | None = None
    pinned: str | None = None


def split(uri: str) -> tuple[str, str]:
    """Scheme and the rest of an image's name. Raises SolitonError for a name without a scheme."""
    scheme, colon, rest = uri.partition(":")
    if not colon or "/" in scheme:
        raise SolitonError(
            f"`{uri}` does not say where the image is",
            remedy=f"put the kind in front, for example `docker://{uri}`",
        )
    return scheme, rest.removeprefix("//") if scheme == "docker" else rest


def default_name(uri: str) -> str:
    """Last component, `_`, tag, `.sif`: the peers' rule."""
    scheme, rest = split(uri)
    if scheme == "docker":
        from soliton.registry.reference import file_name, parse

        parse(rest)
        return file_name(rest)
    if scheme == "docker-daemon":
        name, colon, last = rest.rpartition(":")
        if not colon or "/" in last:
            name, last = rest, "latest"
        return f"{name.rpartition('/')[2]}_{last[:40]}.sif"
    if scheme in _FINISHED:
        from soliton.api import finished

        return finished.default_name(scheme, rest)
    path, tag = split_tag(rest)
    return f"{os.path.basename(path.rstrip('/'))}_{(tag or 'latest').rpartition(':')[2][:40]}.sif"


def pull(
    uri: str,
    target: str | None = None,
    options: PullOptions | None = None,
    *,
    force: bool = False,
    sandbox: bool = False,
) -> str:
    """Makes one file of the image, or a directory; its path. Raises RegistryError, ImageError, TargetError, NotSupported."""
    if sandbox:
        return _to_sandbox(uri, target or default_name(uri), options or PullOptions(), force)
    return pull_known(uri, target, options, force=force)[0]


def _to_sandbox(uri: str, target: str, options: PullOptions, force: bool) -> str:
    from soliton.api import build

    wishes = build.BuildOptions(sandbox=True, replace=force, fetching=options)
    build.check_target(target, wishes)
    build.build(target, to_cache(uri, options) if split(uri)[0] in _FINISHED else uri, wishes)
    return os.path.abspath(target)


def pull_known(
    uri: str, target: str | None = None, options: PullOptions | None = None, *, force: bool = False
) -> tuple[str, str]:
    """The same; the path, and the digest of the image's manifest, or of the file where it is one already."""
    options = options or PullOptions()
    target = target or default_name(uri)
    targets.check(target, force=force)
    if split(uri)[0] in _FINISHED:
        from soliton.api import finished

        with _cache(options) as cache:
            source, digest = finished.to_cache(*split(uri), options, cache)
            return finished.to_file(source, target, force=force), digest
    with opened(uri, options) as (image, _), targets.new_image(target, force=force) as file:
        _tell_architecture(uri, image, options)
        fetch(image, file.fd, options)
    return file.path, image.manifest_digest


def to_cache(uri: str, options: PullOptions | None = None) -> str:
    """The image as a file in the cache, made if it is not there yet; its path. Without a cache it is a file as long as this process lives."""
    return to_cache_known(uri, options)[0]


def to_cache_known(uri: str, options: PullOptions | None = None) -> tuple[str, str]:
    """The same; the path, and the digest of the image's manifest, or of the file where it is one already."""
    options = options or PullOptions(offline_is_fine=True)
    if split(uri)[0] in _FINISHED:
        from soliton.api import finished

        with _cache(options) as cache:
            path, digest = finished.to_cache(*split(uri), options, cache)
            if cache != of_user():
                path = shutil.move(path, os.path.join(_passing(), default_name(uri)))
            return path, digest
    with opened(uri, options) as (image, cache):
        _tell_architecture(uri, image, options)
        if cache != of_user():
            path = os.path.join(_passing(), default_name(uri))
            with targets.new_image(path) as file:
                fetch(image, file.fd, options)
            return path, image.manifest_digest
        key = image_key(image)
        final = cache.image(key)
        if os.path.exists(final):
            with contextlib.suppress(OSError):
                # Not at every use: to those who share what is mounted, another time is another image.
                if time.time() - os.stat(final).st_mtime > _TOUCHED:
                    os.utime(final)
            return final, image.manifest_digest
        try:
            with targets.new_image(final, force=True) as file:
                fetch(image, file.fd, options)
        except TargetError as error:
            raise TargetError(
                error.what, why=error.why, remedy="set SOLITON_CACHEDIR to a place with more room"
            ) from None
        return final, image.manifest_digest


def _tell_architecture(uri: str, image: OciImage, options: PullOptions) -> None:
    """A single image is taken whatever it is for: its name may be meant so."""
    if options.architecture:
        wanted = oci.platform(options.architecture, options.variant).architecture
        found = oci.decode(image.config, f"the configuration of `{uri}`").get("architecture")
        if isinstance(found, str) and found != wanted:
            messages.warning(f"`{uri}` is for {found}, not for {wanted}, and there is no other of that name")


def _passing() -> str:
    """A new directory for an image that is not kept: it goes with this process, whatever that becomes."""
    parent = paths.temporary(os.environ, configured=configuration.current().config.tmp_dir)
    with undisturbed():
        folder = tempfile.mkdtemp(prefix="soliton-image-", dir=parent)
        _goes_with_this_process(folder)
    return folder


def _goes_with_this_process(folder: str) -> None:
    own = os.pidfd_open(os.getpid())
    # By a process that is nobody's child: what this one becomes does not expect any.
    if (child := os.fork()) != 0:
        os.waitpid(child, 0)
        os.close(own)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            # A pipe that it held would keep its reader waiting.
            os.closerange(3, own)
            os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
            os.chdir("/")
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
            select.select([own], [], [])
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def known_digest(uri: str, options: PullOptions) -> str | None:
    """The digest of what a tag of a registry meant when the image was fetched, if all of that is in the cache."""
    scheme, rest = split(uri)
    if scheme in _FINISHED and options.cache:
        from soliton.api import finished

        return finished.known_digest(scheme, rest, options, of_user())
    if scheme != "docker" or not options.cache:
        return None
    from soliton.registry.reference import parse

    name = str(parse(rest))
    cache = of_user()
    platform = oci.platform(options.architecture, options.variant)
    digest = cache.known_tag(name, str(platform))
    if digest is None or cache.get(digest) is None:
        return None
    there = os.path.exists(cache.image(_image_key(digest, name)))
    return digest if there else None


def image_key(image: OciImage) -> str:
    """What a finished image in the cache is named by: everything that its bytes depend on."""
    return _image_key(image.manifest_digest, image.origin[0] if image.origin else image.name)


def _image_key(digest: str, name: str) -> str:
    # The labels of the image tell the version.
    parts = (digest, name, str(convert.VERSION), __version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def opened(uri: str, options: PullOptions) -> Iterator[tuple[OciImage, Cache]]:
    """The image a URI names, its layers yet to come."""
    scheme, rest = split(uri)
    platform = oci.platform(options.architecture, options.variant)
    with _cache(options) as cache:
        if scheme == "docker":
            with _registry(rest, cache, platform, options) as image:
                yield image, cache
        elif scheme == "oci":
            yield open_layout(*split_tag(rest), platform), cache
        elif scheme in ("oci-archive", "docker-archive"):
            with open_archive(*split_tag(rest), platform) as image:
                yield image, cache
        elif scheme == "docker-daemon":
            from soliton.registry.engine import opened as of_engine

            with of_engine(rest, options.daemon, platform) as image:
                yield image, cache
        elif scheme in _LATER:
            raise NotSupported(f"an image from {scheme}://")
        else:
            raise SolitonError(
                f"`{uri}` has the unknown kind `{scheme}`",
                remedy="images come from docker://, oras://, library://, https://, docker-daemon:, oci:, oci-archive: and docker-archive:",
            )


@contextlib.contextmanager
def _cache(options: PullOptions) -> Iterator[Cache]:
    """The user's cache; a temporary one with `--disable-cache`, or where the user's cannot be written."""
    cache = of_user()
    if options.cache:
        try:
            cache.prepare()
        except TargetError as error:
            messages.warning(f"{error.what} ({error.why}); nothing is kept")
        else:
            yield cache
            return
    parent = paths.temporary(os.environ, configured=configuration.current().config.tmp_dir)
    with passing_directory("soliton-pull-", parent) as folder:
        cache = Cache(folder)
        cache.prepare()
        yield cache


@contextlib.contextmanager
def _registry(rest: str, cache: Cache, platform: Platform, options: PullOptions) -> Iterator[OciImage]:
    from soliton.registry import docker
    from soliton.registry.reference import parse

    with registry_client(parse(rest), options) as client:
        yield docker.resolve(
            client, cache, platform, offline_is_fine=options.offline_is_fine, pinned=options.pinned
        )


def registry_client(reference: Reference, options: PullOptions, *, plain_on_loopback: bool = False) -> Client:
    """The registry of a reference, asked as the options say and with the credentials that there are for it."""
    from soliton.registry import credentials
    from soliton.registry.client import Client

    who = credentials.find(
        reference.host,
        os.environ,
        user=options.user,
        password=options.password,
        authfile=options.authfile,
    )
    return Client(reference, who, plain_http=options.plain_http, plain_on_loopback=plain_on_loopback)


def fetch(image: OciImage, fd: int, options: PullOptions) -> str | None:
    """Downloads what is missing and converts it at the same time into the empty file `fd`."""
    downloads = _downloads(image)
    total = sum(layer.size for layer in image.layers)
    with progress.report(f"Pulling {image.name}", quiet=options.quiet) as report:
        task = report.task("converted", total=total)

        def on_progress(event: dict[str, Any]) -> None:
            task.update(completed=min(sum(event["read"][1:-1]), total))

        threads = _start(downloads)
        try:
            return convert.to_sif(image, fd, on_progress=on_progress)
        except BaseException:
            for download in downloads:
                download.cancel()
            raise
        finally:
            for thread in threads:
                thread.join(timeout=5)


def _downloads(image: OciImage) -> list[Any]:
    if "soliton.registry.blobs" not in sys.modules:
        return []
    from soliton.registry.blobs import Download

    return [layer.source for layer in image.layers if isinstance(layer.source, Download)]


def _at_once() -> int:
    """How many layers are fetched at the same time: `SOLITON_DOWNLOAD_CONCURRENCY` (or a peer's name for it), else as configured."""
    told = paths.variable(os.environ, "DOWNLOAD_CONCURRENCY")
    if told is None:
        return max(1, configuration.current().config.download_concurrency)
    if not (told.isascii() and told.isdigit() and 0 < int(told[:5]) <= 4096):
        raise SolitonError(
            f"the variable DOWNLOAD_CONCURRENCY has the value `{told}`",
            why="expected a number from 1 to 4096",
        )
    return int(told)


def _start(downloads: list[Any]) -> list[threading.Thread]:
    """A few at a time, the uppermost layer first: that is the order they are read in."""
    pending = list(downloads)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not pending:
                    return
                download = pending.pop()
            download.run()

    most = min(_at_once(), len(downloads))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(most)]
    for thread in threads:
        thread.start()
    return threads
