#!/usr/bin/env bash
# The whole job on one rented GPU without internet: train a VAE, the full-size and the small model, measure, write a data set.
#
#   bash scripts/gpu_job.sh bundle WORDS.pack BUNDLE    # where there is internet: wheels and words into a folder
#   bash scripts/gpu_job.sh STEP BUNDLE                 # on the GPU, in this order: setup vae base small benchmark dataset
#   bash scripts/gpu_job.sh bring BUNDLE                # results as files of at most 15 MiB
#
# WORDS.pack holds real handwriting: a word folder of 64x512 pixels with texts of at most 40 characters, packed by
# scripts/pack_words.py. A step that was cut off goes on when it is called again, and one that is done is left out (but what is
# timed as a whole begins anew: the benchmark, and the data set if it was cut off). JOB is the folder of all work (default: /tmp/gpu_job), OUT
# that of results (default: JOB/out).
# For a rehearsal on a CPU: PRESET=tiny SMALL=tiny FONT_WORDS=200 VAE_STEPS=4 MINUTES=0.2 COUNT=8 BATCH=8 PILOT=4.
set -euo pipefail
cd "$(dirname "$0")/.."
step="${1:?name a step}"
job="${JOB:-/tmp/gpu_job}"
out="${OUT:-$job/out}"
preset="${PRESET:-base}"       # of the large model
small="${SMALL:-small}"        # of the one to ship
font_words="${FONT_WORDS:-60000}"
vae_steps="${VAE_STEPS:-12000}"
minutes="${MINUTES:-}"         # of each training; by default 8.5 for the large one, 5 for the small one
count="${COUNT:-44412}"        # words of the data set that is written
batch="${BATCH:-256}"
pilot="${PILOT:-200}"          # steps that tell the speed
python="${PYTHON:-python3}"
mkdir -p "$job" "$out"
export PYTHONPATH="$job/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

wheels=(diffusers importlib_metadata zipp pyspellchecker jiwer rapidfuzz torch-fidelity webdataset braceexpand
        fontpkg fontpkg-caveat fontpkg-dancing-script fontpkg-delius fontpkg-great-vibes fontpkg-indie-flower fontpkg-kalam
        fontpkg-satisfy fontpkg-shadows-into-light fontpkg-yellowtail fontpkg-zeyada)

# is_at RUN STEP: whether the run has a checkpoint of this step (a training that was stopped saves, and ends without error).
is_at() { [ -e "$1/step_$(printf %08d "$2")" ]; }

say() { echo; echo "== $* ($(date +%H:%M:%S))"; }

# train NAME PRESET MINUTES LEARNING_RATE: a pilot tells the speed, the rest of the minutes fixes the schedule.
train() {
    local name="$1" kind="$2" budget="$3" rate="$4" run="$job/$1"
    local flags=(--dataset "$name" --dataset_path "$job/fonts" "$job/real:4" --max_length 40 --save_path "$run" --latent_cache
                 "$job/latents" --save_every 1000 --log_every 50 --keep_checkpoints 1)
    [ -e "$job/$name.done" ] && { echo "$name is trained"; return; }
    if [ ! -e "$job/$name.steps" ]; then
        [ -e "$run" ] && rm -rf "$run"
        "$python" train_diffusion.py "${flags[@]}" --vae "$job/vae" --preset "$kind" --batch_size "$batch" --learning_rate "$rate" \
            --ema_decay 0.999 --max_train_steps "$pilot" --schedule_steps 1000000 ${COMPILE:+--compile} --log_every "$((pilot / 4))"
        is_at "$run" "$pilot" || { echo "the pilot was stopped"; exit 1; }
        "$python" - "$run/log.csv" "$batch" "$budget" "$pilot" > "$job/$name.steps.part" <<'PY'
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
batch, minutes, pilot = int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
first, last = rows[1], rows[-2]  # the first compiles and warms up, the last validates
# The log rounds to 0.1 seconds: of a pilot too short for that the speed is taken as the least that it can be.
speed = (int(last["step"]) - int(first["step"])) / max(0.1, float(last["seconds"]) - float(first["seconds"]))
print(max(pilot + 1, int(minutes * 60 * speed)))
PY
        mv "$job/$name.steps.part" "$job/$name.steps"
    fi
    local steps; steps="$(cat "$job/$name.steps")"
    echo "$name: $steps steps in $budget minutes"
    "$python" train_diffusion.py "${flags[@]}" --resume --max_train_steps "$steps" --schedule_steps "$steps" ${COMPILE:+--compile}
    is_at "$run" "$steps" || { echo "$name was stopped; call the step again to go on"; exit 1; }
    touch "$job/$name.done"
}

case "$step" in
bundle)
    words="${2:?name the packed words}" bundle="${3:?name the bundle}"
    rm -rf "$bundle/wheels"  # two versions of one wheel would stop the installation
    mkdir -p "$bundle/wheels"
    cp "$words" "$bundle/words.pack"
    platforms=(); for number in 28 27 24 17; do platforms+=(--platform "manylinux_2_${number}_x86_64"); done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
        --platform manylinux2014_x86_64 --platform any -d "$bundle/wheels" "${wheels[@]}"
    du -sm "$bundle" | cut -f1 | xargs -I{} echo "bundle      $bundle, {} MiB"
    ;;
setup)
    bundle="${2:?name the bundle}"
    say "packages"
    if [ -z "${NO_INSTALL:-}" ] && [ ! -e "$job/site.done" ]; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$job/site" "$bundle"/wheels/*.whl
        touch "$job/site.done"
    fi
    "$python" -c 'import torch, diffusers; print(torch.__version__, diffusers.__version__, torch.cuda.is_available())'
    say "words"
    [ -e "$job/real" ] || { rm -rf "$job/real.part"; "$python" scripts/pack_words.py --unpack "$bundle/words.pack" --save_path "$job/real.part"; mv "$job/real.part" "$job/real"; }
    [ -e "$job/fonts/metadata.jsonl" ] || "$python" preprocessing/process_dataset.py --dataset fonts --num_words "$font_words" --img_size 64 512 --seed 1 --save_dir "$job/fonts"
    ;;
vae)
    say "VAE"
    resume=(); compgen -G "$job/vae/step_*" > /dev/null && resume=(--resume)
    "$python" diffusion/train_autoencoder.py --dataset_path "$job/fonts:0.5" "$job/real" --save_path "$job/vae" --max_train_steps "$vae_steps" \
        --batch_size 128 --save_every 2000 "${resume[@]}"
    is_at "$job/vae" "$vae_steps" || { echo "the VAE was stopped; call the step again to go on"; exit 1; }
    ;;
base) say "large model"; train large "$preset" "${minutes:-8.5}" 3e-4 ;;
small) say "small model"; train little "$small" "${minutes:-5}" 8e-4 ;;
benchmark)
    say "benchmark"
    "$python" scripts/benchmark.py --preset "$preset" ${COMPILE:+--compile} ${BENCHMARK:-} --save_path "$out/benchmark.json"
    ;;
dataset)
    say "$count words"
    [ -e "$job/written/index.json" ] && { echo "they are written"; exit 0; }
    rm -rf "$job/written"  # timed from its begin
    "$python" - "$job" "$count" <<'PY'
import json, random, sys
from pathlib import Path
job, count = Path(sys.argv[1]), int(sys.argv[2])
words = map(json.loads, (job / "fonts" / "metadata.jsonl").open())
texts = [word["text"] for word in words if word["split"] == "train"]
draw = random.Random(0)
(job / "texts.txt").write_text("".join(f"{draw.choice(texts)}\n" for _ in range(count)))
PY
    start="$(date +%s.%N)"
    "$python" inference.py --models_path "$job/large" --words_file "$job/texts.txt" --writer random --save_path "$job/written" \
        --mixed_precision bf16 --batch_size "$((2 * batch))" --output_format webdataset
    echo "$(date +%s.%N) $start $count" | awk '{printf "wrote       %d words in %.1f s, %.1f words/s, process start included\n", $3, $1-$2, $3/($1-$2)}' \
        | tee "$out/dataset.txt"
    ;;
bring)
    say "results"
    for name in little large; do
        [ -e "$job/$name.done" ] || continue
        rm -rf "$job/$name.export"
        "$python" scripts/export_checkpoint.py --models_path "$job/$name" --save_path "$job/$name.export"
        tar -C "$job" -cf "$job/$name.tar" "$name.export"
        if [ "$name" = little ] || [ -n "${PART:-}" ]; then split -b 15M -d "$job/$name.tar" "$job/$name.tar."; fi
    done
    # The small model and the logs in one call; the large one by PART=0, 1, ...: seven files each.
    if [ -z "${PART:-}" ]; then
        cp "$job"/little.tar.* "$out/" 2> /dev/null || true
        for name in little large; do [ -e "$job/$name/log.csv" ] && cp "$job/$name/log.csv" "$out/$name.csv"; done
    else
        ls "$job"/large.tar.* | tail -n "+$((7 * PART + 1))" | head -n 7 | xargs -I{} cp {} "$out/"
    fi
    ls -l "$out"
    ;;
*) echo "no such step: $step" >&2; exit 2 ;;
esac
