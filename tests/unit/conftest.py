"""What unit tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def foreign() -> Path:
    """Images that Apptainer made: in `$SOLITON_FOREIGN`, `$SOLITON_SHARED/data/foreign`, else beside the repository."""
    shared = [up / "shared" for up in Path(__file__).resolve().parents]
    if "SOLITON_SHARED" in os.environ:
        shared = [Path(os.environ["SOLITON_SHARED"])]
    candidates = [folder / "data/foreign" for folder in shared]
    if "SOLITON_FOREIGN" in os.environ:
        candidates = [Path(os.environ["SOLITON_FOREIGN"])]
    for candidate in candidates:
        if (candidate / "plain.sif").exists():
            return candidate
    pytest.skip("no foreign images here: set SOLITON_FOREIGN to the folder that holds plain.sif")
