"""Signatures and keys: sign, verify, `soliton key …`."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import INTEGER, TEXT, Option

SHARING = "Sharing"
GROUP_ID = Option("group-id", "g", INTEGER, "N", help="the group of objects")
SIF_ID = Option("sif-id", "i", INTEGER, "N", help="the object")
OLD_IDS = (
    Option(
        "groupid",
        None,
        INTEGER,
        "N",
        alias="group-id",
        deprecated="--group-id",
        hidden=True,
        help="the group of objects",
    ),
    Option("id", None, INTEGER, "N", alias="sif-id", deprecated="--sif-id", hidden=True, help="the object"),
)
COSIGN = Option("cosign", "c", hidden=True, help="cosign signatures of an OCI-SIF", supported=False)

SIGN = (
    GROUP_ID,
    SIF_ID,
    *OLD_IDS,
    Option("all", "a", hidden=True, deprecated="nothing: all objects are signed", help="every object"),
    Option("key", None, TEXT, "FILE", keys=("SIGN_KEY",), help="a private key in PEM form"),
    Option("keyidx", "k", INTEGER, "N", help="which key of the secret keyring"),
    COSIGN,
)
VERIFY = (
    Option("url", "u", TEXT, "URL", keys=("URL",), help="a key server"),
    GROUP_ID,
    SIF_ID,
    *OLD_IDS,
    Option("all", "a", help="every object"),
    Option("certificate", None, TEXT, "FILE", keys=("VERIFY_CERTIFICATE",), help="the signer's certificate"),
    Option(
        "certificate-intermediates",
        None,
        TEXT,
        "FILE",
        keys=("VERIFY_INTERMEDIATES",),
        help="certificates between",
    ),
    Option("certificate-roots", None, TEXT, "FILE", keys=("VERIFY_ROOTS",), help="certificates to trust"),
    Option("ocsp-verify", keys=("VERIFY_OCSP",), help="ask whether the certificate was revoked"),
    Option("key", None, TEXT, "FILE", keys=("VERIFY_KEY",), help="a public key in PEM form"),
    Option("local", "l", keys=("LOCAL_VERIFY",), help="only keys that are here"),
    Option("json", "j", help="as JSON"),
    Option("legacy-insecure", help="accept signatures of the old kind"),
    COSIGN,
)

KEY_GLOBAL = Option("global", "g", help="the keyring of all users")
KEYS_DIR = Option("keysdir", "d", TEXT, "DIR", help="directory of the keyrings")
URL = Option("url", "u", TEXT, "URL", keys=("URL",), help="the key server")

PRIVATE = Option("private", hidden=True, help="another spelling of --secret", supported=False)

KEY = (
    Command(
        "newpair",
        "",
        "make a pair of keys",
        options=(
            Option("name", "N", TEXT, "TEXT", help="whose it is"),
            Option("email", "E", TEXT, "ADDRESS", help="with this address"),
            Option("comment", "C", TEXT, "TEXT", help="a comment"),
            Option("password", "P", TEXT, "SECRET", help="password of the secret key"),
            Option("push", "U", help="publish it at the key server"),
            Option("bit-length", "b", INTEGER, "BITS", default=4096, help="length of the key"),
            KEYS_DIR,
        ),
    ),
    Command(
        "list",
        "",
        "show the keys that are here",
        options=(KEY_GLOBAL, KEYS_DIR, Option("secret", "s", keys=("SECRET",), help="secret keys"), PRIVATE),
    ),
    Command(
        "search",
        "TEXT",
        "search a key server",
        least=1,
        most=1,
        options=(URL, Option("long-list", "l", help="with more details")),
    ),
    Command(
        "pull", "FINGERPRINT", "fetch a public key", least=1, most=1, options=(URL, KEY_GLOBAL, KEYS_DIR)
    ),
    Command(
        "push", "FINGERPRINT", "publish a public key", least=1, most=1, options=(URL, KEY_GLOBAL, KEYS_DIR)
    ),
    Command(
        "import",
        "FILE",
        "take a key from a file",
        least=1,
        most=1,
        options=(KEY_GLOBAL, KEYS_DIR, Option("new-password", help="give the secret key another password")),
    ),
    Command(
        "export",
        "FILE",
        "write a key to a file",
        least=1,
        most=1,
        options=(
            KEY_GLOBAL,
            KEYS_DIR,
            Option("secret", "s", help="the secret key"),
            PRIVATE,
            Option("armor", "a", help="as text"),
        ),
    ),
    Command(
        "remove",
        "FINGERPRINT",
        "delete a key that is here",
        least=1,
        most=1,
        options=(
            KEY_GLOBAL,
            KEYS_DIR,
            Option("public", "p", help="the public key"),
            Option("secret", "s", help="the secret key"),
            Option("both", "b", help="both"),
        ),
    ),
    Command(
        "generate-cosign-key-pair",
        "",
        "make a pair of keys for cosign",
        hidden=True,
        options=(Option("output-key-prefix", None, TEXT, "NAME", help="name of the files"),),
    ),
)

COMMANDS = (
    Command("sign", "IMAGE", "sign an image", least=1, most=1, options=SIGN, group=SHARING),
    Command("verify", "IMAGE", "check an image's signatures", least=1, most=1, options=VERIFY, group=SHARING),
    Command("key", "", "the keys for signing", aliases=("keys",), subcommands=KEY, group=SHARING),
)
