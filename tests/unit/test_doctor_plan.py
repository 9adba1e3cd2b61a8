# SPDX-License-Identifier: Apache-2.0
"""Check that the doctor prints a model's plan for this machine's GPU."""

from __future__ import annotations

import pytest

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext import doctor
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import NO_GPU, Gpu, Memory
from sglang_gemma4_ext.plan import report, search, served, weights
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.settings import Settings

A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))


def _asked(gib: int) -> Question:
    held = weights.estimate(BUILT_IN["12B"], "bf16")
    return Question(BUILT_IN["12B"], held, gib * GIB, capability=(8, 6))


@pytest.fixture
def reported(monkeypatch, tmp_path):
    """reported(gib, gpu): the doctor's data on a 12B in BF16 on a GPU of that memory."""
    folder = write_config(BUILT_IN["12B"], tmp_path)

    def run(gib: int, gpu: Gpu = A10G):
        monkeypatch.setattr(doctor, "gpu_memory", lambda: Memory(gib * GIB))
        monkeypatch.setattr(doctor, "_formats", lambda model: {})  # reads weights
        ctx = Context(Settings(), read_model_info(str(folder)), gpu, "0.5.23")
        return folder, doctor.report([], ctx)

    return run


def test_a_model_that_fits_is_planned_as_plan_does(reported):
    folder, data = reported(32)
    subject = served.read(str(folder))
    asked = Question(subject.geometry, subject.weights, 32 * GIB, capability=(8, 6))
    plan = search.fit(asked)
    assert data["plan"] == report.to_json(asked, plan)
    text = doctor.render(data)
    assert f"plan      {plan.reason}; longest request {plan.longest_request:,} tokens" in text
    assert " ".join(plan.flags) in text


def test_a_model_that_does_not_fit_is_said_with_what_would(reported):
    text = doctor.render(reported(16)[1])
    held = _asked(16).weights.total / GIB
    said = f"plan      the weights alone ({held:.1f} GiB) do not fit 16.0 GiB; the nearest that"
    assert said in text


def test_without_a_gpu_there_is_no_plan(reported):
    _, data = reported(32, NO_GPU)
    assert data["plan"] is None and "plan      " not in doctor.render(data)
