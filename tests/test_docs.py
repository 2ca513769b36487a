"The pages beside the notebooks: links, terms, paper ids and error messages are those of the repository"
import html, importlib.util, json, re, shlex
from functools import lru_cache
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/results.md", "docs/your-data.md", "docs/gpu.md", "docs/glossary.md", "docs/papers.md", "docs/troubleshooting.md", "CONTRIBUTING.md", "assets/results/README.md"]
NOTEBOOKS = sorted((ROOT/"nbs").rglob("[!.]*.ipynb"))

@lru_cache
def text_of(path): # a notebook's sources
    return "\n\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
def sections(path): # of a notebook; of a page as GitHub names them
    if path.suffix == ".md": return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", path.read_text(), re.M)}
    return {h.strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text_of(path), re.M)}
def links(page): return [(path or Path(page).name, section) for path, section in re.findall(r"\]\(((?!http)[^)#\s]*)#?([^)\s]*)\)", (ROOT/page).read_text())]

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

# What a reader may type

def lines_of(text): # shell commands in code blocks and spans
    blocks = re.findall(r"^ *```(?:bash)?\n(.*?)^ *```", text, re.M | re.S); spans = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))
    return [part.strip() for line in [*"\n".join(blocks).replace("\\\n", " ").split("\n"), *spans] if not line.lstrip().startswith("#") for part in re.split(r"&&|;\s(?=reasonflow|make)|\|", line)]

def wrong_with(line): # what the command line's own parser says, or None; nothing is run
    import click, typer
    from reasonflow.cli import app
    try: name, *words = shlex.split(line, comments=True)[1:]
    except ValueError as e: return str(e)
    group = typer.main.get_command(app)
    if name == "--help" or name.isupper(): return None                # COMMAND stands for any
    if name not in group.commands: return f"no command {name!r}"
    if not words: return None                                        # it is only named
    try: group.commands[name].make_context(name, words)
    except click.exceptions.Exit: return None                        # --help
    except Exception as e:                                           # typer may bring its own click
        if type(e).__name__ in ("MissingParameter", "NoSuchOption", "BadParameter", "UsageError", "BadArgumentUsage", "BadOptionUsage"): return e.format_message()
        raise

def test_the_check_of_commands_can_fail():
    for line, words in (("reasonflow dance", "no command"), ("reasonflow eval --chekpoint tiny-sft", "No such option"), ("reasonflow couple DIR --part policy", "--demos"), ("reasonflow eval --checkpoint x --episodes many", "integer"), ("reasonflow push tiny-sft", "REPO")): assert words.lower() in (wrong_with(line) or "").lower(), line
    for line in ("reasonflow run", "reasonflow rl DIR --methods 'FPO, GRPO'", "reasonflow couple DIR --demos DEMOS", "reasonflow eval --checkpoint x --json out.json  # a comment"): assert wrong_with(line) is None, line
    assert lines_of("`a b`\n\n```bash\n# no\nreasonflow run \\\n  --jobs 1\nx && reasonflow plan\n```\n") == ["reasonflow run    --jobs 1", "x", "reasonflow plan", "", "a b"]

@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT/"docs").glob("*.md")), "CONTRIBUTING.md", "assets/results/README.md"])
def test_commands_are_known(page):
    text = (ROOT/page).read_text(); said = [l for l in lines_of(text) if re.match(r"reasonflow(?! ?=)\s", l)]
    wrong = {line: why for line in said if (why := wrong_with(line))}
    assert not wrong, wrong
    assert page != "README.md" or len(said) >= 5
    for line in lines_of(text):                                      # papermill, accelerate: notebooks, and parameters that they have
        if not (m := re.search(r"(?:papermill nbs/(\w+)\.ipynb|reasonflow\.launch (\w+))", line)): continue
        from reasonflow.launch import TRAINING
        nb = ROOT/"nbs"/f"{m[1] or TRAINING[m[2]][0]}.ipynb"; first = next("".join(c["source"]) for c in json.loads(nb.read_text())["cells"] if c["metadata"].get("tags") == ["parameters"])
        given = re.findall(r" -p (\w+) ", line) + re.findall(r"-y '(\w+):", line) if m[1] else re.findall(r"[ '](\w+)=", line[m.end():])
        assert given and not (other := set(given) - set(re.findall(r"^(\w+) = ", first, re.M))), f"{line}: {other}"

def test_the_notebook_of_the_command_line_has_them_all():
    import typer
    from reasonflow.cli import app
    names = {n for n, c in typer.main.get_command(app).commands.items() if not c.hidden}; text = text_of(ROOT/"nbs"/"cli.ipynb")
    calls = dict(re.findall(r"^## (\w+)\n\n[^\n]+\n\n```bash\n(reasonflow \w+[^\n]*)\n```$", text, re.M))
    assert set(calls) == names and all(c.split()[1] == n and wrong_with(c) is None for n, c in calls.items()) and len(names) == 14 and text.count("> Fourteen commands") == 1

def test_commands_in_notebooks_are_known():
    wrong = {}
    for nb in NOTEBOOKS:
        text = "\n\n".join("".join(c["source"]) for c in json.loads(nb.read_text())["cells"] if c["cell_type"] == "markdown")
        wrong |= {f"{nb.name}: {l}": why for l in lines_of(text) if re.match(r"reasonflow(?! ?=)\s", l) and "{" not in l and (why := wrong_with(l)) and not why.startswith("Missing")}      # in passing, they leave out what is not the point
    assert not wrong, wrong

def test_every_recorded_result_says_where_it_is_from():
    folder = ROOT/"assets"/"results"; assert set(re.findall(r"\]\(([\w.-]+)\)", (folder/"README.md").read_text())) == {p.name for p in folder.iterdir()} - {"README.md"}

def python_of(page, i): # its i-th block of Python
    return re.findall(r"```python\n(.*?)```", (ROOT/page).read_text(), re.S)[i]

def test_own_pictures_as_the_page_says(tmp_path, monkeypatch, capsys, frame):
    from reasonflow.records import SOURCES
    from PIL import Image
    place = tmp_path/"my-pictures"; place.mkdir(); monkeypatch.chdir(tmp_path); monkeypatch.setitem(SOURCES, "mine", None)
    for i in range(4): Image.fromarray(frame ^ i).save(place/f"{i}.png")
    (place/"3.png").write_bytes(b"no picture")
    (place/"pictures.csv").write_text("file,instruction,points\n" + "".join(f'{i}.png,pick up thing {i},"[[120,640],[250,520],[380,430],[470,400],[500,{390 + i}]]"\n' for i in range(4)))
    exec(python_of("docs/your-data.md", 0), space := {})
    said = capsys.readouterr().out; assert "{'train': 3, 'test': 0}" in said and "1 of 4 set aside" in said
    from reasonflow.sft import PUBLIC
    from reasonflow.records import gather, open_source
    back = list(gather(open_source("published_subset", "my-subset"))); assert [s.assistant[-4:] for s in back] == ["90]]", "91]]", "92]]"] and back[0].frames[0].size == (448, 448) and "Task: pick up thing 0" in back[0].human and "published_subset" in PUBLIC

def test_own_recordings_as_the_page_says(tmp_path, monkeypatch, capsys):
    import numpy as np
    from reasonflow.episodes import STATE, ACTION, GRIPPERS
    monkeypatch.chdir(tmp_path); r = np.random.default_rng(0)
    def one(T=24): # its gripper opens at 1, of 0..1
        grip = (np.arange(T) < T//2).astype(float); states = r.normal(size=(T, 8)); states[:, 6:] = np.concatenate([[1], grip[:-1]])[:, None]*(.04, -.04)
        return "pick up the cup", states.astype(np.float32), np.concatenate([r.uniform(-1, 1, (T, 6)), grip[:, None]], 1).astype(np.float32), *r.integers(0, 255, (2, T, 72, 72, 3), dtype=np.uint8)
    exec(python_of("docs/your-data.md", 1), space := dict(mine=[one(), one()]))
    assert "2 episodes, 48 steps" in capsys.readouterr().out
    back = space["data"][1]; assert back.actions[0, -1] == -1 and back.actions[-1, -1] == 1 and set(back.images) == {"image", "wrist_image"} and space["data"].info["robot_type"] == "my arm" and {"q01", "q99"} <= set(space["data"].stats["action"])
    page = (ROOT/"docs/your-data.md").read_text(); assert len(STATE) == 8 and len(ACTION) == 7 and all(f"`{g}`" in page for g in GRIPPERS)

@pytest.mark.slow
def test_plans_on_the_page_are_the_plans():
    from reasonflow.plan import CARDS, plan
    stages = {"Stage 1": "sft", "teacher": "grpo", "student": "distill", "expert": "expert", "QwenPI": "qwenpi"}
    near = lambda hours, words: abs(hours/(float(words.split()[0])*{"min": 1/60, "h": 1, "days": 24}[words.split()[1]]) - 1) < .3
    rows = re.findall(r"^\| (small|full), ([^|]+?) \| ([\d.]+) GiB[^|]*\| (\S+) \| ([^|]+?) \| ([^|]+?) \|$", (ROOT/"docs/gpu.md").read_text(), re.M); assert len(rows) == 8
    for preset, stage, gib, card, there, fastest in rows:
        p = plan(preset, stages[stage]); names = [n for n in CARDS if not p.refusal(CARDS[n])]
        assert abs(p.peak/2**30/float(gib) - 1) < .06 and names[0] == card and near(p.hours[card], there) and near(p.hours["H100"], fastest), (preset, stage)

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
