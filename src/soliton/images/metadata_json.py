"""JSON as the peers write it: their readers compare text, and signatures cover bytes.

Their encoder leaves non-ASCII text alone, escapes `<`, `>`, `&` and the two line separators of Unicode, and replaces
what is not text.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def compact(value: Any) -> str:
    """On one line, without blanks; keys in the order given."""
    return _escape(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def indented(value: Any) -> str:
    """With tabs; keys in the order given. No line end after the last line."""
    return _escape(json.dumps(value, ensure_ascii=False, indent="\t", separators=(",", ": ")))


def _escape(text: str) -> str:
    # These characters stand only inside strings, so the text can be treated as a whole.
    text = _SPECIAL.sub(lambda found: _ESCAPED[found.group()], text)
    return _SURROGATE.sub("\\\\ufffd", text)
