# SPDX-License-Identifier: Apache-2.0
"""Check `plan --json` against its published schema, by the jsonschema package."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest

from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import report

SCHEMA = json.loads(resources.files("sglang_gemma4_ext.plan").joinpath("schema.json").read_text())

QUESTIONS = [
    ("--model-path", "31B", "--weights", "nvfp4", "--gpu", "l4"),
    ("--model-path", "31B", "--gpu", "l4"),  # does not fit
    ("--model-path", "12B", "--weights", "nvfp4", "--gpu", "rtx5090"),  # has a note
    ("--model-path", "26B-A4B", "--weights", "nvfp4", "--gpu", "h100", "--stock"),
    ("--model-path", "E4B", "--memory", "24", "--swa-full-tokens-ratio", "0.5"),  # split pools
    ("--model-path", "E2B", "--memory", "16", "--gemma4-fit", "off"),
]


@pytest.mark.parametrize("argv", QUESTIONS, ids=" ".join)
def test_each_answer_is_valid(capsys, argv):
    cli.main([*argv, "--json"])
    answer = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(answer, SCHEMA, jsonschema.Draft202012Validator)


def test_the_version_is_the_programs():
    assert SCHEMA["properties"]["schema"]["const"] == report.SCHEMA


@pytest.mark.parametrize(
    "broken",
    [{"schema": 1}, {"fits": "yes"}, {"surprise": 1}, {"flags": ["context-length 1"]},
     {"options": [{"choice": "kv8"}]}],
    ids=str,
)  # fmt: skip
def test_the_schema_refuses_what_is_wrong(capsys, broken):
    cli.main([*QUESTIONS[0], "--json"])
    answer = json.loads(capsys.readouterr().out) | broken
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, SCHEMA, jsonschema.Draft202012Validator)


def test_every_key_is_described():
    def undescribed(schema: dict, path: str = "") -> list[str]:
        found = []
        for name, part in schema.get("properties", {}).items():
            found += [f"{path}{name}"] if "description" not in part else []
            found += undescribed(part, f"{path}{name}.")
            found += undescribed(part.get("items", {}), f"{path}{name}.")
        return found

    assert undescribed(SCHEMA) == []
