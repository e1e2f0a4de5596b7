"""Models whose towers came pretrained: the export holds them, and their shapes do nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.made import bench_run, places
from models.layers.cait_files import save_bert, save_cait
from models.layers.openai_files import SIDE as CLIP_SIDE
from models.layers.openai_files import WORDS as CLIP_WORDS
from models.layers.openai_files import random_state, save_archive
from tvr_bench.datamodules.tokens import save_tokenizer, train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.export import export_model
from tvr_bench.leaderboard.record import load_record
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.models.layers.hub import CAIT_BERT
from tvr_bench.models.layers.hub import CLIP_ENDS as ENDS
from tvr_bench.published import load_model
from tvr_bench.runs import evaluate, load_run

TOWERS = {"clip": ["clip"], "cait_bert": list(CAIT_BERT)}


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
    run = bench_run(root, shared_cache, kind, f"model={model}", *settings, "trainer.steps=1")
    shutil.rmtree(tmp_path / "base")
    assert metrics_of(evaluate(load_run(run), "signvid")) == load_record(run).metrics
    folder = tmp_path / "exported"
    export_model(run, folder)
    assert sorted(path.stem for path in (folder / "towers").iterdir()) == sorted(TOWERS[kind])
    loaded = load_model(folder, **places(shared_cache))
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
