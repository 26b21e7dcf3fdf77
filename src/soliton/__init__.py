"""soliton: one image file, any machine, no root.

The public Python API. Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "SolitonError": "soliton.errors",
}

__all__ = ["SolitonError", "__version__"]

if TYPE_CHECKING:
    from soliton.errors import SolitonError


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'soliton' has no attribute {name!r}")
    return getattr(import_module(home), name)
