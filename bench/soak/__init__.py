# SPDX-License-Identifier: Apache-2.0
"""A server under its usual load for long: does it answer as at first, in the same memory?"""
