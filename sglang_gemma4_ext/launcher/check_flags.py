# SPDX-License-Identifier: Apache-2.0
"""Refuse misspelt flags and impossible values of SGLang in one sentence, before torch is imported.

A flag or value that another plugin may have added is left to SGLang's own parser.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from sglang_gemma4_ext.launcher.other_plugins import may_add_choice, may_add_flag
from sglang_gemma4_ext.launcher.sglang_flags import Flag, read_flags
from sglang_gemma4_ext.settings import SettingsError

_KINDS = {int: "a whole number", float: "a number"}


def check_flags(argv: list[str], config: Mapping[str, Any], ours: Iterable[str]) -> list[str]:
    """Check SGLang's part of the command line; return it with abbreviated flags spelt out.

    config: the content of the `--config` file. ours: the launcher's flags, for suggestions.
    Raises SettingsError.
    """
    flags = read_flags()
    if not flags:
        return argv
    parser, known = _parser(flags), _spellings(flags)
    try:
        _check(parser, _as_arguments(config, flags), known)
    except SettingsError as error:
        raise SettingsError(f"the file of --config: {error}") from None
    _check(parser, argv, {*known, *ours})
    return [_spelt_out(word, known) for word in argv]


def _check(parser: argparse.ArgumentParser, argv: list[str], known: Iterable[str]) -> None:
    """Raise SettingsError on a flag that neither SGLang nor another plugin takes."""
    _, extra = parser.parse_known_args(argv)
    unknown = [word.partition("=")[0] for word in extra if word.startswith("-")]
    for flag in unknown:
        if not may_add_flag(flag):
            raise SettingsError(unknown_flag(flag, known))
    if extra and not unknown:
        raise SettingsError(f"{extra[0]!r} belongs to no flag (see --help)")


def _as_arguments(config: Mapping[str, Any], flags: Iterable[Flag]) -> list[str]:
    """Turn the content of a `--config` file into arguments, as SGLang does."""
    switches = {name for flag in flags if flag.nargs == 0 for name in flag.names}
    argv: list[str] = []
    for key, value in config.items():
        name = f"--{key}"
        if isinstance(value, bool) and name.replace("_", "-") in switches:
            argv += [name] * value
        elif isinstance(value, list):
            argv += [name, *map(str, value)] if value else []
        elif isinstance(value, bool | dict):
            argv += [name, json.dumps(value)]
        else:
            argv += [name, str(value)]
    return argv


class StrictParser(argparse.ArgumentParser):
    """Raise SettingsError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


@functools.cache
def _parser(flags: tuple[Flag, ...]) -> argparse.ArgumentParser:
    parser = StrictParser(add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    for flag in flags:
        if flag.negatable:
            parser.add_argument(*flag.names, action=argparse.BooleanOptionalAction)
        elif flag.nargs == 0:
            parser.add_argument(*flag.names, action="store_true")
        else:
            parser.add_argument(*flag.names, nargs=flag.nargs, type=_reader(flag))
    return parser


def _reader(flag: Flag) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = text if flag.convert is None else flag.convert(text)
        except ValueError:
            kind = _KINDS[flag.convert] if flag.convert else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        outside = flag.choices is not None and value not in flag.choices
        if outside and not may_add_choice(text):
            raise argparse.ArgumentTypeError(_outside(text, flag.choices or ()))
        return value

    return read


def _outside(text: str, choices: Iterable[Any]) -> str:
    names = [str(choice) for choice in choices]
    nearest = difflib.get_close_matches(text, names, n=1)
    meant = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{text!r} is not one of its values{meant}: {', '.join(names)}"


def unknown_flag(flag: str, known: Iterable[str]) -> str:
    """Say that a flag does not exist, and which one may be meant."""
    nearest = difflib.get_close_matches(flag, sorted(known), n=1)
    meant = f"did you mean {nearest[0]}?" if nearest else "see --help"
    return f"no such flag: {flag} ({meant})"


@functools.cache
def _spellings(flags: tuple[Flag, ...]) -> frozenset[str]:
    known = {"-h", "--help"}
    for flag in flags:
        known.update(flag.names)
        if flag.negatable:
            known.update("--no-" + name.removeprefix("--") for name in flag.names)
    return frozenset(known)


def _spelt_out(word: str, known: Iterable[str]) -> str:
    """Return the whole flag for an abbreviation that argparse accepts, any other word unchanged."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag in known or flag == "--":
        return word
    whole = [name for name in known if name.startswith(flag)]
    return whole[0] + equals + value if len(whole) == 1 else word
