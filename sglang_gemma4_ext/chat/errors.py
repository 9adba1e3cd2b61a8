# SPDX-License-Identifier: Apache-2.0
"""Signal that parsing a call ended early."""

from __future__ import annotations


class BrokenCall(Exception):
    """Signal that the text cannot be parsed as a call."""


class CutCall(Exception):
    """Signal that the text ended within the call."""


class LeftOpen(Exception):
    """Signal a token that ends calls while braces are open; they count as closed."""
