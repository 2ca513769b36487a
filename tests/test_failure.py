"The alarm's promise, what is felt on the way, and rollouts that are picked up again"
import json, math
import numpy as np
import pytest, torch

def test_the_promise_holds_whatever_the_curves_are():
    "Exchangeable curves of any kind, correlated, skewed or with jumps: false alarms at the exact rate"
    from reasonflow.failure import alarms, band
    rng = np.random.default_rng(0)
    kinds = {"walks": lambda n: rng.normal(size=(n, 12)).cumsum(1), "skewed": lambda n: rng.exponential(size=(n, 1))*np.linspace(1, 5, 12) + rng.exponential(size=(n, 12)), "jumps": lambda n: (rng.random((n, 12)) < .05).cumsum(1) + 1e-3*rng.random((n, 12))}
    for name, make in kinds.items():
        for promise in (.1, .25):
            rate = np.mean([(alarms(make(100), band(make(40), promise, i).upper) >= 0).mean() for i in range(300)])
            assert rate <= promise + .015, (name, promise, rate)
            if name != "jumps": assert rate == pytest.approx(1 - math.ceil(21*(1 - promise))/21, abs=.015), (name, promise, rate)

def test_the_promise_is_broken_where_successes_come_from_elsewhere():
    from reasonflow.failure import alarms, band
    rng = np.random.default_rng(0); walk = lambda n: rng.normal(size=(n, 12)).cumsum(1)
    assert np.mean([(alarms(1.8*walk(100), band(walk(40), .1, i).upper) >= 0).mean() for i in range(100)]) > .2

def test_a_score_learns_what_tells_and_nothing_from_chance():
    from reasonflow.failure import auc, curves_of, fit_score
    rng = np.random.default_rng(1); failed = rng.random(400) < .3; x = rng.normal(size=(400, 10, 5)).astype(np.float32)
    for kind in ("sum", "memory"):
        blind = auc(curves_of(fit_score(x[:200], failed[:200], kind), x[200:])[:, -1], failed[200:]); assert blind["low"] < .5 < blind["high"], (kind, blind)
        told = x.copy(); told[failed, 5:, 0] += 1.5; assert auc(curves_of(fit_score(told[:200], failed[:200], kind), told[200:])[:, -1], failed[200:])["value"] > .8

def test_rollouts_are_picked_up_again(tmp_path, monkeypatch):
    import reasonflow.failure as failure
    loop = dict(horizon=32, at_once=2); whole = failure.gathered(tmp_path/"whole", "tiny-policy", 4, 400_000, part=2, progress=False, **loop)
    real, calls = failure.rides_of, []
    def stop(policy, trials, **kw):
        if calls: raise KeyboardInterrupt
        calls.append(1); return real(policy, trials, **kw)
    monkeypatch.setattr(failure, "rides_of", stop)
    with pytest.raises(KeyboardInterrupt): failure.gathered(tmp_path/"cut", "tiny-policy", 4, 400_000, part=2, progress=False, **loop)
    monkeypatch.setattr(failure, "rides_of", real)
    again = failure.gathered(tmp_path/"cut", "tiny-policy", 4, 400_000, part=2, progress=False, **loop)
    for a, b in zip(whole, again): assert a.trial == b.trial and all(np.array_equal(a.read[k], b.read[k]) for k in ("hidden", "state")) and np.array_equal(a.frames, b.frames)
    with pytest.raises(ValueError, match="episodes = 4"): failure.gathered(tmp_path/"cut", "tiny-policy", 6, 400_000, part=2, progress=False, **loop)

def test_what_was_felt_is_what_the_expert_ended_on():
    "The kept hidden state, sent through the last layer, is the velocity of the last solver step"
    from reasonflow.evaluate import TabletopRobot, trials_of
    from reasonflow.expert import load_policy
    from reasonflow.failure import Feeling
    policy = load_policy("tiny-policy"); feeling, seen, net = Feeling(policy), [], policy.driver.expert; feeling.reset([0])
    hook = net.register_forward_hook(lambda m, args, out: seen.append((args[1], out)))
    feeling.predict_batch([TabletopRobot(trials_of("tabletop", 1, 400_000)[0], 144, 160).observation()], [0]); hook.remove()
    driven = [v for t, v in seen if v.shape[1] == 1][-1]
    with torch.no_grad(): assert torch.allclose(net.leave(torch.tensor(feeling.rows[0]["hidden"])), driven.mean((1, 2))[0], atol=1e-4)
    assert len(seen) == 2*policy.steps and not (net._forward_pre_hooks or net.leave._forward_pre_hooks)

def test_the_recorded_run_is_of_these_weights():
    from reasonflow.runs import find_asset, weights_hash
    record = json.loads(find_asset("results/tiny-policy-failure.json").read_text()); r = record["results"]
    assert record["weights"] == weights_hash("tiny-policy") and record["vlm_weights"] == weights_hash("tiny-sft")
    assert all(x["n"] and (x["low"] is None or x["low"] <= x["value"] + 1e-9) for x in r.values())
    assert all(v["value"] <= record["promise"] + .04 for k, v in r.items() if k.startswith("false alarms") and ", pushing," not in k)      # promised is the average over tasks, not every task
    n = len(record["curves"]["failed"]); assert n == record["episodes"] - record["episodes"]//3 == len(record["curves"]["score"])

@pytest.mark.slow
def test_the_notebook_leaves_results_with_n_and_interval(tmp_path):
    from reasonflow.cli import run_notebook
    run_notebook("failure", "smoke", tmp_path)
    results = json.loads((tmp_path/"results.json").read_text())
    assert {"right, failure identification", "area under the ROC, hidden state, sum", "interventions, stopping by hidden state, sum"} <= set(results) and all(r["n"] for r in results.values())

def test_the_command_refuses_what_it_cannot_read(tmp_path):
    from typer.testing import CliRunner
    from reasonflow.cli import app
    for name, words in (("tiny-qwenpi", "only a flow"), ("nothing-here", "no checkpoint")):
        r = CliRunner().invoke(app, ["failures", str(tmp_path/name), "--checkpoint", name, "--episodes", "20"])
        assert r.exit_code == 2 and words in r.output, r.output
