"""The shell scripts an image carries in `/.singularity.d`, as text.

They are what makes an image run under the peers too: their launchers source `env/*.sh` and start `runscript`. Names, order
and effect are the contract (`runscript` of an OCI image evaluates the caller's words, `SINGULARITY_NO_EVAL` turns that off,
a host's value beats an OCI image's `ENV` …); the text is soliton's own. Pure functions of their arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
#: Values that mean themselves wherever they stand between double quotes.
_TAME = re.compile(r"[a-zA-Z0-9_ ./:,;=+@%^#~*?!-]*\Z")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_]")

SOURCE_ENVIRONMENT = """\
for script in /.singularity.d/env/*.sh; do
    if [ -f "$script" ]; then
        . "$script"
    fi
done
"""

ACTION_EXEC = f"""\
#!/bin/sh
# Runs a command in the environment of the image.

{SOURCE_ENVIRONMENT}
exec "$@"
"""

ACTION_RUN = f"""\
#!/bin/sh
# Runs what the image is for, or one of its apps.

{SOURCE_ENVIRONMENT}
if [ -n "${{SINGULARITY_APPNAME:-}}" ]; then
    script="/scif/apps/$SINGULARITY_APPNAME/scif/runscript"
    if [ -x "$script" ]; then
        exec "$script" "$@"
    fi
    echo "the app $SINGULARITY_APPNAME has nothing to run" >&2
    exit 1
fi
if [ -x /.singularity.d/runscript ]; then
    exec /.singularity.d/runscript "$@"
fi
exec /bin/sh "$@"
"""

ACTION_SHELL = f"""\
#!/bin/sh
# Starts a shell in the environment of the image.

{SOURCE_ENVIRONMENT}
if [ -n "${{SINGULARITY_SHELL:-}}" ] && [ -x "$SINGULARITY_SHELL" ]; then
    exec "$SINGULARITY_SHELL" "$@"
fi
if [ -x /bin/bash ]; then
    SHELL=/bin/bash
    export SHELL PS1
    exec /bin/bash --norc "$@"
fi
SHELL=/bin/sh
export SHELL PS1
exec /bin/sh "$@"
"""

ACTION_START = f"""\
#!/bin/sh
# Starts the services of an instance. Its process 1 waits for this signal before it reports success.
kill -CONT 1

{SOURCE_ENVIRONMENT}
if [ -x /.singularity.d/startscript ]; then
    exec /.singularity.d/startscript "$@"
fi
"""

ACTION_TEST = f"""\
#!/bin/sh
# Runs the test of the image, or of one of its apps.

{SOURCE_ENVIRONMENT}
if [ -n "${{SINGULARITY_APPNAME:-}}" ]; then
    script="/scif/apps/$SINGULARITY_APPNAME/scif/test"
    if [ -x "$script" ]; then
        exec "$script" "$@"
    fi
    echo "the app $SINGULARITY_APPNAME has no test" >&2
    exit 1
fi
if [ -x /.singularity.d/test ]; then
    exec /.singularity.d/test "$@"
fi
"""

ENV_01_BASE = """\
#!/bin/sh
# Comes first; an image may replace it.
"""

ENV_90_ENVIRONMENT = """\
#!/bin/sh
# What `%environment` of the definition file says follows here.
"""

ENV_95_APPS = """\
#!/bin/sh
# The environment of the chosen app.

if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    if [ ! -d "/scif/apps/$SINGULARITY_APPNAME/" ]; then
        echo "there is no app $SINGULARITY_APPNAME in this image" >&2
        exit 1
    fi
    SCIF_APPS="/scif/apps"
    SCIF_APPROOT="/scif/apps/$SINGULARITY_APPNAME"
    PATH="$SCIF_APPROOT:$PATH"
    if [ -d "$SCIF_APPROOT/bin" ]; then
        PATH="$SCIF_APPROOT/bin:$PATH"
    fi
    if [ -d "$SCIF_APPROOT/lib" ]; then
        LD_LIBRARY_PATH="$SCIF_APPROOT/lib:${LD_LIBRARY_PATH:-}"
        export LD_LIBRARY_PATH
    fi
    export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT PATH
    if [ -f "$SCIF_APPROOT/scif/env/01-base.sh" ]; then
        . "$SCIF_APPROOT/scif/env/01-base.sh"
    fi
    if [ -f "$SCIF_APPROOT/scif/env/90-environment.sh" ]; then
        . "$SCIF_APPROOT/scif/env/90-environment.sh"
    fi
fi
"""

ENV_99_BASE = """\
#!/bin/sh
# Libraries that the launcher brings from the host come last.

if [ -n "${LD_LIBRARY_PATH:-}" ]; then
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
else
    LD_LIBRARY_PATH="/.singularity.d/libs"
fi
if [ -z "${PS1:-}" ]; then
    PS1="Apptainer> "
fi
export LD_LIBRARY_PATH PS1
"""

ENV_99_RUNTIMEVARS = """\
#!/bin/sh
# Search paths that the caller asked for.

if [ -n "${SING_USER_DEFINED_PREPEND_PATH:-}" ]; then
    PATH="${SING_USER_DEFINED_PREPEND_PATH}:${PATH}"
fi
if [ -n "${SING_USER_DEFINED_APPEND_PATH:-}" ]; then
    PATH="${PATH}:${SING_USER_DEFINED_APPEND_PATH}"
fi
if [ -n "${SING_USER_DEFINED_PATH:-}" ]; then
    PATH="${SING_USER_DEFINED_PATH}"
fi
unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH
export PATH
"""

#: A runscript or startscript that does nothing, for images that do not say.
EMPTY = "#!/bin/sh\n"


def double_quoted(text: str) -> str:
    """`text` between double quotes, so that a shell that evaluates it gets `text` back."""
    return '"' + re.sub(r'([\\"`$])', r"\\\1", text) + '"'


def single_quoted(text: str) -> str:
    """`text` between single quotes, for a shell."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def oci_environment(env: Sequence[str]) -> str:
    """`env/10-docker2singularity.sh` for the entries of an OCI image's `Env`.

    A host's or earlier value that is not empty wins, but for PATH. Names that no shell can set are left out.
    """
    lines = ["#!/bin/sh"]
    for entry in env:
        name, equals, value = entry.partition("=")
        if not _NAME.match(name) or "\0" in value:
            continue
        if not equals:
            lines.append(f'export {name}="${{{name}:-}}"')
        elif name == "PATH":
            lines.append(f"export PATH={double_quoted(value)}")
        else:
            lines.append(_default(name, value))
    return "\n".join(lines) + "\n"


def _default(name: str, value: str) -> str:
    """Exports `name`, with `value` unless it has one."""
    if _TAME.match(value):
        return f'export {name}="${{{name}:-{value}}}"'
    # Shells disagree about quotes, braces and `<(` inside `${…}`; all of them understand this.
    return f'if [ -z "${{{name}:-}}" ]; then\n    {name}={double_quoted(value)}\nfi\nexport {name}'


def oci_runscript(entrypoint: Sequence[str], cmd: Sequence[str]) -> str:
    """The runscript of an OCI image: entry point, then the caller's arguments or else the image's own."""
    exact = []
    if cmd:
        exact.append("    if [ $# -eq 0 ]; then")
        exact.append(f"        set -- {' '.join(map(single_quoted, cmd))}")
        exact.append("    fi")
    if entrypoint:
        exact.append(f'    set -- {" ".join(map(single_quoted, entrypoint))} "$@"')
    return "\n".join(
        [
            "#!/bin/sh",
            f"OCI_ENTRYPOINT={single_quoted(' '.join(map(double_quoted, entrypoint)))}",
            f"OCI_CMD={single_quoted(' '.join(map(double_quoted, cmd)))}",
            "",
            "# Without evaluation: the words of image and caller as they are.",
            'if [ -n "${SINGULARITY_NO_EVAL:-}${APPTAINER_NO_EVAL:-}" ] || [ -z "$OCI_ENTRYPOINT$OCI_CMD" ]; then',
            *exact,
            '    exec "$@"',
            "fi",
            "",
            "# With it: the caller's words go through the shell once more.",
            "if [ $# -eq 0 ]; then",
            '    CMDLINE_ARGS="$OCI_CMD"',
            "else",
            '    CMDLINE_ARGS=""',
            '    for CMDLINE_ARG in "$@"; do',
            '        CMDLINE_ARGS="$CMDLINE_ARGS \\"$CMDLINE_ARG\\""',
            "    done",
            "fi",
            'eval "set -- $OCI_ENTRYPOINT $CMDLINE_ARGS"',
            'exec "$@"',
            "",
        ]
    )


def with_shebang(text: str, arguments: str = "") -> str:
    """A script of a definition file as it is stored: a `#!` of its own is kept, `/bin/sh` put where there is none.

    arguments: what stands behind the section's name; it goes on the `#!` line, without a comment.
    """
    interpreter, body = "#!/bin/sh", text
    if text.lstrip().startswith("#!"):
        first, _, body = text.lstrip().partition("\n")
        interpreter = first.strip()
    extra = arguments.partition("#")[0].strip()
    if extra:
        interpreter += f" {extra}"
    return f"{interpreter}\n\n{body}\n"


def app_base(name: str) -> str:
    """`scif/env/01-base.sh` of an app."""
    return (
        "#!/bin/sh\n\n"
        f"SCIF_APPNAME={name}\n"
        f'SCIF_APPROOT="/scif/apps/{name}"\n'
        f'SCIF_APPMETA="/scif/apps/{name}/scif"\n'
        'SCIF_DATA="/scif/data"\n'
        f'SCIF_APPDATA="/scif/data/{name}"\n'
        f'SCIF_APPINPUT="/scif/data/{name}/input"\n'
        f'SCIF_APPOUTPUT="/scif/data/{name}/output"\n'
        "export SCIF_APPDATA SCIF_APPNAME SCIF_APPROOT SCIF_APPMETA SCIF_APPINPUT SCIF_APPOUTPUT SCIF_DATA\n"
    )


def app_exports(name: str, *, environment: bool, runscript: bool) -> str:
    """What one app adds to `env/94-appsbase.sh`: variables by which the others find it."""
    key = _NOT_NAME.sub("_", name)
    root = f"/scif/apps/{name}"
    lines = [
        f"# the app {name}",
        f'export SCIF_APPDATA_{key}="/scif/data/{name}"',
        f'export SCIF_APPMETA_{key}="{root}/scif"',
        f'export SCIF_APPROOT_{key}="{root}"',
        f'export SCIF_APPBIN_{key}="{root}/bin"',
        f'export SCIF_APPLIB_{key}="{root}/lib"',
        f'export SCIF_APPLABELS_{key}="{root}/scif/labels.json"',
    ]
    if environment:
        lines.append(f'export SCIF_APPENV_{key}="{root}/scif/env/90-environment.sh"')
    if runscript:
        lines.append(f'export SCIF_APPRUN_{key}="{root}/scif/runscript"')
    return "\n".join(lines) + "\n"


def app_install(name: str, text: str) -> str:
    """What `%appinstall` of an app adds to the end of `%post`."""
    return f"\ncd /\n. /scif/apps/{name}/scif/env/01-base.sh\n\ncd /scif/apps/{name}\n{text}\n\ncd /\n"
