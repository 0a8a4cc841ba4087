"""Importing does nothing, layers go downward only, and every script explains its flags."""

import ast
import json
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, hash_tree

# Walls: what each room may import of the others.
WALLS = {
    "utils": set(),
    "unet": set(),
    "feature_extractor": {"utils"},
    "preprocessing": {"utils"},
    "htr": {"utils"},
    "diffusion": {"unet", "feature_extractor", "utils"},
    "generation": {"diffusion", "htr", "utils"},
    "evaluation": {"diffusion", "htr", "feature_extractor", "utils"},
    "train_diffusion": {"diffusion", "unet", "utils"},
    "inference": {"generation", "diffusion", "htr", "utils"},
}
FILES = sorted(path for room in WALLS for path in (*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/**/*.py")))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
IS_SCRIPT = {path: "__main__" in path.read_text(encoding="utf-8") for path in FILES}
SCRIPTS = [str(path.relative_to(ROOT)) for path in FILES if IS_SCRIPT[path]]


def room_of(name):
    """The room of a module: its first part."""
    return name.split(".")[0]


def imported(path):
    """The project's own modules that a file imports anywhere in it, by full name (``from a import b`` may
    mean ``a.b``).
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


def test_importing_prints_nothing_and_writes_nothing(tmp_path):
    empty, cache = tmp_path / "empty", tmp_path / "cache"
    empty.mkdir()
    before = hash_tree(ROOT / "tests" / "data")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + "".join(
        f"import {name}\n" for name in MODULES
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=empty,
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(cache), "HF_HOME": str(cache / "hf"), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (
        list(empty.iterdir()) == []
        and not (cache / "hf").exists()
        and hash_tree(ROOT / "tests" / "data") == before
    )


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_nothing_imports_a_script(path):
    scripts = {
        ".".join(script.relative_to(ROOT).with_suffix("").parts) for script in FILES if IS_SCRIPT[script]
    }
    assert imported(path) & scripts == set()


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_no_import_crosses_a_wall(path):
    room = room_of(path.relative_to(ROOT).with_suffix("").parts[0])
    assert {room_of(name) for name in imported(path)} <= WALLS[room] | {room}


def test_every_file_of_ours_stands_in_a_room_with_walls():
    outside = {"tests", "scripts", "docs", "models"}
    rooms = {path.relative_to(ROOT).with_suffix("").parts[0] for path in ROOT.glob("*/**/*.py")} - outside
    rooms |= {path.stem for path in ROOT.glob("*.py")}
    assert {room for room in rooms if not room.startswith(".")} - {"runs", "demo_output"} == set(WALLS)


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {other for other in imported(path) if other != name}
        for name, path in zip(MODULES, FILES, strict=True)
    }
    while leaves := {name for name, needs in graph.items() if not needs & set(graph)}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert graph == {}


# Help


@pytest.fixture(scope="module")
def help_texts():
    """The --help of every script, all printed by one process."""
    scripts = SCRIPTS
    code = (
        "import contextlib, io, json, runpy, sys\ntexts = {}\nfor script in sys.argv[1:]:\n"
        "    output = io.StringIO()\n    sys.argv = [script, '--help']\n"
        "    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):\n"
        "        runpy.run_path(script, run_name='__main__')\n    texts[script] = output.getvalue()\n"
        "print(json.dumps(texts))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *scripts], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
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
        for command in re.findall(
            rf"{re.escape(script)}((?:\\\n|[^\n`|#])*)", readme.read_text(encoding="utf-8")
        ):
            unknown = [flag for flag in re.findall(r"--\w+", command) if flag not in text]
            assert unknown == [], f"{script}{command}"
