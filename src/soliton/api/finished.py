"""Images that are one file where they are (`registry/finished.py`), fetched into the cache and from there to where they are wanted.

What is fetched has to be an image; only then does it get a name of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from soliton import messages, progress
from soliton.build import digests
from soliton.errors import ImageError, RegistryError, Unreachable
from soliton.images import oci
from soliton.images import target as targets
from soliton.images.cache import Cache, Partial
from soliton.images.copying import copy
from soliton.images.detect import open_image
from soliton.registry import finished
from soliton.registry.blobs import Download, download_to_the_end
from soliton.registry.reference import file_name

if TYPE_CHECKING:
    from soliton.api.pull import PullOptions
    from soliton.registry.finished import Finished

#: What may be the content of a file that is an image.
_KINDS = ("sif", "squashfs", "ext3")


def default_name(scheme: str, rest: str) -> str:
    """Of the file that `pull` makes: NAME_TAG.sif, or what the address ends with."""
    if scheme in ("http", "https"):
        path = rest.partition("?")[0].partition("#")[0].rstrip("/")
        return path.rpartition("/")[2] or "image.sif"
    if scheme == "oras":
        finished.parse_oras(rest)
        return file_name(rest)
    name, _, tag = rest.rstrip("/").rpartition("/")[2].partition(":")
    return f"{name}_{tag.partition(',')[0] or 'latest'}.sif"


def to_cache(scheme: str, rest: str, options: PullOptions, cache: Cache) -> tuple[str, str]:
    """The image as a file of the cache, fetched if it is not there; its path and the digest of its bytes.

    Raises RegistryError, ImageError, TargetError.
    """
    uri = f"{scheme}:{rest}"
    platform = oci.platform(options.architecture, options.variant)
    name = _remembered(uri, options)
    held = options.pinned
    if held and os.path.exists(cache.blob(held)):
        return cache.blob(held), held
    known = cache.known_tag(name, str(platform))
    try:
        with _found(scheme, rest, options, platform) as found:
            if held and found.key.startswith("sha256:") and found.key != held:
                raise _changed(uri, held, found.key)
            if not os.path.exists(cache.blob(found.key)):
                _download(found, cache, options)
            key = found.key
    except Unreachable as error:
        if known is None or not options.offline_is_fine or not os.path.exists(cache.blob(known)):
            raise
        messages.warning(f"{error.what}; using what `{uri}` was when it was last pulled")
        key = known
    path = cache.blob(key)
    try:
        if open_image(path, shown=uri).kind not in _KINDS:
            raise ImageError(f"`{uri}` is not an image that can be run")
    except ImageError:
        # Else it would be found again, whatever is there by then.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    cache.remember_tag(name, str(platform), key)
    digest = key if key.startswith("sha256:") else digests.of_file(path)
    if held and digest != held:
        raise _changed(uri, held, digest)
    return path, digest


def _remembered(uri: str, options: PullOptions) -> str:
    """What the cache remembers an image by: which library `library:` means differs from caller to caller."""
    return f"{uri} {options.library or ''}" if uri.startswith("library:") else uri


def known_digest(scheme: str, rest: str, options: PullOptions, cache: Cache) -> str | None:
    """The digest of what a name meant when it was fetched, if the image is in the cache and its digest was said."""
    platform = oci.platform(options.architecture, options.variant)
    key = cache.known_tag(_remembered(f"{scheme}:{rest}", options), str(platform))
    return key if key and key.startswith("sha256:") and os.path.exists(cache.blob(key)) else None


def to_file(source: str, target: str, *, force: bool) -> str:
    """A copy of a file of the cache, which shares its blocks where the file system can; its path."""
    with targets.new_image(target, force=force) as file, open(source, "rb") as image:
        copy(image.fileno(), 0, os.fstat(image.fileno()).st_size, file.fd, source)
    return file.path


@contextlib.contextmanager
def _found(scheme: str, rest: str, options: PullOptions, platform: oci.Platform) -> Iterator[Finished]:
    if scheme == "oras":
        from soliton.api.pull import registry_client

        # As with the peers; a docker:// name has to say `--no-https` there, too.
        with registry_client(finished.parse_oras(rest), options, plain_on_loopback=True) as client:
            yield finished.oras(client, platform)
        return
    if scheme == "library":
        found = finished.library(rest, options.library, platform, plain_http=options.plain_http)
    elif scheme == "shub":
        found = finished.shub(rest, plain_http=options.plain_http)
    else:
        found = finished.web(f"{scheme}:{rest}")
    with found.client:
        yield found


def _download(found: Finished, cache: Cache, options: PullOptions) -> None:
    with contextlib.ExitStack() as stack:
        if not found.lasting:
            stack.callback(Partial(cache, found.key).discard)
        report = stack.enter_context(progress.report(f"Pulling {found.name}", quiet=options.quiet))
        task = report.task("fetched", total=found.size)
        if found.size is None:
            download_to_the_end(found.client, cache, found.key, found.name, task)
            return
        download = Download(found.client, cache, found.key, found.size, found.name)
        download.task = task
        download.run()
        download.wait()


def _changed(uri: str, held: str, now: str) -> RegistryError:
    return RegistryError(
        f"`{uri}` is another image by now",
        why=f"its digest is {now}, and {held} is wanted",
        remedy="what was there is in nobody's cache here; take the new one without `--locked`",
    )
