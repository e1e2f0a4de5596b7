"""Pickle files from strangers: plain values come out whole, and nothing else ever happens."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

from tvr_bench.errors import UserError
from tvr_bench.safe_pickle import load_plain

KINDS = (dict, list, str)
Payload = tuple[bytes | Callable[[], bytes], str]  # what is in a file, and what its error says
PLAIN = {f"clip{i}_1_{i}": [["a", "dog", "läuft", "🐕"], ["it", f"barks{i}"]] for i in range(300)}


def _text(data: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(data)) + data


def _frame(length: int, data: bytes) -> bytes:
    return b"\x80\x04\x95" + struct.pack("<Q", length) + data


def _dumped(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class _Elsewhere(pickle.Pickler):
    """Pickles some strings as things that lie outside."""

    def persistent_id(self, value: Any) -> Any:
        return "outside" if value == "lost" else None


def _persistent(protocol: int) -> bytes:
    file = io.BytesIO()
    _Elsewhere(file, protocol).dump(["lost"])
    return file.getvalue()


def _laughs(step: bytes, levels: int = 30) -> bytes:
    """Return lists that each hold the one before ten times: 10 ** levels values in a short file."""
    body = b"\x80\x02]" + _text(b"ha") + b"a" + b"q\x00"
    for _ in range(levels):
        body += step
    return body + b"."


def _ascii() -> bytes:
    return _text(b"a" * 999_000)


def _emoji() -> bytes:
    """Return a text that takes four times its bytes, because of one character."""
    return _text("🐕".encode() + b"a" * 999_000)


def _payloads(canary: Path) -> dict[str, Payload]:
    return _calls(canary) | _bombs() | _broken()


def _calls(canary: Path) -> dict[str, Payload]:
    """Return payloads that would make the file `canary`."""
    touch = f"touch {canary}"
    command = touch.encode()
    call = _Call(os.system, touch)
    code = f"open({str(canary)!r}, 'w').close()"
    refused = "is no plain value"
    return {
        **{f"os.system, protocol {p}": (_dumped(call, p), refused) for p in range(6)},
        "eval": (_dumped(_Call(eval, code)), "GLOBAL"),
        "exec of a builtin": (_dumped(_Call(exec, code), 4), "STACK_GLOBAL"),
        "subprocess": (_dumped(_Call(subprocess.call, ["touch", str(canary)])), "GLOBAL"),
        "inside of captions": (_dumped({"a": [["dog"], [call]]}), "GLOBAL"),
        "as a key": (_dumped([{"a": ["b"]}, {call: 1}]), "GLOBAL"),
        "after a thousand captions": (_dumped([["dog"]] * 1000 + [call]), "GLOBAL"),
        "INST": (b"(S'" + command + b"'\nios\nsystem\n.", "INST"),
        "OBJ": (b"(cos\nsystem\nS'" + command + b"'\no.", "GLOBAL"),
        "REDUCE alone": (b"\x80\x02]]R.", "REDUCE"),
        "NEWOBJ alone": (b"\x80\x02]]\x81.", "NEWOBJ"),
        "NEWOBJ_EX alone": (b"\x80\x04]]}\x92.", "NEWOBJ_EX"),
        "OBJ alone": (b"(]o.", "OBJ"),
        "BUILD alone": (b"\x80\x02}}b.", "BUILD"),
        "a name that is not called": (b"cos\nsystem\n.", "GLOBAL"),
        "a name from the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
        "EXT2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
        "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        "PERSID": (_persistent(0), "PERSID"),
        "BINPERSID": (_persistent(2), "is no plain value"),
        "out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    }


def _bombs() -> dict[str, Payload]:
    """Return payloads that would take memory or time without end."""
    return {
        "memo of 4 billion": (b"\x80\x02]r\xff\xff\xff\xff.", "skips numbers"),
        "memo of 60 million": (b"\x80\x02]r\x00\x87\x93\x03.", "skips numbers"),
        "memo of 10 ** 12, text": (b"]p1000000000000\n.", "skips numbers"),
        "1 GB declared": (b"\x80\x02X\x00\x00\x00\x40abc.", "a text of 1,073,741,824 bytes"),
        "2 ** 62 declared": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.", "a text of"),
        "1 GB declared, bytes": (b"\x80\x02T\x00\x00\x00\x40abc.", "a text of"),
        "less than nothing declared": (b"\x80\x02T\xff\xff\xff\xffabc.", "no readable pickle"),
        "number of 1 GB": (b"\x80\x02\x8b\x00\x00\x00\x40abc.", "a text of"),
        "number of 60,000 digits": (b"L" + b"9" * 60_000 + b"L\n.", "no readable pickle"),
        "text of 60 MB": (
            lambda: b"\x80\x02" + _text(b"a" * 60_000_000) + b".",
            "a text of 60,000,000",
        ),
        "line of 60 MB": (lambda: b"V" + b"a" * 60_000_000 + b"\n.", "a line of more than"),
        "texts that grow fourfold": (lambda: b"\x80\x02(" + _emoji() * 60 + b"l.", "MB of memory"),
        "60 texts of 1 MB": (lambda: b"\x80\x02(" + _ascii() * 60 + b"l.", "8,000,000 values"),
        "as much as may be": (
            lambda: b"\x80\x02(" + _emoji() * 24 + b"l." + b"a" * 40_000_000,
            "8,000,000 values",
        ),
        "4 million lists": (b"\x80\x02(" + b"]" * 4_000_000 + b"l.", "MB of memory"),
        "4 million dicts": (b"\x80\x02(" + b"}" * 4_000_000 + b"l.", "MB of memory"),
        "billion laughs": (_laughs(b"](" + b"h\x00" * 10 + b"eq\x00"), "8 deep|skips"),
        "one text 100 times": (
            b"\x80\x02](" + _text(b"a" * 900_000) + b"q\x00" + b"h\x00" * 99 + b"e.",
            "more than 8,000,000 values",
        ),
        "wide laughs": (
            b"\x80\x02](" + _text(b"a" * 99) * 2000 + b"eq\x00"
            b"](" + b"h\x00" * 2000 + b"eq\x01](" + b"h\x01" * 2000 + b"e.",
            "more than 8,000,000 values",
        ),
        "100,000 deep": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "8 deep"),
        "a list in itself": (b"\x80\x02]q\x00h\x00a.", "8 deep"),
        "a dict in itself": (b"\x80\x02}q\x00" + _text(b"a") + b"h\x00s.", "8 deep"),
        "frame of 2 ** 60": (_frame(2**60, b"]."), "before its last frame"),
        "frame of 5 MB": (_frame(5_000_000, b"]" * 5_000_000 + b"."), "a frame of 5,000,000"),
        "nested tuples": (b"\x80\x02)" + b"\x85" * 1_000_000 + b".", "EMPTY_TUPLE"),
        "65 MB": (lambda: b"\x80\x02]" + b"0" * (65 * 2**20), "larger than 64 MB"),
    }


def _broken() -> dict[str, Payload]:
    """Return files of other kinds, and ones that are cut or changed."""
    whole = _dumped(PLAIN, 4)
    unreadable = "no readable pickle"
    return {
        "empty": (b"", unreadable),
        "nothing on the stack": (b".", unreadable),
        "no end": (b"\x80\x02]", unreadable),
        "half": (whole[: len(whole) // 2], "no readable pickle|before its last frame"),
        "the end is lost": (_dumped(PLAIN, 2)[:-1], unreadable),
        "garbage": (bytes(range(255, 0, -1)) * 9, unreadable),
        "JSON": (json.dumps(PLAIN).encode(), "refused|no readable pickle"),
        "a web page": (b"<!DOCTYPE html><html>404 Not Found</html>", unreadable),
        "gzip": (b"\x1f\x8b\x08\x00" + b"a" * 100, unreadable),
        "zip": (b"PK\x03\x04" + b"a" * 100, "refused|no readable pickle"),
        "protocol 9": (b"\x80\x09].", unreadable),
        "never put in the memo": (b"\x80\x02]h\x07a.", unreadable),
        "a list as a key": (b"\x80\x02}]]s.", unreadable),
        "append to a text": (b"\x80\x02" + _text(b"a") + b"]a.", unreadable),
        "item of a list": (b"\x80\x02]" + _text(b"a") * 2 + b"s.", unreadable),
        "half a character": (b"\x80\x02" + _text(b"\xed\xa0\x80") + b".", unreadable),
        "no UTF-8": (b"\x80\x02" + _text(b"\xff\xfe") + b".", unreadable),
        "tuple": (_dumped([("a", "b")]), "TUPLE2"),
        "set": (_dumped([{"a"}], 4), "EMPTY_SET"),
        "bytes": (_dumped([b"a"], 4), "SHORT_BINBYTES"),
        "float": (_dumped([0.5]), "BINFLOAT"),
        "bool": (_dumped([True]), "NEWTRUE"),
        "number": (_dumped({"a": 1}), r"BININT1.*plain values \(dict, list, str\)"),
        "nothing": (_dumped({"a": None}), "NONE"),
    }


CHILD = """
import json, sys
from pathlib import Path
from tvr_bench.errors import UserError
from tvr_bench.safe_pickle import load_plain

seen = []
BAD = ("os.", "subprocess.", "exec", "compile", "pickle.find_class", "socket.", "shutil.", "ctypes")
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(BAD) else None)
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    seen.clear()
    try:
        found[path.name] = f"loaded {str(load_plain(path, (dict, list, str)))[:100]}"
    except UserError as error:
        found[path.name] = str(error)
    found[path.name + " did"] = list(seen)
status = Path("/proc/self/status").read_text()  # getrusage has the parent's peak in it
found["peak"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps(found))
"""
EXPECTED = {name: expected for name, (_, expected) in _payloads(Path("canary")).items()}
NAMES = list(EXPECTED)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process of its own made of every file: its error, and what it did."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    payloads = _payloads(canary)
    (folder / "files").mkdir()
    for i, name in enumerate(NAMES):
        content = payloads[name][0]
        content = content if isinstance(content, bytes) else content()
        (folder / "files" / str(i)).write_bytes(content)
    child = [sys.executable, "-c", CHILD, str(folder / "files")]
    found = json.loads(subprocess.run(child, check=True, capture_output=True).stdout)
    for i in range(len(NAMES)):
        (folder / "files" / str(i)).unlink()
    return {
        "canary": canary.exists(),
        "peak": found["peak"],
        **{name: (found[str(i)], found[f"{i} did"]) for i, name in enumerate(NAMES)},
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_one_clear_error_and_does_nothing(
    name: str, opened: dict[str, Any]
) -> None:
    error, did = opened[name]
    assert re.search(EXPECTED[name], error), error
    assert not error.startswith("loaded") and error.isprintable()
    assert did == []


def test_nothing_was_run_and_memory_stayed_small(opened: dict[str, Any]) -> None:
    assert not opened["canary"]
    assert opened["peak"] < 200e6
    assert len(NAMES) >= 25


def test_the_payloads_are_real(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    calls = _calls(canary)
    for name in (
        "os.system, protocol 0",
        "eval",
        "exec of a builtin",
        "inside of captions",
        "INST",
    ):
        pickle.loads(calls[name][0])  # type: ignore[arg-type]
        assert canary.exists(), name
        canary.unlink()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_whole(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(_dumped(PLAIN, protocol))
    assert load_plain(path, KINDS) == PLAIN
    mixed = {"a": None, "b": [1, -7, 2**40, -(2**62), ""], "": {"c": 0}}
    path.write_bytes(_dumped(mixed, protocol))
    assert load_plain(path, (dict, list, str, int, NoneType)) == mixed


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(b"(dp0\nS'clip'\np1\n(lp2\n(lp3\nS'a'\np4\naVd\\u00f6g\np5\nag4\naas.")
    assert load_plain(path, KINDS) == {"clip": [["a", "dög", "a"]]}
    path.write_bytes(b"\x80\x02]q\x01(U\x01aq\x02T\x02\x00\x00\x00\xc3\xb6q\x03e.")
    assert load_plain(path, KINDS) == ["a", "ö"]


def test_a_long_caption_and_many_of_them(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    value = {"clip": ["dog " * 2500, *(f"caption {i}" for i in range(20_000))]}
    path.write_bytes(_dumped(value, 4))
    assert load_plain(path, KINDS) == value


def test_true_is_no_number_in_old_protocols(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(_dumped([True], 0))
    with pytest.raises(UserError, match="it holds a bool"):
        load_plain(path, (list, int))


def test_numbers_of_more_than_64_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.pkl"
    for number in (2**63, -(2**64), 1 << 3000):
        for protocol in (0, 2):
            path.write_bytes(_dumped({"clip": number}, protocol))
            with pytest.raises(UserError, match="more than 64 bits"):
                load_plain(path, (dict, str, int))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none.pkl", tmp_path / "pipe"):
        with pytest.raises(UserError, match="is no file"):
            load_plain(path, KINDS)


def test_the_message_names_the_file_and_is_one_printable_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    for payload in (b"cos\nsystem\n.", b"I\x1b[31m\x07\n.", b"\x80\x02]\nx"):
        path.write_bytes(payload)
        with pytest.raises(UserError) as error:
            load_plain(path, KINDS)
        assert str(path) in str(error.value) and str(error.value).isprintable()
        assert len(str(error.value)) < len(str(path)) + 250


def test_only_plain_types_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        load_plain(tmp_path / "none.pkl", (dict, tuple))
