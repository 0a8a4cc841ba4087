"""``torch.compile`` where it works, and a word where it doesn't."""

from collections.abc import Callable

import torch
from torch import nn

SHAPES = 64  # graphs that are kept: canvases have many widths


def compile_in_place(module: nn.Module, device: torch.device, say: Callable[[str], None] = print) -> bool:
    """Compile a module's forward pass, if this machine can; its weights keep their names.

    Args:
        say: what a message goes to that it can't.
    Returns:
        Whether it is compiled.
    """
    try:
        probe = torch.compile(lambda x: x.sin() * 2)
        probe(torch.ones(8, device=device))
    except Exception as error:
        say(f"note        --compile: torch.compile does not work here ({type(error).__name__}: {str(error).strip()[:120]}); "
            "going on without")  # fmt: skip
        return False
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, SHAPES)
    module.compile()
    return True
