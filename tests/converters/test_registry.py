import dataclasses
from typing import Annotated, get_origin, get_type_hints

import pytest

from phi3v.converters.registry import CONVERTERS, converter
from phi3v.schema import UserError


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_built_in_converter_has_what_the_protocol_asks(name: str) -> None:
    module = converter(name)

    assert module.__doc__
    assert "Source:" in module.__doc__
    assert "Licence:" in module.__doc__
    assert module.SUMMARY
    assert module.MODULES
    assert dataclasses.is_dataclass(module.Options)
    hints = get_type_hints(module.Options, include_extras=True)
    assert all(get_origin(hint) is Annotated for hint in hints.values())
    assert callable(module.plan)
    assert callable(module.render)
    assert callable(module.fetch)


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(UserError, match="'ucf10'\n  fix: did you mean ucf101"):
        converter("ucf10")


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(UserError, match="choose one of: .*ucf101"):
        converter("imagenet")
