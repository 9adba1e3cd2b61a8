# SPDX-License-Identifier: Apache-2.0
"""Prepare and describe SGLang's server: command line, memory flags, summary."""
