"""What of the caller's environment belongs to the host's Python, R, Perl, conda … and would only break the image's own. Pure.

Two kinds. What tells of an activated installation of the host is left out: its PATH does not come along, so nothing else of it
may. Of search paths, and of files to load, only entries that the container can see stay. Both are decided from names, values
and mounts; the image is not looked into. Variables given for the container (`--env`, `SOLITONENV_X`) are never touched.
"""

from __future__ import annotations

from soliton.launch.environment import PassingRule
from soliton.launch.plan import Bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from soliton.launch.plan import Mount
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config

#: Signs of an activated installation of the host.
ACTIVATION = (
    "CONDA_DEFAULT_ENV",
    "CONDA_EXE",
    "CONDA_PREFIX",
    "CONDA_PREFIX_1",
    "CONDA_PREFIX_2",
    "CONDA_PROMPT_MODIFIER",
    "CONDA_PYTHON_EXE",
    "CONDA_SHLVL",
    "_CE_CONDA",
    "_CE_M",
    "MAMBA_EXE",
    "MAMBA_ROOT_PREFIX",
    "PERL_LOCAL_LIB_ROOT",
    "PERL_MB_OPT",
    "PERL_MM_OPT",
    "PYENV_VIRTUAL_ENV",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "R_HOME",
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
)
#: Paths of which only what the container can see makes sense there.
SEARCHED = (
    "BASH_ENV",
    "CURL_CA_BUNDLE",
    "GCONV_PATH",
    "GEM_HOME",
    "GEM_PATH",
    "JAVA_HOME",
    "JULIA_DEPOT_PATH",
    "JULIA_LOAD_PATH",
    "LD_AUDIT",
    "LD_PRELOAD",
    "LOCPATH",
    "NODE_PATH",
    "PERL5LIB",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "REQUESTS_CA_BUNDLE",
    "RUBYLIB",
    "R_LIBS",
    "R_LIBS_SITE",
    "R_LIBS_USER",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
#: Keeps Python and R from packages that were installed for the host's in the home directory, unless somebody says otherwise.
NO_PACKAGES_OF_THE_HOME = {"PYTHONNOUSERSITE": "1", "R_LIBS_USER": "NULL"}


#: Who starts many at once tells each its number; the first one speaks for all.
RANKS = ("SLURM_PROCID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")


def is_on(request: ActionRequest, config: Config) -> bool:
    """In soliton's own name; under a peer's name everything passes as there. A clean environment has nothing to guard."""
    if request.no_guard or request.cleanenv or config.guard == "never":
        return False
    return config.guard == "always" or request.program == "soliton"


def added(request: ActionRequest, config: Config) -> Mapping[str, str]:
    """What is set where the caller sets nothing: where the home directory of the host is inside."""
    left_out = request.contain or request.no_home or "home" in request.no_mount or not config.mount_home
    return {} if left_out else NO_PACKAGES_OF_THE_HOME


def changes(host: Mapping[str, str], mounts: Iterable[Mount]) -> dict[str, str | None]:
    """The caller's variables that pass with another value, or for None not at all."""
    found: dict[str, str | None] = {name: None for name in ACTIVATION if host.get(name) is not None}
    visible = tuple(mount.target for mount in mounts if isinstance(mount, Bind))
    for name in SEARCHED:
        value = host.get(name)
        if not value:
            continue
        # local::lib holds modules built for the Perl of the host.
        kept = None if name == "PERL5LIB" and "PERL_LOCAL_LIB_ROOT" in found else _visible(value, visible)
        if kept != value:
            found[name] = kept
    return found


def _visible(value: str, places: tuple[str, ...]) -> str | None:
    entries = value.split(":")
    kept = [entry for entry in entries if not entry.startswith("/") or _is_below(entry, places)]
    return ":".join(kept) if any(kept) else None


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def told(changed: Mapping[str, str | None]) -> str:
    """One line for the user."""
    names = sorted(changed)
    shown = ", ".join(names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{shown}{more} of the host would mislead the container and stay out, whole or in part; `--no-guard` passes everything"


def passing(
    request: ActionRequest, config: Config, host: Mapping[str, str], mounts: Iterable[Mount]
) -> PassingRule:
    """The rule for this request. request: settled."""
    if not is_on(request, config):
        return PassingRule.of(request)
    return PassingRule.of(request, added(request, config), changes(host, mounts))
