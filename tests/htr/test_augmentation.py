"""Augmented words: in range, white outside of their widths, a function of the generator."""

import torch

from htr.augmentation import augment_words

WIDTHS = torch.tensor([48, 96])


def make_ink() -> torch.Tensor:
    ink = torch.zeros(2, 1, 32, 96)
    ink[0, :, 8:24, 6:42:4] = 1
    ink[1, :, 8:24, 6:90:4] = 1
    return ink


def augment(seed: int, least=None):
    return augment_words(make_ink(), WIDTHS, torch.Generator().manual_seed(seed), step=16, least=least)


def test_words_stay_in_range_and_on_white_and_keep_their_ink():
    for seed in range(8):
        ink, widths = augment(seed)
        assert ink.shape[-1] == widths.max() and (widths % 16 == 0).all()
        assert ink.min() >= 0 and ink.max() <= 1
        assert all((word[..., width:] == 0).all() for word, width in zip(ink, widths, strict=True))
        assert 0.3 < ink.sum() / make_ink().sum() < 3


def test_augmentation_follows_the_generator():
    one, other, third = augment(1), augment(1), augment(2)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert one[0].shape != third[0].shape or not torch.equal(one[0], third[0])


def test_a_word_is_not_made_narrower_than_it_must_be():
    assert (augment(1, torch.tensor([160, 16]))[1] >= torch.tensor([160, 16])).all()
