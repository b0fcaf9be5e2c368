"""Other families: told by the keys and the JSON that their own programs write, and named with what to take."""

import json

import pytest
import torch
from safetensors.torch import save_file
from test_public_load import compvis, same, small

from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load

diffusers = pytest.importorskip("diffusers", reason="its classes have the keys of the other families")
transformers = pytest.importorskip("transformers", reason="its classes have the keys of text encoders")

LAYERS = dict(num_layers=1, attention_head_dim=8, num_attention_heads=2)
BLOCKS = dict(block_out_channels=(32, 64), layers_per_block=1)
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
UNET = dict(down_block_types=DOWN, up_block_types=UP, cross_attention_dim=8, **BLOCKS)
XL = dict(
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=56
)
BUILT = [  # a class, its arguments, what its file is said to be
    ("SD3Transformer2DModel", dict(**LAYERS), "Stable Diffusion 3"),
    ("FluxTransformer2DModel", dict(num_single_layers=1, joint_attention_dim=16, **LAYERS), "Flux"),
    ("PixArtTransformer2DModel", dict(sample_size=16, caption_channels=8, **LAYERS), "PixArt"),
    ("AuraFlowTransformer2DModel", dict(num_mmdit_layers=1, num_single_dit_layers=1), "AuraFlow"),
    ("StableCascadeUNet", dict(), "Stable Cascade"),
    ("UNet2DConditionModel", XL | UNET, "Stable Diffusion XL"),
    ("UNet2DConditionModel", UNET | dict(num_class_embeds=1000), "Stable Diffusion 2's upscaler"),
    ("UNet2DConditionModel", UNET, "a U-Net alone"),
    ("ControlNetModel", dict(down_block_types=DOWN, cross_attention_dim=8, **BLOCKS), "a ControlNet"),
    ("AutoencoderKL", dict(), "an autoencoder alone"),
]
TEXTS = [
    (transformers.T5Config(vocab_size=9, d_model=8, num_layers=1), transformers.T5EncoderModel, "a T5 text"),
    (
        transformers.CLIPTextConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
        transformers.CLIPTextModel,
        "a text encoder alone",
    ),
]


def assert_refused(path, said):
    with pytest.raises(WeightsError, match=said) as e:
        load(path, device="cpu")
    text = str(e.value)
    assert text.startswith("model: ") and "\n" not in text and "fetch it again" not in text
    assert "take a Stable Diffusion v1 or v2" in text or "give the" in text


def emptied(tensors, prefix=""):
    return {prefix + name: torch.zeros(1) for name in tensors}


def built(name, arguments):
    with torch.device("meta"):
        return getattr(diffusers, name)(**arguments)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name, arguments, said", BUILT, ids=[f"{b[0]}-{b[2]}" for b in BUILT])
def test_a_file_of_another_family_is_named(tmp_path, name, arguments, said, prefix):
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    if prefix and ("alone" in said or "ControlNet" in said):
        prefix = ""
    save_file(emptied(built(name, arguments).state_dict(), prefix), tmp_path / "x.safetensors")
    assert_refused(tmp_path / "x.safetensors", said)


@pytest.mark.parametrize("config, cls, said", TEXTS, ids=[t[2] for t in TEXTS])
def test_a_text_encoder_alone_is_named(tmp_path, config, cls, said):
    with torch.device("meta"):
        state = cls(config).state_dict()
    names = state if "T5" in cls.__name__ else {f"text_model.{k.removeprefix('text_model.')}" for k in state}
    save_file(emptied(names), tmp_path / "x.safetensors")
    assert_refused(tmp_path / "x.safetensors", said)


KEYS = [  # of files in their makers' own names
    ("joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
    ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ("down_blocks.0.0.channelwise.0.weight", "Stable Cascade"),
    ("clip_txt_mapper.weight", "Stable Cascade"),
    ("label_emb.0.0.weight", "Stable Diffusion XL"),
    ("input_blocks.1.1.time_stack.0.attn1.to_q.weight", "a video model"),
    ("y_embedder.y_embedding", "PixArt"),
]


@pytest.mark.parametrize("key, said", KEYS)
def test_a_whole_file_of_another_family_is_named_whatever_else_is_in_it(tmp_path, key, said):
    """Programs put a model into one file with Stable Diffusion's prefix, and its other parts beside it."""
    for name, tensors in (
        ("bare", emptied([key])),
        ("prefixed", emptied([f"model.diffusion_model.{key}"]) | emptied(["first_stage_model.encoder.x"])),
        ("among v1's", compvis(small()) | emptied([f"model.diffusion_model.{key}"])),
    ):
        save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / f"{name}.safetensors")
        assert_refused(tmp_path / f"{name}.safetensors", said)


@pytest.mark.parametrize(
    "key, said",
    [
        ("conditioner.embedders.0.transformer.x", "Stable Diffusion XL"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I-Adapter"),
        ("input_blocks.0.0.weight", "a U-Net alone"),
        ("first_stage_model.encoder.conv_in.weight", "an autoencoder alone"),
        ("cond_stage_model.transformer.text_model.x", "a text encoder alone"),
        ("encoder.down.0.block.0.conv1.weight", "an autoencoder alone"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder alone"),
    ],
)
def test_a_part_and_what_steers_are_named(tmp_path, key, said):
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    assert_refused(tmp_path / "x.safetensors", said)


FOLDERS = [
    ("model_index.json", "StableDiffusionXLPipeline", "Stable Diffusion XL"),
    ("model_index.json", "StableDiffusion3Pipeline", "Stable Diffusion 3"),
    ("model_index.json", "FluxPipeline", "Flux"),
    ("model_index.json", "StableCascadeDecoderPipeline", "Stable Cascade"),
    ("model_index.json", "PixArtSigmaPipeline", "PixArt"),
    ("model_index.json", "KandinskyV22Pipeline", "Kandinsky"),
    ("model_index.json", "IFPipeline", "DeepFloyd IF"),
    ("model_index.json", "StableUnCLIPImg2ImgPipeline", "reads a picture in place of a text"),
    ("model_index.json", "LatentConsistencyModelPipeline", "distilled"),
    ("model_index.json", "StableVideoDiffusionPipeline", "a video model"),
    ("model_index.json", "DDPMPipeline", "pictures alone"),
    ("config.json", "ControlNetModel", "steers a model"),
    ("config.json", "FluxTransformer2DModel", "Flux"),
    ("config.json", "SomeTransformer2DModel", "a diffusion transformer"),
    ("config.json", "UNet2DConditionModel", "holds no unet/; give the folder of a diffusers model"),
    ("config.json", "AutoencoderKL", "holds no unet/; give the folder of a diffusers model"),
]


@pytest.mark.parametrize("file, named, said", FOLDERS, ids=[named for _, named, _ in FOLDERS])
def test_a_folder_of_another_family_is_named(tmp_path, file, named, said):
    (tmp_path / file).write_text(json.dumps({"_class_name": named}), encoding="utf-8")
    assert_refused(tmp_path, said)


@pytest.mark.parametrize(
    "named",
    [
        *(
            "StableDiffusionPipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionImg2ImgPipeline",
        ),
        *(
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionPAGPipeline",
        ),
    ],
)
def test_pipelines_that_are_stable_diffusion_are_not_refused_by_their_name(tmp_path, named):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": named}), encoding="utf-8")
    with pytest.raises(WeightsError, match="holds no unet/"):
        load(tmp_path, device="cpu")


# ------------------------------------------------------------------------------------------------- what is passed over

UNUSED = [
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.transformer.visual_projection.weight",
    "cond_stage_model.transformer.vision_model.embeddings.class_embedding",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "first_stage_model.loss.logvar",
    "first_stage_model.loss.discriminator.main.0.weight",
    "denoiser.sigmas",
    "safety_checker.concept_embeds",
]


@pytest.mark.parametrize("key", UNUSED)
def test_what_merging_programs_leave_beside_the_weights_is_passed_over(tmp_path, key):
    model = small()
    save_file(compvis(model) | {key: torch.ones(3, 3)}, tmp_path / "x.safetensors")
    assert same(model, load(tmp_path / "x.safetensors", device="cpu")) == []


@pytest.mark.parametrize(
    "key", ["cond_stage_model.other", "logit", "first_stage_model.encoder.more", "text_projection_2.weight"]
)
def test_what_nobody_knows_is_not(tmp_path, key):
    save_file(compvis(small()) | {key: torch.ones(3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=f"1 left over \\({key}\\)"):
        load(tmp_path / "x.safetensors", device="cpu")


def test_a_folder_that_dreambooth_wrote_is_answered_with_the_model_in_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=f"holds no unet/; give {tmp_path / 'model.safetensors'}"):
        load(tmp_path)
