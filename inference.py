"""Write words in the styles of a trained model's writers.

  python3 inference.py --models_path runs/iam --single_image True
  python3 inference.py --models_path runs/iam --words Hello World --writer 000 011 --save_path out
  python3 inference.py --models_path runs/iam --words archive --mix 000:0.7 011:0.3
  python3 inference.py --models_path runs/lines --words archive --style_images letter.jpg
  python3 inference.py --models_path runs/iam --dataset_path data/iam --save_path data/iam_synthetic
  python3 inference.py --models_path runs/iam --words_file million.txt --output_format webdataset
  accelerate launch --num_processes 4 inference.py --models_path runs/iam --words_file words.txt

The output is a folder of text images (images/, metadata.jsonl) with a picture of the first words, sheet.png.
The same command started again writes only what is missing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from diffusion.noise_schedule import DEFAULT_SCHEDULER
from diffusion.pipeline import DEFAULT_STEPS, HandwritingPipeline
from diffusion.variation import DEFAULT_VARIATION
from generation.flags import parse_inference_args
from generation.folder_writer import FolderWriter
from generation.hands import gather_hands, save_hand
from generation.jobs import check_jobs, fingerprint
from generation.output_folder import Part, check_apart, lock_part, prepare_output, remove_leftovers
from generation.page_sink import PageSink
from generation.page_writer import PageWriter
from generation.page_xml import XML_FORMATS
from generation.paper import find_papers
from generation.planning import Request, plan_jobs
from generation.sampling import SamplingSettings, Selection, Sink, write_batches
from generation.tar_writer import TarWriter
from generation.word_lines import LinesFromWords, choose_line_source, line_rows
from htr.recogniser import load_recogniser
from utils.cli import run
from utils.device import choose_device, choose_precision, compile_in_place
from utils.errors import UserError
from utils.json_files import read_json
from utils.text_images import INFERENCE_SETTINGS

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Dataclass = TypeVar("Dataclass")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    return parse_inference_args(argv, __doc__)


def fill(cls: type[Dataclass], args: argparse.Namespace) -> Dataclass:
    """A dataclass whose fields have the names of flags."""
    return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})


def choose_part(shard: tuple[int, int] | None) -> Part:
    """The part of the work that is this process's: ``--shard``, or its rank under accelerate or torchrun."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if shard is None and "RANK" in os.environ and ranks > 1:
        return Part(number=int(os.environ["RANK"]), count=ranks)
    number, count = shard or (0, 1)
    return Part(number=number, count=count)


def load_pipeline(
    models_path: Path, vae: str | None, writer_dict: Path | None, max_length: int | None
) -> HandwritingPipeline:
    """The model of ``--models_path``.

    Raises:
        FileNotFoundError, UserError: if it can't be loaded, or a flag for published weights is given with
            another model.
    """
    pipeline = HandwritingPipeline.from_pretrained(
        models_path,
        vae=vae,
        writer_dict=read_json(writer_dict, "--writer_dict") if writer_dict else None,
        max_length=max_length,
        warn=lambda line: print(line, file=sys.stderr),
    )
    if pipeline.config.extra.get("source") != "published weights":
        for flag, value in (("--writer_dict", writer_dict), ("--max_length", max_length)):
            if value is not None:
                raise UserError(
                    f"{flag} {value}: only for published weights; {models_path} knows its own. Leave it out."
                )
    return pipeline


def main(args: argparse.Namespace) -> None:
    """Load, check, write, put together."""
    part = choose_part(args.shard)
    if args.overwrite and part.count > 1:
        raise UserError(
            "--overwrite: parts that run side by side can't tell old images from each other's. Remove "
            f"{args.save_path} instead."
        )
    if args.dataset_path:
        check_apart(args.save_path, "--save_path", args.dataset_path, "--dataset_path")

    # The model.
    pipeline = load_pipeline(args.models_path, args.vae, args.writer_dict, args.max_length)
    device = choose_device(args.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    pipeline.to(device, DTYPES[choose_precision(args.mixed_precision, device)])
    if args.compile:
        compile_in_place(pipeline.unet, pipeline.device)

    # The hands.
    whose = {"writer": args.writer, "mix": args.mix}
    hands = gather_hands(pipeline, **whose, style_images=args.style_images, seed=args.seed)
    if hands.added:
        pipeline.add_hands(hands.added)
    args.writer, args.mix = hands.writer, hands.mix

    # The words.
    is_lines, is_pages = args.unit == "line", args.output_format in XML_FORMATS
    line_from = choose_line_source(args.line_from, pipeline.config) if is_lines else "model"
    request = replace(fill(Request, args), line_from=line_from)
    papers = find_papers(args.paper) if args.paper else []
    drawer = pipeline if line_from == "model" else LinesFromWords(pipeline, words_at_once=args.batch_size)
    jobs = check_jobs(drawer, plan_jobs(request, pipeline), args.skip_unknown, request.flag)
    settings = fill(SamplingSettings, args)
    pipeline.check_sampling(
        args.guidance_scale,
        args.writer_guidance_scale,
        args.redraws,
        args.scheduler,
        num_steps=args.num_steps,
        guidance_interval=args.guidance_interval,
    )
    if pipeline.config.student is None:  # what folders of earlier versions say
        steps, scheduler = args.num_steps or DEFAULT_STEPS, args.scheduler or DEFAULT_SCHEDULER
        settings = replace(settings, num_steps=steps, scheduler=scheduler)
    selection, selected_by = None, {}
    if args.recogniser:
        selected_by = {"best_of": args.best_of, "max_cer": args.max_cer, "normalise": args.normalise}
        selection = Selection(recogniser=load_recogniser(args.recogniser, device=device), **selected_by)

    # Where they go.
    is_tars = args.output_format == "webdataset"
    if is_tars:
        sink: Sink = TarWriter(args.save_path, jobs, words_per_tar=args.words_per_tar, part=part)
    elif is_pages:
        pages = PageWriter(args.save_path, xml_format=args.output_format, papers=papers, seed=args.seed)
        baseline, x_height = line_rows(drawer)
        sink = PageSink(pages, jobs, baseline=baseline, x_height=x_height, part=part)
    else:
        is_selective = selection is not None
        sink = FolderWriter(
            args.save_path, jobs, part=part, is_single=args.single_image, is_selective=is_selective
        )
    output_settings = {
        "models_path": str(args.models_path.resolve()),
        "step": pipeline.config.extra.get("step"),
        "words": len(jobs),
        "records": fingerprint(jobs),
        "mix": args.mix,
        **({"hands": hands.fingerprints()} if hands.added else {}),
        **{key: value for key, value in asdict(settings).items() if key != "batch_size"},
        **({"words_per_tar": args.words_per_tar} if is_tars else {}),
        **({"unit": "line"} if is_lines else {}),
        **({"line_from": line_from} if is_lines and line_from == "model" else {}),
        **({"output_format": args.output_format} if is_pages else {}),
        **({"paper": str(args.paper.resolve())} if args.paper else {}),
        "single_image": args.single_image,
        "mixed_precision": args.mixed_precision,
        "shards": part.count,
        **({"vae": str(args.vae)} if args.vae else {}),
        **({"recogniser": args.recogniser, **selected_by} if args.recogniser else {}),
    }

    if args.variation == DEFAULT_VARIATION:  # folders of earlier versions don't say it
        del output_settings["variation"]

    for note in hands.notes:
        print(note)
    if args.save_hand:
        save_hand(pipeline, args.save_hand, writer=args.writer, mix=args.mix, overwrite=args.overwrite)

    # Only now, when nothing can be wrong any more, are old words removed.
    with lock_part(args.save_path, part, "--save_path", overwrite=args.overwrite):
        prepare_output(
            args.save_path, output_settings, args.overwrite, marker=INFERENCE_SETTINGS, flag="--save_path"
        )
        if part.count == 1:
            remove_leftovers(args.save_path)
        sink.write(partial(write_batches, drawer, settings=settings, selection=selection))
        print(sink.finish())


if __name__ == "__main__":
    run(main, parse_args())
