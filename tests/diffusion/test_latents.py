"""Pixels, latents and the cache of encoded images."""

import mmap
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from diffusion.autoencoder import decode_latents, hash_vae, load_vae, scale_latents, unscale_latents
from diffusion.dataset import LatentCache, LatentColumns, build_latent_cache, cache_key
from tests.helpers import IMG_SIZE, WORDS, make_word_folder
from utils.errors import UserError
from utils.images import stack_images, to_images, to_pixel_values
from utils.sources import read_images


@pytest.fixture
def folder(words_folder, tmp_path):
    # Without the latents that another test may have left there.
    return shutil.copytree(words_folder, tmp_path / "words", ignore=shutil.ignore_patterns(".latent_cache"))


@pytest.fixture(scope="module")
def vae(vae_folder):
    return load_vae(vae_folder)


def image_paths(folder):
    return sorted((folder / "images").glob("*.png"))


def build(folder, vae, **changes):
    options = {"channels": 1, "device": torch.device("cpu"), "batch_size": 7, **changes}
    return build_latent_cache(image_paths(folder), vae, hash_vae(vae), folder / ".latent_cache", **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_go_there_and_back(channels):
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    pixel_values = to_pixel_values(images, channels)
    assert pixel_values.shape == (1, channels, 16, 16) and (pixel_values.min(), pixel_values.max()) == (-1, 1)
    assert np.array_equal(to_images(pixel_values), images.numpy())


def test_scaling_is_undone(vae):
    latents = torch.randn(2, 4, 4, 8)
    torch.testing.assert_close(unscale_latents(vae, scale_latents(vae, latents)), latents)


def expected_moments(images, vae):
    posterior = vae.encode(to_pixel_values(stack_images(images), 1)).latent_dist
    return torch.stack([scale_latents(vae, posterior.mean), 3.0 * posterior.std], dim=1)


def all_latents(folder):
    return LatentColumns(LatentCache(folder), torch.device("cpu"), in_memory=False)


def test_the_cache_holds_scaled_posteriors(folder, vae):
    latents = all_latents(build(folder, vae))
    moments = latents.batch(torch.arange(len(WORDS)), 8)
    assert moments.shape == (len(WORDS), 2, 4, 4, 8)
    expected = expected_moments(read_images(image_paths(folder)), vae)
    torch.testing.assert_close(moments, expected, rtol=2e-3, atol=2e-3)


@pytest.fixture
def lines(tmp_path, vae):
    """The latents of a word and a line in files of their own widths, and the two images."""
    make_word_folder(tmp_path / "words", ["cab"], img_size=(32, 64))
    make_word_folder(tmp_path / "lines", ["cab bad deed face"], img_size=(32, 320))
    paths = [*image_paths(tmp_path / "words"), *image_paths(tmp_path / "lines")]
    options = {"channels": 1, "device": torch.device("cpu")}
    return all_latents(build_latent_cache(paths, vae, "", tmp_path / "cache", **options)), read_images(paths)


def test_a_line_has_as_many_columns_as_its_ink_needs(lines):
    latents, images = lines
    assert [image.shape[1] for image in images] == [64, 320] == latents.cache.widths.tolist()
    assert latents.cache.canvas_size == (32, 320)
    rights = latents.cache.ink[:, 2]
    needed = np.ceil((rights + 8) / 32) * 4
    assert np.diff(latents.cache.starts).tolist() == needed.tolist()
    assert len(latents.columns) == needed.sum() + 1


def test_a_word_beside_a_line_is_followed_by_white_paper(lines, vae):
    latents, _ = lines
    moments = latents.batch(torch.tensor([0, 1]), 40)
    assert moments.shape == (2, 2, 4, 4, 40)
    columns = int(latents.cache.starts[1])
    # Each is encoded on its own canvas: a word's latents are the same beside a line and alone.
    torch.testing.assert_close(moments[:1, ..., :columns], latents.batch(torch.tensor([0]), columns))
    white = expected_moments([np.full((32, 256), 255, np.uint8)], vae)[0, ..., 16]
    torch.testing.assert_close(
        moments[0, ..., columns:], white[..., None].expand(-1, -1, -1, 40 - columns), rtol=2e-3, atol=2e-3
    )


def test_a_canvas_cuts_what_is_wider(lines):
    latents, _ = lines
    torch.testing.assert_close(
        latents.batch(torch.tensor([1]), 5), latents.batch(torch.tensor([1]), 9)[..., :5]
    )


def test_the_cache_measures_the_ink(folder, vae):
    cache = LatentCache(build(folder, vae))
    assert cache.ink.shape == (len(WORDS), 4) and (cache.ink[:, 0] < cache.ink[:, 2]).all()
    assert cache.ink[:, 0].max() < 16 and cache.ink[:, 2].max() > 24


def test_decoded_latents_are_images(vae):
    images = decode_latents(vae, torch.randn(2, 4, 4, 8))
    assert images.shape == (2, *IMG_SIZE) and images.dtype == np.uint8


def test_the_cache_is_used_again(folder, vae):
    first = build(folder, vae)
    time = (first / "columns.f16").stat().st_mtime_ns
    assert build(folder, vae) == first and (first / "columns.f16").stat().st_mtime_ns == time


def test_a_changed_image_makes_a_new_cache(folder, vae):
    first = build(folder, vae)
    os.utime(image_paths(folder)[3], (1, 1))
    assert build(folder, vae) != first


def test_another_vae_makes_a_new_cache(folder, vae):
    paths = image_paths(folder)
    assert cache_key(paths, hash_vae(vae)) != cache_key(paths, "0123456789abcdef")


def test_an_interrupted_encoding_leaves_nothing(folder, vae):
    broken = image_paths(folder)[20]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    with pytest.raises(ValueError, match=rf"{broken.name}: not a readable image"):
        build(folder, vae)
    assert list((folder / ".latent_cache").iterdir()) == []


def test_a_killed_encoding_is_not_used(folder, vae):
    first = build(folder, vae)
    (first / "index.json").unlink()  # it comes last
    np.save(first / "ink.npy", np.zeros((1, 4)))
    assert len(LatentCache(build(folder, vae)).ink) == len(WORDS)


def test_a_missing_image_is_named(folder, vae):
    image_paths(folder)[5].unlink()
    paths = [folder / "images" / f"{i:04d}.png" for i in range(8)]
    with pytest.raises(
        FileNotFoundError, match=r"0005\.png: the image is named in metadata\.jsonl but is not there"
    ):
        cache_key(paths, "")


def test_a_folder_that_cannot_be_written_to_is_named_with_the_way_out(folder, vae):
    (folder / ".latent_cache").touch()  # no folder can be made there, not even by root
    with pytest.raises(ValueError, match=r"--latent_cache .*can't be written to .*Name a folder"):
        build(folder, vae)


def test_images_of_two_heights_are_refused(folder, vae, tmp_path):
    make_word_folder(tmp_path / "high", ["abc"], img_size=(64, 64))
    paths = [*image_paths(folder)[:7], *image_paths(tmp_path / "high")]
    with pytest.raises(UserError, match=r"0000\.png: 64 pixels high, but the images before it have 32"):
        build_latent_cache(
            paths, vae, "", tmp_path / "cache", channels=1, device=torch.device("cpu"), batch_size=7
        )


def test_a_full_disk_is_an_error_that_leaves_nothing(folder, vae):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError):
            build(folder, vae)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((folder / ".latent_cache").iterdir()) == []


def test_other_processes_only_look(folder, vae):
    assert not build(folder, vae, is_main=False).exists()


def test_the_latents_make_tensors_without_a_warning(folder, vae, recwarn):
    all_latents(build(folder, vae))
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_columns_are_prefetched_where_they_lie_and_stay_as_they_are(lines):
    latents, _ = lines
    before = np.asarray(latents.columns).copy()
    asked = []

    class Mapping:
        def madvise(self, option, start, length):
            asked.append((start, start + length))
            latents.cache.columns._mmap.madvise(option, start, length)

    latents.mapping = Mapping()
    latents.prefetch([1, 0])
    contents = before.tobytes()
    for (start, end), row in zip(asked, (1, 0), strict=True):
        columns = before[latents.cache.starts[row] : latents.cache.starts[row + 1]]
        assert columns.tobytes() in contents[start:end] and start % mmap.PAGESIZE == 0
    assert (np.asarray(latents.columns) == before).all()


def test_latents_in_memory_need_no_prefetching(folder, vae):
    latents = LatentColumns(LatentCache(build(folder, vae)), torch.device("cpu"), in_memory=True)
    latents.prefetch([0, 2])
    assert latents.mapping is None
