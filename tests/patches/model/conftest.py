# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's Triton kernels in the interpreter, as tests/kernels runs ours."""

from tests.kernels.conftest import mended_bf16, pytest_collection_modifyitems

__all__ = ["mended_bf16", "pytest_collection_modifyitems"]
