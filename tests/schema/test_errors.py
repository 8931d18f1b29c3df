import pickle
from pathlib import Path

import pytest

from phi3v.schema import UserError
from phi3v.schema.errors import require


def test_it_reads_as_place_fault_and_remedy() -> None:
    error = UserError("no class folders", where=Path("/data/ucf"), fix="point --src_dir at the unpacked UCF-101")

    assert str(error) == "/data/ucf: no class folders\n  fix: point --src_dir at the unpacked UCF-101"
    assert str(UserError("gone")) == "gone"


def test_it_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(UserError("gone", where="a", fix="b")))

    assert (error.what, error.where, error.fix) == ("gone", "a", "b")


def test_a_missing_library_names_its_extra() -> None:
    require("train", "json", "pathlib")

    with pytest.raises(UserError, match=r"no_such_library is not installed\n  fix: pip install 'phi3v\[train\]'"):
        require("train", "json", "no_such_library")
