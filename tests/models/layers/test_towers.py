"""Pretrained towers built again from their kept shapes, and shapes of strangers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.layers.cait_files import SIDE as CAIT_SIDE
from models.layers.cait_files import save_bert, save_cait
from models.layers.openai_files import SIDE as CLIP_SIDE
from models.layers.openai_files import random_state
from tvr_bench.errors import UserError
from tvr_bench.models.layers import towers
from tvr_bench.models.layers.cait_bert import CaitBertBackbone
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.models.layers.hub import CAIT_BERT


def _clip(folder: Path | None) -> Any:
    weights = str(folder / "own.pt") if folder else None
    return ClipBackbone("clip_vit_b32", weights, (CLIP_SIDE, CLIP_SIDE)).eval()


def _cait_bert(folder: Path | None) -> Any:
    return CaitBertBackbone(str(folder) if folder else None, (CAIT_SIDE, CAIT_SIDE)).eval()


MAKERS = {"clip": _clip, "cait_bert": _cait_bert}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    torch.save(random_state(90), path / "own.pt")
    save_cait(path / CAIT_BERT_PARTS[0])
    save_bert(path / CAIT_BERT_PARTS[1])
    return path


CAIT_BERT_PARTS = tuple(CAIT_BERT)


def _features(backbone: Any, side: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (1, 2, 3, side, side), generator=generator).byte()
    ids = torch.randint(0, 80, (2, 9), generator=generator)
    with torch.no_grad():
        seen = backbone.encode_frames(frames)
        return [*seen, *backbone.encode_text(ids, torch.ones(2, 9).bool())]


@pytest.mark.parametrize("kind", MAKERS)
def test_with_the_same_weights_the_features_are_the_same_to_the_last_bit(
    kind: str, base: Path, tmp_path: Path
) -> None:
    make = MAKERS[kind]
    first = make(base)
    towers.save(first.shapes, tmp_path)
    with towers.without_weights(tmp_path, needed=True):
        second = make(None)
    assert second.shapes == first.shapes
    second.load_state_dict(first.state_dict())
    side = CLIP_SIDE if kind == "clip" else CAIT_SIDE
    pairs = zip(_features(first, side), _features(second, side), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(first.mean, second.mean) and first.words == second.words
    dropouts = [
        [m.p for m in one.modules() if isinstance(m, nn.Dropout)] for one in (first, second)
    ]
    assert dropouts[0] == dropouts[1]


def test_outside_and_without_a_shape_weights_are_loaded_as_usual(
    base: Path, tmp_path: Path
) -> None:
    with towers.without_weights(tmp_path, needed=False):
        assert torch.equal(_clip(base).clip.logit_scale, torch.tensor(4.6).half().float())
    with (
        towers.without_weights(tmp_path, needed=True),
        pytest.raises(UserError, match=r"there is no .*clip\.json"),
    ):
        _clip(base)
    assert towers.kept("clip") is None


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(evil="os.system"),
        lambda s: s.update(hidden_act="__import__('os')"),
        lambda s: s.update(_attn_implementation="somebody/kernel"),
        lambda s: s.update(num_hidden_layers=10**6, depth=10**6),
        lambda s: s.update(hidden_size=-8, embed_dim=-8),
        lambda s: s.update(hidden_size=1e300, embed_dim=1e300),
        lambda s: s.update(hidden_size="8", embed_dim="8"),
        lambda s: s.update(hidden_size=[8, 8], embed_dim=[[8]]),
        lambda s: s.update(num_attention_heads=0, num_heads=0),
        lambda s: s.update(num_attention_heads=7, num_heads=7),
        lambda s: s.update(more={"a": {"b": 1}}),
    ],
)
def test_a_strangers_shape_is_refused_in_one_line(
    kind: str, change: Callable[[dict[str, Any]], None], base: Path, tmp_path: Path
) -> None:
    make = MAKERS[kind]
    shapes = make(base).shapes
    for part, shape in shapes.items():
        other = json.loads(json.dumps(shape))
        change(other.get("text_config", other))
        towers.save(shapes | {part: other}, tmp_path)
        with (
            towers.without_weights(tmp_path, needed=True),
            torch.device("meta"),
            pytest.raises(UserError, match="export the model again") as error,
        ):
            make(None)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "5", "nan", "[" * 99_999, "{" + " " * 200_000 + "}"])
def test_what_is_no_shape_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / towers.FOLDER).mkdir()
    (tmp_path / towers.FOLDER / "clip.json").write_text(text)
    with (
        towers.without_weights(tmp_path, needed=True),
        pytest.raises(UserError, match="is not the shape of a tower"),
    ):
        towers.kept("clip")
