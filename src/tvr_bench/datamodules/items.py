"""A prepared split as tensors by position, and the three views that loaders read.

F frames, W windows, L words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from tvr_bench.datamodules import tokens
from tvr_bench.datamodules.plan import Pick
from tvr_bench.datamodules.types import Split
from tvr_bench.media.cache import FrameStore
from tvr_bench.media.features import TextFeatures, VideoFeatures

Item = dict[str, Tensor]
Mirrored = tuple[np.ndarray, np.ndarray] | None


class Encoded(Protocol):
    """What a frozen tower made of frames, by clip id."""

    def get(self, clip_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return features [B, F, T, D] of clips and which frames are real, bool [B, F]."""
        ...


@dataclass(frozen=True)
class Items:
    """One split: frames (or features) by clip, token ids by query and by window."""

    split: Split
    frames: FrameStore | VideoFeatures
    text_ids: np.ndarray  # int64 [queries, L]
    text_mask: np.ndarray  # bool [queries, L]
    ocr_ids: np.ndarray | None  # int64 [clips, W, L]; none with ocr.enabled=false
    ocr_mask: np.ndarray | None
    readable: list[int]  # positions of the clips that have frames
    queries_of: list[list[int]]  # positions of the queries of each clip
    words: TextFeatures | None = None  # only where the clips come as features too
    encoded: Encoded | None = None  # stands for the frames where there is one
    cut: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # texts that are read and cut, of all, by kind

    @staticmethod
    def build(
        split: Split,
        frames: FrameStore | VideoFeatures,
        windows: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        words: TextFeatures | None = None,
    ) -> Items:
        """Return the items of a split; `windows` holds W captions per clip, or nothing at all."""
        texts = [query.text for query in split.queries]
        ids, mask, long = tokens.encode_counting(tokenizer, texts)
        cut = {} if words else {"captions": (int(long.sum()), len(texts))}
        position = {clip.id: i for i, clip in enumerate(split.clips)}
        queries_of: list[list[int]] = [[] for _ in split.clips]
        for i, query in enumerate(split.queries):
            queries_of[position[query.clip_id]].append(i)
        readable = [i for i, clip in enumerate(split.clips) if clip.id in frames]
        ocr_ids = ocr_mask = None
        if windows:
            ocr_ids, ocr_mask, cut["window captions"] = _encode_windows(windows, tokenizer)
        return Items(
            *(split, frames, ids, mask, ocr_ids, ocr_mask, readable, queries_of, words), cut=cut
        )

    def groups(self, whole: bool) -> list[list[int]]:
        """Return clip positions that belong in one batch; each clip alone if not `whole`."""
        found: dict[str, list[int]] = defaultdict(list)
        for i in self.readable:
            if self.queries_of[i]:
                group = self.split.queries[self.queries_of[i][0]].group if whole else ""
                found[f"group:{group}" if group else f"clip:{i}"].append(i)
        return list(found.values())

    def text(self, query: int) -> Item:
        """Return `text_ids` [L] and `text_mask` [L] of a query, and its features if it has any."""
        features = {} if self.words is None else self.words.get(query)
        return _tensors(features) | {
            "text_ids": torch.from_numpy(self.text_ids[query]),
            "text_mask": torch.from_numpy(self.text_mask[query]),
            "text_index": torch.tensor(query),
        }

    def video(self, clip: int, *, pixels: bool = False) -> Item:
        """Return `frames` uint8 [F, 3, H, W] or the features of a clip and, with OCR, `ocr_ids`.

        `frames` [F, T, D] is what a frozen tower made of them, where that was kept, unless `pixels`
        are asked for.
        """
        if self.encoded is not None and not pixels:
            return {key: value[0] for key, value in self.videos([clip]).items()}
        name = self.split.clips[clip].id
        if isinstance(self.frames, VideoFeatures):
            item = _tensors(self.frames.features(name))
        else:
            frames, mask = self.frames.get(name)
            item = _tensors({"frames": np.array(frames), "frame_mask": np.array(mask)})
            item["frames"] = item["frames"].permute(0, 3, 1, 2)
        item["video_index"] = torch.tensor(clip)
        if self.ocr_ids is not None and self.ocr_mask is not None:
            item["ocr_ids"] = torch.from_numpy(self.ocr_ids[clip])
            item["ocr_mask"] = torch.from_numpy(self.ocr_mask[clip])
        return item

    def texts(self, queries: Sequence[int]) -> Item:
        """Return a batch of queries; see `text`."""
        if self.words is not None:
            return default_collate([self.text(query) for query in queries])
        return {
            "text_ids": torch.from_numpy(self.text_ids[queries]),
            "text_mask": torch.from_numpy(self.text_mask[queries]),
            "text_index": torch.tensor(queries),
        }

    def videos(self, clips: Sequence[int]) -> Item:
        """Return a batch of clips; see `video`. What a tower made of them is read at once."""
        if self.encoded is None:
            return default_collate([self.video(clip) for clip in clips])
        frames, mask = self.encoded.get([self.split.clips[clip].id for clip in clips])
        batch = {"frames": frames, "frame_mask": mask, "video_index": torch.tensor(clips)}
        if self.ocr_ids is not None and self.ocr_mask is not None:
            batch["ocr_ids"] = torch.from_numpy(self.ocr_ids[clips])
            batch["ocr_mask"] = torch.from_numpy(self.ocr_mask[clips])
        return batch


def _tensors(arrays: dict[str, np.ndarray]) -> Item:
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def _encode_windows(
    windows: Sequence[Sequence[str]], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    texts = [caption for clip in windows for caption in clip]
    ids, mask, long = tokens.encode_counting(tokenizer, texts)
    filled = np.array([bool(caption) for clip in windows for caption in clip])
    mask &= filled[:, None]
    shape = (len(windows), len(windows[0]), -1)
    return ids.reshape(shape), mask.reshape(shape), (int(long.sum()), int(filled.sum()))


class TextItems(Dataset[Item]):
    """The queries of a split, by position."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Item:
        """Return one query."""
        return self.items.text(index)

    def __getitems__(self, indices: list[int]) -> Item:
        """Return a batch of queries."""
        return self.items.texts(indices)


class VideoItems(Dataset[Item]):
    """The clips of a split, by position."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Item:
        """Return one clip."""
        return self.items.video(index)

    def __getitems__(self, indices: list[int]) -> Item:
        """Return a batch of clips."""
        return self.items.videos(indices)


class TrainItems(Dataset[Item]):
    """Clips with one of their captions each, moved and mirrored a little.

    Which caption, how far and whether mirrored depends on seed, epoch and clip alone. What a tower
    made of clips is neither moved nor mirrored, and a batch of it is read at once.
    """

    def __init__(self, items: Items, seed: int, shift: int = 0, mirrored: Mirrored = None) -> None:
        """Take the largest `shift` in pixels and, to mirror half of all clips, the token ids and

        mask of every query as it reads in a mirror.
        """
        self.items, self.seed, self.shift, self.mirrored = items, seed, shift, mirrored

    def __getitem__(self, pick: Pick) -> Item:
        """Return one clip with one caption: a drawn one or, in `turn` t, the t-th of an order."""
        clip = pick[1]
        query, rng = self._caption(pick)
        item = self.items.text(query) | self.items.video(clip)
        if self.mirrored is not None and rng.random() < 0.5:
            ids, mask = self.mirrored
            item["text_ids"] = torch.from_numpy(ids[query])
            item["text_mask"] = torch.from_numpy(mask[query])
            item["frames"] = item["frames"].flip(-1)
        if self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, 2)
            item["frames"] = shifted(item["frames"], int(down), int(right))
        return item

    def __getitems__(self, picks: list[Pick]) -> Item:
        """Return a batch of clips with one caption each; see `__getitem__`."""
        if self.items.encoded is None:
            return default_collate([self[pick] for pick in picks])
        queries = [self._caption(pick)[0] for pick in picks]
        return self.items.texts(queries) | self.items.videos([pick[1] for pick in picks])

    def _caption(self, pick: Pick) -> tuple[int, np.random.Generator]:
        """Return the query of a pick, and the generator that moves its clip."""
        epoch, clip, *turn = pick
        captions = self.items.queries_of[clip]
        rng = _generator(self.seed, *pick)
        if turn:
            order = _generator(self.seed, epoch, clip).permutation(len(captions))
            return captions[order[turn[0]]], rng
        return captions[int(rng.integers(len(captions)))], rng


def _generator(*numbers: int) -> np.random.Generator:
    """Return numpy's generator of a seed of several numbers; a tuple would take twice as long."""
    return np.random.default_rng(np.array(numbers, np.uint32))


def shifted(frames: Tensor, down: int, right: int) -> Tensor:
    """Return [F, 3, H, W] moved by whole pixels; the edge is repeated where nothing was."""
    height, width = frames.shape[-2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return frames[:, :, rows][..., columns]
