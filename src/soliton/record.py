"""Frozen records for the start path: what `dataclass(frozen=True)` gives, without its price at a start.

Importing `dataclasses` and having it write and compile methods for the records of a plan costs more than starting
Python does; named tuples need `typing`, which costs half of that. Here every record shares the same few methods.
Type checkers see a frozen dataclass. Elsewhere than on the start path, `dataclasses` is the right choice.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        return lambda decorator: decorator


def names_of(value: object) -> tuple[str, ...] | None:
    """The fields of a record or a dataclass, in order; None for anything else."""
    kind = type(value)
    fields: tuple[str, ...] | None = (
        kind.__dict__.get("__match_args__") if hasattr(kind, "__dataclass_fields__") else None
    )
    return kind.__dict__.get("_record") or fields


@dataclass_transform(frozen_default=True)
def record(kind: type[T]) -> type[T]:
    """Makes a class with annotated fields a record. No inheritance; a default is shared, so it must not be changed."""
    names = tuple(kind.__annotations__)
    type.__setattr__(kind, "_record", names)
    type.__setattr__(kind, "__match_args__", names)
    for method in (_init, _eq, _hash, _repr, _setattr, _delattr):
        type.__setattr__(kind, f"__{method.__name__[1:]}__", method)
    return kind


def replace(value: T, **changes: object) -> T:
    """The same record or dataclass with other values in some fields."""
    known: dict[str, Any] = value.__dict__
    return type(value)(**{**known, **changes})


def _init(self: Any, *values: object, **named: object) -> None:
    kind = type(self)
    names: tuple[str, ...] = kind._record
    if len(values) > len(names):
        raise TypeError(f"{kind.__name__} takes {len(names)} values, {len(values)} were given")
    state = self.__dict__
    state.update(zip(names, values, strict=False))
    for name, value in named.items():
        if name in state or name not in names:
            raise TypeError(
                f"{kind.__name__} has no field `{name}`"
                if name not in names
                else f"`{name}` of {kind.__name__} was given twice"
            )
        state[name] = value
    if len(state) < len(names):
        for name in names:
            if name not in state:
                if name not in kind.__dict__:
                    raise TypeError(f"`{name}` of {kind.__name__} was not given")
                state[name] = kind.__dict__[name]


def _state(value: Any) -> tuple[object, ...]:
    return tuple(value.__dict__[name] for name in value._record)


def _eq(self: Any, other: object) -> object:
    return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash((type(self), *_state(self)))


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{n}={self.__dict__[n]!r}' for n in self._record)})"


def _setattr(self: Any, name: str, value: object) -> None:
    raise AttributeError(f"{type(self).__name__} cannot be changed: `{name}`")


def _delattr(self: Any, name: str) -> None:
    raise AttributeError(f"{type(self).__name__} cannot be changed: `{name}`")
