"""The teacher of a distillation: which models can teach, what student it gets, and on what."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError

from diffusion.distillation_settings import STUDENT_STEPS
from diffusion.guided_prediction import Guidance
from diffusion.loading import find_teacher, read_config
from diffusion.noise_schedule import FLOW_PREDICTION
from diffusion.pipeline import HandwritingPipeline
from diffusion.student import MOST_STEPS, Student, check_no_student
from unet import UNet
from utils.checkpoint import load_weights, one_line
from utils.errors import UserError
from utils.resume import TRAINING_STATE
from utils.sources import TrainingSet

TEACHER_NAME = "teacher.safetensors"  # in a run's training state


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Who learns from whom.

    Attributes:
        start: what the student begins with: its teacher, or the checkpoint of a run that goes on.
        teacher: its UNet.
        student: what student it is to be.
    """

    start: HandwritingPipeline
    teacher: UNet
    student: Student


def open_lesson(
    teacher: Path | None,
    checkpoint: Path | None,
    num_steps: int | None,
    guidance_scale: float | None = None,
    writer_guidance_scale: float | None = None,
) -> Lesson:
    """Load the teacher of --distil_from, or the checkpoint to resume with the teacher that it holds.

    Args:
        num_steps: what --student_steps says, if it does.
        guidance_scale, writer_guidance_scale: of the teacher's drawings, which a new student learns; None is
            the teacher's default.
    Raises:
        FileNotFoundError, UserError: if one of them can't be loaded, or the teacher can't teach.
    """
    if checkpoint is None:
        start = HandwritingPipeline.from_pretrained(
            find_teacher(teacher, flag="--distil_from"), flag="--distil_from"
        )
        check_teacher(start, f"--distil_from {teacher}")
        guidance = start.choose_guidance(guidance_scale, writer_guidance_scale)
        student = make_student(start, num_steps or STUDENT_STEPS, guidance)
        return Lesson(start=start, teacher=start.unet, student=student)
    start = HandwritingPipeline.from_pretrained(checkpoint, flag="--resume")
    student = check_resume(start, checkpoint, num_steps)
    for name, given, own in (
        ("guidance_scale", guidance_scale, student.guidance.text),
        ("writer_guidance_scale", writer_guidance_scale, student.guidance.writer),
    ):
        if given not in (None, own):
            raise UserError(
                f"--{name} {given:g}: the run to --resume has {own:g}. Leave it out, or start anew."
            )
    return Lesson(start=start, teacher=read_teacher(checkpoint, start.unet), student=student)


def check_teacher(teacher: HandwritingPipeline, where: str) -> None:
    """Raise a UserError unless a model can be distilled.

    Args:
        where: the flag and its value, to name in the message.
    """
    check_no_student(teacher.config.student, where, "Take the model that it was distilled from.")
    kind = teacher.config.schedule.prediction_type
    if kind != FLOW_PREDICTION:
        raise UserError(
            f"{where}: a model of {kind}, but only one of {FLOW_PREDICTION} can be distilled. Train one with"
            f" --prediction_type {FLOW_PREDICTION}."
        )


def make_student(teacher: HandwritingPipeline, num_steps: int, guidance: Guidance) -> Student:
    """A student of a model with this guidance, on the grid that its default scheduler would take.

    Raises:
        UserError: for more steps than make sense.
    """
    if num_steps > MOST_STEPS:
        raise UserError(f"--student_steps {num_steps}: at most {MOST_STEPS}; 4 are usual")
    scheduler = teacher.config.schedule.make_scheduler()
    scheduler.set_timesteps(num_steps)
    extra = teacher.config.extra
    return Student(
        grid=tuple(round(level, 6) for level in scheduler.sigmas[:num_steps].tolist()),
        guidance=guidance,
        teacher={key: extra.get(key) for key in ("dataset", "step", "preset")},
    )


def choose_known(
    words: TrainingSet, teacher: HandwritingPipeline, warn: Callable[[str], None]
) -> TrainingSet:
    """The text images with what the teacher can't write kept from the training.

    Args:
        warn: takes a line about them.
    Raises:
        UserError: if nothing is left.
    """
    config, longest = teacher.config, teacher.unet.config.max_length
    writers = set(config.writers)
    is_known = [
        record.writer in writers and len(record.text) <= longest and not config.charset.unknown(record.text)
        for record in words.records
    ]
    left_out = [i for i, r in enumerate(words.records) if r.split == "train" and not is_known[i]]
    records = tuple(
        record if known else replace(record, split="test")
        for record, known in zip(words.records, is_known, strict=True)
    )
    if not any(record.split == "train" for record in records):
        raise UserError(
            f"{words.flag}: the teacher knows the writer and the characters of none of its images. Take"
            " those that it was trained on."
        )
    if left_out:
        warn(
            f"note        left out: {len(left_out)} images whose writer, characters or length the teacher"
            " does not know"
        )
    return replace(words, records=records)


def is_student(checkpoint: Path) -> bool:
    """Whether a checkpoint is a student's."""
    return read_config(checkpoint, flag="--resume")[0].student is not None


def check_resume(start: HandwritingPipeline, checkpoint: Path, num_steps: int | None) -> Student:
    """What student a run trains that goes on.

    Args:
        num_steps: what --student_steps says, if it does.
    Raises:
        UserError: if it trains none, or another one.
    """
    student = start.config.student
    if student is None:
        raise UserError(
            f"--resume: {checkpoint} is no distillation's. Leave --distil_from out, or name another"
            " --save_path."
        )
    if num_steps not in (None, student.num_steps):
        raise UserError(
            f"--student_steps {num_steps}: the run to --resume has {student.num_steps}. Leave it out."
        )
    return student


def read_teacher(checkpoint: Path, student: UNet) -> UNet:
    """The teacher of a run that goes on.

    Args:
        student: of its sizes.
    Raises:
        UserError: if it is missing or damaged.
    """
    path = checkpoint / TRAINING_STATE / TEACHER_NAME
    teacher = deepcopy(student)
    try:
        teacher.load_state_dict(load_weights(path))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"--resume: {path} is missing or damaged ({one_line(error)})") from error
    return teacher
