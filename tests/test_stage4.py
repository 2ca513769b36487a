"Stage 4 end to end: an arm that is interrupted, and the command for the grid"
import json
import pytest, torch
from safetensors.torch import load_file
from test_stage2 import Stop, StopAt

FEW = dict(steps=4, batch=4, draws=2, width=32, episodes=2, held=2, quick=True)

@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from reasonflow.coupling import add_targets
    from reasonflow.episodes import demonstrate
    from reasonflow.qwenpi import prepare_pictures
    box = tmp_path_factory.mktemp("stage4")
    demos = demonstrate(box/"demos", 4, families=("pick up", "push to"), workers=1, progress=False)
    return add_targets(prepare_pictures(box/"pictures", demos, "tiny-sft", every=8, student="tiny-student", workers=1, progress=False), box/"geometry", workers=1, progress=False)

@pytest.mark.slow
def test_an_interrupted_arm_goes_on_and_ends_the_same(pictures, tmp_path, monkeypatch):
    import reasonflow.coupling as coupling
    arm = coupling.Arm("full", "on")
    whole = coupling.run_arm(arm, tmp_path/"whole", pictures, **FEW)
    real = coupling.train_driver
    monkeypatch.setattr(coupling, "train_driver", lambda *a, callbacks=(), **kw: real(*a, callbacks=[*callbacks, StopAt(2)], **kw))
    with pytest.raises(Stop): coupling.run_arm(arm, tmp_path/"cut", pictures, **FEW)
    assert not list((tmp_path/"cut").glob("*/results.json"))
    monkeypatch.setattr(coupling, "train_driver", real)
    again = coupling.run_arm(arm, tmp_path/"cut", pictures, **FEW)
    a, b = (load_file(next((tmp_path/w).glob("*/policy/model.safetensors"))) for w in ("whole", "cut"))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a) and again == whole

@pytest.mark.slow
def test_an_arm_is_saved_as_a_plain_policy(pictures, tmp_path):
    from reasonflow.coupling import Arm, run_arm
    from reasonflow.expert import load_policy
    run_arm(Arm("insulated"), tmp_path, pictures, **FEW | dict(steps=2))
    policy = load_policy(str(next(tmp_path.glob("*/policy"))))
    assert type(policy.driver).__name__ == "QwenPI" and not [k for k in policy.driver.state_dict() if "writer" in k]

def test_the_command_refuses_what_it_does_not_know(tmp_path):
    from typer.testing import CliRunner
    from reasonflow.cli import app
    r = CliRunner().invoke(app, ["couple", str(tmp_path/"grid"), "--demos", str(tmp_path/"nothing"), "--part", "everything"])
    assert r.exit_code == 2 and "choose from coupling" in r.output
    r = CliRunner().invoke(app, ["couple", str(tmp_path/"grid"), "--demos", str(tmp_path/"nothing")])
    assert r.exit_code == 2 and "nothing" in r.output
