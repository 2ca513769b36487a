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
