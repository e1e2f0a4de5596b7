"""Galleries in folders and as FAISS indexes: damage, strangers' files, and what comes back."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tvr_bench import contents
from tvr_bench.errors import UserError
from tvr_bench.evaluation.faiss_index import read_faiss, recall_of, write_faiss
from tvr_bench.evaluation.gallery_files import HEADER_FILE, TENSORS_FILE, read_header
from tvr_bench.evaluation.search import Gallery, require_exact
from tvr_bench.files import file_sha256, settings_hash


@pytest.fixture
def gallery() -> Gallery:
    vectors = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    return Gallery.build(vectors, [f"clip-{i}" for i in range(300)])


@pytest.fixture
def folder(gallery: Gallery, tmp_path: Path) -> Path:
    gallery.save(tmp_path / "gallery")
    return tmp_path / "gallery"


def _header(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = json.loads((folder / HEADER_FILE).read_text())
        change(found)
        (folder / HEADER_FILE).write_text(json.dumps(found))

    return damage


def _tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the tensors of a folder, and let its header say that this is what was written."""

    def damage(folder: Path) -> None:
        path = folder / TENSORS_FILE
        found = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(found)
        save_file(found, path)
        _header(lambda header: header.update(sha256=file_sha256(path)))(folder)

    return damage


def _cut(folder: Path) -> None:
    data = (folder / TENSORS_FILE).read_bytes()
    (folder / TENSORS_FILE).write_bytes(data[: len(data) // 2])
    new = file_sha256(folder / TENSORS_FILE)
    _header(lambda header: header.update(sha256=new))(folder)


def _flip(folder: Path) -> None:
    data = bytearray((folder / TENSORS_FILE).read_bytes())
    data[-9] ^= 1
    (folder / TENSORS_FILE).write_bytes(data)


def _one_id_less(header: dict) -> None:
    header["ids"].pop()
    header["ids_sha256"] = settings_hash(header["ids"], 64)


def _zeros(folder: Path) -> None:
    """Put zeros into the middle of the vectors, and leave time and size as they were."""
    path, was = folder / TENSORS_FILE, (folder / TENSORS_FILE).stat()
    with open(path, "r+b") as file:
        file.seek(was.st_size // 2)
        file.write(bytes(64))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no tensors": lambda folder: (folder / TENSORS_FILE).unlink(),
    "no header": lambda folder: (folder / HEADER_FILE).unlink(),
    "cut tensors": _cut,
    "one bit": _flip,
    "zeros inside": _zeros,
    "another id": _header(lambda header: header["ids"].__setitem__(7, "clip-8x")),
    "empty tensors": lambda folder: (folder / TENSORS_FILE).write_bytes(b""),
    "cut header": lambda folder: (folder / HEADER_FILE).write_text('{"format": "tvr'),
    "bytes": lambda folder: (folder / HEADER_FILE).write_bytes(b"\xff\xfe\x00"),
    "deep": lambda folder: (folder / HEADER_FILE).write_text("[" * 100_000),
    "a list": lambda folder: (folder / HEADER_FILE).write_text("[]"),
    "a stranger's": _header(lambda header: header.update(format="other")),
    "a later one": _header(lambda header: header.update(version=3)),
    "no ids": _header(lambda header: header.pop("ids")),
    "an id less": _header(_one_id_less),
    "another shape": _header(lambda header: header.update(shape=[300, 23])),
    "no norms of items": _tensors(lambda found: found.pop("norm")),
    "one more tensor": _tensors(lambda found: found.update(more=torch.zeros(1))),
    "another type": _tensors(lambda found: found.update(vectors=found["vectors"].double())),
    "fewer values": _tensors(lambda found: found.update(values=found["values"][1:].clone())),
    "odd beyond": _tensors(lambda found: found.update(odd=torch.tensor([300]))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(UserError) as raised:
        Gallery.open(folder)
    assert "\n" not in str(raised.value)


def test_an_open_gallery_reads_from_its_file(folder: Path, gallery: Gallery) -> None:
    assert read_header(folder).shape == (300, 24)
    again = Gallery.open(folder)
    queries = torch.randn(5, 24)
    for mine, its in zip(again.positions(queries, 7), gallery.positions(queries, 7), strict=True):
        assert torch.equal(mine, its)


def test_damage_is_found_however_often_the_gallery_was_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, read, hashed = time.time_ns, contents._read, []
    monkeypatch.setattr(contents.time, "time_ns", lambda: now() + 2 * contents._SETTLED_NS)
    monkeypatch.setattr(contents, "_read", lambda path: hashed.append(path) or read(path))
    Gallery.open(folder)
    Gallery.open(folder)
    assert len(hashed) == 1
    _zeros(folder)
    with pytest.raises(UserError, match="not what was written"):
        Gallery.open(folder)


def test_nothing_stays_of_a_gallery_that_cannot_be_written(
    gallery: Gallery, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        gallery.save(tmp_path / "file" / "gallery")
    with pytest.raises(UserError, match="there already"):
        gallery.save(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_flat_index_comes_back_as_the_same_gallery(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs the extra 'search'")
    side = write_faiss(gallery, tmp_path / "flat.faiss", "flat", torch.randn(50, 24), 10)
    assert (side.recall, side.k, side.queries) == (1.0, 10, 50)
    again = read_faiss(tmp_path / "flat.faiss")
    require_exact(again)
    queries = torch.randn(8, 24)
    assert list(again.ids) == list(gallery.ids)
    for mine, its in zip(again.positions(queries, 9), gallery.positions(queries, 9), strict=True):
        assert torch.equal(mine, its)


def test_a_graph_says_what_it_misses_and_is_refused(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="needs the extra 'search'")
    faiss.omp_set_num_threads(1)
    gallery = Gallery.build(torch.randn(1500, 16, generator=torch.Generator().manual_seed(1)))
    queries = torch.randn(60, 16, generator=torch.Generator().manual_seed(2))
    side = write_faiss(gallery, tmp_path / "graph.faiss", "hnsw", queries, 10)
    again = read_faiss(tmp_path / "graph.faiss")
    assert not again.exact and 0.3 < side.recall <= 1.0
    assert side.recall == pytest.approx(recall_of(again, gallery, queries, 10))
    scores, found = again.positions(queries, 10)
    assert scores.shape == found.shape == (60, 10) and found.dtype == torch.int64
    assert again.positions(queries, 5000)[1].shape == (60, 1500)
    with pytest.raises(UserError, match="exact search"):
        require_exact(again)
    for wrong, k in ((queries[:, :5], 3), (queries[0], 3), (queries, 0)):
        with pytest.raises(UserError):
            again.positions(wrong, k)


def test_recall_counts_what_was_missed(gallery: Gallery) -> None:
    class HalfBlind:
        exact, ids = False, gallery.ids

        def positions(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
            scores, found = gallery.positions(queries, k)
            return scores, found.index_fill(1, torch.arange(0, k, 2), -1)

    assert recall_of(HalfBlind(), gallery, torch.randn(9, 24), 8) == 0.5


def test_wrong_indexes_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="needs the extra 'search'")
    with pytest.raises(UserError, match="unknown"):
        write_faiss(gallery, tmp_path / "x", "ivf")
    strange = Gallery.build(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), ["a", "b"])
    with pytest.raises(UserError, match="the first is b"):
        write_faiss(strange, tmp_path / "x")
    path = tmp_path / "flat.faiss"
    with pytest.raises(UserError, match="cannot be read"):
        read_faiss(path)
    write_faiss(gallery, path)
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(UserError, match="not what was written"):
        read_faiss(path)
    path.write_bytes(data)
    faiss.write_index(faiss.IndexFlatL2(24), str(path))
    side = json.loads(path.with_name("flat.faiss.json").read_text())
    side["sha256"] = file_sha256(path)
    path.with_name("flat.faiss.json").write_text(json.dumps(side))
    with pytest.raises(UserError, match="dot products"):
        read_faiss(path)


def test_without_faiss_it_is_said_how_to_get_it(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (lambda: write_faiss(gallery, tmp_path / "x"), lambda: read_faiss(tmp_path / "x")):
        with pytest.raises(UserError, match="pip install faiss-cpu"):
            call()
