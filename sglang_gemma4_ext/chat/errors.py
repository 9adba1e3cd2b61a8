# SPDX-License-Identifier: Apache-2.0
"""How the reading of a call ends early."""

from __future__ import annotations


class BrokenCall(Exception):
    """What stands here cannot be read as a call."""


class CutCall(Exception):
    """The text ended within the call."""


class LeftOpen(Exception):
    """A token that ends calls stands where braces are still open; they count as closed."""
