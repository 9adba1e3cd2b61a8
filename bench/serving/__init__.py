# SPDX-License-Identifier: Apache-2.0
"""Throughput and latency of stock SGLang and of SGLang with the extension, side by side."""
