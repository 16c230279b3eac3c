"""bench/storage.py, on a network too small for meaningful figures."""

from __future__ import annotations

import s3
import storage as bench

from capsnet.config import Config


def test_each_round_gives_every_number_and_the_store_is_left_empty(s3_server: s3.Server, monkeypatch) -> None:
    url = s3_server.new_url()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    config = Config.model_validate(
        {
            "dataset": {"name": "mnist"},
            "model": {"conv_channels": 4, "kernel_size": 9, "primary_types": 2, "decoder": {"hidden": [8]}},
            "batch_size": 4,
            "threads": 1,
            "use_cuda": False,
        }
    )
    found = bench.measured(config, rounds=2, steps=2)
    lists = {name: values for name, values in vars(found).items() if name not in ("bytes", "server_cpu")}
    assert all(len(values) == 2 for values in lists.values()), lists
    assert found.bytes > 1000 and found.server_cpu == []
    assert all(seconds > 0 for name, values in lists.items() if name != "lost" for seconds in values)
    assert bench.shares(found, 30.0)["of this machine's cores by the server"] == 0
    assert bench.Objects(url).list("1-bench") == {}
    assert any("back, and verified" in line for line in bench.lines(found, 30.0))
