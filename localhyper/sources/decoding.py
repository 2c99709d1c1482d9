"""Bytes of a text file to `str`: BOM, then UTF-8, then UTF-16 by its shape, then a guess. Knows no document format."""

from __future__ import annotations

import codecs
import re

_EAST_ASIAN = frozenset({"cp932", "shift_jis", "euc_jp", "gb18030", "gbk", "gb2312", "big5", "cp949", "euc_kr"})
# Anything else that the guesser proposes is told apart from cp1252 by a few bytes, and it guesses those at random.
_OTHER_SCRIPTS = frozenset(
    "cp1251 koi8_r koi8_u iso8859_5 cp866 mac_cyrillic cp1253 iso8859_7 cp1255 iso8859_8 cp1256 iso8859_6 cp874".split()
)
_GUESS_BYTES = 256 * 1024
_XML_DECLARATION = re.compile(rb"<\?xml[^>]{0,200}encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']", re.I)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9._-]{1,40})", re.I)


def decode_text(data: bytes) -> str:
    """`data` as text; undecodable bytes become U+FFFD, a byte order mark is dropped."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    return data.decode(_guess(data), "replace")


def decode_markup(data: bytes) -> str:
    """`data` as text, where the XML declaration or an HTML meta tag in it names the encoding."""
    head = data[:4096]
    if head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decode_text(data)
    found = _XML_DECLARATION.search(head) or _META_CHARSET.search(head)
    if found:
        try:
            # Browsers read what calls itself Latin-1 as cp1252; files rely on it.
            name = codecs.lookup(found.group(1).decode("ascii")).name
            return data.decode("cp1252" if name in ("iso8859-1", "ascii") else name)
        except (LookupError, UnicodeDecodeError, ValueError):
            pass
    return decode_text(data)


def _guess(data: bytes) -> str:
    """Name of the likeliest encoding of bytes that are not UTF-8."""
    sample = data[:_GUESS_BYTES]
    if len(even := sample[0::2]) > 3 and b"\x00" in sample:
        return "utf-16-be" if even.count(0) > sample[1::2].count(0) else "utf-16-le"
    if _is_accented_latin(data):
        return _western(data)
    from charset_normalizer import from_bytes

    ranked = [match.encoding for match in from_bytes(_whole_lines(sample))]
    # cp932 is Shift-JIS as it is really written; the guesser names its rarer twins as often.
    ranked = ["cp932" if name.startswith("shift_jis") else name for name in ranked]
    for encoding in ranked[:1] + [name for name in ranked if name in _EAST_ASIAN]:
        if encoding in _EAST_ASIAN | _OTHER_SCRIPTS and _decodes(data, encoding):
            return encoding
    return _western(data)


def _whole_lines(sample: bytes) -> bytes:
    """`sample` without its cut last line, so that no character is cut in two."""
    end = sample.rfind(b"\n")
    return sample[: end + 1] if len(sample) == _GUESS_BYTES and end > 0 else sample


def _is_accented_latin(data: bytes) -> bool:
    """Whether bytes outside ASCII are few and far between, as accents are and double-byte or Cyrillic words are not."""
    runs = re.findall(rb"[\x80-\xff]+", data)[:10_000]
    long_runs = sum(len(run) >= 4 for run in runs)
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    return long_runs * 4 < len(runs) and high * 10 < len(data) * 3


def _western(data: bytes) -> str:
    """cp1252, or Latin-1 where a byte has no meaning in it."""
    return "cp1252" if _decodes(data, "cp1252") else "latin_1"


def _decodes(data: bytes, encoding: str) -> bool:
    """Whether all of `data` is valid in `encoding`."""
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True
