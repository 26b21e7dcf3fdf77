"""What an image carries beside its files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from soliton import PEER, __version__
from soliton.errors import BuildError, ImageError
from soliton.images import inspection, labels, metadata, metadata_json, ociconfig
from soliton.images.metadata_layer import Entry, File, Folder, Link, layer

FACTS = labels.BuildFacts(time=1_700_000_000, architecture="amd64")
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["sh"],
            "Entrypoint": None,
            "Labels": {"maintainer": "me <me@example.org>"},
            "WorkingDir": "/work",
            "Unknown": 1,
            "AttachStdin": False,
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
    }
).encode()


def contents(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: member for member in archive}


def test_a_layer_has_the_same_bytes_whatever_the_order_of_its_entries() -> None:
    entries: list[Entry] = [
        File("/a/b", b"x", 0o755),
        Folder("/a"),
        Link("/a-b", "a/b"),
        File("/ü", b""),
        File("/" + "n" * 150, b"long"),
    ]
    tar = layer(entries, time=5)
    assert tar == layer(reversed(entries), time=5)
    members = contents(tar)
    assert list(members) == ["a", "a/b", "a-b", "n" * 150, "ü"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", 5)}
    assert members["a/b"].mode == 0o755
    assert members["a-b"].linkname == "a/b"


def test_the_layers_of_a_converted_image_do_not_change_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "__version__", "0")
    made = metadata.of_oci_image(
        ociconfig.parse(CONFIG, "x"), FACTS, definition="bootstrap: docker\nfrom: busybox\n\n"
    )
    assert (
        hashlib.sha256(made.below).hexdigest()
        == "916cff5ae0fc0f39c116e5bf0663b2504c2b82ffc48055fb4af4615acd212540"
    )
    assert (
        hashlib.sha256(made.above).hexdigest()
        == "0ae313b40533c951fcc6517e5d67b5a6db602f82eb400f4d82425924e82001af"
    )


def test_a_converted_image_has_the_layout_of_the_peers() -> None:
    made = metadata.of_oci_image(
        ociconfig.parse(CONFIG, "x"), FACTS, definition="bootstrap: docker\nfrom: busybox\n\n"
    )
    below, above = contents(made.below), contents(made.above)
    links = {name: member.linkname for name, member in below.items() if member.issym()}
    assert links == {
        ".exec": ".singularity.d/actions/exec",
        ".run": ".singularity.d/actions/run",
        ".shell": ".singularity.d/actions/shell",
        ".test": ".singularity.d/actions/test",
        "environment": ".singularity.d/env/90-environment.sh",
        "singularity": ".singularity.d/runscript",
    }
    assert {"dev", "proc", "sys", "tmp", "var/tmp", "root", "home", "etc/hosts", "etc/resolv.conf"} < set(
        below
    )
    files = {name.removeprefix(".singularity.d/"): oct(m.mode) for name, m in above.items() if m.isfile()}
    assert files == {
        "Singularity": "0o644",
        "labels.json": "0o644",
        "runscript": "0o755",
        "startscript": "0o755",
        **{f"actions/{name}": "0o755" for name in ("exec", "run", "shell", "start", "test")},
        **{
            f"env/{name}.sh": "0o755"
            for name in (
                "01-base",
                "10-docker2singularity",
                "90-environment",
                "94-appsbase",
                "95-apps",
                "99-base",
                "99-runtimevars",
            )
        },
    }


def test_a_converted_image_describes_itself_in_its_sif() -> None:
    made = metadata.of_oci_image(
        ociconfig.parse(CONFIG, "x"), FACTS, definition="bootstrap: docker\nfrom: busybox\n\n"
    )
    assert [(item.type, item.name) for item in made.objects] == [
        (0x4001, ""),
        (0x4006, "inspect-metadata.json"),
        (0x4006, "oci-config.json"),
    ]
    described = inspection.from_json(made.objects[1].data, "x")
    assert described.definition == "bootstrap: docker\nfrom: busybox"
    assert list(described.environment) == [
        "/.singularity.d/env/10-docker2singularity.sh",
        "/.singularity.d/env/90-environment.sh",
    ]
    assert described.labels["maintainer"] == "me <me@example.org>"
    assert described.labels["org.label-schema.build-date"] == "Tuesday_14_November_2023_22:13:20_UTC"
    assert b"me \\u003cme@example.org\\u003e" in made.objects[1].data
    assert made.objects[2].data == (
        b'{"Cmd":["sh"],"Env":["PATH=/usr/bin:/bin","LANG=C.UTF-8"],'
        b'"Labels":{"maintainer":"me \\u003cme@example.org\\u003e"},"WorkingDir":"/work"}'
    )


SECTIONS = metadata.Sections(
    definition="Bootstrap: localimage\nFrom: base.sif\n",
    environment='    export A="b"\n',
    runscript=metadata.Script('    echo "$@"\n', "-e # strict"),
    test=metadata.Script("#!/bin/bash\ntrue\n"),
    help="    How to use it.\n",
    labels={"Version": "2", "New": "x"},
)


def finished(tree: dict[str, bytes], *, force: bool = False) -> metadata.Finished:
    return metadata.finish(SECTIONS, tree, FACTS, force=force)


def test_sections_become_scripts_over_what_the_base_has() -> None:
    base = {
        "/.singularity.d/env/90-environment.sh": b"#!/bin/sh\nexport BASE=1\n",
        "/.singularity.d/runscript": b"#!/bin/sh\nold\n",
        "/.singularity.d/startscript": b"#!/bin/sh\nkept\n",
    }
    tree = finished(base).tree
    assert (
        tree["/.singularity.d/env/90-environment.sh"] == b'#!/bin/sh\nexport BASE=1\n\n    export A="b"\n\n'
    )
    assert tree["/.singularity.d/runscript"] == b'#!/bin/sh -e\n\n    echo "$@"\n\n'
    assert tree["/.singularity.d/startscript"] == b"#!/bin/sh\nkept\n"
    assert tree["/.singularity.d/test"] == b"#!/bin/bash\n\ntrue\n\n"
    assert tree["/.singularity.d/runscript.help"] == b"    How to use it.\n\n"


def test_the_definition_of_the_base_goes_into_the_history() -> None:
    history = {"/.singularity.d/bootstrap_history/Apptainer0": b"first"}
    tree = finished({"/.singularity.d/Singularity": b"second", **history}).tree
    assert tree["/.singularity.d/bootstrap_history/Apptainer0"] == b"first"
    assert tree["/.singularity.d/bootstrap_history/Apptainer1"] == b"second"
    assert tree["/.singularity.d/Singularity"] == SECTIONS.definition.encode()


def test_existing_labels_and_help_stay_unless_forced() -> None:
    base = {
        "/.singularity.d/labels.json": b'{"Version": "1", "Base": "b"}',
        "/.singularity.d/runscript.help": b"old help",
        "/.build.labels": b"Post from post\n",
    }
    made = finished(base)
    found = json.loads(made.tree["/.singularity.d/labels.json"])
    assert (found["Version"], found["New"], found["Base"], found["Post"]) == ("1", "x", "b", "from post")
    assert made.tree["/.singularity.d/runscript.help"] == b"old help"
    assert [note.split(";")[0] for note in made.notes] == [
        "the base image has a help text already",
        "the label `Version` exists already",
    ]
    assert made.removed == ("/.build.labels",)
    assert "/.build.labels" not in made.tree
    forced = finished(base, force=True)
    assert json.loads(forced.tree["/.singularity.d/labels.json"])["Version"] == "2"
    assert forced.tree["/.singularity.d/runscript.help"] == b"    How to use it.\n\n"
    assert forced.notes == ()


def test_an_app_gets_its_folders_scripts_and_labels() -> None:
    app = metadata.App(
        "my-app", environment="export X=1\n", runscript="echo run\n", help="Help.\n", labels="AppVersion 9"
    )
    entries = metadata.for_apps([app], {"/.singularity.d/env/94-appsbase.sh": b"# before\n"})
    folders = {entry.path for entry in entries if isinstance(entry, Folder)}
    assert {"/scif/apps/my-app/bin", "/scif/apps/my-app/lib", "/scif/data/my-app/output"} < folders
    tree = metadata.with_entries({}, entries)
    assert tree["/scif/apps/my-app/scif/runscript"] == b"#!/bin/sh\n\necho run\n\n"
    assert (
        tree["/scif/apps/my-app/scif/labels.json"]
        == b'{\n\t"AppVersion": "9",\n\t"SCIF_APP_NAME": "my-app"\n}'
    )
    exports = tree["/.singularity.d/env/94-appsbase.sh"].decode()
    assert exports.startswith("# before\n")
    assert 'export SCIF_APPROOT_my_app="/scif/apps/my-app"\n' in exports
    assert list(inspection.inspect_tree(tree).apps) == ["my-app"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "a\nb"])
def test_the_name_of_an_app_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(BuildError):
        metadata.for_apps([metadata.App(name)], {})


def test_labels_are_lines_of_key_and_value() -> None:
    text = "\n  Maintainer  Jo Doe \n# comment\nVersion\tv1\nBare\nVersion v2\n"
    assert labels.parse(text) == {"Maintainer": "Jo Doe", "Version": "v2", "Bare": ""}


def test_the_build_date_is_not_padded() -> None:
    assert labels.build_date(1_795_424_703) == "Monday_23_November_2026_9:5:3_UTC"


def test_every_build_says_what_it_is_made_from() -> None:
    facts = labels.BuildFacts(
        0, "arm64", {"Bootstrap": "docker", "From": "x"}, has_help=True, source=("docker.io/x:1", "sha256:0")
    )
    found = labels.of_build(facts)
    assert found["org.label-schema.usage.singularity.deffile.bootstrap"] == "docker"
    assert found["org.label-schema.usage.soliton.version"] == __version__
    assert found["org.label-schema.build-arch"] == "arm64"
    assert found["org.label-schema.usage"] == "/.singularity.d/runscript.help"
    assert found["org.opencontainers.image.base.name"] == "docker.io/x:1"
    assert found["org.opencontainers.image.base.digest"] == "sha256:0"


def test_the_version_that_an_image_is_meant_for_is_a_peer_s_and_tells_who_made_it() -> None:
    base = {"org.label-schema.usage.apptainer.version": "1.2.0", "Own": "1"}
    found, _ = labels.merge(base, labels.of_build(labels.BuildFacts(0, "amd64")))
    public, _, maker = found["org.label-schema.usage.apptainer.version"].partition("+")
    assert (public, maker) == (PEER[1], f"soliton.{__version__}")
    assert len([int(part) for part in public.split(".")]) == 3
    assert found["Own"] == "1"


@pytest.mark.parametrize("data", [b"[]", b"{", b'"x"', b"[" * 100_000])
def test_labels_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        labels.decode(data, "x")


def test_no_labels_are_no_failure() -> None:
    assert labels.decode(b"", "x") == labels.decode(b"null", "x") == {}


def test_json_is_escaped_as_the_peers_do() -> None:
    value = {"a": '<&>\u2028\u00fc\t\n\x01\\"/\udc80'}
    assert metadata_json.compact(value) == (
        '{"a":"\\u003c\\u0026\\u003e\\u2028\u00fc\\t\\n\\u0001\\\\\\"/\\ufffd"}'
    )
    assert (
        metadata_json.indented({"a": {"b": "c"}, "d": {}}) == '{\n\t"a": {\n\t\t"b": "c"\n\t},\n\t"d": {}\n}'
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"config": []}', "not an object"),
        (b'{"os": 1}', "`os` is not a text"),
        (b'{"config": {"Env": "A=1", "Cmd": [1]}}', "`Cmd` is not a list"),
        (b'{"config": {"Labels": {"a": 1}}}', "`Labels` is not a map"),
        (b'{"rootfs": {"diff_ids": {}}}', "`diff_ids` is not a list"),
    ],
)
def test_a_configuration_from_a_registry_is_not_trusted(data: bytes, why: str) -> None:
    with pytest.raises(ImageError) as told:
        ociconfig.parse(data, "x")
    assert why in (told.value.why or "")


def test_metadata_survives_the_way_through_a_sif() -> None:
    tree = metadata.with_entries({}, metadata.for_apps([metadata.App("a", environment="X=1\n")], {}))
    tree |= finished({}).tree
    described = inspection.inspect_tree(tree)
    assert inspection.from_json(inspection.to_sif_json(described), "x") == described


@pytest.mark.parametrize(
    "data", [b"{}", b"null", b'{"data":{"attributes":{"labels":[1]}}}', b'{"data":{"attributes":{"test":1}}}']
)
def test_damaged_metadata_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        inspection.from_json(data, "x")


def test_foreign_metadata_is_written_as_it_was(foreign: Path) -> None:
    shown = (foreign / "plain.inspect.json").read_text()
    described = inspection.from_json(shown.encode(), "plain")
    assert metadata_json.indented(inspection.to_json(described)) + "\n" == shown
    stored = (foreign / "plain.sif").read_bytes()[32790 : 32790 + 2449]
    assert inspection.to_sif_json(described) == stored
