"""Checkpoints as others publish them, small and with random weights: read, refused, saved back, and run
beside diffusers.
"""

import collections
import dataclasses
import json
import subprocess
import sys
import types
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_weights import normal, randomised, relative_error
from safetensors.torch import load_file, save_file

from palimpsest.nets.ddpm import DDPM
from palimpsest.nets.lora import adapt, adapted
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load, save_like
from palimpsest.weights.model import Model
from palimpsest.weights.public.checkpoint import save
from palimpsest.weights.public.layouts import (
    compvis_unet_names,
    compvis_vae_names,
    ddpm_names,
    diffusers_names,
    ema_name,
    to_compvis_shape,
)
from tests.tiny import tiny_weights

ROOT = Path(__file__).parent.parent
Z, CTX = normal(2, 4, 8, 12), normal(2, 77, 64, seed=2)
PARTS = ("net", "text", "vae")


def small(channels=4, seed=0, vocab=100):
    """A Stable Diffusion of 4 MB: what its shapes do not tell is as in the published one."""
    net = UNet(in_channels=channels, width=32, mult=(1, 2), blocks=1, attention=(True, False), ctx_width=64)
    return Model(
        name="small",
        net=randomised(net, seed),
        tokenizer=None,
        text=randomised(TextTransformer(vocab=vocab, width=64, heads=1, layers=1), seed),
        vae=randomised(AutoencoderKL(width=32, mult=(1, 2), blocks=1), seed),
        schedule=Schedule.scaled_linear(),
        prediction="eps",
        latent_scale=0.18215,
        size=128,
        shift=1,
    )


def compvis(b, text_model="text_model."):
    """The tensors of a single file as CompVis wrote it, buffers included."""
    unet, vae, text = compvis_unet_names(b.net), compvis_vae_names(b.vae), diffusers_names(b.text)
    return {
        **{f"model.diffusion_model.{unet[k]}": v for k, v in b.net.state_dict().items()},
        **{f"first_stage_model.{vae[k]}": to_compvis_shape(vae[k], v) for k, v in b.vae.state_dict().items()},
        **{f"cond_stage_model.transformer.{text_model}{text[k]}": v for k, v in b.text.state_dict().items()},
        f"cond_stage_model.transformer.{text_model}embeddings.position_ids": torch.arange(77)[None],
        "betas": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "posterior_variance": torch.zeros(1000),
    }


def averaged(tensors, shift=0.0):
    """With the moving average of the U-Net beside it."""
    mean = {ema_name(k): v + shift for k, v in tensors.items() if k.startswith("model.")}
    return {
        **tensors,
        **mean,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
    }


def same(a, b):
    """The weights that differ in a bit."""
    pairs = [
        (getattr(a, part).state_dict(), getattr(b, part).state_dict())
        for part in PARTS
        if getattr(a, part) is not None
    ]
    assert all(x.keys() == y.keys() for x, y in pairs)
    return [k for x, y in pairs for k in x if x[k].dtype != y[k].dtype or not torch.equal(x[k], y[k])]


@pytest.fixture(scope="module")
def b():
    return dataclasses.replace(small(vocab=49408), tokenizer=ClipTokenizer(truncate=True))


@pytest.fixture(scope="module")
def single(b, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "sd.safetensors"
    save_file(compvis(b), path)
    return path


@pytest.fixture(scope="module")
def folder(b, tmp_path_factory):
    return save(b, tmp_path_factory.mktemp("folder") / "sd")


# ------------------------------------------------------------------------------------------------------------ single files


def test_a_single_file_gives_the_model_that_any_method_takes(b, single):
    found = load(single, device="cpu")
    assert same(b, found) == []
    assert (found.name, found.prediction, found.latent_scale, found.size, found.shift) == (
        "sd",
        "eps",
        0.18215,
        128,
        1,
    )
    assert found.schedule.abar[:2].tolist() == [1.0, pytest.approx(0.99915, abs=1e-9)]
    assert found.tokenizer(["a cat"])[0, :5].tolist() == [49406, 320, 2368, 49407, 49407]
    assert not any(p.requires_grad or p.is_meta for part in PARTS for p in getattr(found, part).parameters())
    assert not any(getattr(found, part).training for part in PARTS)
    eps = found.denoiser("a cat", w=3.0)(Z, 500)
    assert eps.shape == Z.shape and eps.isfinite().all()


@pytest.mark.parametrize("channels", [4, 8, 9])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickle_of_tensors_is_read_whatever_its_name(tmp_path, channels, form):
    b = small(channels)
    tensors, path = compvis(b, text_model="" if form == "bare" else "text_model."), tmp_path / "weights.dat"
    content = tensors if form == "bare" else {"global_step": 7, "state_dict": tensors, "lr_schedulers": [{}]}
    torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    found = load(path, device="cpu")
    assert same(b, found) == [] and found.net.conv_in.in_channels == channels
    assert found.latent_shape == (4, 64, 64)


def test_the_moving_average_is_preferred_where_the_file_has_one(b, tmp_path):
    save_file(averaged(compvis(b), 0.5), tmp_path / "sd.safetensors")
    found = load(tmp_path / "sd.safetensors", device="cpu")
    assert torch.equal(found.net.conv_in.weight, b.net.conv_in.weight + 0.5)
    assert torch.equal(found.vae.quant_conv.weight, b.vae.quant_conv.weight)


def test_half_precision_in_the_file_becomes_the_dtype_that_was_asked_for(b, tmp_path):
    save_file({k: v.half() for k, v in compvis(b).items()}, tmp_path / "half.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        found = load(tmp_path / "half.safetensors", device="cpu", dtype=dtype)
        assert {p.dtype for part in PARTS for p in getattr(found, part).parameters()} == {dtype}
        torch.testing.assert_close(
            found.net.conv_in.weight, b.net.conv_in.weight.half().to(dtype), rtol=0, atol=0
        )


def test_the_unconditional_unet_of_sdedit_is_a_model_on_pixels(tmp_path):
    net = randomised(DDPM(width=32, mult=(1, 2, 2), attention=(False, True, False)))
    torch.save({ddpm_names(net)[k]: v for k, v in net.state_dict().items()}, tmp_path / "celeba.ckpt")
    found = load(tmp_path / "celeba.ckpt", device="cpu")
    assert found.latent_shape == (3, 256, 256) and found.text is None and found.vae is None
    x = normal(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(found.denoiser()(x, 10), net.eval()(x, 9))
    assert found.schedule.at(1) == pytest.approx(1 - 1e-4)
    with pytest.raises(ValueError, match="for which neither layout has names"):
        save(found, tmp_path / "out.safetensors")


# ------------------------------------------------------------------------------------------------------------- time, channels


def test_the_net_hears_a_time_that_counts_from_zero(b):
    with torch.no_grad():
        for t, heard in (
            (500, 499),
            (1, 0),
            (2.5, 1.5),
            (0, 0),
            (torch.tensor([3, 981]), torch.tensor([2, 980])),
        ):
            assert torch.equal(b.eps(Z, t, CTX), b.net(Z, heard, CTX)), t
        unshifted = dataclasses.replace(b, shift=0)
        assert torch.equal(unshifted.eps(Z, 500, CTX), b.net(Z, 500, CTX))


def test_a_unet_of_other_channels_is_refused_by_name(b):
    for channels, beside in ((8, "a latent and a picture beside it"), (9, "a mask and a masked picture")):
        wide = dataclasses.replace(b, net=small(channels).net, name="wide")
        with pytest.raises(
            ValueError, match=f"net of wide takes {channels} channels .*{beside}.* is given 4"
        ):
            wide.eps(Z, 5, CTX)
        z = normal(2, channels, 8, 12)
        assert wide.eps(z, 5, CTX).shape == Z.shape
        assert dataclasses.replace(wide, prediction="v").eps(z, 5, CTX).shape == Z.shape
        with pytest.raises(ValueError, match=f"takes 4 channels .a latent alone. and is given {channels}"):
            b.eps(z, 5, CTX)


# ------------------------------------------------------------------------------------------------------------- saving back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_keeps_every_bit(b, tmp_path, dtype):
    nets = {part: getattr(small(seed=3), part).to(dtype) for part in PARTS}
    b = dataclasses.replace(b, **nets, prediction="v", latent_scale=0.2)
    for path in (tmp_path / "one.safetensors", tmp_path / "folder"):
        found = load(save(b, path), device="cpu", dtype=dtype)
        assert same(b, found) == []
        assert torch.equal(found.schedule.abar, b.schedule.abar)
        assert (found.prediction, found.latent_scale, found.size, found.shift) == ("v", 0.2, 128, 1)
        assert found.tokenizer.strings == b.tokenizer.strings
    assert load_file(tmp_path / "one.safetensors").keys() == {
        k for k in compvis(b) if "." in k and "position_ids" not in k
    }


def test_a_schedule_of_ones_own_is_saved_too(b, tmp_path):
    b = dataclasses.replace(b, schedule=Schedule.linear(50))
    assert torch.equal(
        load(save(b, tmp_path / "one.safetensors"), device="cpu").schedule.abar, b.schedule.abar
    )
    torch.testing.assert_close(
        load(save(b, tmp_path / "folder"), device="cpu").schedule.abar, b.schedule.abar, rtol=1e-12, atol=0
    )


def test_our_own_small_models_are_saved_as_one_file_and_not_as_a_folder(tmp_path):
    tiny = load(tiny_weights(tmp_path), device="cpu")
    found = load(save(tiny, tmp_path / "out" / "again.safetensors"), device="cpu")
    assert same(tiny, found) == [] and found.shift == tiny.shift == 0 and found.size == tiny.size
    torch.testing.assert_close(found.embed("a red circle"), tiny.embed("a red circle"))
    with pytest.raises(ValueError, match="path: a diffusers folder cannot hold tiny"):
        save(tiny, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_low_rank_changes_are_saved_inside_their_maps(tmp_path):
    tiny = load(tiny_weights(tmp_path), device="cpu")
    for net in (tiny.net, tiny.text):
        adapt(net, 1, 1.0, torch.Generator().manual_seed(0))
        for change in adapted(net).values():
            torch.nn.init.normal_(change.up, generator=torch.Generator().manual_seed(1))
    z, plain = normal(1, 4, 8, 8), load(tiny_weights(tmp_path), device="cpu").denoiser("a red star", 2.0)
    for path in (
        save(tiny, tmp_path / "out.safetensors"),
        save_like(tiny, tmp_path / "tiny.safetensors", tmp_path / "mine.safetensors"),
    ):
        again = load(path, device="cpu").denoiser("a red star", 2.0)(z, 500)
        torch.testing.assert_close(again, tiny.denoiser("a red star", 2.0)(z, 500), rtol=1e-4, atol=1e-5)
        assert (again - plain(z, 500)).abs().max() > 0.01
    assert adapted(tiny.net)  # the model that was saved keeps its own


def test_a_file_is_saved_over_itself_and_no_pickle_is_written(b, single, tmp_path):
    path = tmp_path / "sd.safetensors"
    path.write_bytes(single.read_bytes())
    found = load(path, device="cpu")  # its weights are mapped from the very file
    assert same(b, load(save(found, path), device="cpu")) == [] and same(b, found) == []
    for name in ("sd.ckpt", "sd.bin"):
        with pytest.raises(ValueError, match="path: .*pickle.*end it with .safetensors"):
            save(b, tmp_path / name)


# --------------------------------------------------------------------------------------------------------- beside diffusers


@pytest.fixture(scope="module")
def pipe(folder):
    diffusers = pytest.importorskip("diffusers", reason="an independent reader of the same folder")
    pytest.importorskip("transformers", reason="the text encoder of that reader")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def test_diffusers_loads_what_we_save_and_says_the_same(b, pipe):
    assert relative_error(b.eps(Z, 21, CTX), pipe.unet(Z, 20, CTX).sample) < 1e-4
    x = normal(1, 3, 16, 24)
    assert relative_error(b.vae.encode(x)[0], pipe.vae.encode(x).latent_dist.mean) < 1e-4
    assert relative_error(b.vae.decode(Z), pipe.vae.decode(Z).sample) < 1e-4
    rows = pipe.tokenizer(["a cat, 12 dogs", ""], padding="max_length", max_length=77)["input_ids"]
    assert b.tokenizer(["a cat, 12 dogs", ""]).tolist() == rows
    assert (
        relative_error(
            b.embed(["a cat, 12 dogs", ""]), pipe.text_encoder(torch.tensor(rows)).last_hidden_state
        )
        < 1e-4
    )
    assert pipe.vae.config.scaling_factor == b.latent_scale


@torch.no_grad()
def test_three_guided_steps_are_those_of_the_pipeline(b, pipe):
    z = normal(1, 4, 8, 8)
    theirs = pipe(
        "a red cat",
        height=16,
        width=16,
        num_inference_steps=3,
        guidance_scale=7.5,
        latents=z,
        output_type="latent",
    ).images
    eps = b.denoiser("a red cat", w=7.5)
    for t, s in pairwise([668, 335, 2, 1]):  # the public 667, 334, 1 and their last level, which is not clean
        z = ddim_step(b.schedule, z, eps(z, t), t, s)
    assert relative_error(z, theirs) < 1e-4


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards", "old spelling", "half"])
def test_a_folder_that_diffusers_wrote_is_read_in_every_form(b, pipe, folder, tmp_path, form):
    pipe.unet.save_pretrained(
        tmp_path / "unet",
        safe_serialization=form != "bin",
        max_shard_size="200KB" if form == "shards" else "1GB",
        variant="fp16" if form == "half" else None,
    )
    pipe.vae.save_pretrained(tmp_path / "vae", safe_serialization=form != "bin")
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder")
    if form == "old spelling":
        file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = load_file(file)
        for new, name in old.items():
            tensors = {
                k.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for k, v in tensors.items()
            }
        save_file(tensors, file)
        assert any("proj_attn" in key for key in tensors)
        file = tmp_path / "text_encoder" / "model.safetensors"
        tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(file).items()}
        save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file)
    assert len(list((tmp_path / "unet").iterdir())) > (4 if form == "shards" else 1)
    found = load(tmp_path, device="cpu")
    assert same(b, found) == []
    assert torch.equal(found.schedule.abar, Schedule.scaled_linear().abar) and found.prediction == "eps"


@pytest.mark.parametrize("channels, pipeline", [(4, ""), (8, "InstructPix2Pix"), (9, "Inpaint")])
def test_the_folder_names_the_pipeline_of_its_unet(b, tmp_path, channels, pipeline):
    save(dataclasses.replace(b, net=small(channels).net), tmp_path / "folder")
    assert (
        json.loads((tmp_path / "folder" / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
        == f"StableDiffusion{pipeline}Pipeline"
    )
    assert load(tmp_path / "folder", device="cpu").net.conv_in.in_channels == channels
    diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra of the tests")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert (
        type(pipe).__name__ == f"StableDiffusion{pipeline}Pipeline"
        and pipe.unet.config.in_channels == channels
    )


def test_a_single_file_brings_its_words(b, tmp_path):
    turned = dict(zip(b.tokenizer.rank, reversed(range(len(b.tokenizer.rank)))))
    other = ClipTokenizer(sorted(turned, key=turned.get), pad=0, truncate=True).with_taught({"<cat>": [7, 8]})
    found = load(save(dataclasses.replace(b, tokenizer=other), tmp_path / "mine.safetensors"), device="cpu")
    text = "a photo of a <cat>"
    assert found.tokenizer([text]).equal(other([text])) and not other([text]).equal(b.tokenizer([text]))


def test_a_text_encoder_of_another_tokenizer_is_refused_before_the_walk(b, tmp_path):
    other = dataclasses.replace(b, text=small().text)  # which knows 100 tokens
    with pytest.raises(
        ValueError,
        match="^model: the text encoder of small knows 100 tokens and its tokenizer gives number 49407",
    ):
        other.embed("a cat")


def test_the_sides_of_a_latent_may_be_two_numbers(b, tmp_path):
    config = save(b, tmp_path / "folder") / "unet" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"sample_size": [16, 24]}),
        encoding="utf-8",
    )
    assert load(tmp_path / "folder", device="cpu").size == 16 * b.vae.factor


def test_a_judge_is_not_taken_for_a_painter(tmp_path):
    save_file(
        {"visual.class_embedding": torch.zeros(8), "token_embedding.weight": torch.zeros(9, 8)},
        tmp_path / "clip.safetensors",
    )
    with pytest.raises(
        WeightsError,
        match="^model: .*clip.safetensors holds .*, which paints nothing; load_clip of "
        "weights/public/towers.py",
    ):
        load(tmp_path / "clip.safetensors", device="cpu")


# ---------------------------------------------------------------------------------------------------------------- mistakes


class Code:
    """What a pickle can hold besides tensors."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def damage(tensors, path, how):
    """Write a file that must be refused, by what is wrong with it."""
    out = "model.diffusion_model.out.2.weight"
    fake = torch.zeros(1)
    changes = {
        "missing": {k: v for k, v in tensors.items() if k != out},
        "unplaced": {k: v for k, v in tensors.items() if "input_blocks.0.0" not in k},
        "left over": tensors | {"model.diffusion_model.out.3.weight": fake},
        "mixed": tensors | {"down_blocks.0.resnets.0.norm1.weight": fake},
        "size": tensors | {"model.diffusion_model.time_embed.2.bias": torch.zeros(3)},
        "odd width": {
            k: v[..., :8] if k.endswith("to_k.weight") and "attn2" in k else v for k, v in tensors.items()
        },
        "half an average": {k: v for k, v in averaged(tensors).items() if k != ema_name(out)},
        "no vae": {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")},
        "unet in front": {k: v for k, v in tensors.items() if k.startswith("model.")},
        "sdxl": {"conditioner.embedders.0.x": fake, out: fake},
        "lora": {"lora_unet_x.weight": fake},
        "controlnet": {"control_model.x": fake},
        "unet alone": {"down_blocks.0.x": fake},
        "text alone": {"text_model.x": fake},
        "vae alone": {"encoder.x": fake},
        "foreign": {"x": fake},
        "no tensors": {},
    }
    if how in changes:
        save_file({k: v.contiguous().clone() for k, v in changes[how].items()}, path)
    elif how == "code":
        torch.save({"state_dict": tensors, "callbacks": Code()}, path)
    elif how == "a list":
        torch.save([1, 2], path)
    elif how.endswith("truncated"):
        torch.save(tensors, path) if how.startswith("torch") else save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path.write_bytes(
            {
                "page": b"\n<!DOCTYPE html><html><body>Log in</body></html>",
                "pointer": b"version https://git-lfs.github.com/spec/v1\n",
                "empty": b"",
                "noise": b"0123456789" * 99,
                "pickle, broken": b"\x80\x02}q\x00(",
            }[how]
        )


REFUSED = [
    ("missing", "lacks 'out.2.weight'"),
    ("unplaced", "lacks 'input_blocks.0.0.weight'"),
    ("left over", r"1 left over \(model.diffusion_model.out.3.weight\)"),
    ("mixed", r"1 left over \(down_blocks.0.resnets.0.norm1.weight\)"),
    ("size", r"1 of another size \(model.diffusion_model.time_embed.2.bias 3 for 128\)"),
    ("odd width", "text encoder of width 64.* reads 8"),
    ("half an average", r"1 missing \(model_ema.diffusion_modelout2weight\)"),
    ("no vae", "a U-Net without its autoencoder; give the whole checkpoint"),
    ("unet in front", "a U-Net without its autoencoder and its text encoder; give"),
    ("sdxl", "Stable Diffusion XL.*not supported"),
    ("lora", "LoRA.*give it to --lora"),
    ("controlnet", "a ControlNet"),
    ("unet alone", "a U-Net alone; give the whole checkpoint, or the folder that holds unet/"),
    ("text alone", "a text encoder alone"),
    ("vae alone", "an autoencoder alone"),
    ("foreign", r"no layout that is known here \(its keys: x\)"),
    ("no tensors", "its keys: none"),
    ("a list", "its keys: none"),
    ("code", "wants to run .*not done here; take its .safetensors"),
    ("truncated", "not a whole safetensors file"),
    ("torch, truncated", "not a whole torch file"),
    ("page", "is a web page"),
    ("pointer", "git-lfs pointer"),
    ("empty", "fetch it again"),
    ("noise", "fetch it again"),
    ("pickle, broken", "fetch it again|not done here"),
]


@pytest.fixture(scope="module")
def tensors():
    return compvis(small())


def test_what_a_training_program_left_beside_the_weights_is_passed_over_and_never_run(
    tensors, tmp_path, monkeypatch
):
    """Stable Diffusion v1.4's file names the class of a callback of PyTorch Lightning; others keep
    numpy's numbers.
    """
    lightning = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        def __init__(self, *given):
            raise AssertionError("run")

        def __reduce__(self):
            return ModelCheckpoint, (1,), {"best": 2}

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = lightning.__name__, "ModelCheckpoint"
    lightning.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", lightning.__name__):
        monkeypatch.setitem(sys.modules, name, lightning)
    left = {
        ModelCheckpoint: {"monitor": "val/loss", "best_model_score": np.float64(0.5)},
        "made": object.__new__(ModelCheckpoint),
    }
    for form in (True, False):
        torch.save(
            {"state_dict": tensors, "callbacks": left},
            tmp_path / "sd.ckpt",
            _use_new_zipfile_serialization=form,
        )
        assert same(small(), load(tmp_path / "sd.ckpt", device="cpu")) == []
    torch.save({"state_dict": tensors, "callbacks": left | {"more": Code()}}, tmp_path / "sd.ckpt")
    with pytest.raises(WeightsError, match="wants to run .*not done here; take its .safetensors"):
        load(tmp_path / "sd.ckpt", device="cpu")


@pytest.mark.slow
def test_the_settings_of_a_training_are_passed_over(tensors, tmp_path, monkeypatch):
    """Stable Diffusion's own training keeps an OmegaConf tree beside the weights, which names plain types."""
    omegaconf = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __setstate__(self, state):
            raise AssertionError("run")

    DictConfig.__module__, DictConfig.__qualname__ = omegaconf.__name__, "DictConfig"
    omegaconf.DictConfig = DictConfig
    for name in ("omegaconf", omegaconf.__name__):
        monkeypatch.setitem(sys.modules, name, omegaconf)
    settings = object.__new__(DictConfig)
    settings.__dict__ |= {"ref_type": Any, "element_type": dict, "of": [list, int, str, float, bool, tuple]}
    settings.__dict__["_resolver_cache"] = collections.defaultdict(dict)
    for form in (True, False):
        torch.save(
            {"state_dict": tensors, "hyper_parameters": settings},
            tmp_path / "sd.ckpt",
            _use_new_zipfile_serialization=form,
        )
        assert same(small(), load(tmp_path / "sd.ckpt", device="cpu")) == []
    torch.save({"state_dict": tensors, "hyper_parameters": [settings, eval]}, tmp_path / "sd.ckpt")
    with pytest.raises(WeightsError, match="wants to run eval .*not done here"):
        load(tmp_path / "sd.ckpt", device="cpu")


@pytest.mark.parametrize("how, said", REFUSED, ids=[how for how, _ in REFUSED])
def test_a_file_that_is_not_a_model_is_refused_in_one_line(tensors, tmp_path, monkeypatch, how, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("bad.ckpt" if how in ("code", "a list") or "torch" in how else "bad.safetensors")
    damage(tensors, path, how)
    with pytest.raises(WeightsError, match=said) as e:
        load(path, device="cpu")
    assert str(e.value).startswith("model: ") and "\n" not in str(e.value) and path.name in str(e.value)
    assert not (tmp_path / "executed").exists()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


UNET_JSON, SHARD = "unet/config.json", "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
FOLDERS = [
    ("no unet", lambda f: (f / "unet").rename(f / "net"), "holds no unet/"),
    ("no config", lambda f: (f / UNET_JSON).unlink(), "unet lacks config.json"),
    (
        "config is a page",
        lambda f: (f / UNET_JSON).write_text("<html>", encoding="utf-8"),
        "is not a JSON object",
    ),
    (
        "config lacks a key",
        lambda f: (f / UNET_JSON).write_text("{}", encoding="utf-8"),
        "config.json lacks '",
    ),
    (
        "no weights",
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "vae holds no weights",
    ),
    ("head list", lambda f: edit(f / UNET_JSON, attention_head_dim=[5, 10]), "cannot be built.*heads"),
    ("levels", lambda f: edit(f / UNET_JSON, up_block_types=["UpBlock2D"] * 2), "another architecture"),
    (
        "levels of another",
        lambda f: edit(f / UNET_JSON, down_block_types=["KDownBlock2D", "DownBlock2D"]),
        "the levels .*KDownBlock2D.* another architecture",
    ),
    (
        "sdxl",
        lambda f: edit(f / UNET_JSON, addition_embed_type="text_time"),
        "addition_embed_type is 'text_time' in its config.json: Stable Diffusion XL",
    ),
    ("upscaler", lambda f: edit(f / UNET_JSON, num_class_embeds=1000), "num_class_embeds is 1000.*upscaler"),
    ("lcm", lambda f: edit(f / UNET_JSON, time_cond_proj_dim=256), "time_cond_proj_dim is 256"),
    ("vae of another", lambda f: edit(f / "vae/config.json", shift_factor=0.1), "shift_factor is 0.1"),
    (
        "text of another",
        lambda f: edit(f / "text_encoder/config.json", model_type="t5"),
        "model_type is 't5'",
    ),
    (
        "pipeline",
        lambda f: edit(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "holds StableDiffusionXLPipeline .Stable Diffusion XL.*take a Stable Diffusion v1 or v2 model",
    ),
    ("width", lambda f: edit(f / UNET_JSON, block_out_channels=[32, 96]), "of another size"),
    (
        "heads",
        lambda f: edit(f / UNET_JSON, attention_head_dim=7),
        "cannot be built .*heads: must divide .*got 7",
    ),
    ("activation", lambda f: edit(f / "text_encoder/config.json", hidden_act="silu"), "hidden_act is 'silu'"),
    (
        "prediction",
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="sample"),
        "prediction_type 'sample'",
    ),
    (
        "missing shard",
        lambda f: (
            (f / "unet/diffusion_pytorch_model.safetensors").unlink(),
            (f / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"x": Path(SHARD).name}}), encoding="utf-8"
            ),
        ),
        "unet lacks diffusion_pytorch_model-00002-of-00002.safetensors",
    ),
    (
        "vocabulary",
        lambda f: (f / "tokenizer/merges.txt").write_text("#version\na b\n", encoding="utf-8"),
        "not CLIP's vocabulary",
    ),
]


@pytest.mark.parametrize("how, said", [entry[1:] for entry in FOLDERS], ids=[entry[0] for entry in FOLDERS])
def test_a_folder_that_is_not_a_model_is_refused_in_one_line(folder, tmp_path, how, said):
    for file in folder.rglob("*.*"):  # links: nothing of the fixture is touched
        here = tmp_path / file.relative_to(folder)
        here.parent.mkdir(exist_ok=True)
        here.write_text(
            file.read_text(encoding="utf-8"), encoding="utf-8"
        ) if file.suffix == ".json" and file.name != "vocab.json" else here.symlink_to(file)
    if "vocabulary" in said:
        (tmp_path / "tokenizer/merges.txt").unlink()
    how(tmp_path)
    with pytest.raises(ValueError, match=said) as e:
        load(tmp_path, device="cpu")
    assert "\n" not in str(e.value)


def test_a_part_of_a_folder_points_to_the_whole(folder):
    with pytest.raises(WeightsError, match=f"holds no unet/; give {folder}"):
        load(folder / "vae", device="cpu")


# ------------------------------------------------------------------------------------------------------------------ memory

MEASURE = """
import sys, torch
torch.set_num_threads(1)
from palimpsest.weights.load import load
def peak():                                                                # getrusage would count the parent's memory too
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
load(sys.argv[2], "cpu", torch.float32)                                          # a small one: what the library itself takes, once
before = peak()
b = load(sys.argv[1], "cpu", torch.float32)
parameters = [p for m in (b.net, b.text, b.vae) for p in m.parameters()]
total = sum(float(p.sum()) for p in parameters)                            # every page is touched
print((peak() - before) / sum(p.nbytes for p in parameters))
"""


def peak(path, first):
    """How much memory a fresh process takes to load a checkpoint and to touch all of it, in units of the
    loaded weights.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(first)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def zeros(b, dtype):
    """A checkpoint of the sizes of `b`, moving average and all, that takes no time to draw."""
    return {k: torch.zeros(v.shape, dtype=dtype) for k, v in averaged(compvis(b)).items()}


@pytest.mark.slow
@pytest.mark.xdist_group("memory")  # gigabytes: one at a time
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of one process is read off /proc"
)
@pytest.mark.parametrize(
    "width, form, dtype",
    [
        (64, "half.ckpt", torch.float16),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (64, "half.safetensors", torch.float16),
                (64, "float.safetensors", torch.float32),
                (64, "float.ckpt", torch.float32),
                (320, "full.safetensors", torch.float16),
                (320, "full.ckpt", torch.float16),
            )
        ],
    ],
)
def test_a_model_is_in_memory_once_while_it_is_loaded(single, tmp_path, width, form, dtype):
    with torch.device("meta"):
        whole = width == 320
        nets = dict(
            net=UNet(width=width),
            text=TextTransformer(layers=12 if whole else 1),
            vae=AutoencoderKL(width=128 if whole else 64),
        )
    tensors = zeros(dataclasses.replace(small(), **nets), dtype)
    torch.save(tensors, tmp_path / form) if form.endswith("ckpt") else save_file(tensors, tmp_path / form)
    del tensors
    assert 0.7 < peak(tmp_path / form, single) < 1.3
