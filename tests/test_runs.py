"A run can be killed at any moment and goes on as if nothing had happened"
import json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import numpy as np, pytest, torch
from reasonflow.backbone import add_lora, load, new_model, save, train_tokenizer
from reasonflow.base import corpus
from reasonflow.records import Sample
from reasonflow.runs import NonFiniteLoss, Run, find_checkpoint, last_checkpoint, read_metrics, restore, seed_everything
from reasonflow.sft import sft_config, GroundingTrainer, train_sft

@pytest.fixture(scope="module")
def smoke(): return train_tokenizer(corpus())

def samples(n=32):
    r = np.random.default_rng(0)
    return [Sample("d", "trajectory", "Task: pick up the red cube. Trajectory?", "[[1,2],[3,4],[5,6],[7,8],[9,10]]", [r.integers(0, 255, (72, 72, 3), dtype=np.uint8)], "image", str(i), "trajectory") for i in range(n)]

def trained(tok, folder, steps=6, stop=None, lora=None):
    "`stop`: the run is abandoned after that step, as by a kill"
    model, processor = new_model(tok, "smoke")
    if lora: model = add_lora(model, lora)
    seed_everything(0)
    class Stopped(Exception): pass
    trainer = GroundingTrainer(model, processor, sft_config(folder, steps, 4, 1e-3, save_steps=2, disable_tqdm=True), samples())
    if stop:
        step = trainer.training_step
        def training_step(*a, **k):
            if trainer.state.global_step == stop: raise Stopped
            return step(*a, **k)
        trainer.training_step = training_step
    try: trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    except Stopped: pass
    return {k: v.clone() for k, v in model.state_dict().items()}, trainer.optimizer.state_dict()["state"]

@pytest.mark.slow
def test_resumed_equals_uninterrupted(smoke, tmp_path):
    whole, opt = trained(smoke, tmp_path/"a")
    trained(smoke, tmp_path/"b", stop=3)
    assert last_checkpoint(tmp_path/"b").endswith("checkpoint-2")
    again, opt2 = trained(smoke, tmp_path/"b")
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    assert all(torch.equal(opt[i][k], opt2[i][k]) for i in opt for k in opt[i])

@pytest.mark.slow
def test_adapters_train_alone_and_resume(smoke, tmp_path):
    "The way of presets small and full: only adapters (and the coordinate head) move, and a stop changes nothing"
    start = {k: v.clone() for k, v in add_lora(new_model(smoke, "smoke")[0], 4).state_dict().items()}
    whole, _ = trained(smoke, tmp_path/"a", lora=4)
    moved = {k for k in start if not torch.equal(start[k], whole[k])}
    assert moved and all("lora_" in k for k in moved) and any("visual" in k for k in moved) and any("in_proj_qkv" in k for k in moved)
    trained(smoke, tmp_path/"b", stop=3, lora=4)
    again, _ = trained(smoke, tmp_path/"b", lora=4)
    assert all(torch.equal(whole[k], again[k]) for k in whole)

@pytest.mark.slow
def test_no_pickle_in_a_checkpoint(smoke, tmp_path):
    trained(smoke, tmp_path, steps=2)
    files = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert "state.safetensors" in files and not [f for f in files if f.endswith((".pt", ".pth", ".bin", ".pkl"))]

@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    "A process that saves without pause is killed at odd moments; what is left always loads, and is one whole save"
    code = textwrap.dedent(f"""
        import torch
        from safetensors.torch import save_file
        from reasonflow.runs import atomic_folder
        i = 0
        while True:
            i += 1
            with atomic_folder({str(tmp_path/'ckpt')!r}) as f:
                save_file({{"a": torch.full((200_000,), float(i))}}, f/"a.safetensors"); save_file({{"b": torch.full((200_000,), float(i))}}, f/"b.safetensors")
            print(i, flush=True)
    """)
    from safetensors.torch import load_file
    for pause in (.01, .05, .11, .17, .23):
        p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        p.stdout.readline(); time.sleep(pause); p.send_signal(signal.SIGKILL); p.wait()
        left = restore(tmp_path/"ckpt")
        a, b = load_file(left/"a.safetensors")["a"], load_file(left/"b.safetensors")["b"]
        assert torch.equal(a, b) and len(a.unique()) == 1

@pytest.mark.slow
def test_non_finite_loss_stops_and_keeps_the_batch(smoke, tmp_path):
    model, processor = new_model(smoke, "smoke")
    with torch.no_grad(): model.model.language_model.embed_tokens.weight[5:] = float("nan")
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        GroundingTrainer(model, processor, sft_config(tmp_path, 3, 4, 1e-3, disable_tqdm=True), samples()).train()
    from safetensors.torch import load_file
    batch = load_file(next(tmp_path.glob("bad-batch-step0.safetensors")))
    assert batch["input_ids"].shape[0] == 4 and "pixel_values" in batch

@pytest.mark.slow
def test_accumulation_equals_one_batch(smoke, tmp_path):
    "Batch 1 × accumulation 4 takes the same step as batch 4"
    norms = []
    for batch, accumulate in ((4, 1), (1, 4)):
        model, processor = new_model(smoke, "smoke"); seed_everything(0)
        record = Run("x", tmp_path/f"run{batch}")
        GroundingTrainer(model, processor, sft_config(tmp_path/str(batch), 1, batch, 1e-3, accumulate, log_steps=1, disable_tqdm=True), samples(), record=record).train()
        norms.append(read_metrics(record.folder)[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)      # before clipping: the gradients themselves

def test_empty_mixture(smoke, tmp_path):
    model, processor = new_model(smoke, "smoke")
    with pytest.raises(ValueError, match="mixture is empty"): GroundingTrainer(model, processor, sft_config(tmp_path, 1, 1, 1e-3), [])

def test_checkpoint_without_weights(tmp_path):
    (tmp_path/"config.json").write_text('{"model_type": "qwen3_5"}')
    with pytest.raises(FileNotFoundError, match="no model.safetensors"): load(str(tmp_path))

def test_shipped_checkpoints_load():
    for name in ("tiny-base", "tiny-sft"):
        folder = Path(find_checkpoint(name))
        assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 15e6
        assert (folder/"MODEL_CARD.md").exists() and not list(folder.glob("*.bin"))
        load(name)
