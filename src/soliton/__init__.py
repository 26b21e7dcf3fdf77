"""soliton: one image file, any machine, no root.

The public Python API. Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False

__version__ = "0.1.0"
#: The peer whose command line, images and labels soliton has, and the version of it that they are those of.
PEER = ("apptainer", "1.5.3")

_HOMES: dict[str, str] = {
    "SolitonError": "soliton.errors",
}

__all__ = ["SolitonError", "__version__"]

if TYPE_CHECKING:
    from typing import Any

    from soliton.errors import SolitonError


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'soliton' has no attribute {name!r}")
    return getattr(__import__(home, fromlist=(name,)), name)
