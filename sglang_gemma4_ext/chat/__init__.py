# SPDX-License-Identifier: Apache-2.0
"""What Gemma 4's chat format is, apart from any server: templates, history, calls, grammars."""
