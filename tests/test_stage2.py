"Stage 2 end to end: what is interrupted and taken up again equals what was not; bad buffers and rewards stop before anything is lost"
import copy, io, math
import numpy as np, pytest, torch
from PIL import Image
from transformers import TrainerCallback

class Stop(Exception): pass

class StopAt(TrainerCallback):
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step: control.should_save = True
    def on_save(self, args, state, control, **_): raise Stop

@pytest.fixture(scope="module")
def small():
    from reasonflow.backbone import load
    from reasonflow.grpo import warmup_samples
    from reasonflow.sft import make_samples
    model, processor = load("tiny-sft")
    return model, processor, make_samples([("reason", i, dict(size=144, combos="seen", style="short")) for i in range(4)], progress=False)

def brief(completions, **_): return [1/(1 + len(c[0]["content"])) for c in completions]

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))

@pytest.mark.slow
def test_grpo_resumes_exactly(small, tmp_path):
    from reasonflow.backbone import freeze_eyes
    from reasonflow.grpo import train_grpo
    from reasonflow.runs import Run
    model, processor, samples = small
    def go(folder, policy, **more):
        torch.manual_seed(0)
        train_grpo(policy, processor, samples, Run("grpo", folder), steps=4, prompts=2, group=2, max_length=16, iterations=2, reward=brief, save_steps=2, disable_tqdm=True, **more)
        return policy
    whole = go(tmp_path/"whole", freeze_eyes(copy.deepcopy(model)))
    with pytest.raises(Stop): go(tmp_path/"cut", freeze_eyes(copy.deepcopy(model)), callbacks=[StopAt(2)])
    again = go(tmp_path/"cut", freeze_eyes(copy.deepcopy(model)))
    assert same(whole, again) and not same(whole, model)

@pytest.mark.slow
def test_metrics_are_kept_out_of_the_progress_bar(small, tmp_path, capsys):
    from reasonflow.grpo import train_grpo
    from reasonflow.runs import Run, read_metrics
    model, processor, samples = small
    train_grpo(copy.deepcopy(model), processor, samples, Run("grpo", tmp_path), steps=1, prompts=2, group=2, max_length=4, iterations=1, reward=brief, disable_tqdm=False)
    assert "grad_norm" not in capsys.readouterr().out and read_metrics(tmp_path)

def buffer_rows(processor, samples):
    from reasonflow.grpo import with_thought
    rows = []
    for s in samples:
        png = io.BytesIO(); Image.fromarray(np.asarray(s.frames[0])).save(png, "PNG")
        say = lambda t: processor.tokenizer(t, add_special_tokens=False)["input_ids"] + [processor.tokenizer.eos_token_id]
        rows.append(dict(frames=[png.getvalue()], human=s.human, truth=s.assistant, best=say(with_thought(s).assistant), worst=say("</think>\n\n[[0,0],[0,0],[0,0],[0,0],[0,0]]")))
    return rows

@pytest.mark.slow
def test_student_resumes_exactly_over_the_change_of_phase(small, tmp_path):
    from reasonflow.distill import train_student
    from reasonflow.runs import Run, read_metrics
    model, processor, samples = small
    rows, states = buffer_rows(processor, samples), torch.randn(len(samples), model.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    def go(folder, **more): return train_student(copy.deepcopy(model), processor, rows, states, Run("distill", folder), steps=4, batch=2, lr=1e-3, save_steps=2, disable_tqdm=True, logging_steps=1, **more)
    whole = go(tmp_path/"whole")
    with pytest.raises(Stop): go(tmp_path/"cut", callbacks=[StopAt(2)])
    again = go(tmp_path/"cut")
    assert same(whole, again)
    assert ["read" in r for r in read_metrics(tmp_path/"whole") if "loss" in r] == [True, True, True, False]

def test_bad_rewards_and_empty_groups_stop(small):
    from reasonflow.grpo import advantages, checked, as_prompts
    for bad, words in ((lambda completions: [1.], "1 rewards for 2"), (lambda completions: None, "nothing for 2"), (lambda completions: [1., None], "is None"), (lambda completions: [1., math.nan], "is nan")):
        with pytest.raises(ValueError, match=words): checked(bad)(["a", "b"])
    with pytest.raises(ValueError, match="empty or cut"): advantages(torch.tensor([]), 4)
    with pytest.raises(ValueError, match="no samples"): as_prompts([])

def test_student_needs_traces(small, tmp_path):
    from reasonflow.distill import train_student
    from reasonflow.runs import Run
    with pytest.raises(ValueError, match="less than one batch"): train_student(small[0], small[1], [], [], Run("distill", tmp_path), 1, 1, 1e-3)
