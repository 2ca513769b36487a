"The embedded world keeps its promises"
import numpy as np, pytest
from reasonflow.world import (FAMILIES, FAULTS, HELD_OUT, MEMORY, Tabletop, can_inject, happened, roll_out, sample_task, show_at)

@pytest.mark.parametrize("family", [*FAMILIES, *MEMORY])
def test_expert_solves(family):
    "40 episodes each here; `python -m reasonflow.bench expert` measures 500"
    env = Tabletop(32, cameras=(), family=family); solved = 0
    for seed in range(410_000, 410_040): env.reset(seed=seed); solved += roll_out(env).success
    assert solved >= 38

@pytest.mark.parametrize("fault", FAULTS)
def test_fault_causes_what_it_says(fault):
    env, seen, tried = Tabletop(32, cameras=()), 0, 0
    for seed in range(411_000, 411_040):
        env.reset(seed=seed)
        if can_inject(env, fault): r = roll_out(env, fault); tried += 1; seen += happened(r); assert not (happened(r) and r.success)
    assert tried >= 10 and seen >= .8*tried

def test_same_seed_same_everything():
    runs = []
    for _ in range(2):
        env = Tabletop(48); obs, _ = env.reset(seed=400_050); r = roll_out(env); runs.append((obs["image"], env.observation()["image"], r.qpos, r.actions))
    for a, b in zip(*runs): assert np.array_equal(a, b)

def test_scenes_differ(): assert sample_task(1) != sample_task(2)

def test_held_out_target_only_when_asked():
    for seed in range(60):
        scene, task = sample_task(seed, combos="held out"); t = scene.things[task.target]
        assert (t.colour, t.kind) in HELD_OUT

def test_nothing_success_at_the_start():
    for family in [*FAMILIES, *MEMORY]:
        env = Tabletop(32, cameras=(), family=family)
        for seed in range(20): assert not env.reset(seed=seed)[1]["success"]

def test_doing_nothing_fails():
    env = Tabletop(32, cameras=()); env.reset(seed=5)
    for _ in range(20): *_, info = env.step(np.zeros(7))
    assert not info["success"]

def test_labels_and_image_agree():
    env = Tabletop(96, cameras=()); env.reset(seed=400_002); ids, depth = env.labels()
    assert set(np.unique(ids)) >= set(range(len(env.scene.things))) and .3 < depth[ids >= 0].min() < depth[ids >= 0].max() < 1.2

def test_actions_are_metres_and_radians():
    env = Tabletop(32, cameras=()); env.reset(seed=3); start, yaw = env.tip, env.yaw
    for _ in range(4): env.step(np.array([.2, 0, 0, 0, 0, .2, -1]))
    for _ in range(6): env.step(np.array([0, 0, 0, 0, 0, 0, -1.]))
    assert abs((env.tip - start)[0] - .04) < .006 and abs(env.state()[5] - .4) < .02

def test_bad_action():
    env = Tabletop(32, cameras=()); env.reset(seed=3)
    with pytest.raises(ValueError, match="not finite"): env.step(np.full(7, np.nan))

def test_show_at_restores():
    env = Tabletop(48, cameras=()); env.reset(seed=400_003); first = env.draw(); r = roll_out(env)
    assert np.array_equal(show_at(env, r, 0).draw(), first)
