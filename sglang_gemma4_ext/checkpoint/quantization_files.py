# SPDX-License-Identifier: Apache-2.0
"""Read the quantization sections that ModelOpt, compressed-tensors, GPTQ and others write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint.files import (
    CheckpointError,
    json_integer,
    json_object,
    json_strings,
)
from sglang_gemma4_ext.checkpoint.schemes import (
    COMPRESSED_TENSORS,
    INTEGER_WORDS,
    MODELOPT,
    PLAIN,
    UNKNOWN,
    Format,
    Quantization,
    Rule,
    Scheme,
)
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK as NVFP4_GROUP

_FP8 = ("fp8", "fbgemm_fp8", "modelopt_fp8")
# Fields in which a tool lists the modules that it left alone: by name, or by part of a name.
_SKIPPED = ("ignore", "ignored_layers", "exclude_modules")
_SKIPPED_PARTS = ("modules_to_not_convert", "llm_int8_skip_modules")


def read(section: Any, file: Path) -> Quantization:
    """Describe a `quantization_config` or the content of hf_quant_config.json.

    Raises CheckpointError, naming the field, on a value of another type.
    """
    section = json_object({"quantization_config": section}, "quantization_config", file)
    method = str(section.get("quant_method") or "").lower()
    if method == COMPRESSED_TENSORS:
        return _compressed_tensors(section, file)
    if not method or method.startswith(MODELOPT):
        return _modelopt(json_object(section, "quantization", file) or section, file)
    bits = json_integer(section, "bits", file) or json_integer(section, "w_bit", file)
    group = json_integer(section, "group_size", file) or json_integer(section, "q_group_size", file)
    return Quantization(
        tool=method,
        label=str(section.get("quant_algo") or section.get("format") or method),
        default=_uniform(method, section, bits, group),
        rules=(*_exceptions(section, bits, group, file), *_skipped(section, file)),
        kv_cache=_kv_cache(section, file),
        file=file,
    )


def _uniform(method: str, section: dict[str, Any], bits: int | None, group: int | None) -> Scheme:
    if method in _FP8:
        return Scheme("fp8", 8)
    if method == "bitsandbytes":
        return Scheme("bitsandbytes", 8 if section.get("load_in_8bit") else 4)
    if method in INTEGER_WORDS:
        zeros = section.get("sym") is False or section.get("zero_point") is True
        # One scale a row has one group, whose order changes nothing.
        reordered = section.get("desc_act") is True and group is not None and group > 0
        return _integer(bits, group, zeros, reordered)
    return Scheme("unknown", bits)


def _integer(
    bits: int | None, group: int | None, zeros: bool = False, reordered: bool = False
) -> Scheme:
    """Describe an integer format; 16 bits or more are weights that were left alone."""
    if bits is not None and bits >= 16:
        return PLAIN
    return Scheme("int", bits, group if group and group > 0 else None, zeros, reordered)


def _exceptions(
    section: dict[str, Any], bits: int | None, group: int | None, file: Path
) -> list[Rule]:
    """List layers with their own width: `dynamic` of GPTQ, `extra_config` of AutoRound."""
    rules = []
    for pattern, own in json_object(section, "dynamic", file).items():
        scheme = PLAIN if pattern.startswith("-:") else _own(own, bits, group)
        rules.append(_regex(pattern.removeprefix("-:").removeprefix("+:"), scheme))
    for name, own in json_object(section, "extra_config", file).items():
        scheme = _own(own, bits, group)
        plain_name = re.fullmatch(r"[\w.]+", name)
        rules.append(Rule(name, scheme) if plain_name else _regex(name, scheme))
    return rules


def _own(own: Any, bits: int | None, group: int | None) -> Scheme:
    if not isinstance(own, dict):
        return UNKNOWN
    bits, group = own.get("bits", bits), own.get("group_size", group)
    if not isinstance(bits, int | None) or not isinstance(group, int | None):
        return UNKNOWN
    return _integer(bits, group)


def _compressed_tensors(section: dict[str, Any], file: Path) -> Quantization:
    """Read groups; a layer's own name or pattern takes precedence over its class."""
    rules, default, labels = _skipped(section, file), PLAIN, []
    for name, group in json_object(section, "config_groups", file).items():
        group = json_object({f"config_groups.{name}": group}, f"config_groups.{name}", file)
        fmt = str(group.get("format") or section.get("format") or "")
        labels.append(fmt)
        scheme = _group_scheme(group, fmt, file)
        for target in json_strings(group, "targets", file) or ["Linear"]:
            if target in ("Linear", "FusedMoE", "MoE"):
                default = scheme if default is PLAIN else default
            else:
                rules.append(_listed(target, scheme))
    fmt = str(section.get("format") or "")
    if not labels:
        labels, default = [fmt], Scheme("nvfp4", 4, NVFP4_GROUP) if _nvfp4(fmt) else UNKNOWN
    return Quantization(
        tool=COMPRESSED_TENSORS,
        label=fmt or ", ".join(sorted(set(labels))),
        default=default,
        rules=tuple(rules),
        kv_cache=_kv_cache(section, file),
        file=file,
    )


def _group_scheme(group: dict[str, Any], fmt: str, file: Path) -> Scheme:
    weights = json_object(group, "weights", file)
    bits, size = json_integer(weights, "num_bits", file), json_integer(weights, "group_size", file)
    kind = weights.get("type")
    if _nvfp4(fmt):
        # A group of integers named NVFP4 contradicts itself.
        return Scheme("unknown", bits) if kind == "int" else Scheme("nvfp4", 4, size or NVFP4_GROUP)
    if kind == "float" and bits == 8:
        return Scheme("fp8", 8, size)
    if kind == "int":
        zeros, order = weights.get("symmetric") is False, weights.get("actorder")
        return _integer(bits, size, zeros, order in (True, "group", "dynamic"))
    return Scheme("unknown", bits)


def _nvfp4(fmt: str) -> bool:
    return fmt.startswith("nvfp4")


def _modelopt(section: dict[str, Any], file: Path) -> Quantization:
    """Read one algorithm for all layers, or `quantized_layers` with one for each."""
    algorithm = str(section.get("quant_algo") or "").upper()
    layers = json_object(section, "quantized_layers", file)
    if not algorithm and not layers:
        return Quantization(file=file)
    rules = _skipped(section, file)
    for name, own in layers.items():
        own = json_object({f"quantized_layers.{name}": own}, f"quantized_layers.{name}", file)
        rules.append(Rule(name, _algorithm(own, file)))
    default = PLAIN if algorithm == "MIXED_PRECISION" else _algorithm(section, file)
    return Quantization(
        tool=MODELOPT,
        label=algorithm or "MIXED_PRECISION",
        default=default,
        rules=tuple(rules),
        kv_cache=_kv_cache(section, file),
        per_layer=bool(layers),
        file=file,
    )


def _algorithm(part: dict[str, Any], file: Path) -> Scheme:
    algorithm = str(part.get("quant_algo") or "").upper()
    if "NVFP4" in algorithm:
        return Scheme("nvfp4", 4, _modelopt_group(part, file) or NVFP4_GROUP)
    if algorithm.startswith("FP8"):
        return Scheme("fp8", 8)
    if match := re.match(r"W(\d+)A\d+", algorithm):  # W4A16_AWQ, W4A8_AWQ
        return Scheme("int", int(match[1]), json_integer(part, "group_size", file))
    return PLAIN if not algorithm else UNKNOWN


def _modelopt_group(part: dict[str, Any], file: Path) -> int | None:
    for name, group in json_object(part, "config_groups", file).items():
        group = json_object({f"config_groups.{name}": group}, f"config_groups.{name}", file)
        weights = json_object(group, "weights", file)
        if weights.get("num_bits", 4) == 4 and weights:
            return json_integer(weights, "group_size", file)
    return json_integer(part, "group_size", file)


def _kv_cache(section: dict[str, Any], file: Path) -> Scheme | None:
    """Read `kv_cache_scheme` of config.json, or ModelOpt's `kv_cache_quant_algo`."""
    if isinstance(section.get("kv_cache_scheme"), dict):
        scheme = section["kv_cache_scheme"]
        bits = json_integer(scheme, "num_bits", file)
        formats: dict[Any, Format] = {("float", 8): "fp8", ("float", 4): "nvfp4", ("int", 8): "int"}
        kind = scheme.get("type")
        return Scheme(formats.get((kind, bits), "unknown") if _text(kind) else "unknown", bits)
    algorithm = str(section.get("kv_cache_quant_algo") or "").upper()
    if algorithm in ("", "NONE", "AUTO"):
        return None
    known: dict[str, Scheme] = {
        "FP8": Scheme("fp8", 8),
        "INT8": Scheme("int", 8),
        "NVFP4": Scheme("nvfp4", 4, NVFP4_GROUP),
    }
    return known.get(algorithm, UNKNOWN)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _skipped(section: dict[str, Any], file: Path) -> list[Rule]:
    names = (name for field in _SKIPPED for name in json_strings(section, field, file))
    parts = (name for field in _SKIPPED_PARTS for name in json_strings(section, field, file))
    return [*(_listed(name, PLAIN) for name in names), *(Rule(p, PLAIN, "part") for p in parts)]


def _listed(name: str, scheme: Scheme) -> Rule:
    """Make a rule of a listed name: a pattern after `re:`, a wildcard, or a name."""
    if name.startswith("re:"):
        return _regex(name.removeprefix("re:"), scheme)
    if "*" in name:
        return Rule(name, scheme, "wildcard")
    return Rule(name, scheme)


def _regex(pattern: str, scheme: Scheme) -> Rule:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        raise CheckpointError(
            f"the quantization config has the invalid pattern {pattern!r}: export the checkpoint "
            "again"
        ) from None
    return Rule(pattern, scheme, "regex")
