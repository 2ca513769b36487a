"The same code at full size: planned on the device without memory, and its paths taken at tiny size"
import importlib.util
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
    class Said:                                                      # a terminal's width may break any line
        def __init__(self, *args): r = CliRunner().invoke(app, ["plan", *args]); self.exit_code, self.output = r.exit_code, " ".join(r.output.split())
    ask = Said
    ok = ask("--preset", "full", "--stage", "sft", "--gpu", "A4000")
    assert ok.exit_code == 0 and "4,539,265,536" in ok.output and "75,000" in ok.output and "fits on A4000" in ok.output
    no = ask("--preset", "full", "--stage", "grpo", "--gpu", "L4")
    assert no.exit_code == 2 and "Most goes to" in no.output and "It fits on" in no.output
    two = ask("--preset", "full", "--stage", "2", "--gpu", "A100-80"); assert two.exit_code == 0 and "grpo, preset full" in two.output and "distill, preset full" in two.output and "this machine" in two.output
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

# -- data at size

def rows_of(place, n=24, per_shard=4):
    "A small subset in the hub's layout: rows that can be told apart"
    import numpy as np
    from reasonflow.records import Sample
    from reasonflow.stream import materialise, verify_subset
    r = np.random.default_rng(0)
    rows = [Sample("molmoact", "trajectory", f"Task: number {i}. Trajectory?", "[[1,2],[3,4],[5,6],[7,8],[9,10]]", [r.integers(0, 255, (48, 48, 3), dtype=np.uint8)]*(1 + i % 2), ("image", "video")[i % 2], str(i), "trajectory") for i in range(n)]
    made = materialise(place, dict(molmoact=rows), dict(molmoact=n), image=48, per_shard=per_shard)
    assert sum(made.values()) == n and sum(sum(c.values()) for c in verify_subset(place, 48, dict(molmoact=n)).values()) == n
    return place, rows

class Server:
    "A web server for a folder, with everything that the web does: errors, broken and throttled answers; `trouble(path, n)` says what happens to the n-th request for a path"
    def __init__(self, folder, trouble=lambda path, n: None):
        import http.server, threading, time
        from collections import Counter
        seen = self.seen = Counter()
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *a): pass
            def do_HEAD(self): self.answer(False)
            def do_GET(self): self.answer(True)
            def answer(self, body):
                path = self.path.lstrip("/"); seen[path] += 1; what = trouble(path, seen[path]); f = Path(folder)/path
                if what == "throttle": self.send_response(429); self.send_header("Retry-After", "0"); self.send_header("Content-Length", "0"); self.end_headers(); return
                if what == "error": self.send_response(500); self.send_header("Content-Length", "0"); self.end_headers(); return
                if not f.is_file() or what == "gone": self.send_response(404); self.send_header("Content-Length", "0"); self.end_headers(); return
                data = f.read_bytes(); status, size = 200, len(data)
                if what == "other bytes": data = data[:-1] + bytes([data[-1] ^ 1])
                if (r := self.headers.get("Range")):
                    a, b = r.removeprefix("bytes=").split("-"); a, b = int(a), min(int(b), size - 1) if b else size - 1; data, status = data[a:b + 1], 206
                self.send_response(status); self.send_header("Accept-Ranges", "bytes"); self.send_header("Content-Length", str(len(data)))
                if status == 206: self.send_header("Content-Range", f"bytes {a}-{b}/{size}")
                self.end_headers()
                if not body: return
                if what == "slow": time.sleep(1.)
                if what == "cut": self.wfile.write(data[:len(data)//2]); self.wfile.flush(); self.connection.close(); self.close_connection = True; return
                self.wfile.write(data)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler); self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
    def __enter__(self): return self
    def __exit__(self, *_): self.server.shutdown()

told = lambda feed: [s.human for b in feed for s in b]

def test_subset_has_the_published_schema_and_goes_on(tmp_path):
    from datasets import load_dataset
    from reasonflow.records import gather, open_source
    from reasonflow.stream import materialise, verify_subset
    place, rows = rows_of(tmp_path/"a")
    again = load_dataset("parquet", data_files={"train": str(place/"data"/"train-*.parquet")}, split="train", cache_dir=str(tmp_path/"hf"))
    assert again.column_names == ["dataset", "type", "human", "assistant", "frames", "media_type"] and again[0]["frames"][0].size == (48, 48)
    assert len(list(gather(open_source("published_subset", str(place))))) == 24
    def cut():
        for i, r in enumerate(rows):
            if i == 13: raise KeyboardInterrupt
            yield r
    with pytest.raises(KeyboardInterrupt): materialise(tmp_path/"b", dict(molmoact=cut()), dict(molmoact=24), image=48, per_shard=4)
    materialise(tmp_path/"b", dict(molmoact=rows), dict(molmoact=24), image=48, per_shard=4)
    names = lambda p: sorted((f.name, f.stat().st_size) for f in (p/"data").iterdir())
    assert names(tmp_path/"a") == names(tmp_path/"b") and verify_subset(tmp_path/"b", 48)
    f = next((tmp_path/"b"/"data").iterdir()); f.write_bytes(f.read_bytes()[:-5])
    with pytest.raises(ValueError, match="checksum"): verify_subset(tmp_path/"b", 48)
    with pytest.raises(ValueError, match="of 30 rows"): verify_subset(tmp_path/"a", 48, dict(molmoact=30))

@pytest.mark.slow
def test_order_is_the_same_after_a_restart_and_on_other_workers(tmp_path):
    from reasonflow.stream import Feed, Mixture, Stream
    place, _ = rows_of(tmp_path/"a")
    new = lambda: Stream(place, cache=tmp_path/"cache", seed=5)
    whole = told(Feed(new(), 2, steps=15)); assert len(whole) == 30 > len(new()) == len(set(whole))        # into the second epoch, too
    for workers in (0, 1, 2): assert told(Feed(new(), 2, step=3, steps=12, workers=workers)) == whole[6:], workers
    mixed = lambda: Mixture(dict(a=new(), b=Stream(place, cache=tmp_path/"cache", seed=6)), dict(a=.7, b=.3), 40, seed=1)
    assert told(Feed(mixed(), 2, step=5, workers=1)) == told(Feed(mixed(), 2))[10:] and abs((mixed().which == 0).mean() - .7) < .2

@pytest.mark.slow
def test_a_server_that_fails_truncates_and_throttles(tmp_path):
    "Every shard arrives whole; what one request lost is asked for again, and not the rest"
    from reasonflow.stream import Feed, Stream
    place, _ = rows_of(tmp_path/"a")
    trouble = lambda path, n: (None if "parquet" not in path else {1: "error", 2: "throttle", 3: None, 4: "cut", 5: "slow"}.get(n))
    with Server(place, trouble) as s:
        stream = Stream(s.url, cache=tmp_path/"cache", seed=5, pause=.01, piece=4000, seconds=.5)             # an answer that takes longer is asked for again
        assert told(Feed(stream, 2)) == told(Feed(Stream(place, cache=tmp_path/"other", seed=5), 2)) and not stream.lost()
        assert max(s.seen.values()) > 4
        before = dict(s.seen); told(Feed(Stream(s.url, cache=tmp_path/"cache", seed=5), 2)); assert sum(s.seen.values()) - sum(before.values()) == 1      # the index; shards are here

@pytest.mark.slow
def test_bad_shards_never_end_a_run(tmp_path):
    "One that is gone, one whose bytes are others, one that is torn: the rest is told, in the same order after a restart; most of them bad is an error"
    from reasonflow.records import TooManyBad
    from reasonflow.stream import Feed, Stream, shards_of
    place, _ = rows_of(tmp_path/"a", n=40)
    names = [Path(s.url).relative_to(place).as_posix() for s in shards_of(place)]
    trouble = lambda path, n: {names[0]: "gone", names[2]: "other bytes"}.get(path)
    with Server(place, trouble) as s:
        new = lambda cache: Stream(s.url, cache=tmp_path/cache, seed=5, tries=2, pause=.01)
        first = new("c"); whole = told(Feed(first, 2)); lost = {Path(u).name for u in first.lost()}
        assert lost == {Path(names[0]).name, Path(names[2]).name} and len(whole) == len(first)//2*2
        assert told(Feed(new("c"), 2, step=4)) == whole[8:] and told(Feed(new("d"), 2)) == whole              # known to be lost, and found to be
        assert "checksum" in (tmp_path/"c"/"lost.json").read_text() and "not there" in (tmp_path/"c"/"lost.json").read_text()
    with Server(place, lambda path, n: "gone" if "parquet" in path else None) as s:
        with pytest.raises(TooManyBad, match="mend the source"): told(Feed(Stream(s.url, cache=tmp_path/"e", tries=1), 2))

def test_lists_that_name_files_and_records_stream_too(tmp_path):
    "RoboFAC, ShareRobot and RoboVQA as they lie on the hub, from a folder and from a server that fails now and then: the same samples, files in the cache, a missing one replaced"
    import numpy as np
    from reasonflow.stream import Feed, Stream, write_index
    from test_records import BLOCKS, affordance_row, jpeg, png, record, write_records, write_video
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8); ask = lambda q: [{"from": "human", "value": f"<video>\n{q}"}, {"from": "assistant", "value": "Grasp the spoon."}]
    fac, share, vqa = (tmp_path/n for n in ("fac", "share", "vqa")); (fac/"films").mkdir(parents=True); (share/"images").mkdir(parents=True); (share/"ep").mkdir(); vqa.mkdir()
    for i in range(3): write_video(fac/"films"/f"{i}.mp4")
    (fac/"training_qa.json").write_text(json.dumps([{"id": str(i), "video": f"films/{i}.mp4", "conversations": ask(f"Question {i}?")} for i in range(6)]))          # 3 to 5 are not there
    for i in range(4): (share/"images"/f"{i}.png").write_bytes(png(frame)); (share/"ep"/f"{i}.png").write_bytes(png(frame))
    (share/"affordance.json").write_text(json.dumps([affordance_row(id=i, image_path=f"images/{i}.png", instruction=f"take thing {i}") for i in range(4)]))
    for i in range(2): write_records(vqa/f"train.tfrecord-{i:05}", [record([BLOCKS.replace("chips", f"chips {i}{j}")], [jpeg(frame)]*4) for j in range(2)])
    cases = {"robofac": (fac, 3), "sharerobot_affordance": (share, 4), "robovqa": (vqa, 5)}          # of its eight questions four are the same
    for name, (place, n) in cases.items():
        write_index(place); here = Stream(place, name, tmp_path/"c1", seed=5); whole = told(Feed(here, 1, ahead=0)); assert len(set(whole)) == n and len(whole) == len(here), (name, whole)
        with Server(place, lambda path, n: "error" if n == 1 and "index" not in path else None) as s:
            far = Stream(s.url, name, tmp_path/"c2"/name, seed=5, pause=.01, tries=3); assert told(Feed(far, 1, ahead=0)) == whole and told(Feed(far, 1, step=2, ahead=0)) == whole[2:] and not far.lost()
    from reasonflow.records import side
    learnt = {s.episode_id for b in Feed(Stream(vqa, "robovqa", tmp_path/"c1", seed=5, part="train"), 1, ahead=0) for s in b}; assert learnt and all(side(e) == "train" for e in learnt)
    assert any(f.suffix == ".mp4" for f in (tmp_path/"c2"/"robofac").iterdir()) and "is not there" in here_of(fac, tmp_path).bad[0][2]
    plan = {"id": "7", "task": "Future_Prediction_Task", "image": ["ep"], "conversations": [{"from": "human", "value": "<image 0-3> Next?"}, {"from": "gpt", "value": "<put it down>"}]}
    (tmp_path/"share"/"planning.json").write_text(json.dumps([plan])); one = Stream(share/"planning.json", "sharerobot_planning", tmp_path/"c3", frames=3)[0]; assert one.assistant == "put it down" and len(one.frames) == 3

def test_a_stream_reads_nothing_outside(tmp_path):
    "What a list or a table names, and what an index names; a picture that is a bomb is one bad row more"
    import io, numpy as np, pyarrow as pa, pyarrow.parquet as pq
    from PIL import Image
    from reasonflow.stream import Stream, write_index
    from test_records import affordance_row, png, trace
    private, place = tmp_path/"private"/"photo.png", tmp_path/"set"; private.parent.mkdir(); place.mkdir(); frame = png(np.full((48, 64, 3), 200, np.uint8)); private.write_bytes(frame); (place/"own.png").write_bytes(frame)
    big = io.BytesIO(); Image.new("1", (30_000, 20_000)).save(big, "PNG"); (place/"big.png").write_bytes(big.getvalue())
    (place/"affordance.json").write_text(json.dumps([affordance_row(id=i, image_path=n) for i, n in enumerate(("../private/photo.png", str(private), f"file://{private}", "big.png", "own.png"))]))
    s = Stream(place/"affordance.json", "sharerobot_affordance", tmp_path/"c", tries=1); assert {s[k].episode_id[-2:] for k in range(5)} == {"-4"} and sum("outside the data set" in why for _, r, why in set(s.bad)) == 3 and any("bomb" in why for *_, why in s.bad)
    pq.write_table(pa.Table.from_pylist([{"image": {"bytes": None, "path": n}, "conversations": trace("x", [[1, 2]])} for n in (str(private), "own.png")]), place/"a.parquet")
    s = Stream(place/"a.parquet", "molmoact", tmp_path/"c", tries=1); assert s[0].frames[0].size == s[1].frames[0].size == (64, 48) and "outside the data set" in s.bad[0][2]
    (place/"affordance.json").unlink(); rows = write_index(place); (place/"index.json").write_text(json.dumps([r | dict(name=f"../set/{r['name']}") for r in rows]))
    with pytest.raises(ValueError, match="outside the data set"): Stream(place, "molmoact", tmp_path/"c")

def here_of(place, tmp_path):
    from reasonflow.stream import Feed, Stream
    s = Stream(place, "robofac", tmp_path/"c4", seed=5); told(Feed(s, 1, ahead=0)); return s

@pytest.fixture
def datasets_hub(tmp_path, monkeypatch):
    "The hub's data sets as a folder: a listing, and files behind hf://, whose first answers break off"
    import sys, httpx, huggingface_hub
    from types import SimpleNamespace
    from fsspec.implementations.local import LocalFileSystem
    from reasonflow.runs import file_hash
    place, asked = tmp_path/"hub", []
    class Hub(LocalFileSystem):
        protocol, cachable = "hf", False
        @classmethod
        def _strip_protocol(cls, path): return str(place/path.removeprefix("hf://").removeprefix("datasets/")) if not str(path).startswith("/") else path
        def cat_file(self, path, **kw):
            asked.append(path)
            if len(asked) == 1: raise httpx.ReadTimeout("the hub took too long")
            return super().cat_file(path, **kw)
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Hub)
    def tree(self, name, **kw): return [SimpleNamespace(path=f.relative_to(place/name).as_posix(), size=f.stat().st_size, lfs=SimpleNamespace(sha256=file_hash(f))) for f in sorted((place/name).rglob("*")) if f.is_file()]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", tree)
    return place, asked

def test_a_data_set_on_the_hub(datasets_hub, tmp_path):
    "By its name: only the split that is asked for, with the checksums of the listing; a connection that breaks is tried again"
    from reasonflow.stream import Feed, Stream
    place, asked = datasets_hub; rows_of(place/"me"/"mine")
    stream = Stream("me/mine", cache=tmp_path/"cache", seed=5, pause=.01); assert all(s.sha256 and "train-" in s.url and s.url.startswith("hf://datasets/me/mine/data/") for s in stream.shards)
    assert told(Feed(stream, 2)) == told(Feed(Stream(place/"me"/"mine", cache=tmp_path/"other", seed=5), 2)) and not stream.lost() and len(asked) == len(stream.shards) + 1

def test_what_another_worker_throws_out_is_fetched_again(tmp_path):
    from reasonflow.stream import Stream
    place, _ = rows_of(tmp_path/"a"); stream = Stream(place, cache=tmp_path/"cache", seed=5); get, gone = stream.cache.get, []
    def thrown(shard):
        path = get(shard)
        if not gone: gone.append(path); path.unlink()
        return path
    stream.cache.get = thrown; first = stream[0]
    assert gone and not stream.lost() and not stream.bad and first.human == Stream(place, cache=tmp_path/"other", seed=5)[0].human

def test_bad_rows_are_written_down_and_too_many_stop(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    from reasonflow.records import TooManyBad
    from reasonflow.stream import Feed, Stream
    place, _ = rows_of(tmp_path/"a"); (place/"index.json").unlink()
    def spoil(every):
        for f in (place/"data").glob("train-*.parquet"): t = pq.read_table(f); pq.write_table(t.set_column(t.schema.get_field_index("assistant"), "assistant", pa.array(["" if i % every == 0 else a for i, a in enumerate(t["assistant"].to_pylist())])), f)
    spoil(4); stream = Stream(place, cache=tmp_path/"c", seed=5); assert len(set(told(Feed(stream, 1, workers=1)))) == 3*len(stream)//4
    assert stream.summary() == f"{len(stream)//4} of {len(stream)} rows set aside, 0 of {len(stream.shards)} shards lost"      # a worker's count, told here
    spoil(1)
    with pytest.raises(TooManyBad, match="samples"): told(Feed(Stream(place, cache=tmp_path/"d", seed=5), 1))

def test_the_trainer_fetches_ahead(tmp_path):
    "From the step on at which it goes on, for every stream of a mixture"
    import time
    from types import SimpleNamespace
    from reasonflow.stream import FetchAhead, Mixture, Stream
    place, _ = rows_of(tmp_path/"a", n=40); a, b = (Stream(place, cache=tmp_path/f"cache {i}", seed=i) for i in (5, 6)); mixed = Mixture(dict(a=a, b=b), dict(a=.7, b=.3), 40, seed=1)
    assert [k for _, k in mixed.at(10)] == [(mixed.which[:10] == i).sum() for i in (0, 1)]
    ahead, args, state = FetchAhead(mixed), SimpleNamespace(per_device_train_batch_size=2, gradient_accumulation_steps=2, world_size=1), SimpleNamespace(is_local_process_zero=True, global_step=3)
    ahead.on_train_begin(args, state, None); wanted = {s.cache.path(s.shards[i]) for s, k in mixed.at(12) for i in s.order.shards_from(k, 2)}
    end = time.time() + 20
    while time.time() < end and not all(p.exists() for p in wanted): time.sleep(.05)
    ahead.on_train_end(args, state, None); assert {p for s in (a, b) for p in s.cache.folder.glob("*.parquet")} == wanted

def test_cache_keeps_to_its_size(tmp_path):
    from reasonflow.stream import Cache, Feed, Stream
    place, _ = rows_of(tmp_path/"a", n=40)
    size = max(f.stat().st_size for f in (place/"data").iterdir())
    stream = Stream(place, cache=tmp_path/"cache", gb=2.5*size/1e9)
    for _ in told(Feed(stream, 2, ahead=0)): assert sum(f.stat().st_size for f in (tmp_path/"cache").glob("*.parquet")) <= 2.5*size

@pytest.mark.slow
def test_waiting_is_measured_and_logged(tmp_path):
    "A slow source is seen as waiting; a trainer logs its share; and the same samples come to it with and without workers"
    import time
    from reasonflow.backbone import new_model, train_tokenizer
    from reasonflow.base import corpus
    from reasonflow.runs import Run, read_metrics
    from reasonflow.sft import GroundingTrainer, sft_config
    from reasonflow.stream import Feed, Stream
    place, _ = rows_of(tmp_path/"a")
    class Slow(Stream):
        def __getitem__(self, k): time.sleep(.05); return super().__getitem__(k)
    slow, quick = Feed(Slow(place, cache=tmp_path/"cache"), 2), Feed(Stream(place, cache=tmp_path/"cache"), 2)
    for feed in (slow, quick):
        for _ in feed: time.sleep(.1)
    assert slow.waiting > .3 and quick.waiting < slow.waiting
    tok = train_tokenizer(corpus()); losses = []
    for workers in (0, 1):
        model, processor = new_model(tok, "smoke"); record = Run("x", tmp_path/f"run{workers}")
        GroundingTrainer(model, processor, sft_config(tmp_path/str(workers), 2, 2, 1e-3, log_steps=1, disable_tqdm=True, dataloader_num_workers=workers), Stream(place, cache=tmp_path/"cache", seed=5), record=record).train()
        rows = read_metrics(record.folder); losses.append([r["loss"] for r in rows if "loss" in r]); assert all(0 <= r["waiting"] <= 1 for r in rows if "loss" in r)
    assert losses[0] == losses[1] and len(losses[0]) == 2

# -- several processes

def start(processes): return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]      # what `accelerate launch` starts

ZERO2 = dict(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2")                                    # in float32, to compare
ENGINES = {"ddp": {}, "zero2": dict(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_CONFIG_FILE=str(ROOT/"configs"/"accelerate"/"zero2.json"))}     # what `accelerate launch --config_file configs/accelerate/….yaml` sets

def trained(folder, processes=1, steps=4, batch=4, accumulate=1, lora=0, stop=None, env={}, **more):
    "Stage 1's trainer at smoke size on so many processes; losses and gradient norms by step"
    import os, subprocess, sys, textwrap
    from reasonflow.runs import read_metrics
    code = textwrap.dedent(f"""
        import numpy as np, torch
        from reasonflow.backbone import add_lora, new_model, train_tokenizer
        from reasonflow.base import corpus
        from reasonflow.launch import leave
        from reasonflow.records import Sample
        from reasonflow.runs import Run, seed_everything
        from reasonflow.sft import train_sft
        r = np.random.default_rng(0)
        rows = [Sample("d", "trajectory", "Task: pick up the red cube. Trajectory?", "Move the gripper." if i % 3 == 1 else str([[int(x), 222] for x in r.integers(100, 999, 1 + i % 5)]).replace(" ", ""), [r.integers(0, 255, (72, 72, 3), dtype=np.uint8)], "image", str(i), "trajectory") for i in range(64)]      # answers of all lengths, some without a coordinate
        model, processor = new_model(train_tokenizer(corpus()), "smoke")
        if {lora}: model = add_lora(model, {lora})
        seed_everything(0)
        class Stopped(Exception): pass
        from transformers import TrainerCallback
        from reasonflow import sft
        if {stop}:
            class Stop(TrainerCallback):
                def on_step_end(self, args, state, control, **_): control.should_training_stop = state.global_step >= {stop}
            init = sft.GroundingTrainer.__init__
            def patched(self, *a, **k): init(self, *a, **k); self.add_callback(Stop())
            sft.GroundingTrainer.__init__ = patched
        t = train_sft(model, processor, rows, Run("sft", {str(folder)!r}), {steps}, {batch}, 1e-3, {accumulate}, save_steps=2, disable_tqdm=True, report_to="none", log_steps=1, **{more!r})
        if t.is_world_process_zero(): print("of", t.args.world_size, "processes,", t.accelerator.distributed_type)
        leave()
    """)
    script = Path(f"{folder}.py"); script.write_text(code)
    r = subprocess.run([sys.executable, *([] if processes == 1 else start(processes)), str(script)], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false") | env)
    assert r.returncode == 0, r.stderr[-3000:]
    assert f"of {processes} processes" in r.stdout and ("DEEPSPEED" in r.stdout) == (env == ZERO2), r.stdout
    return {m["step"]: (m["loss"], m["grad_norm"]) for m in read_metrics(folder) if "grad_norm" in m}

def close(a, b, rel=2e-3): return set(a) == set(b) and all(abs(x - y) <= rel*abs(x) for k in a for x, y in zip(a[k], b[k]))

@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
def test_two_processes_equal_one(tmp_path, lora):
    "Batch 4 on one process, 2 on each of two, and 1 × accumulation 2 on each of two: the same losses and gradients, though their parts have unequal words and coordinates"
    one = trained(tmp_path/"one", 1, batch=4, lora=lora)
    two = trained(tmp_path/"two", 2, batch=2, lora=lora)
    assert len(one) == 4 and close(one, two), (one, two)
    if not lora: assert close(one, trained(tmp_path/"parts", 2, batch=1, accumulate=2, lora=lora))

@pytest.mark.slow
def test_goes_on_with_another_number_of_processes(tmp_path):
    whole = trained(tmp_path/"whole", 1, batch=4)
    trained(tmp_path/"cut", 2, batch=2, stop=2)
    names = sorted(p.name for p in (tmp_path/"cut"/"checkpoints").iterdir()); assert names == ["checkpoint-2"], names           # whole, nothing left over
    again = trained(tmp_path/"cut", 1, batch=4); assert close(whole, again), (whole, again)
    back = tmp_path/"back"; trained(back, 1, batch=4, stop=2); assert close(whole, trained(back, 2, batch=2))

@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed: pip install deepspeed")
def test_zero2_equals_one_process(tmp_path):
    "DeepSpeed on two CPU processes: the losses of one process with adapters, also gone on with after a stop; whole matrices, which it lays end to end, are learnt by AdamW"
    from reasonflow.runs import read_metrics
    one = trained(tmp_path/"one", 1, batch=4, lora=4); two = trained(tmp_path/"two", 2, batch=2, lora=4, env=ZERO2); assert len(one) == 4 and close(one, two), (one, two)
    trained(tmp_path/"cut", 2, batch=2, lora=4, stop=2, env=ZERO2); assert close(one, trained(tmp_path/"cut", 2, batch=2, lora=4, env=ZERO2))
    assert [r["step"] for r in read_metrics(tmp_path/"cut") if "grad_norm" in r] == [1, 2, 3, 4]      # nothing was learnt twice
    whole = trained(tmp_path/"whole", 2, batch=2, env=ZERO2); assert whole[4][0] < whole[1][0]

@pytest.mark.slow
def test_sharded_layers_give_the_same_losses(tmp_path):
    "The FSDP2 configuration's layers in shares on two CPU processes (accelerate shards on GPUs alone, so PyTorch's fully_shard is called itself): Stage 1's loss, and the weights that four steps make, equal those of one process"
    import os, subprocess, sys, textwrap, yaml
    from safetensors.torch import load_file
    wrapped = yaml.safe_load((ROOT/"configs"/"accelerate"/"fsdp2.yaml").read_text())["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")
    code = textwrap.dedent(f"""
        import sys, numpy as np, torch, torch.distributed as dist
        from safetensors.torch import save_file
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor
        from reasonflow.backbone import Collator, answer_loss, new_model, train_tokenizer
        from reasonflow.base import corpus
        from reasonflow.launch import leave
        from reasonflow.runs import seed_everything
        from trl.models.utils import _ForwardRedirection             # how `GroundingTrainer` asks for its loss
        sharded, out = sys.argv[1] == "sharded", sys.argv[2]
        r = np.random.default_rng(0); rows = [dict(frames=[r.integers(0, 255, (72, 72, 3), dtype=np.uint8)], human="Task: pick up the red cube. Trajectory?", assistant=str([[int(x), 222] for x in r.integers(100, 999, 5)]).replace(" ", "")) for _ in range(16)]
        seed_everything(0); model, processor = new_model(train_tokenizer(corpus()), "smoke"); collate = Collator(processor)
        me, n = 0, 1
        if sharded:
            dist.init_process_group("gloo"); me, n = dist.get_rank(), dist.get_world_size()
            found = {{type(m).__name__ for m in model.modules()}} & set({wrapped!r}); assert found == set({wrapped!r}), found
            for m in list(model.modules()):
                if type(m).__name__ in {wrapped!r}: fully_shard(m)
            fully_shard(model); assert any(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in model.parameters())
        opt = torch.optim.AdamW(model.parameters(), 1e-3); losses = []
        for step in range(4):
            part = rows[4*step:4*step + 4]; loss, _ = _ForwardRedirection()(model, model, answer_loss, model, collate(part[me*4//n:(me + 1)*4//n])); loss.backward(); opt.step(); opt.zero_grad()
            loss = loss.detach()
            if sharded: dist.all_reduce(loss); loss = loss/n
            losses.append(loss)
        whole = {{k: (v.full_tensor() if isinstance(v, DTensor) else v).contiguous().clone() for k, v in model.state_dict().items() if "lm_head" not in k}}
        if me == 0: save_file(whole | {{"losses": torch.stack(losses)}}, out)
        leave()
    """)
    script = tmp_path/"shard.py"; script.write_text(code); got = {}
    for kind, how in (("whole", []), ("sharded", start(2))):
        r = subprocess.run([sys.executable, *how, str(script), kind, str(tmp_path/f"{kind}.safetensors")], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"))
        assert r.returncode == 0, r.stderr[-3000:]
        got[kind] = load_file(tmp_path/f"{kind}.safetensors")
    a, b = got["whole"], got["sharded"]; assert set(a) == set(b) and torch.allclose(a["losses"], b["losses"], rtol=2e-3) and a["losses"][-1] < a["losses"][0]
    assert sum(float((a[k] - b[k]).abs().mean()) for k in a)/len(a) < 1e-4

@pytest.mark.slow
def test_layers_computed_again_give_the_same_gradients():
    "Gradient checkpointing, which preset full trains with, with the loss of Stage 1 and its guide for the attention"
    import numpy as np
    from reasonflow.backbone import Collator, NumberHead, add_lora, answer_loss, load
    torch.manual_seed(0)
    model, processor = load("tiny-sft"); model = add_lora(model, 4).train(); head = NumberHead(128)
    for n, p in model.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=.02)
    frame = np.random.default_rng(0).integers(0, 255, (144, 144, 3), dtype=np.uint8)
    batch = Collator(processor)([dict(frames=[frame], human="Task: pick up the red cube. Trajectory?", assistant="[[100,200],[300,400],[500,600],[700,800],[900,100]]", look=[[(0, .3, .4)]])])
    def grads():
        model.zero_grad(); loss, parts = answer_loss(model, batch, head); loss.backward()
        return float(loss), set(parts), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    a, parts, plain = grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False)); model.enable_input_require_grads()
    b, _, again = grads()
    assert parts == {"ce", "number_l1", "look"} and abs(a - b) < 1e-5 and set(plain) == set(again) and all(torch.allclose(plain[n], again[n], rtol=1e-3, atol=1e-6) for n in plain)

@pytest.mark.slow
@pytest.mark.parametrize("stage, more", [("sft", ["episodes=4"]), ("grpo", ["warm_steps=0"]), ("distill", []), ("expert", []), ("qwenpi", [])])
@pytest.mark.parametrize("engine", ENGINES)
def test_one_command_launches_a_stage(stage, more, engine, tmp_path):
    "The README's and launch.ipynb's command, on two processes over the notebook's cells: one checkpoint, one record"
    import os, subprocess, sys
    if engine == "zero2" and importlib.util.find_spec("deepspeed") is None: pytest.skip("needs deepspeed: pip install deepspeed")
    how = start(2) if engine == "zero2" else ["-m", "accelerate.commands.launch", "--config_file", str(ROOT/"configs"/"accelerate"/f"{engine}.yaml"), "--num_processes", "2", "--main_process_port", "0"]      # deepspeed's own launcher asks for GPUs
    r = subprocess.run([sys.executable, *how, "-m", "reasonflow.launch", stage, "preset=smoke", f"folder={tmp_path/'run'}", "steps=2", *more],
                       cwd=ROOT, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), OMP_NUM_THREADS="1") | ENGINES[engine])
    assert r.returncode == 0, r.stderr[-3000:]
    from reasonflow.runs import last_checkpoint
    assert last_checkpoint(tmp_path/"run"/"checkpoints").endswith("checkpoint-2")

def test_configurations_are_read_by_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file
    kinds = {f.stem: str(load_config_from_file(str(f)).distributed_type).split(".")[-1] for f in (ROOT/"configs"/"accelerate").glob("*.yaml")}
    assert kinds == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}

def test_unsloth_is_guarded():
    from reasonflow.backbone import load
    if torch.cuda.is_available(): pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="unsloth needs a CUDA GPU"): load("Qwen/Qwen3.5-4B", unsloth=True)

@pytest.mark.skipif(not torch.cuda.is_available() or importlib.util.find_spec("unsloth") is None, reason="needs a GPU and unsloth")
def test_unsloth_learns_as_plain_transformers(tmp_path):
    "The same weights, adapters and batches: the same losses, within what bfloat16 and other kernels change"
    import unsloth                                                                            # before transformers is used
    from reasonflow.backbone import Collator, add_lora, answer_loss, bare, load
    from reasonflow.records import caption_samples
    model, processor = load("tiny-sft"); model.save_pretrained(tmp_path/"whole"); processor.tokenizer.save_pretrained(tmp_path/"whole")
    rows = [dict(frames=s.frames, human=s.human, assistant=s.assistant) for i in range(4) for s in caption_samples(400_000 + i)]; losses = {}
    for through in (False, True):
        torch.manual_seed(0); net, own = load(str(tmp_path/"whole"), unsloth=through, image=144)
        net = add_lora(net.cuda(), 8).train(); batch = {k: v.cuda() for k, v in Collator(own)(rows).items()}
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3); losses[through] = []
        for _ in range(8): loss = answer_loss(net, batch)[0]; loss.backward(); optimizer.step(); optimizer.zero_grad(); losses[through].append(float(loss.detach()))
    plain, quick = losses[False], losses[True]; assert plain[-1] < plain[0] and all(abs(a - b) < .05*a for a, b in zip(plain, quick)), losses

@pytest.mark.skipif(not torch.cuda.is_available() or importlib.util.find_spec("unsloth") is None, reason="needs a GPU and unsloth")
def test_unsloth_reinforces_as_plain_transformers(tmp_path):
    "Log-probabilities of given answers, as GRPO asks for them, and two steps of GRPO that end well"
    import unsloth                                                                            # before transformers is used
    from reasonflow.backbone import Collator, add_lora, load, prompts
    from reasonflow.bench import grpo_parts
    from reasonflow.grpo import token_log_probs, train_grpo
    from reasonflow.records import caption_samples
    from reasonflow.runs import Run, read_metrics
    model, processor = load("tiny-warm"); model.save_pretrained(tmp_path/"whole"); processor.tokenizer.save_pretrained(tmp_path/"whole")
    rows, found = [caption_samples(400_000 + i)[0] for i in range(2)], {}
    for through in (False, True):
        torch.manual_seed(0); net, own = load(str(tmp_path/"whole"), unsloth=through, image=144); net = net.cuda()
        once = {k: v.cuda() for k, v in prompts(Collator(own), rows, think=True).items()}
        parts, mask = grpo_parts(net, own.tokenizer, once, once, 1, 8); batch = {("prompt_ids" if k == "input_ids" else "prompt_mask" if k == "attention_mask" else k): v for k, v in once.items()} | dict(completion_ids=torch.full((2, 8), 40, device="cuda"), completion_mask=torch.ones(2, 8, dtype=torch.long, device="cuda"))
        with torch.no_grad(): found[through] = token_log_probs(net, batch)[0].float().cpu()
        train_grpo(add_lora(net, 4), own, rows, Run("grpo", tmp_path/f"run{through}"), 2, prompts=1, group=2, max_length=16, iterations=1, beta=0., reward=lambda completions, **_: [1/(1 + len(c[0]["content"])) for c in completions])
        assert len(read_metrics(tmp_path/f"run{through}")) == 2
    assert (found[False] - found[True]).abs().mean() < .05*found[False].abs().mean()

def test_vllm_draws_where_it_is(tmp_path, monkeypatch):
    "Its settings, in TRL's words, with the marks that may not be drawn; our own drawing then stands aside"
    from transformers import AutoTokenizer
    from reasonflow import grpo
    from reasonflow.runs import find_checkpoint
    with monkeypatch.context() as m:
        m.setattr(torch.cuda, "is_available", lambda: True); m.setattr(grpo.importlib.util, "find_spec", lambda name: name == "vllm" or None); settings = grpo.vllm_settings()
        m.setattr(grpo.importlib.util, "find_spec", lambda name: None); assert grpo.vllm_settings() == {}
    tok = AutoTokenizer.from_pretrained(find_checkpoint("tiny-base")); c, plain = (grpo.grpo_config(tmp_path, 2, 2, 2, 1e-4, tok, **more) for more in (settings, {}))
    assert c.use_vllm and c.vllm_mode == "colocate" and list(c.generation_kwargs) == ["logit_bias"] and sorted(c.generation_kwargs["logit_bias"]) == sorted(plain.generation_kwargs["suppress_tokens"]) and not plain.use_vllm
    class Theirs:
        def _generate_single_turn(self, *a, **kw): return "drawn by vLLM"
    class Both(grpo.FastRollouts, Theirs): use_vllm, use_transformers_continuous_batching = True, False
    assert Both()._generate_single_turn([], [], {}, 2) == "drawn by vLLM"

# -- speed

@pytest.mark.slow
def test_benchmarks_run(tmp_path):
    "Those that take seconds, with their page and record; and the command for a GPU, at tiny size, each case in a process of its own"
    import os, subprocess, sys
    some = ["loader", "draws", "policy", "qwenpi"]
    for words in (some, ["full", "--all"]):
        r = subprocess.run([sys.executable, "-m", "reasonflow.bench", *words, "--seconds", ".05", "--json", str(tmp_path/"b.json"), "--page", str(tmp_path/"b.md")], cwd=ROOT, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
        assert r.returncode == 0 and "did not run" not in r.stdout, (r.stdout + r.stderr)[-3000:]
        found = json.loads((tmp_path/"b.json").read_text())["results"]; page = (tmp_path/"b.md").read_text()
        assert set(found) == ({"full, tiny-base", "full, tiny-base no kernels"} if "full" in words else set(some)) and all(f"## {name}" in page for name in found)
        assert all(v >= 0 and v == v for rows in found.values() for v in rows.values()) and all(0 < v < 1.5 for rows in found.values() for k, v in rows.items() if k.startswith(("flow", "a first", "prompt read", "GRPO step, u", "Stage 1 step")) and "share of the floor" in k)

# -- the rest of the way

@pytest.mark.slow
def test_stage1_at_preset_full_streams(tmp_path):
    "Preset full's Stage 1 from two data sets, one of them behind a web server: adapters, gradient checkpointing, workers that decode, the card's proportions; goes on where it was stopped. tiny-sft stands in for the 4B"
    import os, subprocess, sys
    from reasonflow.runs import preset, read_metrics
    import numpy as np
    from reasonflow.stream import write_index
    from test_records import affordance_row, png
    place, _ = rows_of(tmp_path/"a"); far = tmp_path/"b"; (far/"images").mkdir(parents=True)
    for i in range(12): (far/"images"/f"{i}.png").write_bytes(png(np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)))
    (far/"affordance.json").write_text(json.dumps([affordance_row(id=i, image_path=f"images/{i}.png", instruction=f"take thing {i}") for i in range(12)])); write_index(far)
    def ask(steps, *more): return subprocess.run([sys.executable, "-m", "reasonflow.launch", "sft", "preset=full", "start=tiny-sft", f"folder={tmp_path/'run'}", f"steps={steps}", *more], cwd=ROOT, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), OMP_NUM_THREADS="1", HOME=str(tmp_path/"home")))
    assert "give places=" in ask(2).stderr
    with Server(far) as s:
        r = ask(6, f"places={dict(published_subset=str(place), sharerobot_affordance=s.url)!r}"); assert r.returncode == 0, r.stderr[-3000:]
        again = ask(6, f"places={dict(published_subset=str(place), sharerobot_affordance=s.url)!r}"); assert again.returncode == 0, again.stderr[-3000:]
    rows = [m for m in read_metrics(tmp_path/"run") if "loss" in m]; assert [m["step"] for m in rows] == [5] and all(0 <= m["waiting"] <= 1 for m in rows)
    newest = tmp_path/"run"/"checkpoints"/"checkpoint-6"; assert (newest/"adapter_model.safetensors").exists() and json.loads((newest/"adapter_config.json").read_text())["r"] == 16
    S = preset("full").stage["sft"]; assert S["samples"]["molmoact"]/sum(S["samples"].values()) == pytest.approx(.32, abs=.02)

@pytest.mark.slow
def test_qwenpi_at_preset_full_on_local_copies(tmp_path):
    "The whole notebook with the published head, optimiser and sampling, on a small language model and short recordings in the layout of Bridge and RT-1"
    import json, os, subprocess, sys
    from dataclasses import replace
    from reasonflow.episodes import UnknownStatistics, record, write_dataset
    from reasonflow.expert import load_policy
    from reasonflow.runs import read_metrics
    r = record(300_000, size=64, family="pick up")
    for name, camera, n in (("bridge", "image_0", 100), ("rt1", "image", 50)):
        write_dataset(tmp_path/name, [replace(r, states=r.states[i:i + 4], actions=r.actions[i:i + 4]*(1, 1, 1, 1, 1, 1, .5) + (0, 0, 0, 0, 0, 0, .5), images={camera: r.images["image"][i:i + 4]}) for j in range(n) for i in [j % (len(r) - 4)]])
    ask = dict(preset="full", vlm="tiny-student", demos=f"{tmp_path/'bridge'},{tmp_path/'rt1'}", steps=2, batch=2, folder=str(tmp_path/"run"))
    done = subprocess.run([sys.executable, "-m", "papermill", str(ROOT/"nbs"/"03_qwenpi.ipynb"), str(tmp_path/"out.ipynb"), *(x for k, v in ask.items() for x in ("-p", k, str(v))), "-k", "python3", "--no-progress-bar"], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path/"run"/"results.json").read_text()); assert all(results[f"flow loss, held-out looks, {robot}"]["n"] == n for robot, n in (("bridge", 8), ("rt1", 4)))
    assert [m["learning_rate"] for m in read_metrics(tmp_path/"run") if "learning_rate" in m] == pytest.approx([0, 1e-5/5000]), "the language model's rate in the first steps of the published warm-up"
    policy = load_policy(str(tmp_path/"run"/"policy"), robot="rt1"); c = policy.config
    assert (c.width, c.layers, c.views, c.use) == (1024, 6, 1, ("state",)) and policy.robot == "rt1"
    look = dict(image=torch.zeros(224, 224, 3, dtype=torch.uint8).numpy(), instruction="pick up the cup", state=r.states[0])
    assert policy.predict_batch([look], [0]).shape == (1, 16, 7) and set(policy.predict_batch([look], [0])[0, :, -1]) <= {0., 1.}
    assert [set(policy.commands(torch.full((1, 16, 7), s))[0, :, -1]) for s in (.3, -.3)] == [{0.}, {1.}], "closed is 0 and open is 1 for these arms"
    with pytest.raises(UnknownStatistics, match="bridge"): load_policy(str(tmp_path/"run"/"policy"), robot="libero")

@pytest.mark.slow
def test_a_student_of_adapters_is_trained_merged_and_loads(tmp_path):
    "The way of preset full's distillation, on tiny-teacher"
    from reasonflow.backbone import add_lora, load
    from reasonflow.distill import load_student, save_student, train_student
    from reasonflow.grpo import read_buffer, write_buffer
    from reasonflow.runs import Run
    from reasonflow.sft import make_samples
    model, processor = load("tiny-teacher"); start = {k: v.clone() for k, v in model.state_dict().items()}
    write_buffer(tmp_path/"buffer", model, processor, make_samples([("reason", 200_000 + i, dict(size=144, combos="seen", style="short")) for i in range(3)], progress=False), 2, seed=0)
    rows, states, _ = read_buffer(tmp_path/"buffer", processor.tokenizer)
    both = train_student(add_lora(model, 4, 8, vision=False), processor, rows, states, Run("distill", tmp_path/"run"), 2, 1, 1e-3, gradient_accumulation_steps=2, disable_tqdm=True)
    both.student.model = both.student.model.merge_and_unload()
    save_student(tmp_path/"student", both, processor)
    again, _ = load_student(str(tmp_path/"student")); now = again.student.model.state_dict()
    moved = [k for k in start if not torch.equal(start[k].bfloat16(), now[k].bfloat16())]
    assert moved and all("language_model.layers" in k and "proj" in k for k in moved) and torch.equal(again.student.slots, both.student.slots.detach().cpu())

def test_subset_command(tmp_path):
    from typer.testing import CliRunner
    from reasonflow.cli import app
    place, _ = rows_of(tmp_path/"a", n=8)
    ask = lambda *args: CliRunner().invoke(app, ["subset", *args], env={"COLUMNS": "200"})
    assert "how many samples of" in ask(str(tmp_path/"b"), f"published_subset={place}", "--image", "48").output
    assert ask(str(place), "--image", "48").exit_code == 0 and "whole" in ask(str(place), "--image", "48").output
    assert "write NAME=FOLDER" in ask(str(place), "dance=x").output
