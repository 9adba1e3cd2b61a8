# SPDX-License-Identifier: Apache-2.0
"""Provide the entry points that SGLang calls in every process it starts.

`activate` hooks two places through which every process learns its model. The main process settles
the model's path in argument resolution; schedulers construct ModelConfig. The patches are read only
when that model is a Gemma 4. SGLang with any other model differs by one pass-through call. Our
launcher's servers also get the patches of theme "server", with every model.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from typing import Any

from sglang_gemma4_ext import PREFIX, VERIFIED_SGLANG
from sglang_gemma4_ext.quiet import quiet
from sglang_gemma4_ext.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

BOOTSTRAP = "sglang.srt.configs.model_config.ModelConfig.from_server_args"

_outcomes: list[Any] | None = None
_every_model: list[Any] = []


def activate() -> None:
    """Hook into this process before SGLang does anything (entry point `sglang.srt.plugins`).

    SGLang logs and swallows an Exception raised here, so a refusal is a SystemExit.
    """
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    try:
        settings = Settings.from_env()
        check_names(settings)
    except SettingsError as error:
        raise SystemExit(f"{PREFIX}{error}") from None
    register_resolution_hook("handle_model_source_paths")(_on_model_path)
    HookRegistry.register(BOOTSTRAP, _on_model_config, HookType.BEFORE)
    if settings.launched:
        quiet()
        _register_for_every_model(settings)
        _leave_ctrl_c_to_the_launcher()


def _register_for_every_model(settings: Settings) -> None:
    """Register the patches that the launcher needs for every model; SGLang applies them next."""
    global _every_model
    from sglang_gemma4_ext.context import Context, sglang_version
    from sglang_gemma4_ext.patches.series import PATCHES
    from sglang_gemma4_ext.registry import HeldBackError, register

    ctx = Context(settings, sglang=sglang_version())
    try:
        _every_model = register([patch for patch in PATCHES if patch.every_model], ctx)
    except HeldBackError as error:
        raise SystemExit(f"{PREFIX}{error}") from None


def _leave_ctrl_c_to_the_launcher() -> None:
    """Ignore SIGINT here: a terminal sends it to the whole group, and the launcher answers."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def cpu_platform() -> str | None:
    """Name the CPU reference if it was chosen (entry point `sglang.srt.platforms`)."""
    if not Settings.from_env().cpu:
        return None
    return "sglang_gemma4_ext.cpu_reference.platform.CpuReferencePlatform"


def require_bootstrap() -> None:
    """Exit unless this process's SGLang calls us; HookRegistry would only log that."""
    from sglang_gemma4_ext.registry import is_wrapped, resolve

    try:
        held = is_wrapped(resolve(BOOTSTRAP), _on_model_config)
    except (ImportError, AttributeError):
        held = False
    if not held:
        raise SystemExit(
            f"{PREFIX}this SGLang did not load the plugin: install the package (pip "
            f"install .) beside SGLang {VERIFIED_SGLANG}; {BOOTSTRAP} must exist"
        )
    _verify_for_every_model()


def _verify_for_every_model() -> None:
    """Exit unless the hooks registered for every model are in place."""
    global _every_model
    from sglang_gemma4_ext.context import Context, sglang_version
    from sglang_gemma4_ext.registry import HeldBackError, verify

    try:
        _every_model = verify(_every_model, Context(sglang=sglang_version()))
    except HeldBackError as error:
        raise SystemExit(f"{PREFIX}{error}") from None


def outcomes() -> list[Any]:
    """Return each patch's outcome in this process; without a Gemma 4, those of theme "server"."""
    return list(_outcomes or _every_model)


def _on_model_path(server_args: Any, previous: Any) -> None:
    """Apply the patches in resolution: the model path is final, and no config is read yet."""
    from sglang.srt.arg_groups.overrides import resolving_view

    previous(server_args)
    cfg = resolving_view(server_args)
    apply_for(cfg.model_path, cfg.revision)
    if _outcomes is not None:
        # The schedulers start later and use only the hook of ModelConfig.
        require_bootstrap()
        _check_checkpoints(cfg)


def _check_checkpoints(cfg: Any) -> None:
    """Exit with one sentence if a checkpoint is wrong; our launcher has looked before."""
    if Settings.from_env().launched or multiprocessing.parent_process() is not None:
        return
    from sglang_gemma4_ext.checkpoint.adapters import paths_of
    from sglang_gemma4_ext.checkpoint.files import CheckpointError
    from sglang_gemma4_ext.checkpoint.server_inputs import Inputs, check_inputs

    own_tokenizer = cfg.tokenizer_path in (None, cfg.model_path) and not cfg.skip_tokenizer_init
    inputs = Inputs(
        cfg.model_path,
        cfg.speculative_draft_model_path,
        revision=cfg.revision,
        draft_revision=cfg.speculative_draft_model_revision,
        load_format=cfg.load_format,
        own_tokenizer=own_tokenizer,
        adapters=tuple(paths_of(cfg.lora_paths)),
        embeddings=bool(cfg.is_embedding),
    )
    try:
        check_inputs(inputs)
    except CheckpointError as error:
        raise SystemExit(f"{PREFIX}{error}") from None


def _on_model_config(*args: Any, **kwargs: Any) -> None:
    """Apply the patches before ModelConfig.from_server_args(server_args, model_path=None, ...)."""
    from sglang.srt.arg_groups.overrides import resolving_view

    server_args = args[0] if args else kwargs["server_args"]
    cfg = resolving_view(server_args)
    path = kwargs.get("model_path") or (args[1] if len(args) > 1 else None) or cfg.model_path
    revision = kwargs.get("model_revision") or cfg.revision
    apply_for(path, revision)


def apply_for(path: str, revision: str | None = None) -> None:
    """Apply the patches to this process if `path` is a Gemma 4 checkpoint and the first one.

    Exits the process with one message if a required patch does not hold.
    """
    global _outcomes
    if _outcomes is not None:
        return
    from sglang_gemma4_ext.checkpoint.model_family import read_model_info

    model = read_model_info(path, revision)
    if model is None or not model.is_gemma4:
        return
    from sglang_gemma4_ext.context import Context
    from sglang_gemma4_ext.patches.series import PATCHES
    from sglang_gemma4_ext.registry import HeldBackError, State, apply

    quiet()
    settled = {outcome.patch.name for outcome in _every_model}
    rest = [patch for patch in PATCHES if patch.name not in settled]
    try:
        _outcomes = [*_every_model, *apply(rest, Context.here(Settings.from_env(), model))]
    except HeldBackError as error:
        raise SystemExit(f"{PREFIX}{error}") from None
    for outcome in _outcomes:
        if outcome.state is State.BROKEN:
            logger.warning("%s is skipped: %s", outcome.patch.name, "; ".join(outcome.reasons))


def check_names(settings: Settings) -> None:
    """Check the names of patches to leave out. Raises SettingsError if one does not exist."""
    if not settings.disable:
        return
    from sglang_gemma4_ext.patches.series import PATCHES

    known = {patch.name for patch in PATCHES}
    unknown = sorted(settings.disable - known)
    if unknown:
        raise SettingsError(
            f"--gemma4-ext-disable: no patch is named {', '.join(unknown)}; "
            f"choose from {', '.join(sorted(known))}"
        )
