# SPDX-License-Identifier: Apache-2.0
"""A logit processor that makes a model write what a test wants."""

from __future__ import annotations

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor


class Say(CustomLogitProcessor):
    """Leaves of all tokens only the next one of custom_params["output"], then `<eos>`."""

    def __call__(self, logits, custom_param_list):
        for row, params in enumerate(custom_param_list):
            written = len(params["__req__"].output_ids)
            wanted = [*params["output"], 1]
            logits[row] = float("-inf")
            logits[row, wanted[min(written, len(wanted) - 1)]] = 0.0
        return logits
