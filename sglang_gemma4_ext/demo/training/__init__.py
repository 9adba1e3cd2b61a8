# SPDX-License-Identifier: Apache-2.0
"""How the demo model is trained, exported and measured; not part of the wheel."""
