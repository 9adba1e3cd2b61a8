# SPDX-License-Identifier: Apache-2.0
"""Check that answers go wrong when one of the parsing patches is left out."""

from __future__ import annotations

import pytest

from tests.patches.chat import answers
from tests.patches.chat.answers import PARSING
from tests.patches.chat.client import Scripted
from tests.patches.chat.serving_layer import serving


@pytest.mark.parametrize("left_out", PARSING)
def test_without_a_patch_its_answers_are_wrong(left_out):
    with serving(*(patch for name, patch in PARSING.items() if name != left_out)) as running:
        for name, (output, fields, expected, needs) in answers.ANSWERS.items():
            if left_out in needs:
                assert not right_both_ways(running, output, fields, expected), name


def right_both_ways(scripted: Scripted, output: str, fields: dict, expected: tuple) -> bool:
    try:
        found = [answers.given(scripted, output, fields, stream) for stream in (False, True)]
    except (ValueError, IndexError):  # raised by the client where two calls share an index
        return False
    return found == [expected] * 2
