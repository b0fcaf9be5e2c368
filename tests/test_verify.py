"""The certificate: it passes on equal nets, names the block where unequal ones part, and says what it did
not run.
"""

import copy
import dataclasses
import re

import pytest
import torch
from safetensors.torch import save_file

from palimpsest.claims.verify import (
    CELLS,
    LOGITS,
    NET,
    WALK,
    Missing,
    Remark,
    Row,
    Setting,
    Skipped,
    real,
    reference,
    relative,
    walks,
    written,
)
from palimpsest.claims.verify import __main__ as program
from palimpsest.claims.verify.nets import (
    blocks_of,
    compare,
    counterparts,
    drawn,
    first,
    noise,
    twin_text,
    twin_unet,
    twin_vae,
)
from palimpsest.claims.verify.walks import pipeline, published_times, scheduler
from palimpsest.methods.diffedit import heat_map
from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.guidance import cfg_two
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import sha256
from palimpsest.weights.load import load, names
from palimpsest.weights.model import Model
from palimpsest.weights.public import catalogue
from palimpsest.weights.public.checkpoint import save
from palimpsest.weights.public.layouts import diffusers_names
from palimpsest.weights.public.tower_names import clip_openai_names, dino_official_names, pack
from palimpsest.worlds.files import read_picture, write_picture
from palimpsest.worlds.scene import WORDS

pytest.importorskip("diffusers", reason="the reference of the certificate")
pytest.importorskip("transformers", reason="the reference of the certificate")
S = Setting()
TOWER_CENSUS = {(151_277_313, 398), (427_616_513, 590), (21_665_664, 198)}  # query, key and value maps apart


# ------------------------------------------------------------------------------------------------------------ the whole table


@pytest.fixture(scope="module")
def results():
    return list(program.certificate(S))


@pytest.mark.slow
def test_every_comparison_of_the_small_certificate_is_within_its_tolerance(results):
    rows = [r for r in results if isinstance(r, Row)]
    assert [written(row) for row in rows if not row.passed] == []
    assert len(rows) == 8 + 4 + 4 + 2 + 1 + 2 + 2 + 3 + 1
    assert [r.what for r in results if isinstance(r, Skipped)] == []


def test_in_double_precision_nothing_is_left_but_rounding():
    rows = list(program.certificate(S._replace(dtype=torch.float64), program.NETS + program.TOWERS))
    assert [
        written(row) for row in rows if isinstance(row, Row) and not (row.passed and row.tolerance <= 2e-7)
    ] == []
    assert sum("float64" in row.setting for row in rows if isinstance(row, Row)) == 19


@pytest.mark.slow
def test_the_certificate_covers_what_it_promises(results):
    rows = [r for r in results if isinstance(r, Row)]
    kinds = [*(f"U-Net, {c} channels" for c in (4, 8, 9)), "U-Net, Stable Diff"]
    assert {(r.what[:18].split(" (")[0].rstrip(), r.layout) for r in rows if r.what.startswith("U-Net")} == {
        (kind, layout) for kind in kinds for layout in ("diffusers", "CompVis")
    }
    assert {(r.what.split(",")[0], r.layout) for r in rows if "coder," in r.what or r.what == "decoder"} >= {
        ("encoder", "diffusers"),
        ("encoder", "CompVis"),
        ("decoder", "diffusers"),
        ("decoder", "CompVis"),
    }
    assert {r.what for r in rows if r.what.startswith("text")} == {
        f"text encoder{of}, padded with {n}" for of in ("", " of Stable Diffusion 2") for n in (999, 0)
    }
    assert {(r.what, r.layout) for r in rows if r.what.startswith(("CLIP", "DINO"))} == {
        ("CLIP ViT-B/32", "transformers"),
        ("CLIP ViT-B/32", "OpenAI"),
        ("DINO ViT-S/16", "official"),
    }
    assert {r.layout for r in rows} >= {"text2img", "img2img", "DiffEdit", "instruct"}
    assert all(r.tolerance <= (1e-4 if r.census else 1e-3) for r in rows)
    assert all(len(r.blocks) >= 5 for r in rows if r.census)
    unet = next(r for r in rows if r.what.startswith("U-Net"))
    assert {
        "conv_in",
        "time.linear2",
        "down.0.stages.0.res",
        "mid.stages.0.transformer",
        "up.0.resample.conv",
        "conv_out",
    } <= set(unet.blocks)


def test_where_theirs_differ_knowingly_is_said_and_measured(results):
    said = " ".join(r.what for r in results if isinstance(r, Remark))
    assert "one level too noisy" in said and "q(z|x)" in said and "image_guidance_scale" in said
    lag = next(r.what for r in results if isinstance(r, Remark) and "one level too noisy" in r.what)
    assert 1e-3 < float(lag.rsplit(" ", 1)[1]) < 10  # the lag is no rounding error


# ------------------------------------------------------------------------------------------------------------ block by block


@pytest.fixture(scope="module")
def net():
    return drawn(UNet, S)


X, T, CTX = noise(S, 2, 4, 8, 12), torch.tensor([3, 981]), noise(S, 2, 7, 64)


def against(net, theirs):
    return compare(
        net,
        theirs,
        counterparts(net, diffusers_names(net)),
        lambda: net(X, T, CTX),
        lambda: first(theirs(X, T, CTX)),
    )


@pytest.mark.parametrize("block", ["down.1.stages.0.res", "mid.stages.0.transformer", "up.2.stages.1.res"])
def test_the_first_block_that_differs_is_the_one_that_was_changed(net, block):
    theirs = copy.deepcopy(twin_unet(net))  # the twin itself shares our tensors
    next(theirs.get_submodule(counterparts(net, diffusers_names(net))[block]).parameters()).add_(0.1)
    blocks, output = against(net, theirs)
    assert next(name for name, value in blocks.items() if value > 1e-4) == block and output > 1e-4
    row = Row("x", "", "", "", (1, 1), blocks, output, 1e-4)
    assert not row.passed and written(row).startswith("FAILED")


def test_a_wrong_time_is_seen_at_the_time_embedding(net):
    theirs = twin_unet(net)
    theirs.time_proj.flip_sin_to_cos = False
    blocks, output = against(net, theirs)
    assert next(name for name, value in blocks.items() if value > 1e-4) == "time.linear1" and output > 1e-3


def test_twins_share_every_tensor_and_need_no_second_copy(net):
    vae, text = drawn(AutoencoderKL, S), drawn(TextTransformer, S)
    for ours, theirs in ((net, twin_unet(net)), (vae, twin_vae(vae)), (text, twin_text(text))):
        assert {p.data_ptr() for p in theirs.parameters()} == {p.data_ptr() for p in ours.parameters()}


def test_a_block_that_is_not_called_is_an_error_and_not_an_agreement(net):
    theirs = twin_unet(net)
    with pytest.raises(RuntimeError, match="never called: conv_in"):
        compare(net, theirs, {"conv_in": "conv_in"}, lambda: X, lambda: X)
    handles = [m for module in (*net.modules(), *theirs.modules()) for m in module._forward_hooks]
    assert handles == []


@pytest.mark.parametrize("cls", [UNet, AutoencoderKL, TextTransformer])
def test_every_weight_of_a_published_net_lies_in_a_block_that_is_compared(cls):
    with torch.device("meta"):
        net = cls()
    blocks = list(blocks_of(net))
    outside = [k for k in net.state_dict() if not any(k.startswith(f"{b}.") for b in blocks)]
    assert outside == (
        ["positions"] if cls is TextTransformer else []
    )  # a bare parameter, seen in the first layer's output
    pairs = counterparts(net, diffusers_names(net))
    assert len(set(pairs.values())) == len(pairs) == len(blocks)
    assert all(theirs.rsplit(".", 1)[-1] not in ("weight", "bias", "") for theirs in pairs.values())


def test_relative_difference_refuses_what_cannot_be_compared():
    assert relative(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5
    assert relative(torch.ones(2), torch.ones(3)) == float("inf")
    nan = relative(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    assert not Row("x", "", "", "", None, {}, nan, 1.0).passed
    assert not Row("x", "", "", "", None, {"a": nan}, 0.0, 1.0).passed
    assert Row("x", "", "", "", None, {"a": 1.0}, 0.0, 1.0).passed


def test_random_weights_leave_no_layer_silent(net):
    assert all(p.std() > 0.01 for p in net.parameters() if p.numel() > 1)
    assert 1e-2 < net(X, T, CTX).abs().max() < 100
    again = drawn(UNet, S)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in net.named_parameters())
    assert not torch.equal(net.conv_in.weight, drawn(UNet, S._replace(seed=1)).conv_in.weight)


# ------------------------------------------------------------------------------------------------------------ times


def test_the_published_walk_of_three_steps_is_668_335_2_1():
    assert published_times(Schedule.scaled_linear(), 3) == [668, 335, 2, 1]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 15, 30, 50, 60, 999])
def test_published_times_are_those_of_the_scheduler_and_a_level_more(steps):
    sched = Schedule.scaled_linear()
    theirs = scheduler(sched)
    theirs.set_timesteps(steps)
    assert published_times(sched, steps) == [*(theirs.timesteps + 1).tolist(), 1]
    assert theirs.final_alpha_cumprod.item() == pytest.approx(sched.at(1), rel=1e-6)


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_steps_that_the_table_does_not_hold_are_refused(steps):
    with pytest.raises(ValueError, match="steps: must lie in 1 … 999"):
        published_times(Schedule.scaled_linear(), steps)


# ------------------------------------------------------------------------------------------------------------ real checkpoints


@pytest.fixture(scope="module")
def small():
    """Stable Diffusion's build, small, with words of its own: it needs no vocabulary."""
    text = drawn(TextTransformer, S, dict(vocab=3 + len(WORDS), length=24))
    net = drawn(UNet, S, dict(attention=(False, False, True), mult=(1, 1, 2), blocks=1))
    vae = drawn(AutoencoderKL, S, dict(width=16, mult=(1, 1, 1, 1), norm_groups=16))
    return Model(
        name="small",
        net=net,
        text=text,
        tokenizer=WordTokenizer(WORDS, 24),
        vae=vae,
        schedule=Schedule.scaled_linear(),
        prediction="eps",
        latent_scale=0.18215,
        size=512,
        shift=1,
    )


def test_the_latents_of_the_published_picture_are_those_of_numpys_seed_0():
    z = real.published_latents()
    assert z.shape == (1, 4, 64, 64) and z.dtype == torch.float32
    torch.testing.assert_close(z.flatten()[:4], torch.tensor([1.76405235, 0.40015721, 0.97873798, 2.2408932]))


def test_the_published_picture_is_compared_for_its_own_checkpoint_alone(small, monkeypatch):
    monkeypatch.setattr(real, "V1_PROMPT", "a red circle")
    picture = real.published_picture(small, real.published_latents(), "a red circle")
    assert picture.shape == (1, 3, 512, 512) and 0 <= picture.min() < picture.max() <= 1
    corner = real.corner(picture)
    assert corner[1] == picture[0, 2, 509, 510] and corner[3] == picture[0, 2, 510, 509]
    s = S._replace(model=small)

    def again(b, z, prompt):  # made once: 512×512 takes its time
        assert b is small and torch.equal(z, real.published_latents()) and prompt == "a red circle"
        return picture

    monkeypatch.setattr(real, "published_picture", again)
    monkeypatch.setattr(real, "V1", tuple(corner.tolist()))
    row, skipped = real.published_rows("CompVis/stable-diffusion-v1-4")(s)
    assert (
        row.passed
        and row.what.startswith("V1")
        and isinstance(skipped, Skipped)
        and skipped.what.startswith("V3")
    )
    monkeypatch.setattr(real, "V1", tuple((corner + torch.tensor([*8 * [0.0], 2e-4])).tolist()))
    assert not next(real.published_rows("my/sd-v1-4.ckpt")(s)).passed
    for name in ("stable-diffusion-v1-5", "my/other.ckpt"):
        assert "it is of Stable Diffusion v1.4" in next(real.published_rows(name)(s)).why
    assert (
        "not of the size"
        in next(real.published_rows("x-1-4")(s._replace(model=dataclasses.replace(small, size=256)))).why
    )


def test_the_published_edit_is_compared_where_the_net_sees_a_picture_and_the_portrait_is_given(
    small, tmp_path, monkeypatch
):
    write_picture(
        torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1, tmp_path / "example.png"
    )
    monkeypatch.setattr(real, "V3_PROMPT", "a red circle")
    sees = dataclasses.replace(
        small,
        net=drawn(UNet, S, dict(in_channels=8, attention=(False, False, True), mult=(1, 1, 2), blocks=1)),
    )
    rows = [
        real.published_rows("x.ckpt", portrait)(S._replace(model=b))
        for b, portrait in ((small, tmp_path / "example.png"), (sees, None))
    ]
    assert [
        "sees no picture" in why.why or "--portrait" in why.why for why in (list(r)[1] for r in rows)
    ] == [True, True]

    x = read_picture(tmp_path / "example.png")
    made = real.published_edit(sees, x, "a red circle")
    assert made.shape == x.shape and 0 <= made.min() < made.max() <= 1
    monkeypatch.setattr(real, "V3", tuple(real.corner(made).tolist()))
    _, row = real.published_rows("x.ckpt", tmp_path / "example.png")(S._replace(model=sees))
    assert row.passed and row.what.startswith("V3") and row.tolerance == 1e-3
    monkeypatch.setattr(real, "V3", tuple((real.corner(made) + 2e-3).tolist()))
    assert not list(real.published_rows("x.ckpt", tmp_path / "example.png")(S._replace(model=sees)))[1].passed


def test_the_published_edit_is_what_the_pipeline_makes(small, tmp_path):
    sees = dataclasses.replace(
        small,
        net=drawn(UNet, S, dict(in_channels=8, attention=(False, False, True), mult=(1, 1, 2), blocks=1)),
    )
    x = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with (
        torch.no_grad(),
        pipeline("StableDiffusionInstructPix2PixPipeline", sees, twin_unet(sees.net)) as pipe,
    ):
        pipe.vae.register_to_config(scaling_factor=sees.latent_scale)
        theirs = pipe(
            prompt_embeds=sees.embed("a red circle"),
            negative_prompt_embeds=sees.embed(""),
            image=x / 2 + 0.5,
            guidance_scale=7.5,
            image_guidance_scale=1.0,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
    torch.testing.assert_close(real.published_edit(sees, x, "a red circle"), theirs, rtol=0, atol=1e-3)


def test_a_checkpoint_by_path_is_hashed_counted_and_compared(small, tmp_path, capsys):
    path = save(small, tmp_path / "small.safetensors")
    assert program.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert (
        f"{path}: safetensors, {path.stat().st_size:,} bytes, whole; SHA-256 {sha256(path)}, not one that "
        f"is known here" in out
    )
    parameters, tensors = sum(p.numel() for p in small.net.parameters()), len(list(small.net.parameters()))
    assert "U-Net of small" in out and f"{parameters:,} in {tensors}" in out
    assert out.count("\nok ") == 2 + 4 + 2 + 2 + 2 + 3 and "FAILED" not in out
    assert "not run   V1" in out and "not run   V3" in out
    assert "15 of 15 comparisons within their tolerance, 3 not run" in out


@pytest.mark.parametrize("name", names())
def test_every_shipped_model_has_a_certificate_in_which_nothing_fails(name, capsys):
    assert program.main([name]) == ("glide" in name)  # 1: of GLIDE nothing is compared here
    out = capsys.readouterr().out
    assert "FAILED" not in out and "\nnot run " in out and "comparisons within their tolerance" in out
    assert out.count("tests/test_glide.py compares that") == 2 * ("glide" in name)
    assert out.count("\nok ") == (0 if "glide" in name else 8)
    levels = {
        "shapes": 3,
        "shapes-companion": 3,
        "emoji": 3,
        "shapes-instruct": 1,
        "shapes-instruct-generated": 1,
        "emoji-instruct": 1,
    }
    assert out.count("to call the level t by t − 0, and diffusers calls it t − 1") == levels.get(name, 0)


def test_latents_that_diffusers_would_take_for_pictures_are_not_given_to_it():
    sees, plain = (
        dataclasses.replace(load(name, "cpu", torch.float32), shift=1)
        for name in ("shapes-instruct", "shapes")
    )
    for model, groups in ((sees, program.WALKS[3:]), (plain, program.WALKS[1:3])):
        results = list(program.certificate(S._replace(model=model), groups))
        assert len(results) == len(groups) and all(
            "diffusers takes only 4 channels for a latent" in r.why for r in results
        )


@pytest.mark.parametrize("known_digits", [64, 10, 0])
def test_a_published_name_whose_file_has_one_other_bit_fails(tmp_path, monkeypatch, known_digits):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = catalogue.cache_folder() / "made-up.safetensors"
    file.parent.mkdir()
    save_file({"w": torch.ones(100)}, file)
    entry = dataclasses.replace(
        catalogue.PUBLISHED[0],
        name="made-up",
        file=file.name,
        size=file.stat().st_size,
        sha256=sha256(file)[:known_digits],
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", (entry,))
    (remark,) = program.certificate(S, [real.file_rows("made-up")])
    assert isinstance(remark, Remark)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    remark, *rows = program.certificate(S, [real.file_rows("made-up")])
    assert isinstance(remark, Remark) and [row.passed for row in rows] == [False] * bool(known_digits)
    assert all(written(row).startswith("FAILED    the file of made-up") for row in rows)
    assert len(list(program.certificate(S, [real.file_rows(str(file))]))) == 1  # a path claims no name


def test_a_clip_and_a_dino_by_path_are_compared_too(tmp_path, capsys):
    clip, dino = drawn(CLIP, S), drawn(DINO, S)
    torch.save(pack(clip, clip_openai_names(clip)), tmp_path / "clip.pt")
    torch.save(pack(dino, dino_official_names(dino)), tmp_path / "dino.pth")
    for file, count in (("clip.pt", 2), ("dino.pth", 1)):
        assert program.main([str(tmp_path / file)]) == 0
        out = capsys.readouterr().out
        assert (
            out.count("\nok ") == count
            and f"{count} of {count} comparisons within their tolerance, 0 not run" in out
        )
        assert "zip, " in out and "bytes, whole; SHA-256" in out


def test_a_model_that_is_no_such_model_says_what_was_not_compared(small):
    wide = dataclasses.replace(
        small, net=drawn(UNet, S, dict(in_channels=8)), vae=None, text=None, name="wide"
    )
    results = list(program.certificate(S._replace(model=wide), program.NETS[1:] + program.WALKS))
    assert not any(isinstance(r, Row) for r in results)
    assert [r.why for r in results if isinstance(r, Skipped)][:3] == [
        "wide has none",
        "wide reads no text",
        "wide is no text-to-picture model on latents alone",
    ]


# ------------------------------------------------------------------------------------------------------------ what is allowed


def test_no_dtype_allows_what_a_mistake_makes(small, monkeypatch):
    guided, allowed = (
        Model.denoiser,
        [S._replace(dtype=dtype).allow(WALK) for dtype in program.DTYPES.values()],
    )
    monkeypatch.setattr(
        Model, "denoiser", lambda b, cond, w=1.0, negative="", tap=None: guided(b, cond, 1.0, negative, tap)
    )
    unguided, picture = walks.sampling_rows(S._replace(model=small))
    monkeypatch.setattr(Model, "denoiser", guided)
    monkeypatch.setattr(
        walks,
        "cfg_two",
        lambda eps, cond, null, seen, text, image: cfg_two(eps, cond, null, -seen, text, image),
    )
    sees = dataclasses.replace(
        small,
        net=drawn(UNet, S, dict(in_channels=8, attention=(False, False, True), mult=(1, 1, 2), blocks=1)),
    )
    negative, _ = walks.instruct_pix2pix_rows(S._replace(model=sees))
    for row in (unguided, picture, negative):
        assert not any(row._replace(tolerance=tolerance).passed for tolerance in allowed), written(row)


def test_half_precision_allows_a_tenth_in_a_net_and_three_in_a_walk():
    for dtype, allowed in ((torch.bfloat16, [0.1, 0.1, 0.3]), (torch.float16, [0.01, 0.02, 0.03])):
        assert [S._replace(dtype=dtype).allow(what) for what in (NET, LOGITS, WALK)] == allowed


@pytest.mark.parametrize(
    "flipped, in_float32, in_half", [(0, True, True), (1, False, True), (7, False, True), (8, False, False)]
)
def test_two_cells_in_a_hundred_may_flip_in_half_precision_and_none_in_float32(
    small, monkeypatch, flipped, in_float32, in_half
):
    def flip(*given):
        heat = heat_map(*given)
        heat.view(-1)[:flipped] = (heat.view(-1)[:flipped] <= 0.5).to(heat)
        return heat

    monkeypatch.setattr(walks, "heat_map", flip)
    row = next(walks.diffedit_rows(S._replace(model=small)))
    assert row.output == pytest.approx(flipped / (16 * 24)) and row.passed == in_float32
    for dtype in (torch.bfloat16, torch.float16):
        assert row._replace(tolerance=S._replace(dtype=dtype).allow(CELLS)).passed == in_half


# ------------------------------------------------------------------------------------------------------------ the program


def test_a_reference_that_is_not_installed_is_a_row_that_was_not_run():
    def missing_rows(s):
        reference("no_such_program")
        yield

    (found,) = program.certificate(S, [missing_rows])
    assert found == Skipped(
        "missing", "no_such_program is not installed here; the extra palimpsest[test] brings it"
    )
    assert issubclass(Missing, ImportError)


@pytest.mark.parametrize("output, code", [(1e-5, 0), (1e-3, 1), (float("nan"), 1), (None, 1)])
def test_the_exit_code_says_whether_all_was_well(monkeypatch, capsys, output, code):
    def rows(s):
        row = Row("a net", "2×4", "CompVis", "x 1", (7, 2), {"a.b": 1e-6}, output, 1e-4)
        yield Skipped("nothing", "no reason") if output is None else row

    monkeypatch.setattr(program, "NETS", (rows,))
    monkeypatch.setattr(program, "TOWERS", ())
    monkeypatch.setattr(program, "WALKS", ())
    assert program.main(["--blocks"]) == code
    out = capsys.readouterr().out
    assert ("a.b" in out) == (output is not None) and out.count("not run   nothing: no reason") == (
        output is None
    )


def test_a_users_mistake_is_one_line(capsys):
    for argv, said in (
        (["no-such-model"], "model: no model named 'no-such-model'"),
        (["--device", "gpu7"], "device: 'gpu7'"),
        (["--portrait", "x.png"], "portrait: is shown to a real InstructPix2Pix"),
    ):
        assert program.main(argv) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"claims.verify: error: {said}") and err.count("\n") == 1


def test_the_last_line_tells_seconds_and_the_peak_of_memory_where_the_system_does(
    monkeypatch, capsys, tmp_path
):
    for groups in ("NETS", "TOWERS", "WALKS"):
        monkeypatch.setattr(program, groups, ())
    (status := tmp_path / "status").write_text(
        "Name:\tpython\nVmPeak:\t99000000 kB\nVmHWM:\t 2500000 kB\nVmRSS:\t 1 kB\n", encoding="utf-8"
    )
    monkeypatch.setattr(program, "STATUS", status)
    program.main([])
    assert re.search(r"0 not run; \d+ s on cpu, 2\.6 GB of memory at most\n$", capsys.readouterr().out)
    monkeypatch.setattr(program, "STATUS", tmp_path / "none")
    program.main([])
    assert program.peak() is None and capsys.readouterr().out.endswith(" s on cpu\n")


@pytest.mark.xdist_group("memory")  # gigabytes: one at a time
@pytest.mark.slow
def test_the_published_sizes_agree_too(monkeypatch):
    monkeypatch.setattr("palimpsest.claims.verify.walks.STEPS", 4)  # of a walk; the command takes 10
    results = list(program.certificate(S._replace(size="full")))
    rows = [r for r in results if isinstance(r, Row)]
    assert [written(row) for row in rows if not row.passed] == [] and len(rows) == 29
    assert {r.census for r in rows if r.census} == {
        (859_520_964, 686),
        (865_910_724, 686),
        (340_387_840, 372),
        (859_532_484, 686),
        (859_535_364, 686),
        (83_653_863, 248),
        (123_060_480, 196),
        *TOWER_CENSUS,
    }
    assert program.peak() is None or program.peak() < 20e9  # of this process, and whatever ran in it before
