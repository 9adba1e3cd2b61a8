# SPDX-License-Identifier: Apache-2.0
"""Write folders that both servers start from with --load-format dummy: real shapes, no weights.

Stock SGLang builds Gemma 4's vision tower and needs its processor, so both are included. The
extension serves only text by default and leaves them out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING, Geometry

WEIGHTS = ("bf16", "nvfp4")
# The released 26B-A4B's tower. The 12B has none and gets this one, so that stock starts.
VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72,
}  # fmt: skip


def write(name: str, weights: str, out: Path, toy: bool = False) -> Path:
    """Write config.json, tokenizer and processor of a released shape; `toy` keeps only its kind."""
    from bench.checkpoints.shapes import write_config
    from bench.checkpoints.tiny import processor, towers

    geometry = BUILT_IN[name]
    write_config(_toy(geometry) if toy else geometry, out)
    processor().save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["vision_config"] = towers()["vision_config"] | ({} if toy else VISION)
    if weights == "nvfp4":
        config["quantization_config"] = _modelopt()
    (out / "config.json").write_text(json.dumps(config, indent=1))
    return out


def _toy(geometry: Geometry) -> Geometry:
    return replace(
        geometry, layer_types=(SLIDING, FULL), hidden=128, intermediate=64, heads=4, kv_heads=2,
        global_kv_heads=1, head_dim=32, global_head_dim=64, window=16, max_context=2048, vocab=512,
        experts=geometry.experts and 4, top_k=geometry.top_k and 2,
        expert_intermediate=geometry.expert_intermediate and 64,
    )  # fmt: skip


def _modelopt() -> dict:
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}
    return {
        "config_groups": {"group_0": {"weights": numbers, "targets": ["Linear"]}},
        "ignore": ["lm_head", "*router*", "model.vision_tower*", "model.embed_vision*"],
        "quant_algo": "W4A16_NVFP4",
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quant_method": "modelopt",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=BUILT_IN)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", choices=WEIGHTS, default="bf16")
    parser.add_argument("--toy", action="store_true", help="a few small layers of the same kind")
    args = parser.parse_args()
    print(write(args.name, args.weights, args.out, args.toy))


if __name__ == "__main__":
    main()
