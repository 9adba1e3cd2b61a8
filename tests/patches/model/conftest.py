# SPDX-License-Identifier: Apache-2.0
"""SGLang's Triton kernels run in the interpreter here, as ours do in tests/kernels."""

from tests.kernels.conftest import mended_bf16, pytest_collection_modifyitems, pytest_configure

__all__ = ["mended_bf16", "pytest_collection_modifyitems", "pytest_configure"]
