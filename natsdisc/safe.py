"""Text that others wrote, made safe for terminals, logs and JSON lines; addresses without their credentials.

Names, keys, values and error texts come from whoever may write to a registry. A terminal obeys control
characters in them, a log line ends at a line break, and bidirectional overrides or invisible characters make
one name look like another. `safe` writes all of these as escapes and leaves every other text as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["safe", "safe_json", "safe_lines", "without_credentials"]

# Unicode calls these printable, and shows nothing for them (Default_Ignorable_Code_Point, and the empty
# Braille pattern).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_NEXT_URL = re.compile(r",\s*(?=\w+://)")


def safe(text: str) -> str:
    r"""Return `text` on one line, with every character that is not plainly visible as an escape.

    Escaped are control characters (C0, DEL, C1), line and paragraph separators, formatting characters
    (bidirectional overrides, zero-width characters), lone surrogates, and characters that show nothing.

    >>> print(safe("a\x1b[31m\u202eb"))
    a\x1b[31m\u202eb
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def safe_lines(text: str) -> str:
    """Return `text` with each of its lines safe; only for texts whose line breaks are our own."""
    return "\n".join(map(safe, text.split("\n")))


def safe_json(text: str) -> str:
    r"""Return the JSON document `text` with the same meaning, and no character that `safe` would escape.

    Line breaks between values stay. In a JSON document all other such characters stand within strings, where
    `\uXXXX` means the same.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(c if c == "\n" or _is_visible(c) else _json_escape(c) for c in text)


def without_credentials(servers: str | Sequence[str]) -> str:
    """Return server URLs without what stands before their last `@`, for messages.

    `servers` is one URL, several separated by commas, or a sequence of URLs. A password may hold `@`, `/` and
    commas.
    """
    urls = [servers] if isinstance(servers, str) else servers
    parts = [part for url in urls for part in (_NEXT_URL.split(url) if "://" in url else url.split(","))]
    return ", ".join(map(_without_userinfo, parts))


def _without_userinfo(url: str) -> str:
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "", scheme
    return safe(f"{scheme}{separator}{rest.rpartition('@')[2]}")


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _INVISIBLE.match(character)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
