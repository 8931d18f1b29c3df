"""The engine on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# In a process of its own: Ray's driver keeps threads and sockets, which pytest would call leaks.
DRIVER = """
import os, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from phi3v.converters import Converted, Planned, Run, convert
import phi3v_faults

source, out, kill = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "kill"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
run = Run(engine="ray", ray_address=cluster.address, time_limit=60, on_error="skip")
done = 0
for event in convert("faults", phi3v_faults.Options(src_dir=source), out_dir=out, run=run):
    done += not isinstance(event, Planned)
    if kill and done == 20:
        print("killed a node after", done, "items", flush=True)
        cluster.remove_node(second, allow_graceful=False)
print("items", done)
os._exit(0)  # a killed node leaves Ray's own shutdown waiting
"""


def convert_on_ray(source: Path, out: Path, what: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, source, out, what],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", ["whole", "kill"])
def test_two_nodes_write_the_same_bytes_and_one_may_die(
    faults: Any,
    write_texts: Callable[..., Path],
    tmp_path: Path,
    tree: Callable[[Path], dict[str, bytes]],
    faults_environment: dict[str, str],
    what: str,
) -> None:
    pytest.importorskip("ray")
    from phi3v.converters import Run, convert

    texts = {f"{split}_{number:02}": "slow 0.1" for number in range(40) for split in ("train", "val")}
    source = write_texts(**(texts | {"train_07": "bad", "val_30": "die"}))
    options = faults.Options(src_dir=source)
    list(convert("faults", options, out_dir=tmp_path / "local", run=Run(jobs=2, on_error="skip")))
    log = tmp_path / "log"

    output = convert_on_ray(source, tmp_path / "ray", what, {**faults_environment, "PHI3V_FAULTS_LOG": str(log)})

    assert "items 80" in output
    assert ("killed a node after 20 items" in output) == (what == "kill")
    nodes = {line.split()[2] for line in log.read_text().splitlines()}
    assert len(nodes) == 2
    written = {name: data for name, data in tree(tmp_path / "ray").items() if not name.startswith(".convert")}
    assert written == {name: data for name, data in tree(tmp_path / "local").items() if not name.startswith(".convert")}
    assert b'"worker-died"' in written["rejected.jsonl"]


def test_a_cluster_that_is_not_there_is_told(
    write_texts: Callable[..., Path], tmp_path: Path, run: Callable[..., Any], faults_environment: dict[str, str]
) -> None:
    pytest.importorskip("ray")
    source = write_texts(train_a="ok")

    done = run(
        "phi3v-data", "convert", "faults", "--src_dir", source, "--out_dir", tmp_path / "out", "--engine", "ray",
        "--ray_address", "127.0.0.1:9", env={**faults_environment, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip

    assert done.returncode == 2, done.stderr
    assert "error: no Ray cluster at 127.0.0.1:9 ([Errno 111] Connection refused)" in done.stderr
    assert "--ray_address" in done.stderr


def test_ray_needs_the_data_on_a_shared_path(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", "--engine", "ray", env=os.environ)

    assert done.returncode == 2
    assert "--engine ray without --src_dir" in done.stderr
