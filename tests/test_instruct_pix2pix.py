"""InstructPix2Pix: Eq. (15), Eq. (16) and its identities, the walk written out, the recipe's first step,
and what is refused.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from palimpsest.cli.main import main
from palimpsest.methods.instruct_pix2pix import condition, instruct_pix2pix
from palimpsest.nets.unet import widen_input
from palimpsest.samplers.convert import q_sample, v_from_eps_x0
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import cfg_two, combine_two
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, DPMSolver2M
from palimpsest.samplers.ve_sde import ancestral_step
from palimpsest.training import shapes_instruct
from palimpsest.training.shapes import models
from palimpsest.training.shapes_instruct import DROP, dropped, pairs_of, true_pairs
from palimpsest.weights.files import read_weights, write_weights
from palimpsest.weights.load import load, load_autoencoder
from palimpsest.worlds.files import open_picture, read_picture, write_picture
from tests.tiny import shake, tiny_instruct, tiny_weights

ASK = "make the star blue"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 4 channels, one of 8 that sees a picture, both with random weights, and a picture."""
    out = tmp_path_factory.mktemp("instruct")
    tiny_weights(out)
    tiny_instruct(out)
    write_picture(torch.rand((1, 3, 32, 32), generator=Generator().manual_seed(0)) * 2 - 1, out / "in.png")
    return out


@pytest.fixture(scope="module")
def model(folder):
    return load(folder / "instruct.safetensors", "cpu")


def picture(n=1, seed=0):
    return torch.rand((n, 3, 32, 32), generator=Generator().manual_seed(seed)) * 2 - 1


def randn(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


# ---- Eq. (16) ----


def test_equation_16_is_its_three_answers_and_their_identities():
    none, image, full = (randn(2, 4, 3, 3, seed=n) for n in range(3))
    for s_i, s_t in ((1.5, 7.5), (0.4, 2.0), (1.0, 3.0)):
        assert_close(
            combine_two(none, image, full, s_i, s_t), none + s_i * (image - none) + s_t * (full - image)
        )
    assert_close(combine_two(none, image, full, 1, 1), full)
    assert_close(combine_two(none, image, full, 3, 3), none + 3 * (full - none))
    assert_close(combine_two(none, image, full, 1, 0), image)
    assert_close(combine_two(none, image, full, 0, 0), none)


def asked_net(calls):
    """An ε-function whose answer depends on picture and text, and that writes down what it was asked."""

    def eps(seen, t, ctx):
        x, p = seen.chunk(2, dim=1)
        calls.append(len(x))
        return (
            x * 0.3 + p.tanh() * ctx.mean((1, 2))[:, None, None, None] + ctx.std((1, 2))[:, None, None, None]
        )

    return eps


@pytest.mark.parametrize(
    "scales, rows",
    [
        ((7.5, 1.5), 3),
        ((3.0, 3.0), 2),
        ((7.5, 1.0), 2),
        ((0.0, 1.5), 2),
        ((1.0, 1.0), 1),
        ((0.0, 1.0), 1),
        ((0.0, 0.0), 1),
    ],
)
def test_answers_that_vanish_are_not_asked_for_and_stacking_changes_nothing(scales, rows):
    x, p, cond, null = (
        randn(2, 4, 3, 3),
        randn(2, 4, 3, 3, seed=1),
        randn(2, 5, 6, seed=2),
        randn(1, 5, 6, seed=3),
    )
    calls, apart = [], []
    one = cfg_two(asked_net(calls), cond, null, p, *scales)(x, 500)
    two = cfg_two(asked_net(apart), cond, null, p, *scales, stack=False)(x, 500)
    assert calls == [2 * rows] and apart == [2] * rows
    assert_close(one, two)
    eps = asked_net([])
    none, image, full = (
        eps(torch.cat([x, q], 1), 500, c.expand(2, -1, -1)) for q, c in ((0 * p, null), (p, null), (p, cond))
    )
    assert_close(one, combine_two(none, image, full, scales[1], scales[0]))


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must agree"):
        cfg_two(asked_net([]), randn(1, 5, 6), randn(1, 4, 6), randn(1, 4, 3, 3), 2.0, 1.0)


# ---- the walk ----


def test_eulers_ancestral_step_is_ddims_with_eta_1():
    """k-diffusion's form: to σ_down by Euler, then noise of σ_up; in VE states, after the change of
    variables.
    """
    sched, x, eps, z = (
        Schedule.scaled_linear(),
        randn(1, 4, 3, 3),
        randn(1, 4, 3, 3, seed=1),
        randn(1, 4, 3, 3, seed=2),
    )
    for t, s in ((900, 850), (400, 20)):
        a, b_ = sched.sigma(t), sched.sigma(s)
        up = math.sqrt(b_**2 * (a**2 - b_**2) / a**2)
        down = b_**2 / a
        euler = x + (down - a) * eps + up * z
        ours = ddim_step(sched, x * sched.at(t) ** 0.5, eps, t, s, 1.0, z) / sched.at(s) ** 0.5
        assert_close(ours, euler, rtol=1e-9, atol=1e-12)
        assert_close(ancestral_step(x, -eps / a, a, b_, z), euler, rtol=1e-9, atol=1e-12)


def test_a_walk_written_out_is_the_walk(model):
    x, steps = picture(2), 4
    made = instruct_pix2pix(
        model, x, [ASK, "remove the ring"], s_text=5.0, s_image=1.2, steps=steps, seed=3, predictions=True
    )
    c_I, rng = model.vae.encode(x)[0], Rng.of(3, 2)
    assert_close(condition(model, x), c_I)  # the mean, not scaled
    z, levels = rng.randn(c_I.shape), model.schedule.times(steps, 0.98)
    c_T, null = model.embed([ASK, "remove the ring"]), model.embed("").expand(2, -1, -1)
    with torch.no_grad():
        for k, (t, s) in enumerate(pairwise(levels)):
            none, image, full = (
                model.eps(torch.cat([z, p], 1), t, c) for p, c in ((0 * c_I, null), (c_I, null), (c_I, c_T))
            )
            for mine, theirs in zip((none, image, full), made.predictions[k][1:]):
                assert_close(theirs, mine, rtol=1e-3, atol=1e-4)
            noise = rng.randn(z.shape) if s > 0 else None
            z = ddim_step(
                model.schedule,
                z,
                none + 1.2 * (image - none) + 5 * (full - image),
                t,
                s,
                1.0 if s > 0 else 0.0,
                noise,
            )
    assert_close(made.path[-1], z, rtol=1e-3, atol=1e-3)
    assert (
        made.levels == levels
        and len(made.path) == steps + 1
        and torch.equal(made.picture, model.decode(made.path[-1]))
    )


def test_a_picture_does_not_depend_on_its_batch(model):
    x = picture(2)
    both = instruct_pix2pix(model, x, ASK, steps=3, seed=5).picture
    for i in range(2):
        assert_close(
            instruct_pix2pix(model, x[i : i + 1], ASK, steps=3, seed=5 + i).picture,
            both[i : i + 1],
            rtol=1e-3,
            atol=1e-4,
        )


def test_picture_and_instruction_both_matter(model):
    one = instruct_pix2pix(model, picture(), ASK, steps=3).picture
    assert not torch.equal(one, instruct_pix2pix(model, picture(seed=2), ASK, steps=3).picture)
    assert not torch.equal(one, instruct_pix2pix(model, picture(), "remove the ring", steps=3).picture)
    second = instruct_pix2pix(model, picture(), ASK, steps=3, step=DPMSolver2M()).picture
    assert not torch.equal(one, second) and second.isfinite().all()
    ddim = [instruct_pix2pix(model, picture(), ASK, steps=3, step=DDIM()).picture for _ in range(2)]
    assert torch.equal(*ddim) and not torch.equal(ddim[0], one)


def test_an_empty_instruction_returns_the_picture_bit_for_bit(model):
    x = picture(2)
    assert torch.equal(instruct_pix2pix(model, x, "").picture, x)
    mixed = instruct_pix2pix(model, x, ["", ASK], steps=2)
    assert torch.equal(mixed.picture[:1], x[:1]) and not torch.equal(mixed.picture[1:], x[1:])


def test_mistakes_are_named(model, folder):
    for match, call in {
        "model: tiny takes 4 channels": lambda: instruct_pix2pix(
            load(folder / "tiny.safetensors", "cpu"), picture(), ASK
        ),
        "s_text: must be": lambda: instruct_pix2pix(model, picture(), ASK, s_text=math.nan),
        "step: must be": lambda: instruct_pix2pix(model, picture(), ASK, step=2.0),
        "instruction: must be one, or one for each of 1 pictures, got 2": lambda: instruct_pix2pix(
            model, picture(), [ASK, ASK]
        ),
        "sztar": lambda: instruct_pix2pix(model, picture(), "make the sztar blue"),
        "steps": lambda: instruct_pix2pix(model, picture(), ASK, steps=0),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


def test_the_command_edits_a_file_and_an_empty_instruction_copies_it(folder, tmp_path, capsys):
    model = ["--model", str(folder / "instruct.safetensors"), "--steps", "2", "--device", "cpu"]
    out = tmp_path / "x.png"
    assert (
        main(["instruct-pix2pix", str(folder / "in.png"), "--instruction", ASK, *model, "-o", str(out)]) == 0
    )
    assert not torch.equal(read_picture(out), read_picture(folder / "in.png"))
    assert (
        main(["instruct-pix2pix", str(folder / "in.png"), "--instruction", "", *model, "-o", str(out)]) == 0
    )
    assert torch.equal(read_picture(out), read_picture(folder / "in.png"))
    rgba, copy = tmp_path / "rgba.png", tmp_path / "copy.png"  # larger than the model's pictures, with alpha
    write_picture(
        (torch.rand((1, 4, 50, 90), generator=Generator().manual_seed(5)) * 255).to(torch.uint8), rgba
    )
    capsys.readouterr()
    assert main(["instruct-pix2pix", str(rgba), "--instruction", " ", *model, "-o", str(copy)]) == 0
    mine, theirs = open_picture(copy), open_picture(rgba)
    assert (
        (mine.rgb == theirs.rgb).all()
        and (mine.alpha == theirs.alpha).all()
        and "the picture as it was" in capsys.readouterr().out
    )
    walk = tmp_path / "walk"
    assert (
        main(
            [
                "instruct-pix2pix",
                str(folder / "in.png"),
                "--instruction",
                ASK,
                *model,
                "-o",
                str(out),
                "--save-steps",
                str(walk),
            ]
        )
        == 0
    )
    assert len(list(walk.iterdir())) == 3
    out.unlink()
    assert (
        main(
            [
                "instruct-pix2pix",
                str(folder / "in.png"),
                "--instruction",
                " ",
                *model,
                "-o",
                str(out),
                "--save-steps",
                str(walk),
            ]
        )
        == 2
    )
    assert "save-steps: an empty instruction" in capsys.readouterr().err
    mistakes = (
        (["--model", str(folder / "tiny.safetensors")], "takes 4 channels"),
        (["--s-text", "nan"], "s-text: must be a finite"),
    )
    for argv, said_ in mistakes:
        assert (
            main(
                [
                    "instruct-pix2pix",
                    str(folder / "in.png"),
                    "--instruction",
                    ASK,
                    *model,
                    *argv,
                    "-o",
                    str(out),
                ]
            )
            == 2
        )
        line = capsys.readouterr().err.strip()
        assert said_ in line and len(line.splitlines()) == 1 and not out.exists()


# ---- Eq. (15) and the recipe ----


def test_the_loss_is_equation_15_by_plain_loops():
    torch.manual_seed(0)
    modules, tokenizer, _ = models()
    modules["net"] = shake(widen_input(modules["net"], 8)).eval()
    n, sched = 40, Schedule.cosine()
    g = Generator().manual_seed(1)
    z_0, c_I = torch.randn(n, 8, 4, 4, generator=g), torch.randn(n, 8, 4, 4, generator=g)
    tokens, null = tokenizer([ASK] * n), tokenizer([""])
    with torch.no_grad():
        got = shapes_instruct.loss(
            modules, (z_0, c_I, tokens, null), Generator().manual_seed(2), sched
        ).item()
        g = Generator().manual_seed(2)
        times = (1000 * torch.rand(n, generator=g).sqrt()).long().clamp(max=999) + 1
        eps, r = torch.randn(z_0.shape, generator=g), torch.rand(n, generator=g)
        total = 0.0
        for i in range(n):
            text = null if r[i] < 0.1 else tokens[i : i + 1]
            seen = 0 * c_I[i : i + 1] if 0.05 <= r[i] < 0.15 else c_I[i : i + 1]
            t = times[i : i + 1]
            z_t = q_sample(sched, z_0[i : i + 1], t, eps[i : i + 1])
            out = modules["net"](torch.cat([z_t, seen], 1), t, modules["text"](text))
            total += (out - v_from_eps_x0(sched, z_0[i : i + 1], t, eps[i : i + 1])).square().mean().item()
    assert (r < 0.15).any() and got == pytest.approx(total / n, rel=1e-4)


def test_one_draw_drops_text_and_picture_in_the_published_shares():
    text, image = dropped(torch.rand(200_000, generator=Generator().manual_seed(0)))
    shares = [(text & ~image), (text & image), (~text & image), (~text & ~image)]
    assert [s.double().mean().item() for s in shares] == pytest.approx(
        [DROP, DROP, DROP, 1 - 3 * DROP], abs=0.002
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    out = tmp_path_factory.mktemp("instruct-recipe")
    torch.manual_seed(3)
    modules, _, config = models()
    config = dict(
        kind="text2image",
        prediction="v",
        schedule=dict(name="cosine", T=1000),
        vae="shapes-vae",
        size=64,
        **config,
    )
    write_weights(out / "shapes.safetensors", dict(shake(modules)), config | dict(trained=[dict(steps=7)]))
    shapes_instruct.main(
        shapes_instruct.Arguments(
            steps=1,
            lr=1e-12,
            batch=2,
            n=16,
            init=str(out / "shapes.safetensors"),
            state=str(out / "s"),
            out=str(out),
        )
    )
    return out


def test_the_first_step_is_the_text_to_picture_models_own(recipe):
    first, wide = (read_weights(recipe / f"{name}.safetensors")[1] for name in ("shapes", "shapes-instruct"))
    weight = wide["net.conv_in.weight"]
    plain = first["net.conv_in.weight"].float()
    assert_close(
        weight[:, :8], plain, rtol=0, atol=plain.abs().max().item() / 127
    )  # int8, and seven steps of a tiny lr
    assert weight[:, 8:].abs().max() < 1e-6 and torch.allclose(
        wide["net.conv_in.bias"], first["net.conv_in.bias"], atol=1e-3
    )
    model = load(recipe / "shapes-instruct.safetensors", "cpu")
    assert (
        model.net.conv_in.in_channels == 16
        and read_weights(recipe / "shapes-instruct.safetensors")[0]["trained"][0]["steps"] == 7
    )
    assert instruct_pix2pix(model, torch.zeros(1, 3, 64, 64), ASK, steps=2).picture.shape == (1, 3, 64, 64)


def test_a_run_goes_on_from_its_own_file(recipe, tmp_path):
    shapes_instruct.main(
        shapes_instruct.Arguments(
            steps=1,
            batch=2,
            n=16,
            init=str(recipe / "shapes-instruct.safetensors"),
            state=str(tmp_path / "s"),
            out=str(tmp_path),
        )
    )
    assert len(read_weights(tmp_path / "shapes-instruct.safetensors")[0]["trained"]) == 3


def test_true_pairs_differ_where_they_were_asked_to():
    before, after, asked = true_pairs(load_autoencoder(), 16, Generator().manual_seed(0))
    assert before.shape == after.shape == (16, 8, 16, 16) and len(asked) == 16
    assert ((before - after).abs().amax((1, 2, 3)) > 0.3).all()


def test_pairs_come_from_a_folder_and_what_is_wrong_with_one_is_named(tmp_path):
    vae, tokenizer = load_autoencoder(), models()[1]
    with pytest.raises(ValueError, match="pairs: .* holds no folders"):
        pairs_of(tmp_path, vae, 64, tokenizer)
    for k in range(2):
        (tmp_path / f"{k}").mkdir()
        for name in ("before", "after"):
            write_picture(
                torch.rand((1, 3, 64, 64), generator=Generator().manual_seed(k)) * 2 - 1,
                tmp_path / f"{k}" / f"{name}.png",
            )
        (tmp_path / f"{k}" / "instruction.txt").write_text(f"{ASK}\n", encoding="utf-8")
    before, after, asked = pairs_of(tmp_path, vae, 64, tokenizer)
    assert torch.equal(before, after) and not torch.equal(before[0], before[1]) and asked == [ASK] * 2
    for mine, theirs in zip(pairs_of(tmp_path, vae, 64, tokenizer, workers=1)[:2], (before, after)):
        assert torch.equal(mine, theirs)

    write_picture(torch.zeros(1, 3, 64, 80), tmp_path / "wide.png")
    wide = (tmp_path / "wide.png").read_bytes()
    for name, content, match in (
        ("before.png", b"no picture", "before.png"),
        ("after.png", wide, "1/after.png is not square"),
        ("instruction.txt", b"make the sztar blue", "1/instruction.txt: .*sztar"),
        ("instruction.txt", b" \n", "1/instruction.txt is empty"),
        ("instruction.txt", b"\xff\xfe\xff", "1/instruction.txt: "),
    ):
        file = tmp_path / "1" / name
        right = file.read_bytes()
        file.write_bytes(content)
        for workers in (0, 1):
            with pytest.raises(ValueError, match=match) as error:
                pairs_of(tmp_path, vae, 64, tokenizer, workers)
            assert "\n" not in str(error.value)
        file.write_bytes(right)
    (tmp_path / "1" / "after.png").unlink()
    with pytest.raises(ValueError, match="1/after.png is missing"):
        pairs_of(tmp_path, vae, 64, tokenizer)
