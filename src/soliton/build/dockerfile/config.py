"""What instructions say of the image rather than of its files: environment, command, user. A pure function of one to the other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.build.dockerfile import words
from soliton.build.dockerfile.parser import Dockerfile, Instruction
from soliton.build.lines import DefinitionError

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_VARIABLE = re.compile(r"[^=\s\0][^=\0]*")


@dataclass
class Config:
    """config: as an OCI configuration has it. arguments: the build arguments that the stage has declared."""

    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        pairs = (entry.partition("=") for entry in self.config.get("Env") or [])
        return {key: value for key, _, value in pairs}

    @property
    def variables(self) -> dict[str, str]:
        """What `$NAME` means in an instruction: ENV beats ARG. A base without a PATH has the usual one."""
        return {"PATH": DEFAULT_PATH, **self.arguments, **self.env}

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.get("Shell") or DEFAULT_SHELL)

    @property
    def workdir(self) -> str:
        return self.config.get("WorkingDir") or "/"

    @property
    def user(self) -> str:
        return self.config.get("User") or ""

    def copy(self) -> Config:
        """For a stage that starts from this one: its arguments are its own."""
        return Config(json.loads(json.dumps(self.config)), {})


def apply(
    config: Config, item: Instruction, file: Dockerfile, given: Mapping[str, str], outer: Mapping[str, str]
) -> None:
    """Changes `config` as an instruction says that does nothing else. given: `--build-arg`; outer: ARGs before the first FROM."""

    def error(what: str, expected: str | None = None) -> DefinitionError:
        return DefinitionError(file.name, what, line=item.line, expected=expected)

    def expand(text: str) -> str:
        return words.expand(text, config.variables, file.escape, file.name, item.line)

    values = config.config
    match item.word:
        case "ENV":
            env = config.env
            changed = _pairs(item, file, expand)
            values["Env"] = [f"{key}={value}" for key, value in {**env, **changed}.items()]
        case "LABEL":
            values["Labels"] = {**(values.get("Labels") or {}), **_pairs(item, file, expand)}
        case "ARG":
            from soliton.build.dockerfile.stages import declared

            for key, default in declared(item, file):
                if key in given:
                    config.arguments[key] = given[key]
                elif default is not None:
                    config.arguments[key] = expand(default)
                elif key in outer:
                    config.arguments[key] = outer[key]
        case "CMD" | "ENTRYPOINT":
            key = "Cmd" if item.word == "CMD" else "Entrypoint"
            values[key] = list(item.json) if item.json is not None else [*config.shell, item.rest]
            if key == "Entrypoint" and not config.config.get("_cmd_is_own"):
                values.pop("Cmd", None)  # a base image's command belongs to its own entry point
            if key == "Cmd":
                values["_cmd_is_own"] = True
        case "SHELL":
            if not item.json:
                raise error("SHELL takes a list", '`SHELL ["/bin/bash", "-c"]`')
            values["Shell"] = list(item.json)
        case "USER":
            values["User"] = expand(item.rest)
        case "WORKDIR":
            values["WorkingDir"] = joined(config.workdir, expand(item.rest))
        case "EXPOSE":
            ports: dict[str, dict[str, str]] = {}
            for word in words.split(item.rest, file.escape, file.name, item.line):
                for port in expand(word).split():
                    match = _PORTS.fullmatch(port)
                    if match is None or int(match[2] or match[1]) > 65535:
                        raise error(f"`{port[:40]}` is no port", "one such as 8080, 53/udp or 8000-8010")
                    for number in range(int(match[1]), int(match[2] or match[1]) + 1):
                        ports[f"{number}/{match[3] or 'tcp'}"] = {}
            values["ExposedPorts"] = {**(values.get("ExposedPorts") or {}), **ports}
        case "VOLUME":
            places = item.json or words.split(item.rest, file.escape, file.name, item.line)
            values["Volumes"] = {**(values.get("Volumes") or {}), **{expand(place): {} for place in places}}
        case "STOPSIGNAL":
            values["StopSignal"] = expand(item.rest)
        case "MAINTAINER":
            values["Labels"] = {**(values.get("Labels") or {}), "maintainer": item.rest}
        case "HEALTHCHECK":
            values["Healthcheck"] = _healthcheck(config, item, error)
        case "ONBUILD":
            word = item.rest.split()[0].upper()
            if word in ("ONBUILD", "FROM", "MAINTAINER"):
                raise error(f"ONBUILD {word} is not possible")
            values["OnBuild"] = [*(values.get("OnBuild") or []), _onbuild(item)]
        case other:
            raise AssertionError(other)


def joined(workdir: str, path: str) -> str:
    """An absolute path, `..` resolved by its letters, as WORKDIR has it."""
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{workdir}/{path}").split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def finished(config: Config) -> dict[str, Any]:
    """As the image records it."""
    return {key: value for key, value in config.config.items() if not key.startswith("_") and value}


def _onbuild(item: Instruction) -> str:
    flags = "".join(f"--{key}={value} " for key, value in item.flags)
    return flags + item.rest


def _pairs(item: Instruction, file: Dockerfile, expand: Any) -> dict[str, str]:
    found = words.split(item.rest, file.escape, file.name, item.line)
    if "=" not in found[0]:
        if len(found) < 2:
            raise DefinitionError(
                file.name,
                f"`{found[0][:40]}` has no value",
                line=item.line,
                expected=f"`{item.word} NAME=VALUE`",
            )
        # The old form: one name, and everything behind it.
        name, value = item.rest.split(None, 1)
        return {expand(name): expand(value.strip())}
    pairs: dict[str, str] = {}
    for word in found:
        key, equals, value = word.partition("=")
        key = expand(key)
        if not equals or not _VARIABLE.fullmatch(key):
            raise DefinitionError(
                file.name,
                f"`{word[:40]}` is no `NAME=VALUE`",
                line=item.line,
                remedy="put values with blanks in quotes",
            )
        pairs[key] = expand(value)
    return pairs


def _healthcheck(config: Config, item: Instruction, error: Any) -> dict[str, Any]:
    word, _, rest = item.rest.partition(" ")
    if word.upper() == "NONE":
        return {"Test": ["NONE"]}
    if word.upper() != "CMD" or not rest.strip():
        raise error("HEALTHCHECK takes CMD or NONE", "`HEALTHCHECK CMD command`")
    try:
        parsed = json.loads(rest)
    except ValueError:
        parsed = None
    test = ["CMD", *parsed] if isinstance(parsed, list) else ["CMD-SHELL", rest.strip()]
    found: dict[str, Any] = {"Test": test}
    names = {
        "interval": "Interval",
        "timeout": "Timeout",
        "start-period": "StartPeriod",
        "retries": "Retries",
    }
    for key, value in item.flags:
        if key == "start-interval":
            continue
        if key not in names:
            raise error(f"HEALTHCHECK has no option `--{key}`")
        found[names[key]] = int(value) if key == "retries" and value.isdigit() else _duration(value, error)
    return found


def _duration(text: str, error: Any) -> int:
    """Go's durations, in nanoseconds."""
    units = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise error(f"`{text[:20]}` is no duration", "one such as `30s`")
    return int(sum(float(number) * units[unit] for number, unit in parts))
