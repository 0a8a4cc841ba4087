#!/usr/bin/env bash
# The main job in minutes, on a CPU: a hand from a few images at once, then fitted to them, and the hands of the model.
#   bash scripts/demo.sh [folder for the results]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-demo_output}"
if [ -e "$out" ]; then
    echo "$out is there already: move it away, or name another folder: bash scripts/demo.sh FOLDER" >&2
    exit 2
fi
source scripts/environment.sh requirements.txt
texts=(Handwriting written in a hand that the model knows from images "of" two dozen lines alone)

echo; echo "1/4  two dozen lines in a hand that the model has no name for (a font): $out/lines"
"$PYTHON" preprocessing/process_dataset.py --dataset fonts --fonts zeyada --unit line --num_words 24 --save_dir "$out/lines"

echo; echo "2/4  the hand from these images, at once: $out/from_images"
"$PYTHON" inference.py --style_images "$out/lines" --words "${texts[@]}" --save_path "$out/from_images"

echo; echo "3/4  the hand fitted to the images and their texts: $out/zeyada.safetensors, $out/fitted"
"$PYTHON" train_diffusion.py --init_from models/demo --fit_hand "$out/zeyada.safetensors" --dataset_path "$out/lines"
"$PYTHON" inference.py --writer "$out/zeyada.safetensors" --words "${texts[@]}" --save_path "$out/fitted"

echo; echo "4/4  twelve of the hands that the model knows: $out/gallery.html"
"$PYTHON" scripts/gallery.py --save_path "$out/gallery.html" --writers dhsd-1 dhsd-3 dhsd-7 dhsd-12 wikitexte_0008 \
    wikitexte_0073 wikitexte_0278 imp_wikitexte_0204 caveat damion kalam rock-salt

echo; echo "look at     $out/from_images/sheet.png and $out/fitted/sheet.png"
echo "and at      $out/gallery.html, in a browser"
echo "next        your own pictures: python3 inference.py --style_images letter.jpg --words Hello"
