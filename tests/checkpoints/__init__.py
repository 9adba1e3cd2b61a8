# SPDX-License-Identifier: Apache-2.0
"""Build tiny random Gemma 4 checkpoints: NVFP4 copies, assistants and references."""
