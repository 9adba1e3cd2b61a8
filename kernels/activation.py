# SPDX-License-Identifier: Apache-2.0
"""Name the activations between gate and up of the kernels and their references."""

from typing import Literal, get_args

Activation = Literal["gelu_tanh", "silu"]
ACTIVATIONS = get_args(Activation)
