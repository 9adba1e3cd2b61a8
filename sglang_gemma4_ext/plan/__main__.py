# SPDX-License-Identifier: Apache-2.0
"""`python -m sglang_gemma4_ext.plan`: will this model fit that GPU, and how to serve it there."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.plan import planner, report, weights
from sglang_gemma4_ext.plan.geometry import BUILT_IN, Geometry, PlanError, built_in, from_config
from sglang_gemma4_ext.plan.sizes import BLACKWELL, GPUS_MIB, gpu_memory, known_gpu, parse_size
from sglang_gemma4_ext.plan.weights import FORMATS, Weights

BEYOND = (
    "This GPU is a Blackwell, where the extension leaves pools and reserve to SGLang: what is "
    "planned here holds for compute capability 8.0 to 9.x, and --stock for this one."
)
STOCK_EXPERTS = (
    "Before Blackwell, stock SGLang does not answer with NVFP4 experts: its Marlin kernels refuse "
    "their gelu. This is the memory that it would take."
)
KV_DTYPE_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_gemma4_ext.plan", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model-path", "--model", required=True, metavar="DIR|CONFIG.JSON|NAME",
        help=f"a checkpoint, its config.json, or one of {', '.join(BUILT_IN)}")  # fmt: skip
    add("--gpu", help=f"one of {', '.join(GPUS_MIB)}")
    add("--memory", help="of one GPU, such as 24GiB, instead of --gpu")
    add("--weights", choices=FORMATS, help="what is quantized, where there are no weights to sum")
    add("--context-length", type=int)
    add("--max-running-requests", type=int)
    add("--chunked-prefill-size", type=int)
    add("--tp", "--tp-size", "--tensor-parallel-size", type=int, default=1)
    add("--kv-cache-dtype", choices=KV_DTYPE_BYTES, default="auto")
    add("--mem-fraction-static", type=float)
    add("--swa-full-tokens-ratio", type=float)
    add("--page-size", type=int, default=1)
    add("--speculative-draft-model-path", metavar="DIR")
    add("--speculative-num-draft-tokens", type=int)
    add("--enable-multimodal", action="store_true", help="count the towers too")
    add("--gemma4-swa-policy", choices=("auto", "seed", "upstream"), default="auto")
    add("--gemma4-low-memory", action="store_true")
    add("--stock", action="store_true", help="plan for SGLang 0.5.23 without this extension")
    add("--json", action="store_true", help="print JSON")
    add("--plot", type=Path, metavar="FILE.png", help="draw the plan beside stock SGLang's")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print a plan. 0: it fits; 1: it does not; 2: the question has no answer, in one sentence."""
    args = build_parser().parse_args(argv)
    try:
        wish = wish_of(args)
        plan = planner.make(wish)
        if args.plot:
            _plot(plan, args.plot)
    except (PlanError, CheckpointError) as error:
        print(f"sglang-gemma4-ext: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json(plan), indent=2) if args.json else report.to_text(plan))
    return 0 if plan.fits else 1


def wish_of(args: argparse.Namespace) -> planner.Wish:
    """What was asked for. Raises PlanError or CheckpointError."""
    _check_flags(args)
    geometry = _geometry(args.model_path)
    counted = _weights(args, geometry)
    draft = args.speculative_draft_model_path
    return planner.Wish(
        geometry=geometry,
        weights=counted,
        memory=gpu_memory(args.gpu) if args.gpu else parse_size(args.memory),
        tp=args.tp,
        context=args.context_length,
        requests=args.max_running_requests,
        chunk=args.chunked_prefill_size,
        mem_fraction=args.mem_fraction_static,
        swa_ratio=args.swa_full_tokens_ratio,
        kv_dtype_bytes=KV_DTYPE_BYTES[args.kv_cache_dtype],
        draft_bytes=_file_bytes(Path(draft)) if draft else 0,
        draft_layers=_layers(Path(draft)) if draft else 0,
        draft_tokens=args.speculative_num_draft_tokens or (4 if draft else 1),
        page=args.page_size,
        policy=args.gemma4_swa_policy,
        low_memory=args.gemma4_low_memory,
        ours=not args.stock,
        note=_note(args, counted),
    )


def _note(args: argparse.Namespace, counted: Weights) -> str:
    blackwell = args.gpu is not None and known_gpu(args.gpu) in BLACKWELL
    if args.stock:
        return STOCK_EXPERTS if counted.nvfp4_experts and not blackwell else ""
    return BEYOND if blackwell else ""


def _check_flags(args: argparse.Namespace) -> None:
    """Raises PlanError on flags that contradict each other."""
    if (args.gpu is None) == (args.memory is None):
        raise PlanError("give either --gpu or --memory")
    if args.stock and (args.gemma4_low_memory or args.gemma4_swa_policy != "auto"):
        raise PlanError("--stock plans without the extension: leave out --gemma4-* flags")
    if args.gemma4_low_memory and args.mem_fraction_static is not None:
        raise PlanError("--gemma4-low-memory chooses --mem-fraction-static: give one of the two")
    if args.speculative_num_draft_tokens and not args.speculative_draft_model_path:
        raise PlanError("--speculative-num-draft-tokens needs --speculative-draft-model-path")


def _geometry(path: str) -> Geometry:
    folder = Path(path).parent if path.endswith(".json") else Path(path)
    if not folder.is_dir() or not Path(path).exists():
        return built_in(path.rpartition("/")[2])
    model = read_model_info(str(folder.resolve()))
    if model is None:
        raise PlanError(f"{folder} has no config.json that can be read")
    return from_config(model)


def _weights(args: argparse.Namespace, geometry: Geometry) -> Weights:
    folder = Path(args.model_path)
    if folder.is_dir() and args.weights is None and any(folder.glob("*.safetensors")):
        tensors = read_headers(folder)
        return weights.from_headers(tensors, geometry, args.tp, multimodal=args.enable_multimodal)
    if args.enable_multimodal:
        raise PlanError("--enable-multimodal needs a checkpoint whose towers can be summed")
    return weights.estimate(geometry, args.weights or "bf16", args.tp)


def _file_bytes(folder: Path) -> int:
    if not folder.is_dir():
        raise PlanError(f"--speculative-draft-model-path {folder} is no folder")
    return sum(
        prod(tensor.shape) * weights.element_bytes(name, tensor)
        for name, tensor in read_headers(folder).items()
    )


def _layers(folder: Path) -> int:
    model = read_model_info(str(folder.resolve()))
    return model.text.get("num_hidden_layers", 0) if model else 0


def _plot(plan: planner.Plan, file: Path) -> None:
    from sglang_gemma4_ext.plan.plot import draw

    if file.suffix.lower() != ".png":
        raise PlanError(f"--plot writes a .png file, not {file.name}")
    plans = [(report.title(plan), plan)]
    if plan.wish.ours:
        stock = planner.make(replace(plan.wish, ours=False, policy="auto", low_memory=False))
        plans.append((report.title(stock), stock))
    draw(plans, file)


if __name__ == "__main__":
    raise SystemExit(main())
