"""Matching of one text with the tokens of a pair."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvr_bench.models.layers.matching import TokenMatching, pair_cosine

N, M, L, T, D = 2, 3, 4, 5, 6


def test_pair_cosine_and_its_zero_vector() -> None:
    torch.manual_seed(0)
    text, pooled = torch.randn(N, D), torch.randn(M, N, D)
    pooled[1, 0] = 0
    pooled.requires_grad_()
    score = pair_cosine(text, pooled)
    assert torch.allclose(score, F.cosine_similarity(text[None], pooled, dim=-1), atol=1e-6)
    assert score[1, 0] == 0


def test_token_matching_equals_a_loop() -> None:
    torch.manual_seed(0)
    match = TokenMatching(D).double()
    words, tokens = torch.randn(N, L, D).double(), torch.randn(M, N, T, D).double()
    word_mask, mask = torch.ones(N, L).bool(), torch.ones(M, T).bool()
    word_mask[1, 2:], mask[2, 1:] = False, False
    score = match(words, word_mask, tokens, mask)
    for m in range(M):
        for n in range(N):
            w, t = words[n, word_mask[n]], tokens[m, n, mask[m]]
            cosine = F.normalize(w, dim=-1) @ F.normalize(t, dim=-1).T
            by_word = cosine.amax(1) @ (w @ match.word_weight.weight[0]).softmax(0)
            by_token = cosine.amax(0) @ (t @ match.token_weight.weight[0]).softmax(0)
            assert score[m, n].item() == pytest.approx(((by_word + by_token) / 2).item(), abs=1e-12)
