"Each public data set, written in its true layout and read back; and every way in which such files are damaged"
import io, json
from collections import Counter
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from PIL import Image
from reasonflow.records import (BadSample, Quarantine, TooManyBad, _sequence_example, fetch_url, from_255, gather, open_source, read_video, side)
from reasonflow.waypoints import parse_box, parse_trajectory

def png(array):
    out = io.BytesIO(); Image.fromarray(array).save(out, "PNG"); return out.getvalue()

def jpeg(array):
    out = io.BytesIO(); Image.fromarray(array).save(out, "JPEG"); return out.getvalue()

def write_video(path, n=12):
    import av
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10); stream.width = stream.height = 64; stream.pix_fmt = "yuv420p"
        for i in range(n):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20*i, np.uint8), "rgb24")): video.mux(packet)
        for packet in stream.encode(): video.mux(packet)
    return path

def trace(task, points): return {"from": ["human", "gpt"], "value": [f"{task}. What is the trajectory that the end effector should take?", f"The trajectory is {points}."]}

def molmoact_file(path, rows): pq.write_table(pa.Table.from_pylist([{"image": {"bytes": b, "path": None}, "conversations": t, "annotation": None} for b, t in rows]), path); return path

def test_molmoact(tmp_path, frame):
    f = molmoact_file(tmp_path/"a.parquet", [(png(frame), trace("pick up the can", [[142, 30], [158, 150], [105, 59], [90, 80], [255, 0]])), (png(frame), trace("open the drawer", [[10, 20]]))])
    a, b = gather(open_source("molmoact", f))
    assert "Task: pick up the can" in a.human and a.type == "trajectory" and a.frames[0].size == (144, 144)
    assert parse_trajectory(a.assistant).value[[0, -1]].tolist() == from_255([[142, 30], [255, 0]]).tolist()
    assert len(set(map(tuple, parse_trajectory(b.assistant).value))) == 1             # one point becomes five equal ones
    assert a.episode_id != b.episode_id

def test_molmoact_by_index_as_published(tmp_path, frame):
    f = molmoact_file(tmp_path/"a.parquet", [(png(frame), trace("x", [[0, 0], [0, 255]]))])
    s, = gather(open_source("molmoact", f, by_index=True))
    assert s.assistant == "[[0,0],[0,250],[0,500],[0,750],[0,1000]]"

def record(texts, images):
    example = _sequence_example()()
    for v in texts: example.feature_lists.feature_list["texts"].feature.add().bytes_list.value.append(v.encode())
    for v in images: example.feature_lists.feature_list["images"].feature.add().bytes_list.value.append(v)
    return example.SerializeToString()

# real validation questions of RoboVQA (CC BY 4.0)
BLOCKS = ("<task:planning:freeform> question Q: current goal is: Please remove the chips from the basket Q: immediate next step? <PRED>A: place the packet on the table</PRED>"
          "<task:affordance:discriminative:discrete:True> question place the packet on the table Q: possible right now? <PRED:ANSWER:BINARY>A: yes</PRED:ANSWER:BINARY>")

def write_records(path, blobs):
    from tensorboard.summary.writer.record_writer import RecordWriter
    with open(path, "wb") as f:
        w = RecordWriter(f)
        for b in blobs: w.write(b)
        w.flush()
    return path

def test_robovqa(tmp_path, frame):
    f = write_records(tmp_path/"val.tfrecord-00000-of-00001", [record([BLOCKS], [jpeg(frame)]*16)])
    a, b = gather(open_source("robovqa", f, frames=8))
    assert (a.assistant, b.assistant) == ("place the packet on the table", "yes") and len(a.frames) == 8 and a.media_type == "video"
    assert a.human.endswith("current goal is: Please remove the chips from the basket Q: immediate next step?") and a.episode_id == b.episode_id

def test_robovqa_real_questions(tmp_path, frame, shared):
    qa = json.loads((shared/"robovqa"/"val_qa_sample.json").read_text())
    text = "".join(f"<task:{r['task']}> question {r['question']} <PRED>A: {r['answer']}</PRED>" for r in qa)
    got = list(gather(open_source("robovqa", write_records(tmp_path/"v.tfrecord", [record([text], [jpeg(frame)])]))))
    assert [s.assistant for s in got] == [r["answer"] for r in qa] and [s.task for s in got] == [r["task"] for r in qa]

def test_robovqa_torn_record(tmp_path, frame):
    f = write_records(tmp_path/"v.tfrecord", [record([BLOCKS], [jpeg(frame)])]*2)
    f.write_bytes(f.read_bytes()[:-40])
    q = Quarantine(); got = list(gather(open_source("robovqa", f), q))
    assert len(got) == 2 and len(q.bad) == 1 and "corrupt" in q.bad[0][1]

def robofac_folder(tmp_path, video="simulation_data/a.mp4"):
    (tmp_path/"simulation_data").mkdir(); write_video(tmp_path/"simulation_data"/"a.mp4")
    (tmp_path/"training_qa.json").write_text(json.dumps([{"id": "1", "video": video, "conversations": [{"from": "human", "value": "<video>\nWhich sub-stage failed?"}, {"from": "assistant", "value": "Grasp the spoon."}]}]))
    return tmp_path

def test_robofac(tmp_path):
    s, = gather(open_source("robofac", robofac_folder(tmp_path), frames=4))
    means = [np.asarray(f).mean() for f in s.frames]
    assert len(s.frames) == 4 and means == sorted(means) and means[0] < 30 and means[-1] > 180           # first and last frame are among them
    assert s.human.endswith("Which sub-stage failed?") and s.assistant == "Grasp the spoon."

def test_robofac_real_choices(shared): assert "Grasp the spoon." in json.loads((shared/"robofac"/"all_failure_stage.json").read_text())

def affordance_row(**more): return {"id": 2486, "meta_data": {"original_dataset": "bridge", "original_width": 640, "original_height": 480}, "instruction": "place the red fork to the left of the left burner",
                                    "affordance": {"x": 352.874, "y": 186.479, "width": 19.296, "height": 14.472}, "image_path": "images/2486.png"} | more

def test_sharerobot_affordance(tmp_path, frame):
    (tmp_path/"images").mkdir(); (tmp_path/"images"/"2486.png").write_bytes(png(frame)); (tmp_path/"affordance.json").write_text(json.dumps([affordance_row()]))
    s, = gather(open_source("sharerobot_affordance", tmp_path))
    assert parse_box(s.assistant).value.tolist() == [551, 388, 582, 419] and "Output the affordance bounding box" in s.human

def test_sharerobot_planning(tmp_path, frame):
    (tmp_path/"ep"/"0-25").mkdir(parents=True)
    for i in range(26): (tmp_path/"ep"/"0-25"/f"frame_{i:03}.png").write_bytes(png(frame))
    row = {"id": "42#episode_1570", "task": "Future_Prediction_Task", "selected_step": 3, "image": ["ep/0-25"],
           "conversations": [{"from": "human", "value": "<image 0-25> After <move the grasped banana towards the mug>, what's the most probable next event?"}, {"from": "gpt", "value": "<place the banana into the mug>"}]}
    (tmp_path/"p.json").write_text(json.dumps([row]))
    s, = gather(open_source("sharerobot_planning", tmp_path/"p.json"))
    assert s.assistant == "place the banana into the mug" and "After move the grasped banana towards the mug, what's" in s.human and len(s.frames) == 8

@pytest.mark.parametrize("kind,row,human,assistant", [
    ("pixmo_cap", {"image_url": "u", "caption": "A table."}, "Describe this image in detail.", "A table."),
    ("pixmo_ama", {"image_url": "u", "question": "What is it?", "answer": "A table."}, "What is it?", "A table."),
    ("pixmo_capqa", {"image_url": "u", "question": "[USER] What is it? [ASSISTANT]", "answer": "A table.", "messages": ["a", "b"]}, "What is it?", "A table.")])
def test_pixmo(tmp_path, frame, kind, row, human, assistant):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path/"x.parquet")
    s, = gather(open_source(kind, tmp_path/"x.parquet", fetch=lambda url: png(frame)))
    assert (s.human, s.assistant, s.dataset) == (human, assistant, kind)

def test_pixmo_failed_fetches_are_counted(tmp_path, frame):
    pq.write_table(pa.Table.from_pylist([{"image_url": str(i), "caption": "c"} for i in range(10)]), tmp_path/"x.parquet")
    def fetch(url):
        if url == "3": raise OSError("connection refused")
        return png(frame)
    q = Quarantine(cap=.2); assert len(list(gather(open_source("pixmo_cap", tmp_path, fetch=fetch), q))) == 9
    assert "1 of 10 set aside; 1 × connection refused" in q.summary()

def test_fetch_refuses_files():
    with pytest.raises(BadSample, match="not a web address"): fetch_url("file:///etc/hostname")

def test_published_subset(tmp_path, frame):
    rows = [{"dataset": "sharerobot_affordance", "type": "qa", "human": "Task: x\nOutput the affordance bounding box.", "assistant": "[1, 2, 3, 4]", "frames": [{"bytes": png(frame), "path": None}], "media_type": "image"},
            {"dataset": "robofac", "type": "qa", "human": "why?", "assistant": "it slipped", "frames": [{"bytes": png(frame), "path": None}]*3, "media_type": "video"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path/"x.parquet")
    a, b = gather(open_source("published_subset", tmp_path))
    assert a.task == "affordance" and len(b.frames) == 3

# ---- damage: one line that names the cause, and never an empty sample

def one_bad(source, where, words, **kw):
    q = Quarantine(); assert list(gather(open_source(source, where, **kw), q)) == []
    assert len(q.bad) == 1 and words in q.bad[0][1], q.bad

def test_truncated_image(tmp_path, frame): one_bad("molmoact", molmoact_file(tmp_path/"a.parquet", [(png(frame)[:500], trace("x", [[1, 2]]))]), "truncated")
def test_off_scale(tmp_path, frame): one_bad("molmoact", molmoact_file(tmp_path/"a.parquet", [(png(frame), trace("x", [[900, 2]]))]), "off the 0–255 scale")
def test_no_points(tmp_path, frame): one_bad("molmoact", molmoact_file(tmp_path/"a.parquet", [(png(frame), trace("x", "nowhere"))]), "no points")
def test_missing_video(tmp_path): one_bad("robofac", robofac_folder(tmp_path, "simulation_data/b.mp4"), "no such video")
def test_truncated_video(tmp_path):
    folder = robofac_folder(tmp_path); v = folder/"simulation_data"/"a.mp4"; v.write_bytes(v.read_bytes()[:300])
    one_bad("robofac", folder, "video does not decode")
def test_missing_frames(tmp_path, frame):
    (tmp_path/"ep").mkdir()
    (tmp_path/"p.json").write_text(json.dumps([{"id": "1", "image": ["ep"], "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]))
    one_bad("sharerobot_planning", tmp_path/"p.json", "no frames")
def test_empty_box(tmp_path, frame):
    (tmp_path/"images").mkdir(); (tmp_path/"images"/"2486.png").write_bytes(png(frame))
    (tmp_path/"affordance.json").write_text(json.dumps([affordance_row(affordance={"x": 1, "y": 1, "width": 0, "height": 0})]))
    one_bad("sharerobot_affordance", tmp_path, "empty or inside out")
def test_pictures_outside_the_data_set(tmp_path, frame):
    "By a way up, an absolute path, or a table that names a file instead of holding it; inside all of that works"
    private, place = tmp_path/"private.png", tmp_path/"set"; place.mkdir(); private.write_bytes(png(frame)); (place/"own.png").write_bytes(png(frame)); row = trace("x", [[1, 2]])
    for name in ("../private.png", str(private)):
        (place/"affordance.json").write_text(json.dumps([affordance_row(image_path=name)])); one_bad("sharerobot_affordance", place, "lies outside the data set")
        (place/"p.json").write_text(json.dumps([{"id": "1", "image": [name], "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])); one_bad("sharerobot_planning", place/"p.json", "lies outside the data set")
        pq.write_table(pa.Table.from_pylist([{"image": {"bytes": None, "path": name}, "conversations": row}]), place/"a.parquet"); one_bad("molmoact", place, "lies outside the data set")
        pq.write_table(pa.Table.from_pylist([{"image": name, "conversations": row}]), place/"a.parquet"); one_bad("molmoact", place, "lies outside the data set")
    for name in ("own.png", str(place/"own.png")):
        pq.write_table(pa.Table.from_pylist([{"image": {"bytes": None, "path": name}, "conversations": row}]), place/"a.parquet"); s, = gather(open_source("molmoact", place)); assert s.frames[0].size == (144, 144)
def test_box_off_the_image(tmp_path, frame):
    (tmp_path/"images").mkdir(); (tmp_path/"images"/"2486.png").write_bytes(png(frame))
    (tmp_path/"affordance.json").write_text(json.dumps([affordance_row(affordance={"x": 600, "y": 9, "width": 500, "height": 9})])); one_bad("sharerobot_affordance", tmp_path, "off the image of 640")
def test_wrong_column(tmp_path):
    pq.write_table(pa.table({"picture": [1]}), tmp_path/"a.parquet")
    with pytest.raises(ValueError, match="no column image, conversations; it has picture"): next(open_source("molmoact", tmp_path/"a.parquet"))
def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"): next(open_source("molmoact", tmp_path/"none.parquet"))
def test_not_json(tmp_path):
    (tmp_path/"affordance.json").write_text("[{")
    with pytest.raises(ValueError, match="not JSON"): next(open_source("sharerobot_affordance", tmp_path))
def test_unknown_source():
    with pytest.raises(ValueError, match="unknown data set 'imagenet'"): open_source("imagenet")
def test_too_many_bad_stop_the_run(tmp_path, frame):
    f = molmoact_file(tmp_path/"a.parquet", [(png(frame)[:500], trace("x", [[1, 2]]))]*30)
    with pytest.raises(TooManyBad, match="cap 5%"): list(gather(open_source("molmoact", f)))

def test_split_is_by_episode():
    share = Counter(side(f"e{i}") for i in range(4000))
    assert abs(share["test"]/4000 - .05) < .015 and abs(share["val"]/4000 - .05) < .015
