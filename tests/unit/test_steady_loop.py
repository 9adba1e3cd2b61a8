# SPDX-License-Identifier: Apache-2.0
"""Read the steady loop out of a listing of machine code."""

from __future__ import annotations

from bench.kernels.steady_loop import by_pipe, steady_loop


def line(at: int, text: str, stall: int = 1) -> str:
    """Write an instruction as cuobjdump does: its code's upper word on the next line."""
    return (
        f"        /*{at:04x}*/                   {text} ;   /* 0x{0:016x} */\n"
        f"                                         /* 0x{stall << 41:016x} */\n"
    )


LISTING = "".join(
    (
        line(0x00, "IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28]"),
        line(0x10, "LDG.E.128 R4, [R2.64]"),  # the outer loop
        line(0x20, "LDS R9, [R3]", 4),  # the inner one
        line(0x30, "@!P0 LOP3.LUT R5, R5, 0x80008000, RZ, 0xc0, !PT", 2),
        line(0x40, "HFMA2.BF16_V2 R6, R5, R7, -RZ", 5),
        line(0x50, "HMMA.16816.F32.BF16 R8, R4, R6, R8", 8),
        line(0x60, "@P1 BRA 0x20", 5),
        line(0x70, "@P2 BRA 0x10"),
        line(0x80, "EXIT"),
        line(0x90, "BRA 0x90"),
    )
)


def test_the_innermost_loop_with_tensor_core_work_is_read() -> None:
    opcodes, cycles = steady_loop(LISTING)
    assert sum(opcodes.values()) == 5
    assert not any(name.startswith("LDG") for name in opcodes)
    assert cycles == 4 + 2 + 5 + 8 + 5
    pipes = {"memory": 1, "alu": 1, "half": 1, "tensor": 1, "control": 1}
    assert by_pipe(opcodes) == pipes


def test_a_kernel_without_tensor_core_work_has_no_steady_loop() -> None:
    assert steady_loop(LISTING.replace("HMMA", "FFMA")) == ({}, 0)
