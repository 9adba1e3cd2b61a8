# SPDX-License-Identifier: Apache-2.0
"""Write tiny checkpoints and bare configurations, which benches and tests serve."""
