"""Text hygiene that every format shares. Knows no format; meaning is never changed, only carriers of it.

Ligatures become their letters (compatibility normalisation of nothing else), control characters go, line ends are LF,
blank lines are single.
"""

from __future__ import annotations

import re
import unicodedata

_LIGATURES = {
    code: unicodedata.normalize("NFKC", chr(code)) for code in (*range(0xFB00, 0xFB07), *range(0xFB13, 0xFB18))
}
_SPACES = dict.fromkeys((0x00A0, 0x2007, 0x202F), " ")
# C0 and C1 controls but tab and LF, BOMs inside text, soft hyphens, lone surrogates, non-characters.
_DROPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ufeff\ufffe\uffff\ud800-\udfff]")
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")
_PLACEHOLDER_TITLES = re.compile(
    r"(?i)(untitled|unbenannt|word document|powerpoint presentation|presentation|document\d*|slide \d+|"
    r"microsoft (word|powerpoint|excel) - .*|title|none|null|unknown|\(anonymous\))|"
    r".*\.(exe|tmp|docx?|pptx?|xlsx?|pdf|indd|tex|dvi|odt|qxd)"
)


def clean_text(text: str) -> str:
    """`text` with LF line ends, no control characters, plain ligatures and at most one blank line in a row."""
    text = _BREAKS.sub("\n", text)
    text = _DROPPED.sub("", text).translate(_LIGATURES).translate(_SPACES)
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def clean_title(title: object) -> str:
    """`title` on one line, or an empty string when it is no title but what a program put there."""
    if not isinstance(title, str):
        return ""
    line = " ".join(clean_text(title).split())[:200]
    if len(line) < 2 or _PLACEHOLDER_TITLES.fullmatch(line) or not any(letter.isalnum() for letter in line):
        return ""
    return line


def one_line(text: str) -> str:
    """`text` with every run of white space made one space."""
    return " ".join(text.split())


def shortened(text: str, most: int) -> str:
    """`text`, or its first characters and an ellipsis, `most` together."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
