# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for a GPU: one that only compiles, and one that executes the compiled PTX."""
