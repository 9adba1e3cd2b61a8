# SPDX-License-Identifier: Apache-2.0
"""Soak a server under mixed load: the same answers, in the same memory."""
