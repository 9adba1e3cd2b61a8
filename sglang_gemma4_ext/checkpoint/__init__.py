# SPDX-License-Identifier: Apache-2.0
"""Read a checkpoint's own files before torch or SGLang is imported."""
