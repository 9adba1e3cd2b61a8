# SPDX-License-Identifier: Apache-2.0
"""Pass tool schemas through SGLang's serving layer into the official template."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.patches.chat import tool_declarations
from tests.chat.shapes import UNIONS, USER, function

Q = '<|"|>'


@pytest.fixture
def declaration(apply, layer):
    apply(tool_declarations.PATCH)
    served = layer()

    def of(**parts):
        prompt = served.prompt_of({"messages": [USER], "tools": [function(**parts)]})
        return prompt.partition("<|tool>declaration:")[2].partition("<tool|>")[0].replace(Q, '"')

    return of


def test_unions_references_and_enums_are_declared(declaration):
    assert declaration(description="W", parameters=UNIONS) == (
        'f{description:"W",parameters:{properties:{'
        'a:{description:"d",nullable:true,type:"STRING"},'
        'b:{nullable:true,type:"INTEGER"},'
        'c:{properties:{q:{type:"STRING"}},type:"OBJECT"},'
        'd:{description:"One of: 1, 2",type:"INTEGER"},'
        'e:{description:"One of: 1, 2",type:"INTEGER"}},type:"OBJECT"}}'
    )


def test_a_missing_description_becomes_empty(declaration):
    assert declaration(parameters=None) == 'f{description:""}'
    assert declaration(description=None) == 'f{description:""}'


def test_a_closed_object_without_properties_does_not_stop_the_template(declaration):
    closed = {"type": "object", "additionalProperties": False}
    assert declaration(parameters={"type": "object", "properties": {"o": closed}}) == (
        'f{description:"",parameters:{properties:{o:{properties:{},type:"OBJECT"}},type:"OBJECT"}}'
    )


def test_parameters_without_a_type_close_their_brace(declaration):
    assert declaration(parameters={"properties": {"q": {"type": "string"}}}) == (
        'f{description:"",parameters:{properties:{q:{type:"STRING"}},type:"OBJECT"}}'
    )
