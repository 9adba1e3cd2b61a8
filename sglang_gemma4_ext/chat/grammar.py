# SPDX-License-Identifier: Apache-2.0
"""Write the model's turn as a grammar for XGrammar: a thought, then calls in Gemma 4's format.

    turn    = [thought] call { call }, or for `auto` any mix of text, thoughts and calls
    thought = <|channel>thought\\n text <channel|>
    call    = <|tool_call>call:NAME{ arguments }<tool_call|>

The first line of the grammar names all control tokens. The compiler keeps them out of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sglang_gemma4_ext.chat.arguments import ArgumentRules, common_rules
from sglang_gemma4_ext.chat.ebnf import TEXT, literal, renamed

HEADER = "# control tokens of Gemma 4: "
# Characters counted by one grammar times tokens of the vocabulary; compiling checks each.
MOST_CHECKS = 4_000_000
_NAMED = {
    "string": '<|"|>',
    "call_opens": "<|tool_call>",
    "call_closes": "<tool_call|>",
    "thought_opens": "<|channel>",
    "thought_closes": "<channel|>",
    "thinks": "<|think|>",
}


@dataclass(frozen=True)
class ControlTokens:
    """Hold the ids of tokens that frame calls and thoughts; those in `all` are never text."""

    string: int
    call_opens: int
    call_closes: int
    thought_opens: int
    thought_closes: int
    thinks: int
    all: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> ControlTokens | None:
        """Read the ids from a tokenizer; None if it is not Gemma 4's."""
        vocab = tokenizer.get_vocab()
        if not all(token in vocab for token in _NAMED.values()):
            return None
        named = {name: vocab[token] for name, token in _NAMED.items()}
        added = tokenizer.added_tokens_decoder.items()
        special = {index for index, token in added if token.special}
        special |= {*tokenizer.all_special_ids, *named.values()}
        return cls(**named, all=tuple(sorted(special)))


class Start(Enum):
    """Tell where the model starts: inside a thought, before one, or after all thought."""

    IN_THOUGHT = "in a thought"
    MAY_THINK = "before a thought"
    ANSWER = "past thought"


class Calls(Enum):
    """Tell how many calls a turn has."""

    SOME = "at least one"
    ONE = "exactly one"
    ANY = "any number, with text around"
    AT_MOST_ONE = "at most one, after text"


@dataclass(frozen=True)
class Function:
    """Describe a tool; `strict` enforces its parameters, otherwise only their format is."""

    name: str
    parameters: Any = None
    strict: bool = True


_TURNS = {
    Calls.SOME: "call+",
    Calls.ONE: "call",
    Calls.ANY: f"({TEXT} | thought | call)*",
    Calls.AT_MOST_ONE: f"({TEXT} | thought)* call?",
}


def turn_grammar(
    functions: Sequence[Function], tokens: ControlTokens, calls: Calls, start: Start, vocab: int
) -> tuple[str, dict[str, set[str]]]:
    """Return the grammar of a turn, and by function the schema keywords that it leaves out."""
    bodies, rules, left_out = [], [], {}
    counted = max(4, MOST_CHECKS // vocab)
    for position, function in enumerate(functions):
        made = ArgumentRules(function.parameters, tokens.string, f"f{position}_", counted)
        body = made.arguments() if function.strict else "pairs"
        counted = made.counted
        bodies.append(f'{literal(function.name + "{")} {body} "}}"')
        rules += made.rules
        if made.unenforced:
            left_out[function.name] = made.unenforced
    return "\n".join(
        (
            *_head(start, tokens, _TURNS[calls]),
            f'call ::= Token({tokens.call_opens}) "call:" ({" | ".join(bodies)}) '
            f"Token({tokens.call_closes})",
            *common_rules(tokens.string, MOST_CHECKS // vocab),
            *rules,
        )
    ), left_out


def answer_grammar(answer: str, tokens: ControlTokens, start: Start) -> str:
    """Return the grammar of a turn whose answer follows another grammar, printed by XGrammar."""
    name, rules = renamed(answer, "answer_")
    return "\n".join((*_head(start, tokens, name), *rules))


def start_of(prompt: Sequence[int], tokens: ControlTokens) -> Start:
    """Tell from a prompt's tokens where the model starts, and whether it was asked to think."""
    last = next((token for token in reversed(prompt) if token in tokens.all), None)
    if last == tokens.thought_opens:
        return Start.IN_THOUGHT
    may_think = last != tokens.thought_closes and tokens.thinks in prompt
    return Start.MAY_THINK if may_think else Start.ANSWER


def control_tokens_in(grammar: str) -> tuple[int, ...] | None:
    """Return the control tokens of a grammar made here, or None for any other grammar."""
    if not grammar.startswith(HEADER):
        return None
    return tuple(map(int, grammar.partition("\n")[0].removeprefix(HEADER).split()))


def text_vocabulary(pieces: Iterable[bytes], control: Iterable[int]) -> list[bytes]:
    """Return a vocabulary in which control tokens cannot match text.

    Their spelling is the byte 0xFF, which never occurs in UTF-8: such a token matches by its id
    alone.
    """
    control = frozenset(control)
    return [b"\xff" + piece if i in control else piece for i, piece in enumerate(pieces)]


def _head(start: Start, tokens: ControlTokens, turn: str) -> tuple[str, str, str]:
    rest_of_thought = f"{TEXT}* Token({tokens.thought_closes})"
    before = {Start.IN_THOUGHT: rest_of_thought, Start.MAY_THINK: "thought?", Start.ANSWER: ""}
    return (
        HEADER + " ".join(map(str, tokens.all)),
        f"root ::= {before[start]} {turn}",
        f'thought ::= Token({tokens.thought_opens}) "thought\\n" {rest_of_thought}',
    )
