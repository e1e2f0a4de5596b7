"""Tables as Excel, pandas and others write them: read where unmistakable, said, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_bench.datamodules.csv_rows import read_rows
from tvr_bench.errors import UserError

Write = Callable[[str | bytes], Path]
Pairs = list[tuple[str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a CSV file and return its path."""

    def make(content: str | bytes) -> Path:
        path = tmp_path / "my.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


DOG, CAT = ("a.mp4", "a dog"), ("b.mp4", "a cat")
READ: dict[str, tuple[str | bytes, Pairs, list[str]]] = {
    "empty columns at the end": (
        "video,caption,,\r\na.mp4,a dog,,\r\nb.mp4,a cat,,\r\n",
        [DOG, CAT],
        [],
    ),
    "blank rows at the end": ("video,caption\na.mp4,a dog\n,\n , \n\n", [DOG], []),
    "cells over the header that are empty": ("video,caption\na.mp4,a dog,,\n", [DOG], []),
    "pandas' index": (
        ",video,caption\n0,a.mp4,a dog\n1,b.mp4,a cat\n",
        [DOG, CAT],
        ["left out: the first column, which has no name"],
    ),
    "more columns": (
        "video,caption,duration\na.mp4,a dog,3.2\n",
        [DOG],
        ["left out: the column 'duration'"],
    ),
    "index and more columns": (
        "Unnamed: 0,video,caption,fps\n0,a.mp4,a dog,25\n",
        [DOG],
        ["left out: the columns 'Unnamed: 0', 'fps'"],
    ),
    "tabs": ("video\tcaption\na.mp4\ta dog\n", [DOG], ["its columns are parted by tabs"]),
    "semicolons": (
        "video;caption\na.mp4;a dog, wet\n",
        [("a.mp4", "a dog, wet")],
        ["its columns are parted by semicolons"],
    ),
    "bars": ("video|caption\na.mp4|a dog\n", [DOG], ["its columns are parted by bars"]),
    "Excel's sep line": ("sep=,\r\nvideo,caption\r\na.mp4,a dog\r\n", [DOG], []),
    "Excel's sep line with semicolons": (
        "\ufeffsep=;\r\nvideo;caption\r\na.mp4;a dog\r\n",
        [DOG],
        ["its columns are parted by semicolons"],
    ),
    "UTF-16": (
        "video,caption\na.mp4,a dög\n".encode("utf-16"),
        [("a.mp4", "a dög")],
        ["read as UTF-16"],
    ),
    "Excel's Unicode text": (
        b"\xfe\xff" + "video\tcaption\r\na.mp4\ta dog\r\n".encode("utf-16-be"),
        [DOG],
        ["read as UTF-16", "its columns are parted by tabs"],
    ),
    "UTF-32": ("video,caption\na.mp4,a dog\n".encode("utf-32"), [DOG], ["read as UTF-32"]),
    "other names": (
        "File_Name,Sentence\na.mp4,a dog\n",
        [DOG],
        ["the column 'file name' is read as 'video'", "the column 'sentence' is read as 'caption'"],
    ),
    "text beside a caption": (
        "video,caption,text\na.mp4,a dog,EXIT\n",
        [DOG],
        ["left out: the column 'text'"],
    ),
    "two files joined": (
        b'\xef\xbb\xbfvideo,caption\na.mp4,a dog\n\xef\xbb\xbf"video","caption"\nb.mp4,a cat\n',
        [DOG, CAT],
        ["left out: the header again, in line 3"],
    ),
    "rows twice": (
        "video,caption\na.mp4,a dog\nb.mp4,a cat\n./a.mp4,a dog\n",
        [DOG, CAT, DOG],
        [
            "1 rows repeat another one, such as line 4, which is line 2 again; each counts as a "
            "query"
        ],
    ),
    "an invisible sign in a caption": (
        "video,caption\na.mp4,a\u200b dog\n",
        [("a.mp4", "a\u200b dog")],
        [
            "1 captions have invisible characters, which are kept, such as U+200B ZERO WIDTH SPACE "
            "in line 2"
        ],
    ),
    "signs that scripts and emoji are made with": (
        "video,caption\na.mp4,\u0645\u06cc\u200c\u062e 🐕\u200d🦺\n",
        [("a.mp4", "\u0645\u06cc\u200c\u062e 🐕\u200d🦺")],
        [],
    ),
    "140,000 characters": (
        f"video,caption\na.mp4,{'x' * 140_000}\n",
        [("a.mp4", "x" * 140_000)],
        [],
    ),
    "quotes, line ends and blanks": (
        'video,caption\r\n"a.mp4","a ""big"" dog\r\nruns"\r\n\r\nb.mp4,a cat',
        [("a.mp4", 'a "big" dog\r\nruns'), CAT],
        [],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_unmistakable_is_read_and_said(name: str, write: Write) -> None:
    content, pairs, notes = READ[name]
    rows, said = read_rows(write(content))
    assert [(row.video, row.caption) for row in rows] == pairs
    assert said == [f"my.csv: {note}" for note in notes]


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a NUL": ("video,caption\na.mp4,a\0dog\n", "has a NUL character in line 2"),
    "Latin-1": (
        "video,caption\na.mp4,a dog\nb.mp4,un café\n".encode("latin-1"),
        r"not UTF-8 \(byte 38\): if it is Windows-1252.*line 3 has '\\xe9' "
        r"\(U\+00E9 LATIN SMALL LETTER E WITH ACUTE\).*'CSV UTF-8' in Excel",
    ),
    "curly quotes of Windows": (
        "video,caption\ra.mp4,“a dog”\r".encode("cp1252"),
        r"line 2 has '\\u201c' \(U\+201C LEFT DOUBLE QUOTATION MARK\)",
    ),
    "no encoding at all": (b"video,caption\na.mp4,\x81\n", "line 2 has the byte 0x81"),
    "half of a UTF-16 file": (
        b"\xff\xfev\0i\0d",
        "begins as UTF-16 does, but is not UTF-16 at byte 6",
    ),
    "an Excel workbook": (
        b"PK\x03\x04\x14\0\0",
        "is an Excel workbook or another ZIP file, not text",
    ),
    "a cell of a million": (
        f"video,caption\na.mp4,{'x' * 1_000_001}\n",
        "a cell of more than 1,000,000 characters.*begins at line 2",
    ),
    "a quote that is not closed": (
        'video,caption\na.mp4,a dog\nb.mp4,"a\ncat\n',
        "unexpected end of data in the row that begins at line 3",
    ),
    "a caption without quotes": (
        "video,caption,\na.mp4,a dog, wet\n",
        "line 2 has 'wet' in a column without a name; put quotes around a text with commas",
    ),
    "seconds in frames": (
        "video,caption,start_frame\na.mp4,a dog,3\n",
        r"column 'start_frame'\. Did you mean 'start'.*in seconds.*rename it",
    ),
    "two names for one": (
        "path,file,caption\na.mp4,a.mp4,a dog\n",
        "no column 'video' but 'path' and 'file'; call one of them 'video'",
    ),
    "split": (
        "video,caption,split\na.mp4,a dog,trian\n",
        "line 2 has split 'trian'. Did you mean 'train'",
    ),
    "a line of sep= that is wrong": (
        "sep=;\nvideo,caption\na.mp4,a dog\n",
        "no column 'video'.*'video,caption'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_by_line_and_character(name: str, write: Write) -> None:
    content, expected = REFUSED[name]
    with pytest.raises(UserError, match=expected) as error:
        read_rows(write(content))
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("Training", "train"),
        ("TRAIN", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("Val", "val"),
        ("testing", "test"),
        ("test ", "test"),
    ],
)
def test_splits_by_the_names_that_everybody_knows(split: str, name: str, write: Write) -> None:
    (row,), said = read_rows(write(f"video,caption,split\na.mp4,x,{split}\n"))
    assert row.split == name and said == []


CLOCK = "my.csv: start and end are read as h:mm:ss, or mm:ss where there is one colon"
COMMA = "my.csv: a comma in start and end is read as the point of a decimal number"
SEMI = "my.csv: its columns are parted by semicolons"


@pytest.mark.parametrize(
    ("cells", "span", "said"),
    [
        ("00:00:03,00:00:05", (3, 5), [CLOCK]),
        ("0:03,75:00.25", (3, 4500.25), [CLOCK]),
        ("1:02:03.5,", (3723.5, None), [CLOCK]),
        ("0 days 00:00:03,0 days 00:00:05.500000", (3, 5.5), [CLOCK]),
        ('"00:00:03,250",5', (3.25, 5), [CLOCK]),
        ("1,5;2,25", (1.5, 2.25), [SEMI, COMMA]),
        (",5;1;", (0.5, 1), [SEMI, COMMA]),
        ("0,125;1.5", (0.125, 1.5), [SEMI, COMMA]),
    ],
)
def test_times_as_people_write_them(
    cells: str, span: tuple[float, float | None], said: list[str], write: Write
) -> None:
    sign = ";" if ";" in cells else ","
    (row,), found = read_rows(
        write(
            f"video,caption,start,end\na.mp4,x,{cells}\n".replace(",", sign, 3).replace(
                "a.mp4,x,", f"a.mp4{sign}x{sign}"
            )
        )
    )
    assert (row.start, row.end) == span and found == said


@pytest.mark.parametrize("cells", ["1,500;2000", "1,5,5;9", "1:5;9", "00:00:61;99", "1:02:03:04;"])
def test_a_time_that_could_be_two_is_refused(cells: str, write: Write) -> None:
    with pytest.raises(UserError, match=r"line 2 has start '.*'; write seconds"):
        read_rows(write(f"video;caption;start;end\na.mp4;x;{cells}\n"))
