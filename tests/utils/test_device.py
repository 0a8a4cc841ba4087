"""torch.compile is optional: where it fails the run goes on and says so."""

import torch
from torch import nn

from utils.device import compile_in_place


def test_where_it_fails_the_module_stays_as_it_is(monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    module, said = nn.Linear(2, 2), []
    assert not compile_in_place(module, torch.device("cpu"), said.append)
    assert "no C++ compiler" in said[0] and "going on without" in said[0]
    assert module(torch.ones(1, 2)).shape == (1, 2)


def test_where_it_works_the_weights_keep_their_names(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call: call)
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    module = nn.Linear(2, 2)
    assert compile_in_place(module, torch.device("cpu"))
    assert compiled == [module] and list(module.state_dict()) == ["weight", "bias"]
