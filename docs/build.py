"""All notebooks and pages as HTML in `_docs/`, with one index: `python docs/build.py` (or `make docs`). Nothing is run; what a page shows are the outputs that lie in its notebook."""
import argparse, base64, html, importlib.util, logging, os, re, shutil
from pathlib import Path
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("generate", ROOT/"colab"/"generate.py"); colab = importlib.util.module_from_spec(spec); spec.loader.exec_module(colab)
logging.getLogger("traitlets").setLevel(logging.ERROR)          # it would ask for a description of every figure
FOUNDATIONS = ("world", "waypoints", "records", "backbone", "rewards", "episodes", "evaluate", "runs", "plan", "stream", "hub")      # in the order in which they are needed
NOTEBOOKS = {"The stages": [f"nbs/{n}.ipynb" for n in (*colab.STAGES, "09_demo")], "The foundations": [f"nbs/foundations/{n}.ipynb" for n in FOUNDATIONS], "Tools": [f"nbs/{n}.ipynb" for n in ("cli", "bench", "launch")]}
PAGES = {"README.md": "ReasonFlow", "docs/results.md": "Results", "docs/your-data.md": "Your data", "docs/gpu.md": "A GPU", "docs/glossary.md": "Glossary", "docs/papers.md": "Papers", "docs/troubleshooting.md": "Troubleshooting", "docs/benchmarks.md": "Benchmarks", "CONTRIBUTING.md": "Contributing"}

STYLE = """body{font:16px/1.55 system-ui,sans-serif;color:#222;max-width:58rem;margin:0 auto;padding:0 1.2rem 4rem} a{color:#1a5fb4;text-decoration:none} a:hover{text-decoration:underline}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:.9rem 0;border-bottom:1px solid #ddd;font-size:.92rem} nav .right{margin-left:auto} h1{font-size:1.9rem;line-height:1.2;margin:1.6rem 0 .6rem} h2{margin-top:2.4rem;border-top:1px solid #e5e5e5;padding-top:1.1rem}
img{max-width:100%;height:auto} blockquote{margin:.4rem 0 1rem;padding:0;color:#555;font-size:1.1rem} pre{font:13px/1.45 ui-monospace,monospace;background:#f7f7f7;padding:.6rem .8rem;overflow-x:auto;border-radius:4px;margin:.5rem 0} code{font:.9em ui-monospace,monospace;background:#f4f4f4;padding:0 .2em} pre code{background:none;padding:0}
.jp-OutputArea pre,.out pre{background:none;padding:.1rem .8rem;color:#444;white-space:pre-wrap} .anchor-link,.prompt,.jp-InputPrompt,.jp-OutputPrompt{display:none} table{border-collapse:collapse;font-size:.92rem;display:block;overflow-x:auto} td,th{padding:.25rem .7rem .25rem 0;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top}
details{margin:.5rem 0} summary{cursor:pointer;color:#666;font-size:.9rem} .cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem} .card{border:1px solid #e2e2e2;border-radius:6px;overflow:hidden} .card img{width:100%;height:9rem;object-fit:cover;object-position:left top;display:block;border-bottom:1px solid #eee} .card div{padding:.6rem .8rem .8rem} .card b{display:block} .card span{font-size:.9rem;color:#555}"""

def page_of(path): # path in the repository to a path in `_docs/`
    return path.removeprefix("nbs/").replace("README.md", "readme.md").removesuffix(".ipynb").removesuffix(".md") + ".html" if path.endswith((".ipynb", ".md")) else path

def shell(out, title, body, right=""):
    up = "../"*out.count("/"); mine = [(page_of(p), name) for p, name in PAGES.items() if p != "README.md"]
    links = "".join(f"<a href='{up}{at}'>{name}</a>" for at, name in [("index.html", "ReasonFlow"), ("readme.html", "Read me"), *mine])
    math = "<script>MathJax={tex:{inlineMath:[['$','$']]}}</script><script async src='https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js'></script>" if re.search(r"\$[^$\n]+\$", re.sub(r"<pre.*?</pre>", "", body, flags=re.S)) else ""
    return f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{html.escape(title)}</title><link rel=stylesheet href='{up}style.css'>{math}<nav>{links}<span class=right>{right}</span></nav>{body}</html>"

def relink(body, source, out, pages, copied):
    "Relative links: to a page that is made here, to a picture that is copied, or to the repository"
    def one(m):
        before, quote, target = m.groups(); at, _, part = html.unescape(target).partition("#")
        if not at or re.match(r"[a-z]+:|//", at): return m[0]
        path = os.path.normpath(Path(source).parent/at)
        if not (ROOT/path).exists(): raise FileNotFoundError(f"{source} links to {path}, which is not there")
        if path in pages: to = os.path.relpath(page_of(path), Path(out).parent)
        elif path.endswith((".png", ".jpg", ".mp4")): copied.add(path); to = os.path.relpath(path, Path(out).parent)
        else: to = f"{colab.GIT}/{'tree' if (ROOT/path).is_dir() else 'blob'}/{colab.BRANCH}/{path}"
        return f"{before}{quote}{html.escape(to)}{'#' + part if part else ''}{quote}"
    return re.sub(r"(<(?:a|img)\b[^>]*?\b(?:href|src)=)([\"'])([^\"']*)\2", one, body)

def picture_of(nb): # its first picture: bytes, ending
    for c in nb.cells:
        if c.cell_type == "markdown" and (m := re.search(r"!\[[^\]]*\]\(([^)]+)\)", c.source)): return (ROOT/"nbs"/m[1]).read_bytes(), m[1].rsplit(".", 1)[1]
        for o in c.get("outputs", []):
            for kind, ending in (("image/jpeg", "jpg"), ("image/png", "png")):
                if kind in o.get("data", {}): return base64.b64decode(o["data"][kind]), ending

def notebook_body(nb): # HTML; library code is folded, housekeeping left out
    exporter, parts = HTMLExporter(template_name="basic"), []
    for c in nb.cells:
        first = c.source.split("\n")[0]
        if re.match(r"#\| (hide|default_exp)", first): continue
        folded = "#| export" in c.source and c.cell_type == "code"
        names = re.findall(r"^(?:def|class) (\w+)|^([A-Z]\w+)(?: =|,)", c.source, re.M) if folded else []
        c = nbformat.from_dict({**c, "source": re.sub(r"^#\| .*\n", "", c.source, flags=re.M)})
        body, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[c]))
        parts.append(f"<details><summary>library: {', '.join(a or b for a, b in names) or 'imports'}</summary>{body}</details>" if folded else body)
    return "\n".join(parts)

def build(to=ROOT/"_docs"): # folder
    to = Path(to); shutil.rmtree(to, ignore_errors=True); to.mkdir(parents=True)
    pages, copied, cards = [*sum(NOTEBOOKS.values(), []), *PAGES], set(), []
    (to/"style.css").write_text(STYLE + "\n" + HtmlFormatter(style="friendly").get_style_defs(".highlight").replace("background: #f0f0f0", "background: none"))
    def write(out, text): (to/out).parent.mkdir(parents=True, exist_ok=True); (to/out).write_text(text)
    for source, title in PAGES.items():
        out = page_of(source)
        write(out, shell(out, title, relink(markdown2html(re.sub(r"<!--.*?-->", "", (ROOT/source).read_text())), source, out, pages, copied)))
    for group, sources in NOTEBOOKS.items():
        cards.append(f"<h2>{group}</h2><div class=cards>")
        for source in sources:
            nb, out, name = nbformat.read(ROOT/source, 4), page_of(source), Path(source).stem
            title, said = re.match(r"# (.*)\n\n> (.*)", nb.cells[0].source).groups()
            right = f"<a href='{colab.colab_url(name)}'>open in Colab</a> · " if name in colab.STAGES else ""
            write(out, shell(out, title, relink(notebook_body(nb), source, out, pages, copied), right + f"<a href='{colab.GIT}/blob/{colab.BRANCH}/{source}'>{source}</a>"))
            thumb = ""
            if shot := picture_of(nb): at = f"pictures/{name}.{shot[1]}"; (to/at).parent.mkdir(exist_ok=True); (to/at).write_bytes(shot[0]); thumb = f"<img src='{at}' alt='' loading=lazy>"
            cards.append(f"<a class=card href='{out}'>{thumb}<div><b>{html.escape(title)}</b><span>{html.escape(said.replace('`', ''))}</span></div></a>")
        cards.append("</div>")
    for path in copied: (to/path).parent.mkdir(parents=True, exist_ok=True); shutil.copy(ROOT/path, to/path)
    about = markdown2html(re.search(r"^# ReasonFlow\n\n(.*?)\n\n", (ROOT/"README.md").read_text(), re.S)[1])
    write("index.html", shell("index.html", "ReasonFlow", f"<h1>ReasonFlow</h1>{about}<p>Each page below is a notebook as it lies in the repository, with the outputs of its last good run; library code is folded.</p>{''.join(cards)}"))
    return to

if __name__ == "__main__":
    p = argparse.ArgumentParser(description="The documentation as HTML"); p.add_argument("--to", default=ROOT/"_docs", help="folder; it is made anew"); to = build(p.parse_args().to)
    print(f"{sum(1 for _ in to.rglob('*.html'))} pages, {sum(f.stat().st_size for f in to.rglob('*') if f.is_file())/2**20:.0f} MB: {os.path.relpath(to/'index.html')}")
