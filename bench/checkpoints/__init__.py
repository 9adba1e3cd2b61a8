# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints and bare configurations, which benches and tests serve."""
