"""EasyOCR's weight files: found, named where missing, and opened only where they are the known."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvr_bench.errors import UserError
from tvr_bench.media import ocr_easy
from tvr_bench.media.ocr import create_engine, engine_version

NAMES = ("craft_mlt_25k.pth", "english_g2.pth")


def test_the_published_files_are_those_of_the_installed_library() -> None:
    from easyocr import config

    models = (config.detection_models["craft"], config.recognition_models["gen2"]["english_g2"])
    for (name, url, sha256), model in zip(ocr_easy.WEIGHTS, models, strict=True):
        assert (name, url) == (model["filename"], model["url"])
        assert len(bytes.fromhex(sha256)) == 32


def test_without_weights_the_error_says_what_to_download_and_where_to(tmp_path: Path) -> None:
    for ask in (create_engine, engine_version):
        with pytest.raises(UserError) as error:
            ask("easyocr", weights=str(tmp_path))
        message = str(error.value)
        assert "\n" not in message
        for part in (*NAMES, "craft_mlt_25k.zip", "english_g2.zip", str(tmp_path), "ocr.weights"):
            assert part in message
        assert "ocr.engine=rapidocr" in message


def test_only_the_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).write_bytes(b"x")
    (tmp_path / NAMES[1]).mkdir()
    with pytest.raises(UserError, match=NAMES[1]) as error:
        create_engine("easyocr", weights=str(tmp_path))
    assert NAMES[0] not in str(error.value)


@pytest.mark.parametrize("variable", ["EASYOCR_MODULE_PATH", "MODULE_PATH"])
def test_it_looks_where_the_library_does(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EASYOCR_MODULE_PATH", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path / "model")):
        create_engine("easyocr")


def test_without_its_package_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr_easy, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install easyocr"):
        create_engine("easyocr", weights=str(tmp_path))


class _Trap:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_an_unknown_pickle_is_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    for name in NAMES:
        (tmp_path / name).write_bytes(pickle.dumps(_Trap(mark)))
    with pytest.raises(UserError, match="is not opened"):
        create_engine("easyocr", weights=str(tmp_path))
    assert not mark.exists()
    pickle.loads((tmp_path / NAMES[0]).read_bytes())
    assert mark.exists()  # so the trap would have shown it


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "one bit": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "an error page": lambda _: b"<!DOCTYPE html><title>404</title>",
    "the zip around it": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_not_opened(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr_easy, "_open", lambda *_: pytest.fail("it was opened"))
    content = {n: bytes(range(256)) + n.encode() for n in NAMES}
    known = [(n, url, hashlib.sha256(content[n]).hexdigest()) for n, url, _ in ocr_easy.WEIGHTS]
    monkeypatch.setattr(ocr_easy, "WEIGHTS", tuple(known))
    content[name] = DAMAGE[damage](content[name])
    for n in NAMES:
        (tmp_path / n).write_bytes(content[n])
    with pytest.raises(UserError, match="is not opened") as error:
        create_engine("easyocr", weights=str(tmp_path))
    message = str(error.value)
    assert str(tmp_path / name) in message and "https://" in message and "\n" not in message


def test_a_file_with_the_right_md5_alone_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyocr import config

    monkeypatch.setattr(ocr_easy, "_open", lambda *_: pytest.fail("it was opened"))
    models = (config.detection_models["craft"], config.recognition_models["gen2"]["english_g2"])
    for name, model in zip(NAMES, models, strict=True):
        (tmp_path / name).write_bytes(name.encode())
        monkeypatch.setitem(model, "md5sum", hashlib.md5(name.encode()).hexdigest())
    with pytest.raises(UserError, match="is not opened"):
        create_engine("easyocr", weights=str(tmp_path))


@pytest.mark.parametrize(
    ("named", "place", "left"),
    [(None, None, None), (None, 2, "2"), ("4,7", 1, "7"), ("4,7", None, "4,7"), ("", 1, "")],
)
def test_a_worker_sees_one_card(
    named: str | None, place: int | None, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    ocr_easy._take_one_card(place)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
