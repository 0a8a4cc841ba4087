"""A short campaign of faults against one command, and what it takes for a fault."""

import random

import pytest

from scripts import fault_campaign
from scripts.fault_inputs import damage_bytes
from scripts.fault_trials import Ending


def test_a_short_campaign_against_preprocessing_holds(tmp_path, capsys):
    args = fault_campaign.parse_args(
        ["--minutes", "0.1", "--commands", "process_dataset", "--faults", "kill_at_file", "pictures", "table"]
    )
    assert fault_campaign.run_campaign(args, tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not held" not in lines[0]
    name, tried, held = lines[-1].split()
    assert name == "all" and int(tried) == int(held) >= 1


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (Ending(code=0, messages=""), None),
        (Ending(code=2, messages="error: --save_dir x: wrong"), None),
        (Ending(code=None, messages=""), "no end"),
        (Ending(code=1, messages="Traceback (most recent call last):\n  x\nKeyError: 1"), "KeyError: 1"),
        (Ending(code=2, messages="Traceback (most recent call last):\n  x\nKeyError: 1"), "KeyError: 1"),
        (Ending(code=-7, messages=""), "exit status -7"),
        (Ending(code=0, messages="", survivors=(1,)), "outlived"),
    ],
)
def test_what_counts_as_held(ending, fault):
    assert ending.fault() is None if fault is None else fault in ending.fault()


def test_damage_is_the_same_for_one_seed():
    first, second = (damage_bytes(bytes(range(256)), random.Random(3)) for _ in range(2))
    assert first == second
