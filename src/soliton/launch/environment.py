"""The payload's environment: what of the host passes, what is injected, what is fixed. Pure."""

from __future__ import annotations

from soliton.launch.plan import Environment
from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from soliton.launch.request import ActionRequest

#: Prefixes of variables that are set inside without the prefix; the first beats the others.
INJECTING = ("SOLITONENV_", "APPTAINERENV_", "SINGULARITYENV_")
#: Functions that bash exports call programs of the host's: `module` and `which` are such, on many clusters.
_FUNCTIONS = "BASH_FUNC_"
_OWN = ("SOLITON_", "APPTAINER_", "SINGULARITY_", "_SOLITON_", *INJECTING, _FUNCTIONS)
#: What nobody sets by a variable.
_NOT_INJECTED = (
    "HOME",
    *(f"{who}_{what}" for who in ("APPTAINER", "SINGULARITY") for what in ("APPNAME", "SHELL")),
)
_NOT_PASSED = frozenset({"HOME", "PATH", "LD_LIBRARY_PATH", "PS1", "PROMPT_COMMAND"})
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")
_KEPT_CLEAN = frozenset({"TERM", *_PROXIES, *(name.upper() for name in _PROXIES)})
_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@record
class PassingRule:
    """Which variables of the caller pass, as data: `core/src/shortcut.rs` applies it to a stored plan.

    only: if not None, no others do. default: there unless the caller's stand in their place. set: whatever the caller's are.
    """

    not_beginning: tuple[str, ...]
    not_named: tuple[str, ...]
    only: tuple[str, ...] | None
    set: Mapping[str, str]
    default: Mapping[str, str]

    @staticmethod
    def of(
        request: ActionRequest,
        default: Mapping[str, str] = {},
        changes: Mapping[str, str | None] = {},
    ) -> PassingRule:
        """default: there unless the caller's stand in their place. changes: other values for the caller's, None for not passed."""
        return PassingRule(
            _OWN,
            (*sorted(_NOT_PASSED), *request.no_env, *(name for name in changes if changes[name] is None)),
            tuple(sorted(_KEPT_CLEAN)) if request.cleanenv else None,
            {
                **({"LANG": "C"} if request.cleanenv else {}),
                **{
                    name: value
                    for name, value in changes.items()
                    if value is not None and name not in request.no_env
                },
            },
            # A base for images without any environment script.
            {"PATH": _STANDARD_PATH, **default},
        )

    def apply(self, host: Mapping[str, str]) -> dict[str, str]:
        left_out, only = frozenset(self.not_named), None if self.only is None else frozenset(self.only)
        passed = {
            key: value
            for key, value in host.items()
            if not key.startswith(self.not_beginning)
            and key not in left_out
            and (only is None or key in only)
        }
        return {**self.default, **passed, **self.set}


def compile_environment(
    request: ActionRequest,
    host: Mapping[str, str],
    *,
    home: str,
    container: str,
    destinations: tuple[str, ...],
    passing: PassingRule | None = None,
) -> Environment:
    """container: absolute path of the image. destinations: of the user's binds. passing: if not the plain rule."""
    passed = (passing or PassingRule.of(request)).apply(host)
    injected: dict[str, str] = {}
    for prefix in reversed(INJECTING):
        for key, value in host.items():
            if key.startswith(prefix) and len(key) > len(prefix):
                injected[key[len(prefix) :]] = value
    files: tuple[str, ...] = ()
    if request.no_eval:
        for text in request.env_files:
            injected.update(parse_env_file(text))
    else:
        for text in request.env_files:
            for key, value in parse_env_file(text).items():
                injected.pop(key, None)
                if key in ("PREPEND_PATH", "APPEND_PATH"):
                    injected[key] = value
        files = tuple(script_of_env_file(text) for text in request.env_files)
    injected.update(request.env)
    for name in _NOT_INJECTED:
        injected.pop(name, None)
    path = injected.pop("PATH", None)
    prepend = injected.pop("PREPEND_PATH", None)
    append = injected.pop("APPEND_PATH", None)
    name = container.rstrip("/").rpartition("/")[2]
    fixed = {"HOME": home, "APPTAINER_COMMAND": request.action, "SINGULARITY_COMMAND": request.action}
    if request.boot:
        # Tells an init where it is.
        fixed["container"] = "soliton"
    own = {
        "CONTAINER": container,
        "NAME": name,
        "BIND": ",".join(destinations),
        "ENVIRONMENT": "/.singularity.d/env/91-environment.sh",
    }
    if request.instance:
        own["INSTANCE"] = request.instance
    if request.app:
        own["APPNAME"] = request.app
    if request.no_eval:
        own["NO_EVAL"] = "1"
    for key, value in own.items():
        for prefix in ("APPTAINER_", "SINGULARITY_"):
            fixed[prefix + key] = value
    if "PATH" in host:
        fixed["USER_PATH"] = host["PATH"]
    if request.action == "shell":
        prompt = {"soliton": "soliton", "singularity": "Singularity"}.get(request.program, "Apptainer")
        fixed["PS1"] = injected.pop("PS1", f"{prompt}> ")
        fixed["PROMPT_COMMAND"] = ""
    return Environment(
        host=passed,
        injected=injected,
        fixed=fixed,
        path=path,
        prepend_path=prepend,
        append_path=append,
        files=files,
        evaluate=not request.no_eval,
    )


def script_of_env_file(text: str) -> str:
    """The file as a script: its assignments exported, whatever else it says left as it is."""
    lines: list[str] = []
    for line in text.splitlines():
        bare = line.strip().removeprefix("export ").lstrip()
        name = bare.partition("=")[0]
        if "=" in bare and name.replace("_", "a").isalnum() and not name[:1].isdigit():
            if name in ("HOME", "PREPEND_PATH", "APPEND_PATH"):
                continue
            line = f"export {bare}"
        lines.append(f"{line}\n")
    return "".join(lines)


def parse_env_file(text: str) -> dict[str, str]:
    """Lines `NAME=VALUE` or `export NAME=VALUE`; comments and blank lines do not count, surrounding quotes go."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        line = line.removeprefix("export ").lstrip()
        key, equals, value = line.partition("=")
        if not equals or not key.replace("_", "a").isalnum():
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[key] = value
    return found
