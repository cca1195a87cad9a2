"""Notebooks are the source, so they are kept as code is kept: short cells, clean outputs, a fixed opening, a place in the sidebar."""
import ast
import fnmatch
import functools
import json
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
PATHS = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NAMES = {path: path.relative_to(NBS).with_suffix("").as_posix() for path in PATHS}
API = [path for path, name in NAMES.items() if not name.startswith("tutorials/") and name not in ("index", "questions", "glossary", "reference")]
every_notebook = pytest.mark.parametrize("path", PATHS, ids=NAMES.get)
api_notebook = pytest.mark.parametrize("path", API, ids=NAMES.get)
ABSOLUTE = re.compile(r"(?<![\w.:/~+-])/(work|root|home|tmp|Users|content|private|mnt|var/folders)/|\b[A-Za-z]:(\\\\?|/)(Users|Temp|Windows)\b")  # a folder of somebody's machine
IMPORTS = (ast.Import, ast.ImportFrom)


@functools.cache
def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell): return "".join(cell["source"])


def exported(path): return [c for c in cells(path) if c["cell_type"] == "code" and re.search(r"^#\|\s*exporti?\b", source(c), re.M)]


def code(cell):
    "A cell without its directives."
    return "\n".join(line for line in source(cell).split("\n") if not line.startswith("#|")).strip("\n")


def texts(path):
    "(cell id, text) of every source and every output that is text."
    for cell in cells(path):
        yield cell["id"], source(cell)
        for out in cell.get("outputs", []):
            yield cell["id"], "".join(out.get("text", []))
            for kind, data in out.get("data", {}).items():
                if kind.startswith("text/") or kind == "image/svg+xml": yield cell["id"], "".join(data)


def lines(node): return node.end_lineno - min([node.lineno, *(d.lineno for d in node.decorator_list)]) + 1


@every_notebook
def test_cell_ids(path):
    ids = [c["id"] for c in cells(path)]
    assert len(set(ids)) == len(ids)
    random = r"(?=.*\d)[0-9a-f]{6,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    bad = [c["id"] for c in exported(path) if re.fullmatch(random, c["id"]) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", c["id"])]
    assert not bad, "ids of exported cells stand in the .py file: readable words, joined by '-'"


LONG = {"fit": 69}  # 30 arguments, each a line of the signature with its comment and a line that hands it on by name


@every_notebook
def test_budgets(path):
    tutorial = NBS / "tutorials" in path.parents
    assert path.stat().st_size <= (500 if tutorial else 300) * 1024
    for cell in exported(path):
        text, where = code(cell), f"cell {cell['id']}"
        budget = LONG.get(cell["id"], 45)
        assert sum(bool(line.strip()) for line in text.split("\n")) <= budget, f"{where} has more than {budget} lines: divide it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef): # a class is bounded by its cell
                budget = LONG.get(node.name, 40)
                assert lines(node) <= budget, f"{where}: {node.name} is longer than {budget} lines"


def test_cells_are_short_and_proved():
    "As `.ci/cells` counts them: half of the exported cells have twelve lines or fewer, six in ten are followed by a proof."
    measured = runpy.run_path(str(ROOT / ".ci/cells"))["measured"]
    rows = [row for path in PATHS for row in measured(path)]
    counts = sorted(lines for _, lines, _, _ in rows)
    assert counts[len(counts) // 2] <= 12 and counts[len(counts) * 9 // 10] <= 26
    assert sum(proof for *_, proof in rows) >= .6 * len(rows)


@every_notebook
def test_clean(path):
    assert not [c["id"] for c in cells(path) for out in c.get("outputs", []) if out["output_type"] == "error"]
    assert not [(where, match[0]) for where, text in texts(path) if (match := ABSOLUTE.search(text))]


EXAMPLES = {}  # {file: the paths that it may name, and why}: none so far; Colab's folder is named without what lies in it


def test_no_file_names_a_folder_of_somebodys_machine():
    "Of the whole repository, results and stored outputs among it: a path of one machine is of no use on another, and says whose it was."
    try: listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError): pytest.skip("no checkout: nothing says which files are kept")
    found = []
    for name in filter(None, listed):
        path = ROOT / name
        if not path.is_file() or b"\0" in (content := path.read_bytes()): continue
        text = content.decode(encoding="utf-8", errors="replace")
        found += [(name, text[max(0, m.start() - 30):m.end() + 30]) for m in ABSOLUTE.finditer(text) if m[0] not in EXAMPLES.get(name, ())]
    assert not found
    seen = ["see /root" + "/x", '"/home' + '/me/a"', "C:" + "\\Users\\me", "at D:" + "/Temp", "/var" + "/folders/x"]
    assert all(map(ABSOLUTE.search, seen)) and not ABSOLUTE.search("https://a.org/home" + "/x runs/work" + "/x [ -e /content ]")


REMOVES = {"rmtree", "rmdir", "removedirs", "unlink", "remove"}


@every_notebook
def test_nothing_is_removed(path):
    "A user may have named a folder of their own where a page says `folder`: a page removes nothing by itself."
    for cell in cells(path):
        if cell["cell_type"] != "code" or cell in exported(path): continue
        text = code(cell)
        assert not re.search(r"^\s*[!%].*\brm\b", text, re.M), cell["id"]
        python = "\n".join(line for line in text.split("\n") if not line.startswith(("%", "!")))
        calls = [node.func for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call)]
        found = {f.id for f in calls if isinstance(f, ast.Name)} & REMOVES
        found |= {f.attr for f in calls if isinstance(f, ast.Attribute) and f.attr in REMOVES
                  and (f.attr != "remove" or getattr(f.value, "id", "") == "os")}  # a list may lose an entry
        assert not found, f"cell {cell['id']} removes files: use tempfile.TemporaryDirectory(), which removes only what it made"


@api_notebook
def test_opening(path):
    title, export_to, hidden, imports = [c for c in cells(path) if c["id"] not in ("badge", "install")][:4]
    assert title["cell_type"] == "markdown" and re.fullmatch(r"# [^\n]+\n\n> [^\n]+", source(title).strip())
    assert source(export_to).strip() == f"#| default_exp {NAMES[path].replace('/', '.')}"
    assert source(hidden).startswith("#| hide\nimport newsrex_nb")
    assert source(imports).startswith("#| export\n")
    for cell in (hidden, imports): assert all(isinstance(node, IMPORTS) for node in ast.parse(code(cell)).body), cell["id"]
    names = [(getattr(node, "module", None), alias.name) for node in ast.parse(code(imports)).body for alias in node.names]
    assert len(names) == len(set(names)), "a name is imported twice, as after a merge"


def test_titles_are_words():
    "A page is called by what it explains; the module's name stands under the title."
    titles = [source(cells(path)[0]).split("\n")[0].removeprefix("# ") for path in PATHS if NAMES[path] != "index"]
    assert len(set(titles)) == len(titles)
    assert not [title for title in titles if re.search(r"[a-z]\.[a-z]|_", title)]


BADGES = runpy.run_path(str(ROOT / ".ci/badges"))


@every_notebook
def test_badge(path):
    "Directly behind the title stand the badge and the install line that settings.ini gives for this page, and nowhere else."
    opened = path in [*BADGES["pages"](), BADGES["LANDING"]]
    wanted = [(c["cell_type"], c["id"], source(c)) for c in BADGES["opening"](path)] if opened else []
    where = [i for i, c in enumerate(cells(path)) if "badge.svg" in source(c) or "pip install -q git+" in source(c)]
    assert where == [1, 2][:len(wanted)], "run .ci/badges"
    assert [(cells(path)[i]["cell_type"], cells(path)[i]["id"], source(cells(path)[i])) for i in where] == wanted, "run .ci/badges"


@every_notebook
def test_import_cells_hold_imports_only(path):
    "The site runs every cell that imports, without the cells before it."
    for cell in cells(path):
        if cell["cell_type"] != "code": continue
        python = "\n".join(line for line in code(cell).split("\n") if not line.startswith(("%", "!")))
        tree = ast.parse(python)
        if all(isinstance(node, IMPORTS) for node in tree.body): continue
        among = tree.body if cell in exported(path) else ast.walk(tree)  # an exported function may import inside
        assert not any(isinstance(node, IMPORTS) for node in among), f"cell {cell['id']} imports and does something else: split it"


def listed(contents):
    "Every page or pattern that a part of the sidebar names."
    if isinstance(contents, str): return [contents]
    if isinstance(contents, dict): return listed(contents.get("contents", [])) + listed(contents.get("href", []))
    return [page for part in contents for page in listed(part)]


def test_sidebar():
    pages = listed(yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"])
    assert len(set(pages)) == len(pages)
    parts = yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    in_lists = [page for part in parts if isinstance(part["contents"], list) for page in part["contents"]]
    assert not [page for page in in_lists if "*" in page], "Quarto expands a pattern only where it stands alone"
    here = [p.relative_to(NBS).as_posix() for p in PATHS]
    assert not [n for n in here if not any(fnmatch.fnmatchcase(n, page) for page in pages)], "not in nbs/sidebar.yml: run .ci/packages"


def test_readme_is_index():
    readme = runpy.run_path(str(ROOT / ".ci/readme"))
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme["render"](), "README.md is written by .ci/readme from nbs/index.ipynb"
    assert (ROOT / readme["picture"]).read_bytes() == readme["drawn"](), "so is its picture"
