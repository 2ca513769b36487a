"What a user meets first: import, notebooks headless from anywhere, the wheel, the command line"
import csv, json, os, subprocess, sys, time, zipfile
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parent.parent

def python(code, cwd, **env): return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=os.environ | env, capture_output=True, text=True)

def test_import_is_light(tmp_path):
    r = python("import sys, reasonflow; print(sorted(set(sys.modules) & {'torch', 'transformers', 'mujoco', 'unsloth', 'gradio'}))", tmp_path, PYTHONPATH=str(ROOT))
    assert r.stdout.strip() == "[]", r.stdout + r.stderr

@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_distill", "03_expert"])               # copies of other stages run so in test_colab.py
def test_papermill_smoke_from_anywhere(name, tmp_path):
    out = tmp_path/"out.ipynb"
    start = time.time()
    r = subprocess.run([sys.executable, "-m", "papermill", str(ROOT/"nbs"/f"{name}.ipynb"), str(out), "-p", "preset", "smoke", "-k", "python3", "--no-progress-bar"], cwd=tmp_path, capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k not in ("REASONFLOW_PRESET", "IN_TEST")} | {"REASONFLOW_RUNS": str(tmp_path/"runs")})
    assert r.returncode == 0, r.stderr[-3000:]
    run, = (tmp_path/"runs").iterdir()
    manifest = json.loads((run/"manifest.json").read_text())
    assert manifest["state"] == "finished" and manifest["params"]["preset"] == "smoke" and json.loads((run/"results.json").read_text())
    print(f"{name}: {time.time() - start:.0f} s")

@pytest.mark.slow
def test_weights_from_an_installed_wheel(tmp_path):
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(tmp_path/"src")], check=True)
    r = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(tmp_path/"src")], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path/"site")
    r = python("import reasonflow; from reasonflow.runs import find_checkpoint; print(reasonflow.__file__); print(find_checkpoint('tiny-sft'))", tmp_path/"site", PYTHONPATH=str(tmp_path/"site"))
    where, found = r.stdout.split()
    assert where.startswith(str(tmp_path)) and found.startswith(str(tmp_path)), r.stdout + r.stderr

def test_notebooks_are_lean():
    for nb in ROOT.glob("nbs/**/*.ipynb"):
        cells = json.loads(nb.read_text())["cells"]
        assert nb.stat().st_size < 1e6, nb
        if nb.parent.name == "nbs": assert sum(c["cell_type"] == "code" for c in cells) <= 40, nb
        assert all(c.get("execution_count") is None for c in cells if c["cell_type"] == "code"), nb

def test_stages_take_parameters():
    from reasonflow.cli import NOTEBOOKS
    for name in NOTEBOOKS.values():
        cells = json.loads((ROOT/"nbs"/f"{name}.ipynb").read_text())["cells"]
        assert ["parameters"] in [c["metadata"].get("tags") for c in cells], name

def test_readme_names_real_commands():
    assert not any("pip install 'reasonflow" in t for t in ((ROOT/"README.md").read_text(), (ROOT/"reasonflow"/"cli.py").read_text()))      # another project has that name on PyPI
    text = (ROOT/"README.md").read_text(); make = (ROOT/"Makefile").read_text()
    import re
    typed = "\n".join(re.findall(r"^ *```bash.*?^ *```|`[^`\n]+`", "\n".join(p.read_text() for p in (ROOT/"README.md", *(ROOT/"docs").glob("*.md"))), re.M | re.S))
    targets = re.findall(r"(?<!install )\bmake ((?:[A-Z]+=\S+ )*)(\w+)", typed); assert len(targets) > 10
    for _, target in targets: assert f"\n{target}:" in make, target
    for link in re.findall(r"\]\((?!http)([^)#]+)", text): assert (ROOT/link).exists(), link

def test_tables_are_the_recorded_ones():
    from reasonflow.cli import grounding_table, latent_table, policy_table, reasoning_table
    for table in (grounding_table, reasoning_table, latent_table, policy_table): assert table() in (ROOT/"docs"/"results.md").read_text(), table.__name__

def test_recorded_results_are_of_the_shipped_weights():
    from reasonflow.cli import weights_hash
    from reasonflow.coupling import began_with
    for path in (ROOT/"assets"/"results").glob("*.json"):
        record = json.loads(path.read_text())
        if "start_weights" in record: assert (record["start_weights"], record["vlm"], record["student"]) == tuple(map(weights_hash, (record["start"], *began_with(record["start"])))), path; continue      # a grid of arms that went on learning
        if path.with_suffix(".csv").exists() and "vlm" in record: assert (record["vlm"], record["student"]) == (weights_hash("tiny-sft"), weights_hash("tiny-student")), path; continue      # what a grid's table began with
        if record.get("checkpoint", "") is None: assert {r["weights"] for r in csv.DictReader(open(path.with_name(path.name.replace("-trials.json", ".csv"))))} == {record["weights"]}, path; continue      # not shipped: its table tells of the same weights
        assert record["weights"] == weights_hash(record["checkpoint"]), path
        if "against" in record: assert record["against_weights"] == weights_hash(record["against"]), path

def test_teacher_was_lifted_on_every_seed():
    record = json.loads((ROOT/"assets"/"results"/"tiny-teacher-seeds.json").read_text())
    assert [s["seed"] for s in record["seeds"]] == [0, 1, 2] and record["seeds"][0]["weights"] == record["weights"]
    for s in record["seeds"]:
        r = s["results"]
        assert r["reward, change"]["low"] > 0 and r["waypoint error, change"]["high"] < 0 and r["valid"]["value"] >= .99 and r["reward, change"]["n"] >= 500
        assert r["rank correlation of reward and error"]["value"] < -.9
    mean = lambda which: sum(s[which]["reward, change"]["value"] for s in record["seeds"])/3
    assert mean("results") > mean("control")

def test_student_is_near_its_teacher_and_needs_its_vectors():
    record = json.loads((ROOT/"assets"/"results"/"tiny-student-seeds.json").read_text())
    shipped, ratio = record["seeds"][0], "waypoint error, student / the teacher, in words"
    long = [s for s in record["seeds"] if s["steps"] == shipped["steps"]]
    assert [s["seed"] for s in long] == [0, 1, 2] and max(s["results"][ratio]["value"] for s in long) <= 1.1
    for s in record["seeds"]:
        r = s["results"]
        assert r[ratio]["n"] >= 500 and min(r[f"{how} / as it is"]["low"] for how in ("latents zeroed", "latents of another scene")) >= 1.5
    assert record["results"]["in words / in six vectors"]["value"] >= 5

@pytest.mark.slow
def test_reinforcement_is_leashed_to_where_it_begins(tmp_path):
    "A start some of whose tensors lie elsewhere, and that has moved since it was loaded"
    import torch
    from reasonflow.backbone import load
    from reasonflow.grpo import TeacherTrainer, as_prompts, grpo_config, reward_function
    from reasonflow.runs import find_checkpoint
    from reasonflow.sft import make_samples
    assert (Path(find_checkpoint("tiny-warm"))/"base.json").exists()
    model, processor = load("tiny-warm")
    with torch.no_grad(): model.model.language_model.norm.weight += .01
    began = {k: v.clone() for k, v in model.state_dict().items()}
    samples = make_samples([("reason", i, dict(size=144, combos="seen", style="short")) for i in range(2)], progress=False)
    for beta in (.02, 0.):
        trainer = TeacherTrainer(model, reward_funcs=reward_function("sharp"), args=grpo_config(tmp_path/str(beta), 1, 2, 2, 1e-4, processor.tokenizer, beta=beta), train_dataset=as_prompts(samples), processing_class=processor)
        assert trainer.beta == trainer.args.beta == beta
        if not beta: assert trainer.ref_model is None; continue
        kept = trainer.ref_model.state_dict()
        assert all(torch.equal(kept[k], v) for k, v in began.items()) and not any(p.requires_grad for p in trainer.ref_model.parameters())
        assert not {p.data_ptr() for p in trainer.ref_model.parameters()} & {p.data_ptr() for p in model.parameters()}           # it does not move with the policy

def test_no_path_of_a_machine_is_shipped():
    for path in [*(ROOT/"assets").rglob("*.json*"), *(ROOT/"assets").rglob("*.md")]: assert not any(w in path.read_text() for w in ("/tmp/", "/home/", "/root/")), path
