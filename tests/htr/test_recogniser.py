"""The recognisers: shapes, padding, confidences, files, and what is said where one is missing."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from htr import recogniser
from htr.crnn import CRNN, RECOGNISER_WEIGHTS_NAME, BidirectionalLSTM, CRNNConfig
from htr.dataset import make_batch
from htr.recogniser import CRNNRecogniser, load_recogniser
from tests.helpers import ROOT, draw_word

HEIGHT = 32


def make_crnn(characters="abcde", **changes) -> CRNN:
    torch.manual_seed(0)
    config = CRNNConfig(
        characters=tuple(characters), img_height=HEIGHT, channels=(8, 8, 16, 16), hidden=16, **changes
    )
    return CRNN(config).eval()


def draw(text: str, *, width: int = 0, height: int = HEIGHT) -> np.ndarray:
    """A word at the left of a white canvas, as wide as the word if ``width`` is 0."""
    word = draw_word(text, font_size=20)[:height]
    image = np.full((height, max(width, word.shape[1])), 255, np.uint8)
    image[: word.shape[0], : word.shape[1]] = word
    return image


# The CRNN


def test_log_probabilities_have_a_frame_for_four_pixels_and_a_class_for_each_character_and_the_blank():
    log_probs = make_crnn()(*make_batch([draw("abc", width=64), draw("a", width=48)]))
    assert log_probs.shape == (2, 16, 6)
    assert torch.allclose(log_probs.exp().sum(dim=-1), torch.ones(2, 16), atol=1e-5)


def test_the_lstm_is_a_packed_bidirectional_one():
    torch.manual_seed(0)
    ours, lengths, hidden = BidirectionalLSTM(4, 3, 1).eval(), torch.tensor([5, 2]), torch.randn(2, 5, 4)
    ours.norms = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    theirs = torch.nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    for direction, suffix in zip(ours.layers[0], ("", "_reverse"), strict=True):
        theirs.load_state_dict(
            {name + suffix: value for name, value in direction.state_dict().items()}, strict=False
        )
    packed = torch.nn.utils.rnn.pack_padded_sequence(hidden, lengths, batch_first=True)
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    output = ours(hidden, lengths)
    assert torch.allclose(output[0], expected[0], atol=1e-6) and torch.allclose(
        output[1, :2], expected[1, :2], atol=1e-6
    )


def test_the_default_model_is_of_the_size_that_a_cpu_trains():
    model = CRNN(CRNNConfig(characters=tuple(map(chr, range(33, 113))), img_height=64))
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6


def test_what_lies_right_of_a_word_changes_nothing():
    model = make_crnn()
    pixel_values, _ = make_batch([draw("abcde", width=96)])
    widths = torch.tensor([48])
    dirty = pixel_values.clone()
    dirty[..., 48:] = -1
    alone = model(pixel_values[..., :48], widths)
    assert torch.allclose(model(dirty, widths)[:, :12], alone, atol=1e-5)


def test_a_reading_does_not_depend_on_the_batch():
    reader = CRNNRecogniser(make_crnn())
    images = [draw("a"), draw("abcdeabcde"), draw("bcd", width=200), np.full((HEIGHT, 64), 255, np.uint8)]
    alone = [reader.read([image])[0] for image in images]
    for batch_size in (2, 64):
        together = reader.read(images, batch_size=batch_size)
        assert [reading.text for reading in together] == [reading.text for reading in alone]
        assert np.allclose(
            [reading.confidence for reading in together], [reading.confidence for reading in alone], atol=1e-5
        )


def test_the_white_tail_changes_no_reading():
    reader = CRNNRecogniser(make_crnn())
    assert reader.read([draw("abc", width=64)]) == reader.read([draw("abc", width=256)])


def test_a_line_of_100_characters_is_read_beside_a_word_as_alone():
    line = draw("abcde" * 20, width=2000)
    reader = CRNNRecogniser(make_crnn())
    alone, together = reader.read([line])[0], reader.read([draw("a"), line, *[draw("bc")] * 70])[1]
    assert line.shape[1] == 2000 and together.text == alone.text
    assert together.confidence == pytest.approx(alone.confidence, rel=1e-3)


def test_reading_leaves_a_model_in_training_in_training():
    model = make_crnn().train()
    CRNNRecogniser(model).read([draw("abc")])
    assert model.training


def test_no_images_give_no_readings():
    assert CRNNRecogniser(make_crnn()).read([]) == []


def test_images_of_another_height_are_scaled():
    image = draw("abc", width=64)
    reader = CRNNRecogniser(make_crnn())
    assert reader.read([image.repeat(2, axis=0).repeat(2, axis=1)]) == reader.read([image])


def test_a_height_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="images of 40 pixels height; a recogniser needs a multiple of 16"):
        CRNNConfig(characters=("a",), img_height=40)


def test_a_grown_model_keeps_its_rows_by_character():
    model = make_crnn("bd")
    grown = model.grow("abcd").eval()
    assert grown.config.characters == ("b", "d", "a", "c")
    assert torch.equal(grown.head.weight[:3], model.head.weight) and torch.equal(
        grown.head.bias[:3], model.head.bias
    )
    batch = make_batch([draw("bd")])
    logits, old = grown(*batch)[..., :3], model(*batch)
    assert torch.allclose(logits.log_softmax(dim=-1), old, atol=1e-5)


# Files


def test_a_saved_model_gives_the_same_readings(tmp_path):
    model = make_crnn()
    model.save_pretrained(tmp_path / "htr", {"step": 3})
    loaded = load_recogniser(str(tmp_path / "htr"))
    assert loaded.model.config == model.config and loaded.name == str(tmp_path / "htr")
    assert loaded.read([draw("abc")]) == CRNNRecogniser(model).read([draw("abc")])
    config = json.loads((tmp_path / "htr" / "config.json").read_text())
    assert (config["kind"], config["step"]) == ("recogniser", 3)


def test_a_folder_without_a_recogniser_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"--judge .*: no {RECOGNISER_WEIGHTS_NAME} there"):
        load_recogniser(str(tmp_path), flag="--judge")


def test_a_damaged_recogniser_is_named(tmp_path):
    make_crnn().save_pretrained(tmp_path, {})
    (tmp_path / RECOGNISER_WEIGHTS_NAME).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"--recogniser .*: damaged"):
        load_recogniser(str(tmp_path))


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(
        FileNotFoundError, match=r"--recogniser tesseract: no such folder, and not one of rapidocr, trocr:"
    ):
        load_recogniser("tesseract")


# rapidocr


@pytest.fixture(scope="module")
def rapidocr():
    pytest.importorskip("rapidocr")
    return load_recogniser("rapidocr")


def test_rapidocr_reads_a_word_whatever_its_white_tail_and_its_batch(rapidocr, capfd):
    word = draw_word("archive")
    tail = np.pad(word, ((0, 0), (0, 300)), constant_values=255)
    readings = rapidocr.read([word, tail, draw_word("I")])
    assert readings[0].text == "archive" and 0.5 < readings[0].confidence <= 1
    assert readings[1] == readings[0] == rapidocr.read([word])[0]
    assert capfd.readouterr() == ("", "")


def test_rapidocr_reads_nothing_in_a_blank_image(rapidocr):
    assert rapidocr.read([np.full((64, 256), 255, np.uint8)]) == [recogniser.Reading(text="", confidence=0.0)]


def test_rapidocr_confidence_is_the_product_over_characters(rapidocr):
    reading = rapidocr.read([draw_word("minimum", ink=200)])[0]
    picture = np.repeat(recogniser.crop_to_ink(draw_word("minimum", ink=200))[:, :, None], 3, axis=2)
    mean = rapidocr.engine(picture, use_det=False, use_cls=False).scores[0]
    assert (
        reading.confidence <= mean + 1e-4 and reading.confidence >= 1 - len(reading.text) * (1 - mean) - 1e-3
    )


def test_rapidocr_reads_a_line_with_its_spaces(rapidocr):
    (reading,) = rapidocr.read([draw_word("the quick brown fox jumps over the lazy dog and runs away")])
    assert reading.text == "the quick brown fox jumps over the lazy dog and runs away"


def test_rapidocr_leaves_nothing_in_the_home(tmp_path):
    pytest.importorskip("rapidocr")
    code = "from htr.recogniser import load_recogniser; load_recogniser('rapidocr')"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ValueError, match=r"--recogniser rapidocr: .*`pip install rapidocr onnxruntime`"):
        load_recogniser("rapidocr")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"--recogniser trocr:x/y: .*`pip install transformers`"):
        load_recogniser("trocr:x/y")


# TrOCR


@pytest.fixture(scope="module")
def trocr_folder(tmp_path_factory):
    """A TrOCR of random weights: 32x32 pixels, characters as tokens."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    size = {"height": 32, "width": 32}
    processor = transformers.TrOCRProcessor(transformers.ViTImageProcessor(size=size), tokenizer)
    torch.manual_seed(3)
    encoder = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=8,
        )
    )
    decoder = transformers.TrOCRForCausalLM(
        transformers.TrOCRConfig(
            vocab_size=len(vocabulary),
            d_model=16,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            max_position_embeddings=80,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            cross_attention_hidden_size=16,
        )
    )
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)  # so that words differ, in length too
    model = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    model.generation_config.num_beams = 4  # the published ones search with beams
    folder = tmp_path_factory.mktemp("trocr")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_trocr_reads_from_a_folder_whatever_the_batch(trocr_folder):
    reader = load_recogniser(f"trocr:{trocr_folder}")
    images = [draw_word(text) for text in ("a", "minimum", "Hello", "fgh")]
    together = reader.read(images)
    assert len(together) == 4 and any(reading.text for reading in together)
    assert all(0 <= reading.confidence <= 1 for reading in together)
    alone = [reader.read([image])[0] for image in images]
    assert [reading.text for reading in alone] == [reading.text for reading in together]
    assert np.allclose(
        [reading.confidence for reading in alone], [reading.confidence for reading in together], rtol=1e-3
    )


def test_a_folder_that_is_no_trocr_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"--recogniser trocr:.*: not readable as TrOCR"):
        load_recogniser(f"trocr:{tmp_path}")


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match="no such folder, and not a Hugging Face id"):
        load_recogniser(f"trocr:{tmp_path / 'missing'}")


@pytest.mark.parametrize(
    ("constant", "value"), [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")]
)
def test_an_unreachable_hub_is_an_error_within_seconds(tmp_path, monkeypatch, constant, value):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(f"huggingface_hub.constants.{constant}", value)
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"--judge trocr:owner/model: no such folder, not in the local cache"
    ):
        load_recogniser("trocr:owner/model", flag="--judge")
    assert time.monotonic() - start < 8


def test_half_a_download_is_not_a_cached_trocr(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    snapshot = tmp_path / "models--owner--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--owner--model" / "refs").mkdir()
    (tmp_path / "models--owner--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="not in the local cache"):
        load_recogniser("trocr:owner/model")
