# SPDX-License-Identifier: Apache-2.0
"""Accuracy on MMLU of servers that should not differ, by a harness that we did not write."""
