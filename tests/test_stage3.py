"Stage 3 end to end: recordings, what the student makes of them, a training that is interrupted, a policy that drives"
import json
import pytest, torch
from test_stage2 import Stop, StopAt, same

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A small data set, an untrained student, and the moments of both"
    from reasonflow.backbone import load
    from reasonflow.distill import Distillation, LatentStudent, new_verbalizer, point_marks, save_student
    from reasonflow.episodes import demonstrate
    from reasonflow.expert import prepare
    box = tmp_path_factory.mktemp("stage3")
    torch.manual_seed(0)
    model, processor = load("tiny-teacher"); tok = processor.tokenizer
    student = LatentStudent(model, tok.convert_tokens_to_ids("</think>"), marks=point_marks(tok), bottleneck=True)
    save_student(box/"student", Distillation(student, new_verbalizer(tok, 128)), processor)
    demonstrate(box/"demos", 2, families=("pick up", "push to"), per_part=2, workers=1, progress=False)
    prepare(box/"moments", box/"demos", box/"student", per_part=2, workers=1, progress=False)
    return box

def fresh():
    from reasonflow.expert import new_driver
    torch.manual_seed(0)
    return new_driver()

@pytest.mark.slow
def test_expert_resumes_exactly(place, tmp_path):
    from reasonflow.expert import Moments, train_driver
    from reasonflow.runs import Run
    moments = Moments(place/"moments", place/"demos")
    def go(folder, **more): return train_driver(fresh(), moments, Run("expert", folder), steps=4, batch=4, lr=1e-3, save_steps=2, vary=.1, disable_tqdm=True, **more)
    whole = go(tmp_path/"whole")
    with pytest.raises(Stop): go(tmp_path/"cut", callbacks=[StopAt(2)])
    again = go(tmp_path/"cut")
    assert same(whole, again) and not same(whole, fresh())

@pytest.mark.slow
def test_moments_go_on_where_they_were_stopped(place, tmp_path, monkeypatch):
    import reasonflow.expert as expert
    made, real = [], expert._read_part
    def stop(job):
        if made: raise Stop
        made.append(job); return real(job)
    monkeypatch.setattr(expert, "_read_part", stop)
    with pytest.raises(Stop): expert.prepare(tmp_path/"m", place/"demos", place/"student", per_part=1, workers=1, progress=False)
    monkeypatch.setattr(expert, "_read_part", lambda job: (made.append(job), real(job)))
    again = expert.prepare(tmp_path/"m", place/"demos", place/"student", per_part=1, workers=1, progress=False)
    whole = expert.Moments(place/"moments", place/"demos")
    assert len({str(j[0]) for j in made}) == len(made) == len(whole.data)                  # nothing was made twice
    assert all(torch.equal(again.all[k], whole.all[k]) for k in ("episode", "step", "wrist", "mask")) and torch.allclose(again.all["latents"].float(), whole.all["latents"].float(), atol=.02)

@pytest.mark.slow
def test_moments_of_another_request_are_refused(place):
    from reasonflow.expert import prepare
    for more, words in ((dict(every=4), "every = 2, and now every = 4"), (dict(think="each"), "think = "), (dict(student="tiny-teacher"), "student = ")):
        with pytest.raises(ValueError, match=words): prepare(place/"moments", place/"demos", more.pop("student", place/"student"), per_part=2, workers=1, progress=False, **more)

@pytest.mark.slow
def test_broken_films_are_left_out_and_counted(place, tmp_path):
    import shutil
    from reasonflow.expert import prepare
    shutil.copytree(place/"demos", tmp_path/"demos")
    film = next((tmp_path/"demos"/"videos").glob("observation.images.image/*/file-001.mp4")); film.write_bytes(film.read_bytes()[:3000])
    moments = prepare(tmp_path/"m", tmp_path/"demos", place/"student", per_part=2, workers=1, progress=False)          # the second part has nothing good in it
    assert {e for e, _ in moments.bad} == {2, 3} and set(moments.all["episode"].tolist()) == {0, 1} and all("file-001" in why for _, why in moments.bad)

@pytest.mark.slow
def test_policy_drives_from_a_folder_and_from_the_command_line(place, tmp_path):
    from typer.testing import CliRunner
    from reasonflow.cli import app
    from reasonflow.expert import Moments, Policy, load_policy, save_policy
    from reasonflow.distill import load_student
    moments, (both, processor) = Moments(place/"moments", place/"demos"), load_student(place/"student")
    save_policy(tmp_path/"policy", Policy(fresh().eval(), both.student, processor, moments.norm, moments.arm, about=dict(student_weights=moments.student)), place/"student")
    r = CliRunner().invoke(app, ["eval", "--checkpoint", str(tmp_path/"policy"), "--suite", "tabletop", "--episodes", "2", "--seed", "400000", "--workers", "1", "--json", str(tmp_path/"out.json")])
    assert r.exit_code == 0, r.output
    record = json.loads((tmp_path/"out.json").read_text())
    assert record["results"]["success, all"]["n"] == 2 and record["weights"]
    r = CliRunner().invoke(app, ["eval", "--checkpoint", str(tmp_path/"policy"), "--suite", "tabletop", "--episodes", "1", "--seed", "400000", "--workers", "1", "--execute", "4", "--folder", str(tmp_path/"trials"), "--json", str(tmp_path/"four.json")])
    assert r.exit_code == 0, r.output
    trial = json.loads((tmp_path/"trials"/"trials.jsonl").read_text()); assert trial["looks"] == -(-trial["steps"]//4) and json.loads((tmp_path/"four.json").read_text())["execute"] == 4
    (tmp_path/"policy"/"normalization.json").unlink()
    with pytest.raises(FileNotFoundError, match="normalization.json is missing"): load_policy(tmp_path/"policy")
    about = json.loads((tmp_path/"policy"/"config.json").read_text()); (tmp_path/"policy"/"config.json").write_text(json.dumps(about | {"student_weights": "0"*16}))
    with pytest.raises(ValueError, match="was trained on the student"): load_policy(tmp_path/"policy")

def test_the_policy_that_was_measured_is_shipped():
    import csv
    from reasonflow.runs import find_asset, weights_hash
    with open(find_asset("results/tiny-policy.csv")) as f: rows = [r for r in csv.DictReader(f) if r["weights"] == weights_hash("tiny-policy") and r["what"] == "success, all but stack"]
    of = {r["case"]: r for r in rows}
    assert int(of["as it is"]["n"]) >= 150 and float(of["as it is"]["value"]) >= .7
    for c in ("latents", "points", "goal", "instruction", "image"): assert {f"{c}, off", f"{c}, of another scene"} <= set(of), c

@pytest.mark.slow
def test_recorded_trials_happen_again():
    import numpy as np
    from reasonflow.evaluate import TabletopRobot, Trial, kept_examples
    again = []
    for t in kept_examples("tiny-policy"):
        robot = TabletopRobot(Trial(t.suite, t.family, t.seed), 48, len(t.actions) + 1); robot.follow(np.asarray(t.actions)); again.append(robot.env.success() == t.success)
    assert np.mean(again) > .8, again                                                              # processors may differ in the last digit, and contacts amplify it

@pytest.mark.slow
def test_shipped_policy_drives():
    from reasonflow.expert import evaluate_policy
    results, trials = evaluate_policy("tiny-policy", episodes=20, seed=410_000, families=["pick up", "put on", "put into", "move near"], workers=2, progress=False)
    assert sum(t.success for t in trials) >= 8, results

@pytest.mark.slow
def test_a_recording_is_read_by_a_process_that_loads_nothing_else(place):
    import subprocess, sys
    code = f"from reasonflow.episodes import EpisodeSet; assert len(EpisodeSet({str(place/'demos')!r}).read(0, cameras=())) > 10"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr

@pytest.mark.slow
def test_draws_race_over_the_same_recordings(place):
    from reasonflow.bench import race_draws
    from reasonflow.expert import Moments
    rows = race_draws(Moments(place/"moments", place/"demos"), 2., draws=(1, 4), batch=4, held=2, points=2)
    assert [r["draws"] for r in rows] == [1, 1, 4, 4] and rows[0]["n looks"] == rows[3]["n looks"] > 0
    assert rows[1]["flow loss, held-out recordings"] < 1.5 and rows[3]["draws a second"] > rows[1]["draws a second"]
