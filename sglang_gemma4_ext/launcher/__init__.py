# SPDX-License-Identifier: Apache-2.0
"""What the launcher does around SGLang's server: command line, memory flags, summary."""
