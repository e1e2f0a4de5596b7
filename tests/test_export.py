"""Models out of a run and back again, bit for bit; and folders of strangers that do nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

import tvr_bench
from models.layers.cait_files import save_bert, save_cait
from models.layers.openai_files import SIDE as CLIP_SIDE
from models.layers.openai_files import WORDS as CLIP_WORDS
from models.layers.openai_files import random_state, save_archive
from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config, published
from tvr_bench.bench import bench
from tvr_bench.card import write_card
from tvr_bench.cli import main
from tvr_bench.datamodules.tokens import save_tokenizer, train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.export import CARD_FILE, export_model
from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_record
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.models.layers.clip import ENDS
from tvr_bench.models.layers.hub import CAIT_BERT
from tvr_bench.published import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model
from tvr_bench.runs import evaluate, load_run

SETTINGS = [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID]
TOWERS = {"clip": ["clip"], "cait_bert": list(CAIT_BERT)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


def _bench(root: Path, cache: Path, name: str, *settings: str) -> Path:
    places = [f"run.root={root / 'runs'}", f"run.leaderboard={root}", f"paths.cache={cache}"]
    bench(config.load([*SETTINGS, *places, f"run.name={name}", *settings]), command="secret /home")
    return root / "runs" / name


@pytest.fixture(scope="module")
def run(root: Path, shared_cache: Path) -> Path:
    """The folder of a finished run."""
    return _bench(root, shared_cache, "tcard", "model=tcard", "model.heads=2")


@pytest.fixture(scope="module")
def exported(run: Path, root: Path) -> Path:
    """What is made of it."""
    export_model(run, root / "exported", "apache-2.0")
    return root / "exported"


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def _places(cache: Path) -> dict[str, Any]:
    here = {"trainer.accelerator": "cpu", "trainer.prepare_workers": 0, "trainer.threads": 1}
    return {"paths.cache": cache, **here}


def test_the_metrics_are_those_of_the_record(run: Path, exported: Path, shared_cache: Path) -> None:
    model = tvr_bench.load_model(exported, **_places(shared_cache))
    assert not model.training
    assert metrics_of(evaluate(model, "signvid")) == load_record(run).metrics
    before, after = load_run(run).state_dict(), model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_every_score_is_the_same_to_the_last_bit(
    run: Path, exported: Path, shared_cache: Path
) -> None:
    models = load_run(run), load_model(exported, **_places(shared_cache))
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 3, 3, 32, 48), generator=generator).byte()
    ids = torch.randint(3, 300, (3, 32), generator=generator)
    batch = {"frames": frames, "frame_mask": torch.ones(3, 3).bool()}
    batch |= {"text_ids": ids, "text_mask": torch.ones(3, 32).bool()}
    batch |= {"ocr_ids": ids[:, None].expand(-1, 4, -1), "ocr_mask": torch.ones(3, 4, 32).bool()}
    with torch.no_grad():
        first, second = (m.similarity(m.encode_text(batch), m.encode_video(batch)) for m in models)
    assert torch.equal(first, second) and first.std() > 0


@pytest.mark.slow
def test_a_run_is_repeated_from_an_export(
    exported: Path, run: Path, tmp_path: Path, shared_cache: Path
) -> None:
    words = ["bench", "--config", str(exported / CONFIG_FILE), f"run.weights={exported}"]
    places = [f"run.root={tmp_path}", f"run.leaderboard={tmp_path}", f"paths.cache={shared_cache}"]
    assert main([*words, *places, "run.name=again", "trainer.accelerator=cpu"]) == 0
    record = load_record(tmp_path / "again")
    assert record.metrics == load_record(run).metrics
    assert record.run.weights_of == "exported"


@pytest.mark.slow
def test_a_published_model_leaves_the_place_of_the_data_open(
    root: Path, shared_cache: Path, tiny_video: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [f"{tiny_video(f'{i}.mp4')},a caption {i},{s}" for i, s in enumerate(["train"] * 8)]
    rows += [f"{tiny_video(f'{s}{i}.mp4')},one {i},{s}" for s in ("val", "test") for i in range(3)]
    (tmp_path / "my.csv").write_text("\n".join(["video,caption,split", *rows]))
    own = [f"data.file={tmp_path / 'my.csv'}", f"data.root={tmp_path}"]
    places = [f"run.root={tmp_path / 'r'}", f"run.leaderboard={tmp_path}", "run.name=a"]
    small = [*TINY_MODEL, *TINY_RUN, *places, f"paths.cache={shared_cache}", "model=meanpool"]
    first = bench(config.load([*small, "data=csv", *own]))
    folder = tmp_path / "published"
    export_model(tmp_path / "r" / "a", folder)
    assert str(tmp_path) not in (folder / CONFIG_FILE).read_text()
    model = load_model(folder, **_places(shared_cache), **dict(s.split("=", 1) for s in own))
    assert metrics_of(evaluate(model, "csv")) == first.metrics
    again = [s for s in small if s != "run.name=a"]
    second = bench(config.load([*again, "run.name=b", "data=csv", *own, f"run.weights={folder}"]))
    assert second.metrics == first.metrics


# ---- models whose towers came pretrained


def _clip(folder: Path) -> list[str]:
    folder.mkdir()
    tokenizer = train_tokenizer(["a dog runs to the left"], 320, CLIP_WORDS)
    begin = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([*ENDS])
    tokenizer.post_processor = type(tokenizer.post_processor)(
        single=f"{ENDS[0]} $A {ENDS[1]}",
        special_tokens=[(ENDS[0], begin), (ENDS[1], begin + 1)],
    )
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    save_archive(random_state(begin + 2), folder / "own.pt")
    return [
        *("backbone=clip_vit_b32", f"backbone.weights={folder / 'own.pt'}"),
        *(f"video.size=[{CLIP_SIDE},{CLIP_SIDE}]", f"text.words={CLIP_WORDS}"),
    ]


def _cait_bert(folder: Path) -> list[str]:
    image, text = CAIT_BERT
    save_cait(folder / image)
    save_bert(folder / text)
    places = ["backbone=cait_bert", f"backbone.weights={folder}"]
    return [*places, "video.size=[32,32]", "text.words=12"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "make"),
    [("clip", "meanpool", _clip), ("cait_bert", "cret", _cait_bert)],
)
def test_pretrained_towers_are_not_needed_again(
    kind: str,
    model: str,
    make: Callable[[Path], list[str]],
    root: Path,
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    settings = make(tmp_path / "base")
    run = _bench(root, shared_cache, kind, f"model={model}", *settings, "trainer.steps=1")
    shutil.rmtree(tmp_path / "base")
    assert metrics_of(evaluate(load_run(run), "signvid")) == load_record(run).metrics
    folder = tmp_path / "exported"
    export_model(run, folder)
    assert sorted(path.stem for path in (folder / "towers").iterdir()) == sorted(TOWERS[kind])
    loaded = load_model(folder, **_places(shared_cache))
    assert metrics_of(evaluate(loaded, "signvid")) == load_record(run).metrics
    for path in (folder / "towers").iterdir():
        _refuses_other_shapes(folder, path)


def _refuses_other_shapes(folder: Path, path: Path) -> None:
    right = path.read_text()
    shape = json.loads(right)
    inner = shape.get("text_config", shape)
    for change in (
        {"hidden_size": 10**6, "embed_dim": 10**6},
        {"num_hidden_layers": 10**6, "depth": 10**6},
        {"hidden_act": "__import__('os').system('touch canary')"},
        {"_attn_implementation": "somebody/kernels"},
        {"num_attention_heads": 0, "num_heads": 0},
        {"hidden_size": -1, "embed_dim": -1},
    ):
        inner_before = dict(inner)
        inner.update(change)
        path.write_text(json.dumps(shape))
        with pytest.raises(UserError) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
        inner.clear()
        inner.update(inner_before)
    for text in ("", "[]", "[" * 9999, '{"a": {"b": {"c": 1}}}', "{" + " " * 200_000 + "}"):
        path.write_text(text)
        with pytest.raises(UserError, match="is not the shape of a tower"):
            load_model(folder)
    path.unlink()
    with pytest.raises(UserError, match="there is no"):
        load_model(folder)
    path.write_text(right)
    load_model(folder)


# ---- the folder


def test_the_folder_has_what_a_reader_needs_and_nothing_of_the_machine(
    exported: Path, run: Path, root: Path, shared_cache: Path
) -> None:
    files = {path.name for path in exported.iterdir()}
    assert files == {CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, RECORD_FILE, CARD_FILE}
    for name in (CONFIG_FILE, RECORD_FILE, CARD_FILE):
        text = (exported / name).read_text()
        for own in (str(root), str(shared_cache), "secret"):
            assert own not in text
    assert (exported / WEIGHTS_FILE).read_bytes() == (run / WEIGHTS_FILE).read_bytes()
    assert load_record(exported).metrics == load_record(run).metrics
    assert config.load(file=exported / CONFIG_FILE).backbone.width == 16


def test_the_card_has_the_numbers_of_the_record(exported: Path, run: Path) -> None:
    card = (exported / CARD_FILE).read_text()
    record = load_record(run)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0" and "tcard" in head["tags"]
    row = next(line for line in card.splitlines() if line.startswith("| text to video |"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    for cell, metric in zip(cells, ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR"), strict=True):
        assert cell.split()[0] == f"{record.metrics.t2v[metric]:.1f}"
    low, high = (float(part.strip("\\[],")) for part in cells[0].split()[1:])
    assert low <= record.metrics.t2v["R@1"] <= high and low < high
    for text in ("apache-2.0", "model.heads=2", "load_model", "one caption per video", "16 videos"):
        assert text in card, text
    assert record.model.checkpoint_sha256 in card and "terms of their own" in card


def test_without_a_licence_the_card_says_so(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "new")]) == 0
    head = yaml.safe_load((tmp_path / "new" / CARD_FILE).read_text().split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "not-chosen")
    assert "not chosen yet" in (tmp_path / "new" / CARD_FILE).read_text()


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


_PLAIN = {"h1", "h2", "p", "ul", "li", "strong", "code", "pre"} | {
    *("table", "thead", "tbody", "tr", "th", "td"),
}


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "![x](http://e.org/x.png)",
        "a | b",
        "two\nlines\n# head",
        "`code`",
        "&lt;b&gt;",
        "license: mit\n---\n",
        "{{ 7 * 7 }} {data}",
    ],
)
def test_names_in_the_card_are_shown_letter_by_letter(
    hostile: str, run: Path, exported: Path
) -> None:
    record = json.loads((run / RECORD_FILE).read_text())
    record["model"] |= {"name": hostile, "backbone": hostile}
    record["data"] |= {"name": hostile, "variant": hostile, "failed": [hostile]}
    record["efficiency"]["device"] = hostile
    skill = next(iter(record["metrics"]["by_skill"].values()))
    record["metrics"]["by_skill"][hostile] = skill
    card = write_card(Record.model_validate_json(json.dumps(record)), run, exported, None)
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    assert " ".join(hostile.split()) in yaml.safe_load(head)["tags"]
    page = _Elements()
    page.feed(MarkdownIt("commonmark").enable("table").render(body))
    assert page.found <= _PLAIN
    assert f"{' '.join(hostile.split())} on " in page.text
    rows = [line for line in body.splitlines() if line.startswith("| text to video")]
    assert len(rows) == 1 and rows[0].count(" | ") == 6


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / RECORD_FILE).unlink(), "no record"),
        (lambda run: (run / WEIGHTS_FILE).unlink(), "no finished run"),
        (lambda run: (run / "ranks.npz").write_bytes(b"PK"), "ranks"),
        (lambda run: _double(run / WEIGHTS_FILE), "measured with"),
    ],
)
def test_a_run_that_is_not_whole_is_not_exported(
    break_it: Callable[[Path], Any], said: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    break_it(copy)
    with pytest.raises(UserError, match=said) as error:
        export_model(copy, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"], "nothing is left behind"


def _double(path: Path) -> None:
    save_file({key: 2 * value for key, value in load_file(path).items()}, path)


@pytest.mark.parametrize("license", ["", "my own", "x\n---", "a" * 65, "<b>"])
def test_a_licence_that_is_no_identifier_is_refused(
    license: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no identifier"):
        export_model(run, tmp_path / "new", license)


def test_nothing_is_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        assert main(["export", str(run), str(tmp_path / name)]) == 2
        assert "is there already" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "file" / "below")]) == 2
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["export", str(run), str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'empty'}\n"


# ---- the hub


def test_a_name_is_looked_for_on_the_hub(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []
    cache = tmp_path / "models--someone--model"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE):  # as the hub's cache has them
        shutil.copy(exported / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")

    def download(name: str, **how: Any) -> str:
        asked.append((name, how))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_model("someone/model", revision="v1")
    assert model.cfg.model.name == "tcard"
    wanted = [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, "towers/*.json"]
    assert asked == [("someone/model", {"revision": "v1", "allow_patterns": wanted})]


def test_a_hub_without_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def download(*_: Any, **__: Any) -> str:
        raise OSError("404\nnot found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="not on the Hugging Face hub") as error:
        load_model("someone/model")
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for local in ("runs/typo", "a/b/c", "typo", "../up", "/no/where"):
        with pytest.raises(UserError, match="no finished run"):
            load_model(local)


# ---- folders of strangers


class Calls:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def _change_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in header.items() if key != "__metadata__")


def _change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _settings_with(text: str, old: str = "", new: str = "") -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / CONFIG_FILE
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1) + text)

    return change


def _written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    return lambda folder: _change_weights(folder / WEIGHTS_FILE, change)


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda folder: _change_header(folder / WEIGHTS_FILE, change)


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps(Calls(folder / "canary")))


def _saved(folder: Path) -> None:
    torch.save({"a": Calls(folder / "canary")}, folder / WEIGHTS_FILE)


def _beside(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    for name in ("pytorch_model.bin", "model.ckpt", "model.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Calls(folder / "canary")))


def _cut(share: float) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / WEIGHTS_FILE
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return change


def _linked(name: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def _replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


_ALIASES = "\nb0: &b0 [a,a]\n" + "".join(
    f"b{i + 1}: &b{i + 1} [*b{i},*b{i},*b{i},*b{i},*b{i},*b{i},*b{i},*b{i}]\n" for i in range(40)
)
_CALL = "!!python/object/apply:os.system ['touch canary']"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle named safetensors": (_pickled, "does not fit"),
    "a checkpoint named safetensors": (_saved, "does not fit"),
    "pickles beside": (_beside, "no model.safetensors"),
    "nothing in it": (_written(WEIGHTS_FILE, b""), "does not fit"),
    "truncated header": (_cut(0.001), "does not fit"),
    "truncated tensors": (_cut(0.9), "does not fit"),
    "a header of 2^63 bytes": (_written(WEIGHTS_FILE, b"\xff" * 7 + b"\x7f{}"), "does not fit"),
    "offsets behind the end": (
        _header(lambda h: _first(h).update(data_offsets=[0, 2**40])),
        "does not fit",
    ),
    "a shape that lies": (_header(lambda h: _first(h).update(shape=[10**6, 10**6])), "not fit"),
    "a negative shape": (_header(lambda h: _first(h).update(shape=[-1])), "does not fit"),
    "an unknown type": (_header(lambda h: _first(h).update(dtype="PICKLE")), "does not fit"),
    "another type": (_tensors(lambda t: t.update({k: v.half() for k, v in t.items()})), "float16"),
    "other shapes": (
        _tensors(lambda t: t.update({k: v.repeat(2) for k, v in t.items() if v.ndim == 1})),
        "does not fit",
    ),
    "a tensor too few": (_tensors(lambda t: t.pop("log_scale")), "log_scale is not there"),
    "a tensor too many": (_tensors(lambda t: t.update(more=torch.zeros(1))), "more is"),
    "_class_path": (_settings_with("_class_path: os.system\n"), "unknown key '_class_path'"),
    "_instantiator": (
        _settings_with("_instantiator: pytorch_lightning.cli.instantiate_module\n"),
        "_instantiator",
    ),
    "_target_": (_settings_with("", "model:\n", "model:\n  _target_: os.system\n"), "_target_"),
    "a call in YAML": (_settings_with(f"more: {_CALL}\n"), "tags"),
    "a call as a known key": (_settings_with("", "seed: 0", f"seed: {_CALL}"), "tags"),
    "a path made by YAML": (
        _settings_with("x: !!python/object/apply:pathlib.PosixPath [/etc/passwd]\n"),
        "tags",
    ),
    "an alias bomb": (_settings_with(_ALIASES), "aliases"),
    "a deep YAML": (_written(CONFIG_FILE, b"a: " + b"[" * 40_000), "too deep"),
    "a long YAML": (_written(CONFIG_FILE, b"a: 1\n" * 15_000), "too long"),
    "a large YAML": (_written(CONFIG_FILE, b"# " + b"x" * 200_000), "larger than 100,000"),
    "no YAML": (_written(CONFIG_FILE, b"\x00\xff\xfe{{{"), "configuration"),
    "a secret asked for": (
        _settings_with("", "name: signvid", "name: ${oc.env:HOME}"),
        "refers to something",
    ),
    "no model": (_settings_with("", "name: tcard", "name: ../../evil"), "no model"),
    "another model": (_settings_with("", "width: 16", "width: 32"), "does not fit"),
    "a model of 10^9 wide": (_settings_with("", "width: 16", "width: 1000000000"), "not fit"),
    "a model of 10^9 layers": (
        _settings_with("", "\n  layers: 1", "\n  layers: 1000000000"),
        "the most is",
    ),
    "impossible heads": (_settings_with("", "\n  heads: 2", "\n  heads: 7"), "does not fit|heads"),
    "a date for a seed": (_settings_with("", "seed: 0", "seed: 2020-01-01"), "seed|YAML|config"),
    "no tokenizer": (_written(TOKENIZER_FILE, b"{}"), "tokenizer"),
    "a pickled tokenizer": (_written(TOKENIZER_FILE, pickle.dumps({"a": 1})), "tokenizer"),
    "a deep tokenizer": (_written(TOKENIZER_FILE, b"[" * 100_000), "tokenizer"),
    "weights outside": (_linked(WEIGHTS_FILE), "leads out"),
    "settings outside": (_linked(CONFIG_FILE), "leads out"),
    "a secret as settings": (
        _replaced(CONFIG_FILE, lambda path: path.symlink_to("/etc/passwd")),
        "leads out",
    ),
    "a folder": (_replaced(WEIGHTS_FILE, Path.mkdir), "no model.safetensors"),
    "a pipe": (_replaced(WEIGHTS_FILE, os.mkfifo), "no model.safetensors"),
    "a link to nothing": (
        _replaced(WEIGHTS_FILE, lambda path: path.symlink_to("nothing")),
        "no model.safetensors",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_does_nothing_and_is_one_line(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, said = HOSTILE[name]
    damage(copy)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=said) as error:
        load_model(copy)
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    assert not (copy / "canary").exists()


def test_no_file_outside_is_opened_and_nothing_is_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's settings name no place on this machine."""
    home = copy.parent / "home"
    text = (copy / CONFIG_FILE).read_text()
    for key in ("root: runs", "leaderboard: .", "cache: .tvr_cache"):
        assert key in text
        text = text.replace(key, f"{key.split(':')[0]}: {home}")
    text = text.replace("accelerator: auto", "accelerator: gpu")
    text = text.replace("devices: 1", "devices: 64").replace("threads: null", "threads: 999")
    (copy / CONFIG_FILE).write_text(text)
    cfg = load_model(copy).cfg
    assert (cfg.run.root, cfg.run.leaderboard, cfg.paths.cache) == ("runs", ".", ".tvr_cache")
    assert (cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.threads) == ("auto", 1, None)
    assert load_model(copy, **{"paths.cache": "mine"}).cfg.paths.cache == "mine"
    assert not home.exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy: Path) -> None:
    large = train_tokenizer([f"word{i} x{i}y" for i in range(3000)], 2000, 32)
    save_tokenizer(large, copy / TOKENIZER_FILE)
    with pytest.raises(UserError, match="another model's"):
        load_model(copy)


def test_an_unknown_override_is_named(copy: Path) -> None:
    with pytest.raises(UserError, match=r"paths\.cach'.*paths\.cache"):
        load_model(copy, **{"paths.cach": "x"})


def test_reading_is_all_that_is_done_with_the_files(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No unpickler is ever made."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle is read")

    for module in (pickle, torch):
        monkeypatch.setattr(module, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    assert published.load_model(copy).cfg.model.name == "tcard"
