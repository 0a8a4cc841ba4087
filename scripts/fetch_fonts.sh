#!/usr/bin/env bash
# Handwriting fonts with an open licence (OFL 1.1 or Apache 2.0) from npm's @fontsource packages into a folder.
#
#   bash scripts/fetch_fonts.sh data/fonts
#   python3 preprocessing/process_dataset.py --dataset fonts --dataset_path data/fonts --save_dir data/font_words
#
# Needs npm and python3. Only the Latin files of the plain upright cuts are kept; each family's licence lies beside them
# as NAME.LICENSE. A family whose metadata says another category or licence is left out.
set -euo pipefail
target=${1:?usage: bash scripts/fetch_fonts.sh FOLDER}

families=(alex-brush allura amatic-sc annie-use-your-telescope architects-daughter bad-script birthstone caveat caveat-brush
  cedarville-cursive chilanka comic-neue cookie corinthia courgette covered-by-your-grace damion dancing-script
  delicious-handrawn delius ephesis gaegu gloria-hallelujah gochi-hand grand-hotel great-vibes handlee herr-von-muellerhoff
  homemade-apple indie-flower italianno itim kalam kaushan-script licorice liu-jian-mao-cao long-cang ma-shan-zheng mansalva
  marck-script monsieur-la-doulaise montecarlo mr-de-haviland ms-madi nanum-brush-script nanum-pen-script neucha oooh-baby
  pacifico parisienne patrick-hand permanent-marker pinyon-script playpen-sans reenie-beanie rochester rock-salt sacramento
  satisfy schoolbell shadows-into-light short-stack sriracha sue-ellen-francisco swanky-and-moo-moo tangerine
  the-girl-next-door twinkle-star vibur whisper yellowtail yomogi zhi-mang-xing)

mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init --yes >/dev/null
npm install --no-audit --no-fund --ignore-scripts --silent "${families[@]/#/@fontsource/}"
python3 - "$work/node_modules/@fontsource" "$target" <<'PYTHON'
import json, shutil, sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
for folder in sorted(source.iterdir()):
    about = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    licence = about["license"]["type"] if isinstance(about["license"], dict) else about["license"]
    if about["category"] != "handwriting" or not any(known in licence for known in ("OFL", "Apache")):
        print(f"{folder.name}: {about['category']}, {licence}; left out", file=sys.stderr)
        continue
    files = sorted((folder / "files").glob(f"{folder.name}-latin-[0-9]*-normal.woff2"))
    if not files:
        print(f"{folder.name}: no Latin file; left out", file=sys.stderr)
    for file in files:
        shutil.copy(file, target / file.name)
    shutil.copy(folder / "LICENSE", target / f"{folder.name}.LICENSE")
print(f"{len(list(target.glob('*.woff2')))} files of {len(list(target.glob('*.LICENSE')))} families in {target}")
PYTHON
