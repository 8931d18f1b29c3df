"""The whole path on real clips with the real tokenizer, at tiny size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.tiny import tiny_config


@pytest.mark.slow
def test_two_real_clips_train_one_step_with_the_real_tokenizer(
    shared: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    source = shared / "realdata" / "ucf101"
    processor = Phi3VProcessor.from_pretrained(shared / "realdata/tokenizers/phi35_vision")
    config = tiny_config(processor)
    config.vocab_size = 32064
    torch.manual_seed(0)
    Phi3VForCausalLM(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    converted = run(
        "phi3v-data", "convert", "ucf101", "--src_dir", source, "--split_lists", source / "ucfTrainTestlist",
        "--out_dir", tmp_path / "data",
    )  # fmt: skip
    validated = run("phi3v-data", "validate", tmp_path / "data")
    trained = run(
        "phi3v-train", "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--max_steps", 1,
        "--model_name_or_path", tmp_path / "model", "--batch_size", 1, "--num_crops", 1, "--max_new_tokens", 4,
        "--logging_steps", 1,
    )  # fmt: skip

    assert converted.returncode == 0, converted.stderr
    assert (validated.returncode, validated.stderr) == (0, "2 records in 2 files: no findings\n")
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 16
    assert trained.returncode == 0, trained.stderr
    assert "scored on ucf101_test.jsonl: 1 records" in trained.stderr
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert 9 < log[0]["loss"] < 13  # about ln(32064) = 10.4 for random weights
    assert Phi3VForCausalLM.from_pretrained(tmp_path / "run").generation_config.eos_token_id is not None
