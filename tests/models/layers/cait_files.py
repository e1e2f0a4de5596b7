"""CaiT and BERT with random weights, as small as can be, in the files of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

CAPTIONS = ["a dog runs to the left", "A red sign says open", "two cats"]
SIDE, IMAGE, TEXT = 32, 16, 24
CAIT_ARGS: dict[str, Any] = {
    "img_size": SIDE,
    "embed_dim": IMAGE,
    "depth": 2,
    "num_heads": 2,
    "init_values": 0.5,
}


def save_cait(folder: Path) -> None:
    import timm

    model = timm.create_model("cait_s24_224", num_classes=5, **CAIT_ARGS)
    timm.models.save_for_hf(model, str(folder), model_args=CAIT_ARGS, safe_serialization=True)


def save_bert(folder: Path) -> None:
    """As the hub has it: a masked language model, with the old names of its norms."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForPreTraining

    made = BertForPreTraining(
        BertConfig(
            vocab_size=200,
            hidden_size=TEXT,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )
    made.save_pretrained(folder)
    file = folder / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for key, value in load_file(file).items():
        for new, name in old.items():
            key = key.replace(new, name)
        tensors[key] = value.clone()
    save_file(tensors, file, metadata={"format": "pt"})
    words = sorted({word for caption in CAPTIONS for word in caption.lower().split()})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(vocab)})
    tokenizer.save(str(folder / "tokenizer.json"))
