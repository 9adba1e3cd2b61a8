# SPDX-License-Identifier: Apache-2.0
"""Name NVFP4's block size, without importing torch."""

# Weights along K that share an E4M3 scale.
BLOCK = 16
