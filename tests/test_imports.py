"""Importing does nothing, layers go downward only, and every script explains its flags."""

import ast
import json
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, hash_tree

SCRIPTS = {"train_autoencoder", "train_diffusion", "inference", "train_style_encoder", "evaluation", "filter_words",
           "train_htr", "htr_study"}  # fmt: skip
MODELS = {"unet", "autoencoder", "feature_extractor", "recogniser", "latent_reader"}
FILES = sorted(path for pattern in ("*.py", "utils/*.py", "preprocessing/*.py") for path in ROOT.glob(pattern))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
OURS = {name.split(".")[0] for name in MODULES}


def imported(path):
    """The project's own modules that a file imports anywhere in it, by full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in OURS}


def test_importing_prints_nothing_and_writes_nothing(tmp_path):
    empty, cache = tmp_path / "empty", tmp_path / "cache"
    empty.mkdir()
    before = hash_tree(ROOT / "tests" / "data")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + "".join(f"import {name}\n" for name in MODULES)
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=empty, capture_output=True, text=True, timeout=120,
                          env={"HOME": str(cache), "HF_HOME": str(cache / "hf"), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(empty.iterdir()) == [] and not (cache / "hf").exists() and hash_tree(ROOT / "tests" / "data") == before


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_nothing_imports_a_script(path):
    scripts = SCRIPTS | {"preprocessing.process_dataset"}
    assert imported(path) & scripts == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "utils"], ids=lambda path: path.stem)
def test_utils_import_only_each_other(path):
    assert {name.split(".")[0] for name in imported(path)} <= {"utils"}


@pytest.mark.parametrize("path", [path for path in FILES if path.stem in MODELS], ids=lambda path: path.stem)
def test_models_import_only_models_and_utils(path):
    assert {name.split(".")[0] for name in imported(path)} <= MODELS | {"utils"}


def test_the_pipeline_imports_only_models_and_utils():
    assert {name.split(".")[0] for name in imported(ROOT / "pipeline.py")} <= MODELS | {"model_card", "utils"}


# Help



@pytest.fixture(scope="module")
def help_texts():
    """The --help of every script, all printed by one process."""
    scripts = sorted(path.name for path in ROOT.glob("*.py") if path.stem in SCRIPTS)
    scripts.append("preprocessing/process_dataset.py")
    code = ("import contextlib, io, json, runpy, sys\ntexts = {}\nfor script in sys.argv[1:]:\n"
            "    output = io.StringIO()\n    sys.argv = [script, '--help']\n"
            "    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):\n"
            "        runpy.run_path(script, run_name='__main__')\n    texts[script] = output.getvalue()\n"
            "print(json.dumps(texts))\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *scripts], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_script_has_help(help_texts):
    assert all(text.startswith("usage: ") and "--" in text for text in help_texts.values())


def test_help_says_what_every_flag_means(help_texts):
    for script, text in help_texts.items():
        options = text.split("options:")[1]
        for flag, rest in re.findall(r"^  (?:-\w, )?(--\w+)(.*(?:\n {6,}.*)*)", options, flags=re.MULTILINE):
            assert re.search(r" {2,}\S|\n +\S", rest), f"{script} {flag} has no help"


def test_the_readme_uses_only_flags_that_exist(help_texts):
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("no README")
    for script, text in help_texts.items():
        for command in re.findall(rf"{re.escape(script)}((?:\\\n|[^\n`|#])*)", readme.read_text(encoding="utf-8")):
            unknown = [flag for flag in re.findall(r"--\w+", command) if flag not in text]
            assert unknown == [], f"{script}{command}"
