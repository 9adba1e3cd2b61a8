# SPDX-License-Identifier: Apache-2.0
"""Check what a failed update leaves: the served checkpoint, loaded again if overwritten."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bench.checkpoints.tiny import build
from sglang_gemma4_ext.patches.server.weights_kept_on_failure import PATCH
from tests.patches.hooks import hook_of

UPDATE = hook_of(PATCH, "around", "update_weights_from_disk")


class Gemma4ForConditionalGeneration(torch.nn.Module):
    pass


class Gemma4AssistantForCausalLM(torch.nn.Module):
    pass


class Updater:
    """Stand for SGLang's: it notes the path first, and loads as `outcomes` say, in turn."""

    def __init__(self, *outcomes: object, model: type = Gemma4ForConditionalGeneration):
        self.model_config = SimpleNamespace(model_path="served")
        self.model, self.outcomes, self.loaded = model(), list(outcomes), []

    def get_model(self) -> object:
        return self.model

    def load(self, path: str, load_format: str, **_: object) -> tuple[bool, str]:
        self.model_config.model_path = path
        self.loaded.append(path)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def update(self, path: object, load_format: str = "auto") -> tuple[bool, str]:
        return UPDATE(Updater.load, self, str(path), load_format, recapture_cuda_graph=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return build("dense", tmp_path_factory.mktemp("other"), seed=1)


def test_a_sound_checkpoint_is_loaded_once(other):
    updater = Updater((True, "Succeeded"))
    assert updater.update(other) == (True, "Succeeded")
    assert updater.loaded == [str(other)]


@pytest.mark.parametrize("failure", [(False, "Failed to update weights: x."), ValueError("x")])
def test_overwritten_weights_are_loaded_again_from_the_served_path(other, failure):
    updater = Updater(failure, (True, "Succeeded"))
    done, message = updater.update(other)
    assert not done and message == "Failed to update weights: x. The server keeps its weights."
    assert updater.loaded == [str(other), "served"]
    assert updater.model_config.model_path == "served"


def test_nothing_is_loaded_again_where_nothing_was_written(other):
    updater = Updater((False, "Failed to get weights iterator: x."))
    assert not updater.update(other)[0]
    assert updater.loaded == [str(other)] and updater.model_config.model_path == "served"


def test_lost_weights_end_the_server_with_a_sentence(other):
    updater = Updater(ValueError("x"), (False, "no disk"))
    with pytest.raises(RuntimeError, match="could not be read again: start the server again"):
        updater.update(other)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/nowhere/at/all", "does not exist"),
        ("unified", "holds Gemma4UnifiedForConditionalGeneration and the server runs"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is_written(path, says, tmp_path):
    path = build(path, tmp_path / path) if "/" not in path else path
    updater = Updater()
    done, message = updater.update(path)
    assert not done and says in message and message.endswith("The server keeps its weights.")
    assert not updater.loaded


def test_an_assistant_keeps_its_weights(other):
    updater = Updater(model=Gemma4AssistantForCausalLM)
    assert updater.update(other) == (True, "The assistant keeps its weights.")
    assert not updater.loaded


def test_repacked_weights_are_not_replaced(other):
    updater = Updater()
    updater.model.experts = torch.nn.Module()
    updater.model.experts.gemma4_humming = torch.nn.Module()
    done, message = updater.update(other)
    assert not done and "--gemma4-weights fused" in message and not updater.loaded
