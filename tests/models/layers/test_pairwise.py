"""T-CARD's head: the equations pair by pair, the fast path against them, blocks and leaks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.config import CONFIG_ROOT
from tvr_bench.errors import UserError
from tvr_bench.models.layers.attention import CrossAttention
from tvr_bench.models.layers.pairwise import PairwiseHead

N, M, FRAMES, WINDOWS, D, WORDS = 5, 6, 4, 3, 16, 4
Features = dict[str, Tensor]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"ctcd_wiring": "printed"},
    {"ctcd_shared": False},
    {"coattention": False},
    {"coattention_norm": "none"},
    {"ctcd": "none"},
    {"ctcd": "cross_attention", "coattention": False},
    {"ctcd": "cross_attention", "coattention": False, "ctcd_shared": False},
    {"match": "wti"},
    {"match": "wti", "coattention": False},
    {"condition": False},
    {"tau": 0.5, "condition_scale": False, "condition_features": "unit"},
    {"attention_init": "xavier", "heads": 2},
    {"weight_ocr": 0.0},
    {"weight_video": 0.0, "weight_ocr": 0.0},
    {"weight_hybrid": 0.0},
    {"weight_ocr": 0.0, "ctcd": "none"},
]
DIRECT_ONLY: list[dict[str, Any]] = [
    {"attention_bias": True},
    {"coattention_norm": "pre"},
    {"ctcd": "cross_attention"},
]


def _head(dtype: torch.dtype = torch.float64, ocr: bool = True, **options: Any) -> PairwiseHead:
    keys = OmegaConf.load(CONFIG_ROOT / "model" / "tcard.yaml").model
    keys.update({"heads": 4, **options})
    torch.manual_seed(0)
    head = PairwiseHead(keys, D, FRAMES, WINDOWS, ocr)
    for parameter in head.parameters():  # norms and clues too away from where they start
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return head.to(dtype)


def _features(dtype: torch.dtype = torch.float64) -> tuple[Features, Features]:
    """Random features: video 0 has no scene text, video 1 a padded frame and an empty window."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    frames, windows = torch.ones(M, FRAMES).bool(), torch.ones(M, WINDOWS).bool()
    windows[0], windows[1, 1], frames[1, 3] = False, False, False
    words = torch.ones(N, WORDS).bool()
    words[2, 2:] = False
    text = {"text": random(N, D), "words": random(N, WORDS, D), "word_mask": words}
    video = {
        "frames": random(M, FRAMES, D),
        "frame_mask": frames,
        "ocr": random(M, WINDOWS, D),
        "ocr_mask": windows,
    }
    return text, video


def _gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).detach().abs().max()) for k in one)


def _take(features: Features, rows: slice | list[int]) -> Features:
    return {k: v[rows] for k, v in features.items()}


def _mha(module: CrossAttention, query: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention [T, D] from its definition, head by head."""
    size = D // module.heads
    heads = []
    for h in range(module.heads):
        part = slice(h * size, (h + 1) * size)
        q, k, v = (
            x @ layer.weight[part].T
            for x, layer in ((query, module.query), (memory, module.key), (memory, module.value))
        )
        heads.append((q @ k.T / math.sqrt(size)).softmax(-1) @ v)
    return torch.cat(heads, -1) @ module.out.weight.T


def _equations(head: PairwiseHead, text: Tensor, video: Features, tau: float) -> list[Tensor]:
    """S_TV, S_TO and S_TH of one text [D] and one video, as tcard.md writes them, in full."""
    frames = video["frames"][video["frame_mask"]]
    read = bool(video["ocr_mask"].any())
    ocr = video["ocr"][video["ocr_mask"]] if read else torch.zeros(WINDOWS, D).to(frames)
    frames = frames * len(frames) * (frames @ text / tau).softmax(0)[:, None]
    ocr = ocr * len(ocr) * (ocr @ text / tau).softmax(0)[:, None]
    look, back, distil = head.look_at_ocr, head.look_at_video, head.distil
    assert look is not None and back is not None and distil is not None
    v = look.norm(frames + _mha(look.attention, frames, ocr))
    o = back.norm(ocr + _mha(back.attention, ocr, frames))
    v_typed = v + distil.type_video[video["frame_mask"]]
    o_typed = o + distil.type_ocr[video["ocr_mask"] if read else slice(None)]
    x_video = torch.cat([(distil.clue_video + distil.type_clue)[None], v_typed])
    x_ocr = torch.cat([(distil.clue_ocr + distil.type_clue)[None], o_typed])
    if distil.wiring == "printed":
        x_video, x_ocr = x_ocr, x_video
    own = distil.read_ocr if distil.read_video is None else distil.read_video
    clue = (_mha(distil.read_ocr, x_video, o_typed)[0] + _mha(own, x_ocr, v_typed)[0]) / 2
    matched = [F.cosine_similarity(text, x, dim=0) for x in (v.mean(0), o.mean(0), clue)]
    return [matched[0], matched[1] * read, matched[2]]


@pytest.mark.parametrize("fast_path", ["direct", "auto"])
@pytest.mark.parametrize("wiring", ["figure", "printed"])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_equations_with_every_query_of_ctcd(
    fast_path: str, wiring: str, shared: bool
) -> None:
    head = _head(fast_path=fast_path, ctcd_wiring=wiring, ctcd_shared=shared)
    text, video = _features()
    parts = head(text, video)
    for n in range(N):
        for m in range(M):
            expected = _equations(head, text["text"][n], {k: v[m] for k, v in video.items()}, 5.0)
            got = [parts[k][n, m] for k in ("text-video", "text-ocr", "text-hybrid")]
            assert torch.allclose(torch.stack(got), torch.stack(expected), atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fast_path_equals_direct_path(
    options: dict[str, Any], dtype: torch.dtype, bound: float
) -> None:
    fast, direct = _head(dtype, **options), _head(dtype, fast_path="direct", **options)
    direct.load_state_dict(fast.state_dict())
    assert fast.fast and not direct.fast
    text, video = _features(dtype)
    assert _gap(fast(text, video), direct(text, video)) < bound


@pytest.mark.parametrize("options", VARIANTS[:5], ids=str)
def test_fast_path_has_the_gradients_of_the_direct_path(options: dict[str, Any]) -> None:
    gradients = []
    for path in ("auto", "direct"):
        head = _head(fast_path=path, **options)
        text, video = _features()
        leaves = [text["text"], video["frames"], video["ocr"]]
        for leaf in leaves:
            leaf.requires_grad_()
        sum((s.sin() * (i + 1)).sum() for i, s in enumerate(head(text, video).values())).backward()
        gradients.append([x.grad for x in [*leaves, *head.parameters()]])
    for fast, direct in zip(*gradients, strict=True):
        assert torch.allclose(fast, direct, atol=1e-9)


@pytest.mark.parametrize("options", DIRECT_ONLY, ids=str)
def test_forms_without_a_fast_path_take_the_direct_one(options: dict[str, Any]) -> None:
    head = _head(**options)
    parts = head(*_features())
    assert not head.fast
    assert all(s.isfinite().all() for s in parts.values())


@pytest.mark.parametrize("options", [*VARIANTS, *DIRECT_ONLY], ids=str)
def test_a_pair_depends_on_nothing_else(options: dict[str, Any]) -> None:
    """The leak test: alone, permuted, or among other texts and videos, the scores are the same."""
    head = _head(**options)
    text, video = _features()
    whole = head(text, video)
    order_n, order_m = [3, 0, 4, 1, 2], [5, 2, 0, 3, 1, 4]
    permuted = head(_take(text, order_n), _take(video, order_m))
    assert _gap({k: s[order_n][:, order_m] for k, s in whole.items()}, permuted) < 1e-12
    for n in range(N):
        alone = head(_take(text, [n]), _take(video, [M - 1 - n]))
        assert _gap({k: s[[n]][:, [M - 1 - n]] for k, s in whole.items()}, alone) < 1e-12
    other = {k: v.clone() for k, v in text.items()}
    other["text"][1:] = 7.0
    assert (
        _gap(
            {k: s[:1] for k, s in head(other, video).items()}, {k: s[:1] for k, s in whole.items()}
        )
        < 1e-12
    )


@pytest.mark.parametrize("block", [1, 7, 16, 10**6])
@pytest.mark.parametrize("fast_path", ["auto", "direct"])
def test_blocks_change_neither_scores_nor_gradients(block: int, fast_path: str) -> None:
    results = []
    for size in (block, 10**6):
        head = _head(fast_path=fast_path, pair_block=size)
        text, video = _features()
        video["frames"].requires_grad_()
        score = head.average(head(text, video))
        score.square().sum().backward()
        results.append([score, video["frames"].grad, *(p.grad for p in head.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("ocr", [True, False])
def test_every_parameter_has_a_gradient(options: dict[str, Any], ocr: bool) -> None:
    if not ocr and options.get("weight_video") == 0 and options.get("ctcd") == "none":
        pytest.skip("nothing is left to score")
    head = _head(ocr=ocr, **options)
    text, video = _features()
    if not ocr:
        video = {k: v for k, v in video.items() if not k.startswith("ocr")}
    sum(s.square().sum() for s in head(text, video).values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if ocr:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("fast_path", ["auto", "direct"])
def test_without_ocr_the_features_equal_videos_without_scene_text(fast_path: str) -> None:
    text, video = _features()
    video["ocr_mask"][:] = False
    silent = _head(fast_path=fast_path)(text, video)
    off = _head(fast_path=fast_path, ocr=False)(
        text, {k: v for k, v in video.items() if not k.startswith("ocr")}
    )
    assert not silent.pop("text-ocr").any()
    assert _gap(silent, off) < 1e-12


def test_wirings_differ_by_the_names_of_the_clues_alone() -> None:
    figure, printed = _head(), _head(ctcd_wiring="printed")
    state = figure.state_dict()
    text, video = _features()
    printed.load_state_dict(state)
    assert _gap(figure(text, video), printed(text, video)) > 1e-6
    clues = ("distil.clue_video", "distil.clue_ocr")
    state[clues[0]], state[clues[1]] = state[clues[1]].clone(), state[clues[0]].clone()
    printed.load_state_dict(state)
    assert _gap(figure(text, video), printed(text, video)) < 1e-12


def test_post_norm_cancels_the_condition_where_there_is_no_scene_text() -> None:
    text, video = _features()  # at tau 40 no weight is so small that the norm's epsilon counts
    video["ocr_mask"][:] = False
    with_norm, without = (
        [
            _head(coattention_norm=n, condition=c, tau=40.0)(text, video)["text-video"]
            for c in (True, False)
        ]
        for n in ("post", "none")
    )
    assert torch.allclose(*with_norm, atol=1e-4)
    assert (without[0] - without[1]).abs().max() > 0.05


def test_the_hybrid_clue_knows_the_order_of_frames_from_the_start() -> None:
    text, video = _features()
    frames = video["frames"]
    backward = {**video, "frames": frames.flip(1), "frame_mask": video["frame_mask"].flip(1)}
    changes = []
    for std in (1.0, 0.02):
        keys = OmegaConf.load(CONFIG_ROOT / "model" / "tcard.yaml").model
        keys.update({"heads": 4, "clue_std": std})
        torch.manual_seed(0)
        head = PairwiseHead(keys, D, FRAMES, WINDOWS, True).double()
        one, other = head(text, video), head(text, backward)
        assert torch.allclose(one["text-video"], other["text-video"], atol=1e-12)
        changes.append(float((one["text-hybrid"] - other["text-hybrid"]).detach().abs().mean()))
    assert changes[0] > 0.05 and changes[0] > 20 * changes[1]


def test_score_is_the_weighted_mean_of_its_parts() -> None:
    head = _head(weight_video=2.0, weight_ocr=1.0, weight_hybrid=0.0)
    parts = head(*_features())
    assert list(parts) == ["text-video", "text-ocr"]
    expected = (2 * parts["text-video"] + parts["text-ocr"]) / 3
    assert torch.allclose(head.average(parts), expected)


def test_impossible_options_are_one_line_errors() -> None:
    with pytest.raises(UserError, match=r"model.heads=5 does not divide"):
        _head(heads=5)
    with pytest.raises(UserError, match="no matching is left"):
        _head(ocr=False, weight_video=0.0, ctcd="none")
    text, video = _features()
    video["ocr"], video["ocr_mask"] = torch.ones(M, 9, D).double(), torch.ones(M, 9).bool()
    with pytest.raises(UserError, match=r"set ocr.windows=9"):
        _head()(text, video)
