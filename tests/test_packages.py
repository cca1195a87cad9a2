"""The laws of the packages, read off the syntax trees of newsrex_nb: who may import whom, and what nobody may do."""
import ast
import configparser
import graphlib
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "newsrex_nb"
WRITTEN = runpy.run_path(str(ROOT / ".ci/packages"))
LAW = WRITTEN["law"]()

TRAINING = {"train"}
ONLINE = {"files", "hub"}  # packages
NETWORK = {"urllib", "http", "requests", "httpx", "urllib3", "aiohttp", "socket", "ftplib", "huggingface_hub"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UPDATES = {"apply_gradients", "stateless_apply", "train_on_batch", "minimize"}
VAGUE = {"util", "utils", "common", "helper", "helpers", "legacy", "misc"}
BROUGHT = {"hydra-zen": {"hydra", "omegaconf"}, "huggingface_hub": {"filelock"}, "sentence-transformers": {"transformers", "torch"}}  # packages that come with a requirement


def name_of(path):
    "newsrex_nb/data/schema.py -> data.schema; newsrex_nb/data/__init__.py -> data."
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(p): p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in PATHS.items()}
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
every_module = pytest.mark.parametrize("name", [n for n in PATHS if n])


def is_package(name): return PATHS[name].name == "__init__.py"


def imports(name):
    "Absolute names of everything a module imports, at any depth; `from a import b` gives a.b."
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = ["newsrex_nb", *name.split(".")][:None if is_package(name) else -1]
            base = [*here[:len(here) - node.level + 1], *(node.module or "").split(".")] if node.level else [node.module]
            found |= {".".join([*filter(None, base), alias.name]) for alias in node.names}
    return found


def ours(name):
    "The modules of the package that a module imports."
    found = set()
    for target in imports(name):
        if target.split(".")[0] != "newsrex_nb": continue
        target = target.split(".")[1:]
        while ".".join(target) not in PATHS: target = target[:-1]
        found.add(".".join(target))
    return found


def roots(name): return {target.split(".")[0] for target in imports(name)}


def package(name): return name.split(".")[0]


def test_the_law_names_every_package():
    assert {package(name) for name in PATHS if name} == {*LAW}, "give a new package its row in .ci/packages.yml"
    graphlib.TopologicalSorter({name: row["imports"] for name, row in LAW.items()}).prepare()


@every_module
def test_imports_what_its_package_may(name):
    here = package(name)
    allowed = {here, ""} | WRITTEN["reach"](here, LAW)
    strangers = {other for other in ours(name) if package(other) not in allowed}
    assert not strangers, f"{here} may import {', '.join(sorted(allowed - {here, ''}))}: see .ci/packages.yml"


def test_what_follows_from_the_law_is_written():
    for file, made in (("CONTRIBUTING.md", "contributing"), ("nbs/sidebar.yml", "sidebar")):
        assert (ROOT / file).read_text(encoding="utf-8") == WRITTEN[made](), f"run .ci/packages, which writes {file}"


@every_module
def test_imported_names_exist(name):
    "Also those that a function imports when it is called."
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.ImportFrom) or not (node.level or node.module.split(".")[0] == "newsrex_nb"): continue
        here = ["newsrex_nb", *name.split(".")][:None if is_package(name) else -1]
        module = importlib.import_module(".".join([*here[:len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module)
        absent = [a.name for a in node.names if not hasattr(module, a.name) and f"{module.__name__}.{a.name}"[11:] not in PATHS]
        assert not absent, f"{module.__name__} has no {', '.join(absent)}"


def test_no_cycles():
    graphlib.TopologicalSorter({name: ours(name) - {name} for name in PATHS}).prepare()


@every_module
def test_modules_keep_to_themselves(name):
    kind = name.split(".")[0]
    if kind in ("data", "metrics"): assert "keras" not in roots(name)
    if kind not in ONLINE: assert not roots(name) & NETWORK
    if kind not in TRAINING:
        used = {node.func.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
        assert not used & UPDATES, "only train and its steps update weights"


@every_module
def test_no_pickle(name):
    assert not roots(name) & PICKLES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


TEXT_OF_COMMANDS = {"experiments.configuration"}  # values as the shell's grammar takes them, no file


@every_module
def test_json_is_written_in_one_place(name):
    "`core.json_text` writes null for what is no number; `json.dumps` would write NaN."
    if name == "core" or name in TEXT_OF_COMMANDS: return
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    assert not [f for f in calls if f.attr in ("dump", "dumps") and getattr(f.value, "id", "") == "json"]


@every_module
def test_run_time_needs_only_what_is_declared(name):
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    declared = " ".join(config["DEFAULT"][key] for key in ("requirements", "lm_requirements", "wandb_requirements", "bpe_requirements", "files_requirements", "sentiment_requirements")).split()
    packages = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in declared}
    legal = {p.replace("-", "_") for p in packages}.union(*(BROUGHT.get(p, set()) for p in packages))
    assert not roots(name) - legal - sys.stdlib_module_names - {"newsrex_nb"}, "not among the requirements of settings.ini"


@every_module
def test_one_notebook_per_module(name):
    text = PATHS[name].read_text(encoding="utf-8")
    if is_package(name): assert "AUTOGENERATED" not in text, "the __init__ files are written by hand"
    else:
        assert "# AUTOGENERATED! DO NOT EDIT!" in text, "modules come from notebooks; only __init__ files are written by hand"
        assert ROOT / "nbs" / f"{name.replace('.', '/')}.ipynb" in NOTEBOOKS, "its notebook is gone: remove the module too"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix()[:-6])
def test_notebook_and_module_share_a_name(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    targets = re.findall(r"^#\|\s*default_exp\s+(\S+)", "\n".join("".join(c["source"]) for c in cells), re.M)
    page = path.relative_to(ROOT / "nbs").with_suffix("")
    if page.parts[0] == "tutorials" or page.as_posix() in ("index", "questions", "glossary", "reference"):
        assert not targets, "the landing page, tutorials and pages to look things up export nothing"
    else: assert targets == [".".join(page.parts)] and targets[0] in PATHS


def test_no_vague_names():
    files = [*PACKAGE.rglob("*.py"), *NOTEBOOKS, *(ROOT / "tests").rglob("*.py")]
    assert not [p for p in files if VAGUE & set(re.split(r"[._/]", str(p.relative_to(ROOT))))]


@pytest.mark.parametrize("name", [n for n in PATHS if n and is_package(n)])
def test_no_module_bears_the_name_of_what_its_package_hands_on(name):
    handed_on = {alias.asname or alias.name for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not handed_on & {other.rpartition(".")[2] for other in PATHS if other.rpartition(".")[0] == name}
