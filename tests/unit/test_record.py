"""Records of the start path behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton import core
from soliton.launch import plan
from soliton.record import names_of, record, replace


@record
class Point:
    x: int
    y: int = 2
    names: tuple[str, ...] = ()

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True)
class Peer:
    x: int
    y: int = 2
    names: tuple[str, ...] = ()


@record
class Other:
    x: int
    y: int = 2
    names: tuple[str, ...] = ()


def test_values_come_by_place_by_name_and_by_default() -> None:
    assert Point(1) == Point(x=1, y=2) == Point(1, 2, names=())
    assert (Point(1, 5).x, Point(1, 5).y, Point(1).names, Point(1, 5).sum) == (1, 5, (), 6)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Point(), "`x` of Point was not given"),  # type: ignore[call-arg]
        (lambda: Point(1, 2, (), 4), "Point takes 3 values, 4 were given"),  # type: ignore[call-arg]
        (lambda: Point(1, z=3), "Point has no field `z`"),  # type: ignore[call-arg]
        (lambda: Point(1, x=3), "`x` of Point was given twice"),  # type: ignore[misc]
        (lambda: Point(1, sum=3), "Point has no field `sum`"),  # type: ignore[call-arg]
        (lambda: replace(Point(1), z=3), "Point has no field `z`"),
    ],
)
def test_wrong_values_are_refused_as_python_refuses_them(make: Callable[[], object], why: str) -> None:
    with pytest.raises(TypeError, match=why.replace("(", r"\(")):
        make()


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point cannot be changed: `x`"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del point.x
    assert point == Point(1)


def test_a_replaced_field_leaves_the_others_and_the_original() -> None:
    point = Point(1, 7, ("a",))
    assert replace(point, x=3) == Point(3, 7, ("a",))
    assert point.x == 1


def test_records_of_two_kinds_are_never_equal() -> None:
    assert Point(1) != Other(1)  # type: ignore[comparison-overlap]
    assert len({Point(1), Point(1), Other(1)}) == 2
    assert plan.Proc("/x") != plan.Sys("/x")  # type: ignore[comparison-overlap]


def test_a_record_can_be_matched_copied_and_read() -> None:
    match Point(1, 4):
        case Point(x, y):
            assert (x, y) == (1, 4)
    assert copy.deepcopy(Point(1, 4)) == copy.copy(Point(1, 4)) == Point(1, 4)
    assert repr(Point(1)) == repr(Peer(1)).replace("Peer", "Point")


def test_fields_are_told_of_records_and_dataclasses_only() -> None:
    assert names_of(Point(1)) == names_of(Peer(1)) == ("x", "y", "names")
    for other in (Point, (1, 2), {"x": 1}, None, "x", 3):
        assert names_of(other) is None


leaves = (
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=()), max_size=20)
)


@given(
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_requests_are_written_as_the_standard_library_writes_them(value: object) -> None:
    text = core.to_json(core.encode(value))
    assert text == json.dumps(value, separators=(",", ":"))


def test_records_become_objects_for_the_core() -> None:
    value = {"p": Point(1, names=("a",)), "d": Peer(2), 3: {"b"}, "f": 0.5, "m": plan.Environment()}
    assert json.loads(core.to_json(core.encode(value))) == {
        "p": {"x": 1, "y": 2, "names": ["a"]},
        "d": {"x": 2, "y": 2, "names": []},
        "3": ["b"],
        "f": 0.5,
        "m": {
            "host": {},
            "injected": {},
            "fixed": {},
            "path": None,
            "prepend_path": None,
            "append_path": None,
            "files": [],
            "evaluate": True,
            "scripts": True,
        },
    }


def test_what_json_cannot_say_is_refused() -> None:
    for value in (b"bytes", float("nan"), object()):
        with pytest.raises((TypeError, ValueError)):
            core.to_json(core.encode(value))
