import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Conversation, Turn
from phi3v.trainer.prompt import Segment, segments


def record(*turns: Turn, system: str | None = None) -> Conversation:
    return Conversation(id="r", source="s", turns=turns, system=system)


def flat(parts: list[Segment]) -> str:
    """Write images as tags, and what is learned in braces."""
    return "".join(
        f"<|image_{part.image}|>" if part.image else (f"{{{part.text}}}" if part.supervised else part.text)
        for part in parts
    )


def test_images_come_first_back_to_back_then_a_line_feed() -> None:
    made = segments(record(Turn(user="Which?", assistant="B", images=("a", "b"))))

    assert flat(made) == "<|user|>\n<|image_1|><|image_2|>\nWhich?<|end|>\n<|assistant|>\n{B<|end|>\n<|endoftext|>}"


def test_a_text_only_turn_has_no_line_feed_in_front() -> None:
    assert flat(segments(record(Turn(user="Hi", assistant="Yo")))).startswith("<|user|>\nHi<|end|>")


def test_tags_stay_where_they_stand() -> None:
    made = segments(record(Turn(user="<|image_2|> or <|image_1|>?", assistant="2", images=("a", "b"))))

    assert flat(made).startswith("<|user|>\n<|image_2|> or <|image_1|>?<|end|>\n")


def test_turns_share_one_numbering_and_one_end_of_text() -> None:
    made = segments(
        record(
            Turn(user="One?", assistant="1", images=("a",)),
            Turn(user="Two?", assistant="2"),
            Turn(user="Three?", assistant="3", images=("b",)),
            system="Be brief.",
        )
    )

    assert flat(made) == (
        "<|system|>\nBe brief.<|end|>\n"
        "<|user|>\n<|image_1|>\nOne?<|end|>\n<|assistant|>\n{1<|end|>\n}"
        "<|user|>\nTwo?<|end|>\n<|assistant|>\n{2<|end|>\n}"
        "<|user|>\n<|image_2|>\nThree?<|end|>\n<|assistant|>\n{3<|end|>\n<|endoftext|>}"
    )


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1).filter(str.strip)
TURNS = st.lists(
    st.builds(Turn, user=TEXT, assistant=TEXT, images=st.lists(st.just("i"), max_size=2).map(tuple)),
    min_size=1,
    max_size=3,
)


@given(TURNS, st.none() | TEXT)
def test_a_prompt_is_the_training_text_before_the_last_answer(turns: list[Turn], system: str | None) -> None:
    whole = segments(record(*turns, system=system))

    prompt = segments(record(*turns, system=system), answered=False)

    assert prompt == whole[:-1]
    assert whole[-1].text == f"{turns[-1].assistant}<|end|>\n<|endoftext|>"


@given(TURNS)
def test_what_is_learned_is_exactly_the_answers_and_their_ends(turns: list[Turn]) -> None:
    learned = "".join(part.text for part in segments(record(*turns)) if part.supervised)

    assert learned == "".join(f"{turn.assistant}<|end|>\n" for turn in turns) + "<|endoftext|>"


@given(TURNS)
def test_no_two_texts_of_one_kind_follow_each_other(turns: list[Turn]) -> None:
    made = segments(record(*turns))

    for one, other in itertools.pairwise(made):
        assert one.image or other.image or one.supervised != other.supervised
    assert all(bool(part.text) != bool(part.image) for part in made)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([Turn(user="Q")], "turn 1 of record 'r' has no 'assistant'"),
        ([Turn(user="Q"), Turn(user="Q", assistant="A")], "turn 1 of record 'r' has no 'assistant'"),
        ([Turn(user="a<|end|>", assistant="A")], r"control token '<\|end\|>'"),
        ([Turn(user="Q", assistant="<|image_1|>", images=("a",))], r"control token '<\|image_1\|>'"),
        ([Turn(user="Q", assistant="A", answers=("</s>",))], "control token '</s>'"),
        ([Turn(user="<|image_1|>", assistant="A")], r"tags the images \[1\] and has 0"),
        ([Turn(user="<|image_2|>", assistant="A", images=("a", "b"))], r"tags the images \[2\] and has 2"),
        ([Turn(user="<|image_1|><|image_1|>", assistant="A", images=("a",))], r"tags the images \[1, 1\] and has 1"),
    ],
)
def test_a_record_against_the_rules_is_refused(turns: list[Turn], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segments(record(*turns))


def test_an_open_last_turn_is_a_prompt() -> None:
    assert flat(segments(record(Turn(user="Q")), answered=False)) == "<|user|>\nQ<|end|>\n<|assistant|>\n"


def test_equal_texts_of_user_and_assistant_do_not_hide_a_tag() -> None:
    text = "<|image_1|>"

    with pytest.raises(ValueError, match="control token"):
        segments(record(Turn(user=text, assistant=text, images=("a",))))
