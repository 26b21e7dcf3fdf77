"""What unit tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def foreign() -> Path:
    """Images that Apptainer made: in `$SOLITON_SHARED/data/foreign`, else beside the repository."""
    shared = os.environ.get("SOLITON_SHARED")
    candidates = [Path(shared)] if shared else [up / "shared" for up in Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "data/foreign/plain.sif").exists():
            return candidate / "data/foreign"
    pytest.skip("no foreign images here: set SOLITON_SHARED to the folder that holds data/foreign")
