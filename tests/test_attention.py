"Maps of attention: they are the model's own numbers, they lie where they are said to lie, and they are held against covering"
import json
import numpy as np
import pytest, torch

@pytest.fixture(scope="module")
def asked():
    from reasonflow.attention import ask, views
    from reasonflow.backbone import load
    model, processor = load("tiny-sft"); model.set_attn_implementation("eager"); view = views(500_003, 1)[0]
    return model, processor, view, ask(processor, [view.image], *view.questions["target"])

def test_a_cell_of_the_map_is_a_cell_of_the_picture(asked):
    "Painting over a cell changes what enters the language model at that token, and (through the vision tower) most of all there"
    from reasonflow.attention import cover
    from reasonflow.backbone import patchify
    model, _, view, a = asked
    with torch.no_grad(): seen = [torch.cat(list(model.model.get_image_features(*patchify(x, a.patch), return_dict=True).pooler_output)).view(len(x), -1, 128) for x in (view.image[None], cover(view.image, a.side))]
    change = (seen[1] - seen[0]).norm(dim=-1)                                                        # (cells, cells)
    busy = [k for k, c in enumerate(cover(view.image, a.side)) if np.abs(c.astype(int) - view.image).sum() > 10_000]
    assert len(busy) >= 5 and all(int(change[k].argmax()) == k for k in busy)

def test_weights_of_the_heads_are_those_that_are_used(asked, monkeypatch):
    "What `Gaze` computes beside the head is what the head's own attention weighs with"
    from torch.nn import functional as F
    from reasonflow.attention import Gaze, chunks_of
    from reasonflow.expert import load_policy
    _, _, view, _ = asked
    for name in ("tiny-policy", "tiny-qwenpi"):
        policy, used, made = load_policy(name), [], []
        real, weigh, add = F.scaled_dot_product_attention, Gaze.weights, Gaze.add
        def spy(q, k, v, attn_mask=None, *a, **kw):
            if attn_mask is not None and q.shape[2] != k.shape[2] and attn_mask.dtype == torch.bool: used.append(((q @ k.mT/q.shape[-1]**.5).masked_fill(~attn_mask, -torch.inf).softmax(-1), v, real(q, k, v, attn_mask, *a, **kw)))
            return real(q, k, v, attn_mask, *a, **kw)
        with monkeypatch.context() as m:
            m.setattr(F, "scaled_dot_product_attention", spy); m.setattr(Gaze, "add", lambda self, i, w: (made.append(w), add(self, i, w))[1])
            with Gaze(policy) as gaze: chunks_of(policy, view.observation)
        mine = [u for u in used if u[0].shape[-1] == made[0].shape[-1] or u[0].shape[-1] in {w.shape[-1] for w in made}][-len(made):]
        assert len(mine) == len(made) == policy.steps*len(gaze.blocks)
        for (w, v, out), got in zip(mine, made):
            assert torch.allclose(w @ v, out, atol=1e-4)
            assert torch.allclose(w[:, :, -16:][:, :, :8].mean(2), got, atol=1e-4)

def test_nothing_is_left_behind(asked):
    from reasonflow.attention import Gaze, chunks_of, maps_of
    from reasonflow.expert import load_policy
    model, _, view, a = asked; count = lambda net: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    maps_of(model, a, view.image); n = count(model); maps_of(model, a, view.image); assert count(model) == n          # transformers keeps hooks of its own for hidden states
    policy = load_policy("tiny-policy"); before, n = chunks_of(policy, view.observation), count(policy.driver)
    with Gaze(policy): inside = chunks_of(policy, view.observation)
    assert torch.equal(before, inside) and torch.equal(before, chunks_of(policy, view.observation)) and not policy.slots
    assert count(policy.driver) == n

def test_the_sum_over_a_rollout_is_the_mean_of_its_looks():
    from reasonflow.attention import Gaze
    from reasonflow.evaluate import run_trials, trials_of
    from reasonflow.expert import load_policy
    policy = load_policy("tiny-qwenpi"); trials = lambda: trials_of("tabletop", 2, 400_000); own = []
    with Gaze(policy) as gaze:
        real = gaze.add; gaze.add = lambda i, w: (own.append((i, w.clone())), real(i, w))[1]
        run_trials(policy, trials(), at_once=2, horizon=32, progress=False)
    assert gaze.n[0] == 2*4*policy.steps and set(gaze.total) == set(range(6)) and gaze.mean().shape == (6, 3, 36)
    kept = sum(t.numel() for t in gaze.total.values())
    with Gaze(policy) as longer: run_trials(policy, trials(), at_once=2, horizon=64, progress=False)
    assert sum(t.numel() for t in longer.total.values()) == kept and longer.n[0] == 2*gaze.n[0]

def test_a_map_that_knows_covering_is_told_from_one_that_does_not(asked):
    "Random maps do not correlate with covering; covering itself does, and the gradient more than chance"
    from reasonflow.attention import agreement, findings, study, views
    model, processor, *_ = asked; rows = study(model, processor, views(400_100, 4)); rng = np.random.default_rng(0)
    for r in rows: r["maps"] |= {"chance": rng.random(r["drop"].shape), "covering": np.abs(r["drop"])}
    f = findings(rows); v = lambda k: f[f"rank correlation with covering, {k}"]
    assert v("covering")["value"] == pytest.approx(1) and abs(v("chance")["value"]) < .3 and v("gradient × input")["low"] > .4
    assert all(r["n"] == 4 and r["low"] <= r["value"] <= r["high"] for r in f.values())

@pytest.mark.slow
def test_the_notebook_leaves_results_with_n_and_interval(tmp_path):
    from reasonflow.cli import run_notebook
    run_notebook("attention", "smoke", tmp_path)
    results = json.loads((tmp_path/"results.json").read_text())
    assert {"tiny-sft: rank correlation with covering, top-k fusion", "tiny-qwenpi: rank correlation with covering, gradient × input", "mass on the target, covering, after Stage 1 − before"} <= set(results)
    assert all(r["n"] and r["low"] <= r["value"] <= r["high"] for r in results.values())
