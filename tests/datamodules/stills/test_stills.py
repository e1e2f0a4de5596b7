"""Stills as a data set: drawn once, the same for the same seed, hard negatives in one batch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from tiny import TINY_MODEL, TINY_RUN, TINY_STILLS
from tvr_bench import config
from tvr_bench.datamodules.check import check
from tvr_bench.datamodules.signvid.build import build
from tvr_bench.datamodules.signvid.captions import caption
from tvr_bench.datamodules.signvid.groups import home_of
from tvr_bench.datamodules.signvid.lettering import home_of_words
from tvr_bench.datamodules.signvid.spec import PRESETS
from tvr_bench.datamodules.signvid.vocabulary import ADJECTIVES, MEDIA, NOUNS
from tvr_bench.datamodules.stills.datamodule import StillsDataModule
from tvr_bench.datamodules.tokens import train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.media.cache import FrameStore

SPLITS = ("train", "val", "test")
_MOTION = ("move", "jump", "grows", "shrinks", "fades", "chase", "pass", "push", "circle", "then")


def _data(*settings: str, root: Path | None = None) -> StillsDataModule:
    cache = [f"paths.cache={root}"] if root else []
    tiny = [*TINY_MODEL, *TINY_RUN, *TINY_STILLS]
    return StillsDataModule(
        config.load(["model=meanpool", "data=stills", *tiny, *cache, *settings])
    )


@pytest.fixture(scope="module")
def whole() -> StillsDataModule:
    """The data set of the recipe, of which nothing is drawn; a tenth of the training groups."""
    return StillsDataModule(config.load(["model=meanpool", "data=stills", "data.groups=500"]))


@pytest.fixture(scope="module")
def videos() -> set[str]:
    """Every caption of SignVid's val and test, of the presets that are made in seconds."""
    built = [build(PRESETS[name]) for name in ("tiny", "small")]
    return {one.caption for data in built for name in ("val", "test") for one in data[name]}


def test_no_still_shows_what_val_or_test_own(whole: StillsDataModule) -> None:
    for split in SPLITS:
        for scene in whole.scenes[split]:
            assert {home_of(scene.place, thing) for thing in scene.objects} == {"train"}
            quoted = [sign.words for sign in scene.signs if sign.relevant]
            assert all(home_of_words(*words) == "train" for words in quoted)


def test_no_caption_of_val_or_test_is_a_stills(whole: StillsDataModule, videos: set[str]) -> None:
    told = {still.caption for split in SPLITS for still in whole.stills[split]}
    assert not told & videos
    told |= {caption(scene) for split in SPLITS for scene in whole.scenes[split]}
    told |= set(whole.texts_of_tokenizer(whole.split("train")))
    assert not told & videos, "the tokenizer reads these"


def test_the_tokenizer_has_a_token_for_every_word_of_signvid(whole: StillsDataModule) -> None:
    tokenizer = train_tokenizer(whole.texts_of_tokenizer(whole.split("train")), 2048, 32)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    scenes = build(PRESETS["tiny"])["train"]
    texts = [text for one in scenes for text in (one.caption, *one.paraphrases)]
    assert max(len(one.ids) for one in tokenizer.encode_batch(texts)) <= 32, "none is cut"


@pytest.mark.slow
def test_all_presets_and_all_stills_share_no_caption() -> None:
    data = StillsDataModule(config.load(["model=meanpool", "data=stills"]))
    built = [build(PRESETS[name]) for name in PRESETS]
    held = {one.caption for some in built for name in ("val", "test") for one in some[name]}
    for split in SPLITS:
        assert not held & {still.caption for still in data.stills[split]}
        assert not held & set(map(caption, data.scenes[split]))
        for scene in data.scenes[split]:
            assert {home_of(scene.place, thing) for thing in scene.objects} == {"train"}


def test_a_caption_tells_no_motion_no_order_and_no_sign(whole: StillsDataModule) -> None:
    words: set[str] = set()
    for still in whole.stills["train"]:
        own = set(re.findall(r"[a-z]+", still.caption))
        assert not own & {word for sign in still.scene.signs for word in sign.words}
        assert not (own & set(ADJECTIVES) and own & set(NOUNS)), "no pair that a sign may say"
        words |= own
    assert words & set(NOUNS), "some captions have words that no picture shows"
    assert not {word for word in words if word.startswith(_MOTION)}
    assert {"grown", "shrunk", "faded", "air", "far", "front", "behind", "above", "below"} <= words


def test_what_carries_words_is_told_where_it_is_to_be_seen(whole: StillsDataModule) -> None:
    told = Counter[str]()
    for still in whole.stills["train"]:
        time = still.index / still.scene.fps
        signs = [s for s in still.scene.signs if s.relevant and s.start <= time < s.end]
        shown = {MEDIA[sign.medium] for sign in signs}
        for medium in (m for m in MEDIA.values() if f" a {m}" in still.caption):
            assert medium in shown
            told[medium] += 1
    assert set(told) == set(MEDIA.values())


def test_the_same_seed_gives_the_same_stills_and_another_seed_others() -> None:
    one, same, other = _data(), _data("seed=5"), _data("data.seed=1")
    for split in SPLITS:
        assert one.split(split) == same.split(split)
        assert one.videos_hash(split) == same.videos_hash(split) != other.videos_hash(split)
        assert one.annotations_hash(split) != other.annotations_hash(split)


def test_pictures_of_four_scenes_are_one_group_of_hard_negatives() -> None:
    for together in (1, 2):
        data = _data(f"data.together={together}")
        groups = defaultdict(list)
        for still in data.stills["train"]:
            groups[still.group].append(still)
        assert {len(group) for group in groups.values()} == {4 * together}
        assert all(len({one.scene.id for one in group}) == 4 for group in groups.values())
        assert all(len({one.scene.group for one in group}) == 1 for group in groups.values())
    units = data.units(data.split("train"))
    assert set(Counter(units.values()).values()) == {8}


def test_captions_of_a_group_differ_where_its_pictures_do(whole: StillsDataModule) -> None:
    tags = defaultdict(set)
    for still in whole.stills["train"]:
        tags[still.group].add(tuple(re.findall(r"with the tag (.*)|^(.*): ", still.caption)))
    assert all(len(some) == 1 for some in tags.values()), "one wording"
    assert len({some for group in tags.values() for some in group}) > 100


def test_no_two_stills_of_a_test_have_one_caption(whole: StillsDataModule) -> None:
    for split in ("val", "test"):
        texts = [query.text for query in whole.split(split).queries]
        assert len(set(texts)) == len(texts) > 300


def test_stills_are_drawn_once_and_again_where_they_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def drawn() -> tuple[FrameStore, list[Path]]:
        data = _data(root=tmp_path)
        data.prepare()
        store = data.items("train").frames
        assert isinstance(store, FrameStore)
        return store, sorted((tmp_path / "stills").glob("*.safetensors"))

    store, files = drawn()
    assert len(files) == 3 and len(store) == 32
    before = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files}
    frames = {name: np.array(store.get(name)[0]) for name in store}
    assert all(one.shape == (1, 32, 48, 3) and one.std() > 10 for one in frames.values())
    assert len({one.tobytes() for one in frames.values()}) > 16

    files[1].write_bytes(before[files[1]][:-9] + b"otherwise")
    again, _ = drawn()
    assert "damaged" in caplog.text
    assert {path: path.read_bytes() for path in files} == before
    assert [path.stat().st_mtime_ns == times[path] for path in files] == [True, False, True]
    assert all(np.array_equal(again.get(name)[0], one) for name, one in frames.items())


def test_what_stills_cannot_be_is_said() -> None:
    with pytest.raises(UserError, match=r"video\.frames=1"):
        _data("video.frames=2")
    with pytest.raises(UserError, match=r"video\.frames=1"):
        _data("eval.frames=2")
    with pytest.raises(UserError, match=r"ocr\.enabled=false"):
        _data("ocr.enabled=true")


def test_there_are_no_files_to_check(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files to check"):
        check(_data(root=tmp_path), tmp_path / "out")
