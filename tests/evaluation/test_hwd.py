"""HWD with random weights, against its formula computed plainly."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluation import hwd
from evaluation.comparison import compare_folders
from evaluation.hwd import load_vgg, measure_hwd, prepare_image, sum_features, writer_distances
from tests.helpers import make_word_folder
from utils.bootstrap import Bootstrap

CPU = torch.device("cpu")


def make_network(channels=512):
    """A network of VGG16's stride, 32, and depth of features."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, channels, 32, stride=32), nn.ReLU())


def draw(width, *, height=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def test_the_distance_is_that_of_the_means_of_all_local_features():
    network = make_network()
    images = [draw(width, seed=width) for width in (64, 128, 300, 2000)]
    writers = np.array(["a", "a", "a", "a"])
    one, other = sum_features(network, images[:2], CPU), sum_features(network, images[2:], CPU)
    local = [network(prepare_image(image)[None])[0].flatten(1) for image in images]  # (512, columns) each
    means = [torch.cat(part, dim=1).mean(dim=1) for part in (local[:2], local[2:])]
    _, distances = writer_distances(one, writers[:2], other, writers[2:])
    assert distances[0] == pytest.approx(torch.linalg.norm(means[0] - means[1]).item(), rel=1e-5)
    assert one[:, -1].tolist() == [1, 2] and other[:, -1].tolist() == [4, 31]


def test_only_writers_on_both_sides_count():
    sums = np.ones((3, hwd.CHANNELS + 1))
    writers, distances = writer_distances(sums, np.array(["a", "b", "c"]), sums, np.array(["b", "c", "d"]))
    assert writers == ["b", "c"] and distances.tolist() == [0, 0]


def test_images_are_brought_to_height_32_and_narrow_ones_get_white_at_both_sides():
    prepared = prepare_image(draw(100))
    assert prepared.shape == (3, 32, 50) and prepared.min() >= 0 and prepared.max() <= 1
    narrow = prepare_image(np.zeros((64, 16), np.uint8))
    assert narrow.shape == (3, 32, 32) and (narrow[:, :, :12] == 1).all() and (narrow[:, :, 12:20] == 0).all()


def test_the_weights_of_a_vgg16_are_read_whatever_its_classes(tmp_path):
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in vgg16().state_dict().items() if name.startswith("features.")
        }
    torch.manual_seed(0)
    state = {name: torch.randn(shape) * 0.01 for name, shape in shapes.items()}
    torch.save({**state, "classifier.6.weight": torch.zeros(7, 3)}, tmp_path / "vgg.pth")
    network = load_vgg(tmp_path / "vgg.pth")
    assert torch.equal(network[0].weight, state["features.0.weight"])
    assert sum_features(network, [draw(128)], CPU)[0, -1] == 2


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_other_files_than_weights_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"--hwd_weights .*weights\.pth: not the weights of a VGG16"):
        load_vgg(path)
    with pytest.raises(FileNotFoundError, match=r"no such file\. The published weights are https://"):
        load_vgg(tmp_path / "gone.pth")


def test_real_images_against_real_ones_are_the_floor(tmp_path, monkeypatch):
    words = ("cab", "abe", "deaf", "bad", "ace", "face", "dab", "fed")
    make_word_folder(tmp_path / "real", words, ("01", "02"), splits=("test",), img_size=(32, 64))
    monkeypatch.setattr(hwd, "load_vgg", lambda weights: make_network())
    pair = compare_folders(tmp_path / "real", tmp_path / "real", split=None, most=None, seed=0)
    measure, by_writer = measure_hwd(pair, tmp_path / "vgg.pth", CPU, Bootstrap(resamples=20))
    generated, real = measure.values["generated"], measure.values["real"]
    assert generated.value == real.value > 0 and generated.n == 2, "the generated images are the real ones"
    assert measure.values["difference"].value == 0 and set(by_writer) == {"01", "02"}
    assert "2 writers of 2 to 2 images on each side" in measure.protocol
