# SPDX-License-Identifier: Apache-2.0
"""Stand in for a GPU: compile only, or execute the compiled PTX on the CPU."""
