"""The shared datamodule: caches, tokens and batches of a data set's splits.

B batch, F frames, W windows, L words, H and W pixels.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from rich.console import Console
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

from tvr_bench.contents import Contents
from tvr_bench.datamodules import tokens
from tvr_bench.datamodules.contents import contents_hash, same_file, videos_hash
from tvr_bench.datamodules.items import Encoded, Items, Mirrored
from tvr_bench.datamodules.loaders import retrieval_loaders, train_loader
from tvr_bench.datamodules.refusals import (
    check_bad_fraction,
    check_missing,
    check_readable,
    check_sources,
)
from tvr_bench.datamodules.types import Clip, Split, checked
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, settings_hash
from tvr_bench.media.cache import FrameStore, build_frames
from tvr_bench.media.captioner import build_windows
from tvr_bench.media.features import FeatureSpec, TextFeatures, VideoFeatures, feature_spec
from tvr_bench.media.given_text import build_given
from tvr_bench.parts import WHOLE, Part
from tvr_bench.schema import Config
from tvr_bench.settings import extracted, frame_spec, given_spec, split_frames, window_spec
from tvr_bench.shards import cores

SPLITS = ("train", "val", "test")
_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
_PAIRS = (("left", "right"), ("clockwise", "counterclockwise"))
_MIRRORED = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}


def trained(cfg: Config) -> bool:
    """Return whether a configuration trains anything; `trainer.epochs=0` tests as it is."""
    return cfg.trainer.epochs > 0 or cfg.trainer.steps is not None


class VideoTextDataModule(pl.LightningDataModule):
    """Clips and captions of one data set; a data set defines `read_split` and, if it renders or
    converts anything, `materialise`.
    """

    captions: ClassVar[str] = "all"  # or "paragraph": a clip's captions are joined to one
    no_files: ClassVar[str] = ""  # why no file of a video can be looked at, where none can

    def __init__(
        self,
        cfg: Config,
        tokenizer: Tokenizer | None = None,
        ledger: Ledger | None = None,
        *,
        scene_text: bool = True,
    ) -> None:
        """Take the configuration; `scene_text=False` reads none, for a model that uses none."""
        super().__init__()
        self.cfg = cfg
        self.reads_text = scene_text and cfg.ocr.enabled
        self.tokenizer = tokenizer
        self.ledger = ledger or Ledger()
        self.cache = Path(cfg.paths.cache)
        self.contents = Contents(self.cache)
        self.seconds: dict[str, float] = {}
        self.start: dict[str, int] | None = None  # the epoch and batch that training starts with
        self._splits: dict[str, Split] = {}
        self.remarks: list[str] = []  # what a person should know of how the data were read
        self._told = 0  # of these
        self._windows: dict[str, list[str]] = {}
        self._frames: dict[str, FrameStore | VideoFeatures] = {}
        self._items: dict[str, Items] = {}

    def materialise(self) -> None:
        """Make the files exist that the splits name; nothing where they come from the user."""

    def read_split(self, name: str) -> Split:
        """Return the split `train`, `val` or `test`."""
        raise NotImplementedError(f"{type(self).__name__} must define read_split")

    def texts_of_tokenizer(self, split: Split) -> Iterable[str]:
        """Return the texts that a tokenizer of the run's own is made from: a split's captions."""
        return (query.text for query in split.queries)

    def text_names(self, clip: Clip) -> tuple[str, ...]:
        """Return what scene text of a clip that others read may be filed under, the best first."""
        return (clip.id,)

    def notes(self) -> list[str]:
        """Return lines for a person: what is odd about the annotations and may change a score."""
        return []

    def unlike_papers(self) -> str:
        """Return why scores on these annotations cannot be held against the papers', "" if so."""
        return ""

    def remark(self, line: str) -> None:
        """Keep a line about how the data were read, once."""
        line = line.encode(errors="backslashreplace").decode()  # names may hold any byte
        if line not in self.remarks:
            self.remarks.append(line)

    def tell(self) -> None:
        """Print the remarks that were not printed before."""
        console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        for line in self.remarks[self._told :]:
            console.print(f"note: {line}")
        self._told = len(self.remarks)

    @property
    def variant(self) -> str:
        """Which edition or fold this is, such as `1ka`; numbers of two are not compared."""
        return ""

    @property
    def title(self) -> str:
        """What its user calls it, such as a file's name; "" where the name of the data set does."""
        return ""

    def units(self, split: Split) -> dict[str, str]:
        """Return by clip id what it shares its luck with: intervals draw such clips together."""
        return same_file(split)

    def mirror(self, caption: str) -> str:
        """Return what is true of a clip in a mirror: left is right there, and clockwise turns."""
        return re.sub(rf"\b({'|'.join(_MIRRORED)})\b", lambda m: _MIRRORED[m[1]], caption)

    @property
    def workers(self) -> int:
        """Processes that render, read text and decode."""
        asked = self.cfg.trainer.prepare_workers
        return cores() if asked is None else asked

    def prepare_data(self) -> None:
        """Fill the caches, on one process of each machine, unless `prepare` was called before."""
        if not self._items:
            self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare` made of the splits that a stage of Lightning's Trainer needs."""
        self.prepare(_STAGES.get(stage or "", SPLITS))

    def prepare(
        self, splits: Sequence[str] = SPLITS, part: Part = WHOLE, *, trains: bool = True
    ) -> None:
        """Make whatever `splits` need: files, scene text, frames, tokens; then hold it open.

        With a `part` only that part's frames and scene text are made. Raises UserError where too
        few training videos can be read, unless nobody `trains`.
        """
        todo = [name for name in splits if name not in self._items]
        if not todo:
            return
        check_sources(self, todo)
        self._timed("render", self.materialise)
        for name in todo:
            self.split(name)
        check_missing(self, todo)
        if self.reads_text:
            self._timed("ocr", lambda: self._read_text(todo, part))
        self._timed("frames", lambda: self._decode(todo, part))
        if self.tokenizer is None:
            texts = self.texts_of_tokenizer(self._read_by_all(todo, trains))
            self.tokenizer = tokens.build_tokenizer(self.cfg, texts)
        for name in todo:
            self._items[name] = self._open(name)
            for line in tokens.on_cut(self.cfg.text.words, name, self._items[name].cut):
                self.remark(line)
        if "train" in todo and part.whole and trains:
            check_bad_fraction(self)
            for name in todo:
                check_readable(self, name)

    def split(self, name: str) -> Split:
        """Return a split, read once and checked."""
        if name not in self._splits:
            split = checked(name, self.read_split(name))
            if name != "train" and self.cfg.eval.captions == "random":
                split = split.one_caption(self.cfg.seed)
            self._splits[name] = split
        return self._splits[name]

    def failed(self, name: str) -> set[str]:
        """Return the ids of a split's clips that could not be read."""
        store = self._frames[name]
        return {clip.id for clip in self.split(name).clips if clip.id not in store}

    def windows(self, clip_id: str) -> list[str]:
        """Return the W window captions of a clip; empty strings where no text was read."""
        return self._windows.get(clip_id) or [""] * self.cfg.ocr.windows

    def annotations_hash(self, name: str) -> str:
        """Return the SHA-256, as hex, of the sorted (caption, clip id) pairs of a split."""
        return settings_hash(sorted((q.text, q.clip_id) for q in self.split(name).queries), 64)

    def contents_hash(self, name: str) -> str:
        """Return the SHA-256, as hex, of a split's clips with their spans and of its captions."""
        return contents_hash(self.split(name))

    def videos_hash(self, name: str) -> str:
        """Return the SHA-256, as hex, of what the files of a split's clips hold."""
        return videos_hash(self.split(name), self.contents)

    @property
    def prepared(self) -> tuple[str, ...]:
        """The splits that are held open."""
        return tuple(self._items)

    def items(self, name: str) -> Items:
        """Return a prepared split as tensors by position."""
        return self._items[name]

    def use_encoded(self, name: str, store: Encoded) -> None:
        """Let a prepared split read what a frozen tower made of its frames."""
        self._items[name] = replace(self._items[name], encoded=store)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of matched pairs, in an order that seed and epoch alone decide."""
        place = self._rank(), self._world(), self._position
        loader = train_loader(self._items["train"], self.cfg, self._mirrored(), *place)
        if self.start is not None:
            loader.load_state_dict(self.start)
        return loader

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return the loaders of the validation split's texts and videos."""
        return self._retrieval_loaders("val")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return the loaders of the test split's texts and videos."""
        return self._retrieval_loaders("test")

    def _mirrored(self) -> Mirrored:
        """Return the tokens of every training caption in a mirror, if clips are to be mirrored."""
        if not self.cfg.trainer.mirror:
            return None
        assert self.tokenizer is not None
        queries = self.split("train").queries
        return tokens.encode(self.tokenizer, [self.mirror(query.text) for query in queries])

    def _retrieval_loaders(self, name: str) -> list[DataLoader[Any]]:
        check_readable(self, name)
        return retrieval_loaders(self._items[name], self.cfg, self._rank(), self._world())

    def _position(self) -> dict[str, int]:
        """Return the epoch, and the batch in it, that training does next."""
        loop: Any = self.trainer.fit_loop  # type: ignore[union-attr]
        batch = loop.epoch_loop.batch_progress.current.completed
        return {"epoch": loop.epoch_progress.current.processed, "batch": batch}

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _clips(self, splits: Sequence[str]) -> list[Clip]:
        return list({clip.id: clip for n in splits for clip in self.split(n).clips}.values())

    def _read_text(self, splits: Sequence[str], part: Part) -> None:
        clips, spec, root = self._clips(splits), window_spec(self.cfg), self.cache / "ocr"
        how: dict[str, Any] = {"workers": self.workers, "ledger": self.ledger, "part": part}
        how["contents"] = self.contents
        if given := given_spec(self.cfg):
            names = {clip.id: self.text_names(clip) for clip in clips}
            self._windows |= build_given(clips, names, given, spec, root, **how)
        else:
            self._windows |= build_windows(clips, spec, root, **how)

    def _decode(self, splits: Sequence[str], part: Part) -> None:
        for name in splits:
            if extracted(self.cfg):
                ids = [clip.id for clip in self.split(name).clips]
                self._frames[name] = VideoFeatures(ids, self._feature_spec(name))
                continue
            self._frames[name] = build_frames(
                self.split(name).clips,
                frame_spec(self.cfg, name),
                self.cache / "frames",
                workers=self.workers,
                ledger=self.ledger,
                part=part,
                contents=self.contents,
            )

    def _open(self, name: str) -> Items:
        assert self.tokenizer is not None
        split = self.split(name)
        captions = [self.windows(clip.id) for clip in split.clips] if self.reads_text else []
        words = None
        if extracted(self.cfg):
            words = TextFeatures(split.queries, self._feature_spec(name))
        return Items.build(split, self._frames[name], captions, self.tokenizer, words)

    def _feature_spec(self, name: str) -> FeatureSpec:
        return feature_spec(self.cfg, split_frames(self.cfg, name))

    def _read_by_all(self, splits: Sequence[str], trains: bool) -> Split:
        """Return the training split, whose captions make the tokens, or one of `splits`.

        The latter only where there is no training split and nobody trains: no weights know any
        tokens then.
        """
        try:
            return self.split("train")
        except UserError:
            if trains:
                raise
            return self.split(splits[-1])

    def missing(self, name: str) -> list[Clip]:
        """Return the clips of a split whose files are not there."""
        return [clip for clip in self.split(name).clips if not clip.path.is_file()]

    def _timed(self, phase: str, work: Callable[[], None]) -> None:
        start = time.perf_counter()
        work()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
