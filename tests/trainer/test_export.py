from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from phi3v.schema import UserError
from phi3v.trainer.export import RemoteCode, export
from phi3v.trainer.load import load_model, load_processor
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

PROMPT = "<|user|>\n<|image_1|>\nWhat is shown?<|end|>\n<|assistant|>\n"

# What a user of the exported folder runs.
RELOAD = """
import sys, torch
from PIL import Image
import phi3v.trainer.model
from transformers import AutoModelForCausalLM, AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
inputs = processor(sys.argv[2], Image.new("RGB", (320, 240), "red"))
with torch.no_grad():
    torch.save(model(**inputs).logits, sys.argv[3])
"""

CONFIGURATION = """
from transformers import PretrainedConfig
class Phi3VConfig(PretrainedConfig):
    model_type = "phi3_v"
"""

# A server's: it knows nothing of this package.
REMOTE = """
import sys
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True, code_revision=sys.argv[2])
assert not any(name.startswith("phi3v") for name in sys.modules)
print(type(config).__module__, config.rope_scaling["type"], config.auto_map["AutoModelForCausalLM"])
"""


def start(script: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logits(name: Path | str) -> Tensor:
    inputs = load_processor(str(name))(PROMPT, Image.new("RGB", (320, 240), "red"))
    with torch.no_grad():
        result: Tensor = load_model(str(name)).eval()(**inputs).logits
    return result


def content(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter on language and vision that changes what the model says."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["qkv_proj", "o_proj", "lm_head", "q_proj", "fc1", "img_projection.0"]
    model = get_peft_model(load_model("tiny"), LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tiny_processor().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.slow
def test_a_fresh_process_reloads_equal_logits_from_a_folder_with_a_dot_in_its_name(tmp_path: Path) -> None:
    export("tiny", tmp_path / "phi-3.5.whole", max_shard_size="200KB")
    start(RELOAD, tmp_path / "phi-3.5.whole", PROMPT, tmp_path / "logits.pt")

    assert len(list((tmp_path / "phi-3.5.whole").glob("*.safetensors"))) > 1
    assert (tmp_path / "phi-3.5.whole/model.safetensors.index.json").is_file()
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits("tiny"))


def test_an_adapter_is_merged_and_the_whole_has_the_released_names(adapter: Path, tmp_path: Path) -> None:
    before = logits(adapter)

    export(str(adapter), tmp_path / "whole")

    assert (logits("tiny") - before).abs().max() > 0.1
    torch.testing.assert_close(logits(tmp_path / "whole"), before, atol=2e-5, rtol=0)
    with safe_open(tmp_path / "whole/model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(tiny_model(tiny_processor()).state_dict())


def test_stored_types_stay(tmp_path: Path) -> None:
    model = load_model("tiny", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")  # type: ignore[operator]
    load_processor("tiny").save_pretrained(tmp_path / "bf16")

    export(str(tmp_path / "bf16"), tmp_path / "whole")

    with safe_open(tmp_path / "whole/model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_without_remote_code_no_file_asks_to_run_any(tmp_path: Path) -> None:
    export("tiny", tmp_path / "whole")

    assert not [path for path in (tmp_path / "whole").glob("*.json") if "auto_map" in path.read_text()]


def test_remote_code_is_named_as_the_released_files_name_it_with_its_repository(shared: Path, tmp_path: Path) -> None:
    export("tiny", tmp_path / "whole", remote_code=RemoteCode())

    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        released = content(shared / "realdata/tokenizers/phi35_vision" / name)
        own = content(tmp_path / "whole" / name)
        expected = {auto: f"{RemoteCode().repository}--{kind}" for auto, kind in released["auto_map"].items()}
        assert own["auto_map"] == expected
        assert own.get("processor_class") == released.get("processor_class")


def test_the_exported_folder_still_loads_here_without_remote_code(tmp_path: Path) -> None:
    export("tiny", tmp_path / "whole", remote_code=RemoteCode())

    assert torch.equal(logits(tmp_path / "whole"), logits("tiny"))


class Hub(BaseHTTPRequestHandler):
    """A hub with one file."""

    seen: list[str] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.seen.append(self.path)
        repository, revision = RemoteCode()
        if self.path != f"/{repository}/resolve/{revision}/configuration_phi3_v.py":
            self.send_error(404)
            return
        body = CONFIGURATION.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", revision)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_without_this_package_fetches_the_code_at_the_pinned_revision(hub: str, tmp_path: Path) -> None:
    export("tiny", tmp_path / "whole", remote_code=RemoteCode())

    revision = RemoteCode().revision
    told = start(
        REMOTE, tmp_path / "whole", revision, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0"
    )

    assert told.split()[0].endswith(f"{revision}.configuration_phi3_v")
    assert told.split()[1:] == ["su", f"{RemoteCode().repository}--modeling_phi3_v.Phi3VForCausalLM"]
    assert any(path.endswith(f"{revision}/configuration_phi3_v.py") for path in Hub.seen)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/model.safetensors").touch()

    with pytest.raises(UserError, match="there is something already"):
        export("tiny", tmp_path / "whole")


def test_what_a_killed_export_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".whole.part").mkdir()
    (tmp_path / ".whole.part/model-00007-of-00009.safetensors").touch()
    (tmp_path / "whole").mkdir()

    files = export("tiny", tmp_path / "whole")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
    assert files == {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir()}
    assert "model-00007-of-00009.safetensors" not in files


def test_the_command_tells_the_revision_to_load_with(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("phi3v-model", "export", "tiny", "--out_dir", tmp_path / "whole", "--with_remote_code")

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith(f"code_revision={RemoteCode().revision}")
    assert RemoteCode().revision in (tmp_path / "whole/README.md").read_text()


def test_a_repository_without_a_revision_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("phi3v-model", "export", "tiny", "--out_dir", tmp_path / "whole", "--code_repo", "a/b")

    assert done.returncode == 2
    assert "go together" in done.stderr


def test_merge_takes_an_adapter_and_nothing_else(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    done = run("phi3v-model", "merge", adapter, "--out_dir", tmp_path / "whole")
    refused = run("phi3v-model", "merge", tmp_path / "whole", "--out_dir", tmp_path / "again")

    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(logits(tmp_path / "whole"), logits(adapter), atol=2e-5, rtol=0)
    assert refused.returncode == 2
    assert "is no adapter" in refused.stderr
