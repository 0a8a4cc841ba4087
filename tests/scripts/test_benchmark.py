"""The benchmark, run whole with the smallest models: every part gives figures, and the file holds what was
printed.
"""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from scripts import benchmark, benchmark_commands, benchmark_models, benchmark_peers, benchmark_steps
from scripts.timing import Timing, count_flops, matrix_ceiling, time_interleaved
from tests.helpers import forget_accelerator


@pytest.fixture
def small(monkeypatch):
    """Tiny stand-ins for the large models."""
    forget_accelerator()  # of an earlier training in this process
    monkeypatch.setattr(
        benchmark_steps,
        "make_sd_vae",
        lambda: AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(8,) * 4,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval(),
    )
    make_unet = benchmark_models.make_unet
    for module in (benchmark_models, benchmark_steps):
        monkeypatch.setattr(
            module, "make_unet", lambda preset: make_unet(preset, model_channels=32, num_heads=2)
        )
    monkeypatch.setattr("scripts.timing.MATRIX", {"cpu": 64})
    monkeypatch.setattr("scripts.timing.COPY_BYTES", 1 << 16)


def test_training_sampling_and_machine(small, tmp_path, capsys):
    flags = (
        "--parts training sampling machine --rounds 1 --train_batch_size 2 --batch_sizes 1 2 --num_steps 1 2 "
        "--published_calls 1 --preset tiny --mixed_precision no --device cpu"
    )
    benchmark.main(benchmark.parse_args([*flags.split(), "--save_path", str(tmp_path / "b.json")]))
    content = json.loads((tmp_path / "b.json").read_text())
    assert {row["part"] for row in content["rows"]} == {"training", "sampling", "machine"}
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in content["rows"])
    published = [row for row in content["rows"] if row["what"].startswith("published")]
    assert [row["unit"] for row in published] == ["images/s", "s/word"]
    assert len(content["factors"]) == sum(row["what"].startswith("ours") for row in content["rows"]) > 2
    assert sum(row["what"].startswith("models/demo as it ships") for row in content["rows"]) == 2
    assert content["machine"]["cores"] >= 1 and " x  sampling: ours" in capsys.readouterr().out


def test_peers_have_their_published_sizes():
    with torch.device("meta"):
        higan, vatr = benchmark_peers.HiganGenerator(), benchmark_peers.VatrGenerator()
    assert benchmark_peers.count_parameters(higan) == benchmark_peers.HIGAN_PUBLISHED
    assert benchmark_peers.count_parameters(vatr) == "39.8 M"


def test_peers_are_timed_beside_the_model_that_ships(pipeline, monkeypatch):
    monkeypatch.setattr(benchmark_peers.HandwritingPipeline, "from_pretrained", lambda _: pipeline)
    higan, vatr = benchmark_peers.HiganGenerator, benchmark_peers.VatrGenerator
    monkeypatch.setattr(benchmark_peers, "HiganGenerator", lambda: higan(channels=8))
    monkeypatch.setattr(benchmark_peers, "VatrGenerator", lambda: vatr(layers=1))
    flags = ["--rounds", "1", "--batch_sizes", "2", "--device", "cpu"]
    rows = benchmark_peers.benchmark_peers(benchmark.read_settings(benchmark.parse_args(flags)))
    assert [row.what.split(" (")[0] for row in rows] == ["HiGAN+", "VATr", "VATr", "models/demo"]
    assert all(0 < row.low <= row.value <= row.high and row.unit == "s/word" for row in rows)


def test_a_peer_writes_each_word_as_wide_as_its_characters():
    model = benchmark_peers.HiganGenerator(channels=8).eval()
    images = benchmark_peers.write_by_peer(model, ["abc", "a"], 2, model.draw_style)
    assert [image.shape for image in images] == [(64, 32), (64, 96)]
    assert images[0].dtype.name == "uint8"


def test_preprocessing_is_measured_on_a_made_up_iam(tmp_path):
    args = benchmark.parse_args(["--rounds", "1", "--num_words", "120", "--device", "cpu"])
    rows = benchmark_commands.benchmark_preprocessing(benchmark.read_settings(args))
    assert {row.unit for row in rows} == {"words/s", "MiB"} and any(
        row.what.startswith("120 words, 1 process") for row in rows
    )


def test_the_made_up_iam_is_read_whole(tmp_path):
    from preprocessing.readers.iam import iter_words

    benchmark_commands.make_iam(tmp_path / "iam", 150)
    words = list(iter_words(tmp_path / "iam"))
    assert len(words) == len({word.source_id for word in words}) == 150


def test_a_failing_script_is_an_error():
    with pytest.raises(ValueError, match=r"inference\.py failed: .*no such folder"):
        benchmark_commands.run_measured(["inference.py", "--models_path", "/nowhere"])


def test_timings_are_interleaved_medians():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = time_interleaved(calls, torch.device("cpu"), rounds=3)
    assert order == list("ab" * 4)  # one round of warm-up
    assert timings["a"].rounds == 3 and timings["a"].low <= timings["a"].median <= timings["a"].high
    assert isinstance(timings["b"], Timing)


def test_flops_of_a_product():
    one, other = torch.randn(8, 16), torch.randn(16, 4)
    assert count_flops(lambda: one @ other) == 2 * 8 * 16 * 4


def test_the_ceiling_is_a_rate(monkeypatch):
    monkeypatch.setattr("scripts.timing.MATRIX", {"cpu": 64})
    assert matrix_ceiling(torch.device("cpu"), torch.float32, rounds=1) > 1e6
