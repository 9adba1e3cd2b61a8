# SPDX-License-Identifier: Apache-2.0
"""Remove secrets and users' texts from what goes into a bug report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

HIDDEN = "<redacted>"
_ANY_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
# A secret's name ends in one of these words: `hf_token` does, `max_total_tokens` does not.
_WORDS = r"(?:key|secret|password|passwd|passphrase|credentials?|cookie|authorization)"
_NAME = rf"(?:[a-z]\w*[_-])*(?:{_WORDS}|token)(?:[_-][ab])?"
# A value as in JSON, a Python record, a shell or an HTTP header.
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&'"}\])]+)"""
# Not a secret: "#new-token: 30" counts tokens.
_COUNT = r"(?![\w-]*token\s*[=:]\s*\d+(?:\.\d+)?(?:[\s,;)]|$))"
_PATTERNS = (
    # https://user:password@host
    (re.compile(r"(\w+://)[^\s/@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\",]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # --api-key VALUE and --api-key=VALUE
    (re.compile(rf"(--{_NAME}[ =]+){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # 'api_key': 'VALUE', HF_TOKEN=VALUE, ?token=VALUE; but not "#new-token: 30"
    (
        re.compile(rf"""(?<![a-z0-9]){_COUNT}({_NAME}['"]?\s*[=:]\s*){_VALUE}""", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(?:hf|sk|ghp|gho|glpat|xox[bp])[_-][\w-]{8,}"), HIDDEN),
    (re.compile(r"([?&](?:sig|signature|X-Amz-\w+)=)[^\s&]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # --log-requests writes prompts and answers.
    (re.compile(r"\b((?:Receive|Receive OpenAI|Finish): obj=).*"), r"\1<request left out>"),
)


def redact(text: str, env: Mapping[str, str]) -> str:
    """Replace secrets in a text, and the values of secret variables anywhere."""
    for value in secret_values(env):
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secret_values(env: Mapping[str, str]) -> list[str]:
    """Return the values of variables with a secret name, the longest first."""
    found = {value for name, value in env.items() if _ANY_SECRET.search(name) and len(value) > 5}
    return sorted(found, key=len, reverse=True)


def settings_of(env: Mapping[str, str], prefixes: Iterable[str]) -> dict[str, str]:
    """Return the variables with one of these prefixes, without those of a secret name."""
    chosen = {name: value for name, value in env.items() if name.startswith(tuple(prefixes))}
    return {
        name: HIDDEN if _ANY_SECRET.search(name) else redact(value, env)
        for name, value in sorted(chosen.items())
    }
