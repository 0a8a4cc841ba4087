#!/usr/bin/env bash
# The main job in minutes, on a CPU: make words of a new hand, teach it to the shipped model, write.
#   bash scripts/demo.sh [folder for the results]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-demo_output}"
if [ -e "$out" ]; then
    echo "$out is there already: move it away, or name another folder: bash scripts/demo.sh FOLDER" >&2
    exit 2
fi
source scripts/environment.sh requirements.txt

echo; echo "1/3  300 words in a hand that the shipped model has never seen (a brush-script font): $out/words"
"$PYTHON" preprocessing/process_dataset.py --dataset fonts --fonts pacifico --num_words 300 --img_size 64 512 --save_dir "$out/words"

echo; echo "2/3  a short training adds the hand to models/demo: $out/run"
"$PYTHON" train_diffusion.py --dataset demo --dataset_path "$out/words" --init_from models/demo --save_path "$out/run" \
    --max_train_steps 150 --batch_size 32 --learning_rate 5e-4 --lr_warmup_steps 20 --ema_decay 0.98 --save_every 75

echo; echo "3/3  words in the new hand, and a gallery of the shipped model's hands: $out/new_hand, $out/gallery.html"
"$PYTHON" inference.py --models_path "$out/run" --save_path "$out/new_hand" --writer pacifico \
    --words Handwriting written by a model that saw three hundred words "of" this hand
# By the shipped model: a training on one hand alone draws all others towards it.
"$PYTHON" scripts/gallery.py --save_path "$out/gallery.html"

echo; echo "look at     $out/new_hand/sheet.png"
echo "and at      $out/gallery.html, in a browser"
echo "next        the README's workflow, with your own words"
