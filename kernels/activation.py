# SPDX-License-Identifier: Apache-2.0
"""The activations between gate and up that the kernels and their references apply."""

from typing import Literal, get_args

Activation = Literal["gelu_tanh", "silu"]
ACTIVATIONS = get_args(Activation)
