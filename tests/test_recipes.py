"""Every recipe runs from its first step to a file that `load` opens, and a few steps lower its loss."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator
from torch.testing import assert_close

from palimpsest.fit.loop import fit
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.training import shapes, shapes_instruct, shapes_reader, shapes_vae, shapes_ve, smaller
from palimpsest.training.recipe import command_line, start_from, storage_error
from palimpsest.weights.files import FOLDER, WeightsError, fill, read_weights, sha256, write_weights
from palimpsest.weights.judges import load_reader
from palimpsest.weights.load import load, load_autoencoder
from palimpsest.worlds.mix import pixels_of
from palimpsest.worlds.scene import RENDERED
from palimpsest.worlds.shapes import ATTRIBUTES, attributes, caption, render, sample_scene
from tests.tiny import tiny_glide, tiny_instruct, tiny_ve, tiny_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All four recipes, run for two steps each."""
    out = tmp_path_factory.mktemp("recipes")
    vae = str(out / "shapes-vae.safetensors")
    shapes_vae.main(shapes_vae.Arguments(steps=2, batch=2, tests=2, state=str(out / "vae"), out=str(out)))
    shapes_reader.main(
        shapes_reader.Arguments(
            steps=2, batch=4, reconstructions=4, tests=8, state=str(out / "reader"), vae=vae, out=str(out)
        )
    )
    shapes.main(shapes.Arguments(steps=2, batch=2, scenes=12, state=str(out / "t2i"), vae=vae, out=str(out)))
    shapes_ve.main(shapes_ve.Arguments(steps=2, batch=2, state=str(out / "ve"), out=str(out)))
    return out


@pytest.mark.slow
def test_recipes_write_files_that_load(folder):
    model, ve = load(folder / "shapes.safetensors", "cpu"), load(folder / "shapes-ve.safetensors", "cpu")
    assert (model.prediction, model.size, model.latent_shape) == ("v", 64, (8, 16, 16)) and (
        ve.size,
        ve.latent_shape,
    ) == (32, (3, 32, 32))
    assert ve.vae is None and model.schedule.T == ve.schedule.T == 1000
    assert_close(ve.schedule.sigma(1000), 50.0, rtol=1e-9, atol=0)
    pictures = render([sample_scene(random.Random(0))])
    assert model.decode(model.encode(pictures)).shape == pictures.shape
    read = load_reader(folder / "shapes-reader.safetensors").read(pictures)
    assert list(read[0]) == list(ATTRIBUTES)


def test_the_record_tells_how_the_file_was_made(folder):
    record = json.loads((folder / "shapes.json").read_text(encoding="utf-8"))
    assert (
        record["sha256"] == sha256(folder / "shapes.safetensors")
        and record["steps"] == 2
        and record["seed"] == 0
    )
    assert (
        record["recipe"] == "python -m palimpsest.training.shapes"
        and record["seconds"] >= 0
        and record["figures"]["loss"] > 0
    )
    assert record["parameters"] == sum(p.numel() for m in shapes.models()[0].values() for p in m.parameters())


def test_latents_have_about_unit_variance(folder):
    vae = load_autoencoder(folder / "shapes-vae.safetensors")
    z = vae.encode(render(shapes_vae.scenes(64, Generator().manual_seed(3), held_out=None)))
    assert 0.7 < z.std() < 1.4


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    """Under torchrun, as README says it: each rank draws its half of the batch, one file is written, the
    ranks end alike.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(free_port()),
            "-m",
            "palimpsest.training.shapes_ve",
            "--steps",
            "2",
            "--batch",
            "4",
            "--device",
            "cpu",
            "--state",
            str(tmp_path / "ve"),
            "--out",
            str(tmp_path),
        ],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["shapes-ve.safetensors"]
    record = json.loads((tmp_path / "shapes-ve.json").read_text(encoding="utf-8"))
    assert record["steps"] == 2 and record["arguments"]["batch"] == 4
    alone = tmp_path / "alone"
    shapes_ve.main(
        shapes_ve.Arguments(steps=2, batch=4, device="cpu", state=str(alone / "ve"), out=str(alone))
    )
    two, one = (read_weights(folder / "shapes-ve.safetensors")[1] for folder in (tmp_path, alone))
    assert two.keys() == one.keys() and any(not torch.equal(two[k], one[k]) for k in two), (
        "two ranks see other pictures than one"
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    "given, said",
    [
        (["--batch", "0"], "batch: must be at least 1, got 0"),
        (["--steps", "-3"], "steps: must be at least 1, got -3"),
        (
            ["--init", "shapes-vae.safetensors"],
            "init: shapes-vae.safetensors holds another model than this recipe trains",
        ),
    ],
)
def test_a_recipe_refuses_in_one_line_what_makes_no_sense(folder, monkeypatch, capsys, given, said):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["shapes_ve", "--device", "cpu", *given])
    with pytest.raises(SystemExit) as stopped:
        command_line(shapes_ve.main, shapes_ve.Arguments)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith(f"palimpsest: error: {said}") and err.count("\n") == 1


def test_a_run_can_go_on_from_a_file(folder, tmp_path):
    shapes.main(
        shapes.Arguments(
            steps=1,
            batch=2,
            lr=1e-9,
            scenes=12,
            state=str(tmp_path / "a"),
            vae=str(folder / "shapes-vae.safetensors"),
            init=str(folder / "shapes.safetensors"),
            out=str(tmp_path),
        )
    )
    before, after = (read_weights(f / "shapes.safetensors")[1] for f in (folder, tmp_path))
    assert all(torch.allclose(before[k].float(), after[k].float(), atol=1e-3) for k in before)
    record = json.loads((tmp_path / "shapes.json").read_text(encoding="utf-8"))
    assert [run["steps"] for run in record["earlier"]] == [2] and record["steps"] == 1


def test_turning_the_axes_of_a_latent_keeps_the_pictures_and_makes_smooth_axes_strong():
    torch.manual_seed(0)
    vae, x = AutoencoderKL(**shapes_vae.CONFIG), render(shapes_vae.scenes(16, Generator().manual_seed(0)))
    with torch.no_grad():
        before = vae.decode(vae.encode(x)[0])
        shapes_vae.rebalance(vae, x)
        z = vae.encode(x)[0]
        assert_close(vae.decode(z), before, atol=2e-3, rtol=0)
    spread = z.var((0, 2, 3), correction=0)
    assert_close(spread.mean(), torch.tensor(1.0), atol=0.01, rtol=0)
    assert (spread[1:] > spread[:-1]).all() and z.mean((0, 2, 3)).abs().max() < 0.02
    shares = torch.nn.functional.avg_pool2d(z, 2).var((0, 2, 3)) / z.var((0, 2, 3))
    assert (shares[1:] > shares[:-1]).all()
    correlation = torch.corrcoef(z.transpose(0, 1).flatten(1))
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.01


def test_a_shape_that_does_not_fit_its_configuration_is_refused(folder):
    with pytest.raises(WeightsError, match="a text2image or glide or lora or word model is needed"):
        load(folder / "shapes-reader.safetensors")
    with pytest.raises(WeightsError, match="no model named"):
        load("shapse")


def test_a_model_refuses_the_latents_of_another_autoencoder(folder, tmp_path):
    shutil.copy(folder / "shapes.safetensors", tmp_path)
    shapes_vae.main(
        shapes_vae.Arguments(
            steps=1, batch=2, tests=2, seed=1, state=str(tmp_path / "vae"), out=str(tmp_path)
        )
    )
    with pytest.raises(WeightsError, match="latents of another shapes-vae.safetensors"):
        load(tmp_path / "shapes.safetensors", "cpu")


def test_a_finished_run_is_not_taken_for_another(folder):
    with pytest.raises(ValueError, match="another run|belongs to a run"):
        shapes_vae.main(
            shapes_vae.Arguments(
                steps=2, batch=2, tests=2, kl_weight=0.5, state=str(folder / "vae"), out=str(folder)
            )
        )


def test_the_ve_loss_is_the_squared_error_of_v():
    """The weight 1 + σ² turns Eq. (2) into the v-loss: compare with the v-form of Eq. (5) on the same
    draws.
    """
    from palimpsest.samplers.ddpm import l_simple

    schedule = Schedule.geometric(**shapes_ve.SCHEDULE)
    torch.manual_seed(0)
    modules, tokenizer, _ = shapes.models(shapes_ve.NET, shapes.LENGTH)
    for p in modules["net"].conv_out.parameters():
        torch.nn.init.normal_(p, std=0.05)
    modules = modules.double()
    x_0, tokens = render([sample_scene(random.Random(k)) for k in range(3)], 32).double(), tokenizer([""] * 3)
    found = shapes_ve.loss(modules, (x_0, tokens), Generator().manual_seed(5), schedule)
    g = Generator().manual_seed(5)
    t = shapes_ve.times(3, schedule, g)
    eps = torch.randn(x_0.shape, generator=g)  # float32 draws, as in the recipe
    ctx = modules["text"](tokens)
    wanted = l_simple(lambda x_t, t: modules["net"](x_t, t, ctx), schedule, x_0, t, eps.double(), "v")
    assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_half_of_the_noise_levels_are_drawn_where_pictures_are_decided():
    schedule = Schedule.geometric(**shapes_ve.SCHEDULE)
    t = shapes_ve.times(20_000, schedule, Generator().manual_seed(0))
    low, high = (schedule.t_of_sigma(sigma) for sigma in shapes_ve.DECISIVE)
    inside = ((t > low) & (t <= high)).double().mean().item()
    assert (
        1 == t.min()
        and t.max() == schedule.T
        and inside == pytest.approx(0.5 + 0.5 * (high - low) / schedule.T, abs=0.01)
    )


def test_one_caption_in_ten_is_empty_and_the_others_never_lie():
    rng, scene = random.Random(0), sample_scene(random.Random(1), things=1)
    told = [shapes.told(scene, rng, shapes.EMPTY) for _ in range(2000)]
    assert 150 < told.count("") < 250
    plain = {caption(scene, size=a, background=b) for a in (True, False) for b in (True, False)}
    assert {t for t in told if t} == plain
    free = [shapes.told(scene, rng, free=0.3) for _ in range(2000)]
    assert 530 < sum(t not in plain for t in free) < 670 and "" not in free


def test_free_wordings_fit_into_the_net():
    rng, tokenizer = random.Random(5), shapes.models()[1]
    scenes = [sample_scene(rng, things=2) for _ in range(300)]
    assert tokenizer([shapes.told(scene, rng, free=1.0) for scene in scenes]).shape == (300, shapes.LENGTH)


def test_latents_are_those_of_their_scenes_whoever_draws_them(folder):
    vae, n = load_autoencoder(folder / "shapes-vae.safetensors"), shapes.SOME + 3
    ((scenes, latents),) = shapes.make_latents(vae, n, Generator().manual_seed(1))
    ((again, same),) = shapes.make_latents(vae, n, Generator().manual_seed(1), workers=1)
    assert scenes == again and len(set(map(repr, scenes))) == n
    assert_close(same, latents, atol=0, rtol=0)
    assert_close(latents[-3:], vae.encode(render(scenes[-3:])), atol=1e-4, rtol=0)


def test_latents_of_one_aspect_ratio_are_kept_together(folder):
    vae = load_autoencoder(folder / "shapes-vae.safetensors")
    groups = shapes.make_latents(vae, 6 * shapes.SOME, Generator().manual_seed(2), plain=0.5, other=0.7)
    assert len(groups) > 1 and sum(len(group.scenes) for group in groups) == 6 * shapes.SOME
    for scenes, latents in groups:
        assert {s.extent for s in scenes} == {scenes[0].extent}
        rows, columns = pixels_of(scenes[0].extent)
        assert latents.shape[0] == len(scenes) and latents.shape[2:] == (rows // 4, columns // 4)
    by_hand = [s.style != RENDERED for group in groups for s in group.scenes]
    assert 0.4 < sum(by_hand) / len(by_hand) < 0.6


def test_scenes_are_drawn_by_their_shares_and_groups_by_their_sizes():
    rng = random.Random(4)
    scenes = [sample_scene(rng, 1 + (k % 4 == 0)) for k in range(400)]
    chances = shapes.weights(scenes, 0.3, 3.0)
    double = torch.tensor([len(s.things) == 2 for s in scenes])
    assert_close(chances[double].sum(), torch.tensor(0.3))
    assert_close(chances.sum(), torch.tensor(1.0))
    often = shapes.how_often(scenes, 3.0)
    for part in (double, ~double):
        assert_close(chances[part] / chances[part].sum(), often[part] / often[part].sum())
    g = Generator().manual_seed(0)
    assert 0.7 < sum(shapes.one_of("ab", (300, 100), g) == "a" for _ in range(400)) / 400 < 0.8
    state = g.get_state()
    assert shapes.one_of("a", (5,), g) == "a" and torch.equal(state, g.get_state())


def test_what_is_hard_is_drawn_more_often_and_nothing_else():
    rng = random.Random(3)
    scenes = [sample_scene(rng) for _ in range(200)]
    often = shapes.how_often(scenes, 3.0)
    hard = torch.tensor([any(t.shape == "flower" or t.texture == "dotted" for t in s.things) for s in scenes])
    assert 0 < hard.sum() < 200 and (often[hard] == 3).all() and (often[~hard] == 1).all()
    assert (shapes.how_often(scenes, 1.0) == 1).all()


def test_what_goes_through_the_autoencoder_does_not_hang_on_who_draws_it(folder):
    vae, n = load_autoencoder(folder / "shapes-vae.safetensors"), shapes_reader.SOME + 2
    known, seen = shapes_reader.through(vae, n, Generator().manual_seed(2), 0.0)
    again, same = shapes_reader.through(vae, n, Generator().manual_seed(2), 0.0, workers=1)
    assert known == again and seen.shape == (n, 3, 64, 64)
    assert_close(same, seen, atol=0, rtol=0)
    assert_close(seen[-2:].float(), vae.decode(vae.encode(render(known[-2:]))), atol=1e-2, rtol=0)


def test_the_reader_is_shown_what_it_misreads_more_often():
    def share(hard):
        scenes = shapes_reader.draw(400, torch.Generator().manual_seed(3), hard)
        return sum(map(shapes_reader.is_hard, scenes)) / len(scenes)

    assert (
        share(1.0) == 1 and share(0.5) == pytest.approx(0.5 + 0.5 * share(0.0), abs=0.06) and share(0.0) < 0.6
    )


def test_reader_labels_are_the_attributes():
    scenes = [sample_scene(random.Random(k)) for k in range(20)]
    found = shapes_reader.labels(scenes)
    for i, scene in enumerate(scenes):
        assert {name: ATTRIBUTES[name][found[name][i]] for name in ATTRIBUTES} == attributes(scene)


def test_a_loss_stays_on_the_device_of_its_model():
    """On the meta device nothing is computed, but whatever lies elsewhere is refused, as between a GPU
    and the CPU.
    """
    g, meta = Generator().manual_seed(0), torch.device("meta")
    modules = shapes.models()[0].to(meta)
    tokens = torch.zeros(2, shapes.LENGTH, dtype=torch.long, device=meta)
    assert (
        shapes.loss(modules, (torch.zeros(2, 8, 16, 16, device=meta), tokens), g, Schedule.cosine()).device
        == meta
    )
    modules = shapes.models(shapes_ve.NET, shapes.LENGTH)[0].to(meta)
    schedule = Schedule.geometric(**shapes_ve.SCHEDULE)
    assert (
        shapes_ve.loss(modules, (torch.zeros(2, 3, 32, 32, device=meta), tokens), g, schedule).device == meta
    )
    vae = AutoencoderKL(**shapes_vae.CONFIG).to(meta)
    assert shapes_vae.loss(vae, torch.zeros(2, 3, 64, 64, device=meta), g, 0.1, 0.1).device == meta


def test_float16_in_the_file_costs_what_is_said():
    half_spaced = torch.nn.Linear(1, 1, bias=False)
    half_spaced.weight.data.fill_(1 + 2**-11 + 2**-13)  # float16 has 1 and 1 + 2⁻¹⁰ here: it takes the latter
    found = storage_error({"net": half_spaced}, lambda m: m["net"](torch.ones(3, 1)))
    assert found == pytest.approx((2**-10 - 2**-11 - 2**-13) / (1 + 2**-11 + 2**-13), rel=1e-4)


@pytest.mark.parametrize("kind", ["plain", "instruct", "ve", "glide", "inpainting", "upsampling"])
def test_a_finished_file_is_made_smaller_and_says_nearly_the_same(tmp_path, kind, capsys):
    path = tiny_weights(tmp_path)
    if kind == "instruct":
        path = tiny_instruct(tmp_path)
    if kind == "ve":
        path = tiny_ve(tmp_path)
    if kind in ("glide", "inpainting", "upsampling"):
        path = tiny_glide(tmp_path, size=16, **({} if kind == "glide" else {kind: True}))
    config, before = read_weights(path)
    smaller.main([str(path)])
    said, held = capsys.readouterr().out, load_file(path)
    after_config, after = read_weights(path)
    assert after_config == config and after.keys() == before.keys()
    # every matrix is in int8, one byte a weight, and no further from what it was than half a step of its row
    assert all(held[k].dtype == torch.int8 for k, v in before.items() if v.ndim > 1)
    for key, v in before.items():
        most = v.float().flatten(1).abs().amax(1).max() / 254 if v.ndim > 1 else 0
        assert (after[key].float() - v.float()).abs().max() <= most * 1.001 + 1e-3, key
    error = float(re.search(r"error ([\d.]+) %", said)[1])
    assert 0.05 <= error < 10
    smaller.main([str(path)])
    assert capsys.readouterr().out == f"{path.name} is in int8 already\n"


def test_what_is_no_weight_file_is_refused_and_stays(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("# notes", encoding="utf-8")
    with pytest.raises(WeightsError, match="is no weight file of this library"):
        smaller.main([str(path)])
    assert path.read_text(encoding="utf-8") == "# notes"


def test_all_that_is_shipped_is_at_most_110_megabytes():
    files = [f for f in FOLDER.iterdir() if f.suffix in (".safetensors", ".jsonl", ".json")]
    assert len(files) > 20 and sum(f.stat().st_size for f in files) <= 110e6


def test_int8_in_the_file_has_a_scale_for_each_output_and_costs_half_a_step_at_most(tmp_path):
    g = Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 5, bias=False)
    )
    for k, p in enumerate(net.parameters()):
        p.data = torch.randn(p.shape, generator=g) * 10.0 ** (k - 1)
    net[0].weight.data[1] *= 1000  # an output that would drown the others under one scale
    net[0].weight.data[2] = 0
    net.register_buffer("seen", torch.tensor(7))
    path = write_weights(tmp_path / "x.safetensors", {"net": net}, dict(kind="vae"), torch.int8)
    held, found = load_file(path), read_weights(path)[1]
    assert held["net.0.weight"].dtype == torch.int8 and held["net.0.bias"].dtype == torch.float16
    assert found.keys() == {f"net.{key}" for key in net.state_dict()} and found["net.seen"] == 7
    for name in ("0.weight", "2.weight"):
        true, mine = net.state_dict()[name], found[f"net.{name}"]
        rows = true.flatten(1).abs().amax(1).view(-1, *[1] * (true.ndim - 1))
        assert mine.dtype == torch.float32 and ((mine - true).abs() <= rows / 254 * (1 + 1e-5)).all()
        assert_close(mine.flatten(1).abs().amax(1), rows.flatten())  # the largest of a row is kept
    twice = write_weights(
        tmp_path / "y.safetensors", {"net": fill(net, found, "net")}, dict(kind="vae"), torch.int8
    )
    assert all(torch.equal(v, held[key]) for key, v in load_file(twice).items() if v.dtype == torch.int8)
    x = torch.randn(64, 3, 4, 4, generator=g)
    exact = copy.deepcopy(net)
    exact[0].weight.data += 0.3 * torch.randn(4, 3, 3, 3, generator=g)
    cost = [
        storage_error({"net": exact}, lambda m: m["net"](x), dtype)
        for dtype in (torch.float32, torch.float16, torch.int8)
    ]
    assert cost[0] == 0 < 5 * cost[1] < cost[2] < 0.02


def test_the_record_has_the_cost_of_float16_and_an_unknown_device_is_refused(folder):
    for name in ("shapes", "shapes-ve", "shapes-vae", "shapes-reader"):
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert 0 <= record["figures"]["storage_error"] < 0.01 and (
            name == "shapes" or record["figures"]["storage_error"] > 0
        )
    with pytest.raises(ValueError, match="device: 'tpu'"):
        shapes_vae.main(shapes_vae.Arguments(device="tpu"))


def test_a_file_from_before_new_words_is_gone_on_from(folder, tmp_path):
    """Words are added at the end: what the file knows is kept, row for row."""
    config, tensors = read_weights(folder / "shapes.safetensors")
    words, rows = config["words"][:-3], tensors["text.tokens.weight"]
    modules, _, _ = shapes.models()
    old = {
        name: {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}
        for name in modules
    }
    old["text"]["tokens.weight"] = rows[:-3]
    path = tmp_path / "old.safetensors"
    save_file(
        {f"{n}.{k}": v.contiguous() for n, state in old.items() for k, v in state.items()},
        path,
        metadata={"palimpsest": json.dumps(config | dict(words=words))},
    )
    fresh = modules["text"].tokens.weight.detach().clone()
    start_from(str(path), dict(modules))
    assert_close(modules["text"].tokens.weight.detach()[:-3], rows[:-3].float())
    assert_close(modules["text"].tokens.weight.detach()[-3:], fresh[-3:])


@pytest.mark.slow
def test_shapes_of_another_width_by_another_optimiser_and_what_edits_by_instruction_from_it(
    folder, tmp_path, monkeypatch
):
    """Ended by the clock; each checkpoint left a file that opens."""
    early = tmp_path / "early"
    early.mkdir()
    for place in (tmp_path, early):
        shutil.copy(folder / "shapes-vae.safetensors", place)

    def saving_often(loss, net, data, settings, files, **how):
        return fit(loss, net, data, settings, replace(files, save_every=1), **how)

    monkeypatch.setattr(shapes, "fit", saving_often)
    how = dict(vae=str(folder / "shapes-vae.safetensors"), out=str(tmp_path), device="cpu", batch=2)
    shapes.main(
        shapes.Arguments(
            steps=500,
            scenes=12,
            width=16,
            heads=1,
            optimiser="muon",
            tilt=0.0,
            until=time.time() + 15,
            snapshots=str(early),
            state=str(tmp_path / "s"),
            **how,
        )
    )
    record = json.loads((tmp_path / "shapes.json").read_text(encoding="utf-8"))
    assert record["arguments"]["width"] == 16 and 1 < record["steps"] == record["arguments"]["steps"] < 500
    for place in (tmp_path, early):
        assert load(place / "shapes.safetensors", "cpu").net.conv_in.weight.shape[0] == 16
    shapes_instruct.main(
        shapes_instruct.Arguments(
            steps=1, n=4, init=str(tmp_path / "shapes.safetensors"), state=str(tmp_path / "i"), **how
        )
    )
    assert load(tmp_path / "shapes-instruct.safetensors", "cpu").net.conv_in.weight.shape[:2] == (16, 16)
    with pytest.raises(ValueError, match="tilt"):
        shapes.main(shapes.Arguments(tilt=-1.0, **how))


@pytest.mark.slow
def test_an_anchored_autoencoder_keeps_the_latents_of_scenes_and_sees_subjects(folder, tmp_path):
    """The anchor holds scenes, in the axes and the scale of the file that was begun with."""
    init = str(folder / "shapes-vae.safetensors")
    how = dict(steps=12, batch=4, lr=3e-3, tests=8, strange=0.5, init=init, device="cpu")
    for name, anchor in (("held", 300.0), ("hardly", 1e-9)):
        shapes_vae.main(
            shapes_vae.Arguments(
                anchor=anchor, state=str(tmp_path / f"{name} state"), out=str(tmp_path / name), **how
            )
        )
    figures = {
        n: json.loads((tmp_path / n / "shapes-vae.json").read_text(encoding="utf-8"))["figures"]
        for n in ("held", "hardly")
    }
    assert (
        0 < figures["held"]["moved"] < 0.6 * figures["hardly"]["moved"]
        and figures["held"]["psnr_subjects"] > 0
    )
    config = read_weights(tmp_path / "held" / "shapes-vae.safetensors")[0]
    assert config["latent_scale"] == read_weights(init)[0]["latent_scale"]
    with pytest.raises(ValueError, match="anchor: holds the latents of the file"):
        shapes_vae.main(shapes_vae.Arguments(**how | dict(init=""), anchor=1.0))


def test_strange_pictures_stand_last_and_show_no_held_out_pair():
    drawn = shapes_vae.mixed(8, Generator().manual_seed(3), 0.25)
    assert drawn.shape == (8, 3, 64, 64)
    g = Generator().manual_seed(3)
    assert_close(drawn[:6], render(shapes_vae.scenes(6, g)), atol=0, rtol=0)
    assert_close(drawn[6:7], shapes_vae.drawings(1, g), atol=0, rtol=0)
    assert_close(drawn[7:], shapes_vae.strangers(1, g), atol=0, rtol=0)
    assert shapes_vae.mixed(3, g, 0.0).shape == shapes_vae.mixed(3, g, 1.0).shape == (3, 3, 64, 64)


@pytest.mark.parametrize("units", [True, False])
def test_a_recipe_says_where_bfloat16_is_slow(monkeypatch, capsys, units):
    """On a processor without units for it a step takes ten times as long; the run is begun all the same."""
    monkeypatch.setattr("palimpsest.training.recipe.cpu_has_bfloat16", lambda: units)
    monkeypatch.setattr(sys, "argv", ["shapes_ve", "--precision", "bfloat16", "--device", "cpu"])

    def main(given):
        print(given.precision)

    with pytest.raises(SystemExit) as end:
        command_line(main, shapes_ve.Arguments)
    said = capsys.readouterr()
    assert end.value.code == 0 and said.out == "bfloat16\n"
    assert said.err.count("\n") == (0 if units else 1) and ("float32 is the fast one" in said.err) != units
