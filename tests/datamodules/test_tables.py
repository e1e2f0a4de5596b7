"""Tables of any program are read back as they were; hostile bytes are refused in one line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvr_bench.datamodules.csv_rows import Row, read_rows
from tvr_bench.errors import UserError

Pairs = list[tuple[str, str]]

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(str.strip)
_NAME = st.from_regex(r"[a-z]{1,5}\.mp4", fullmatch=True)
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


def _one_line(text: str, end: str) -> str:
    """Return a text without the line ends that Python's writer of 3.11 does not put into quotes."""
    return "".join("." if sign in "\r\n" and sign not in end else sign for sign in text)


@given(
    pairs=st.lists(st.tuples(_NAME, _TEXT), min_size=1, max_size=6),
    sign=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(_ENCODINGS),
    layout=st.sampled_from(["plain", "sep", "index", "wide"]),
)
@example(
    pairs=[("a.mp4", "sep=;")],
    sign=";",
    end="\r",
    quoting=csv.QUOTE_ALL,
    encoding="utf-16",
    layout="sep",
)
def test_whatever_programs_write_is_read_back(
    pairs: Pairs,
    sign: str,
    end: str,
    quoting: int,
    encoding: str,
    layout: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pairs = [(video, _one_line(text, end)) for video, text in pairs]
    table: list[list[str]] = [["video", "caption"], *map(list, pairs)]
    if layout == "index":
        table = [[str(i - 1) if i else "", *row] for i, row in enumerate(table)]
    if layout == "wide":
        table = [[*row, "", ""] for row in [*table, ["", ""]]]
    text = io.StringIO(newline="")
    text.write(f"sep={sign}{end}" if layout == "sep" else "")
    csv.writer(text, delimiter=sign, lineterminator=end, quoting=quoting).writerows(table)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("csv") / "my.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    rows, said = read_rows(path)
    assert [(row.video, row.caption) for row in rows] == [(v, c.strip()) for v, c in pairs]
    assert any("parted by" in line for line in said) is (sign != ",")


@settings(max_examples=40)
@given(
    pairs=st.lists(st.tuples(_NAME, _TEXT), min_size=1, max_size=6),
    how=st.fixed_dictionaries(
        {
            "index": st.booleans(),
            "sep": st.sampled_from(",;\t"),
            "encoding": st.sampled_from(_ENCODINGS),
            "lineterminator": st.sampled_from(["\n", "\r\n"]),
        }
    ),
)
def test_whatever_pandas_writes_is_read_back(
    pairs: Pairs, how: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("csv") / "my.csv"
    pairs = [(video, _one_line(text, str(how["lineterminator"]))) for video, text in pairs]
    pandas.DataFrame(pairs, columns=["video", "caption"]).to_csv(path, **how)
    rows, _ = read_rows(path)
    assert [(row.video, row.caption) for row in rows] == [(v, c.strip()) for v, c in pairs]


_PIECES = st.sampled_from(
    [
        b"video",
        b"caption",
        b"start",
        b"split",
        b"sep=",
        b"a.mp4",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"|",
        b"\r",
        b"\n",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xe9",
        b"1:02",
        b"1,5",
        b"train",
        b" ",
    ],
)


@given(content=st.one_of(st.binary(max_size=200), st.lists(_PIECES, max_size=40).map(b"".join)))
@example(content=b"video,caption\n" + b'"' * 99)
@example(content=b"\xff\xfe")
@example(content=b"sep=;\n")
def test_hostile_bytes_are_rows_or_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "my.csv"
    path.write_bytes(content)
    try:
        rows, said = read_rows(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert rows and all(isinstance(row, Row) and row.video and row.caption for row in rows)
        assert all("\n" not in line for line in said)
