"""Names of images in libraries and of artifacts: where they lead, and what is no such name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.api.finished import default_name
from soliton.errors import RegistryError
from soliton.registry.finished import library_address, parse_oras


@pytest.mark.parametrize(
    ("text", "library", "expected"),
    [
        ("//me/tools/a:1", "https://lib.example.org/", ("https://lib.example.org", "me/tools/a:1", False)),
        ("//a", "lib.example.org", ("https://lib.example.org", "a:latest", False)),
        ("a:1,stable", "http://lib.example.org", ("http://lib.example.org", "a:1,stable", False)),
        (
            "//me/tools/a:sha256." + "0" * 64,
            "https://l.example.org",
            ("https://l.example.org", "me/tools/a:sha256." + "0" * 64, False),
        ),
        (
            "//lib.example.org:8443/me/tools/a:1",
            "https://other.example.org",
            ("https://lib.example.org:8443", "me/tools/a:1", True),
        ),
    ],
)
def test_a_name_leads_to_a_library(text: str, library: str, expected: tuple[str, str, bool]) -> None:
    assert library_address(text, library, plain_http=False) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_name_in_the_library_or_refused(text: str) -> None:
    try:
        _, wanted, _ = library_address(text, "https://lib.example.org", plain_http=False)
    except RegistryError:
        return
    path, _, tag = wanted.partition(":")
    assert tag and not set("?#% \n") & set(wanted)
    assert all(part.strip(".") for part in path.split("/"))


def test_an_artifact_needs_a_registry() -> None:
    assert str(parse_oras("//reg.example.org/a/b:1")) == "reg.example.org/a/b:1"
    with pytest.raises(RegistryError, match="which registry"):
        parse_oras("//a/b:1")


@pytest.mark.parametrize(
    ("scheme", "rest", "expected"),
    [
        ("oras", "//reg.example.org/team/tools:1.0", "tools_1.0.sif"),
        ("oras", f"//reg.example.org/team/tools@sha256:{'0' * 64}", f"tools@sha256_{'0' * 64}.sif"),
        ("library", "//me/x/aligner", "aligner_latest.sif"),
        ("library", "//me/x/aligner:2,new", "aligner_2.sif"),
        ("https", "//data.example.org/a/tools.sif?token=1#x", "tools.sif"),
        ("https", "//data.example.org/", "data.example.org"),
    ],
)
def test_what_pull_makes_is_called_after_the_image(scheme: str, rest: str, expected: str) -> None:
    assert default_name(scheme, rest) == expected
