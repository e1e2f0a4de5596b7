"""A split as tensors: every position holds its own clip, captions and windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tvr_bench.datamodules.items import Items, TextItems, TrainItems, VideoItems, shifted
from tvr_bench.datamodules.tokens import encode, train_tokenizer
from tvr_bench.datamodules.types import Clip, Query, Split

CLIPS, FRAMES, HEIGHT, WIDTH, WORDS = 6, 2, 4, 6, 12
UNREADABLE = "v3"
WINDOWS = [["open", ""], ["", ""], ["cafe 24", "open"], ["exit", "exit"], ["", "hotel"], ["", ""]]
SPLIT = Split(
    tuple(Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(CLIPS)),
    (
        Query("q0", "a dog left of a cat", "v2", "relation", "g1"),
        Query("q1", "a dog", "v0", "relation", "g1"),
        Query("q2", "two dogs", "v0", "relation", "g1"),
        Query("q3", "a cow", "v3", "relation", "g1"),
        Query("q4", "a hen", "v1", "", ""),
        Query("q5", "a hen runs", "v1", "", ""),
        Query("q6", "an ox", "v4", "appearance", "g2"),
    ),
)  # v5 has no caption
TOKENIZER = train_tokenizer([query.text for query in SPLIT.queries], 400, WORDS)


class Store:
    """Frames [F, H, W, 3] whose pixels say which clip, frame, row, column and channel they are."""

    def __contains__(self, clip_id: str) -> bool:
        return clip_id != UNREADABLE

    def get(self, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        frames = np.arange(FRAMES * HEIGHT * WIDTH * 3, dtype=np.uint8)
        frames = frames.reshape(FRAMES, HEIGHT, WIDTH, 3) ^ np.uint8(int(clip_id[1:]))
        frames.flags.writeable = False  # as a memory-mapped file
        return frames, np.array([True] * (FRAMES - 1) + [False])


@pytest.fixture
def items() -> Items:
    store: Any = Store()
    return Items.build(SPLIT, store, WINDOWS, TOKENIZER)


def _same(ids: torch.Tensor, mask: torch.Tensor, text: str) -> bool:
    expected_ids, expected_mask = encode(TOKENIZER, [text])
    return ids.tolist() == expected_ids[0].tolist() and mask.tolist() == expected_mask[0].tolist()


def test_what_can_be_read_and_which_captions_belong_to_which_clip(items: Items) -> None:
    assert items.readable == [0, 1, 2, 4, 5]
    assert items.queries_of == [[1, 2], [4, 5], [0], [3], [6], []]


def test_texts_and_videos_by_position(items: Items) -> None:
    for i, query in enumerate(SPLIT.queries):
        item = TextItems(items)[i]
        assert _same(item["text_ids"], item["text_mask"], query.text)
        assert item["text_index"] == i
    for i in items.readable:
        item = VideoItems(items)[i]
        frames, mask = Store().get(f"v{i}")
        assert item["frames"].dtype == torch.uint8
        assert torch.equal(item["frames"], torch.tensor(frames).permute(0, 3, 1, 2))
        assert item["frame_mask"].tolist() == mask.tolist()
        assert item["video_index"] == i


def test_windows_are_masked_where_no_text_was_read(items: Items) -> None:
    for i in items.readable:
        item = items.video(i)
        assert item["ocr_ids"].shape == item["ocr_mask"].shape == (2, WORDS)
        for ids, mask, caption in zip(item["ocr_ids"], item["ocr_mask"], WINDOWS[i], strict=True):
            if caption:
                assert _same(ids, mask, caption)
            else:
                assert not mask.any()


def test_without_windows_there_are_no_ocr_tensors() -> None:
    store: Any = Store()
    item = Items.build(SPLIT, store, [], TOKENIZER).video(0)
    assert sorted(item) == ["frame_mask", "frames", "video_index"]


def test_groups_hold_readable_clips_with_captions(items: Items) -> None:
    assert items.groups(whole=True) == [[0, 2], [1], [4]]
    assert items.groups(whole=False) == [[0], [1], [2], [4]]


def test_the_turns_of_a_clip_show_each_of_its_captions_once(items: Items) -> None:
    train = TrainItems(items, seed=1)
    for epoch in range(5):
        for clip in (0, 1, 2, 4):
            turns = range(len(items.queries_of[clip]))
            found = [int(train[epoch, clip, turn]["text_index"]) for turn in turns]
            assert sorted(found) == items.queries_of[clip]


def test_a_training_item_is_a_clip_with_one_of_its_own_captions(items: Items) -> None:
    train = TrainItems(items, seed=1)
    seen: Counter[int] = Counter()
    for epoch in range(60):
        for clip in (0, 1, 2, 4):
            item = train[epoch, clip]
            query = int(item["text_index"])
            seen[query] += 1
            assert query in items.queries_of[clip] and item["video_index"] == clip
            assert _same(item["text_ids"], item["text_mask"], SPLIT.queries[query].text)
            assert torch.equal(item["frames"], items.video(clip)["frames"])
    assert (seen[0], seen[6]) == (60, 60)
    assert min(seen[i] for i in (1, 2, 4, 5)) > 15


def test_a_training_item_depends_on_seed_epoch_and_clip_alone(items: Items) -> None:
    mirrored = encode(TOKENIZER, [query.text[::-1] for query in SPLIT.queries])
    one, same, other = (TrainItems(items, seed, 1, mirrored) for seed in (1, 1, 2))
    picks = [(epoch, clip) for epoch in range(20) for clip in (0, 1, 2, 4)]
    before = {pick: one[pick] for pick in picks}
    differ = 0
    for pick in reversed(picks):
        assert all(torch.equal(before[pick][key], same[pick][key]) for key in before[pick])
        differ += not torch.equal(before[pick]["frames"], other[pick]["frames"])
    assert differ > len(picks) / 2


def test_a_mirrored_clip_comes_with_its_mirrored_caption(items: Items) -> None:
    texts = [query.text.replace("left", "right") for query in SPLIT.queries]
    train = TrainItems(items, 0, mirrored=encode(TOKENIZER, texts))
    plain, turned = items.video(2)["frames"], 0
    for epoch in range(60):
        item = train[epoch, 2]
        is_turned = torch.equal(item["frames"], plain.flip(-1))
        turned += is_turned
        assert is_turned or torch.equal(item["frames"], plain)
        text = texts[0] if is_turned else SPLIT.queries[0].text
        assert _same(item["text_ids"], item["text_mask"], text)
    assert 15 < turned < 45


class Kept:
    """What a tower made of frames [F, T, D], for clips by id."""

    def get(self, clip_ids: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.tensor([float(name[1:]) for name in clip_ids])
        features = numbers[:, None, None, None].expand(-1, FRAMES, 3, 5)
        return features, torch.ones(len(clip_ids), FRAMES, dtype=torch.bool)


@pytest.mark.parametrize("turns", [(), (0,)])
def test_a_batch_is_its_items_side_by_side(turns: tuple[int, ...], items: Items) -> None:
    features = replace(items, encoded=Kept())
    picks = [(3, clip, *turns) for clip in (4, 0, 1)]
    for mine in (items, features):
        for view, places in (
            (TextItems(mine), [6, 0, 2]),
            (VideoItems(mine), [5, 0]),
            (TrainItems(mine, 2**32 - 1), picks),
        ):
            data: Any = view
            batch = data.__getitems__(places)
            beside = default_collate([data[place] for place in places])
            assert list(batch) == list(beside)
            for key, value in batch.items():
                assert torch.equal(value, beside[key]) and value.dtype == beside[key].dtype
    assert features.videos([4, 1])["frames"][:, 0, 0, 0].tolist() == [4, 1]
    pixels = TrainItems(items, 9).__getitems__(picks)
    assert TrainItems(features, 9).__getitems__(picks)["text_index"].equal(pixels["text_index"])


def test_shifted_moves_pixels_and_repeats_the_edge() -> None:
    frames = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert torch.equal(shifted(frames, 0, 0), frames)
    moved = shifted(frames, 1, -2)
    assert torch.equal(moved[..., 1:, :-2], frames[..., :-1, 2:])
    assert torch.equal(moved[..., 0, :], moved[..., 1, :])
    assert torch.equal(moved[..., -1], frames[..., [0, 0, 1, 2], -1])
    assert moved.shape == shifted(frames, 9, 9).shape == frames.shape


def test_every_training_item_moves_by_at_most_the_shift(items: Items) -> None:
    train = TrainItems(items, 0, shift=1)
    plain = items.video(0)["frames"]
    ways = {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    seen = set()
    for epoch in range(120):
        frames = train[epoch, 0]["frames"]
        found = {way for way in ways if torch.equal(frames, shifted(plain, *way))}
        assert len(found) == 1
        seen |= found
    assert seen == ways
