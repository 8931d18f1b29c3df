from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.fit import Fit, Fits, Skipped, encode, fit, without_oldest
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_processor


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    processor = tiny_processor()
    processor.image_processor.num_crops = 16
    return Encoder(processor, tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    def make(name: str, size: tuple[int, int] = (320, 240)) -> str:
        Image.new("RGB", size).save(tmp_path / name)
        return name

    return make


def record(*turns: Turn, system: str | None = None) -> Conversation:
    return Conversation(id="r", source="s", turns=turns, system=system)


@pytest.fixture
def talk(picture: Callable[..., str]) -> Conversation:
    return record(
        Turn(user="What is this?", assistant="a boat", images=(picture("a.png"),)),
        Turn(
            user="And these two?", assistant="a car", images=(picture("b.png", (640, 200)), picture("c.png", (99, 99)))
        ),
        Turn(user="Which is faster?", assistant="the car"),
    )


def test_the_measure_is_the_length_of_what_is_encoded(encoder: Encoder, talk: Conversation) -> None:
    for num_crops in (1, 2, 4, 9, 16):
        example = encoder(talk, num_crops=num_crops)

        assert encoder.measure(talk).tokens(num_crops) == len(example.input_ids)
        assert encoder.measure(talk).labelled == sum(label != IGNORED for label in example.labels)
        prompt = encoder(talk, num_crops=num_crops, answered=False)
        assert encoder.measure(talk, answered=False).tokens(num_crops) == len(prompt.input_ids)


def test_the_most_crops_that_fit_are_taken_then_turns_are_dropped(encoder: Encoder, talk: Conversation) -> None:
    """By brute force: every number of turns and crops, encoded for real."""
    lengths = {
        (dropped, crops): len(encoder(without_oldest(talk, dropped), num_crops=crops).input_ids)
        for dropped in range(3)
        for crops in range(16, 0, -1)
    }
    for limit in (5000, 3000, 2000, 1000, 900, 500, 20):
        fitting = [(dropped, -crops) for (dropped, crops), length in lengths.items() if length <= limit]

        result = fit(talk, encoder, limit)

        if not fitting:
            assert isinstance(result, Skipped)
            assert result.code == "too-long"
            assert str(limit) in result.reason
            continue
        dropped, crops = min(fitting)
        assert isinstance(result, Fit)
        assert (result.dropped_turns, result.num_crops, result.tokens) == (dropped, -crops, lengths[dropped, -crops])


def test_no_image_is_cut(encoder: Encoder, talk: Conversation) -> None:
    result = fit(talk, encoder, 1000)

    assert isinstance(result, Fit)
    example = encoder(without_oldest(talk, result.dropped_turns), num_crops=result.num_crops)
    assert example.images is not None
    for number, (height, width) in enumerate(example.images["image_sizes"].tolist(), 1):
        rows, columns = height // 336, width // 336
        assert example.input_ids.count(-number) == (rows * columns + 1) * 144 + 1 + (rows + 1) * 12


def test_tags_left_count_from_one_and_keep_their_images() -> None:
    turns = (
        Turn(user="<|image_3|> and <|image_1|>", assistant="x", images=("a.png", "b.png")),
        Turn(user="see <|image_4|>, <|image_2|>", assistant="y", images=("c.png", "d.png")),
    )

    shorter = without_oldest(record(*turns, system="Be brief."), 1)

    assert shorter.turns == (Turn(user="see <|image_2|>, <|image_1|>", assistant="y", images=("b.png", "d.png")),)
    assert shorter.system == "Be brief."


def test_exif_orientation_counts_where_it_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (900, 300)).save(tmp_path / "turned.jpg", exif=exif)
    asked = record(Turn(user="Q", assistant="A", images=("turned.jpg",)))
    lengths = []
    for apply in (False, True):
        processor = tiny_processor()
        processor.image_processor.num_crops = 4
        processor.image_processor.apply_exif_orientation = apply
        encoder = Encoder(processor, tmp_path)

        assert encoder.measure(asked).tokens(4) == len(encoder(asked).input_ids)
        lengths.append(encoder.measure(asked).tokens(4))

        assert encoder.measure(asked, sizes={"turned.jpg": (900, 300)}).tokens(4) == lengths[-1]

    assert lengths[0] != lengths[1]


def test_images_that_were_opened_are_not_opened_again(encoder: Encoder, talk: Conversation, tmp_path: Path) -> None:
    """Their sizes are enough: the files are taken away."""
    own = records(tmp_path, talk, record(Turn(user="Q", assistant="A")), talk)
    before, after = Fits(), Fits()
    list(before.measure(own, encoder, max_length=1500, on_error="fail"))
    sizes = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            sizes[path.name] = image.size
        path.unlink()

    list(after.measure(own, encoder, max_length=1500, on_error="fail", sizes=sizes))

    assert after.digest() == before.digest()
    assert len(sizes) == 3


def test_a_known_size_that_the_model_cannot_take_is_told_with_its_record(
    encoder: Encoder, picture: Callable[..., str], tmp_path: Path
) -> None:
    thin = records(tmp_path, record(Turn(user="Q", assistant="A", images=(picture("a.png", (9000, 1)),))))

    with pytest.raises(UserError, match=r"a\.png: cannot read this image of record 'r' \(.*too thin"):
        list(Fits().measure(thin, encoder, max_length=9999, on_error="fail", sizes={"a.png": (9000, 1)}))


def test_texts_of_many_records_are_counted_as_each_by_itself(encoder: Encoder, talk: Conversation) -> None:
    several = [talk, record(Turn(user="Q", assistant="A"), system="Be brief."), talk]

    for answered in (True, False):
        counted = list(encoder.count_texts(several, answered=answered))

        assert counted == [next(encoder.count_texts([own], answered=answered)) for own in several]
        assert counted[1].tokens == len(encoder(several[1], answered=answered).input_ids)


def records(folder: Path, *several: Conversation) -> Records:
    path = folder / "x_train.jsonl"
    path.write_text("".join(own.to_line() for own in several))
    return Records([path])


def test_a_picture_that_cannot_be_read_stops_or_is_skipped(
    encoder: Encoder, picture: Callable[..., str], tmp_path: Path
) -> None:
    good = record(Turn(user="Q", assistant="A", images=(picture("a.png"),)))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = record(Turn(user="Q", assistant="A", images=("bad.png",)))
    own = records(tmp_path, good, bad, good)

    with pytest.raises(UserError, match=r"bad\.png: cannot read this image of record 'r'"):
        list(Fits().measure(own, encoder, max_length=9999, on_error="fail"))
    fits = Fits()
    assert list(fits.measure(own, encoder, max_length=9999, on_error="skip")) == [1, 2, 3]

    assert fits.kept == [0, 2]
    assert fits.skipped[1].code == "image"
    assert "bad.png: cannot read" in fits.skipped[1].reason
    assert fits[0] == fits[2] == fit(good, encoder, 9999)


def test_a_fit_tells_texts_and_pictures_apart(encoder: Encoder, picture: Callable[..., str]) -> None:
    """As many pictures as the image processor makes crops, and the whole view of each image that has several."""
    own = record(Turn(user="Q", assistant="A", images=(picture("a.png"), picture("b.png"))))

    how = fit(own, encoder, 9999)

    assert isinstance(how, Fit)
    example = encode(own, encoder, how)
    assert how.texts == sum(token >= 0 for token in example.input_ids)
    assert example.images is not None
    counts = example.images["crop_counts"].tolist()
    assert how.pictures == sum(count + (count > 1) for count in counts)
