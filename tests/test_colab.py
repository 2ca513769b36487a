"The Colab copies, without Colab and without a GPU: in step, bound, linked, small; what they would install"
import ast, builtins, importlib, importlib.util, json, os, re, subprocess, sys, types
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("generate", ROOT/"colab"/"generate.py"); generate = importlib.util.module_from_spec(spec); spec.loader.exec_module(generate)
NAMES = list(generate.STAGES)
def notebook(name): return json.loads((ROOT/"colab"/f"{name}.ipynb").read_text())
def sources(name, kind="code"): return [(c["id"], "".join(c["source"])) for c in notebook(name)["cells"] if c["cell_type"] == kind]

# Which names are bound for certain, statement by statement

class Reads(ast.NodeVisitor):
    "Names that an expression or statement reads from outside itself; what a function reads, it reads when it is called, so that comes `later`"
    def __init__(self): self.now, self.later, self.own = set(), set(), [set()]
    def visit_Name(self, n):
        if isinstance(n.ctx, ast.Load) and not any(n.id in o for o in self.own): (self.later if self.deep else self.now).add(n.id)
        elif isinstance(n.ctx, ast.Store): self.own[-1].add(n.id)
    deep = 0
    def function(self, n, body):
        for d in [*n.args.defaults, *[d for d in n.args.kw_defaults if d], *getattr(n, "decorator_list", [])]: self.visit(d)
        a = n.args; mine = {x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, *[v for v in (a.vararg, a.kwarg) if v]]}
        self.own.append(mine | {x.id for b in body for x in ast.walk(b) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)} | {x.name for b in body for x in ast.walk(b) if isinstance(x, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) and x.name} | {(y.asname or y.name).split(".")[0] for b in body for x in ast.walk(b) if isinstance(x, (ast.Import, ast.ImportFrom)) for y in x.names})
        self.deep += 1
        for b in body: self.visit(b)
        self.deep -= 1; self.own.pop()
    def visit_Lambda(self, n): self.function(n, [n.body])
    def visit_FunctionDef(self, n): self.function(n, n.body)
    def comprehension(self, n):
        self.visit(n.generators[0].iter); self.own.append({x.id for g in n.generators for x in ast.walk(g.target) if isinstance(x, ast.Name)})
        for i, g in enumerate(n.generators): [self.visit(x) for x in [*([g.iter] if i else []), *g.ifs]]
        for x in ([n.key, n.value] if isinstance(n, ast.DictComp) else [n.elt]): self.visit(x)
        self.own.pop()
    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = comprehension
    def visit_ClassDef(self, n):
        for x in [*n.bases, *n.decorator_list]: self.visit(x)
        self.own.append(set()); self.function(ast.parse("lambda: 0").body[0].value, n.body); self.own.pop()

def stars(module):
    m = importlib.import_module(module)
    return set(getattr(m, "__all__", [n for n in vars(m) if not n.startswith("_")]))

class Binding:
    "Goes through statements in order: `bound` for certain, `perhaps` in a branch that may be skipped; `wrong` is what was read without being bound"
    def __init__(self): self.bound, self.perhaps, self.wrong, self.later = set(dir(builtins)) | {"__name__", "get_ipython", "display"}, set(), [], []
    rounds = []
    def comes(self, test): # `if name == "a"` in a loop over constants, one of which is "a"
        return bool(self.rounds) and isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and isinstance(test.ops[0], ast.Eq) and getattr(test.comparators[0], "value", None) in self.rounds[-1]
    def read(self, node):
        r = Reads(); r.visit(node); self.later.append(r.later)
        walrus = {x.target.id for x in ast.walk(node) if isinstance(x, ast.NamedExpr)}
        self.wrong += [f"{n} ({'bound only in a branch that may be skipped' if n in self.perhaps else 'not bound'}), line {node.lineno}" for n in sorted(r.now - self.bound - walrus)]
        self.bound |= walrus
    def bind(self, target): self.bound |= {x.id for x in ast.walk(target) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    def branch(self, *bodies): # each may be taken, and no other; a body that raises does not count
        before, ends, seen = set(self.bound), [], set()
        for b in bodies:
            self.bound = set(before); self.run(b); seen |= self.bound
            if not (b and isinstance(b[-1], (ast.Raise, ast.Return, ast.Continue, ast.Break))): ends.append(self.bound)
        self.bound = set.intersection(*ends) if ends else seen
        self.perhaps |= seen - self.bound
    def run(self, body):
        for s in body:
            if isinstance(s, (ast.Import, ast.ImportFrom)):
                for a in s.names: self.bound |= stars(s.module) if a.name == "*" else {(a.asname or a.name).split(".")[0]}
            elif isinstance(s, (ast.FunctionDef, ast.ClassDef)): self.read(s); self.bound.add(s.name)
            elif isinstance(s, ast.If): self.read(s.test); self.run(s.body) if self.comes(s.test) else self.branch(s.body, s.orelse)
            elif isinstance(s, (ast.For, ast.While)):
                self.read(s.iter if isinstance(s, ast.For) else s.test)
                if isinstance(s, ast.For): self.bind(s.target); self.rounds.append({x.value for x in ast.walk(s.iter) if isinstance(x, ast.Constant)} if isinstance(s.iter, (ast.Tuple, ast.List)) else set())
                self.run(s.body); self.run(s.orelse)                         # loops of these notebooks run at least once
                if isinstance(s, ast.For): self.rounds.pop()
            elif isinstance(s, ast.With):
                for i in s.items: self.read(i.context_expr); i.optional_vars and self.bind(i.optional_vars)
                self.run(s.body)
            elif isinstance(s, ast.Try):
                caught = [[ast.copy_location(ast.Assign([ast.Name(h.name, ast.Store())], ast.Constant(0)), h), *h.body] if h.name else h.body for h in s.handlers]
                self.branch(s.body + s.orelse, *caught); self.run(s.finalbody)
            else:
                self.read(s)
                for x in ast.walk(s):
                    if isinstance(x, (ast.Assign, ast.AugAssign, ast.AnnAssign)): [self.bind(t) for t in (x.targets if isinstance(x, ast.Assign) else [x.target])]
    def cell(self, source, id):
        tree = ast.parse(source); self.wrong, self.later = [], []; self.run(tree.body)
        self.wrong += [f"{n} (read by a function, not bound when its cell ends)" for names in self.later for n in sorted(names - self.bound)]
        return [f"cell {id}: {w}" for w in self.wrong]

def unbound(cells):
    b = Binding()
    return [w for id, source in cells for w in b.cell(source, id)]

def test_the_check_of_names_can_fail():
    for code, words in (("print(x)", "x (not bound)"), ("if a := 1: x = 2\nprint(x)", "x (bound only in a branch that may be skipped)"), ("def f(): return y\nf()", "y (read by a function"), ("from reasonflow.waypoints import *\nprint(draw, nothing)", "nothing (not bound)"),
                        ("try: x = 1\nexcept OSError as e: print(e)\nprint(x)", "x (bound only"), ("[q for q in range(3)]\nprint(q)", "q (not bound)"), ("for k in ('a', 'b'):\n    if k == 'c': x = 1\nprint(x)", "x (bound only")):
        assert words in " ".join(unbound([("c", code)])), code
    for code in ("if 1: x = 1\nelse: x = 2\nprint(x)", "if 1: raise ValueError\nelse: x = 2\nprint(x)", "f = lambda a, *b, c=1: a + c\nx = [f(i) for i in (1,)]", "class A:\n    k = 1\n    def f(self): return A", "import a.b as c, d.e\nprint(c, d)", "def f(n): return f(n - 1)", "print(y := 2, y)", "for k in ('a', 'b'):\n    if k == 'b': x = 1\nprint(x)"):
        assert not unbound([("c", code)]), (code, unbound([("c", code)]))

@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_bound(name): assert not (wrong := unbound(sources(name))), "\n".join(wrong)

# What the copies are

def test_copies_are_what_the_script_makes():
    assert sorted(p.stem for p in (ROOT/"colab").glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES: assert (ROOT/"colab"/f"{name}.ipynb").read_text() == generate.text_of(name), f"colab/{name}.ipynb: run `python colab/generate.py` and commit the result"
    assert set(NAMES) == set(__import__("reasonflow.cli", fromlist=["NOTEBOOKS"]).NOTEBOOKS.values())

@pytest.mark.parametrize("stage", [k for k, (_, *extra) in generate.EXTRAS.items() if any("run.folder" in (e or "") for e in extra)])
def test_what_a_run_made_is_looked_at_when_it_is_made(stage):
    cells = {c["id"]: "".join(c["source"]) for c in json.loads((ROOT/"nbs"/f"{next(n for n, s in generate.STAGES.items() if s == stage)}.ipynb").read_text())["cells"]}
    ids, at = list(cells), generate.EXTRAS[stage][0]; assert any("run.finish()" in cells[i] for i in ids[:ids.index(at) + 1]), at

def test_check_says_what_is_not_in_step(tmp_path):
    import shutil
    for part in ("nbs", "colab"): shutil.copytree(ROOT/part, tmp_path/part, ignore=shutil.ignore_patterns("__pycache__", "foundations", ".ipynb_checkpoints"))
    for f in ("settings.ini", "constraints.txt", "Makefile"): shutil.copy(ROOT/f, tmp_path/f)
    for link in ("assets", "nbs/foundations"): (tmp_path/link).symlink_to(ROOT/link)
    check = lambda: subprocess.run([sys.executable, str(tmp_path/"colab"/"generate.py"), "--check"], capture_output=True, text=True)
    assert check().returncode == 0
    (tmp_path/"colab"/"01_sft.ipynb").write_text((tmp_path/"colab"/"01_sft.ipynb").read_text().replace("Stage 1", "Stage one", 1))
    r = check(); assert r.returncode and "01_sft. Run: python colab/generate.py" in r.stderr

def test_copies_are_small_and_bare():
    assert sum(p.stat().st_size for p in (ROOT/"colab").iterdir() if p.is_file()) < 600_000
    for name in NAMES:
        cells = notebook(name)["cells"]; code = [c for c in cells if c["cell_type"] == "code"]
        assert not any(c["outputs"] or c["execution_count"] for c in code) and len({c["id"] for c in cells}) == len(cells)
        assert [c["metadata"].get("tags") for c in code].count(["parameters"]) == 1 and generate.colab_url(name) in "".join(cells[0]["source"])

@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_library_is_defined_again(name):
    module = next(m[1] for _, s in sources(name) if (m := re.search(r"^from reasonflow\.(\w+) import .*\nlibrary\(", s, re.M)))
    own, again = stars(f"reasonflow.{module}"), []
    for id, s in sources(name): again += [f"{id}: {n.name}" for n in ast.walk(ast.parse(s)) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in own]
    assert not again
    text = (ROOT/"reasonflow"/f"{module}.py").read_text()
    shown = re.findall(r'^library\("(\w+)"\)', "\n".join(s for _, s in sources(name)), re.M)
    assert shown and all(re.search(rf"^# %% .*#{id}$", text, re.M) for id in shown)           # each folded cell finds its source

@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name):
    for _, text in sources(name, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            at = target.partition("#")[0]
            if at.startswith(generate.GIT): at = re.sub(rf"^{re.escape(generate.GIT)}/(blob|raw)/{generate.BRANCH}/", "", at)
            elif at.startswith("https://colab.research.google.com/github/"): at = at.partition(f"/{generate.REPO}/blob/{generate.BRANCH}/")[2]
            elif at.startswith("http") or not at: continue
            assert at and (ROOT/at).is_file(), target

# What Colab would be asked to install

def pins(): return dict(l.split("==") for l in (ROOT/"constraints.txt").read_text().splitlines() if "==" in l)

@pytest.mark.parametrize("name", NAMES)
def test_pins_agree(name):
    makefile = (ROOT/"Makefile").read_text()
    for id, s in sources(name):
        for what, number in re.findall(r"\b([A-Za-z][\w-]*)==(\d[\w.]*)", s): assert pins().get(what) == number or f" {what}=={number}" in makefile, f"{id}: {what}=={number}"

@pytest.fixture
def colab(tmp_path, monkeypatch):
    "Runs the install cell of a notebook as if on Colab; what it would have run"
    def go(name, torch="2.12.0", gpu="", loaded=()):
        home, ran, made = tmp_path/f"home{len(list(tmp_path.iterdir()))}", [], {}
        def run(words, **kw):
            ran.append(list(map(str, words)))
            if words[0] == "git": home.mkdir(); [(home/f).write_text((ROOT/f).read_text()) for f in ("settings.ini", "constraints.txt")]
            if words[0] == "nvidia-smi": return types.SimpleNamespace(stdout=gpu + "\n")
        import ctypes.util, importlib.metadata, shutil
        have = {"torch": torch, "numpy": "2.3.0", "pillow": "12.3.0", "matplotlib": "3.11.2"}
        def version(n):
            if n not in have: raise importlib.metadata.PackageNotFoundError(n)
            return have[n]
        code = dict(sources(name))["co1ab001"].replace("/content/reasonflow", str(home))
        with monkeypatch.context() as m:
            m.setenv("COLAB_RELEASE_TAG", "release"); m.setattr(subprocess, "run", run); m.setattr(shutil, "which", lambda n: n if gpu else None); m.setattr(importlib.metadata, "version", version); m.setattr(ctypes.util, "find_library", lambda n: None); m.setattr(sys, "path", list(sys.path))
            for n in ("numpy", "PIL", "matplotlib", "torch"): m.delitem(sys.modules, n, raising=False)
            for n, v in dict(loaded).items(): m.setitem(sys.modules, n, types.SimpleNamespace(__version__=v))
            exec(code, space := {})
        return ran, home, space, code
    return go

def test_install_cell(colab):
    ran, home, _, code = colab("01_sft")
    pip = [r for r in ran if "pip" in r and "install" in r]; words = [w for r in pip for w in r]
    assert ran[0][0] == "git" and generate.GIT in ran[0] and generate.BRANCH in ran[0]
    asked = {re.split(r"[<>=]", w)[0] for w in words}
    assert {"torch", "transformers", "trl", "mujoco", "fastcore"} <= asked and not {"ipykernel", "papermill", "unsloth"} & asked and ["--no-deps", "-e", str(home)] == pip[-1][-3:]
    assert all(str(home/"colab-constraints.txt") in r for r in pip)
    wrote = dict(l.split("==") for l in (home/"colab-constraints.txt").read_text().splitlines())
    assert wrote["torch"] == "2.12.0" and all(pins()[k] == v for k, v in wrote.items() if k != "torch") and wrote["transformers"] == pins()["transformers"]        # Colab's own torch is new enough: it stays
    assert ["apt-get", "install", "-y", "-qq", "libosmesa6"] in ran and not any("uninstall" in r for r in ran)

def test_install_cell_on_a_gpu_with_an_old_torch(colab):
    ran, home, space, _ = colab("05_libero", torch="2.8.0", gpu="Tesla T4")
    words = " ".join(w for r in ran for w in r)
    assert "unsloth" in words and "robosuite==1.4.0" in words and "uninstall -q -y torchvision torchaudio" in words and space["GPU"] == "Tesla T4"
    assert f"torch=={pins()['torch']}" in (home/"colab-constraints.txt").read_text().splitlines()

def test_install_cell_asks_for_a_restart(colab):
    with pytest.raises(SystemExit, match="PIL had been loaded.*Restart session"): colab("01_sft", loaded={"PIL": "11.0.0", "numpy": "2.3.0"})

def test_install_cell_elsewhere_does_nothing(monkeypatch, capsys):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False); monkeypatch.setattr(subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout="H100\n") if a[0][0] == "nvidia-smi" else pytest.fail(f"ran {a}"))
    exec(dict(sources("01_sft"))["co1ab001"], {}); assert "not on Colab: nothing is installed" in capsys.readouterr().out

@pytest.mark.parametrize("name", NAMES)
def test_size_by_gpu_and_place_on_drive(name, monkeypatch, capsys):
    from reasonflow.runs import PRESETS
    code, stage = dict(sources(name))["co1ab002"], generate.STAGES[name]
    mounted = types.SimpleNamespace(drive=types.SimpleNamespace(mount=lambda at: None))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google")); monkeypatch.setitem(sys.modules, "google.colab", mounted)
    for gpu in ("", "Tesla T4", "NVIDIA A100-SXM4-40GB"):
        space = dict(ON_COLAB=True, GPU=gpu, preset=None, seed=0, folder=None, Path=Path); exec(code, space); said = capsys.readouterr().out
        assert space["preset"] == "tiny" and stage in PRESETS["tiny"].stage and said.startswith("preset tiny: minutes on a CPU")         # a larger one takes hours or days: nobody is sent into it
        assert space["kept_in"] == space["folder"] == f"/content/drive/MyDrive/reasonflow/{stage}-tiny-seed0" and ("preset = 'small'" in said) == (bool(gpu) and stage in PRESETS["small"].stage) and ("--preset full" in said) == (bool(gpu) and stage in PRESETS["full"].stage and stage not in PRESETS["small"].stage)
    space = dict(ON_COLAB=True, GPU="", preset="smoke", seed=3, folder="here", Path=Path); exec(code, space); assert (space["preset"], space["folder"]) == ("smoke", "here")
    space = dict(ON_COLAB=False, GPU="", preset=None, seed=3, folder=None, Path=Path); exec(code, space); assert space["preset"] is space["folder"] is None
    mounted.drive.mount = lambda at: (_ for _ in ()).throw(ValueError("refused")); space = dict(ON_COLAB=True, GPU="", preset=None, seed=0, folder=None, Path=Path); exec(code, space)
    assert space["folder"] is None and "no Drive (refused)" in capsys.readouterr().out

def test_what_is_said_of_a_larger_preset_is_the_plan():
    from reasonflow.plan import CARDS, plan
    from reasonflow.runs import PRESETS
    cards = {"T4": "T4", "L4": "L4", "A100": "A100-40", "80 GB": "A100-80"}; assert set(generate.PLANNED) == set(PRESETS["small"].stage)
    for stage, said in generate.PLANNED.items():
        p = plan("small", stage); assert f"{p.peak/2**30:.0f} GiB" in said or not p.refusal(CARDS["T4"])
        for n, unit, where in re.findall(r"(two|\d+) (h|days) on an? (\w+)(?= |,|$)", said): h = p.hours[cards[where]]/(24 if unit == "days" else 1); assert round(h) == (2 if n == "two" else int(n)) and not p.refusal(CARDS[cards[where]]), (stage, where, h)
    assert plan("small", "distill").refusal(CARDS["A100-40"]) and not plan("small", "distill").refusal(CARDS["A100-80"]) and round(plan("small", "distill").hours["A100-80"]) == 2

# Run, as a reader would

SHORT = ("00_base", "01_sft", "02_grpo", "05_rl")        # REASONFLOW_COLAB=all runs the others too: nbdev_test runs most of their cells in nbs/, and their names are checked above

@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES if os.environ.get("REASONFLOW_COLAB") == "all" else SHORT)
def test_runs_headless_at_smoke(name, tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("REASONFLOW_PRESET", "IN_TEST", "COLAB_RELEASE_TAG")} | {"REASONFLOW_RUNS": str(tmp_path/"runs"), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    r = subprocess.run([sys.executable, "-m", "papermill", str(ROOT/"colab"/f"{name}.ipynb"), str(tmp_path/"out.ipynb"), "-p", "preset", "smoke", "-k", "python3", "--no-progress-bar"], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert r.returncode == 0, r.stderr[-3000:]
    cells = {c["id"]: c for c in json.loads((tmp_path/"out.ipynb").read_text())["cells"]}
    said = lambda id: "".join("".join(o.get("text", o.get("data", {}).get("text/html", ""))) for o in cells[id]["outputs"])
    assert "not on Colab" in said("co1ab001") and "MiB of memory" in said("co1ab006")
    for id, c in cells.items():
        if "\nlibrary(" in (source := "".join(c["source"])): assert "<details>" in said(id) and re.search(r"from reasonflow\.(\w+) import (\w+)", source)[2] in re.sub("<[^>]+>", "", said(id)), id
    if "co1ab004" in cells: assert any("image/jpeg" in o.get("data", {}) for o in cells["co1ab004"]["outputs"])
    run, = (tmp_path/"runs").iterdir(); assert json.loads((run/"results.json").read_text())
