"""What nbdev does to a notebook before Quarto renders it, with nine changes: the module's name stands under the title, a page shows the
code it exports, tables and diagrams stand as Quarto draws them without another host, a name that several modules have links to the one that is meant, a method to its class, a name that the author
linked to where the author says, signatures stand as the code has them, with `*` and comments, without links, which would be shown as text, and without types guessed from defaults, a heading such as `__repr__` is not
read as bold, and long sentences of an output are wrapped. settings.ini names `changed` under `procs`, so whatever processes pages needs this folder in
PYTHONPATH. `python .ci/pages.py FOLDER` processes all pages without Quarto, to look at them or to test them."""
import ast
import functools
import gc
import re
import sys
import textwrap
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _lineno
from execnb.nbio import mk_cell
from nbdev.process import Processor

IMPORTS = (ast.Import, ast.ImportFrom)


def is_setup(cell):
    "Whether a cell is the `default_exp` or holds exported imports, so that it says nothing to a reader."
    if cell.cell_type != "code": return False
    if "default_exp" in cell.directives_: return True
    return "export" in cell.directives_ and all(isinstance(node, IMPORTS) for node in ast.parse(cell.source).body)


def defined(tree, name):
    "The syntax tree of a function, class or method; a method may stand in its class or under `@patch_to(Class)`."
    owner, _, name = name.rpartition(".")
    patched = lambda node: any(isinstance(d, ast.Call) and ast.unparse(d) == f"patch_to({owner})" for d in getattr(node, "decorator_list", ()))
    inside = next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner), []) if owner else tree.body
    nodes = [*inside, *(node for node in tree.body if owner and patched(node))]
    return next((node for node in nodes if getattr(node, "name", None) == name), None)


@functools.cache
def read(path):
    "The text of a module and its syntax tree, which all signatures of its page need."
    source = Path(path).read_text(encoding="utf-8")
    return source, ast.parse(source)


def signature(path, name):
    "How a function or the making of a class is written: its lines up to the body, without `def` and `self`; None where there are none."
    source, tree = read(path)
    node, title = defined(tree, name), name
    if isinstance(node, ast.ClassDef): node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef): return None
    text = textwrap.dedent("\n".join(source.split("\n")[node.lineno - 1 : node.body[0].lineno - 1])).rstrip()
    text = re.sub(r"(\)(?: -> [^:\n]+)?):(\s*#[^\n]*)?\Z", r"\1\2", text)
    return re.sub(r"\Adef \w+\((\s*)(?:(?:self|cls)(?:,\s*|(?=\))))?", lambda m: f"{title}({m[1]}", text)


def badge(text):
    "A picture that is a link, without the caption that Quarto gives to a picture alone in its paragraph."
    return re.sub(r"\A\[!\[([^\]]+)\]\(([^)]+)\)\]\(([^)]+)\)\Z", r'<p><a href="\3"><img src="\2" alt="\1"></a></p>', text.strip()) if text.startswith("[![") else text


def legible(text):
    "Markdown with headings of `__names__` as they are written, which would else be bold."
    return re.sub(r"^(#+ )__(\w+)__", r"\1\_\_\2\_\_", text, flags=re.M)


def has_sentences(cell):
    "Whether what a cell printed is longer than a line of code and prose, in which nothing is aligned."
    shown = [out for out in cell.get("outputs", []) if not {"text/markdown", "text/html", "image/png"} & {*out.get("data", ())}]
    printed = "\n".join("".join(out.get("text") or out.get("data", {}).get("text/plain", "")) for out in shown)
    return any(len(line) > 88 for line in printed.split("\n")) and not re.search(r"\S {2,}\S", printed)


class changed(Processor):
    "Source under its documentation, and links of ambiguous names mended."
    def begin(self):
        written = [re.search(r"default_exp (\S+)", c.get("source") or "") for c in self.nb.cells]
        self.module = "newsrex_nb." + next((found[1] for found in written if found), "")
        self.site = re.escape(get_config().doc_host + get_config().doc_baseurl)
        self.symbols = NbdevLookup().entries["newsrex_nb"]["syms"] # {module: {qualified name: (page, file, source)}}
        self.nb.cells[:] = [c for c in self.nb.cells if not (c.get("source") is not None and is_setup(c))]
        cells = self.nb.cells
        for cell in cells:  # a cell of the name of a function would have the address of the function's heading
            if cell.get("id"): cell["id"] = f"cell-{cell['id']}"
            if cell.cell_type == "code" and has_sentences(cell): cell["source"] = "#| classes: sentences\n" + cell.source
        if self.module != "newsrex_nb.": cells.insert(1, mk_cell(f"`{self.module}`", "markdown"))
        for at in reversed(range(len(cells))):
            if cells[at].cell_type != "code" or "export" not in cells[at].directives_: continue
            cells[at]["source"] = '#| code-fold: show\n#| code-summary: "Source"\n' + cells[at].source
            behind = at + 1
            while behind < len(cells) and getattr(cells[behind], "has_sd", 0): behind += 1
            cells.insert(behind - 1, cells.pop(at))

    def cell(self, cell):
        if cell.cell_type == "markdown": cell["source"] = badge(self.linked(legible(cell.source))).replace("```mermaid\n", "```{mermaid}\n")
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "text/html" in data:  # as Markdown, since Quarto lets a page with HTML outputs ask another host for scripts
                data["text/markdown"] = f"```{{=html}}\n{''.join(data.pop('text/html'))}\n```"
            if "text/markdown" not in data: continue
            lines = [self.linked(legible(line)) for line in ([data["text/markdown"]] if isinstance(data["text/markdown"], str) else data["text/markdown"])]
            if getattr(cell, "has_sd", 0): lines = [self.sourced("".join(lines), cell.source.rpartition("show_doc(")[2].rstrip(")"))]
            data["text/markdown"] = "".join(lines)

    def sourced(self, text, name):
        "The documentation of a name: its source is this page's, and code holds no links."
        _, path, source = self.symbols[self.module][f"{self.module}.{name}"]
        text = re.sub(r"\[source\]\([^)]*\)", f"[source]({source}#L{_lineno(name, path)})", text)
        written = signature(path, name)
        if written is None: return re.sub(r"```python\n.*?\n```", lambda m: re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", m[0]), text, flags=re.S)
        return re.sub(r"```python\n.*?\n```", lambda m: f"```python\n{written}\n```", text, flags=re.S)

    def linked(self, text):
        """A link of a name that several modules have goes to this page, if it is one of them, and else nowhere; that of a method goes to its
        class, since a method has no heading of that name; a name inside a link of the author's has no second one."""
        def mended(match):
            homes = [m for m, names in self.symbols.items() if f"{m}.{match[2]}" in names]
            if len(homes) < 2: return match[0]
            return f"[{match[1]}]({self.symbols[self.module][f'{self.module}.{match[2]}'][0]})" if self.module in homes else match[1]
        text = re.sub(rf"\[\[(`[^`\n]+`)\]\({self.site}/[^)]*\)\]\(", r"[\1](", text)
        text = re.sub(rf"(\]\({self.site}/[^)#\s]*#\w+)\.\w+\)", r"\1)", text)
        return re.sub(rf"\[(`(\w+)(?:\(\))?`)\]\({self.site}/[^)]*\)", mended, text)


def build(folder):
    "All pages, processed into a folder."
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import main
    from notebooks import end_at_once
    end_at_once()
    gc.set_threshold(100_000, 50, 100)  # a quarter of the time went into looking for garbage, of which there is little
    root = Path(__file__).resolve().parents[1] / "nbs"
    for page in sorted(root.rglob("*.ipynb")):
        if any(part.startswith(".") for part in page.relative_to(root).parts): continue
        to = Path(folder) / page.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        main((page, to, FilterDefaults))


if __name__ == "__main__": build(sys.argv[1])
