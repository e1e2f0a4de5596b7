"""Settings of the smallest runs that are still runs."""

from __future__ import annotations

# The smallest towers and the fewest frames: what is tested is that a run is right, not good.
TINY_MODEL = (
    "backbone.weights=none",
    "backbone.width=16",
    "backbone.heads=2",
    "backbone.layers=1",
    "backbone.text_layers=1",
    "video.frames=3",
    "video.size=[32,48]",
    "text.words=32",
    "text.vocab=400",
)
TINY_RUN = (
    "ocr.enabled=false",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.threads=1",
    "trainer.prepare_workers=0",
    "trainer.batch_size=8",
    "eval.batch_size=8",
    "trainer.steps=3",
    "eval.every=1",
    "log.tensorboard=false",
    "run.picture=false",
)
TINY_SIGNVID = ("data.preset=tiny", "data.train=16", "data.val=16", "data.test=16")
# The smallest stills; with `TINY_MODEL` without its frames.
TINY_STILLS = ("data.groups=4", "data.stills=2", "data.test_groups=2", "video.frames=1")
