"The same code at full size: planned on the device without memory, and its paths taken at tiny size"
import json
from pathlib import Path
import pytest, torch
ROOT = Path(__file__).resolve().parent.parent

# -- plans

def test_published_counts():
    from reasonflow.plan import count, empty_model
    for name, n in (("Qwen/Qwen3.5-4B", 4_539_265_536), ("Qwen/Qwen3.5-0.8B", 852_985_920)):
        model = empty_model(name)
        assert count(model) == n and {p.device.type for p in model.parameters()} == {"meta"}

@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_plan_of_small_shapes_is_within_15_percent(again):
    "Layers as wide as Qwen3.5-0.8B's and its whole vocabulary, four layers deep, with adapters"
    import copy
    from reasonflow.plan import QWEN3_5_08B, Step, compared
    config = copy.deepcopy(QWEN3_5_08B); config["text_config"]["num_hidden_layers"] = 4; config["vision_config"]["depth"] = 2
    r = compared(config, Step(gpu=False, words=64, answer=32, lora=16, checkpointing=again))
    print(f"estimated {r['estimated']/2**20:.0f} MiB, measured {r['measured']/2**20:.0f}: ratio {r['ratio']:.3f}, beside the weights {r['beside']:.3f}")
    assert abs(r["ratio"] - 1) < .15 and abs(r["beside"] - 1) < .15

def test_plan_command():
    from typer.testing import CliRunner
    from reasonflow.cli import app
    ask = lambda *args: CliRunner().invoke(app, ["plan", *args], env={"COLUMNS": "200"})
    ok = ask("--preset", "full", "--stage", "sft", "--gpu", "A4000")
    assert ok.exit_code == 0 and "4,539,265,536" in ok.output and "75,000" in ok.output and "fits on A4000" in ok.output
    no = ask("--preset", "full", "--stage", "grpo", "--gpu", "L4")
    assert no.exit_code == 2 and "Most goes to" in no.output and "It fits on" in no.output
    assert "choose from sft" in ask("--preset", "full", "--stage", "dance").output and "choose from T4" in ask("--gpu", "X").output

def test_the_card():
    from reasonflow.runs import preset
    P = preset("full"); S = P.stage["sft"]
    assert (P.model, P.image, P.frames, S["lr"], S["batch"], S["accumulate"], S["lora"], S["steps"]) == ("Qwen/Qwen3.5-4B", 448, 8, 1e-5, 1, 8, 16, 75_000) and len(S["samples"]) == 8
    t = P.stage["grpo"]["train"]
    assert (t["lr"], t["group"], t["max_length"], t["optim"], t["level"], P.stage["grpo"]["steps"]) == (5e-6, 4, 2048, "adamw_8bit", "sequence", 100)
    q = P.stage["qwenpi"]; assert (q["batch"], q["gpus"], q["draws"], q["steps"], q["warm"], q["lr"]) == (24, 8, 8, 100_000, 5_000, 1e-4)
    assert preset("small").model == "Qwen/Qwen3.5-0.8B"

# -- publishing

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub that is a folder: owner/name are folders in it"
    import shutil, huggingface_hub
    place = tmp_path/"hub"
    def download(repo_id, local_dir, ignore_patterns=(), **kw):
        if not (place/repo_id).is_dir(): raise huggingface_hub.errors.LocalEntryNotFoundError(f"no {repo_id}")
        shutil.copytree(place/repo_id, local_dir, ignore=shutil.ignore_patterns(*ignore_patterns)); return local_dir
    def upload(self, repo_id, folder_path, **kw): shutil.copytree(folder_path, place/repo_id, dirs_exist_ok=True); return f"local://{repo_id}"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **kw: None)
    monkeypatch.setenv("REASONFLOW_HOME", str(tmp_path/"home"))
    return place

def like_stage1(place):
    "A tiny Qwen3.5 as Unsloth and transformers write one: several files, an output layer of its own, norms in float32, a processor that wants torchvision, and pickles"
    from safetensors.torch import load_file, save_file
    from reasonflow.backbone import load
    model, processor = load("tiny-sft")
    model.to(torch.bfloat16).save_pretrained(place, max_shard_size="1MB"); processor.tokenizer.save_pretrained(place)
    index = json.loads((place/"model.safetensors.index.json").read_text()); last = sorted(set(index["weight_map"].values()))[-1]
    some = load_file(place/last); some["lm_head.weight"] = model.lm_head.weight.detach().clone(); index["weight_map"]["lm_head.weight"] = last
    for k in [k for k in some if "norm" in k]: some[k] = some[k].float()
    save_file(some, place/last, metadata={"format": "pt"}); (place/"model.safetensors.index.json").write_text(json.dumps(index))
    (place/"preprocessor_config.json").write_text(json.dumps(dict(image_processor_type="Qwen2VLImageProcessorFast", processor_class="Qwen3VLProcessor", patch_size=12)))
    (place/"video_preprocessor_config.json").write_text(json.dumps(dict(video_processor_type="Qwen3VLVideoProcessor", processor_class="Qwen3VLProcessor")))
    (place/"README.md").write_text("# stage1\n"); (place/"training_args.bin").write_bytes(b"a pickle")
    return model

def like_adapters(place, base, rank=4, seed=3):
    "Adapters over `base` as PEFT writes them, that do something"
    from peft import LoraConfig, get_peft_model
    from reasonflow.backbone import LORA_TARGETS, load
    torch.manual_seed(seed)
    model = get_peft_model(load("tiny-sft")[0], LoraConfig(r=rank, target_modules=rf"model\.language_model\..*\.({'|'.join(LORA_TARGETS)})"))
    for n, p in model.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=.02)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(place)
    return model.merge_and_unload()

def said(model, processor):
    from reasonflow.backbone import Collator
    import numpy as np
    frame = np.random.default_rng(0).integers(0, 255, (144, 144, 3), dtype=np.uint8)
    batch = Collator(processor)([dict(frames=[frame], human="Task: pick up the red cube. Trajectory?", assistant="[[1,2],[3,4],[5,6],[7,8],[9,10]]")])
    with torch.no_grad(): return model.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")}, use_cache=False).last_hidden_state.float()

@pytest.mark.slow
def test_the_authors_checkpoints_load_by_name(hub):
    "Stage 1, a teacher of adapters, a student with loose tensors, in the layouts of the tools that wrote them; tiny, for no real file can be had here"
    from reasonflow.distill import LatentStudent
    from reasonflow.hub import fetch, load_by_name
    stage1 = like_stage1(hub/"shreethar"/"stage1_unsloth").float()
    model, processor = load_by_name("shreethar/stage1_unsloth", image=144)
    own = stage1.state_dict(); assert all(torch.equal(v.float(), own[k]) for k, v in model.state_dict().items()) and processor.image_processor.size["shortest_edge"] == 144**2
    folder = fetch("shreethar/stage1_unsloth"); assert not [p.name for p in folder.rglob("*") if p.suffix in (".bin", ".pt") or "preprocessor" in p.name]
    from reasonflow.runs import find_checkpoint
    assert find_checkpoint("shreethar/stage1_unsloth") == str(folder)                  # every stage finds it by name now

    (hub/"shreethar"/"stage2_teacher").mkdir(); taught = like_adapters(hub/"shreethar"/"stage2_teacher", "shreethar/stage1_unsloth")
    teacher, processor = load_by_name("shreethar/stage2_teacher", image=144)
    a, b, c = (said(m.float(), processor) for m in (teacher, taught, model))
    assert (a - b).abs().max() < .1*(b - c).abs().max()                                 # put in, up to bfloat16

    place = hub/"shreethar"/"LatentStudent-ckpt-400"; place.mkdir(); like_adapters(place, "shreethar/stage1_unsloth", seed=5)
    one = LatentStudent(stage1, 0)
    for p in (one.slots, *one.head.parameters()): torch.nn.init.normal_(p)
    torch.save(dict(spatial_tokens=one.slots.data, spatial_mlp={f"net.{k}": v for k, v in one.head.state_dict().items()}, step=400), place/"student_state.pt")
    both, _ = load_by_name("shreethar/LatentStudent-ckpt-400", image=144)
    assert torch.equal(both.student.slots, one.slots) and all(torch.equal(x, y) for x, y in zip(both.student.head.state_dict().values(), one.head.state_dict().values()))
    assert "random weights" in (fetch("shreethar/LatentStudent-ckpt-400")/"MODEL_CARD.md").read_text()
    torch.save(dict(a=one.slots.data, b=one.slots.data), place/"student_state.pt")
    with pytest.raises(ValueError, match="2 tensors have it"): fetch("shreethar/LatentStudent-ckpt-400", again=True)
    assert (fetch("shreethar/LatentStudent-ckpt-400")/"student.json").exists()           # the old one stays

@pytest.mark.slow
def test_a_run_is_published_and_comes_back(hub, tmp_path):
    "A checkpoint of a run: its card is made from the run's record; a truncated download is refused"
    from typer.testing import CliRunner
    from reasonflow.backbone import load, save
    from reasonflow.cli import app
    from reasonflow.hub import fetch, load_by_name, verify
    from reasonflow.runs import Run, wilson
    run = Run("sft", tmp_path/"run", preset="tiny", steps=3, places={"molmoact": "/somewhere/private"}, episodes=8)
    run.result("valid format", **wilson(9, 10)); run.result("a number without n", 3.); run.finish()
    model, processor = load("tiny-sft"); save(run.folder/"model", model, processor)
    ask = lambda *args: CliRunner().invoke(app, ["push", *args], env={"COLUMNS": "200"})
    dry = ask(str(run.folder/"model"), "me/mine", "--dry-run")
    assert dry.exit_code == 0 and "| valid format | 0.9 | 0.596 – 0.982 | 10 |" in dry.output and "a number without n" not in dry.output and "would be sent to me/mine" in dry.output and not hub.exists()
    assert ask(str(run.folder/"model"), "me/mine", "--private").exit_code == 0
    sent = hub/"me"/"mine"; text = "".join(p.read_text() for p in sent.rglob("*") if p.suffix in (".md", ".json", ".jsonl"))
    assert "/somewhere" not in text and str(tmp_path) not in text and {"README.md", "LICENSE", "SHA256SUMS", "config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in sent.iterdir()} and (sent/"run"/"results.json").exists()
    again, _ = load_by_name("me/mine")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values())) and verify(fetch("me/mine"))
    whole = (sent/"model.safetensors").read_bytes(); (sent/"model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match="not what was published"): fetch("me/mine", again=True)
    assert verify(fetch("me/mine"))
    assert "write owner/name" in ask("tiny-sft", "mine").output
