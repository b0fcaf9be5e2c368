"""training/gpu: every job is one that its recipe understands; what goes out comes back, and a cut leaves
files that open."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from palimpsest.training import gpu
from palimpsest.weights.files import FOLDER, read_weights, write_weights
from palimpsest.weights.load import load

LANGUAGE = next(job for job in gpu.JOBS if job.name == "shapes-language")


ALL = [job for world in gpu.WORLDS.values() for job in world]


@pytest.mark.parametrize("job", ALL, ids=lambda job: job.name)
def test_a_job_says_nothing_that_its_recipe_does_not_know(job, tmp_path):
    known = inspect.signature(import_module(f"palimpsest.training.{job.recipe}").Arguments).parameters
    assert set(job.arguments) <= set(known)
    words = gpu.command(job, tmp_path, 12.5, rehearse=False)
    assert words[1:3] == ["-m", f"palimpsest.training.{job.recipe}"] and "--until=12.5" in words
    assert not any("{" in word for word in words)
    for word in words[3:]:
        name, _, value = word[2:].partition("=")
        if name in ("init", "vae") and value:
            assert Path(value).exists(), f"{name} leads nowhere"


@pytest.mark.parametrize("jobs", gpu.WORLDS.values(), ids=gpu.WORLDS)
def test_jobs_wait_for_jobs_before_them_and_end_after_them(jobs):
    ends = {job.name: job.ends for job in jobs}
    assert len(ends) == len(jobs) and all(0 < end <= 0.95 for end in ends.values())
    for n, job in enumerate(jobs):
        before = {earlier.name for earlier in jobs[:n]}
        assert set(job.needs) <= before and all(ends[need] < job.ends for need in job.needs)


def made(folder, *sizes):
    """Weight files of so many numbers each, and their records, as recipes write them."""
    import torch

    names = [job.name for job in gpu.JOBS]
    for name, size in zip(names, sizes):
        module = torch.nn.Linear(size, 1, bias=False)
        write_weights(folder / f"{name}.safetensors", {"net": module}, dict(kind="none", trained=[]))
        (folder / f"{name}.json").write_text(json.dumps(dict(name=name)), encoding="utf-8")
    return [f"{name}.safetensors" for name in names[: len(sizes)]]


def test_what_goes_out_in_pieces_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PIECE", 40_000)
    (tmp_path / "next").mkdir()
    names = made(tmp_path / "next", 20_000, 30_000, 8_000)
    inside, left = gpu.packed(tmp_path, tmp_path / "out")
    assert list(inside) == names and not left
    pieces = sorted((tmp_path / "out").iterdir())
    assert 2 < len(pieces) <= gpu.PIECES and all(p.stat().st_size <= gpu.PIECE for p in pieces)
    assert gpu.unpacked(tmp_path / "out", tmp_path / "back") == names
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "next" / name).read_bytes()
        assert (
            json.loads((tmp_path / "back" / name).with_suffix(".json").read_text(encoding="utf-8"))["name"]
            == name[:-12]
        )
    pieces[-1].unlink()
    assert gpu.unpacked(tmp_path / "out", tmp_path / "less") == names[:2], "what lies whole before the gap"
    assert not (tmp_path / "less" / names[2]).exists() and not list((tmp_path / "less").glob("*.part"))
    with pytest.raises(ValueError, match="unpack: .* holds no piece"):
        gpu.unpacked(tmp_path, tmp_path / "none")


def test_what_finds_no_room_is_named_and_it_is_the_least_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PIECE", 20_000)
    (tmp_path / "next").mkdir()
    names = made(tmp_path / "next", 10_000, 30_000, 8_000)
    inside, left = gpu.packed(tmp_path, tmp_path / "out")
    assert left == names[1:2] and list(inside) == [names[0], names[2]]
    assert gpu.unpacked(tmp_path / "out", tmp_path / "back") == [names[0], names[2]]
    (tmp_path / "sent.json").write_text(json.dumps(inside), encoding="utf-8")
    inside, left = gpu.packed(tmp_path, tmp_path / "out")
    assert list(inside) == names[1:2] and not left, "the next call sends what found no room"


@pytest.mark.slow
def test_a_rehearsed_job_ends_and_is_not_done_again(tmp_path, capsys):
    how = dict(
        only="shapes-language", rehearse=1, seconds=300.0, state=str(tmp_path), out=str(tmp_path / "out")
    )
    gpu.main(gpu.Arguments(**how))
    said = capsys.readouterr().out
    assert (
        "shapes-language: begun" in said
        and "shapes-language: done, 2 steps" in said
        and "packed 1 files" in said
    )
    assert gpu.unpacked(tmp_path / "out", tmp_path / "back") == ["shapes-language.safetensors"]
    gpu.main(gpu.Arguments(**how))
    assert "begun" not in capsys.readouterr().out


def test_what_fails_is_said_and_what_needs_it_is_not_begun(tmp_path, monkeypatch, capsys):
    wrong = LANGUAGE._replace(arguments=dict(steps=2, reading=5))
    jobs = wrong, gpu.Job("shapes-dino", "shapes_dino", 0.9, {}, (wrong.name,))
    monkeypatch.setattr(gpu, "WORLDS", dict(shapes=jobs))
    with pytest.raises(ValueError, match="jobs: shapes-dino, shapes-language failed"):
        gpu.main(gpu.Arguments(seconds=200.0, state=str(tmp_path), out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert "failed: palimpsest: error: reading: must be fewer than steps=2" in said
    assert "shapes-dino: not begun, since shapes-language failed" in said


def test_jobs_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="there is no job 'shape'"):
        gpu.main(gpu.Arguments(only="shape"))
    with pytest.raises(ValueError, match="there is no job 'shapes'; there are emoji-vae"):
        gpu.main(gpu.Arguments(world="emoji", only="shapes"))


CUT = """
from palimpsest.training import gpu
tiny = dict(steps=10**6, batch=1, scenes=8, width=8, heads=1, device="cpu", snapshots="{{next}}", vae="{{vae}}")
gpu.WORLDS, gpu.PACK, gpu.TELL = dict(shapes=[gpu.Job("shapes", "shapes", .6, tiny)]), 1, 2
gpu.main(gpu.Arguments(seconds={seconds}, state={state!r}, out={out!r}))
"""


@pytest.mark.slow
def test_a_cut_in_the_middle_leaves_files_that_open_and_the_same_command_goes_on(tmp_path):
    def call(seconds, **how):
        code = CUT.format(seconds=seconds, state=str(tmp_path), out=str(tmp_path / "out"))
        return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **how)

    running = call(600)
    try:
        for _ in range(600):
            time.sleep(0.5)
            if (tmp_path / "out" / "next.tar.0").exists() and (tmp_path / "next" / "shapes.json").exists():
                if gpu.unpacked(tmp_path / "out", tmp_path / "back"):
                    break
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # what a loan's end looks like
        running.wait()
    assert gpu.unpacked(tmp_path / "out", tmp_path / "back") == ["shapes.safetensors"]
    shutil.copy(FOLDER / "shapes-vae.safetensors", tmp_path / "back")
    assert load(tmp_path / "back" / "shapes.safetensors", "cpu").net.conv_in.weight.shape[0] == 8
    steps = json.loads((tmp_path / "back" / "shapes.json").read_text(encoding="utf-8"))["steps"]
    assert steps >= 100 and not (tmp_path / "shapes" / "done").exists()
    assert call(90).wait(timeout=300) == 0
    config, _ = read_weights(tmp_path / "next" / "shapes.safetensors")
    assert config["trained"][-1]["steps"] > steps and (tmp_path / "shapes" / "done").exists()
