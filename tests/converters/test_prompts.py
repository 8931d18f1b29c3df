"""Templates: fields, braces, nothing else; a choice that depends on nothing but its key and the seed."""

from __future__ import annotations

import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v.converters.prompts import check_templates, choose, fields_of, fill
from phi3v.schema import UserError


def test_fields_and_braces() -> None:
    template = "{{not}} {one} and {two words}: {one}"

    assert fields_of(template) == ["one", "two words", "one"]
    assert fill(template, {"one": "1", "two words": "{one}"}) == "{not} 1 and {one}: 1", "values are not filled again"


@given(st.text(string.ascii_letters + " \n{}'\"", max_size=20))
@settings(deadline=None)
def test_simple_templates_mean_what_pythons_do(text: str) -> None:
    """Where `str.format` takes a template, and its fields are plain names, the result is the same."""
    template = text.replace("{", "{{").replace("}", "}}") + "{name}!"

    assert fill(template, {"name": "x"}) == template.format(name="x")


@pytest.mark.parametrize("template", ["{", "}", "a {b", "a} b", "{}", "{a{b}}"])
def test_a_brace_that_is_no_field_is_told(template: str) -> None:
    with pytest.raises(UserError, match="is no field\n.*write {{ and }}"):
        fields_of(template)


@pytest.mark.parametrize("template", ["{question.__class__}", "{question!r}", "{question:>10}", "{question[0]}", "{0}"])
def test_nothing_but_names_is_a_field(template: str) -> None:
    with pytest.raises(UserError, match="which is not there"):
        check_templates("--prompt", [template], ["question"])


def test_an_unknown_field_gets_the_real_ones_and_a_hint() -> None:
    with pytest.raises(UserError) as caught:
        check_templates("--prompt", ["{Caption}?"], ["caption", "label"])

    assert str(caught.value) == (
        "--prompt names {Caption}, which is not there\n  fix: did you mean 'caption'? There are: caption, label"
    )
    with pytest.raises(UserError, match="an empty --prompt"):
        check_templates("--prompt", [" "], ["caption"])


def test_a_choice_is_even_and_the_same_again() -> None:
    templates = list("abcdefgh")
    chosen = [choose(templates, f"dev-{number}", 0) for number in range(8000)]

    assert chosen == [choose(templates, f"dev-{number}", 0) for number in range(8000)]
    counts = Counter(chosen)
    assert len(counts) == 8
    # 1,000 each but for chance: six standard deviations of the binomial are 178.
    assert max(abs(count - 1000) for count in counts.values()) < 178
    assert chosen != [choose(templates, f"dev-{number}", 1) for number in range(8000)]
