"""Pixels, latents and the cache of encoded images."""

import mmap
import os
import shutil

import numpy as np
import pytest
import torch

from diffusion.autoencoder import decode_latents, hash_vae, load_vae, scale_latents, unscale_latents
from diffusion.dataset import CACHE_FOLDER, LatentCache, RowReader, build_latent_cache, cache_key
from tests.helpers import IMG_SIZE, WORDS, make_word_folder
from utils.images import to_images, to_pixel_values
from utils.sources import read_images


@pytest.fixture
def folder(words_folder, tmp_path):
    # Without the latents that another test may have left there.
    return shutil.copytree(words_folder, tmp_path / "words", ignore=shutil.ignore_patterns(CACHE_FOLDER))


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


def test_the_cache_holds_scaled_posteriors(folder, vae):
    cache = LatentCache(build(folder, vae))
    posterior = vae.encode(to_pixel_values(read_images(image_paths(folder)), 1)).latent_dist
    expected = torch.stack([scale_latents(vae, posterior.mean), 3.0 * posterior.std], dim=1)
    assert cache.moments.shape == (len(WORDS), 2, 4, 4, 8)
    torch.testing.assert_close(torch.from_numpy(cache.moments[:]).float(), expected, rtol=2e-3, atol=2e-3)


def test_the_cache_measures_the_ink(folder, vae):
    cache = LatentCache(build(folder, vae))
    assert cache.ink.shape == (len(WORDS), 4) and (cache.ink[:, 0] < cache.ink[:, 2]).all()
    assert cache.ink[:, 0].max() < 16 and cache.ink[:, 2].max() > 24


def test_decoded_latents_are_images(vae):
    images = decode_latents(vae, torch.randn(2, 4, 4, 8))
    assert images.shape == (2, *IMG_SIZE) and images.dtype == np.uint8


def test_the_cache_is_used_again(folder, vae):
    first = build(folder, vae)
    time = (first / "moments.npy").stat().st_mtime_ns
    assert build(folder, vae) == first and (first / "moments.npy").stat().st_mtime_ns == time


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


def test_images_of_two_sizes_are_refused(folder, vae, tmp_path):
    make_word_folder(tmp_path / "wide", ["abc"], img_size=(32, 96))
    paths = [*image_paths(folder)[:7], *image_paths(tmp_path / "wide")]
    with pytest.raises(
        ValueError, match=r"0000\.png: 32x96 pixels, (unlike the images before it|but .* has 32x64)"
    ):
        build_latent_cache(
            paths, vae, "", tmp_path / "cache", channels=1, device=torch.device("cpu"), batch_size=7
        )


def test_other_processes_only_look(folder, vae):
    assert not build(folder, vae, is_main=False).exists()


def test_the_moments_make_tensors_without_a_warning(folder, vae, recwarn):
    torch.from_numpy(LatentCache(build(folder, vae)).moments)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_rows_are_prefetched_where_they_lie_and_stay_as_they_are(tmp_path):
    rows = (
        np.random.default_rng(0).standard_normal((300, 2, 4, 8, 31)).astype(np.float16)
    )  # no whole number of pages
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="c")
    asked = []

    class Mapping:
        def madvise(self, option, start, length):
            asked.append((start, start + length))
            mapped.base.madvise(option, start, length)

    reader = RowReader(mapped)
    reader.mapping = Mapping()
    reader.prefetch([0, 7, 299])
    contents = (tmp_path / "rows.npy").read_bytes()
    for (start, end), row in zip(asked, (0, 7, 299), strict=True):
        assert rows[row].tobytes() in contents[start:end] and start % mmap.PAGESIZE == 0
    assert (mapped == rows).all()


def test_rows_in_memory_need_no_prefetching():
    RowReader(np.zeros((3, 4))).prefetch([0, 2])
