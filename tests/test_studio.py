"""The studio: what it computes is what its copied code computes, to the bit; the page in a real browser; what
it refuses.
"""

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from html import unescape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest import load
from palimpsest.arguments import ArgumentError
from palimpsest.cli.main import main
from palimpsest.methods.diffedit import MaskRule
from palimpsest.methods.learner import Course
from palimpsest.methods.prior import Prior
from palimpsest.methods.prompt_to_prompt import Injection
from palimpsest.methods.sdedit import sdedit
from palimpsest.methods.text2live import Training, Views
from palimpsest.studio import bench, server, shown
from palimpsest.studio.call import Call, Given, Other, Start
from palimpsest.studio.examples import drawn, examples_of, shapes_examples
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import as_mask, marked, on_canvas, painted, upload
from palimpsest.studio.server import FOLDER, Guard, free_port, is_local, own_folder
from palimpsest.studio.studio import Studio
from palimpsest.studio.verbs import VERBS
from palimpsest.weights.judges import load_judge
from palimpsest.worlds.files import png_bytes, write_picture
from palimpsest.worlds.notes import read_note

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
ONE = shapes_examples()["yellow star → red"]
TEXTS = dict(source=ONE.source, target=ONE.target)


def a_box():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10:40, 12:44] = 1
    return mask


PICTURE, MASK = Given.of("picture", ONE.picture), Given.of("mask", as_mask(a_box()))
CALLS = {  # every verb, with few steps
    "sdedit": (
        "shapes",
        dict(guide=PICTURE, prompt=ONE.target, t0=0.6, mask=MASK, w=3.0, steps=3, seed=7),
        {},
    ),
    "instruct_pix2pix": (
        "shapes-instruct",
        dict(x=PICTURE, instruction=ONE.instruction, s_text=1.5, s_image=1.2, steps=3),
        {},
    ),
    "diffedit": (
        "shapes",
        dict(x=PICTURE, **TEXTS, rule=MaskRule(threshold=0.3, grow=1), ratio=0.8, w=3.0, steps=4),
        {},
    ),
    "flow_edit": (
        "shapes",
        dict(x=PICTURE, **TEXTS, start=0.8, w_source=1.0, w_target=3.0, steps=3, seed=-2),
        {},
    ),
    "prompt_to_prompt": (
        "shapes",
        dict(**TEXTS, injection=Injection(cross=0.6, self_=0.2, weights={"red": 2.0}), steps=3),
        {},
    ),
    "on a picture": (
        "shapes",
        dict(
            **TEXTS,
            injection=Injection(cross=0.4, self_=0.2),
            start=Start("edit-friendly", PICTURE, ONE.source, 2, 2.0),
        ),
        {},
    ),
    "by DDIM": (
        "shapes",
        dict(
            **TEXTS,
            injection=Injection(cross=0.0, self_=0.0),
            start=Start("ddim", PICTURE, ONE.source, 2, 3.0),
            w=3.0,
        ),
        {},
    ),
    "on null-text": ("shapes", dict(**TEXTS, start=Start("null-text", PICTURE, ONE.source, 1, 2.0)), {}),
    "inpaint": (
        "shapes-glide-inpaint",
        dict(
            picture=PICTURE,
            mask=MASK,
            prompts=ONE.target,
            upsampler=Other("shapes-glide-upsampler-inpaint"),
            w=1.5,
            steps="15",
        ),
        {},
    ),
    "rf_inversion": ("shapes", dict(x=PICTURE, target=ONE.target, steps=3, seed=2), {}),
    "text2live": (
        "shapes-clip",
        dict(
            x=PICTURE,
            **TEXTS,
            layer="a large red star on a green background",
            training=Training(steps=2, bootstrap=1),
            views=Views(n=2),
        ),
        {},
    ),
    "generate": ("shapes", dict(prompts=ONE.target, steps=3, seed=5, w=2.0), {}),
    "explore": ("shapes", dict(prompts=ONE.target, steps=3, seed=1), dict(word=["red", "star"], by="head")),
    "null_text": ("shapes", dict(x=PICTURE, prompt=ONE.source, steps=2, w=3.0, inner=1), {}),
    "dreambooth": (
        "shapes",
        dict(
            pictures=[PICTURE], class_noun="star", rank=2, course=Course(steps=1), prior=Prior(n=1, steps=2)
        ),
        {},
    ),
    "ladder": ("shapes", dict(x=PICTURE, prompt=ONE.source, steps=1, w=3.0), {}),
}


WORDS_ON = ("on a picture", "by DDIM", "on null-text")


def call(name):
    model, given, beside = CALLS[name]
    return Call(VERBS["prompt_to_prompt" if name in WORDS_ON else name], model, given, beside)


def ready(one):
    return load_judge(one.model) if one.verb.loads[1] == "load_judge" else load(one.model)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


# ---- one call, three ways ----


@pytest.mark.parametrize("name", CALLS)
def test_a_command_that_is_copied_says_what_the_call_says(name):
    one = call(name)
    if not one.verb.command:
        assert one.command() == "" and "data-code=\"command" not in shown.copies(one)
        return
    words = shlex.split(one.command())
    assert words[0] == "palimpsest" and words[-2:] == ["-o", call(name).verb.out]
    a = one.options()
    for parameter, value in one.given.items():
        option = one.verb.options.get(parameter, parameter).replace("-", "_")
        if isinstance(value, Start):
            assert (a.input, a.inversion, a.steps, a.w) == (value.x.name, value.way, value.steps, value.w)
        elif option and hasattr(a, option) and isinstance(value, (str, int, float)):
            assert getattr(a, option) == value
    assert all(file.name in words for file in one.files)


def test_every_verb_of_the_page_is_among_the_calls_that_are_compared():
    assert set(CALLS) - set(WORDS_ON) == set(VERBS)


@pytest.fixture(scope="module")
def shapes():
    return load("shapes")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pictures. only one:palimpsest.arguments.Caution")
def test_copied_code_gives_the_same_bytes_in_a_fresh_process(tmp_path):
    """Every verb: the page's picture, the script's and the command's; one process runs all of a kind."""
    scripts, commands, made = [], [], {}
    for name in CALLS:
        one, folder = call(name), tmp_path / name
        folder.mkdir()
        for file in one.files:
            (folder / file.name).write_bytes(file.png)
        model = ready(one)
        made[name] = png_bytes(one.shown(model, one.run(model)), one.record(model))
        (folder / "run.py").write_text(one.python(), encoding="utf-8")
        scripts.append(name)
        words = shlex.split(one.command())[1:-1]
        commands.append(words and [*words, "command.png" if one.verb.out == "result.png" else "mine"])
    runner = (
        "import os, runpy, sys, torch\n"
        f"torch.use_deterministic_algorithms(True); torch.set_num_threads({torch.get_num_threads()})\n"
        "from palimpsest.cli.main import main\n"
        f"for name, words in zip({scripts!r}, {commands!r}):\n"
        f"    os.chdir(os.path.join({str(tmp_path)!r}, name))\n"
        "    runpy.run_path('run.py')\n"
        "    assert not words or main(words) == 0\n"
    )
    subprocess.run([sys.executable, "-c", runner], check=True, capture_output=True)
    for name, png in made.items():
        assert np.array_equal(pixels((tmp_path / name / "result.png").read_bytes()), pixels(png)), name
        file = tmp_path / name / ("command.png" if name != "dreambooth" else "mine/000_0.png")
        assert not call(name).command() or file.read_bytes() == png, name  # with its record


def test_what_the_mask_keeps_is_kept_to_the_bit(shapes):
    one = call("sdedit")
    result = pixels(png_bytes(one.run(shapes).picture))
    before, keep = pixels(PICTURE.png), a_box()[0, 0].numpy() == 0
    assert np.array_equal(result[keep], before[keep]) and not np.array_equal(result[~keep], before[~keep])


def test_python_leaves_out_what_is_so_by_default_and_imports_what_it_names():
    one = Call(VERBS["diffedit"], "shapes", dict(x=PICTURE, **TEXTS, rule=MaskRule(grow=2), steps=50, seed=0))
    text = one.python()
    assert "seed" not in text and "MaskRule(grow=2)" in text
    assert "steps=50" in text, "left out, they are the model's to choose"
    assert "from palimpsest.methods.diffedit import MaskRule" in text
    compile(text, "copied", "exec")


# ---- jobs ----


def test_a_job_stops_at_the_next_evaluation_and_says_so(shapes):
    job, one = Job(60), Call(VERBS["generate"], "shapes", dict(prompts="", steps=50))

    def work(job):
        with job.watching(shapes):
            job.total = 50
            job.stop()
            return one.run(shapes)

    job.run(work)
    assert job.error == "stopped" and job.result is None and job.done == 1


def test_a_job_ends_when_its_time_is_up(shapes):
    job = Job(0.0)
    job.run(lambda job: time.sleep(0.01) or job.moved())
    assert "took more than 0 s" in job.error


def test_an_unknown_word_is_answered_as_on_the_command_line(shapes):
    job = Job(60)
    job.run(lambda job: shapes.embed("a red haert"))
    assert job.error.startswith('unknown word "haert" in the prompt; the nearest known words are: heart')


def test_one_computes_at_a_time_and_a_visitor_who_goes_ends_their_work():
    studio, order = Studio(), []

    def work(name, seconds):
        def do(job):
            order.append(f"{name} begins")
            ended = time.monotonic() + seconds
            while time.monotonic() < ended:
                time.sleep(0.01)
                job.look()
            order.append(f"{name} ends")

        return do

    first, second = (studio.work(name, work(name, 0.5)) for name in ("a", "b"))
    next(first), next(second)
    studio.leave("b")
    assert [job.error for job in second][-1] == "stopped"
    assert [job.error for job in first][-1] is None
    assert order == ["a begins", "a ends"]


def test_the_model_that_the_page_opens_with_is_first_where_it_fits():
    from palimpsest.studio.studio import is_told, paints_from_text

    studio = Studio("shapes-instruct")
    assert studio.menu("emoji-instruct", fits=is_told)[0] == "shapes-instruct"
    assert "shapes-instruct" not in studio.menu("shapes", fits=paints_from_text)
    assert Studio("shapes").menu("emoji", "shapes") == ["shapes", "emoji"]


def test_only_shipped_models_are_open_to_other_machines(tmp_path):
    studio = Studio(local=False)
    with pytest.raises(ArgumentError, match="only shipped models"):
        studio.model(str(tmp_path / "mine.safetensors"))
    assert re.search(r"\d+ MB to load", studio.told("shapes"))
    (tmp_path / "mine.safetensors").write_bytes(bytes(2**20))
    assert "1 MB to load" in Studio().told(str(tmp_path / "mine.safetensors"))
    assert studio.told(str(tmp_path / "mine.safetensors")) == "not found on this disk"  # nor is it looked for


# ---- what visitors give ----


def test_a_canvas_gives_back_the_picture_it_shows_and_marks_what_was_brushed(shapes):
    editor = on_canvas(ONE.picture)
    assert torch.equal(
        painted(editor, shapes),
        torch.from_numpy(pixels(PICTURE.png).copy()).permute(2, 0, 1)[None] / 127.5 - 1,
    )
    assert marked(editor, shapes) is None
    strokes = Image.new("RGBA", (512, 512))
    strokes.paste((255, 0, 255, 255), (80, 160, 88, 200))
    found = marked({**editor, "layers": [strokes]}, shapes)
    assert found.sum() == 5 and found[0, 0, 20:25, 10].all()


def test_a_mask_over_everything_and_one_outside_the_picture_are_masks_still(shapes):
    strokes = Image.new("RGBA", (512, 512), (255, 0, 255, 255))
    assert marked({"layers": [strokes, None]}, shapes).all()
    small = Image.new("RGBA", (3, 3), (255, 0, 255, 255))  # of another size than the canvas
    assert marked({"layers": [small]}, shapes).shape == (1, 1, 64, 64)
    assert marked({"layers": [Image.new("L", (512, 512), 255)]}, shapes).all()


def test_an_empty_canvas_and_no_upload_are_said_in_one_line(shapes):
    with pytest.raises(ArgumentError, match="^painting: the canvas is empty"):
        painted(None, shapes)
    with pytest.raises(ArgumentError, match="^picture: there is none yet"):
        upload(None, shapes)


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "many pixels", "many bytes", "strip"])
def test_bad_uploads_are_refused_in_one_line_without_the_servers_paths(shapes, tmp_path, kind):
    file = tmp_path / "holiday.png"
    if kind == "strip":
        write_picture(torch.zeros(1, 3, 8, 400), file)
    elif kind == "many pixels":
        Image.new("1", (6000, 6000)).save(file)
    else:
        content = {"text": b"<html>", "empty": b"", "cut": PICTURE.png[:300], "many bytes": bytes(11 * 2**20)}
        file.write_bytes(content[kind])
    with pytest.raises(ArgumentError) as refused:
        upload(str(file), shapes)
    line = str(refused.value)
    assert str(tmp_path) not in line and "\n" not in line and line.startswith("picture: ")


def test_scenes_at_random_have_an_edit_whose_truth_is_another_picture():
    for seed in range(5):
        one = drawn(seed)
        assert one.source != one.target and not torch.equal(one.picture, one.truth)


def tab(name):
    """A part of the page, which needs Gradio."""
    pytest.importorskip("gradio", reason="gradio is an extra: pip install 'palimpsest[studio]'")
    return import_module(f"palimpsest.studio.{name}")


@pytest.mark.slow
def test_examples_and_sliders_follow_the_model_that_is_chosen():
    usual = tab("fields").usual
    shapes, emoji = load("shapes"), load("emoji")
    assert [usual(sdedit, name, shapes) for name in ("t0", "w")] == [0.7, 3.0]
    assert [usual(sdedit, name, emoji) for name in ("t0", "w")] == [0.6, 2.0]
    assert examples_of(shapes) is shapes_examples()
    for one in examples_of(emoji).values():
        emoji.tokenizer.encode(one.source), emoji.tokenizer.encode(one.target)
        assert not torch.equal(one.picture, one.truth) and one.place is None
    assert drawn(3, emoji).source != drawn(3, shapes).source


def test_an_example_tells_the_place_that_its_edit_changes():
    for one in shapes_examples().values():
        changed = ((one.picture - one.truth).abs() > 2 / 255).any(1, keepdim=True)
        assert not (changed & (one.place == 0)).any() and 0 < one.place.mean() < 1


# ---- what is shown ----


def test_whatever_comes_from_outside_is_escaped():
    evil = '<img src=x onerror=alert(1)>"&'
    one = Call(VERBS["generate"], evil, dict(prompts=evil))
    html = (
        shown.line(evil, "wrong", [evil])
        + shown.copies(one)
        + shown.table([evil], [[evil]])
        + shown.words({evil: [evil]})
    )
    html += shown.image(ONE.picture, evil) + shown.bar(0.5, evil)
    assert "<img src=x" not in html
    assert evil in unescape(html)


def asked_of(file, ways, known=None, target=ONE.target):
    """What Compare makes of the first example."""
    compared, Ask, studio, job = tab("compare").compared, tab("desk").Ask, Studio(), Job(600)
    job.run(
        lambda job: compared(
            studio, job, Ask("a", "shapes", 0), ways, str(file), ONE.source, target, ONE.instruction, known
        )
    )
    assert job.error is None, job.error
    return job


@pytest.fixture
def picture_file(tmp_path):
    write_picture(ONE.picture, tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.slow
def test_compare_measures_only_the_edit_whose_truth_it_knows(picture_file, monkeypatch):
    compare = tab("compare")
    monkeypatch.setattr(compare, "STEPS", 2)
    known = compare.values(ONE)[-1]
    html = asked_of(picture_file, ["GLIDE inpainting", "RF-Inversion"], known).result
    assert "the true edit" in html and re.search(r"<td>RF-Inversion</td><td>\d+\.\d</td>", html)
    assert re.search(r"<td>GLIDE inpainting</td><td>\d+\.\d</td>", html)
    ways, other = ["GLIDE inpainting", "RF-Inversion"], "a large green star on a blue background"
    html = asked_of(picture_file, ways, known, target=other).result
    assert "<td>RF-Inversion</td><td>unknown</td>" in html and "the true edit" not in html
    assert "needs the place" in html


@pytest.mark.slow
def test_compare_shows_every_method_and_its_copies(picture_file, monkeypatch):
    compare = tab("compare")
    monkeypatch.setattr(compare, "STEPS", 2)
    monkeypatch.setattr(compare, "LAYER_STEPS", 2)
    job = asked_of(picture_file, list(compare.WAYS), compare.values(ONE)[-1])
    assert job.result.count("as asked") >= len(compare.WAYS) and job.share == 1
    for name in compare.WAYS:
        assert f"{name}: save and copy" in job.result
    assert job.result.count("data-code=\"python\"") == len(compare.WAYS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pictures. only one:palimpsest.arguments.Caution")
def test_a_training_that_is_stopped_goes_on_to_the_same_end(picture_file, monkeypatch):
    learn, studio, ask = tab("learn"), Studio(), tab("desk").Ask("a", "shapes", 0)
    monkeypatch.setattr(learn, "SEEN", 2)

    def learnt(visitor, stop_at=None):
        job = Job(600)
        look = job.look
        job.look = lambda: (job.stop() if job.total and job.total - job.done == stop_at else None, look())
        work = ask._replace(visitor=visitor), [str(picture_file)], "star", 2, 4, 1
        job.run(lambda job: learn.learned(studio, job, *work))
        return job

    unbroken, stopped = learnt("a"), learnt("b", stop_at=2)
    assert unbroken.error is None and "stopped after 2 of 4 steps" in stopped.error
    assert 'data-part="at2"' in stopped.news  # what it knew then is shown
    folder = Path(studio.open("b", learn.RUN)[1].name)
    assert folder.exists()
    again = learnt("b")
    assert again.error is None and again.done < unbroken.done
    pictures = [re.findall(r'src="(data:image/png[^"]+)"', job.result) for job in (unbroken, again)]
    assert pictures[0][:4] == pictures[1][:4]
    studio.leave("b")
    assert not folder.exists()


# ---- the server ----


def test_a_port_in_use_and_a_host_that_others_reach_are_said_in_one_line_each(capsys):
    import socket

    if find_spec("gradio") is None:
        pytest.skip("gradio is an extra: pip install 'palimpsest[studio]'")
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        taken = s.getsockname()[1]
        assert main(["studio", "--host", "0.0.0.0", "--port", str(taken)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "palimpsest: note: host: whoever reaches 0.0.0.0 can use this page, without a password"
    assert said[1].endswith(f"port: {taken} on 0.0.0.0 is in use; name another") and len(said) == 2


def test_a_port_that_is_taken_is_named():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = s.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port: {taken} on 127.0.0.1 is in use"):
            free_port("127.0.0.1", taken)
    with pytest.raises(ArgumentError, match="port: 70000"):
        free_port("127.0.0.1", 70000)


class LatePage:
    """A page whose port is taken between the look at it and the start of the server."""

    def __init__(self, taken):
        self.taken, self.tried = taken, []

    def launch(self, server_port, **_):
        self.tried.append(server_port)
        if server_port == self.taken:
            raise OSError(f"Cannot find empty port in range: {server_port}-{server_port}.")


def test_a_port_that_was_taken_meanwhile_is_not_the_end(monkeypatch):
    pytest.importorskip("gradio", reason="gradio is an extra: pip install 'palimpsest[studio]'")
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = s.getsockname()[1]
        for port in (None, taken):
            page, seen = LatePage(taken), iter([taken])  # which looked free
            monkeypatch.setattr(server, "free_port", lambda *a, seen=seen: next(seen, None) or free_port(*a))
            if port is None:
                chosen = server.launch(page, True, "127.0.0.1", None)
                assert chosen in server.PORTS and page.tried == [taken, chosen]
            else:
                with pytest.raises(ArgumentError, match=f"port: {taken} on 127.0.0.1 is in use"):
                    server.launch(page, True, "127.0.0.1", taken)


def test_only_this_machines_own_addresses_are_local():
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1")
    assert not is_local("0.0.0.0") and not is_local("192.0.2.1") and not is_local("example.org")


def test_the_folder_goes_with_the_server_and_that_of_a_killed_one_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    old, other = tmp_path / f"{FOLDER}{int(killed.stdout)}-x", tmp_path / f"{FOLDER}{os.getpid()}-y"
    old.mkdir(), other.mkdir()
    with own_folder() as folder:
        assert folder.is_dir() and not old.exists() and other.exists()
        assert Path(tempfile.gettempdir()) == folder
    assert not folder.exists()


@pytest.mark.parametrize(
    "path, host, length, status",
    [
        ("/", "127.0.0.1:7860", 0, None),
        ("/", "localhost", 0, None),
        ("/", "evil.example", 0, 403),
        ("/", "", 0, 403),
        ("/gradio_api/proxy=http://192.0.2.1/", "127.0.0.1", 0, 404),
        ("/gradio_api/component_server", "127.0.0.1", 0, 404),
        ("/gradio_api/queue/join", "127.0.0.1", 5, None),
        ("/gradio_api/upload", "127.0.0.1", 10**9, 413),
        ("/gradio_api/upload", "127.0.0.1", "x", 400),
    ],
)
def test_the_guard_answers_only_what_the_page_asks(path, host, length, status):
    scope = dict(
        type="http", path=path, headers=[(b"host", host.encode()), (b"content-length", str(length).encode())]
    )
    refused = Guard(None, local=True).refused(scope)
    assert (None if refused is None else refused[0]) == status


def test_the_table_of_speed_is_that_of_the_record():
    record, text = (
        json.loads(bench.RECORD.read_text(encoding="utf-8")),
        bench.PAGE.read_text(encoding="utf-8"),
    )
    assert bench.with_table(text, record) == text and bench.table(record) in text
    slow = {**record, "seconds": {**record["seconds"], "start": 11.0}}
    assert "| 11.0 | 10 | **missed** |" in bench.with_table(text, slow)


def test_the_bench_explains_itself_and_measures_nothing(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--help"])
    assert ended.value.code == 0 and "figures/studio.json" in capsys.readouterr().out


# ---- in a browser ----


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of its own process, whose temporary folder is named."""
    pytest.importorskip("gradio", reason="gradio is an extra: pip install 'palimpsest[studio]'")
    scratch = tmp_path_factory.mktemp("studio")
    words = [sys.executable, "-m", "palimpsest", "studio"]  # several may be started at once
    environ = os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=scratch, env=environ
    ) as page:
        line = page.stdout.readline().decode()
        assert line.startswith("studio: http://127.0.0.1:"), line + page.stdout.read().decode()
        try:
            yield line.split()[1]
        finally:
            page.send_signal(signal.SIGTERM)
        assert page.wait(60) == 0
    assert list(scratch.iterdir()) == []  # nothing was kept


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is an extra of the tests")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(address, browser):
    """A function that opens the page at a tab; afterwards no request may have left this machine."""
    asked, opened = [], []

    def visit(tab="Paint", width=1280):
        page = browser.new_page(viewport=dict(width=width, height=900))
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_role("tab", name=tab, exact=True).first.click()
        page.wait_for_selector(f"#{tab.lower()}-go", state="visible")
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.close()
    strangers = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked and strangers == []


def stroke(page, canvas="#paint-canvas"):
    page.wait_for_selector(f"{canvas} canvas")
    page.wait_for_timeout(800)
    page.locator(canvas).scroll_into_view_if_needed()
    page.mouse.wheel(0, -2000)
    page.wait_for_timeout(300)
    box = page.query_selector(f"{canvas} canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.35, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.65, box["y"] + box["height"] * 0.55, steps=4)
    page.mouse.up()
    page.wait_for_timeout(500)


def run(page, tab, wait="done"):
    page.eval_on_selector_all(
        f"#{tab}-line [data-kind]", "all => all.forEach(e => e.removeAttribute('data-kind'))"
    )
    page.click(f"#{tab}-go")
    line = page.wait_for_selector(f"#{tab}-line [data-kind]", timeout=300_000)
    assert line.get_attribute("data-kind") == wait, line.inner_text()


def arrived(page, tab):
    """Wait until the tab's picture has come: an upload, or that of an example."""
    page.wait_for_selector(f"#{tab}-picture img", state="attached")


def changed(page, tab, part, act):
    """Do something, and wait until that picture of the result is another one."""
    picture = f"#{tab}-result [data-part={part}] img"
    before = page.get_attribute(picture, "src")
    act()
    page.wait_for_function(
        "([picture, before]) => document.querySelector(picture)?.getAttribute('src') != before",
        arg=[picture, before],
    )


def press(page, tab, button):
    """A button that answers at once, and perhaps with the line that stands there already."""
    changed(page, tab, "result", lambda: page.click(f"#{tab}-{button}"))


def shown_picture(page, tab, part):
    url = page.get_attribute(f"#{tab}-result [data-part={part}] img", "src")
    return pixels(urllib.request.urlopen(url).read())


@pytest.mark.slow
def test_a_painted_stroke_changes_the_picture_and_the_copied_code_repeats_it(visit, tmp_path):
    page = visit("Paint")
    run(page, "paint")
    first, guide = (shown_picture(page, "paint", part) for part in ("result", "before"))
    stroke(page)
    run(page, "paint")
    second = shown_picture(page, "paint", "result")
    assert not np.array_equal(guide, shown_picture(page, "paint", "before"))
    assert not np.array_equal(first, second)

    before = page.get_attribute("#paint-result [data-part=walk] img", "src")
    slider = page.locator("#paint-result .ps-scrub")
    slider.focus()
    page.keyboard.press("Home")  # the keyboard scrubs
    assert page.get_attribute("#paint-result [data-part=walk] img", "src") != before

    for link in page.query_selector_all("#paint-result .ps-save"):
        (tmp_path / link.get_attribute("download")).write_bytes(
            urllib.request.urlopen(link.get_attribute("href")).read()
        )
    kept = (tmp_path / "result.png").read_bytes()
    assert "palimpsest sdedit painting.png" in read_note(tmp_path / "result.png")
    (tmp_path / "copied.py").write_text(page.inner_text("#paint-result [data-code=python]"), encoding="utf-8")
    subprocess.run([sys.executable, "copied.py"], cwd=tmp_path, check=True)
    assert np.array_equal(pixels((tmp_path / "result.png").read_bytes()), pixels(kept))


@pytest.mark.slow
def test_stop_ends_a_run_and_the_page_goes_on(visit):
    page = visit("Paint")
    page.fill("#paint-prompt textarea", "a red haert")
    run(page, "paint", "wrong")
    assert "the nearest known words are: heart" in page.inner_text("#paint-line")
    page.fill("#paint-prompt textarea", "a large red heart on a white background")
    page.get_by_text("more", exact=True).first.click()
    page.locator("#tab-paint input[aria-label*=repeats]").first.fill("5")
    page.keyboard.press("Tab")
    page.click("#paint-go")
    page.wait_for_selector("#paint-line .ps-bar")
    page.keyboard.press("Escape")
    page.wait_for_selector("#paint-line [data-kind=note]")
    assert "stopped" in page.inner_text("#paint-line")
    assert not page.is_visible(".ps-gone")
    page.route("**/app_id", lambda route: route.abort())  # as when the server was killed
    page.wait_for_selector(".ps-gone", state="visible")


@pytest.mark.slow
def test_what_is_not_marked_stays_to_the_bit_and_undo_brings_the_rest_back(visit):
    page = visit("Erase")
    page.fill("#erase-prompt textarea", "a large red star on a blue background")
    stroke(page, "#erase-canvas")
    run(page, "erase")
    painted_anew = shown_picture(page, "erase", "result")
    changed = (painted_anew != pixels(PICTURE.png)).any(-1)
    assert changed.any() and not changed[:8].any() and not changed[-8:].any()  # the stroke is in the middle
    press(page, "erase", "undo")
    assert np.array_equal(shown_picture(page, "erase", "result"), pixels(PICTURE.png))
    press(page, "erase", "redo")
    assert np.array_equal(shown_picture(page, "erase", "result"), painted_anew)


@pytest.mark.slow
def test_pictures_are_enlarged_by_nearest_or_by_lanczos(visit):
    page = visit("Look")
    page.locator("#look-result").wait_for(state="attached")
    png = png_bytes(ONE.picture / 2)  # of little contrast: Pillow cuts what overshoots between its two passes
    small = "data:image/png;base64," + base64.b64encode(png).decode()
    page.evaluate(
        "src => { document.querySelector('#look-result').innerHTML ="
        " `<figure class='ps-figure'><img src='${src}'></figure>`; }",
        small,
    )
    look = page.locator("#look-result img")
    assert look.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.click(".ps-toggle[data-toggle=smooth]")
    page.wait_for_function("document.querySelector('#look-result img').naturalWidth == 512")
    big = torch.from_numpy(pixels(urllib.request.urlopen(look.get_attribute("src")).read())[..., :3].copy())
    right = Image.open(io.BytesIO(png)).convert("RGB").resize((512, 512), Image.Resampling.LANCZOS)
    inside = (
        slice(32, -32),
        slice(32, -32),
    )  # at the edges Pillow takes fewer pixels, and we repeat the last
    assert (big.int() - torch.from_numpy(np.array(right)).int()).abs()[inside].max() <= 2
    page.click(".ps-toggle[data-toggle=smooth]")
    assert look.get_attribute("src") == small


@pytest.mark.slow
def test_two_pages_work_at_once_and_a_reload_in_the_middle_ends_only_its_own_work(visit):
    first, second = visit("Look"), visit("Look")
    first.locator("#tab-look summary, #tab-look .label-wrap").last.click()
    first.locator("#tab-look input[type=number]").last.fill("50")
    first.keyboard.press("Tab")
    first.click("#look-go")
    first.wait_for_selector("#look-line .ps-bar")
    second.fill("#look-prompt textarea", "a large red heart on a white background")
    second.click("#look-go")
    first.reload()
    second.wait_for_selector("#look-line [data-kind=done]")
    assert "heart" in second.inner_text("#look-result")
    first.get_by_role("tab", name="Look", exact=True).first.click()
    first.wait_for_selector("#look-go", state="visible")
    assert first.inner_text("#look-result") == ""
    run(first, "look")


# ---- hostile requests, without a browser ----


def body(url, data=None):
    request = urllib.request.Request(
        url, None if data is None else json.dumps(data).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


@pytest.mark.slow
def test_files_of_the_machine_are_neither_served_nor_read(address, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    (tmp_path / "link.png").symlink_to(secret)
    asked = [
        str(secret),
        str(tmp_path / "link.png"),
        "/etc/passwd",
        "../../../../etc/passwd",
        "file:///etc/passwd",
    ]
    for path in asked:
        for way in ("gradio_api/file=", "file=", "static/", "assets/", "gradio_api/stream/"):
            status, text = body(address + way + urllib.parse.quote(path))
            assert status in (403, 404, 405) and "root:" not in text
    assert body(address + "gradio_api/proxy=" + address)[0] == 404
    assert body(address + "gradio_api/upload_progress?upload_id=x")[0] == 404

    config = json.loads(body(address + "config")[1])
    assert str(Path.home()) not in json.dumps(config)
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"] if c["props"].get("elem_id")}
    tell = next(
        d
        for d in config["dependencies"]
        if ids["tell-result"] in d["outputs"] and ids["tell-picture"] in d["inputs"]
    )
    usual = {c["id"]: c["props"].get("value") for c in config["components"]}
    for k, path in enumerate([*asked, address + "config"]):
        for forged in ({"path": path}, {"path": None, "url": path}, {"path": "x.png", "url": path}):
            file = {**forged, "meta": {"_type": "gradio.FileData"}}
            data = [file if i == ids["tell-picture"] else usual[i] for i in tell["inputs"]]
            visitor = f"forger{k}{len(str(forged))}"
            body(
                address + "gradio_api/queue/join", dict(data=data, fn_index=tell["id"], session_hash=visitor)
            )
            status, text = body(address + f"gradio_api/queue/data?session_hash={visitor}")
            assert "data-part" not in text and "root:" not in text and 'data-kind=\\"done' not in text, text[
                -400:
            ]


@pytest.mark.slow
def test_an_upload_beyond_the_limit_is_refused_while_it_comes(address):
    def post(size, length=True):
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        content = head + bytes(size) + b"\r\n--x--\r\n"
        kind = {"content-type": "multipart/form-data; boundary=x"}
        data = content if length else iter([content[k : k + 2**16] for k in range(0, len(content), 2**16)])
        try:
            request = urllib.request.Request(address + "gradio_api/upload", data, kind)
            return urllib.request.urlopen(request, timeout=60).status
        except HTTPError as error:
            return error.code

    assert post(1000) == 200
    assert post(11 * 2**20) == 413  # Gradio counts what comes
    assert post(11 * 2**20, length=False) == 413


@pytest.mark.slow
def test_an_upload_that_is_no_picture_is_answered_in_one_line(visit, tmp_path):
    (tmp_path / "notes.png").write_bytes(b"these are no pixels")
    page = visit("Tell")
    page.set_input_files("#tell-picture input[type=file]", tmp_path / "notes.png")
    arrived(page, "tell")
    run(page, "tell", "wrong")
    line = page.inner_text("#tell-line")
    assert "notes.png" in line and str(tmp_path) not in line and "palimpsest-studio" not in line


@pytest.mark.slow
@pytest.mark.parametrize("tab", ["Tell", "Describe", "Look", "Invert", "Compare"])
def test_every_tab_answers(visit, tab):
    page, name = visit(tab), tab.lower()
    page.locator(f"#tab-{name} .ps-example").nth(0).click()
    if tab != "Look":  # which takes a text alone
        arrived(page, name)
    run(page, name)
    assert page.query_selector(f"#{name}-result [data-code=python]")
    copied = page.text_content(f"#{name}-result [data-code=command]")  # of several answers it is folded
    assert copied.strip().startswith("palimpsest ")
    if tab == "Describe":  # the threshold cuts the stored heat
        before = shown_picture(page, name, "mask")
        page.locator("#describe-diffedit input[type=range]").first.focus()
        changed(page, name, "mask", lambda: page.keyboard.press("End"))
        assert shown_picture(page, name, "mask").sum() < before.sum()
        page.get_by_role("tab", name="Text2LIVE", exact=True).click()
        page.locator("#describe-live input[type=number]").fill("20")
        page.keyboard.press("Tab")
        run(page, name)
        assert "load_judge('shapes-clip')" in page.inner_text("#describe-result [data-code=python]")
        assert page.query_selector("#describe-result [data-part=opacity]")
    if tab == "Tell":  # sliders and examples follow the model
        page.click("#tell-model input")
        page.locator("[role=listbox] li").filter(has_text="emoji-instruct").click()
        page.wait_for_function(
            "document.querySelector('#tab-tell .ps-example').innerText.includes('blue heart')"
        )
        assert page.locator("#tab-tell input[type=number]").first.input_value() == "2"
    if tab == "Look":  # a hovered word shows its map
        before = page.get_attribute("#look-result [data-part=map] img", "src")
        page.locator("#look-result .ps-look").nth(3).hover()
        assert page.get_attribute("#look-result [data-part=map] img", "src") != before


@pytest.mark.slow
def test_a_word_is_learned_from_pictures_that_are_dropped(visit, tmp_path):
    files = []
    for k, picture in enumerate(tab("learn").given_subject("star")[:3]):
        files.append(tmp_path / f"{k}.png")
        files[-1].write_bytes(png_bytes(picture))
    page = visit("Learn")
    page.set_input_files("#learn-pictures input[type=file]", files)
    page.wait_for_function("document.querySelectorAll('#learn-pictures .file').length == 3")
    page.locator("#tab-learn .label-wrap").filter(has_text="more").click()
    for name, value in (("steps", "10"), ("n-prior", "4")):
        page.get_by_label(f"number input for {name}").fill(value)
        page.keyboard.press("Tab")
    page.wait_for_function(
        "document.querySelector('#learn-about').innerText.includes('4 prior pictures, 10 steps')"
    )
    run(page, "learn")
    assert page.locator("#learn-result [data-part=result] img").count() == 1
    assert page.locator("#learn-result [data-part^=sample] img").count() == 3
    code = page.inner_text("#learn-result [data-code=python]")
    assert "dreambooth(" in code and "steps=10" in code and "subject3" in code
