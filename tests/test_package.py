"""What others install: one version, a wheel that holds the package, an import that costs nothing and chooses the backend."""
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import newsrex_nb

ROOT = Path(__file__).parents[1]


def python(code, *options, **env):
    "What a fresh interpreter prints."
    env = {**{k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}, **env}
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def test_one_version(settings):
    version = settings["version"]
    assert newsrex_nb.__version__ == version
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The folder with the sdist, and the wheel that is built from the sdist; as for a release."
    folder = tmp_path_factory.mktemp("build")
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "_proc", "_docs")
    shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Could not find a version that satisfies the requirement setuptools" in done.stdout + done.stderr:
        pytest.skip("no package index in reach: the build environment cannot be made")
    assert not done.returncode, done.stdout + done.stderr
    return folder / "dist"


def test_wheel_holds_the_package(built, settings):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        files = set(wheel.namelist())
        read = lambda name: wheel.read(next(f for f in files if f.endswith(f".dist-info/{name}"))).decode()
        points, metadata = read("entry_points.txt"), read("METADATA")
    source = built.parent / "source"
    there = {p.relative_to(source).as_posix() for p in (source / "newsrex_nb").rglob("*") if p.is_file()}
    assert {"model.safetensors", "articles.jsonl"} <= {Path(f).name for f in there}, "the toy recommender"
    assert {f for f in files if ".dist-info/" not in f} == there
    assert "newsrex_nb/py.typed" in files, "so that editors and type checkers read the signatures"
    assert "newsrex = newsrex_nb.cli:main" in points and "newsrex_nb = newsrex_nb._modidx:d" in points
    assert f"Version: {settings['version']}\n" in metadata and f"Requires-Python: >={settings['min_python']}\n" in metadata
    assert "](nbs/" not in metadata and f"]({settings['git_url']}/raw/" in metadata, "pictures of README.md are found from elsewhere"
    assert set(re.findall(r"^Provides-Extra: (\w+)", metadata, re.M)) == {"dev", "lab", "lm", "wandb", "bpe", "parquet"}
    assert len(re.findall(r"^Requires-Dist: (?!.*extra ==)", metadata, re.M)) == len(settings["requirements"].split())
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        assert {"settings.ini", "LICENSE", "README.md"} <= {Path(f).name for f in sdist.getnames()}


def test_wheel_imports_by_itself(built, tmp_path):
    "Without a single dependency, `import newsrex_nb` works."
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel: wheel.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import newsrex_nb; print(newsrex_nb.__version__, newsrex_nb.__file__)"
    assert python(code, "-I", "-S") == f"{newsrex_nb.__version__} {tmp_path / 'newsrex_nb/__init__.py'}"


HEAVY = {"keras", "jax", "numpy", "pandas", "matplotlib", "hydra_zen", "huggingface_hub"}


@pytest.mark.parametrize("module, absent", [
    ("newsrex_nb", HEAVY), ("newsrex_nb.data", HEAVY - {"numpy"}), ("newsrex_nb.metrics", HEAVY - {"numpy", "jax"}),
])
def test_import_is_lazy(module, absent):
    pytest.importorskip(module)
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()
    assert not absent & set(loaded)


def test_backend_is_jax_unless_chosen():
    code = "import newsrex_nb, os; print(os.environ['KERAS_BACKEND'])"
    assert python(code) == "jax" and python(code, KERAS_BACKEND="torch") == "torch"


@pytest.mark.parametrize("running, chosen, warned", [("torch", None, True), ("torch", "torch", False), ("jax", None, False)])
def test_warning_when_keras_came_first(running, chosen, warned):
    code = f"""
import sys, types, warnings
sys.modules["keras"] = types.SimpleNamespace(config=types.SimpleNamespace(backend=lambda: {running!r}))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import newsrex_nb
print(*(w.message for w in caught))"""
    said = python(code, **({"KERAS_BACKEND": chosen} if chosen else {}))
    assert bool(said) == warned
    if warned: assert running in said and "import newsrex_nb first" in said


def test_public_functions_say_what_they_return():
    "So that an editor completes `toy().` without running anything."
    import inspect

    from newsrex_nb.data import Dataset, custom, mind, toy
    from newsrex_nb.metrics import ranking_metrics

    assert all(issubclass(inspect.signature(source).return_annotation, Dataset) for source in (toy, mind, custom))
    assert inspect.signature(ranking_metrics).return_annotation is dict
