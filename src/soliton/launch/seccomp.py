"""A seccomp profile in the OCI's JSON (of the runtime specification, and of Docker and its kin) → a program for the kernel.

Pure but for the table of system calls. Imported only where `--security seccomp:` is given. What the profile does not
let through is decided by its default; programs of an ABI that it does not name are ended.

The program is classic BPF (seccomp(2)). A number is looked up by halving: the numbers of one verdict are mostly neighbours.
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from soliton.errors import SolitonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: The kernel takes no longer program.
LONGEST = 4096
#: No profile of any use is larger.
LARGEST_FILE = 4 << 20

_LOAD, _EQUAL, _GREATER, _AT_LEAST = 0x20, 0x15, 0x25, 0x35
_JUMP, _AND, _RETURN = 0x05, 0x54, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_OPERATIONS = (
    "SCMP_CMP_EQ",
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_GT",
    "SCMP_CMP_GE",
    "SCMP_CMP_MASKED_EQ",
)
_X32 = 0x40000000


class Abi(NamedTuple):
    """column: in the table of system calls. number: AUDIT_ARCH_*. wide: arguments have 64 bits."""

    column: str
    number: int
    wide: bool


_ABIS = {
    "SCMP_ARCH_X86_64": Abi("x86_64", 0xC000003E, True),
    "SCMP_ARCH_X86": Abi("x86", 0x40000003, False),
    "SCMP_ARCH_AARCH64": Abi("aarch64", 0xC00000B7, True),
    "SCMP_ARCH_ARM": Abi("arm", 0x40000028, False),
    "SCMP_ARCH_RISCV64": Abi("riscv64", 0xC00000F3, True),
    "SCMP_ARCH_PPC64LE": Abi("ppc64le", 0xC0000015, True),
}
#: By the kernel's name of a machine: its ABIs, the own one first, and its name in `includes` and `excludes`.
_MACHINES = {
    "x86_64": (("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"), "amd64"),
    "aarch64": (("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"), "arm64"),
    "riscv64": (("SCMP_ARCH_RISCV64",), "riscv64"),
    "ppc64le": (("SCMP_ARCH_PPC64LE",), "ppc64le"),
}


class Condition(NamedTuple):
    """What one argument of a call must be."""

    argument: int
    operation: str
    value: int
    value_two: int


class Rule(NamedTuple):
    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...]


class Profile(NamedTuple):
    default: int
    abis: tuple[Abi, ...]
    rules: tuple[Rule, ...]


def compile_profile(
    text: str, *, name: str, machine: str, release: str, capabilities: Iterable[str]
) -> tuple[int, ...]:
    """The program, each instruction as one number: code, jt, jf, k from the top.

    name: of the file, for messages. machine, release: of the kernel. capabilities: of the payload. Raises SolitonError.
    """
    profile = read_profile(
        text, name=name, machine=machine, release=release, capabilities=frozenset(capabilities)
    )
    program = assemble(profile, name)
    if len(program) > LONGEST:
        raise _problem(name, f"it is too long: {len(program)} instructions, and the kernel takes {LONGEST}")
    return tuple(code << 48 | jt << 40 | jf << 32 | k for code, jt, jf, k in program)


def read_profile(
    text: str, *, name: str, machine: str, release: str, capabilities: frozenset[str]
) -> Profile:
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _problem(name, f"it is not JSON: {error}") from None
    if not isinstance(profile, dict):
        raise _problem(name, "it is not a JSON object")
    if machine not in _MACHINES:
        raise SolitonError(f"seccomp profiles are not supported on {machine} yet")
    for key in ("listenerPath", "listenerMetadata"):
        if profile.get(key):
            raise _problem(name, f"`{key}` needs a supervisor, which soliton does not have")
    default = _action(profile, "defaultAction", "defaultErrnoRet", name, "")
    known = _table()
    rules: list[Rule] = []
    for position, entry in enumerate(_list(profile, "syscalls", name, "")):
        place = f"syscalls[{position}]"
        if not isinstance(entry, dict):
            raise _problem(name, f"`{place}` is not an object")
        names = [*_words(entry, "names", name, place)]
        if isinstance(entry.get("name"), str) and entry["name"]:
            names.append(entry["name"])
        if not names:
            raise _problem(name, f"`{place}` names no system call")
        action = _action(entry, "action", "errnoRet", name, place)
        unknown = [call for call in names if call not in known]
        if unknown and not _loosens(action, default):
            raise _problem(name, f"`{place}` forbids `{unknown[0]}`, which soliton does not know")
        conditions = [
            _condition(item, name, f"{place}.args[{at}]")
            for at, item in enumerate(_list(entry, "args", name, place))
        ]
        if not _applies(entry, name, place, _MACHINES[machine][1], release, capabilities):
            continue
        indexes = [condition.argument for condition in conditions]
        if len(set(indexes)) < len(indexes):
            # As the reference implementation has it: conditions on one argument are alternatives.
            rules += [Rule(tuple(names), action, (condition,)) for condition in conditions]
        else:
            rules.append(Rule(tuple(names), action, tuple(conditions)))
    return Profile(default, _abis(profile, name, machine), tuple(rules))


def _problem(name: str, why: str) -> SolitonError:
    return SolitonError(f"the seccomp profile `{name}` cannot be used", why=why)


def _loosens(action: int, default: int) -> bool:
    return action in (_ALLOW, _ACTIONS["SCMP_ACT_LOG"]) and default != _ALLOW


def _list(holder: Mapping[str, Any], key: str, name: str, place: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _problem(name, f"`{_at(place, key)}` is not a list")
    return value


def _words(holder: Mapping[str, Any], key: str, name: str, place: str) -> list[str]:
    value = _list(holder, key, name, place)
    if not all(isinstance(item, str) for item in value):
        raise _problem(name, f"`{_at(place, key)}` is not a list of names")
    return value


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _number(value: object, name: str, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise _problem(name, f"`{place}` is not a number of 64 bits")
    return value


def _action(holder: Mapping[str, Any], key: str, number_key: str, name: str, place: str) -> int:
    word = holder.get(key)
    if word == "SCMP_ACT_NOTIFY":
        raise _problem(
            name, f"`{_at(place, key)}` SCMP_ACT_NOTIFY needs a supervisor, which soliton does not have"
        )
    if not isinstance(word, str) or word not in _ACTIONS:
        raise _problem(
            name, f"`{_at(place, key)}` is {json.dumps(word)}, and should be one of {', '.join(_ACTIONS)}"
        )
    action = _ACTIONS[word]
    if word not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return action
    number = holder.get(number_key)
    number = errno.EPERM if number is None else _number(number, name, _at(place, number_key))
    if number > 4095:
        raise _problem(name, f"`{_at(place, number_key)}` is larger than any error number")
    return action | number


def _condition(item: object, name: str, place: str) -> Condition:
    if not isinstance(item, dict):
        raise _problem(name, f"`{place}` is not an object")
    index = _number(item.get("index"), name, f"{place}.index")
    if index > 5:
        raise _problem(name, f"`{place}.index` is {index}, and calls have six arguments")
    operation = item.get("op")
    if operation not in _OPERATIONS:
        raise _problem(
            name, f"`{place}.op` is {json.dumps(operation)}, and should be one of {', '.join(_OPERATIONS)}"
        )
    value = _number(item.get("value"), name, f"{place}.value")
    return Condition(index, operation, value, _number(item.get("valueTwo", 0), name, f"{place}.valueTwo"))


def _applies(
    entry: Mapping[str, Any], name: str, place: str, arch: str, release: str, capabilities: frozenset[str]
) -> bool:
    """Whether a rule counts for this machine and payload."""
    for key, wanted in (("includes", True), ("excludes", False)):
        filter_ = entry.get(key) or {}
        if not isinstance(filter_, dict):
            raise _problem(name, f"`{place}.{key}` is not an object")
        arches, caps = (
            _words(filter_, "arches", name, f"{place}.{key}"),
            _words(filter_, "caps", name, f"{place}.{key}"),
        )
        kernel = filter_.get("minKernel")
        if kernel is not None and not (isinstance(kernel, str) and _version(kernel)):
            raise _problem(name, f"`{place}.{key}.minKernel` is not a version")
        recent = kernel is not None and _version(release) >= _version(kernel)
        if wanted:
            if (
                (arches and arch not in arches)
                or not capabilities.issuperset(caps)
                or (kernel is not None and not recent)
            ):
                return False
        elif arch in arches or not capabilities.isdisjoint(caps) or recent:
            return False
    return True


def _version(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split("-")[0].split(".")[:2]:
        if not part.isascii() or not part.isdigit() or len(part) > 5:
            break
        numbers.append(int(part))
    return tuple(numbers)


def _abis(profile: Mapping[str, Any], name: str, machine: str) -> tuple[Abi, ...]:
    own = _MACHINES[machine][0]
    listed = set(_words(profile, "architectures", name, ""))
    for position, entry in enumerate(_list(profile, "archMap", name, "")):
        place = f"archMap[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("architecture"), str):
            raise _problem(name, f"`{place}` has no architecture")
        listed |= {entry["architecture"], *_words(entry, "subArchitectures", name, place)}
    # The machine's own is always in, the others where the profile has them or names none.
    return tuple(_ABIS[one] for one in own if one == own[0] or one in listed or not listed)


def _table() -> dict[str, dict[str, int]]:
    """name → column → number."""
    from importlib.resources import files

    lines = iter((files("soliton") / "data" / "syscalls.txt").read_text("ascii").splitlines()[1:])
    columns = next(lines).split()[1:]
    table: dict[str, dict[str, int]] = {}
    for line in lines:
        call, *numbers = line.split()
        table[call] = {c: int(n) for c, n in zip(columns, numbers, strict=True) if n != "-"}
    return table


Instruction = tuple[int, int, int, int]


def assemble(profile: Profile, name: str) -> list[Instruction]:
    """The program: by ABI, then by number, then by arguments."""
    table = _table()
    program: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for abi in profile.abis:
        block = _block(profile, abi, table)
        # The accumulator still holds the ABI where this block is jumped over.
        program += [(_EQUAL, 1, 0, abi.number), (_JUMP, 0, 0, len(block)), *block]
    return [*program, (_RETURN, 0, 0, _KILL_PROCESS)]


def _block(profile: Profile, abi: Abi, table: Mapping[str, Mapping[str, int]]) -> list[Instruction]:
    leaves: dict[int, list[Rule]] = {}
    for rule in profile.rules:
        for call in dict.fromkeys(rule.names):
            number = table.get(call, {}).get(abi.column)
            if number is not None:
                leaves.setdefault(number, []).append(rule)
    default = ((_RETURN, 0, 0, profile.default),)
    # (first number, what happens from there on), ascending; neighbours that are alike become one.
    spans: list[tuple[int, tuple[Instruction, ...]]] = [(0, default)]

    def put(first: int, code: tuple[Instruction, ...]) -> None:
        if spans[-1][0] == first:
            spans.pop()
        if not spans or spans[-1][1] != code:
            spans.append((first, code))

    for number in sorted(leaves):
        put(number, tuple(_leaf(leaves[number], profile.default, abi)))
        put(number + 1, default)
    if abi.column == "x86_64":
        # The x32 ABI, which hardly any kernel has, is answered as by those that lack it.
        put(_X32, ((_RETURN, 0, 0, _ERRNO | errno.ENOSYS),))
    return [(_LOAD, 0, 0, _NUMBER), *_tree(spans)]


def _tree(spans: Sequence[tuple[int, tuple[Instruction, ...]]]) -> list[Instruction]:
    if len(spans) == 1:
        return list(spans[0][1])
    middle = len(spans) // 2
    low, high = _tree(spans[:middle]), _tree(spans[middle:])
    first = spans[middle][0]
    if len(low) <= 255:
        return [(_AT_LEAST, len(low), 0, first), *low, *high]
    return [(_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(low)), *low, *high]


def _leaf(rules: Sequence[Rule], default: int, abi: Abi) -> list[Instruction]:
    """The first rule whose conditions hold decides; one without conditions comes last."""
    code: list[Instruction] = []
    for rule in rules:
        if rule.conditions:
            code += _guarded(rule, abi)
    plain = [rule.action for rule in rules if not rule.conditions]
    return [*code, (_RETURN, 0, 0, plain[0] if plain else default)]


def _guarded(rule: Rule, abi: Abi) -> list[Instruction]:
    """Returns the action if every condition holds, else goes on behind."""
    code: list[Instruction] = []
    verdict: Instruction = (_RETURN, 0, 0, rule.action)
    for condition in reversed(rule.conditions):
        rest = len(code) or 1
        # `code` is what happens when this one holds; failing jumps over it.
        code = [*_check(condition, abi, rest), *(code or [verdict])]
    return code


def _check(condition: Condition, abi: Abi, rest: int) -> list[Instruction]:
    """Falls through if the condition holds, else jumps over the `rest` instructions behind."""
    index, operation, value, two = condition
    low_at, high_at = 16 + 8 * index, 20 + 8 * index
    low, high = value & 0xFFFFFFFF, value >> 32
    if operation == "SCMP_CMP_MASKED_EQ":
        two_low, two_high = two & 0xFFFFFFFF, two >> 32
        code = [(_LOAD, 0, 0, low_at), (_AND, 0, 0, low), (_EQUAL, 0, rest, two_low)]
        if abi.wide:
            code = [(_LOAD, 0, 0, high_at), (_AND, 0, 0, high), (_EQUAL, 0, rest + 3, two_high), *code]
        return code
    # Inverted ones: what would hold fails, and the other way round.
    straight = {"SCMP_CMP_NE": "SCMP_CMP_EQ", "SCMP_CMP_LT": "SCMP_CMP_GE", "SCMP_CMP_LE": "SCMP_CMP_GT"}
    inverted = operation in straight
    test = {"SCMP_CMP_EQ": _EQUAL, "SCMP_CMP_GT": _GREATER, "SCMP_CMP_GE": _AT_LEAST}[
        straight.get(operation, operation)
    ]
    holds, fails = (rest, 0) if inverted else (0, rest)
    code = [(_LOAD, 0, 0, low_at), (test, holds, fails, low)]
    if not abi.wide:
        return code
    if test == _EQUAL:
        # The upper half differs: not equal.
        return [(_LOAD, 0, 0, high_at), (_EQUAL, 0, fails + 2 if not inverted else 2, high), *code]
    # The upper half is greater: it holds; smaller: it does not; equal: the lower one decides.
    over = (holds if inverted else 0) + 3
    under = (0 if inverted else fails) + 2
    return [(_LOAD, 0, 0, high_at), (_GREATER, over, 0, high), (_EQUAL, 0, under, high), *code]
