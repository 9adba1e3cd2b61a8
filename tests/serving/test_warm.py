# SPDX-License-Identifier: Apache-2.0
"""Check that a process of the zygote sees what a new interpreter would see."""

from __future__ import annotations

import json

import pytest

from tests.serving.harness import run_to_end, zygote

PROBE = ("-m", "tests.probes.what_runs")


@pytest.fixture
def told(tmp_path, monkeypatch, request):
    """told(cold): what the probe prints in a folder and an environment of its own."""

    def run(cold: bool) -> dict:
        monkeypatch.setenv("TEST_COLD", "1" if cold else "")
        env = {
            "PYTHONPATH": f"{tmp_path}:{request.config.rootpath}",
            "PYTHONWARNINGS": "error::UnicodeWarning",
            "TMPDIR": str(tmp_path),
            "TEST_COLD": "",
        }
        done = run_to_end("--flag", "value", module=PROBE, env=env, cwd=tmp_path)
        assert done.returncode == 7, done.stdout
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_warm_process_starts_as_a_cold_one(told):
    assert zygote().is_ready
    warm, cold = told(cold=False), told(cold=True)
    for who in ("self", "child"):
        # A package that is imported may add a folder of its own.
        path, bare = warm[who].pop("path"), cold[who].pop("path")
        assert path[0] == bare[0] and set(bare) <= set(path)
        assert all("site-packages" in folder for folder in set(path) - set(bare))
        assert warm[who] == cold[who]
    assert warm["child"]["title"] and warm["child"]["parent"]
    assert warm["ends"] == cold["ends"] == [0, -9]


def test_a_variable_that_the_packages_read_starts_a_process_cold(tmp_path):
    env = {**zygote().environment, "HF_HOME": str(tmp_path)}
    where = {"cwd": str(tmp_path), "output": 1}
    assert zygote().start("tests.probes.what_runs", [], env=env, **where) is None
