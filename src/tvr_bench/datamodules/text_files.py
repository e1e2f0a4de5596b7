"""Text out of files that many programs write: which encoding, which line, which character.

Only what is unmistakable is read: UTF-8, and UTF-16 or UTF-32 that begin with their byte-order
mark. Of everything else the error says what it looks like.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from tvr_bench.errors import UserError

FETCH = "fetch it again"  # advice for a file that others published
SAVE = "save it as UTF-8 ('CSV UTF-8' in Excel)"  # and for one's own

_LARGEST = 512_000_000  # bytes of a file; the largest official one has 160 MB
_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or another ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "packed by gzip",
    b"PAR1": "a Parquet file",
}
_LINE_END = re.compile(r"\r\n|\n|\r")
_SEEN = 4096  # bytes that show whether a file is UTF-16 without a mark


def read_text(path: Path, advice: str = FETCH) -> str:
    """Return a file's text without its byte-order mark.

    Raises UserError, which ends with `advice`, for other encodings, a NUL and above 512 MB.
    """
    return decoded(path, advice)[0]


def decoded(path: Path, advice: str = FETCH) -> tuple[str, str]:
    """Return a file's text as of `read_text`, and its encoding: `utf-8`, `utf-16`, `utf-32`."""
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} is larger than 512 MB; is it the right file?")
    data = path.read_bytes()
    for start, what in _NO_TEXT.items():
        if data.startswith(start):
            raise UserError(f"{path} is {what}, not text; {advice}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} {_other_encoding(data, encoding, error)}; {advice}") from error
    if (place := text.find("\0")) >= 0:
        if what := _without_mark(data):
            raise UserError(f"{path} {what}; {advice}")
        raise UserError(
            f"{path} has a NUL character in line {line_at(text, place)}; take it out, or {FETCH}"
        )
    return text, encoding.removesuffix("-sig")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text without their ends, which are CRLF, LF or CR alone.

    Unlike `str.splitlines`, which also ends lines at signs that captions hold, such as U+2028.
    """
    return _LINE_END.split(text)


def line_at(text: str, place: int) -> int:
    """Return the number, from 1, of the line that holds the character at `place`."""
    return len(_LINE_END.findall(text, 0, place)) + 1


def named(character: str) -> str:
    """Return a character by its number and name, such as `U+FEFF ZERO WIDTH NO-BREAK SPACE`."""
    name = unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} {name}"


def invisible(text: str) -> list[str]:
    """Return the different characters of a text that take no room on a screen, in their order.

    Control characters too; surrogates, which stand for bytes of a file name, are not among them.
    """
    kinds = ("Cc", "Cf", "Zl", "Zp")
    return list(dict.fromkeys(one for one in text if unicodedata.category(one) in kinds))


def _other_encoding(data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """Return what bytes that are no text of an encoding are likely to be."""
    if encoding != "utf-8":
        mark = encoding.removesuffix("-sig").upper()
        return f"begins as {mark} does, but is not {mark} at byte {error.start}"
    place = f"is not UTF-8 (byte {error.start})"
    if unmarked := _without_mark(data):
        return f"{place}: it {unmarked}"
    line = len(re.findall(rb"\r\n|\n|\r", data[: error.start])) + 1
    try:
        character = data[error.start : error.start + 1].decode("cp1252")
    except UnicodeDecodeError:
        return f"{place}: line {line} has the byte 0x{data[error.start]:02X}"
    around = data[max(0, error.start - 12) : error.start + 12].decode("cp1252", "replace")
    shown = " ".join(around.split())
    return (
        f"{place}: if it is Windows-1252 or Latin-1, as Excel's plain CSV is, line {line} has "
        f"{character!a} ({named(character)}) in {shown!r}"
    )


def _without_mark(data: bytes) -> str:
    """Return what to say of text that is UTF-16 without a byte-order mark, "" of other text."""
    head = data[:_SEEN]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 < len(head) or min(even, odd) * 8 > len(head):
        return ""
    which = "UTF-16-LE" if odd > even else "UTF-16-BE"
    return f"looks like {which} without its byte-order mark"
