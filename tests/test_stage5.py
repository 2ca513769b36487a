"Stage 5 end to end: LIBERO's rules against the simulator and real data, and learning from success that is interrupted"
from types import SimpleNamespace
import json
import numpy as np, pytest, torch
from safetensors.torch import load_file

def simulator():
    from reasonflow.libero import ready
    if why := ready(): pytest.skip(why)

def test_a_real_state_is_read_as_the_benchmark_reads_it(shared):
    from reasonflow.episodes import read_normalization
    from reasonflow.libero import axis_angle, turned
    o = np.load(shared/"libero"/"sample_libero_spatial_observation.npz"); s = o["state"]
    half = np.linalg.norm(s[3:6])/2; q = np.array([*(np.sin(half)*s[3:6]/np.linalg.norm(s[3:6])), np.cos(half)])
    np.testing.assert_allclose(axis_angle(q), s[3:6], atol=1e-5)
    assert 0 < np.linalg.norm(axis_angle(q)) <= 2*np.pi and s[6] > 0 > s[7]                        # fingers: one number each, of opposite signs
    assert o["full_image"][:40].mean() != turned(o["full_image"])[:40].mean()
    norm = read_normalization(shared/"oxe_norm"/"openvla_style_norm_stats_subset.json", "libero_spatial", "q99", "open is 1 of 0..1")
    assert np.all(np.abs(norm(np.zeros((1, 7)))) <= 1)

@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_goal"])
def test_one_episode_of_each_suite(suite):
    simulator()
    from reasonflow.evaluate import Trial, run_trials
    from reasonflow.libero import CLAIMED, record_libero
    task = CLAIMED[suite][2]; actions = record_libero(0, family=task, suite=suite, pictures=False).actions
    class Playback:
        robot = "libero"
        def reset(self, slots): self.at = 0
        def predict_batch(self, observations, slots):
            o = observations[0]; assert o["image"].shape == o["wrist_image"].shape == (64, 64, 3) and o["state"].shape == (8,) and o["instruction"].islower()
            now = actions[self.at:self.at + 8]; self.at += 8; return np.concatenate([now, np.zeros((16 - len(now), 7))])[None]
    t, = run_trials(Playback(), [Trial(suite, task, 0)], at_once=1, size=64, progress=False)
    assert t.success and t.first == t.steps == len(actions) and t.restarts == 0

@pytest.mark.slow
def test_the_state_and_the_initial_states_are_the_packages_own():
    simulator()
    from reasonflow.evaluate import SUITES, Trial
    from reasonflow.libero import LiberoRobot, initial_states
    task = SUITES["libero_spatial"].families[0]; states = initial_states("libero_spatial", task)
    assert len(states) == SUITES["libero_spatial"].states == 50 and len(np.unique(states, axis=0)) == 50
    a, b = (LiberoRobot(Trial("libero_spatial", task, 3), 64, 20) for _ in range(2))
    assert np.array_equal(a.state(), b.state()) and np.array_equal(a.observation()["image"], b.observation()["image"])
    from libero.libero.benchmark import task_maps
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10"): assert tuple(task_maps[suite]) == SUITES[suite].families

@pytest.mark.slow
def test_a_missing_mesh_says_which():
    simulator()
    from reasonflow.evaluate import SUITES, Trial
    from reasonflow.libero import LiberoRobot, label
    if label() != "stand-in assets": pytest.skip("all meshes are here")
    with pytest.raises(FileNotFoundError, match="needs files that .* lacks"): LiberoRobot(Trial("libero_object", SUITES["libero_object"].families[0], 0), 64, 20)

FEW = dict(rounds=2, scenes=2, group=2, horizon=40, every=1, episodes=2, families=("pick up",), batch=8, warm=0, settle=0)

@pytest.mark.slow
@pytest.mark.parametrize("kw", [dict(way="flow-noise"), dict(way="flow-sde", credit="ppo"), dict(way="fpo", nudge=.1), dict(credit="imitate", updates=2)], ids=["flow-noise, GRPO", "Flow-SDE, PPO", "FPO, nudged thoughts", "imitation"])
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch, kw):
    import reasonflow.rl as rl
    tried, calls = rl.attempts, []
    def real(*a, **k): # so few steps get nothing done: every other attempt is called a success, so that there is something to learn
        out = tried(*a, **k)
        for i, (t, _) in enumerate(out): t.success = i % 2 == 0
        return out
    monkeypatch.setattr(rl, "attempts", real); c = rl.RLConfig(**FEW | kw); whole = rl.fine_tune("tiny-policy", tmp_path/"whole", c, progress=False)
    assert whole[1]["mixed"] == 2 and whole[-1].get("ratio", whole[-1]["loss"]) > 0
    monkeypatch.setattr(rl, "attempts", lambda *a, **k: (calls.append(1), (_ for _ in ()).throw(KeyboardInterrupt()) if len(calls) == 2 else real(*a, **k))[1])
    with pytest.raises(KeyboardInterrupt): rl.fine_tune("tiny-policy", tmp_path/"cut", c, progress=False)
    monkeypatch.setattr(rl, "attempts", real); again = rl.fine_tune("tiny-policy", tmp_path/"cut", c, progress=False)
    assert again == whole
    a, b = (load_file(tmp_path/w/"checkpoint-3"/"weights.safetensors") for w in ("whole", "cut"))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)

def test_nothing_but_success_is_read():
    "What becomes an advantage has no other attribute"
    from reasonflow.expert import load_policy
    from reasonflow.rl import RLConfig, Tuner
    tuner = Tuner(load_policy("tiny-policy"), RLConfig(scenes=2, group=2))
    rows, mixed = tuner.credit([(SimpleNamespace(), [dict(name=i)]) for i in range(4)], [True, False, True, True])
    assert mixed == 1 and [r[0]["name"] for r in rows] == [0, 1] and rows[0][1] > 0 > rows[1][1]

@pytest.mark.slow
def test_a_run_goes_on_where_libero_is_not(tmp_path, monkeypatch):
    "Also with a folder given, as `make run` does"
    from reasonflow.cli import report, run_notebook
    monkeypatch.setenv("REASONFLOW_LIBERO_ASSETS", str(tmp_path/"nothing"))
    notebook = run_notebook("libero", "smoke", tmp_path/"run")
    assert "is no folder" in json.loads((tmp_path/"run/results.json").read_text())["not run"]["value"]
    page = report({"libero": tmp_path/"run"}, tmp_path/"report/report.html", "smoke").read_text()
    assert "is no folder" in page and "../run/notebook.ipynb" in page

def test_success_alone_has_lifted_the_policy_of_few_demonstrations():
    "Of three seeds, more than the same with successes dealt out by lot, and also where nobody demonstrated; from the shipped start"
    import csv
    from reasonflow.runs import find_asset, weights_hash
    with open(find_asset("results/tiny-policy-rl.csv")) as f: rows = list(csv.DictReader(f))
    with open(find_asset("results/tiny-policy-rl-curves.csv")) as f: assert {p["start"] for p in csv.DictReader(f)} == {r["start"] for r in rows} == {weights_hash("tiny-policy-few")}
    found = lambda what, seed="all": next(r for r in rows if (r["method"], r["seed"], r["what"]) == ("Flow-SDE, GRPO", seed, what)); value = lambda r, k="value": float(r[k])
    for kind in ("families tried", "unseen combinations"):
        assert value(found(f"rise, {kind}"), "low") > 0 and value(found(f"more than by lot, {kind}"), "low") > 0 and value(found(f"rise, {kind}")) >= .1
        assert all(value(found(f"after, {kind}", s)) > value(found(f"before, {kind}", s)) and int(found(f"after, {kind}", s)["n"]) == 150 for s in "012")
        assert value(found(f"rise, {kind}, from no noise"), "high") > 0

def test_rl_command_names_what_is_missing():
    from typer.testing import CliRunner
    from reasonflow.cli import app
    ask = lambda *args: " ".join(CliRunner().invoke(app, ["rl", "nowhere", *args]).output.split())
    assert "--demos" in ask("--methods", "success imitated") and "unknown method 'luck'" in ask("--methods", "luck") and "no checkpoint 'nobody'" in ask("--start", "nobody")

@pytest.mark.slow
def test_another_way_can_be_asked_for(tmp_path, monkeypatch):
    "The notebook's parameter `way`, up to and with its run"
    import matplotlib; matplotlib.use("Agg")
    import reasonflow.rl as rl
    from reasonflow.cli import notebooks_folder
    from reasonflow.launch import cells_of
    asked = []; monkeypatch.setattr(rl, "fine_tune", lambda start, folder, config, shown=None: (asked.append(config), [dict(round=0, episodes=0, steps=0, validation=dict(value=.5, low=.1, high=.9, n=2))])[1])
    there = vars(__import__("fastcore.test", fromlist=["test_eq"])) | vars(rl) | {"__name__": "launched"}
    for tags, text in cells_of(notebooks_folder()/"05_rl.ipynb", "rounds = fine_tune(", there):
        exec(compile(text, "05_rl.ipynb", "exec"), there)
        if "parameters" in tags: there |= dict(preset="smoke", way="fpo", folder=str(tmp_path/"run"))
    assert asked[-1].way == "fpo"; rl.WAYS["fpo"](32, **dict(asked[-1].way_kw))      # nothing is set that is for another
