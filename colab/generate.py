"""Make the Colab copies of the stage notebooks from `nbs/`: `python colab/generate.py`; `--check` only says whether they are in step.

A copy tells the same story. What `nbs/` exports to the library is not defined a second time: such a cell becomes a folded one, which takes the
names from the installed library and shows their source when it is run. All sources together would not be small, and two copies of a class are not
the same class. Cells that only check something are folded too. Outputs are left out."""
import argparse, ast, json, os, re, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
cfg = ConfigParser(delimiters=["="]); cfg.read(ROOT/"settings.ini"); cfg = cfg["DEFAULT"]
GIT, BRANCH, REPO = cfg["git_url"], cfg["branch"], cfg["git_url"].split("github.com/")[1]
STAGES = {"00_base": "base", "01_sft": "sft", "02_grpo": "grpo", "02_distill": "distill", "03_expert": "expert", "03_qwenpi": "qwenpi", "04_coupling": "coupling", "05_libero": "libero", "05_rl": "rl", "06_refine": "refine", "07_attention": "attention", "08_failure": "failure"}
def colab_url(name): return f"https://colab.research.google.com/github/{REPO}/blob/{BRANCH}/colab/{name}.ipynb"

def folded(title, code): return f'#@title {title} {{ display-mode: "form" }}\n{code}'

INSTALL = '''\
import ctypes.util, os, shutil, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
ON_COLAB = "COLAB_RELEASE_TAG" in os.environ
GPU = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True).stdout.split("\\n")[0] if shutil.which("nvidia-smi") else ""
HOME = Path("/content/reasonflow")
EXTRA = %(extra)s
def installed(name):
    try: return version(name)
    except PackageNotFoundError: return None

def install():
    from packaging.requirements import Requirement
    run = lambda *words: subprocess.run(words, check=True)
    pip = lambda *words: run(sys.executable, "-m", "pip", "install", "-q", "-c", str(HOME/"colab-constraints.txt"), *words)
    if not HOME.exists(): run("git", "clone", "-q", "--depth", "1", "--branch", "%(branch)s", "%(git)s", str(HOME))
    cfg = ConfigParser(delimiters=["="]); cfg.read(HOME/"settings.ini"); cfg = cfg["DEFAULT"]
    wanted = [Requirement(r) for r in (cfg["requirements"] + " fastcore" + (f" {cfg['gpu_requirements']}" if GPU else "")).split()]
    colabs = {"ipykernel", "ipywidgets", "papermill", "jupyterlab", "nbclient"}      # the session runs on Colab's own kernel: leave it alone
    pins = [l for l in (HOME/"constraints.txt").read_text().splitlines() if "==" in l and l.split("==")[0] not in colabs]
    if (have := installed("torch")) and next(r for r in wanted if r.name == "torch").specifier.contains(have): pins = [f"torch=={have}" if l.startswith("torch==") else l for l in pins]      # Colab's torch fits its driver and its torchvision: keep it if it is new enough
    else: run(sys.executable, "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio")          # built for the torch that goes
    (HOME/"colab-constraints.txt").write_text("\\n".join(pins) + "\\n")
    pip(*(str(r) for r in wanted if r.name not in colabs))
    for words in EXTRA: pip(*words)
    pip("--no-deps", "-e", str(HOME))
    if not ctypes.util.find_library("OSMesa"): run("apt-get", "update", "-qq"); run("apt-get", "install", "-y", "-qq", "libosmesa6")
    (HOME/".colab-installed").touch()

if not ON_COLAB: print("not on Colab: nothing is installed, the library of this Python is used")
else:
    if not (HOME/".colab-installed").exists(): install()
    if str(HOME) not in sys.path: sys.path.insert(0, str(HOME))
    old = [m for m, name in {"numpy": "numpy", "PIL": "pillow", "matplotlib": "matplotlib", "torch": "torch"}.items() if m in sys.modules and sys.modules[m].__version__ != installed(name)]
    if old: raise SystemExit(f"{', '.join(old)} had been loaded before being replaced: choose Runtime > Restart session, then run all cells again (nothing is installed twice)")
    if GPU and installed("unsloth"): import unsloth                                                      # its patches must come before transformers
    print(f"installed in {HOME}; {GPU or 'no GPU'}")'''

SETUP = '''\
import html, importlib, re, time
from IPython.display import HTML, display
keep_on_drive = True #@param {type: "boolean"}
opened = time.time()
def choose(gpu): # name of a preset, why
    "Always `tiny`, on a GPU too; what a larger one would take is said, not begun"
    return "tiny", "minutes on a CPU, no GPU is needed" + (f"; there is a {gpu}. %(larger)s" if gpu else "")

if ON_COLAB and preset is None: preset, why = choose(GPU); print(f"preset {preset}: {why}")
if ON_COLAB and keep_on_drive and folder is None:
    from google.colab import drive
    try: drive.mount("/content/drive"); folder = f"/content/drive/MyDrive/reasonflow/%(stage)s-{preset}-seed{seed}"; print(f"the run is kept in {folder}: %(resume)s")
    except Exception as e: print(f"no Drive ({e}): the run is lost when the session ends")
kept_in = folder

def library(cell): # its id
    "The source of what a folded cell takes from the library"
    from pygments import highlight; from pygments.formatters import HtmlFormatter; from pygments.lexers import PythonLexer
    text = re.search(rf"^# %%%% .*#{cell}\\n(.*?)(?=^# %%%% |\\Z)", Path(importlib.import_module("reasonflow.%(module)s").__file__).read_text(), re.M | re.S)[1].strip()
    display(HTML(f"<details><summary>source, {text.count(chr(10)) + 1} lines of <code>reasonflow/%(module)s.py</code></summary>{highlight(text, PythonLexer(), HtmlFormatter(noclasses=True, nobackground=True))}</details>"))'''

MESHES = '''\
download_meshes = False #@param {type: "boolean"}
if ON_COLAB and download_meshes:
    from reasonflow.libero import libero; libero()
    from libero.libero import get_assets_path; print(get_assets_path())'''

FINISH = '''\
import torch
from reasonflow.runs import peak_memory
print(f"{(time.time() - opened)/60:.1f} minutes, at most {peak_memory()} MiB of memory" + (f", {torch.cuda.max_memory_allocated()/2**20:.0f} MiB of {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""))
if kept_in: print(f"the run is in {kept_in}")'''

ABOUT = '''\
*This is the Colab copy of [nbs/%(name)s.ipynb](%(git)s/blob/%(branch)s/nbs/%(name)s.ipynb): run the cells from top to bottom. Cells called* Library *are folded: each takes its names from the installed library and, when it has been run, unfolds their source. To change that code, edit `/content/reasonflow/reasonflow/%(module)s.py` (the folder icon on the left) and restart the session.*'''

# What a notebook lacks of "the same sample before and after", added behind the cell with this id
def drive_twice(before, trial="Trial(suite, chosen[0], 400_000)", after='load_policy(str(run.folder/"policy"))', first="", when="before, with random weights", then="after"):
    return f"""{first}from reasonflow.evaluate import Trial, run_trials, strip
from reasonflow.expert import load_policy
tried = [run_trials(p, [{trial}], at_once=1, size=p.about.get("image", 144), progress=False)[0] for p in ({before}, {after})]
strip(tried).suptitle("one scene: {when} (above), and {then}", x=0, ha="left", fontsize=9);"""
def of_arm(arm): return f'load_policy(str(run.folder/"arms"/folder_of({arm})/"policy"))'
FIRST_SCENE = 'Trial("tabletop", S["families"][0], 400_000)'
DRIVEN = "## Before and after, in one scene\n\nA validation scene that is not chosen for its outcome: above the policy {before}, below the one that this run made."
INSIDE = {"d5000019": "\n    # before and after\n    " + drive_twice('QwenPolicy(QwenPI(load(S["vlm"])[0], head_for(vlm.config, **TINY, aim=True), S["draws"]), processor, shown.norm, shown.arm, noise=0., robot=shown.robot)', trial='Trial(S["suite"], tasks[0], 0)', when="before, with a head of random weights").replace('suptitle("', 'suptitle(f"').replace('and after"', 'and after ({label()})"').replace("\n", "\n    ")}      # likewise, within the branch that ends the cell
EXTRAS = {
    "base": ("06873eab", "## Before and after, on one frame\n\nThe same question to the model with random weights, to the one that this run made, and to `tiny-base`. White is the truth.", """\
from reasonflow.backbone import answer, load
seen = look_around([400_000], size=P.image); frame, (kind, question, truth, *_) = seen["images"][0], next(q for q in seen["talk"][0][0] if q[0] == "point")
three = {"random weights": new_model(tok, "smoke" if P.name == "smoke" else "tiny", seed), "this run": (model, processor), "tiny-base": load("tiny-base", image=P.image)}
fig, axes = plt.subplots(1, 3, figsize=(10, 3.9))
for ax, (name, (m, p)) in zip(axes, three.items()): said = answer(m, p, [dict(frames=[frame], human=question)])[0]; ax.imshow(draw(frame, said, truth, size=320)); ax.axis("off"); ax.set_title(f"{name}: {said[:40] or '(nothing)'}", fontsize=9)
fig.suptitle(question, fontsize=9);"""),
    "grpo": ("d1500047", "## Before and after, on one question\n\nThe first hard question from above, answered greedily by the policy that the reinforcement began with and by the one it ended with. White is the truth.", """\
i = shown[0]; now = answer(policy, processor, [fresh[i]], max_new_tokens=160, think=True)[0]
fig, axes = plt.subplots(1, 2, figsize=(10, 5.4))
for ax, when, said_, off in zip(axes, ("before", "after"), (said[True][i], now), (before_errors[i], errors[i])):
    ax.imshow(draw(fresh[i].frames[0], said_, fresh[i].assistant, size=320)); ax.axis("off"); ax.set_title(f"{when}: {off:.0f} of 1000 off\\n" + said_.partition("</think>")[0].strip().replace(". ", ".\\n")[:260], fontsize=8)
fig.suptitle(fresh[i].human, fontsize=9);"""),
    "distill": ("e2500046", "## Before and after, on one question\n\nA student that has learnt nothing puts all its waypoints into the middle; beside it the one that this run made, and the teacher, in words. White is the truth.", """\
from reasonflow.backbone import answer
one = fresh[0]; asked_once = prompts(Collator(processor), [one], think=True); blank = LatentStudent(load(start or S["start"], image=P.image)[0], tok.convert_tokens_to_ids("</think>"), marks=point_marks(tok), bottleneck=narrow).eval()
with torch.no_grad(): paths = [s(asked_once).waypoints[0].numpy()*1000 for s in (blank, both.student.eval())]
fig, axes = plt.subplots(1, 3, figsize=(12, 4.4))
for ax, when, said in zip(axes, ("before", "after", "the teacher"), (*paths, answer(speaker, processor, [one], max_new_tokens=160, think=True)[0])): ax.imshow(draw(one.frames[0], said, one.assistant, size=320)); ax.axis("off"); ax.set_title(when, fontsize=9)
fig.suptitle(one.human, fontsize=9);"""),
    "expert": ("a3000073", DRIVEN.format(before="with random weights"), drive_twice('Policy(new_driver(replace(ExpertConfig(), use=use), head, S["draws"]), thinker.student, processor, some.norm, some.arm, think=asked["think"])', first='suite = "memory" if set(chosen) <= set(MEMORY) else "tabletop"\n')),
    "qwenpi": ("b3000062", DRIVEN.format(before="with a head of random weights"), drive_twice('QwenPolicy(QwenPI(load(S["vlm"])[0], shape, S["draws"]), processor, shown.norm, shown.arm, sight, noise=0., robot=shown.robot)', trial='Trial("tabletop", chosen[0], 400_000)', when="before, with a head of random weights")),
    "coupling": ("c4000031", "## Before and after, in one scene\n\n*Before and after* are here the two arms: in the frozen one the language model is still `tiny-sft`, word for word. A validation scene that is not chosen for its outcome, driven by both.", drive_twice(of_arm('Arm("frozen", seed=seed)'), FIRST_SCENE, of_arm('Arm("full", seed=seed)'), when="nothing let through", then="everything")),
    "refine": ("f6000021", "## Without and with reasons, in one scene\n\nA validation scene that is not chosen for its outcome: above the arm that was told no reasons, below the one that was told true ones.", drive_twice(of_arm('arms["none"]'), FIRST_SCENE, of_arm('arms["true"]'), first="from reasonflow.coupling import folder_of\n", when="without reasons", then="with them")),
    "libero": ("d5000019", "*Before and after*, the last picture above: the benchmark's first initial state of the first task, driven by a head of random weights and by what this run made.", None),
    "rl": ("f500001a", DRIVEN.format(before="that it began with"), drive_twice('load_policy(S["start"])', trial='Trial("tabletop", config.families[0], 400_000)', after='load_policy(str(run.folder/"rounds/policy"))', when="the policy that it began with")),
}

def libero_packages(): # of the Makefile: with their dependencies, and without
    lists = re.findall(r"pip install -q .*?((?:--no-deps )?(?:\w[\w.=-]*)(?: [\w.=-]+)*) +(?:\\|&&|\n|$)", re.search(r"^\$\(VENV\)/\.libero:.*?(?=^\S|\Z)", (ROOT/"Makefile").read_text(), re.M | re.S)[0].replace("--disable-pip-version-check -c constraints.txt ", "").replace("--disable-pip-version-check ", ""))
    first, second = (l.split() for l in lists)
    assert "scipy" in first and second[0] == "--no-deps", "the Makefile's recipe for LIBERO has changed its form: adapt libero_packages"
    return first, second

def names_of(tree): # what a cell's top level defines
    out = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): out.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for t in node.targets if isinstance(node, ast.Assign) else [node.target]: out += [n.id for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        elif not isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr)): raise ValueError(f"an exported cell does something other than define: {ast.unparse(node)[:80]}")
    return list(dict.fromkeys(out))

def from_library(source, module, id): # an exported cell
    tree = ast.parse(source)
    imports, names = [ast.unparse(n) for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], names_of(tree)
    if not names: return folded("Imports", re.sub(r"^#\| .*\n", "", source))
    shown = [n for n in names if not n.startswith("_")] or names
    return folded(f"Library: {', '.join(shown)}", "\n".join([*imports, f"from reasonflow.{module} import {', '.join(names)}", f'library("{id}")']))

def link(found): # a relative link in nbs/ to one that works from Colab
    picture, words, target = found.groups()
    if target.startswith(("http", "#", "mailto:")): return found[0]
    path, _, part = target.partition("#")
    path = Path(os.path.normpath(Path("nbs")/path))
    if not (ROOT/path).exists(): raise FileNotFoundError(f"a link leads to {path}, which is not there")
    if path.parent == Path("nbs") and path.stem in STAGES: return f"[{words}]({colab_url(path.stem)})"
    return f"{picture}[{words}]({GIT}/{'raw' if picture else 'blob'}/{BRANCH}/{path}{'#' + part if part else ''})"

def only_checks(cell, source): # does it show nothing?
    return not cell["outputs"] and bool(re.search(r"\b(test_\w+\(|assert )", source))

def convert(name): # the notebook as a dict
    nb = json.loads((ROOT/"nbs"/f"{name}.ipynb").read_text())
    module = next(m[1] for c in nb["cells"] if (m := re.search(r"^#\| default_exp (\w+)", "".join(c["source"]))))
    stage, cells = STAGES[name], []
    facts = dict(name=name, stage=stage, module=module, git=GIT, branch=BRANCH, extra=json.dumps(libero_packages()) if stage == "libero" else "()", larger=larger(stage),
                 resume="the record stays, a stopped run begins anew" if stage == "base" else "run the same cells again and it goes on where it stopped")
    def add(id, kind, text, tags=None):
        cells.append(dict(cell_type=kind, id=id, metadata=dict(tags=tags) if tags else {}, source=text) | (dict(execution_count=None, outputs=[]) if kind == "code" else {}))
        if kind == "code" and text.startswith("#@title"): cells[-1]["metadata"]["cellView"] = "form"
    for i, c in enumerate(nb["cells"]):
        source, id = "".join(c["source"]), c["id"]
        if c["cell_type"] == "markdown":
            text = re.sub(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)", link, source)
            if not i:
                title, said, rest = text.split("\n\n", 2)
                text = "\n\n".join([title, said, f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab_url(name)})", ABOUT % facts, rest])
            add(id, "markdown", text)
            if not i: add("co1ab001", "code", folded("Install (on Colab, once a session: some minutes)", INSTALL % facts))
        elif re.match(r"#\| default_exp", source): continue
        elif c["metadata"].get("tags") == ["parameters"]: add(id, "code", source, ["parameters"]); add("co1ab002", "code", folded("Size, and where the run is kept", SETUP % facts)); stage == "libero" and add("co1ab007", "code", folded("LIBERO's meshes: gigabytes, so only if you ask for them; without them the notebook says what it leaves out", MESHES))
        elif "#| export" in source: add(id, "code", from_library(source, module, id))
        elif re.match(r"#\| hide", source): add(id, "code", folded("For the checks", re.sub(r"^#\| .*\n", "", source)))
        else: add(id, "code", folded("Checks", source) if only_checks(c, source) else source + INSIDE.get(id, ""))
        if stage in EXTRAS and EXTRAS[stage][0] == id: add("co1ab003", "markdown", EXTRAS[stage][1]); EXTRAS[stage][2] and add("co1ab004", "code", EXTRAS[stage][2])
    add("co1ab005", "markdown", "## What it took"); add("co1ab006", "code", folded("Time and memory", FINISH))
    return dict(cells=cells, metadata=dict(colab=dict(provenance=[], toc_visible=True), kernelspec=dict(display_name="Python 3", language="python", name="python3"), language_info=dict(name="python")), nbformat=4, nbformat_minor=5)

PLANNED = {"sft": "two days on a T4, 3 h on an L4, 1 h on an A100", "grpo": "6 h on a T4, 1 h on an L4 or an A100", "distill": "45 GiB, so an A100 of 80 GB: 2 h"}      # of `reasonflow plan --preset small`; tests/test_colab.py asks it

def larger(stage): # what is said where there is a GPU
    "How to choose a larger preset, and what the plan says of it"
    if stage in PLANNED: return f"preset = 'small' in the cell above takes, by the plan, {PLANNED[stage]}; neither that nor 'full' has been run yet"
    if stage in ("expert", "qwenpi"): return f"Of this stage 'full' alone is larger, written and not run yet: !reasonflow plan --preset full --stage {stage}"
    return "This stage has no numbers for a larger size"

def text_of(name): return json.dumps(convert(name), indent=0, ensure_ascii=False) + "\n"

def main():
    p = argparse.ArgumentParser(description="Colab notebooks from nbs/"); p.add_argument("--check", action="store_true", help="change nothing; fail if a copy is not what this script makes"); a = p.parse_args()
    other = [n for n in STAGES if not (f := ROOT/"colab"/f"{n}.ipynb").exists() or f.read_text() != text_of(n)]
    if a.check:
        if other: sys.exit(f"not in step with nbs/: {', '.join(other)}. Run: python colab/generate.py")
        print("in step"); return
    for n in other: (ROOT/"colab"/f"{n}.ipynb").write_text(text_of(n)); print(f"colab/{n}.ipynb")
    print(f"{sum(f.stat().st_size for f in (ROOT/'colab').glob('*.ipynb'))/1024:.0f} KB in all")

if __name__ == "__main__": main()
