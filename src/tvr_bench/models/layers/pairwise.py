"""T-CARD's head: from the features of texts and videos to the matchings of every pair.

N texts, M videos, F frames, W windows, T tokens of a stream, L words, D width. Tensors of a pair
have the video first, [M, N, ...], because everything cached belongs to a video.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tvr_bench.errors import UserError
from tvr_bench.models.layers.coattention import CoAttention
from tvr_bench.models.layers.condition import TextCondition
from tvr_bench.models.layers.distilling import ClueDistilling, PlainDistilling
from tvr_bench.models.layers.factored import FactoredTokens, StreamCache
from tvr_bench.models.layers.masking import attendable, mean_weights
from tvr_bench.models.layers.matching import TokenMatching, pair_cosine

Features = dict[str, Tensor]
_HEAD_WIDTH, _FEWEST_HEADS = 64, 4  # 8 heads at CLIP's width of 512
VIDEO, OCR, HYBRID = "text-video", "text-ocr", "text-hybrid"


@dataclass(frozen=True)
class FormedTokens:
    """The tokens of every pair, [M, N, T, D], held in full: the direct path."""

    formed: Tensor

    def cosine(self, text: Tensor, weights: Tensor) -> Tensor:
        """Return the cosine of text [N, D] with the sum over tokens by weights [M, T], [M, N]."""
        return pair_cosine(text, torch.einsum("mntd,mt->mnd", self.formed, weights))

    def tokens(self) -> Tensor:
        """Return the tokens, [M, N, T, D]."""
        return self.formed


@dataclass(frozen=True)
class Stream:
    """Frames or windows of a block of videos."""

    tokens: Tensor  # [M, T, D], zero where masked
    open: Tensor  # bool [M, T]: what a softmax may attend to, at least one slot per video
    weights: Tensor  # [M, T]: of the mean over valid tokens; all zero where there is none
    cache: StreamCache | None = None

    @classmethod
    def build(cls, tokens: Tensor, mask: Tensor) -> Stream:
        """Return the stream of tokens [M, T, D] with mask bool [M, T]."""
        tokens = tokens.masked_fill(~mask[..., None], 0)
        return cls(tokens, attendable(mask), mean_weights(mask, tokens.dtype))


class PairwiseHead(nn.Module):
    """Text-condition, co-attention, CTCD and matching; `options` are the keys `model.*`."""

    def __init__(self, options: Any, width: int, frames: int, windows: int, ocr: bool) -> None:
        """Build the parts that the options leave in the score.

        `ocr` False leaves out text-OCR; what reads scene text then meets slots of zeros. Raises
        UserError where no part is left.
        """
        super().__init__()
        self.weights = _active(options, ocr)
        self.windows, self.pair_block = windows, int(options.pair_block)
        self.condition = (
            TextCondition(options.tau, options.condition_scale, options.condition_features)
            if options.condition
            else None
        )
        heads = options.heads or max(_FEWEST_HEADS, width // _HEAD_WIDTH)
        common: dict[str, Any] = {"bias": options.attention_bias, "init": options.attention_init}
        self.look_at_ocr = self.look_at_video = None
        if options.coattention:
            build = (width, heads, options.coattention_norm)
            if self.weights.keys() & {VIDEO, HYBRID}:
                self.look_at_ocr = CoAttention(*build, **common)
            if self.weights.keys() & {OCR, HYBRID}:
                self.look_at_video = CoAttention(*build, **common)
            for look in filter(None, (self.look_at_ocr, self.look_at_video)):
                look.attention.out.weight.data.mul_(options.coattention_gain)
        self.distil: ClueDistilling | PlainDistilling | None = None
        common["shared"] = options.ctcd_shared
        if HYBRID in self.weights and options.ctcd == "clue":
            common |= {"wiring": options.ctcd_wiring, "std": options.clue_std}
            self.distil = ClueDistilling(width, heads, frames, windows, **common)
        elif HYBRID in self.weights:
            self.distil = PlainDistilling(width, heads, **common)
        self.matching = nn.ModuleDict()
        if options.match == "wti":
            parts = self.weights.keys() & {VIDEO, OCR}
            self.matching.update({part: TokenMatching(width) for part in sorted(parts)})
        self.fast = options.fast_path == "auto" and self._cacheable()

    def forward(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the matchings by name, each [N, M].

        text: `text` [N, D] (`words` [N, L, D] and `word_mask` with match=wti). video: `frames`
        [M, F, D], `frame_mask` bool [M, F], and unless OCR is off `ocr` [M, W, D], `ocr_mask`.
        Pairs are scored block by block; where a gradient is needed and there are several blocks,
        a block is computed again in the backward pass, so the memory stays that of one.
        """
        rows, columns = len(text["text"]), len(video["frames"])
        height = max(math.isqrt(self.pair_block), self.pair_block // max(rows, 1))
        length = max(1, self.pair_block // min(height, max(columns, 1)))
        several = torch.is_grad_enabled() and (rows > length or columns > height)
        scores = []
        for videos in _chunks(video, height):
            streams = self._streams(videos)
            blocks = [
                checkpoint(
                    self._block, texts, *streams, use_reentrant=False, preserve_rng_state=False
                )
                if several
                else self._block(texts, *streams)
                for texts in _chunks(text, length)
            ]
            scores.append(torch.cat(blocks, 2))
        return dict(zip(self.weights, torch.cat(scores, 1).mT, strict=True))

    def average(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the weighted mean of the matchings, [N, M]."""
        total = sum(self.weights.values())
        return torch.stack([parts[k] * (w / total) for k, w in self.weights.items()]).sum(0)

    def _cacheable(self) -> bool:
        """Whether the fast path is exact: tokens stay linear in what a video keeps."""
        looks = [x for x in (self.look_at_ocr, self.look_at_video) if x is not None]
        if isinstance(self.distil, PlainDistilling) and looks:
            return False
        biased = self.distil is not None and self.distil.read_ocr.query.bias is not None
        return not biased and all(x.cacheable for x in looks)

    def _streams(self, video: Features) -> tuple[Stream, Stream]:
        frames = Stream.build(video["frames"], video["frame_mask"])
        if "ocr" in video:
            ocr = Stream.build(video["ocr"], video["ocr_mask"])
        else:
            shape = (len(frames.tokens), self.windows)
            empty = frames.tokens.new_zeros(*shape, frames.tokens.shape[-1])
            ocr = Stream.build(empty, frames.open.new_zeros(shape))
        if not self.fast:
            return frames, ocr
        return (
            _with_cache(self.look_at_ocr, frames, ocr),
            _with_cache(self.look_at_video, ocr, frames),
        )

    def _block(self, text: Features, frames: Stream, ocr: Stream) -> Tensor:
        """Return the matchings of a block, [parts, M, N], in the order of `weights`."""
        by_frame, by_window = self._factors(text, frames), self._factors(text, ocr)
        scores: dict[str, Tensor] = {}
        seen: FactoredTokens | FormedTokens
        read: FactoredTokens | FormedTokens
        if self.fast:
            seen = _factored(frames, by_frame, by_window)
            read = _factored(ocr, by_window, by_frame)
            if self.distil is not None:
                clue = self.distil.factored(seen, read, frames.open, ocr.open)
                scores[HYBRID] = pair_cosine(text["text"], clue)
        else:
            seen, read, formed = self._form(frames, ocr, by_frame, by_window)
            if formed is not None:
                scores[HYBRID] = pair_cosine(text["text"], formed)
        if VIDEO in self.weights:
            scores[VIDEO] = self._match(VIDEO, text, seen, frames)
        if OCR in self.weights:
            scores[OCR] = self._match(OCR, text, read, ocr)
        return torch.stack([scores[part] for part in self.weights])

    def _factors(self, text: Features, stream: Stream) -> Tensor:
        """Return the text-condition's factors, [M, T, N]."""
        if self.condition is None:
            return stream.tokens.new_ones(*stream.open.shape, len(text["text"]))
        factors: Tensor = self.condition(text["text"], stream.tokens, stream.open)
        return factors

    def _form(
        self, frames: Stream, ocr: Stream, by_frame: Tensor, by_window: Tensor
    ) -> tuple[FormedTokens, FormedTokens, Tensor | None]:
        """Return V~, O~ and the hybrid clue of every pair, by the equations as they stand."""
        pairs = (len(frames.tokens), by_frame.shape[2])
        seen, read = _scaled(frames, by_frame), _scaled(ocr, by_window)
        see = frames.open.repeat_interleave(pairs[1], 0)
        may_read = ocr.open.repeat_interleave(pairs[1], 0)
        plain = seen
        if self.look_at_ocr is not None:
            seen = self.look_at_ocr(seen, read, may_read)
        if self.look_at_video is not None:
            read = self.look_at_video(read, plain, see)
        clue = None
        if self.distil is not None:
            clue = self.distil(seen, read, see, may_read).unflatten(0, pairs)
        return FormedTokens(seen.unflatten(0, pairs)), FormedTokens(read.unflatten(0, pairs)), clue

    def _match(
        self, part: str, text: Features, tokens: FactoredTokens | FormedTokens, stream: Stream
    ) -> Tensor:
        """Return the matching of the text with one stream, [M, N]; 0 where the stream is empty."""
        if part in self.matching:
            match = self.matching[part]
            score = match(text["words"], text["word_mask"], tokens.tokens(), stream.open)
        else:
            score = tokens.cosine(text["text"], stream.weights)
        return score * (stream.weights.sum(1) > 0)[:, None]


def _active(options: Any, ocr: bool) -> dict[str, float]:
    """Return the parts of the score with their weights, those of weight zero left out."""
    weights = {VIDEO: float(options.weight_video)}
    if ocr:
        weights[OCR] = float(options.weight_ocr)
    if options.ctcd != "none":
        weights[HYBRID] = float(options.weight_hybrid)
    weights = {part: weight for part, weight in weights.items() if weight > 0}
    if not weights:
        raise UserError(
            "no matching is left in the score; set model.weight_video, or model.weight_ocr with "
            "ocr.enabled=true, or model.weight_hybrid with model.ctcd=clue above 0"
        )
    return weights


def _chunks(features: Features, size: int) -> Iterator[Features]:
    items = len(next(iter(features.values())))
    if items <= size:
        yield features
        return
    for start in range(0, items, size):
        yield {key: value[start : start + size] for key, value in features.items()}


def _with_cache(look: CoAttention | None, own: Stream, other: Stream) -> Stream:
    if look is None:
        return own
    cache = look.cache(own.tokens, other.tokens, other.open)
    return Stream(own.tokens, own.open, own.weights, cache)


def _factored(stream: Stream, own: Tensor, other: Tensor) -> FactoredTokens:
    if stream.cache is None:
        return FactoredTokens(own, stream.tokens)
    return stream.cache.condition(own, other)


def _scaled(stream: Stream, factors: Tensor) -> Tensor:
    """Return the conditioned tokens of every pair, [M*N, T, D]."""
    return (factors.permute(0, 2, 1)[..., None] * stream.tokens[:, None]).flatten(0, 1)
