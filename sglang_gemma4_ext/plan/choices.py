# SPDX-License-Identifier: Apache-2.0
"""Make the lossy or slower choices that --gemma4-allow permits. Each leaves a question that it does
not change, such as one whose user has chosen already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from sglang_gemma4_ext.plan.question import Question


def ple_host(question: Question) -> Question:
    """Keep the per-layer embeddings in host memory: exact, a row a token over the bus."""
    if not question.weights.parts.get("ple"):
        return question
    return replace(question, weights=question.weights.with_host_ple(), ple="host")


def head8(question: Question) -> Question:
    """Hold the tied embedding and head in INT8: lossy."""
    if question.head != "checkpoint" or not question.geometry.tied:
        return question
    small = question.weights.with_int8_head(question.geometry)
    return replace(question, weights=small, head="int8")


def kv8(question: Question) -> Question:
    """Hold keys and values in E4M3: lossy."""
    if question.kv_dtype != "auto" or question.kv_dtype_bytes == 1:
        return question
    return replace(question, kv_dtype="fp8_e4m3")


# In the order in which they are preferred.
CHOICES = {"ple-host": ple_host, "head8": head8, "kv8": kv8}


def allowed(question: Question) -> Iterator[Question]:
    """Yield the question with each set of choices that is allowed and changes it, small ones first.

    The order is that of CHOICES.
    """
    names = [name for name in CHOICES if name in question.allowed]
    for count in range(1, len(names) + 1):
        for chosen in combinations(names, count):
            changed = question
            for name in chosen:
                before, changed = changed, CHOICES[name](changed)
                if changed == before:
                    break
            else:
                yield changed
