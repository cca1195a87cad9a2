"""The laws of the house, read off the syntax trees of newsrex_nb: who may import whom, and what nobody may do."""
import ast
import configparser
import graphlib
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "newsrex_nb"

# A module imports strictly lower levels only. `models.*` is any module of `models` that has no line of its own;
# a package (`data`, `models`) stands for its hand-written __init__, which may also hand on names of its own level.
LEVELS = {
    "": -1,
    "core": 0,
    "results": 1, "data.downloads": 1, "data.archives": 1, "data.schema": 1, "data.text": 1, "data.plans": 1, "losses": 1,
    "metrics": 1, "layers": 1, "layers.attention": 1, "bootstrap": 1, "presets": 1, "overrides": 1,
    "data.features": 2, "data.mirrors": 2, "layers.text": 2, "layers.transformer": 2, "models.base": 2, "card": 2,
    "layers.vectors": 2, "slices": 2, "lens": 2, "data.frames": 2, "data.clicks": 2, "data.report": 2, "data.samples": 2,
    "data.cache": 3, "data.vectors": 3, "data.bpe": 3, "data.popularity": 3, "data.mind_lines": 3, "data.xmind": 3,
    "data.toy_text": 3, "layers.views": 3, "layers.graph": 3, "layers.popularity": 3, "device": 3, "data.causal": 3,
    "data": 4, "data.graphs": 4, "data.toy_world": 4, "data.mind_files": 4, "data.custom_log": 4, "layers.entities": 4, "layers.variants": 4,
    "scoring": 4, "data.article_vectors": 4,
    "models": 5, "models.*": 5, "data.live": 5, "data.batches": 5, "baselines": 5, "rows": 5, "predictions": 5, "explain": 5,
    "evaluate": 6, "steps": 6, "hub": 6, "checkpoint": 6, "watching": 6, "loggers": 6,
    "train": 7, "share": 7, "catalogue": 7, "readers": 7,
    "recommend": 8, "viz": 8, "configuration": 8, "timing": 8, "stacked": 8,
    "experiment": 9, "bench": 9, "viz_attention": 9, "viz_live": 9,
    "compare": 10, "probe": 10, "sweeps": 10,
    "reproduction": 11, "ablations": 11,
    "cli": 12,
}
TRAINING = {"train", "steps"}
ONLINE = {"data.downloads", "data.custom_log", "hub"}
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


def level(name):
    level = LEVELS.get(name, LEVELS.get(name.rpartition(".")[0] + ".*"))
    assert level is not None, f"{name} has no level: give it one in LEVELS (and in CONTRIBUTING.md if it is a new kind of room)"
    return level


@every_module
def test_imports_only_lower_levels(name):
    reach = level(name) + is_package(name)
    assert not {other: level(other) for other in ours(name) if level(other) >= reach}


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
def test_rooms_keep_to_themselves(name):
    kind = name.split(".")[0]
    if kind in ("models", "layers"): assert not {o for o in ours(name) if o.split(".")[0] == "data"}
    if kind in ("data", "metrics"): assert "keras" not in roots(name)
    if name not in ONLINE: assert not roots(name) & NETWORK
    if name not in TRAINING:
        used = {node.func.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
        assert not used & UPDATES, "only train and its steps update weights"


@every_module
def test_no_pickle(name):
    assert not roots(name) & PICKLES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


@every_module
def test_run_time_needs_only_what_is_declared(name):
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    declared = " ".join(config["DEFAULT"][key] for key in ("requirements", "lm_requirements", "wandb_requirements", "bpe_requirements")).split()
    packages = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in declared}
    legal = {p.replace("-", "_") for p in packages}.union(*(BROUGHT.get(p, set()) for p in packages))
    assert not roots(name) - legal - sys.stdlib_module_names - {"newsrex_nb"}, "not among the requirements of settings.ini"


@every_module
def test_one_notebook_per_module(name):
    text = PATHS[name].read_text(encoding="utf-8")
    if is_package(name): assert "AUTOGENERATED" not in text, "the __init__ files are written by hand"
    else:
        assert "# AUTOGENERATED! DO NOT EDIT!" in text, "modules come from notebooks; only __init__ files are written by hand"
        assert ROOT / f"nbs/{name}.ipynb" in NOTEBOOKS, "its notebook is gone: remove the module too"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_and_module_share_a_name(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    targets = re.findall(r"^#\|\s*default_exp\s+(\S+)", "\n".join("".join(c["source"]) for c in cells), re.M)
    if path.parent == ROOT / "nbs" and path.stem != "index":
        assert targets == [path.stem] and path.stem in PATHS
    else: assert not targets, "index and tutorials export nothing"


def test_no_vague_names():
    files = [*PACKAGE.rglob("*.py"), *NOTEBOOKS, *(ROOT / "tests").rglob("*.py")]
    assert not [p for p in files if VAGUE & set(re.split(r"[._/]", str(p.relative_to(ROOT))))]


@pytest.mark.parametrize("name", [n for n in PATHS if n and is_package(n)])
def test_no_module_bears_the_name_of_what_its_package_hands_on(name):
    handed_on = {alias.asname or alias.name for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not handed_on & {other.rpartition(".")[2] for other in PATHS if other.rpartition(".")[0] == name}
