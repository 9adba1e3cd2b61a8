# SPDX-License-Identifier: Apache-2.0
"""Make a served model write a test's output by a logit processor."""

from __future__ import annotations

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor


class Say(CustomLogitProcessor):
    """Allow only the next token of custom_params["output"], then `<eos>`."""

    def __call__(self, logits, custom_param_list):
        for row, params in enumerate(custom_param_list):
            written = len(params["__req__"].output_ids)
            wanted = [*params["output"], 1]
            logits[row] = float("-inf")
            logits[row, wanted[min(written, len(wanted) - 1)]] = 0.0
        return logits
