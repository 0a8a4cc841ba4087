"""train_diffusion.py --alignment, run for real: a few steps of a tiny model on words and lines."""

import json

import pytest

from diffusion.pipeline import HandwritingPipeline
from tests.helpers import (
    TINY_TRAINING,
    WORDS,
    WRITERS,
    assert_equal_files,
    assert_equal_states,
    clone_checkpoint,
    make_word_folder,
    run_script,
)
from utils.errors import UserError

ALIGNED = ("--alignment", "--recogniser_steps", 2, "--max_train_steps", 4)
LINES = [" ".join(WORDS[i : i + 3]) for i in range(0, 24, 3)]


@pytest.fixture(scope="module", autouse=True)
def _trust_an_untaught_recogniser():
    """Teaching one until it reads takes minutes; here it is enough that there are borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.alignment.LEAST_LIKELY", -1000.0)
        yield


@pytest.fixture(scope="module")
def train(vae_folder, tmp_path_factory):
    """Train in this process on eight lines; returns the run's folder."""
    data = tmp_path_factory.mktemp("data") / "lines"
    make_word_folder(data, LINES, WRITERS, img_size=(32, 224))

    def run(*argv, save_path=None):
        run = save_path or tmp_path_factory.mktemp("runs") / "run"
        given = ("--dataset_path", data, "--vae", vae_folder, "--save_path", run)
        run_script("train_diffusion", *given, *TINY_TRAINING, *argv)
        return run

    return run


@pytest.fixture(scope="module")
def aligned_run(train):
    return train(*ALIGNED)


def read_config(checkpoint):
    return json.loads((checkpoint / "config.json").read_text())


def test_the_config_says_what_was_aligned_and_how_much_widths_vary(aligned_run):
    config = read_config(aligned_run / "step_00000004")
    assert config["training"]["alignment"] and config["alignment"]["images"] == len(LINES)
    assert isinstance(config["alignment"]["peak_place"], float) and config["width_model"]["spread"] > 0


def test_the_run_trains_on_segments_of_lines(train, capsys):
    train(*ALIGNED[:-1], 1)
    output = capsys.readouterr().out
    assert f"{len(LINES)} of {len(LINES)} images aligned" in output
    assert int(output.split("words       ")[1].split()[0]) > 2 * len(LINES)


def test_an_aligned_run_can_be_sampled_from(aligned_run):
    pipeline = HandwritingPipeline.from_pretrained(aligned_run)
    assert pipeline.latent_recogniser is not None
    assert pipeline(["bead cab"], ["01"], num_inference_steps=1).shape[1] == 32


def test_a_resumed_run_goes_on_bit_for_bit(train, aligned_run, tmp_path):
    run = clone_checkpoint(aligned_run / "step_00000002", tmp_path / "run")
    train("--resume", save_path=run)
    assert_equal_states(run / "step_00000004", aligned_run / "step_00000004")
    configs = [read_config(r / "step_00000004") for r in (run, aligned_run)]
    assert configs[0] == configs[1]


def test_no_alignment_is_what_a_run_does_by_default(train):
    runs = [train("--max_train_steps", 1, *flags) for flags in ((), ("--no-alignment",))]
    assert_equal_files(*(run / "step_00000001" for run in runs), ("unet.safetensors",))
    config = read_config(runs[0] / "step_00000001")
    assert "alignment" not in config and "spread" not in config["width_model"]


def test_alignment_needs_a_text_layout(train):
    with pytest.raises(UserError, match="--alignment: this model has no text layout"):
        train("--alignment", "--no-text_layout", "--max_train_steps", 1)
