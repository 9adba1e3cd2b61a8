# SPDX-License-Identifier: Apache-2.0
"""Train, export and measure the demo model; not part of the wheel."""
