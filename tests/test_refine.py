"ReFineVLA end to end: a teacher that is stopped is not asked twice, too many empty answers end it, and the command says what is missing"
import json
import pytest

class Teacher:
    "Says the same of everything; stops, or is lost for words, at some looks"
    name = "a teacher"
    def __init__(self, stop=None, silent=1.1): self.asked, self.stop, self.silent = 0, stop, silent
    def __call__(self, task, action, picture):
        from reasonflow.refine import SECTIONS, BadRationale
        self.asked += 1
        if self.asked == self.stop: raise KeyboardInterrupt
        if self.asked % 10 >= 10*self.silent: raise BadRationale("lost for words")
        assert task and picture.ndim == 3
        return {s: "It holds nothing." if s == "Situation Analysis" else "Well." for s in SECTIONS}

@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    from reasonflow.episodes import demonstrate
    return demonstrate(tmp_path_factory.mktemp("refine")/"demos", 3, families=("pick up",), workers=1, progress=False)

@pytest.mark.slow
def test_a_stopped_teacher_is_not_asked_twice(demos, tmp_path):
    from reasonflow.refine import annotate
    whole = Teacher(); told = annotate(tmp_path/"whole", demos, 8, whole, progress=False)
    with pytest.raises(KeyboardInterrupt): annotate(tmp_path/"cut", demos, 8, first := Teacher(stop=whole.asked - 1), progress=False)
    kept = len(list((tmp_path/"cut").glob("[0-9]*.json"))); assert 0 < kept < 3
    assert annotate(tmp_path/"cut", demos, 8, second := Teacher(), progress=False) == told
    assert second.asked < whole.asked and not list((tmp_path/"cut").glob("*.tmp"))
    checked = json.loads((tmp_path/"cut"/"checked.json").read_text()); assert checked == json.loads((tmp_path/"whole"/"checked.json").read_text())
    assert checked["unread"] > 0 and 0 < checked["wrong"]["value"] < 1                                  # "It holds nothing." is right while the arm reaches, and wrong once it holds

@pytest.mark.slow
def test_a_teacher_without_words_ends_it(demos, tmp_path):
    from reasonflow.records import TooManyBad
    from reasonflow.refine import annotate
    with pytest.raises(TooManyBad): annotate(tmp_path, demos, 2, Teacher(silent=.3), progress=False)

def test_the_command_says_what_is_missing(tmp_path):
    from typer.testing import CliRunner
    from reasonflow.cli import app
    r = CliRunner().invoke(app, ["refine", str(tmp_path/"grid"), "--demos", str(tmp_path/"nothing")])
    assert r.exit_code == 2 and "reasonflow demos" in r.output.replace("\n", " ")
