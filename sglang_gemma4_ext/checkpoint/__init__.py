# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's own files say, read before torch or SGLang is imported."""
