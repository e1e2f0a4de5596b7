"""Captions as token ids: nothing unknown, nothing cut off silently that fits, files read back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tvr_bench.config import load
from tvr_bench.datamodules.tokens import (
    build_tokenizer,
    encode,
    encode_counting,
    is_clip,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from tvr_bench.errors import UserError
from tvr_bench.models.layers.hub import CLIP_ENDS

CAPTIONS = [
    "a red square moves to the left",
    "a blue circle turns while the sign says OPEN",
    "the sign says CAFÉ 24H",
] * 5
WORDS = 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS, vocab=400, words=WORDS)


def test_ids_begin_with_begin_end_with_end_and_are_padded(tokenizer: Tokenizer) -> None:
    ids, mask = encode(tokenizer, ["a red square", "the"])
    assert ids.shape == mask.shape == (2, WORDS)
    assert ids.dtype == np.int64 and mask.dtype == bool
    lengths = mask.sum(1)
    for row, valid, length in zip(ids, mask, lengths, strict=True):
        assert valid[:length].all() and not valid[length:].any()
        assert (row[0], row[length - 1]) == (1, 2)
        assert not row[length:].any()
        assert (row[1 : length - 1] > 2).all()
    assert lengths[0] > lengths[1] == 3


def test_texts_that_are_cut_are_counted(tokenizer: Tokenizer) -> None:
    for length in range(1, 3 * WORDS):
        text = " ".join(["a"] * length)  # a token each, beside begin and end
        ids, mask, cut = encode_counting(tokenizer, [text, "the"])
        assert cut.tolist() == [length > WORDS - 2, False]
        assert np.array_equal(ids, encode(tokenizer, [text, "the"])[0])
        assert mask[0].sum() == min(length + 2, WORDS)


def test_case_and_form_do_not_matter_but_words_do(tokenizer: Tokenizer) -> None:
    ids, _ = encode(tokenizer, ["OPEN Cafe\u0301", "open café", "oпen café"])
    assert (ids[0] == ids[1]).all()
    assert (ids[0] != ids[2]).any()


def test_a_long_caption_is_cut_and_keeps_its_end(tokenizer: Tokenizer) -> None:
    ids, mask = encode(tokenizer, ["red square " * 5000, "x" * 10_000])
    assert mask.all()
    assert ids[:, -1].tolist() == [2, 2]


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=6))
def test_no_text_is_unknown(text: str, tokenizer: Tokenizer) -> None:
    wide = Tokenizer.from_str(tokenizer.to_str())
    wide.no_truncation()
    ids, mask = encode(wide, [text])
    assert ids.max() < 400
    assert mask.sum() >= 2
    assert wide.decode(ids[0].tolist()).strip() == wide.normalizer.normalize_str(text).strip()


@pytest.mark.parametrize("text", ["<pad>", "a <s> red </s> square", "</s>"])
def test_a_caption_that_reads_like_a_special_token_is_text(
    text: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, path := tmp_path / "tokenizer.json")
    copies = (Tokenizer.from_str(tokenizer.to_str()), pickle.loads(pickle.dumps(tokenizer)))
    for one in (tokenizer, load_tokenizer(path, WORDS), *copies):
        ids, mask = (part[0] for part in encode(one, [text]))
        inside = ids[mask][1:-1]
        assert len(inside) and (inside > 2).all()
        assert one.decode(ids.tolist()).strip() == text


def test_clip_reads_its_own_ends_in_a_text_as_openai_does() -> None:
    tokenizer = train_tokenizer(["a cat"], 400, 12)
    tokenizer.add_special_tokens([*CLIP_ENDS])
    ids, _ = encode(tokenizer, [f"a {CLIP_ENDS[1]} cat"])
    assert tokenizer.token_to_id(CLIP_ENDS[1]) in ids


def test_the_same_captions_make_the_same_tokenizer_and_others_another() -> None:
    one, same, other = (
        train_tokenizer(captions, 400, WORDS).to_str()
        for captions in (CAPTIONS, iter(CAPTIONS), [c[::-1] for c in CAPTIONS])
    )
    assert one == same != other


def test_no_more_tokens_than_asked_for() -> None:
    words = [f"word{i * 7919 % 1000:03d} thing{i}" for i in range(400)]
    assert train_tokenizer(words, 320, WORDS).get_vocab_size() == 320
    assert train_tokenizer(["a"], 2048, WORDS).get_vocab_size() < 2048


def test_a_saved_tokenizer_reads_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "run" / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    again = load_tokenizer(path, WORDS)
    for one, other in zip(encode(tokenizer, CAPTIONS), encode(again, CAPTIONS), strict=True):
        assert (one == other).all()
    ids, _ = encode(load_tokenizer(path, 4), CAPTIONS)
    assert ids.shape == (len(CAPTIONS), 4)


@pytest.mark.parametrize("content", [None, "", "{}", "no json", "[1, 2"])
def test_a_file_that_is_no_tokenizer_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(path, WORDS)


def test_the_tiny_backbone_gets_one_of_its_own() -> None:
    cfg = load(["text.vocab=300", "text.words=5", "backbone.weights=none"])
    ids, _ = encode(build_tokenizer(cfg, CAPTIONS), ["a red square moves to the left"])
    assert ids.shape == (1, 5) and ids.max() < 300


def test_only_clip_reads_as_openai_does() -> None:
    tokenizer = train_tokenizer(["cats &amp; dogs, it\u2019s"], 400, 12)
    assert not is_clip(tokenizer)
    ids, _ = encode(tokenizer, ["cats &amp; dogs", "cats & dogs", "it\u2019s", "it's"])
    assert ids[0].tolist() != ids[1].tolist() and ids[2].tolist() != ids[3].tolist()
