# SPDX-License-Identifier: Apache-2.0
"""Measure MMLU accuracy of servers that should not differ, with lm-evaluation-harness."""
