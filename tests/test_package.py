"""What others install: one version, a wheel that holds the package, an import that costs nothing and chooses the backend."""
import ast
import configparser
import os
import re
import runpy
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
    assert set(re.findall(r"^Provides-Extra: (\w+)", metadata, re.M)) == {"dev", "lab", "lm", "wandb", "bpe", "parquet", "files", "sentiment"}
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

    from newsrex_nb.data import Dataset, adressa, custom, ebnerd, mind, toy
    from newsrex_nb.metrics import ranking_metrics

    assert all(issubclass(inspect.signature(source).return_annotation, Dataset) for source in (toy, mind, custom, ebnerd, adressa))
    assert inspect.signature(ranking_metrics).return_annotation is dict


def test_the_export_went_on_to_the_docstrings(monkeypatch, tmp_path):
    "`nbdev_export` alone leaves one-line docstrings; the sentence says what to run."
    docstrings = runpy.run_path(str(ROOT / ".ci/docstrings.py"))
    docstrings["main"](check=True)
    (tmp_path / "halved.py").write_text(f'{docstrings["EXPORTED"]}\ndef half(\n    x,  # a number\n):\n    "Half of it."\n    return x / 2\n')
    monkeypatch.setitem(docstrings["main"].__globals__, "PACKAGE", tmp_path)
    with pytest.raises(SystemExit, match="got 1 modules without, such as .*halved.py: run .ci/export, not nbdev_export alone"):
        docstrings["main"](check=True)


RESULT = re.compile(r"yields |\(candidates,\) \w|\(rows, count\)|\(best, worst\)|\{|an? `Estimate`|.*(returns the \w|; a `Dataset`)|as for `members`")


def test_no_result_is_told_of_an_argument():
    "`.ci/docstrings.py` takes the comment behind a signature of one argument for the argument's."
    wrong = []
    for path in sorted((ROOT / "newsrex_nb").rglob("*.py")):
        if path.parent.name in ("train", "contract"): continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            doc = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            told = (doc or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0].splitlines()
            if len(told) == 2 and RESULT.match(told[1].strip()) and "Returns\n-------" not in doc:
                wrong.append(f"{path.relative_to(ROOT)}: {node.name}: {told[1].strip()}")
    assert not wrong


# what Windows has not, of Python's own modules and of what they offer
UNIX = {"crypt", "curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty"}
UNIX_NAMES = {
    "os": {"O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "chown", "fork", "forkpty", "geteuid", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo",
           "nice", "openpty", "pread", "pwrite", "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname"},
    "signal": {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"},
    "socket": {"AF_UNIX"}, "time": {"tzset"},
}


def asked(node):
    "The module and the name that an `if hasattr(module, name)` asks for, or nothing."
    test = node.test
    if isinstance(test, ast.Call) and getattr(test.func, "id", "") == "hasattr": return ast.unparse(test.args[0]), test.args[1].value


def text_without_encoding(node):
    "Whether a call opens text in whatever encoding the machine has."
    if any(k.arg in ("encoding", None) for k in node.keywords): return False
    function = node.func
    if isinstance(function, ast.Name) and function.id == "open":
        mode = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)] + [k.value.value for k in node.keywords if k.arg == "mode"]
        return not any("b" in m for m in mode)
    arguments = {"read_text": 0, "write_text": 1}.get(function.attr if isinstance(function, ast.Attribute) else "")
    return arguments is not None and len(node.args) <= arguments


def unix_only(node, known=frozenset(), inside=False):
    "What of a syntax tree fails on Windows, or reads text otherwise there: (line, what)."
    if isinstance(node, (ast.Import, ast.ImportFrom)) and not inside:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] * (not node.level)
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in UNIX)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.attr in UNIX_NAMES.get(node.value.id, ()) and (node.value.id, node.attr) not in known: yield node.lineno, ast.unparse(node)
    if isinstance(node, ast.Call) and text_without_encoding(node): yield node.lineno, ast.unparse(node)
    if isinstance(node, ast.If): known = known | {asked(node)}
    for child in ast.iter_child_nodes(node): yield from unix_only(child, known, inside or isinstance(node, ast.FunctionDef))


def test_nothing_unix_only_at_import():
    "Read off the syntax trees, so that it is seen here: modules import on Windows, what it lacks is asked for first, and text is UTF-8 everywhere."
    found = {}
    for path in (ROOT / "newsrex_nb").rglob("*.py"):
        bad = [*unix_only(ast.parse(path.read_text(encoding="utf-8")))]
        if bad: found[path.relative_to(ROOT).as_posix()] = bad
    assert not found
    for code in ("import resource", "try:\n    import fcntl\nexcept ImportError: pass", "def f(): os.fork()", "open(path)", "Path(a).read_text()", "a.write_text(b)"):
        assert [*unix_only(ast.parse(code))], code
    for code in ("def f():\n    import resource", "if hasattr(os, 'O_DIRECTORY'):\n    os.O_DIRECTORY", "open(path, 'rb')", "write_text(a, b)"):
        assert not [*unix_only(ast.parse(code))], code
