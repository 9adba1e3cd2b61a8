# SPDX-License-Identifier: Apache-2.0
"""Compare throughput and latency of stock SGLang and of SGLang with the extension."""

SMOKE_NOTE = "A smoke run at toy lengths: its times do not measure speed."
