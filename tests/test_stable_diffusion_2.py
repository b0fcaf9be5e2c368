"""Stable Diffusion 2: linear projections, heads of one width, OpenCLIP's text encoder, v predictions; read,
saved and run beside diffusers, transformers and open_clip on equal random weights.
"""

import dataclasses
import json
import warnings
from itertools import pairwise

import pytest
import torch
from random_weights import census, normal, randomised, relative_error
from safetensors.torch import load_file, save_file
from test_public_load import same

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.weights.public.checkpoint import save

TEXTS = ["a red cat, 12 dogs", ""]
Z, CTX = normal(2, 4, 8, 12), normal(2, 77, 128, seed=2)


def small_2(seed=0):
    """A Stable Diffusion 2 of a few MB: heads of 64 channels, one in the first level and two in the second."""
    net = UNet(width=64, mult=(1, 2), blocks=1, attention=(True, True), heads=(1, 2), ctx_width=128)
    text = TextTransformer(width=128, heads=2, layers=2, activation=torch.nn.functional.gelu)
    return Model(
        name="small",
        net=randomised(net, seed),
        tokenizer=ClipTokenizer(pad=0, truncate=True),
        text=randomised(text, seed),
        vae=randomised(AutoencoderKL(width=32, mult=(1, 2), blocks=1), seed),
        schedule=Schedule.scaled_linear(),
        prediction="v",
        latent_scale=0.18215,
        size=192,
        shift=1,
    )


@pytest.fixture(scope="module")
def model():
    return small_2()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("sd2") / "folder")


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


def test_with_two_arguments_the_unet_is_that_of_stable_diffusion_2():
    with torch.device("meta"):
        net = UNet(heads=(5, 10, 20, 20), ctx_width=1024)
        text = TextTransformer(width=1024, layers=23, heads=16, activation=torch.nn.functional.gelu)
    assert census(net) == (865_910_724, 686) and {t.attn1.heads for t in net.transformers()} == {5, 10, 20}
    assert all(t.proj_in.in_channels // t.attn1.heads == 64 for t in net.transformers())
    assert census(text)[0] == 340_387_840
    with pytest.raises(ValueError, match="heads: must be one number, or one for each level"):
        UNet(width=64, mult=(1, 2), attention=(True, True), heads=(1, 2, 2))


# ----------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_holds_what_stable_diffusion_2s_holds_and_comes_back(model, folder):
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    assert (unet["use_linear_projection"], unet["attention_head_dim"]) == (True, [1, 2])
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["mid_block.attentions.0.proj_in.weight"].shape == (128, 128)
    found = load(folder, device="cpu")
    assert same(model, found) == [] and (found.prediction, found.size, found.net.heads) == ("v", 192, (1, 2))
    assert found.tokenizer(["a cat"])[0].tolist() == [49406, 320, 2368, 49407] + [0] * 73


@torch.no_grad()
def test_diffusers_says_the_same_of_every_part(model, pipe):
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert relative_error(model.net(Z, 20, CTX), pipe.unet(Z, 20, CTX).sample) < 1e-5
    rows = pipe.tokenizer(TEXTS, padding="max_length", max_length=77)["input_ids"]
    assert model.tokenizer(TEXTS).tolist() == rows
    theirs = pipe.text_encoder(torch.tensor(rows)).last_hidden_state
    assert relative_error(model.embed(TEXTS), theirs) < 1e-5


@torch.no_grad()
def test_guided_steps_of_a_v_prediction_are_those_of_the_pipeline(model, pipe):
    z = normal(1, 4, 8, 8)
    theirs = pipe(
        "a red cat",
        **dict(height=16, width=16, num_inference_steps=3, guidance_scale=7.5, latents=z),
        output_type="latent",
    ).images
    eps = model.denoiser("a red cat", w=7.5)
    for t, s in pairwise([668, 335, 2, 1]):
        z = ddim_step(model.schedule, z, eps(z, t), t, s)
    assert relative_error(z, theirs) < 1e-4


def test_a_folder_that_diffusers_wrote_is_read(model, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "sd2")
    found = load(tmp_path / "sd2", device="cpu")
    assert same(model, found) == [] and found.prediction == "v" and found.tokenizer.pad == 0


# ------------------------------------------------------------------------------------------------------------ single files


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    """A single file as Stability AI publishes it, with all of OpenCLIP's text encoder; and that encoder."""
    open_clip = pytest.importorskip("open_clip", reason="it has the text encoder")
    theirs = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(context_length=77, vocab_size=49408, width=128, heads=2, layers=3),
    )
    theirs = randomised(theirs).eval()
    path = tmp_path_factory.mktemp("single") / "ours.safetensors"
    tensors = load_file(save(model, path))
    tensors = {name: t for name, t in tensors.items() if not name.startswith("cond_stage_model.")}
    text = {name: t for name, t in theirs.state_dict().items() if not name.startswith("visual.")}
    tensors |= {f"cond_stage_model.model.{name}": t for name, t in text.items()}
    tensors |= {"betas": torch.zeros(1000), "cond_stage_model.model.attn_mask": torch.zeros(77, 77)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path.with_name("sd2.safetensors"))
    return path.with_name("sd2.safetensors"), theirs


def beside(path, line):
    settings = f"model:\n  params:\n    linear_start: 0.00085\n    {line}\n"
    path.with_suffix(".yaml").write_text(settings, encoding="utf-8")
    return path


@torch.no_grad()
@pytest.mark.parametrize(
    "line, prediction, size",
    [
        ('parameterization: "v"', "v", 192),
        ("parameterization: eps", "eps", 128),
        ("timesteps: 1000", "eps", 128),
    ],
)
def test_a_published_file_is_read_with_the_settings_beside_it(model, published, line, prediction, size):
    path, theirs = published
    found = load(beside(path, line), device="cpu")
    assert (found.prediction, found.size, found.tokenizer.pad) == (prediction, size, 0)
    assert found.net.heads == (1, 2)
    assert relative_error(found.net(Z, 7, CTX), model.net(Z, 7, CTX)) < 1e-5
    rows = found.tokenizer(TEXTS)
    x = theirs.token_embedding(rows) + theirs.positional_embedding
    for block in theirs.transformer.resblocks[:-1]:  # the last layer but one, normalised
        x = block(x, attn_mask=theirs.attn_mask)
    assert relative_error(found.embed(TEXTS), theirs.ln_final(x)) < 1e-5


def test_without_settings_it_is_refused_and_the_line_to_write_is_told(published, tmp_path):
    alone = tmp_path / "sd2.safetensors"
    alone.symlink_to(published[0])
    with pytest.raises(
        WeightsError, match="Stable Diffusion 2, .*write sd2.yaml beside it.*parameterization"
    ):
        load(alone, device="cpu")
    beside(alone, "parameterization: x0")
    with pytest.raises(WeightsError, match="sd2.yaml asks for 'x0' predictions; known are eps and v"):
        load(alone, device="cpu")


def test_a_saved_file_comes_back_and_has_the_published_names(model, published, tmp_path):
    path = save(model, tmp_path / "mine.safetensors")
    found = load(path, device="cpu")
    assert same(model, found) == [] and (found.prediction, found.size) == ("v", 192)
    assert found.text.layers[0].activation is torch.nn.functional.gelu and found.tokenizer.pad == 0
    ours, theirs = ({k: t.shape for k, t in load_file(file).items()} for file in (path, published[0]))
    last = "cond_stage_model.model.transformer.resblocks.2."
    unused = {
        "betas",
        *(f"cond_stage_model.model.{name}" for name in ("text_projection", "logit_scale", "attn_mask")),
    }
    assert ours == {k: shape for k, shape in theirs.items() if k not in unused and not k.startswith(last)}
    again = load(
        save(dataclasses.replace(found, prediction="eps"), tmp_path / "eps.safetensors"), device="cpu"
    )
    assert again.prediction == "eps"
