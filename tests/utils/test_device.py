"""One choice of the device; torch.compile is optional: where it fails the run goes on and says so."""

import pytest
import torch
from torch import nn

from utils.device import choose_device, choose_precision, compile_in_place


@pytest.mark.parametrize("name", ["bogus", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"--device {name}: no such device here\. This machine has cpu and"):
        choose_device(name)


def test_a_device_that_is_asked_for_is_taken():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device() == torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def test_a_precision_that_is_asked_for_is_taken():
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    assert choose_precision(None, torch.device("cpu")) in ("no", "bf16")


def test_bf16_that_is_only_emulated_gets_a_warning(monkeypatch):
    notes = []
    for is_native in (True, False):
        monkeypatch.setattr("utils.device.has_fast_bf16", lambda _, is_native=is_native: is_native)
        assert choose_precision("bf16", torch.device("cpu"), notes.append) == "bf16"
    assert len(notes) == 1 and "--mixed_precision bf16" in notes[0]
    assert choose_precision(None, torch.device("cpu"), notes.append) == "no" and len(notes) == 1


def test_where_it_fails_the_module_stays_as_it_is(monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    module, warnings = nn.Linear(2, 2), []
    assert not compile_in_place(module, torch.device("cpu"), warnings.append)
    assert "no C++ compiler" in warnings[0] and "going on without" in warnings[0]
    assert module(torch.ones(1, 2)).shape == (1, 2)


def test_where_it_works_the_weights_keep_their_names(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call: call)
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    module = nn.Linear(2, 2)
    assert compile_in_place(module, torch.device("cpu"))
    assert compiled == [module] and list(module.state_dict()) == ["weight", "bias"]
