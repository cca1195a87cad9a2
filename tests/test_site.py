"""What the site is made of, as far as it can be seen without Quarto: processed pages, links, images, configuration."""
import ast
import functools
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from newsrex_nb.core import InputError
from newsrex_nb.cli import COMMANDS, bracketed
from newsrex_nb.experiments.bench import bench, memory_sentence
from newsrex_nb.experiments.configuration import configure
from newsrex_nb.experiments.lists import expand_lists

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
PAGES = sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
BADGES = runpy.run_path(str(ROOT / ".ci/badges"))
SETTINGS = BADGES["settings"]()
AT = {BADGES["address"](page): page for page in PAGES}  # {where it stands on the site: page}
SITE, GITHUB = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"] + "/", f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}/"
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
NBDEV = re.compile(r"^#\|\s*(export|exporti|exports|hide|hide_line|default_exp|slow|gpu|download)\b", re.M)


def joined(text): return text if isinstance(text, str) else "".join(text)


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    "{page: cells} as Quarto gets them."
    folder = tmp_path_factory.mktemp("pages")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / ".ci")])}
    done = subprocess.run([sys.executable, str(ROOT / ".ci/pages.py"), str(folder)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return {page: json.loads((folder / page).read_text(encoding="utf-8"))["cells"] for page in PAGES}


def prose(cells):
    "Markdown of a page, written or returned by a cell, without its code."
    for cell in cells:
        texts = [joined(cell["source"])] if cell["cell_type"] == "markdown" else []
        texts += [joined(out.get("data", {}).get("text/markdown", "")) for out in cell.get("outputs", [])]
        for text in texts: yield re.sub(r"`[^`\n]*`", "`…`", re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.M | re.S))


FENCED = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.M | re.S)


def anchors(cells):
    "The ids that Pandoc gives to the headings of a page: a second one of a name gets a number, and a comment in code is no heading."
    found = []
    for cell in cells:
        for text in [joined(cell["source"])] * (cell["cell_type"] == "markdown") + [
                joined(out.get("data", {}).get("text/markdown", "")) for out in cell.get("outputs", [])]:
            text = FENCED.sub("", text)
            for heading, given in re.findall(r"^#+ +(.+?)\s*(\{[^}]*\})?$", text, re.M):
                if "#" in given: continue
                heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
                name = re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", heading)))
                again = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
                found.append(f"{name}-{again}" if again else name)
            found += re.findall(r"\{#([\w.-]+)", text)
    return {*found}


def test_pages_are_processed(processed):
    for page, cells in processed.items():
        head = yaml.safe_load(joined(cells[0]["source"]).strip().strip("-"))
        assert cells[0]["cell_type"] == "raw" and head["title"] and head["description"], page
        assert not any("\n" in value for value in head.values()), f"{page}: the title cell holds more than a title and a line"
        assert not anchors(cells) & {cell.get("id") for cell in cells}, f"{page}: a cell has the address of a heading"
        for text in prose(cells):
            assert not (match := re.search(r"\[\[`|^#+ +__\w+__", text, re.M)), f"{page}: {match[0]} is a link in a link, or read as bold"
        for cell in cells:
            text = joined(cell["source"])
            assert not (match := NBDEV.search(text)), f"{page}: {match[0]} is shown"
            assert not [o for o in cell.get("outputs", []) if o["output_type"] == "error"], page
            for out in cell.get("outputs", []):
                for fence in re.findall(r"^```.*?^```", joined(out.get("data", {}).get("text/markdown", "")), re.M | re.S):
                    assert "](" not in fence, f"{page}: a link in code is shown as text: {fence[:200]}"


def test_pages_ask_no_other_host(processed):
    "Quarto adds scripts of another host where an output is stored as HTML, and a picture elsewhere has to be asked for; diagrams are drawn on the site too."
    for page, cells in processed.items():
        for cell in cells:
            kinds = {kind for out in cell.get("outputs", []) for kind in out.get("data", {})}
            assert not kinds & {"text/html", "application/javascript"}, page
            assert not re.search(r"!\[[^\]]*\]\(https?:|<(?:img|script|link)[^>]+(?:src|href)=.?https?:", joined(cell["source"])), page
            assert "```mermaid" not in joined(cell["source"]), page


def test_long_sentences_are_wrapped(processed):
    "What a cell printed is not cut on the right where it is prose, and keeps its columns where it has some."
    asked = {cell["id"]: joined(cell["source"]).startswith("#| classes: sentences\n") for page in ("core.ipynb", "evaluate/slices.ipynb") for cell in processed[page] if cell["cell_type"] == "code"}
    assert asked["cell-wrong-test"] and not all(asked.values())
    cells = [cell for page in PAGES for cell in processed[page] if joined(cell["source"]).startswith("#| classes: sentences\n")]
    printed = ["".join(joined(out.get("text") or out.get("data", {}).get("text/plain", "")) for out in cell["outputs"]) for cell in cells]
    assert len(cells) > 50 and not [text for text in printed if re.search(r"^\S+ {3,}\S+ {3,}\S", text, re.M)]


LABEL = re.compile(r'"([^"\n]+)"|\[([^\]"\n]+)\]|\|([^|"\n]+)\|')


def hard_to_read(diagram):
    "What makes the letters of a diagram small, or the label unread: a row of boxes beside each other, a long line, a label that Markdown takes for a list."
    lines = [line for match in LABEL.findall(diagram) for line in "".join(match).split("<br>")]
    titles = re.findall(r'subgraph \w+ \["(.*<br>.*)"\]', diagram)  # there is room for one line above the boxes
    return [*re.findall(r"^(?:flowchart|graph) (?:LR|RL)", diagram), *titles, *(line for line in lines if len(line) > 36 or re.match(r"[-+*#] |\d+\. ", line))]


def test_diagrams_are_legible():
    for page in PAGES:
        for cell in json.loads((NBS / page).read_text(encoding="utf-8"))["cells"]:
            for diagram in re.findall(r"```mermaid\n(.*?)```", joined(cell["source"]), re.S) if cell["cell_type"] == "markdown" else ():
                assert not hard_to_read(diagram), page
    assert not hard_to_read('flowchart BT\n  A["words,<br>entities"] -->|clicked| B["user (B, D)"]')
    assert hard_to_read('flowchart BT\n  subgraph a ["two<br>lines"]\n  end')
    assert hard_to_read("flowchart LR\n  A --> B") and hard_to_read('flowchart BT\n  A["+ noise"]') and hard_to_read(f'flowchart BT\n  A["{"word " * 9}"]')


def contrast(one, other):
    "The ratio of two colours, as WCAG 2 defines it."
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts))
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart(theme):
    "Letters against what they stand on, at least 4.5 to one, in both themes."
    assert round(contrast("#ffffff", "#000000"), 6) == 21 and round(contrast("#767676", "#ffffff"), 2) == 4.54
    text = (NBS / f"{theme}.scss").read_text(encoding="utf-8")
    colour = {**dict(re.findall(r"^\$([\w-]+): (#\w{6})", text, re.M)), **dict(re.findall(r"(--nr-\w+): (#\w{6})", text))}
    grounds = {"body-bg": ["body-color", "link-color", "--nr-quiet"], "code-bg": ["code-color"], "code-block-bg": ["code-color"], "navbar-bg": ["navbar-fg"], "sidebar-bg": ["body-color", "link-color"],
               "--nr-output": ["body-color"], "mermaid-node-bg-color": ["mermaid-label-fg-color"], "mermaid-label-bg-color": ["mermaid-label-fg-color"], "mermaid-fg-color--lightest": ["mermaid-label-fg-color"]}
    for ground, letters in grounds.items():
        for letter in letters: assert contrast(colour[ground], colour[letter]) >= 4.5, (theme, ground, letter)
    if theme == "light": return
    path, written = re.search(r"^(\.breadcrumb [^{]*)\{ color: (#\w{6})", text, re.M).groups()
    assert contrast(colour["body-bg"], written) >= 4.5 and "li.breadcrumb-item:last-of-type a" in path, "Bootstrap dims the last link of the path above a title"


DIRECTIVES = re.compile(r"(?:#\|[^\n]*\n)+")  # Quarto reads them at the top of a cell only
PICTURE = re.compile(r"!\[([^\]]*)\]\(|<img\b([^>]*)>")


def without_alt(cell):
    "What a cell shows to those only who see it: pictures without a sentence that says what is in them."
    source = joined(cell["source"])
    if cell["cell_type"] == "markdown":
        return [match[0] for match in PICTURE.finditer(source) if not (match[1] or re.search(r"\balt=.\S", match[2] or ""))]
    pictures = [kind for out in cell.get("outputs", []) for kind in out.get("data", {}) if kind.startswith("image/")]
    top = DIRECTIVES.match(source)
    alt = re.search(r'^#\| fig-alt: "([^"\n]{30,})"$', top[0], re.M) if top else None
    return [] if not pictures or alt and len(pictures) == 1 else pictures


def test_pictures_have_alt_text(processed):
    "A sentence for each, also in the form in which Quarto gets the page; a cell with two pictures has one sentence too few."
    for page, cells in processed.items():
        stored = json.loads((NBS / page).read_text(encoding="utf-8"))["cells"]
        assert not [(cell.get("id"), found) for cell in [*stored, *cells] if (found := without_alt(cell))], page
    drawn = dict(cell_type="code", source="plt.plot([1, 2]);", outputs=[dict(data={"image/png": ""})])
    assert without_alt(drawn) and without_alt(dict(drawn, source='plt.plot([1, 2]);\n#| fig-alt: "A line that rises from one to two on the left."'))
    assert without_alt(dict(cell_type="markdown", source="![](a.png)")) and not without_alt(dict(cell_type="markdown", source="![A line](a.png)"))


def public_names(text):
    "The public classes and functions of a module; a method that a cell adds to a class as `Class.method`."
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        owners = [d.args[0].id for d in node.decorator_list if isinstance(d, ast.Call) and getattr(d.func, "id", "") == "patch_to"]
        name = ".".join([*owners, node.name])
        if not any(part.startswith("_") for part in name.split(".")): yield name


def test_pages_show_what_they_export(processed):
    "Every public function and class has its documentation, a link to its own source, and the source itself under it."
    modules = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "newsrex_nb").rglob("*.py")}
    for page in (p for p in PAGES if f"newsrex_nb/{p[:-6]}.py" in modules):
        module = f"newsrex_nb/{page[:-6]}.py"
        under = joined(processed[page][1]["source"])
        assert f"`newsrex_nb.{page[:-6].replace('/', '.')}`" in under, f"{page} does not show its module's name"
        shown = {}
        for cell in processed[page]:
            for text in (joined(out.get("data", {}).get("text/markdown", "")) for out in cell.get("outputs", [])):
                if "[source](" in text: shown[re.search(r"^### (\S+)", text, re.M)[1]] = re.search(r"\[source\]\(([^)#]+)#L(\d+)\)", text)
        public = [*public_names(modules[module])]
        assert not [name for name in public if name not in shown and "." not in name], page
        source = "\n".join(joined(c["source"]) for c in processed[page] if c["cell_type"] == "code")
        for name in public:
            own = name.rpartition(".")[2]
            assert re.search(rf"^(def|class) {own}\b", source, re.M), f"{page} does not show the code of {name}"
            if "." in name: continue  # a method stands under its sentence, without a signature of its own
            url, line = shown[name].groups()
            assert url == GITHUB + module and re.match(rf"(@|(def|class) {name}\b)", modules[module].split("\n")[int(line) - 1]), (page, name)


def broken(url, page, found):
    "What is wrong with a link of a page, or nothing; `found` gives the anchors of a page."
    if url.startswith(GITHUB):
        path, _, line = url.removeprefix(GITHUB).partition("#L")
        return not (ROOT / path).exists() or line and int(line) > len((ROOT / path).read_text(encoding="utf-8").split("\n"))
    if url.startswith(SITE):
        target, _, anchor = url.removeprefix(SITE).partition("#")
        target = AT.get(target or "index.html", target)
    elif re.match(r"[a-z]+:", url): return False
    else:
        target, _, anchor = url.partition("#")
        path = (NBS / page).parent / target if target else (NBS / page)
        if path.suffix == ".md" and path.exists() and anchor:
            return anchor not in anchors([dict(cell_type="markdown", source=path.read_text(encoding="utf-8"))])
        if path.suffix != ".ipynb" or not path.exists(): return not path.exists()
        target = path.resolve().relative_to(NBS).as_posix()
    if target not in PAGES: return True
    return bool(anchor) and anchor not in found(target)


def test_links_and_images(processed):
    found, checked, bad = functools.cache(lambda page: anchors(processed[page])), 0, []
    for page, cells in processed.items():
        for text in prose(cells):
            for url in (a or b for a, b in LINK.findall(text)):
                checked += 1
                if broken(url, page, found): bad.append((page, url))
    for name in ("README.md", "CONTRIBUTING.md"):
        for url in (a or b for a, b in LINK.findall((ROOT / name).read_text(encoding="utf-8"))):
            if broken(url, f"../{name}", found): bad.append((name, url))
    assert checked > 500 and not bad
    assert broken("nothing.ipynb", "index.ipynb", found) and broken(SITE + "core.html#nothing", "index.ipynb", found)
    assert broken(SITE + "data/schema.html#dataset.hour", "index.ipynb", found) and broken("../CONTRIBUTING.md#nothing", "index.ipynb", found)
    code = dict(cell_type="markdown", source="# One\n\n```\n# a comment\n```\n\n## One\n\n## Two {#second}")
    assert anchors([code]) == {"one", "one-1", "second"}


def cells_of(page): return {c["id"]: c for c in json.loads((NBS / page).read_text(encoding="utf-8"))["cells"]}


def test_table_of_models(monkeypatch):
    "The landing page shows what classes, pages, presets and results say now."
    cells, names = cells_of("index.ipynb"), {}
    monkeypatch.chdir(NBS)
    body = [node for name in ("hidden-imports", "picture", "models-table") for node in ast.parse(joined(cells[name]["source"])).body]
    *body, table = [node for node in body if "seed_figure(" not in ast.unparse(node)]  # the table needs no picture
    exec(compile(ast.Module(body, []), "index", "exec"), names)
    now = eval(compile(ast.Expression(table.value), "index", "eval"), names).data
    stored = joined(cells["models-table"]["outputs"][0]["data"]["text/markdown"])
    assert now == stored, "execute nbs/index.ipynb, then .ci/readme"


def test_practice():
    "Every model's page says what its recipe reached."
    practice = runpy.run_path(str(ROOT / ".ci/practice"))
    every = practice["read"]()
    for name, path in practice["pages"]().items():
        cells = cells_of(f"models/{path.name}")
        assert f"preset=good/{name.lower()}" in joined(cells["in-practice"]["source"]), name
        assert joined(cells["in-practice-numbers"]["source"]) == practice["table"](name, every), "run .ci/practice"


def test_reference():
    "The tables of public names say what the modules say, and no name is missing."
    reference = runpy.run_path(str(ROOT / ".ci/reference"))
    assert not reference["astray"](), "give each name that a package hands on a place in GROUPS of .ci/reference"
    assert reference["PAGE"].read_text(encoding="utf-8") == reference["written"](), "run .ci/reference"


def test_glossary_says_a_word_once():
    "A word has one line, whatever table it stands in."
    lines = "\n".join(joined(cell["source"]) for cell in cells_of("glossary.ipynb").values()).split("\n")
    words = [word.lower() for line in lines if line.startswith("| **") for word in re.findall(r"\*\*([^*]+)\*\*", line.split(" | ")[0])]
    assert len(words) > 90 and not [word for word in words if words.count(word) > 1]


def shell_lines(page):
    "The words of each line `newsrex …` that stands in a block of its own on a page, without comments."
    for cell in cells_of(page).values():
        blocks = re.findall(r"^``` ?\w*\n(.*?)^```", joined(cell["source"]), re.M | re.S) if cell["cell_type"] == "markdown" else ()
        for line in "".join(blocks).replace("\\\n", " ").split("\n"):
            if line.startswith("newsrex "): yield shlex.split(line, comments=True)[1:]


def unknown_keys(command, words):
    "Keys of a line that its command would refuse; those of `train` raise."
    if command == "train":
        for overrides, _ in expand_lists(*(bracketed(word) for word in words if not word.startswith("trials="))): configure(*overrides)
        return []
    known = COMMANDS[command].__doc__ + " ".join(f"{key}=" for key in inspect.signature(bench).parameters)
    return [key for key, equals, _ in (word.partition("=") for word in words) if equals and not key.startswith("data.") and f"{key}=" not in known]


@pytest.mark.parametrize("page", ["index.ipynb", "questions.ipynb"])
def test_shell_lines_are_understood(page):
    "What a page tells somebody to type has commands and keys that there are."
    lines = [line for line in shell_lines(page) if not any("my_" in word for word in line)]
    assert len(lines) > 15 and not [line for line in lines if unknown_keys(line[0], line[1:])]
    with pytest.raises(InputError, match="perhaps epochs is meant"): unknown_keys("train", ["recipe.epoch=3"])
    assert unknown_keys("compare", ["runs/", "slice=true"]) == ["slice"]


SECTIONS = ["The idea", "The model", "Run it", "What differs", "In practice", "Results", "Exercises"]
PAPERS = [page for page in PAGES if page.startswith("models/") and Path(page).stem not in ("base", "forward", "weights")]


@pytest.mark.parametrize("page", PAPERS)
def test_model_pages_have_one_order(page):
    "The problem and a figure, then the same sections for every model, and nothing else at their level."
    cells = [cell for cell in json.loads((NBS / page).read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]
    ids, texts = [cell["id"] for cell in cells], [joined(cell["source"]) for cell in cells]
    heads = [re.findall(r"^## +(.+?) *$", FENCED.sub("", text), re.M) for text in texts]
    assert sum(heads, []) == SECTIONS
    before = ids[: next(at for at, found in enumerate(heads) if found)]
    assert "problem" in before and "```mermaid" in "".join(texts[: len(before)])
    practice = ids.index("in-practice")
    assert ids[practice : practice + 3] == ["in-practice", "in-practice-numbers", "memory-md"]
    assert texts[-1].count("<details>") == 2


def test_citation():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    text = joined(cells_of("index.ipynb")["cite"]["source"])
    for key, value in (("title", cff["title"]), ("version", cff["version"]), ("url", cff["repository-code"])): assert f"{key} = {{{value}}}" in text
    assert cff["repository-code"] == SETTINGS["git_url"] and cff["url"].rstrip("/") + "/" == SITE
    for page in PAGES:  # one place decides where the package is installed from
        found = re.findall(r"(?:git\+|git clone -q --depth 1 )(https?://[^\s\"'`\\)]+)", (NBS / page).read_text(encoding="utf-8"))
        assert set(found) <= {SETTINGS["git_url"]}, page


def test_configuration():
    "Everything that the site's configuration names is there, and says what settings.ini says."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    html = config["format"]["html"]
    themes = [part for mode in ("light", "dark") for part in html["theme"][mode] if part.endswith(".scss")]
    assert themes and all((NBS / name).is_file() for name in [*themes, html["css"]])
    assert all("/*-- scss:" in (NBS / name).read_text(encoding="utf-8") for name in themes)
    links = [tool["href"] for tool in config["website"]["navbar"]["tools"]]
    assert SETTINGS["git_url"] in links and config["website"]["search"] and html["html-math-method"] == "mathml"
    assert "run: .ci/site\n" in (ROOT / ".github/workflows/site.yml").read_text(), "which says where .ci/pages.py is found"
    assert all((NBS / config["website"][name]).is_file() for name in ("favicon", "image")) and config["website"]["description"]
    assert html["code-overflow"] == "wrap" and "svg.mermaid-js" in html["include-after-body"]["text"], "which gives a diagram the width at which it can be read"
    # a file of ours with the name of one of Bootstrap's would be read in its place
    partials = {"alert", "badge", "card", "close", "code", "dropdown", "forms", "grid", "images", "mixins", "modal", "nav", "navbar", "tables", "type", "utilities", "variables"}
    assert not partials & {path.stem.lstrip("_") for path in NBS.rglob("*.scss")}


def test_pages_state_their_memory(processed):
    "The largest batch on a model's page is the one that was measured."
    files = {p.stem: p for p in (ROOT / "results/bench/memory").glob("*.json")}
    papers = {Path(page).stem for page in PAGES if page.startswith("models/")} - {"base", "forward", "weights"}
    assert not papers - files.keys(), "measure them (six minutes each, the command stands in .ci/memory), then run .ci/memory"
    assert not files.keys() - papers, "remove the files of models that are gone"
    for name, path in files.items():
        text = " ".join(map(joined, (c["source"] for c in processed[f"models/{name}.ipynb"])))
        assert memory_sentence(json.loads(path.read_text())) in text, f"run .ci/memory: {name} says something else than {path.name}"
