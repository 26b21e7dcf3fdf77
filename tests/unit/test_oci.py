"""Which image of an index is meant, and how platforms may be called."""

from __future__ import annotations

import pytest

from soliton.errors import SolitonError
from soliton.images import oci
from soliton.images.oci import Platform


@pytest.mark.parametrize(
    ("architecture", "variant", "expected"),
    [
        ("arm64", None, Platform("arm64", None)),
        ("aarch64", None, Platform("arm64", None)),
        ("x86_64", None, Platform("amd64", None)),
        ("arm64v8", None, Platform("arm64", "v8")),
        ("arm32v6", None, Platform("arm", "v6")),
        ("arm", "7", Platform("arm", "v7")),
        ("arm", "v5", Platform("arm", "v5")),
    ],
)
def test_an_architecture_has_several_names(
    architecture: str, variant: str | None, expected: Platform
) -> None:
    assert oci.platform(architecture, variant) == expected


@pytest.mark.parametrize("name", ["amd", "AMD 64", "arm128v8", "../x"])
def test_what_is_no_architecture_is_told(name: str) -> None:
    with pytest.raises(SolitonError, match="not the name of an architecture"):
        oci.platform(name)


@pytest.mark.parametrize(("variant", "chosen"), [(None, "v7"), ("v6", "v6"), ("v7", "v7")])
def test_of_32_bit_arm_the_usual_one_is_taken(variant: str | None, chosen: str) -> None:
    entries = [
        {
            "digest": f"sha256:{number:064}",
            "size": 1,
            "mediaType": oci.MANIFEST_TYPES[0],
            "platform": {"os": "linux", "architecture": "arm", "variant": name},
        }
        for number, name in enumerate(("v5", "v6", "v7"), 5)
    ]
    found = oci.choose({"manifests": entries}, Platform("arm", variant), "it")
    assert found.digest == f"sha256:{chosen[1:]:0>64}"
