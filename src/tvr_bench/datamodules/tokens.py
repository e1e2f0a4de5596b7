"""Captions as token ids: a tokenizer trained on the captions, or the one of pretrained towers.

B texts, L words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.models.layers import tower_files
from tvr_bench.models.layers.hub import CLIP_ENDS
from tvr_bench.schema import Config

_PAD, _BEGIN, _END = "<pad>", "<s>", "</s>"


def train_tokenizer(captions: Iterable[str], vocab: int, words: int) -> Tokenizer:
    """Return a lower-casing byte-level BPE; no text is unknown to it, OCR noise included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[_PAD, _BEGIN, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}", special_tokens=[(_BEGIN, 1), (_END, 2)]
    )
    return _shaped(tokenizer, words)


def load_tokenizer(path: Path, words: int) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`; raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"no tokenizer at {path}; the folder of weights must hold tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(
            f"{path} is no tokenizer ({error}); take it from where it was made"
        ) from error
    return _shaped(tokenizer, words)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `tokenizer.json`."""
    atomic_write(path, tokenizer.to_str(pretty=True))


def build_tokenizer(cfg: Config, captions: Iterable[str]) -> Tokenizer:
    """Return the tokenizer that the backbone needs, or one trained on the captions.

    Backbone features reads no tokens, but a run's folder has a tokenizer all the same.
    """
    if (folder := tower_files.folder_of(cfg.backbone)) is not None:
        tower_files.check(cfg)
        return load_tokenizer(folder / tower_files.TOKENIZER_FILE, cfg.text.words)
    if cfg.backbone.name in ("tiny", "features"):
        return train_tokenizer(captions, cfg.text.vocab, cfg.text.words)
    from tvr_bench.models.layers import cait_bert, clip

    name, weights, words = cfg.backbone.name, cfg.backbone.weights, cfg.text.words
    if name == cait_bert.NAME:
        where = cait_bert.text_source(name, weights)
        if weights:
            return load_tokenizer(Path(where) / "tokenizer.json", words)
        return _of_hub(where, words, lambda error: cait_bert.missing(name, where, error))
    where = clip.text_source(name, weights)
    if weights and clip.is_file(weights):
        return _beside(name, weights, where, words)
    if Path(where).is_dir():
        return load_tokenizer(Path(where) / "tokenizer.json", words)
    return _of_hub(where, words, lambda error: clip.missing(name, where, error))


def _beside(name: str, weights: str, where: str, words: int) -> Tokenizer:
    """Return the tokenizer of a file of weights, which brings none; it must be CLIP's."""
    from tvr_bench.models.layers import clip

    if not Path(where).is_dir():
        return _of_hub(where, words, lambda error: clip.missing_tokenizer(name, weights, error))
    tokenizer = load_tokenizer(path := Path(where) / "tokenizer.json", words)
    if not is_clip(tokenizer):
        raise clip.missing_tokenizer(name, weights, ValueError(f"{path} is another model's"))
    return tokenizer


def _of_hub(where: str, words: int, missing: Callable[[BaseException], UserError]) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        return _shaped(AutoTokenizer.from_pretrained(where).backend_tokenizer, words)
    except (OSError, ValueError) as error:
        raise missing(error) from error


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids int64 [B, L] and mask bool [B, L], True for a real token, end token included."""
    return encode_counting(tokenizer, texts)[:2]


def encode_counting(
    tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids and mask as of `encode`, and which texts were too long and are cut, bool [B].

    `<pad>` in a text is its letters; only OpenAI's tokenizer reads its own ends in a text as such.
    """
    openai = is_clip(tokenizer)
    tokenizer.encode_special_tokens = not openai  # no copy and no file of a tokenizer keeps it
    if openai:
        texts = [as_openai_reads(text) for text in texts]
    encoded = tokenizer.encode_batch(list(texts))
    ids = np.array([e.ids for e in encoded], dtype=np.int64)
    mask = np.array([e.attention_mask for e in encoded], dtype=bool)
    return ids, mask, np.array([bool(e.overflowing) for e in encoded], dtype=bool)


def is_clip(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is CLIP's, which every text's ends tell."""
    return all(tokenizer.token_to_id(token) is not None for token in CLIP_ENDS)


def as_openai_reads(text: str) -> str:
    """Return a text as OpenAI's own tokenizer hands it to its merges.

    A `tokenizer.json` of CLIP has only a part of this: there curly quotes, HTML entities, wide
    letters and wrongly decoded ones become other tokens than those that CLIP was trained on.
    """
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip().lower()


def on_cut(words: int, name: str, cut: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return lines that say how many texts of a split are cut at `words` tokens.

    `cut` has, by kind of text, how many are cut and how many there are.
    """
    return [
        f"{name}: {few:,} of {all_:,} {kind} have more than text.words={words} tokens and are cut "
        "there"
        for kind, (few, all_) in cut.items()
        if few
    ]


def _shaped(tokenizer: Tokenizer, words: int) -> Tokenizer:
    tokenizer.enable_truncation(words)
    tokenizer.enable_padding(length=words, pad_id=0, pad_token=_PAD)
    return tokenizer
