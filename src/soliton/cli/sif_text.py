"""What `sif` prints: the header, the table and a single descriptor of a SIF, in the columns of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from soliton.images import architecture, sif
from soliton.images.sif import Descriptor, Sif

TYPES = {
    sif.DEFINITION: "Def.FILE",
    sif.ENVIRONMENT: "Env.Vars",
    sif.LABELS: "JSON.Labels",
    sif.PARTITION: "FS",
    sif.SIGNATURE: "Signature",
    sif.GENERIC_JSON: "JSON.Generic",
    sif.GENERIC: "Generic/Raw",
    sif.CRYPTO_MESSAGE: "Cryptographic Message",
    sif.SBOM: "SBOM",
    sif.OCI_ROOT_INDEX: "OCI.RootIndex",
    sif.OCI_BLOB: "OCI.Blob",
}
FILE_SYSTEMS = {
    sif.FS_SQUASHFS: "Squashfs",
    sif.FS_EXT3: "Ext3",
    sif.FS_ARCHIVE: "Archive",
    sif.FS_RAW: "Raw",
    sif.FS_LUKS_SQUASHFS: "Encrypted squashfs",
    sif.FS_GOCRYPTFS: "Gocryptfs squashfs",
}
ROLES = {
    sif.PART_SYSTEM: "System",
    sif.PART_PRIMARY: "*System",
    sif.PART_DATA: "Data",
    sif.PART_OVERLAY: "Overlay",
}
HASHES = {1: "SHA-256", 2: "SHA-384", 3: "SHA-512", 4: "BLAKE2s-256", 5: "BLAKE2b-256"}
MESSAGE_FORMATS = {1: "OpenPGP", 2: "PEM"}
MESSAGES = {0x100: "Clear Signature", 0x200: "RSA-OAEP"}
SBOM_FORMATS = {
    1: "cyclonedx-json",
    2: "cyclonedx-xml",
    3: "github-json",
    4: "spdx-json",
    5: "spdx-rdf",
    6: "spdx-tag-value",
    7: "spdx-yaml",
    8: "syft-json",
}
UNKNOWN = "unknown"


def listing(image: Sif) -> str:
    """One line per object, in the columns of the peers."""
    rule = "-" * 78
    lines = [rule, "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE", rule]
    for item in image.objects:
        place = f"{item.offset}-{item.end}"
        lines.append(
            f"{item.id:<5}|{_number(item.group):<8}|{_listed_link(item):<8}|{place:<26}|{_listed_type(item)}"
        )
    return "".join(f"{line}\n" for line in lines)


def header_text(image: Sif) -> str:
    """The global header; what is not set is left out."""
    header = image.header
    primary = architecture.from_sif_code(header.architecture)
    rows = [
        ("Launch Script", visible(header.launch.decode("utf-8", "replace").rstrip("\n"))),
        ("Version", sif.VERSION.rstrip(b"\0").decode()),
        ("Primary Architecture", primary or ""),
        ("ID", str(UUID(bytes=header.id)) if header.id != sif.NO_ID else ""),
        ("Created At", _time(header.created)),
        ("Modified At", _time(header.modified)),
        ("Descriptors Free", str(header.free)),
        ("Descriptors Total", str(header.total)),
        ("Descriptors Offset", str(header.table_offset)),
        ("Descriptors Size", size_text(header.table_size)),
        ("Data Offset", str(header.data_offset)),
        ("Data Size", size_text(header.data_size)),
    ]
    return _table(rows, indent=0, gap=1)


def info_text(item: Descriptor) -> str:
    """All that a descriptor says; what is not set is left out."""
    rows = [
        ("Data Type", _type(item)),
        ("ID", str(item.id)),
        ("Group ID", _number(item.group)),
        ("Linked ID", f"{item.link} (G)" if item.links_group and item.link else _number(item.link)),
        ("Offset", str(item.offset)),
        ("Size", str(item.size)),
        ("Created At", _time(item.created)),
        ("Modified At", _time(item.modified)),
        ("Name", visible(item.name)),
    ]
    partition, signature, message = item.partition, item.signature, item.message
    if partition is not None:
        rows += [
            ("Filesystem Type", FILE_SYSTEMS.get(partition.fs, UNKNOWN)),
            ("Partition Type", ROLES.get(partition.role, UNKNOWN)),
            ("Architecture", architecture.from_sif_code(partition.code) or UNKNOWN),
        ]
    if signature is not None:
        rows += [
            ("Hash Type", HASHES.get(signature.hash, UNKNOWN)),
            ("Entity", signature.fingerprint.hex().upper()),
        ]
    if message is not None:
        rows += [
            ("Format Type", MESSAGE_FORMATS.get(message[0], UNKNOWN)),
            ("Message Type", MESSAGES.get(message[1], UNKNOWN)),
        ]
    if item.sbom is not None:
        rows.append(("Format", SBOM_FORMATS.get(item.sbom, UNKNOWN)))
    if item.digest is not None:
        rows.append(("Digest", visible(item.digest)))
    return _table(rows, indent=2, gap=2)


def _table(rows: Sequence[tuple[str, str]], *, indent: int, gap: int) -> str:
    shown = [(f"{key}:", value) for key, value in rows if value]
    width = max(len(key) for key, _ in shown) + gap
    return "".join(f"{' ' * indent}{key:<{width}}{value}\n" for key, value in shown)


def _type(item: Descriptor) -> str:
    return TYPES.get(item.type, f"{UNKNOWN} ({item.type:#x})")


def _listed_type(item: Descriptor) -> str:
    partition, signature, message = item.partition, item.signature, item.message
    details = ""
    if partition is not None:
        code = architecture.from_sif_code(partition.code) or UNKNOWN
        details = f"{FILE_SYSTEMS.get(partition.fs, UNKNOWN)}/{ROLES.get(partition.role, UNKNOWN)}/{code}"
    elif signature is not None:
        details = HASHES.get(signature.hash, UNKNOWN)
    elif message is not None:
        details = f"{MESSAGE_FORMATS.get(message[0], UNKNOWN)}/{MESSAGES.get(message[1], UNKNOWN)}"
    elif item.sbom is not None:
        details = SBOM_FORMATS.get(item.sbom, UNKNOWN)
    return f"{_type(item)} ({details})" if details else _type(item)


def _listed_link(item: Descriptor) -> str:
    return f"{item.link:<4}(G)" if item.links_group and item.link else _number(item.link)


def _number(number: int) -> str:
    return str(number) if number else "NONE"


def _time(seconds: int) -> str:
    if seconds == sif.NO_TIME:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"


def size_text(size: int) -> str:
    """A number of bytes in the largest unit of which it has one, rounded down, as the peers show it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} TiB"


def visible(text: str) -> str:
    """Without the characters by which a hostile file could steer a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else "\ufffd" for c in text)
