"""Where pretrained towers come from; nothing here imports torch."""

from __future__ import annotations

CLIP = {
    "clip_vit_b32": "openai/clip-vit-base-patch32",
    "clip_vit_b16": "openai/clip-vit-base-patch16",
}
CLIP_ENDS = ("<|startoftext|>", "<|endoftext|>")  # around every text
CAIT_BERT = {  # by the name of the folder under backbone.weights
    "cait_s24_224": "timm/cait_s24_224.fb_dist_in1k",
    "bert-base-uncased": "google-bert/bert-base-uncased",
}
OPENAI = {  # file name -> backbone and SHA-256; the latter is a part of OpenAI's download address
    "ViT-B-32.pt": (
        "clip_vit_b32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    "ViT-B-16.pt": (
        "clip_vit_b16",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
}
SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"
