"""The Centre Cross-correlation Module: a slow reference, what it may see, and what is shared."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.models.layers.ccm import CentreCorrelation, CentreLayer

B, L, D, K = 3, 5, 8, 4
OPTIONS: dict[str, Any] = {
    "share_queries": True,
    "share_weights": True,
    "centres": K,
    "layers": 2,
    "heads": 2,
    "mlp": 4,
    "self_attention": True,
    "dropout": 0.0,
    "std": 0.02,
    "score": "aligned",
    "width": 0,
}


def _module(**options: Any) -> CentreCorrelation:
    torch.manual_seed(0)
    return CentreCorrelation(D, SimpleNamespace(**(OPTIONS | options))).double().eval()


def _tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    return torch.randn(B, L, D, generator=generator).double(), mask


def _slow_attention(attention: Any, queries: Tensor, tokens: Tensor, mask: list[bool]) -> Tensor:
    """a_kn = softmax_n(q_k . k_n / sqrt(E)) by head, query by query and token by token."""
    heads, width = attention.heads, D // attention.heads
    q, k, v = attention.query(queries), attention.key(tokens), attention.value(tokens)
    rows = []
    for c in range(len(queries)):
        mixed = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = [
                float(q[c, part] @ k[n, part]) / math.sqrt(width) if mask[n] else -math.inf
                for n in range(len(tokens))
            ]
            peak = max(logits)
            weights = [math.exp(logit - peak) for logit in logits]
            total = sum(weights)
            mixed.append(sum(w / total * v[n, part] for n, w in enumerate(weights)))
        rows.append(torch.cat(mixed))
    return attention.out(torch.stack(rows))


def _slow_layer(layer: Any, centres: Tensor, tokens: Tensor, mask: list[bool]) -> Tensor:
    if layer.look_around is not None:
        looked = _slow_attention(layer.look_around, centres, centres, [True] * len(centres))
        centres = layer.norm1(centres + looked)
    centres = layer.norm2(centres + _slow_attention(layer.look_at_tokens, centres, tokens, mask))
    return layer.norm3(centres + layer.mlp[2](nn.functional.gelu(layer.mlp[0](centres))))


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_it_equals_a_loop_over_items_centres_heads_and_tokens(
    layers: int, self_attention: bool
) -> None:
    module = _module(layers=layers, self_attention=self_attention)
    tokens, mask = _tokens()
    found = module.text(tokens, mask)
    assert found.shape == (B, K, D)
    for b in range(B):
        expected = module.queries[0]
        for layer in module.decoders[0].layers:
            expected = _slow_layer(layer, expected, tokens[b], mask[b].tolist())
        assert torch.allclose(found[b], expected, atol=1e-10)


def test_order_and_padding_of_the_tokens_do_not_matter() -> None:
    module, (tokens, mask) = _module(), _tokens()
    plain = module.text(tokens, mask)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(module.text(tokens[:, order], mask[:, order]), plain)
    longer = torch.cat([tokens, torch.full((B, 2, D), 1e3).double()], 1)
    wider = torch.cat([mask, torch.zeros(B, 2).bool()], 1)
    assert torch.allclose(module.text(longer, wider), plain)
    assert torch.allclose(module.text(tokens[1:2, :3], mask[1:2, :3]), plain[1:2])
    assert not torch.allclose(module.text(tokens, torch.ones_like(mask)), plain)


def test_an_item_knows_nothing_of_the_others_and_a_text_nothing_of_any_video() -> None:
    """What makes every embedding computable beforehand: no item enters another's."""
    module, (tokens, mask) = _module(share_weights=True), _tokens()
    whole = module.text(tokens, mask)
    for b in range(B):
        assert torch.allclose(module.text(tokens[b : b + 1], mask[b : b + 1])[0], whole[b])
    leaf = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module.text(leaf, mask)[0].sum(), leaf)
    assert not gradient[1:].any() and gradient[0].abs().sum() > 0
    module.video(10 * tokens.flip(0), mask)
    assert torch.equal(module.text(tokens, mask), whole)


def test_shared_centres_and_weights_put_the_same_question_to_both() -> None:
    tokens, mask = _tokens()
    shared = _module()
    assert torch.equal(shared.text(tokens, mask), shared.video(tokens, mask))
    for options in ({"share_queries": False}, {"share_weights": False}):
        apart = _module(**options)
        assert not torch.allclose(apart.text(tokens, mask), apart.video(tokens, mask), atol=1e-3)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("score", ["aligned", "flat", "projected"])
def test_what_is_not_shared_costs_exactly_its_parameters(score: str) -> None:
    both = _module(score=score, width=6)
    decoder = _count(both.decoders[0])
    assert _count(both) == K * D + decoder
    assert _count(_module(score=score, width=6, share_queries=False)) == _count(both) + K * D
    assert _count(_module(score=score, width=6, share_weights=False)) == _count(both) + decoder
    neither = _module(score=score, width=6, share_queries=False, share_weights=False)
    assert _count(neither) == 2 * _count(both)


def test_a_layer_has_the_parameters_of_a_standard_decoder_layer() -> None:
    standard = nn.TransformerDecoderLayer(D, 2, 4 * D, activation="gelu")
    assert _count(CentreLayer(D, SimpleNamespace(**OPTIONS))) == _count(standard)


@torch.no_grad()
def test_embeddings_are_unit_vectors_whose_product_is_the_local_similarity() -> None:
    tokens, mask = _tokens()
    for score in ("aligned", "flat", "projected"):
        module = _module(score=score, width=6, share_weights=False)
        text, video = module.text(tokens, mask), module.video(tokens.flip(1), mask)
        one, other = module.embed(text), module.embed(video)
        assert one.shape == (B, 6 if score == "projected" else K * D)
        assert torch.allclose(one.norm(dim=1), torch.ones(B).double())
        for i in range(B):
            for j in range(B):
                if score == "aligned":
                    cosines = nn.functional.cosine_similarity(text[i], video[j], dim=-1)
                    expected = sum(cosines.tolist()) / K
                else:
                    flat = (text[i].flatten(), video[j].flatten())
                    expected = float(nn.functional.cosine_similarity(*flat, dim=0))
                assert float(one[i] @ other[j]) == pytest.approx(expected)


def test_projected_is_concatenate_and_project() -> None:
    tokens, mask = _tokens()
    plain, projected = _module(), _module(score="projected", width=6)
    for layer, twin in zip(plain.decoders[0].layers, projected.decoders[0].layers, strict=True):
        twin.load_state_dict(layer.state_dict())
    projected.queries[0].data.copy_(plain.queries[0].data)
    joined = torch.stack([torch.cat(list(row)) for row in plain.text(tokens, mask)])
    linear = projected.decoders[0].project
    expected = joined @ linear.weight.mT + linear.bias
    assert torch.allclose(projected.text(tokens, mask), expected[:, None])


def test_its_operations_are_counted_and_follow_the_formula() -> None:
    module, (tokens, mask) = _module(layers=2), _tokens()
    found = []
    for items in (1, 3):
        with torch.inference_mode():
            found.append(count_flops(lambda n=items: module.text(tokens[:n], mask[:n])))
    own = 2 * (4 * K * D * D + 2 * K * K * D)  # self-attention: projections, then two products
    cross = 2 * (2 * K * D * D + 2 * L * D * D + 2 * K * L * D)
    query = 2 * K * D * D  # of the centres, the same for all items in the first layer
    mlp = 2 * (2 * K * D * 4 * D)
    shared = own + query  # of the first layer
    each = cross - query + mlp + own + cross + mlp
    assert found == [shared + each, shared + 3 * each]


def test_an_item_without_any_token_stays_finite() -> None:
    tokens, mask = _tokens()
    mask[2] = False
    assert _module().text(tokens, mask).isfinite().all()


def test_centres_start_small_and_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    module = CentreCorrelation(64, SimpleNamespace(**(OPTIONS | {"centres": 50, "dropout": 0.5})))
    assert module.queries[0].std().item() == pytest.approx(0.02, rel=0.1)
    tokens, mask = torch.randn(2, 3, 64), torch.ones(2, 3).bool()
    assert not torch.equal(module.text(tokens, mask), module.text(tokens, mask))
    module.eval()
    assert torch.equal(module.text(tokens, mask), module.text(tokens, mask))


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.ccm\.heads=3"):
        _module(heads=3)
