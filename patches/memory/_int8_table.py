# SPDX-License-Identifier: Apache-2.0
"""Hold an embedding's table as an INT8 parameter, which carries its scales and the model's dtype.

Whoever reads the parameter alone, such as an MTP assistant, finds them as attributes.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels import int8_rows
from sglang_gemma4_ext.kernels.int8_head import int8_head


def make(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Parameter:
    """Return a parameter int8 [rows, columns] with a loader that quantizes; dtype: the model's."""
    codes = torch.zeros(rows, columns, dtype=torch.int8, device=device)
    table = torch.nn.Parameter(codes, requires_grad=False)
    table.weight_loader = load
    table.gemma4_scale = torch.ones(rows, device=device)
    table.gemma4_dtype = dtype
    return table


def is_one(weight: object) -> bool:
    """Tell whether a weight is such a parameter."""
    return hasattr(weight, "gemma4_scale")


def load(table: torch.nn.Parameter, loaded: torch.Tensor) -> None:
    """Quantize a checkpoint's rows into the table, a chunk at a time.

    Raises ValueError on another shape, or on values that are not finite.
    """
    if loaded.shape != table.shape:
        raise ValueError(
            f"an embedding of {list(loaded.shape)} does not fit {list(table.shape)}: the "
            "checkpoint is of another model"
        )
    for part in int8_rows.chunks(len(loaded)):
        codes, scale = int8_rows.quantize(loaded[part].to(table.device))
        table.data[part].copy_(codes)
        table.gemma4_scale[part] = scale


def lookup(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the rows of ids [.., columns] in the model's dtype."""
    return int8_rows.dequantize(table.data[ids], table.gemma4_scale[ids], table.gemma4_dtype)


def logits(hidden: torch.Tensor, table: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return hidden [M, columns] times the table's transpose, [M, rows] in dtype."""
    multiply = int8_head if hidden.is_cuda else int8_rows.int8_head_ref
    return multiply(hidden, table.data, table.gemma4_scale, dtype)
