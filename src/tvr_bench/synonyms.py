"""What keys and choices are called elsewhere, so that a name known from there finds ours."""

from __future__ import annotations

import re
from collections.abc import Iterable

# last part of a key, in whatever section it is looked for -> ours
KEYS = {
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr"), "optim.lr"),
    **dict.fromkeys(("coef_lr", "clip_lr", "backbone_learning_rate"), "optim.backbone_lr"),
    **dict.fromkeys(("wd", "decay", "l2"), "optim.weight_decay"),
    **dict.fromkeys(("optimizer", "optimiser", "optim"), "optim.name"),
    **dict.fromkeys(("warmup_proportion", "warmup_ratio", "warmup_steps"), "optim.warmup"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "optim.schedule"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "gradient_clip_val"), "optim.clip"),
    **dict.fromkeys(("temperature", "logit_scale"), "loss.scale"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs", "epoch"), "trainer.epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "iterations"), "trainer.steps"),
    **dict.fromkeys(("batchsize", "bs", "train_batch_size"), "trainer.batch_size"),
    **dict.fromkeys(("accumulate_grad_batches", "grad_accumulation"), "trainer.micro_batch"),
    **dict.fromkeys(("eval_batch_size", "val_batch_size", "test_batch_size"), "eval.batch_size"),
    **dict.fromkeys(("num_workers", "num_thread_reader", "n_workers"), "trainer.workers"),
    **dict.fromkeys(("gpus", "gpu", "num_gpus", "n_gpu", "ngpus"), "trainer.devices"),
    **dict.fromkeys(("num_nodes", "nnodes"), "trainer.nodes"),
    **dict.fromkeys(("device", "cuda"), "trainer.accelerator"),
    **dict.fromkeys(("fp16", "bf16", "amp", "half_precision", "dtype"), "trainer.precision"),
    **dict.fromkeys(("gradient_checkpointing", "grad_checkpoint"), "backbone.checkpointing"),
    **dict.fromkeys(("freeze", "freeze_backbone", "freeze_clip"), "backbone.frozen"),
    **dict.fromkeys(("arch", "clip_arch", "pretrained_clip_name", "tower"), "backbone.name"),
    **dict.fromkeys(("embed_dim", "hidden_size", "hidden_dim"), "backbone.width"),
    **dict.fromkeys(("num_layers", "n_layers"), "backbone.layers"),
    **dict.fromkeys(("num_heads", "n_heads"), "backbone.heads"),
    **dict.fromkeys(("max_words", "max_length", "max_len", "seq_len", "tokens"), "text.words"),
    **dict.fromkeys(("max_frames", "num_frames", "n_frames", "nframes"), "video.frames"),
    **dict.fromkeys(("image_size", "img_size", "resolution", "input_size"), "video.size"),
    **dict.fromkeys(("random_seed", "manual_seed", "rng_seed"), "seed"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir", "runs"), "run.root"),
    **dict.fromkeys(("resume", "exp_name", "experiment", "resume_from"), "run.name"),
    **dict.fromkeys(("init_model", "ckpt", "checkpoint", "ckpt_path", "load"), "run.weights"),
    **dict.fromkeys(("cache_dir",), "paths.cache"),
    **dict.fromkeys(("data_path", "data_dir", "data_root"), "data.root"),
    **dict.fromkeys(("video_dir", "video_path", "features_path"), "data.videos"),
    **dict.fromkeys(("csv_path", "csv_file"), "data.file"),
    **dict.fromkeys(("dataset", "datatype"), "data.name"),
}
# what a choice is called elsewhere -> ours, by key
CHOICES = {
    "trainer.accelerator": {"cuda": "gpu", "mps": "gpu", "rocm": "gpu"},
    "trainer.precision": {
        **dict.fromkeys(("fp32", "float32", "32-true"), "32"),
        **dict.fromkeys(("fp16", "float16", "16-mixed"), "16"),
        **dict.fromkeys(("bfloat16", "bf16-mixed"), "bf16"),
    },
    "backbone.name": {
        **dict.fromkeys(("ViT-B/32", "clip-vit-base-patch32"), "clip_vit_b32"),
        **dict.fromkeys(("ViT-B/16", "clip-vit-base-patch16"), "clip_vit_b16"),
    },
    "backbone.frozen": {
        **dict.fromkeys(("true", "yes", "on", "y", "1", "both", "towers"), "all"),
        **dict.fromkeys(("false", "no", "off", "n", "0"), "none"),
        **dict.fromkeys(("vision", "visual", "video"), "image"),
    },
    "video.crop": {"center": "centre", "center_crop": "centre"},
}


def same(name: str, known: Iterable[str]) -> str | None:
    """Return the one known name that is `name` but for case and punctuation, None for none."""
    found = {one for one in known if folded(one) == folded(name)} if folded(name) else set()
    return found.pop() if len(found) == 1 else None


def folded(name: str) -> str:
    """Return a name in lower case, letters and digits alone: `MSR-VTT` is `msrvtt`."""
    return re.sub(r"[\W_]+", "", name.casefold())


def known_choice(key: str, text: str) -> str | None:
    """Return our word for a choice of a key that is called `text` elsewhere, None for none."""
    table = CHOICES.get(key, {})
    name = same(text, table)
    return table[name] if name else None
