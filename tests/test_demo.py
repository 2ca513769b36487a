"The demo as a visitor meets it: every tab is driven in a real browser; limits, links and the recorded page too"
import json, os, re, shutil, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, urlparse
import numpy as np, pytest
from PIL import Image
ROOT = Path(__file__).resolve().parent.parent
SCREENS = ROOT/"runs"/"demo-screens"                                # kept as the tests' output

def chromium(): return next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)

def free_port():
    import socket
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]

@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The page as `reasonflow demo` serves it, from a folder that is none of ours"
    if url := os.environ.get("REASONFLOW_DEMO_URL"): yield url.rstrip("/"); return            # one that is being served already
    began = time.time()
    log = open(tmp_path_factory.mktemp("demo")/"log", "w+")
    p = subprocess.Popen([sys.executable, "-m", "reasonflow.cli", "demo", "--port", str(free_port())], cwd=Path(log.name).parent, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        while time.time() - began < 180:
            if found := re.search(r"http://\S+", said := Path(log.name).read_text()): break
            assert p.poll() is None, said
            time.sleep(.2)
        else: raise AssertionError(f"no address after {time.time() - began:.0f} s: {said}")
        print(f"\nserving after {time.time() - began:.1f} s")
        yield found[0].rstrip("/")
    finally: p.terminate(); p.wait(60)

class Visitor:
    "A browser with what the tests need of it"
    def __init__(self, site, width=1280, height=1500):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        o = webdriver.ChromeOptions(); o.binary_location = chromium(); o.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        for a in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", f"--window-size={max(width, 500)},{height}"): o.add_argument(a)
        self.b, self.site = webdriver.Chrome(options=o, service=Service(shutil.which("chromedriver"))), site
        self.b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500))
    def go(self, query=""): began = time.time(); self.b.get(f"{self.site}/{query}"); self.wait("#rf-scene img"); self.paint = time.time() - began; self.wait("#rf-link textarea, #rf-link input, .toast-body", lambda e: e.get_attribute("value") or e.text); time.sleep(.3); return self      # painted; then its link has been read
    def all(self, css): return self.b.find_elements("css selector", css)
    def wait(self, css, what=lambda e: True, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            try:
                if hits := [e for e in self.all(css) if what(e)]: return hits[0]
            except Exception as e:
                if "stale" not in str(e): raise
            time.sleep(.05)
        raise AssertionError(f"{css} did not come; the page says: {self.text('body')[-800:]}")
    def text(self, css): return " ".join(e.text for e in self.all(css))
    def says(self, css, *words, seconds=60): return self.wait(css, lambda e: all(w in e.text for w in words), seconds)
    def answered(self): return self.wait("#rf-answers .rf-card:first-child .rf-badge", lambda e: "live tiny-teacher" in e.text and e.text.endswith("ms"), 90)      # it has stopped writing
    def click(self, id): e = self.wait(f"#{id}", lambda e: e.is_displayed() and e.is_enabled()); self.b.execute_script("arguments[0].scrollIntoView({block: 'center'})", e); time.sleep(.15); e.click()
    def tab(self, name): self.wait("#rf-tabs button[role=tab]", lambda e: e.text == name and e.is_displayed()).click(); time.sleep(.3)
    def type(self, id, text):
        from selenium.webdriver.common.keys import Keys
        e = self.wait(f"#{id} textarea, #{id} input"); e.send_keys(Keys.CONTROL, "a"); e.send_keys(Keys.DELETE); e.send_keys(text) if text else None
    def keys(self, css, key, n):
        e = self.wait(css, lambda e: e.is_displayed())
        for _ in range(n): e.send_keys(key)
    def choose(self, id, option): self.click(id); self.wait("ul[role=listbox] li, [role=option]", lambda e: e.text.strip() == option).click(); time.sleep(.2)
    def query(self): return dict(parse_qsl(urlparse(self.b.current_url).query))
    def src(self, css): return self.wait(css).get_attribute("src")
    def shot(self, name): SCREENS.mkdir(parents=True, exist_ok=True); self.b.save_screenshot(str(SCREENS/f"{name}.png"))
    def error(self, words): self.says(".toast-body, .toast-wrap", words, seconds=20)

@pytest.fixture(scope="module")
def visitors(site):
    if not (chromium() and shutil.which("chromedriver")): pytest.skip("no Chromium with chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
    made = {w: Visitor(site, w) for w in (1280,)}
    yield made
    for v in made.values(): v.b.quit()

@pytest.fixture
def v(visitors): return visitors[1280].go()

pytestmark = pytest.mark.slow

def test_trajectory(v):
    from selenium.webdriver import ActionChains
    print(f"first useful paint {v.paint:.2f} s"); before = v.src("#rf-scene img"); words = v.wait("#rf-words textarea").get_attribute("value")
    thing = re.search(r"the (\w+ \w+)", words)[1]; v.type("rf-words", f"pick up the {thing}"); v.click("rf-ask")
    v.says("#rf-answers", "student, in six vectors", "live tiny-student", "ms"); v.answered()
    teacher, student = v.all("#rf-answers .rf-card"); assert thing in teacher.text and "[[" in teacher.text and "verbalizer" in student.text
    print("latencies shown:", re.findall(r"tiny-\w+ · [\w ]+ · (\d+ ms)", v.text("#rf-answers")))
    assert v.query()["words"] == f"pick up the {thing}" and len(v.all("#rf-editor circle")) == 5 and v.src("#rf-scene img") == before; v.shot("trajectory")
    at = lambda i: [float(v.all("#rf-editor circle")[i].get_attribute(k)) for k in ("cx", "cy")]
    was = at(2); v.b.execute_script("arguments[0].scrollIntoView({block: 'center'})", v.wait("#rf-editor svg"))
    ActionChains(v.b).click_and_hold(v.all("#rf-editor circle")[2]).move_by_offset(60, 30).release().perform()
    v.wait("body", lambda e: "path" in v.query(), 90); assert at(2)[0] > was[0] + 80 and at(2)[1] > was[1] + 30; dragged = at(2)
    from selenium.webdriver.common.keys import Keys
    link = v.b.current_url; v.all("#rf-editor circle")[4].send_keys(Keys.ARROW_LEFT); v.wait("body", lambda e: v.b.current_url != link, 30)
    v.click("rf-follow"); v.wait("#rf-followed .rf-moment"); v.wait("#rf-follow-at input[type=range]", lambda e: e.is_displayed(), 90); v.says("#rf-followed", "live tiny-policy", "passed the edited points"); assert "test scenes" in v.text("#rf-follows"); v.shot("trajectory-followed")
    v.go("?" + urlparse(v.b.current_url).query); assert len(v.all("#rf-editor circle")) == 5 and np.allclose(at(2), dragged, atol=1.5)        # a link brings the edited path back

def test_quick_edits_all_count(v):
    "Keys that come while an edit is still on its way: the last one is kept"
    v.click("rf-ask"); v.wait("#rf-editor circle"); v.answered()
    at = lambda: [round(float(v.all("#rf-editor circle")[4].get_attribute(k))) for k in ("cx", "cy")]
    was, press = at(), """const done = arguments[0]; let left = 6; const tick = () => { const dot = document.querySelectorAll('#rf-editor circle')[4]; if (!left--) return done();
        for (const kind of ['keydown', 'keyup']) dot.dispatchEvent(new KeyboardEvent(kind, {key: 'ArrowUp', bubbles: true})); setTimeout(tick, 30); }; tick();"""
    v.b.execute_async_script(press); v.wait("body", lambda e: v.query().get("path", "").endswith(f"_{was[0]}.{was[1] - 60}"), 20); assert at() == [was[0], was[1] - 60]

def test_click_moves_the_nearest_point(v):
    from selenium.webdriver import ActionChains
    v.click("rf-ask"); v.wait("#rf-editor circle"); svg = v.wait("#rf-editor svg"); v.answered()
    before = [[e.get_attribute("cx"), e.get_attribute("cy")] for e in v.all("#rf-editor circle")]
    v.b.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg); time.sleep(.2); ActionChains(v.b).move_to_element_with_offset(svg, 0, svg.size["height"]*.45).click().perform()
    v.wait("body", lambda e: "path" in v.query(), 30)
    after = [[e.get_attribute("cx"), e.get_attribute("cy")] for e in v.all("#rf-editor circle")]
    moved = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]; assert len(moved) == 1 and abs(float(after[moved[0]][1]) - 950) < 30

def test_rollout(v):
    from selenium.webdriver.common.keys import Keys
    v.tab("Rollout"); v.click("rf-push"); v.error("nothing is running"); v.click("rf-drive"); v.wait("#rf-film .rf-moment"); v.click("rf-push"); v.says("#rf-film", "was moved", seconds=30); v.says("#rf-film", "Failure score"); assert "false alarms" in v.text("#rf-alarm-words")
    thing = re.search(r"the (\w+ \w+)", v.wait("#rf-words textarea").get_attribute("value"))[1]
    v.type("rf-other", f"lift the {thing}"); v.click("rf-tell"); v.says("#rf-film", f"“lift the {thing}”", seconds=30)
    v.click("rf-stop"); v.wait("#rf-at input[type=range]", lambda e: e.is_displayed(), 30); v.says("#rf-film", "stopped", "live tiny-policy"); v.shot("rollout")
    end = int(v.wait("#rf-film .rf-moment").get_attribute("data-step")); assert 0 < end < 160; last = v.src("#rf-film img")
    print("frames a second shown:", re.findall(r"(\d+) frames/s", v.text("#rf-film")))
    cursor = v.wait("#rf-film .rf-now").get_attribute("x1"); v.keys("#rf-at input[type=range]", Keys.ARROW_LEFT, 6); v.wait(f"#rf-film .rf-moment[data-step='{end - 6}']", seconds=20)
    assert v.src("#rf-film img") != last and float(v.wait("#rf-film .rf-now").get_attribute("x1")) < float(cursor) and f"step {end - 6}" in v.wait("#rf-film svg").get_attribute("textContent") and v.all("#rf-film .rf-band") and v.all("#rf-film .rf-risk")      # film and plot moved together
    v.keys("#rf-at input[type=range]", Keys.HOME, 1); v.wait("#rf-film .rf-moment[data-step='0']", seconds=20); assert "was moved" not in v.text("#rf-film") and v.query()["tab"] == "rollout"

def test_alarm(v):
    "A push that goes wrong: the score leaves its band, and the slider leads back to before it rang"
    from selenium.webdriver.common.keys import Keys
    v.click("rf-example-5"); v.says("#rf-scene", "test scene 500004"); v.answered(); v.tab("Rollout"); v.click("rf-drive"); v.says("#rf-film", "Alarm at step", seconds=60); at = int(re.search(r"Alarm at step (\d+)", v.text("#rf-film"))[1]); assert 0 < at < 120
    v.wait("#rf-at input[type=range]", lambda e: e.is_displayed(), 90); assert v.all("#rf-film .rf-ring") and "not done" in v.text("#rf-film"); v.shot("alarm")
    v.keys("#rf-at input[type=range]", Keys.HOME, 1); v.wait("#rf-film .rf-moment[data-step='0']", seconds=20); v.says("#rf-film", "in its band"); assert "Alarm" not in v.text("#rf-film")

def test_recorded(v):
    v.tab("Rollout"); v.click("rf-kept"); v.click("rf-replay"); v.says("#rf-film", "recorded tiny-policy", "done"); assert "live" not in v.text("#rf-film .rf-badge"); v.shot("rollout-recorded")

def test_failure(v):
    v.tab("Failure QA"); v.click("rf-fail"); v.says("#rf-broken", "recorded scripted expert"); assert "Injected" not in v.text("#rf-cause-was")
    v.click("rf-ask-all"); v.says("#rf-talk", "What went wrong?", "Why did it fail?"); v.shot("failure"); assert "it was" not in v.text("#rf-talk")
    v.type("rf-own", "What colour is the cube?"); v.click("rf-ask-own"); v.says("#rf-talk", "What colour is the cube?")
    v.click("rf-reveal"); v.says("#rf-cause-was", "Injected: missed grasp"); v.says("#rf-talk", "✓"); v.shot("failure-told"); assert v.query() == {"tab": "failure", "fault": "missed grasp", "fault_seed": "500000"}

def test_learn(v):
    v.tab("Learn"); v.click("rf-compare"); v.says("#rf-stages", "tiny-base", "tiny-sft", "tiny-teacher", "tiny-student", seconds=120); v.shot("learn")
    assert len(v.all("#rf-stages .rf-card")) == 4 and "of 1000 off" in v.text("#rf-stages") and [e.get_attribute("href").rsplit("/", 1)[1] for e in v.all("#rf-stages a")] == ["00_base.ipynb", "01_sft.ipynb", "02_grpo.ipynb", "02_distill.ipynb"]

def test_attention(v):
    "A word, another one, another kind of map, a movement"
    v.tab("Attention"); v.click("rf-look"); v.says("#rf-gaze", "Rank correlation with covering", "live tiny-sft", seconds=120); assert v.query()["tab"] == "attention"
    words = v.all("#rf-tokens button"); on = [i for i, w in enumerate(words) if w.get_attribute("aria-pressed") == "true"]; assert len(words) > 20 and len(on) == 1 and words[on[0]].text.isdigit() and len(v.all("#rf-gaze img")) == 2; v.shot("attention")
    first = v.src("#rf-gaze img"); print("milliseconds to a map with its covering:", re.findall(r"(\d+) ms", v.text("#rf-gaze"))); words[on[0] - 5].click(); v.wait("#rf-gaze img", lambda e: e.get_attribute("src") != first, 120)
    assert [e.get_attribute("aria-pressed") for e in v.all("#rf-tokens button")].index("true") == on[0] - 5; rho = v.text("#rf-gaze .rf-rho"); assert re.search(r"[+-]\d\.\d\d", rho)
    kind = lambda name: v.wait("#rf-kind label", lambda e: e.text == name).click()
    kind("gradient × input"); v.wait("#rf-gaze .rf-rho", lambda e: e.text != rho, 20); kind("head by head"); v.wait(".rf-heads", seconds=20); assert len(v.all(".rf-heads img")) == 16; v.shot("attention-heads")
    v.wait("#rf-who label", lambda e: e.text == "tiny-policy").click(); v.says("#rf-gaze", "live tiny-policy", seconds=120); assert [e.text for e in v.all("#rf-tokens button")] == ["x", "y", "z", "grip"] and "rollout" not in v.text("#rf-kind")
    v.all("#rf-tokens button")[1].click(); v.says("#rf-gaze", "“y”", seconds=60); v.shot("attention-policy")
    v.click("rf-another"); v.click("rf-next"); v.says("#rf-gaze", "then click a word"); assert not v.all("#rf-tokens button")                # another scene: nothing of the last one stays
    v.go("?photo=bridge+table&tab=attention"); v.wait("#rf-who label", lambda e: e.text == "tiny-policy").click(); v.error("no robot")

def test_scenes_and_examples(v):
    was = v.src("#rf-scene img"); v.click("rf-example-3"); v.says("#rf-scene", "made here"); v.answered(); assert v.src("#rf-scene img") != was and v.query()["things"].startswith("red cube")
    v.click("rf-example-4"); v.says("#rf-scene", "outside what the tiny models were trained on"); v.answered(); v.shot("photo")
    v.tab("Rollout"); v.click("rf-drive"); v.error("no simulator"); v.shot("error")
    v.click("rf-another"); v.click("rf-next"); v.says("#rf-scene", "test scene 500001"); v.type("rf-things", "white ball, black plate"); v.click("rf-make"); v.wait("#rf-words textarea", lambda e: e.get_attribute("value") == "put the white ball on the black plate")
    v.type("rf-things", "pink elephant"); v.click("rf-make"); v.error("does not exist here")

def test_links_and_errors(v):
    v.go("?tab=learn&seed=500003&family=stack&words=pick+up+everything"); assert "test scene 500003" in v.text("#rf-scene") and v.wait("#rf-words textarea").get_attribute("value") == "pick up everything" and v.wait("#rf-compare").is_displayed()
    v.go("?photo=bridge+table"); v.says("#rf-scene", "outside"); v.go("?photo=..%2F..%2Fetc%2Fpasswd"); v.error("no photograph")
    v.go("?words=%3Cscript%3Ewindow.evil%3D1%3C%2Fscript%3E&seed=500000"); v.click("rf-ask"); v.answered(); assert v.b.execute_script("return window.evil") is None
    v.go(); v.type("rf-words", ""); v.click("rf-ask"); v.error("type an instruction")

def test_uploads(v, tmp_path):
    from reasonflow.demo import MOST_BYTES
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)).save(tmp_path/"good.png"); (tmp_path/"text.png").write_text("no picture"); (tmp_path/"fat.png").write_bytes(b"0"*(MOST_BYTES + 1))
    Image.fromarray(np.zeros((6000, 5000), np.uint8)).save(tmp_path/"wide.png"); v.click("rf-another"); v.wait("#rf-upload", lambda e: e.is_displayed())
    send = lambda name: v.b.execute_script("const b = document.querySelector('#rf-upload'); return b.querySelector('input[type=file]') || b.parentElement.querySelector('input[type=file]')").send_keys(str(tmp_path/name))
    send("good.png"); v.says("#rf-scene", "outside"); good = v.src("#rf-scene img")
    for name, why in (("text.png", "no picture"), ("wide.png", "million"), ("fat.png", "size")): send(name); v.error(why); assert v.src("#rf-scene img") == good

def test_phone(site, visitors):
    p = Visitor(site, 390, 900)
    try:
        p.go(); wide = lambda: p.b.execute_script("return document.documentElement.scrollWidth - window.innerWidth"); assert wide() <= 0
        p.click("rf-ask"); p.answered(); assert wide() <= 0; p.shot("phone-trajectory")
        scene, answers = (p.wait(c).rect for c in ("#rf-scene", "#rf-answers")); assert answers["y"] > scene["y"] + scene["height"] and answers["width"] > 300          # one column
        for name, id in (("Rollout", "rf-drive"), ("Failure QA", "rf-fail"), ("Learn", "rf-compare"), ("Attention", "rf-look")): p.tab(name); assert p.wait(f"#{id}").is_displayed() and wide() <= 0
        p.tab("Rollout"); p.click("rf-drive"); p.wait("#rf-film .rf-moment"); p.click("rf-stop"); p.wait("#rf-at input[type=range]", lambda e: e.is_displayed(), 30); assert wide() <= 0; p.shot("phone-rollout")
        p.tab("Attention"); p.click("rf-look"); p.says("#rf-gaze", "Rank correlation", seconds=120); assert wide() <= 0; p.shot("phone-attention")
    finally: p.b.quit()

def test_nothing_is_fetched_from_elsewhere(v):
    v.click("rf-ask"); v.answered()
    asked = [json.loads(e["message"])["message"] for e in v.b.get_log("performance")]; urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert urls and not [u for u in urls if not u.startswith((v.site, "data:", "blob:", "chrome", "about:"))], urls

def test_files_stay_closed(site):
    for path in ("/etc/passwd", str(ROOT/"settings.ini"), str(ROOT/"assets"/"photos"/"bridge_table.jpg")):
        with pytest.raises(urllib.error.HTTPError) as e: urllib.request.urlopen(f"{site}/gradio_api/file={path}")
        assert e.value.code in (403, 404)

def test_an_alarm_reads_one_policy_only(monkeypatch):
    "Another policy's states are not scored, and the page says what to do"
    from reasonflow import failure
    from reasonflow.runs import find_asset
    at = find_asset("results/tiny-policy-alarm.safetensors"); assert at.stat().st_size < 20_000 and failure.load_alarm(at).band.n > 20
    monkeypatch.setattr(failure, "weights_hash", lambda name: "0"*16)
    with pytest.raises(ValueError, match="make one for it"): failure.load_alarm(at)

def test_recorded_page(visitors, tmp_path):
    "One file, opened without a server: its slider moves film, actions and risk together, and nothing is fetched"
    from selenium.webdriver.common.keys import Keys
    made = subprocess.run([sys.executable, "-m", "reasonflow.cli", "demo", "--record", str(tmp_path), "--short"], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300); assert made.returncode == 0, made.stderr
    at = tmp_path/"demo.html"; assert at.stat().st_size < 3e6 and [p.name for p in tmp_path.iterdir()] == ["demo.html"]; p = Visitor("", 390, 900)
    try:
        p.b.get(at.as_uri()); assert p.b.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert p.text(".rf-badge").count("recorded") >= 5 and "live" not in p.text(".rf-badge") and all(e.get_attribute("naturalWidth") != "0" for e in p.all("img")) and "Rank correlation" in p.text("body") and "What went wrong?" in p.text(".rf-qa")
        film = p.src(".rf-reel img"); p.keys(".rf-reel input", Keys.HOME, 1); p.wait(".rf-reel .rf-moment[data-step='0']", seconds=5); assert p.src(".rf-reel img") != film and p.all(".rf-reel .rf-band"); p.shot("phone-recorded")
        asked = [json.loads(e["message"])["message"] for e in p.b.get_log("performance")]; assert not [u for m in asked if m["method"] == "Network.requestWillBeSent" and not (u := m["params"]["request"]["url"]).startswith(("file:", "data:", "chrome", "about:"))]
    finally: p.b.quit()

def test_a_run_ends_well_without_the_demo(tmp_path, monkeypatch):
    "The report links to the recorded page where there is one; where recording fails or takes too long, the run says so and goes on"
    from reasonflow import cli
    assert "demo.html" not in cli.report({}, tmp_path/"report.html", "smoke").read_text(); (tmp_path/"demo.html").write_text("x"); assert "href='demo.html'" in cli.report({}, tmp_path/"report.html", "smoke").read_text()
    def late(*a, **k): raise subprocess.TimeoutExpired(a[0], k["timeout"])
    for fail in (late, lambda *a, **k: subprocess.CompletedProcess(a[0], 1, "", "no renderer")): monkeypatch.setattr(cli.subprocess, "run", fail); assert cli.record_demo(tmp_path, "smoke") is False

def test_a_run_of_all_stages_ends_with_the_demo(tmp_path, monkeypatch):
    "Recorded beside the report, and linked there; a run of some stages leaves it"
    from reasonflow import cli
    from typer.testing import CliRunner
    def ran(stage, preset, where, **kw): where.mkdir(parents=True); (where/"results.json").write_text("{}"); (where/"notebook.ipynb").write_text('{"cells": []}')
    def recorded(folder, preset): folder.mkdir(parents=True); (folder/"demo.html").write_text(preset)
    monkeypatch.setattr(cli, "run_notebook", ran); monkeypatch.setattr(cli, "record_demo", recorded)
    for name, args, pages in (("all", [], 1), ("some", ["sft"], 0)):
        assert CliRunner().invoke(cli.app, ["run", *args, "--preset", "smoke", "--folder", str(tmp_path/name)]).exit_code == 0
        report, = (tmp_path/name).glob("report-*/report.html"); assert len(list(report.parent.glob("demo.html"))) == pages and ("href='demo.html'" in report.read_text()) == bool(pages)
