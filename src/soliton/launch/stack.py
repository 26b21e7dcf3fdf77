"""What lies over an image's root and what is bound out of other images, as data. Loaded only where there is such a thing."""

from __future__ import annotations

from soliton.errors import SolitonError
from soliton.launch.plan import DirectoryRoot, ExtRoot, ImageRoot, StackRoot, UpperSurface
from soliton.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Layer = ImageRoot | DirectoryRoot | ExtRoot

#: Names of the two directories of a writable layer, in a directory or in an image, as the peers have them.
UPPER, WORK = "upper", "work"
#: Beside them in a directory: the file that is locked by who writes there.
LOCK = ".soliton-lock"


@record
class Over:
    """layers: read-only, lowest first. upper: the writable one; upper_origin: the option or image it comes from.
    images: what is bound from, by path and number of the data object.
    """

    layers: tuple[Layer, ...] = ()
    upper: UpperSurface | None = None
    upper_origin: str = ""
    images: Mapping[tuple[str, int | None], Layer] = {}


def parse_overlay(text: str) -> tuple[str, bool | None]:
    """`PATH[:ro|:rw]`: the path, and whether it was said to be read-only."""
    path, colon, mode = text.rpartition(":")
    if colon and mode in ("ro", "rw"):
        if path:
            return path, mode == "ro"
    elif text:
        return text, None
    raise SolitonError(f"`{text}` is not an overlay", why="an overlay is PATH[:ro]")


def stacked(root: Layer, layers: tuple[Layer, ...]) -> Layer | StackRoot:
    """The root with the layers over it."""
    return StackRoot((root, *layers)) if layers else root


def _owned(root: Layer, *, stored: bool) -> Layer:
    """The same, its files shown as owned by whom the image says, or all by the caller."""
    return root if isinstance(root, DirectoryRoot) else replace(root, ids="stored" if stored else "caller")


def over_owned(over: Over, *, stored: bool) -> Over:
    upper = over.upper
    if upper is not None and upper.image is not None:
        upper = replace(upper, image=replace(upper.image, ids="stored" if stored else "caller"))
    return replace(
        over,
        layers=tuple(_owned(layer, stored=stored) for layer in over.layers),
        upper=upper,
        images={name: _owned(root, stored=stored) for name, root in over.images.items()},
    )
