# SPDX-License-Identifier: Apache-2.0
"""Choose Triton's interpreter as tests/kernels does.

These tests import SGLang, and with it Triton, before tests/kernels is collected. A Triton that is
imported without the choice cannot interpret kernels in the same process.
"""

from __future__ import annotations

from tests.kernels.conftest import pytest_configure

__all__ = ["pytest_configure"]
