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
