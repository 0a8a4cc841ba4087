"""Flags of inference.py that don't go together, or would change nothing."""

import argparse

from diffusion.noise_schedule import FULL_INTERVAL
from generation.page_xml import XML_FORMATS
from utils.charset import normalise_texts


def mistake_in_texts(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags that say what to write, or None."""
    given = (args.words, args.words_file, args.dataset_path, args.corpus)
    if sum(value is not None for value in given) > 1 + bool(args.oov):
        return "give one of --words, --words_file, --dataset_path and --corpus"
    if args.oov:
        if not args.dataset_path or args.words or args.mix:
            return (
                f"--oov {args.oov}: goes with --dataset_path (the training words), not with --words or --mix"
            )
        if args.num_per_word:
            return f"--num_per_word {args.num_per_word}: not with --oov, whose words are written once each"
        if not args.single_image:
            return "--single_image False: not with --oov, where a word has one writer"
    elif args.oov_scope:
        return f"--oov_scope {args.oov_scope}: goes with --oov"
    if args.oov and args.style_images and not args.writer:
        return "--style_images: with --oov name its hand by --writer"
    if args.mix and args.writer:
        return "give --writer or --mix, not both"
    if args.words and not normalise_texts(args.words):
        return "--words: nothing but white space"
    if args.split and not args.dataset_path:
        return f"--split {args.split}: goes with --dataset_path"
    return None


def mistake_in_lines(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags of lines and pages, or None."""
    makes_pages = args.output_format in XML_FORMATS
    if args.corpus and args.unit != "line":
        return f"--corpus {args.corpus}: goes with --unit line"
    if makes_pages and not args.corpus:
        return f"--output_format {args.output_format}: pages are made of a --corpus, with --unit line"
    if args.paper and not makes_pages:
        return f"--paper {args.paper}: goes with --output_format {' or '.join(XML_FORMATS)}"
    if args.line_from and args.unit != "line":
        return f"--line_from {args.line_from}: goes with --unit line"
    if args.line_length is not None and not args.corpus:
        return f"--line_length {args.line_length}: goes with --corpus"
    if args.corpus and not args.single_image:
        return "--single_image False: sheets show one word of many writers; leave it out with --corpus"
    if args.corpus and args.num_per_word:
        return (
            f"--num_per_word {args.num_per_word}: a --corpus is written once. Another --seed writes it anew"
        )
    if args.unit == "line" and args.oov:
        return f"--oov {args.oov}: chooses words; leave --unit out"
    return None


def mistake_in_sampling(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags that say how to draw and choose, or None."""
    for name in ("best_of", "max_cer", "normalise"):
        if getattr(args, name) is not None and not args.recogniser:
            return f"--{name} {getattr(args, name)}: goes with --recogniser"
    if not 0 <= args.variation < float("inf"):
        return f"--variation {args.variation}: at least 0"
    if args.redraws is not None and args.redraws < 0:
        return f"--redraws {args.redraws}: at least 0"
    low, high = args.guidance_interval or FULL_INTERVAL
    if not 0 <= low < high <= 1:
        return f"--guidance_interval {low:g} {high:g}: two shares, 0 <= LOW < HIGH <= 1"
    if args.max_cer is not None and not 0 <= args.max_cer < float("inf"):
        return f"--max_cer {args.max_cer}: a share of at least 0"
    is_tars = args.output_format == "webdataset"
    if is_tars and not args.single_image:
        return "--single_image False: sheets are written into folders; leave --output_format out"
    if args.words_per_tar and not is_tars:
        return f"--words_per_tar {args.words_per_tar}: goes with --output_format webdataset"
    return None
