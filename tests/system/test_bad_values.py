"""What each option refuses, by the real program: one row an option, and none may be missing.

That values of the wrong kind (`--contain=maybe`, `--pids-limit=ten`) are refused is stated in `tests/unit/test_bad_values.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from soliton.cli import commands
from tests.system.program import Program
from tests.system.test_limits import FILE

#: Option → a command line with a value that it does not take, and what is said. IMAGE, RECIPE, DOCKERFILE and FILE are there.
REFUSED = {
    "add-caps": ("exec --add-caps CAP_FLY IMAGE true", "`CAP_FLY` is not a capability"),
    "alignment": ("sif add --datatype 7 --alignment -1 IMAGE FILE", "-1 is not an alignment"),
    "app": ("run --app ../.. IMAGE", "the app `../..` cannot be used"),
    "apply-cgroups": ("exec --apply-cgroups missing IMAGE true", "`missing` cannot be read"),
    "authfile": ("pull --authfile missing docker://localhost:1/x", "`missing` cannot be read"),
    "bind": ("exec --bind /a:/b:fast IMAGE true", "`fast` in the bind `/a:/b:fast` is not a bind option"),
    "blkio-weight": ("exec --blkio-weight 5 IMAGE true", "a weight from 10 to 1000"),
    "blkio-weight-device": ("exec --blkio-weight-device /dev/null:9 IMAGE true", "not a block device"),
    "build-arg": ("build --build-arg NOVALUE new.sif RECIPE", "`--build-arg NOVALUE` is not an assignment"),
    "build-arg-file": ("build --build-arg-file missing new.sif RECIPE", "`--build-arg-file missing`"),
    "cdi-dirs": ("exec --cdi-dirs missing --device a/b=c IMAGE true", "there is no CDI device `a/b=c`"),
    "containlibs": ("exec --containlibs missing IMAGE true", "`missing` of `--containlibs` is not a file"),
    "context": ("build --context missing new.sif DOCKERFILE", "the build context `missing` is no directory"),
    "cpu-shares": ("exec --cpu-shares -5 IMAGE true", "`-5` makes no sense for `--cpu-shares`"),
    "cpus": ("exec --cpus 0 IMAGE true", "`0` makes no sense for `--cpus`"),
    "cpuset-cpus": ("exec --cpuset-cpus a-b IMAGE true", "`a-b` makes no sense for `--cpuset-cpus`"),
    "cpuset-mems": ("exec --cpuset-mems x IMAGE true", "`x` makes no sense for `--cpuset-mems`"),
    "create-dir": ("overlay create --create-dir ../x new.img", "`../x` of `--create-dir`"),
    "cwd": ("exec --cwd here IMAGE true", "`here` is not an absolute path"),
    "data": ("exec --data missing:/x IMAGE true", "missing` cannot be used"),
    "datatype": ("sif add --datatype 99 IMAGE FILE", "`--datatype` has to say what is added"),
    "days": ("cache clean --force --days -1", "`-1` is not a number of days"),
    "device": ("exec --device gpu IMAGE true", "`gpu` is not a CDI device"),
    "dir": ("pull --dir missing/none docker://localhost:1/x", ""),
    "dns": ("exec --dns example.org IMAGE true", "`example.org` of `--dns`"),
    "docker-host": ("exec --docker-host nonsense docker-daemon:x:y true", "`nonsense` is not the address"),
    "drop-caps": ("exec --drop-caps fly IMAGE true", "`CAP_FLY` is not a capability"),
    "env-file": ("exec --env-file missing IMAGE true", "`missing` cannot be read"),
    "group": ("sif add --datatype 7 --group -1 IMAGE FILE", "--group"),
    "fusemount": ("exec --fusemount nonsense IMAGE true", "`nonsense` of `--fusemount` has no type"),
    "home": ("exec --home a:b:c IMAGE true", "`a:b:c` is not a home"),
    "library": ("pull --library ftp://x library://a/b/c:1", "`ftp://x` is not the address of a library"),
    "hostname": ("exec --hostname a_b! IMAGE true", "`a_b!` is not a host name"),
    "ignore": ("diff --ignore nothing IMAGE IMAGE", "there is no such thing to ignore"),
    "link": ("sif add --datatype 7 --link -1 IMAGE FILE", "-1"),
    "man": ("help --man FILE", "manual pages cannot be written to"),
    "memory": ("exec --memory 1x IMAGE true", "`1x` makes no sense for `--memory`"),
    "memory-reservation": ("exec --memory-reservation 1x IMAGE true", "`--memory-reservation`"),
    "memory-swap": ("exec --memory-swap 1x IMAGE true", "`1x` makes no sense for `--memory-swap`"),
    "mksquashfs-args": (
        "build --mksquashfs-args -nonsense new.sif RECIPE",
        "`-nonsense` in `--mksquashfs-args`",
    ),
    "mount": ("exec --mount type=tmpfs,dst=/x IMAGE true", "is not of type=bind"),
    "name": ("pull --name missing/none.sif docker://localhost:1/x", ""),
    "netns-path": ("exec --netns-path /dev/null IMAGE true", "it is not a network namespace"),
    "network": ("exec --network nosuch IMAGE true", "there is no network `nosuch`"),
    "network-args": ("exec --network-args x=y IMAGE true", "`x` of `--network-args` is not known"),
    "no-mount": ("exec --no-mount nothing IMAGE true", "`nothing` is not a mount that can be left out"),
    "overlay": ("exec --overlay missing IMAGE true", "no such image: `missing`"),
    "partarch": ("sif add --datatype 4 --partfs 1 --parttype 3 --partarch 99 IMAGE FILE", "`--partarch`"),
    "partfs": ("sif add --datatype 4 --partfs 99 --parttype 3 --partarch 2 IMAGE FILE", "`--partfs`"),
    "parttype": ("sif add --datatype 4 --partfs 1 --parttype 99 --partarch 2 IMAGE FILE", "`--parttype`"),
    "pid-file": (
        "instance start --pid-file missing/x IMAGE one",
        "the pid file `missing/x` cannot be written",
    ),
    "pids-limit": ("exec --pids-limit -2 IMAGE true", "`-2` makes no sense for `--pids-limit`"),
    "platform": ("pull --platform nonsense docker://localhost:1/x", "`--platform nonsense`"),
    "runscript-timeout": ("run --runscript-timeout 9999999h IMAGE", "no time that can be waited for"),
    "sbomformat": ("sif add --datatype 9 --sbomformat nonsense IMAGE FILE", "`--sbomformat`"),
    "scratch": ("exec --scratch here IMAGE true", "`here` is not an absolute path"),
    "secret": ("build --secret nonsense new.sif DOCKERFILE", "`--secret nonsense` is not understood"),
    "section": ("build --section nonsense new.sif RECIPE", "there is no such section to choose"),
    "security": ("exec --security foo:bar IMAGE true", "`foo:bar` of `--security` is not known"),
    "shell": ("shell --shell /no/such IMAGE", '"/no/such" cannot be executed'),
    "signal": ("instance stop --signal FLY one", "`FLY` is not a signal"),
    "signentity": ("sif add --datatype 5 --signhash 1 --signentity nonsense IMAGE FILE", "`--signentity`"),
    "signhash": ("sif add --datatype 5 --signhash 99 --signentity x IMAGE FILE", "`--signhash`"),
    "size": ("overlay create --size 1 new.img", "an overlay of 1 MiB cannot be made"),
    "ssh": ("build --ssh x=missing new.sif DOCKERFILE", "the SSH agent `missing` cannot be used"),
    "target": ("build --target none new.sif DOCKERFILE", "there is no stage `none`"),
    "timeout": ("instance stop --timeout -5 one", "`-5` is not a number of seconds"),
    "tmpdir": ("build --tmpdir missing new.sif RECIPE", "no temporary directory can be made in `"),
    "type": ("cache clean --type nonsense", "`nonsense` is not kept in the cache"),
    "umask": ("exec --umask 01777 IMAGE true", "octal digits from 0 to 777"),
    "user": ("instance list --user nobody", "the instances of `nobody` are not yours"),
    "workdir": ("exec --contain --workdir missing IMAGE true", "`missing` of `--workdir` is not a directory"),
}
#: Options that take any text: what it means is somebody else's affair.
ANY = {
    "arch": "the registry's, or an emulator's",
    "arch-variant": "the registry's",
    "docker-password": "the registry's",
    "docker-username": "the registry's",
    "filename": "a name in a SIF, which is cut at its end",
    "no-env": "a variable that is not there need not be left out",
}
#: Values of directives and names, which are positionals.
POSITIONALS = {
    "config set --user mount-home maybe": '`mount-home` cannot be "maybe"',
    "config set --user nonsense yes": "`nonsense` is not a directive",
    "config unset --user nonsense": "`nonsense` is not a directive",
    "config get nonsense": "`nonsense` is not a directive",
    "config import missing": "`missing` cannot be read",
    "config global --set nonsense x": "`nonsense` is not a directive",
    "inspect --app nosuch IMAGE": "there is no app `nosuch`",
    "inspect missing": "no such image: `missing`",
    "instance start IMAGE a/b": "`a/b` is not a valid instance name",
    "instance start --boot --app x IMAGE one": "`--boot` and `--app` exclude each other",
    "exec --umask 7 --no-umask IMAGE true": "`--umask` and `--no-umask` exclude each other",
    "exec IMAGE missing": '"missing": executable file not found in $PATH',
    "exec IMAGE /etc/passwd": '"/etc/passwd" cannot be executed',
}


def test_every_option_has_its_row() -> None:
    kinds = ("text", "list", "whole", "integer", "duration", "permissions")
    built = {
        option.name
        for _, command in commands.walk()
        if command.handler
        for option in command.options
        if option.supported and not option.alias and option.kind in kinds
    }
    assert set(REFUSED) | set(ANY) == built
    assert not set(REFUSED) & set(ANY)


@pytest.fixture(scope="module")
def material(shared: Program, busybox_sif: Path) -> Path:
    folder = shared.cwd / "bad values"
    folder.mkdir()
    shutil.copy(busybox_sif, folder / "image.sif")
    (folder / "recipe.def").write_text("Bootstrap: localimage\nFrom: image.sif\n")
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "file").write_text(FILE)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = {"IMAGE": "image.sif", "RECIPE": "recipe.def", "DOCKERFILE": "Dockerfile", "FILE": "file"}
ROWS = [*REFUSED.values(), *POSITIONALS.items()]


@pytest.mark.parametrize(("line", "what"), ROWS, ids=[line for line, _ in ROWS])
def test_a_value_that_makes_no_sense_is_refused(
    soliton: Program, material: Path, line: str, what: str
) -> None:
    before = contents(material)
    result = soliton.within(material)(*(NAMES.get(word, word) for word in line.split()), stdin="")
    assert result.status in (1, 255), result
    assert what in result.err
    assert "Traceback" not in result.err and "unexpected" not in result.err
    fatal = [row for row in result.err.splitlines() if row.strip()]
    assert 1 <= len(fatal) <= 3, result.err
    if result.err.startswith("FATAL:"):
        assert result.out == ""
    # Nothing is there that was not, and nothing was changed.
    assert contents(material) == before
