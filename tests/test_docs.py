"The pages beside the notebooks: links, terms, paper ids and error messages are those of the repository"
import html, importlib.util, json, re
from functools import lru_cache
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parent.parent
PAGES = ["docs/results.md", "docs/glossary.md", "docs/papers.md", "docs/troubleshooting.md", "CONTRIBUTING.md"]
NOTEBOOKS = sorted((ROOT/"nbs").rglob("[!.]*.ipynb"))

@lru_cache
def text_of(path): # a notebook's sources
    return "\n\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
def sections(path): return {h.strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text_of(path), re.M)}
def links(page): return re.findall(r"\]\(((?!http)[^)#\s]+)#?([^)\s]*)\)", (ROOT/page).read_text())

@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for path, section in links(page):
        at = (ROOT/page).parent/path; assert at.exists(), path
        if section: assert section in sections(at.resolve()), f"{path} has no section {section!r}"

def test_glossary():
    entries = re.findall(r"^\*\*(.+?)\*\*\. (.+?) \[(\w+)\]\((\S+)\)$", (ROOT/"docs/glossary.md").read_text(), re.M)
    terms = [e[0].lower() for e in entries]
    assert len(entries) >= 50 and terms == sorted(set(terms)) and len(entries) == (ROOT/"docs/glossary.md").read_text().count("\n**")
    for term, said, name, link in entries: assert name == Path(link.partition("#")[0]).stem and "#" in link and 20 < len(said) < 330, term

def test_papers_are_those_of_the_notebooks():
    page, named = (ROOT/"docs/papers.md").read_text(), set()
    for name, id, path in re.findall(r"^\| \[([^\]]+)\]\(https://arxiv.org/abs/(\d{4}\.\d{5})\) \(\2\) \|.*\]\(([^)#]+)#", page, re.M): assert id in text_of((ROOT/"docs"/path).resolve()), f"{name}: {id} is not named in {path}"; named.add(id)
    assert len(named) >= 25
    for nb in NOTEBOOKS:
        for id in re.findall(r"(?:arXiv |arxiv.org/abs/)(\d{4}\.\d{5})", text_of(nb)): assert id in page, f"{nb.name} names {id}, docs/papers.md does not"

def test_messages_are_really_raised():
    theirs = {"EGLError", "operator torchvision::nms does not exist", "get_joint_qpos_addr", "MUJOCO_GL", "settings.ini", "nbdev_export", "make fresh", "position_ids"}       # of other packages; commands and names
    source = "\n".join(p.read_text() for p in [*(ROOT/"reasonflow").glob("*.py"), ROOT/"Makefile", ROOT/"colab"/"generate.py", *NOTEBOOKS]).replace("\\`", "`").replace('\\"', '"')
    rows = re.findall(r"^\| (?!what you see|-)(.*?) \| ", (ROOT/"docs/troubleshooting.md").read_text(), re.M); seen = 0
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            if message in theirs: continue
            for part in filter(None, (p.strip(" '") for p in message.split("…"))): assert part in source, f"nothing says {part!r} ({message})"; seen += 1
    assert len(rows) >= 35 and seen >= 25

def test_citation_agrees_with_settings():
    settings = dict(re.findall(r"^(\w+) = (.*)$", (ROOT/"settings.ini").read_text(), re.M)); cff = (ROOT/"CITATION.cff").read_text()
    for line in (f"version: {settings['version']}", f"repository-code: {settings['git_url']}", "license: Apache-2.0", f"  - name: {settings['author']}"): assert f"\n{line}\n" in cff, line

@lru_cache
def ids_of(page): return {html.unescape(b or c) for b, c in re.findall(r"\bid=(?:\"([^\"]+)\"|'([^']+)')", page.read_text())}

@pytest.mark.slow
def test_pages_are_built_and_their_links_lead_somewhere(tmp_path):
    spec = importlib.util.spec_from_file_location("build", ROOT/"docs"/"build.py"); build = importlib.util.module_from_spec(spec); spec.loader.exec_module(build)
    to = build.build(tmp_path/"site"); made = sorted(to.rglob("*.html"))
    assert len(made) == len(NOTEBOOKS) + len(build.PAGES) + 1
    for page in made:
        body = page.read_text()
        for target in re.findall(r"<(?:a|img|link)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)", body):
            at, _, part = target.partition("#")
            if re.match(r"[a-z]+:|//", at): continue
            assert not at or (page.parent/at).is_file(), f"{page.name}: {target}"
            if part and at.endswith(".html"): assert html.unescape(part) in ids_of(page.parent/at), f"{page.name}: {target}"
        if page.parent.name != "docs" and page.stem in build.colab.STAGES: assert build.colab.colab_url(page.stem) in body and "<img" in body and "#| export" not in body
