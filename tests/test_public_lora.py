"""LoRA files of other programs: every spelling gives what diffusers' and transformers' own maps give with the
change beside them; kinds that are not read are named, and nothing is applied by halves.
"""

import contextlib
import copy
import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from random_weights import normal, randomised, relative_error
from safetensors.torch import load_file, save_file
from torch import nn

from palimpsest.arguments import ArgumentError
from palimpsest.methods.lora import save_lora, scaled
from palimpsest.nets.lora import adapt, adapted
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.weights.public.checkpoint import save
from palimpsest.weights.public.layouts import compvis_unet_names, diffusers_names
from palimpsest.weights.public.lora import split_scale, with_loras
from palimpsest.weights.public.lora_names import maps_by_name, maps_by_number
from tests.tiny import tiny_glide, tiny_weights

Z, TOKENS = normal(2, 4, 8, 8), torch.randint(0, 49000, (2, 77), generator=torch.Generator().manual_seed(3))
SITE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def small():
    """A Stable Diffusion of 16 MB, in every layout that Stable Diffusion v1 has."""
    return Model(
        name="small",
        net=randomised(UNet(width=32, mult=(1, 2), blocks=1, attention=(True, False), ctx_width=64)),
        tokenizer=ClipTokenizer(truncate=True),
        text=randomised(TextTransformer(width=64, heads=1, layers=2)),
        vae=randomised(AutoencoderKL(width=32, mult=(1, 2), blocks=1)),
        schedule=Schedule.scaled_linear(),
        latent_scale=0.18215,
        size=128,
        shift=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(small(), tmp_path_factory.mktemp("folder") / "sd")


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder, "cpu")


@pytest.fixture
def model(loaded):
    """One that may be changed in place."""
    return dataclasses.replace(loaded, net=copy.deepcopy(loaded.net), text=copy.deepcopy(loaded.text))


@pytest.fixture(scope="module")
def theirs(folder):
    """diffusers' U-Net and transformers' text encoder of the same weights."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    return {
        "net": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval(),
        "text": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
    }


# ---- what a LoRA does, said with hooks on their modules ----


def drawn(nets, wanted, rank=3, seed=0):
    """{(part, module): (A, B, α)}, random, for their modules of which wanted(part, name, module) is true."""
    g, found = torch.Generator().manual_seed(seed), {}
    for part, net in nets.items():
        for name, module in net.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and wanted(part, name, module):
                w, r = module.weight, rank + len(found) % 2  # ranks differ
                down = torch.randn((r, *w.shape[1:]), generator=g) / w[0].numel() ** 0.5
                up = 0.5 * torch.randn((len(w), r, *[1] * (w.ndim - 2)), generator=g)
                found[part, name.removeprefix("text_model.")] = down, up, 1.0 + len(found) % 3
    return found


def attention(part, name, module):
    return name.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"))


def beside(down, up, strength, module, given, out):
    """out + s B(A(x))"""
    if isinstance(module, nn.Conv2d):
        narrow = nn.functional.conv2d(given[0], down, None, module.stride, module.padding)
        return out + strength * nn.functional.conv2d(narrow, up)
    return out + strength * given[0] @ down.T @ up.T


def answers(nets, changes, scale=1.0, alpha=True):
    """What their nets answer while each changed module also gives s (α/r) B(A(x))."""
    hooks = []
    for (part, name), (down, up, a) in changes.items():
        inner = nets[part] if part == "net" or hasattr(nets[part], "encoder") else nets[part].text_model
        module = inner.get_submodule(name)

        strength = scale * (a / len(down) if alpha else 1)
        hooks.append(module.register_forward_hook(partial(beside, down, up, strength)))
    try:
        with torch.no_grad():
            ctx = nets["text"](TOKENS).last_hidden_state
            return nets["net"](Z, 300, ctx).sample, ctx
    finally:
        for hook in hooks:
            hook.remove()


def ours(model):
    with torch.no_grad():
        ctx = model.text(TOKENS)
        return model.net(Z, 300, ctx), ctx


def agree(model, wanted):
    return all(relative_error(mine, other) < 3e-6 for mine, other in zip(ours(model), wanted))


# ---- spellings ----


def kohya(part, name):
    return {"net": "lora_unet_", "text": "lora_te_text_model_"}[part] + name.replace(".", "_")


def dotted(part, name):
    return {"net": "unet.", "text": "text_encoder.text_model."}[part] + name


def processor(part, name):
    if part == "net":
        return "unet." + name.replace(".to_out.0", ".to_out").replace(".to_", ".processor.to_") + "_lora"
    return "text_encoder.text_model." + name.replace("out_proj", "to_out_lora").replace("_proj", "").replace(
        "self_attn.q", "self_attn.to_q_lora"
    ).replace("self_attn.k", "self_attn.to_k_lora").replace("self_attn.v", "self_attn.to_v_lora")


def peft(part, name):
    return "base_model.model." + {"net": "", "text": "text_model."}[part] + name


SPELLINGS = {  # name -> (of a module, ends of its halves, whether α is in the file)
    "kohya": (kohya, (".lora_down.weight", ".lora_up.weight"), True),
    "kohya with peft's ends": (kohya, (".lora_A.weight", ".lora_B.weight"), True),
    "diffusers": (dotted, (".lora.down.weight", ".lora.up.weight"), False),
    "diffusers of today": (dotted, (".lora_A.weight", ".lora_B.weight"), False),
    "diffusers with the adapter's name": (
        dotted,
        (".lora_A.default.weight", ".lora_B.default.weight"),
        False,
    ),
    "diffusers with alpha": (dotted, (".lora_A.weight", ".lora_B.weight"), True),
    "diffusers' linear layers": (
        dotted,
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        False,
    ),
    "diffusers' attention processors": (processor, (".down.weight", ".up.weight"), False),
    "peft": (peft, (".lora_A.weight", ".lora_B.weight"), False),
}


def write(path, changes, how="kohya", metadata=None):
    spelt, (a, b), alpha = SPELLINGS[how]
    tensors = {}
    for (part, name), (down, up, strength) in changes.items():
        key = spelt(part, name)
        tensors |= {key + a: down, key + b: up} | ({f"{key}.alpha": torch.tensor(strength)} if alpha else {})
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("how", SPELLINGS)
def test_every_spelling_is_the_change_that_hooks_on_their_modules_make(how, theirs, model, tmp_path):
    changes = drawn(theirs, attention)
    assert len(changes) == 4 * 2 * 4 + 4 * 2  # transformers: one down, one in the middle, two up; two layers
    wanted = answers(theirs, changes, 0.7, SPELLINGS[how][2])
    assert not agree(model, wanted)
    assert agree(with_loras(model, f"{write(tmp_path / 'x.safetensors', changes, how)}:0.7"), wanted)


def test_folders_single_files_and_own_models_take_several_with_strengths(theirs, folder, tmp_path):
    one, other = drawn(theirs, attention), drawn(theirs, lambda part, name, module: part == "text", seed=1)
    write(tmp_path / "one.safetensors", one)
    write(tmp_path / "other.safetensors", other)
    wanted = answers(theirs, {k: (a, -0.5 * b, alpha) for k, (a, b, alpha) in one.items()})
    single = save(load(folder, "cpu"), tmp_path / "sd.safetensors")
    for source in folder, single:
        assert agree(load(source, "cpu", lora=f"{tmp_path / 'one.safetensors'}:-0.5"), wanted)
    both = load(single, "cpu", lora=[tmp_path / "one.safetensors", f"{tmp_path / 'other.safetensors'}:2"])
    one_after_the_other = with_loras(
        load(single, "cpu", lora=tmp_path / "one.safetensors"), f"{tmp_path / 'other.safetensors'}:2"
    )
    assert agree(both, ours(one_after_the_other)) and not agree(
        both, ours(load(single, "cpu", lora=tmp_path / "one.safetensors"))
    )
    assert same_bits(
        load(single, "cpu", lora=f"{tmp_path / 'one.safetensors'}:0"), load(single, "cpu")
    )  # and the file is as it was


def same_bits(a, b):
    return all(
        torch.equal(x, y)
        for part in ("net", "text")
        for x, y in zip(
            getattr(a, part).state_dict().values(), getattr(b, part).state_dict().values(), strict=True
        )
    )


def test_every_map_and_convolution_can_be_changed_1x1_and_3x3(theirs, model, tmp_path):
    changes = drawn(theirs, lambda part, name, module: True)
    kinds = {tuple(down.shape[2:]) for down, _, _ in changes.values()}
    assert kinds == {(), (1, 1), (3, 3)} and len(changes) == len(maps_by_name(model.net)) // 2 + len(
        maps_by_name(model.text)
    )
    wanted = answers(theirs, changes, 0.3)
    assert agree(with_loras(model, f"{write(tmp_path / 'x.safetensors', changes)}:0.3"), wanted)


def test_compvis_names_are_known_to_kohyas_spelling(theirs, model, tmp_path):
    names = {theirs: ours for ours, theirs in compvis_unet_names(model.net).items()}
    diffusers = {ours: theirs for ours, theirs in diffusers_names(model.net).items()}
    chosen = [
        "input_blocks.1.1.proj_in",
        "middle_block.1.transformer_blocks.0.attn2.to_k",
        "output_blocks.3.0.in_layers.2",
        "input_blocks.2.0.op",
    ]
    spelt = {diffusers[names[f"{name}.weight"]].removesuffix(".weight"): name for name in chosen}
    changes = drawn(theirs, lambda part, name, module: name in spelt)
    renamed = {(part, spelt[name]): change for (part, name), change in changes.items()}
    assert len(renamed) == 4
    assert agree(with_loras(model, write(tmp_path / "x.safetensors", renamed)), answers(theirs, changes))


def test_a_linear_half_fits_a_convolution_of_one_pixel_and_half_precision_is_taken(theirs, model, tmp_path):
    changes = drawn(theirs, lambda part, name, module: name.endswith(("proj_in", "proj_out")))
    rounded = {k: (a.half(), b.half(), alpha) for k, (a, b, alpha) in changes.items()}
    flat = {k: (a.flatten(1), b.flatten(1), alpha) for k, (a, b, alpha) in rounded.items()}
    wanted = answers(theirs, {k: (a.float(), b.float(), alpha) for k, (a, b, alpha) in rounded.items()})
    assert agree(with_loras(model, write(tmp_path / "x.safetensors", flat)), wanted)


# ---- alpha, where no tensor says it ----


def test_the_alpha_of_a_peft_folder_is_that_of_its_configuration(theirs, model, tmp_path):
    changes = drawn({"net": theirs["net"]}, attention)
    write(tmp_path / "adapter_model.safetensors", changes, "peft")
    about = dict(lora_alpha=6, alpha_pattern={"attn2.to_k": 9, r".*mid_block.*to_q": 2}, use_rslora=True)
    (tmp_path / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")

    def alpha(name):
        a = 9 if name.endswith("attn2.to_k") else 2 if "mid_block" in name and name.endswith("to_q") else 6
        return lambda rank: a * rank**0.5  # α/√r in place of α/r

    said = {(part, name): (a, b, alpha(name)(len(a))) for (part, name), (a, b, _) in changes.items()}
    assert agree(with_loras(model, f"{tmp_path}:0.05"), answers(theirs, said, 0.05))


def test_the_alpha_of_diffusers_header_is_taken_part_by_part(theirs, model, tmp_path):
    changes = drawn(theirs, attention)
    about = {
        "unet.r": 3,
        "unet.lora_alpha": 6,
        "text_encoder.lora_alpha": 1,
        "unet.alpha_pattern": {f"{SITE}.to_q": 4},
    }
    file = write(
        tmp_path / "x.safetensors",
        changes,
        "diffusers of today",
        {"lora_adapter_metadata": json.dumps(about)},
    )
    said = {
        (part, name): (a, b, {"net": 4 if name == f"{SITE}.to_q" else 6, "text": 1}[part])
        for (part, name), (a, b, _) in changes.items()
    }
    assert agree(with_loras(model, f"{file}:0.2"), answers(theirs, said, 0.2))


# ---- the first files: maps by number ----


def in_their_order(nets, gated=True, residual=False):
    """The maps as the programs of that time went through their modules: within a transformer block the
    feed-forward stood between the two attentions."""
    found = []
    for block in [*nets["net"].down_blocks, *nets["net"].up_blocks, nets["net"].mid_block]:
        for transformer in getattr(block, "attentions", []):
            inside = transformer.transformer_blocks[0]
            found += [inside.attn1.to_q, inside.attn1.to_k, inside.attn1.to_v, inside.attn1.to_out[0]]
            found += [inside.ff.net[0].proj] if gated else []
            found += [inside.attn2.to_q, inside.attn2.to_k, inside.attn2.to_v, inside.attn2.to_out[0]]
        if residual:
            found += [
                m for res in block.resnets for m in res.modules() if isinstance(m, (nn.Linear, nn.Conv2d))
            ]
    names = {module: name for name, module in nets["net"].named_modules()}
    text = [
        name.removeprefix("text_model.")
        for name, module in nets["text"].named_modules()  # keys, values, queries, outputs
        if isinstance(module, nn.Linear) and ".self_attn." in name
    ]
    return {"net": [names[module] for module in found], "text": text}


def numbered(path, nets, words=None, **kind):
    order = in_their_order(nets, **kind)
    changes = drawn(nets, lambda part, name, module: name.removeprefix("text_model.") in order[part])
    tensors = {
        f"{'unet' if part == 'net' else 'text_encoder'}:{i}:{half}": tensor
        for part, names in order.items()
        for i, name in enumerate(names)
        for half, tensor in zip(("down", "up"), changes[part, name])
    }
    assert len(changes) == sum(map(len, order.values()))
    save_file(tensors | (words or {}), path)
    return path, changes


@pytest.mark.parametrize("kind", [dict(), dict(gated=False), dict(residual=True)])
def test_the_first_files_number_the_maps_as_diffusers_and_transformers_list_them(
    kind, theirs, model, tmp_path
):
    file, changes = numbered(tmp_path / "x.safetensors", theirs, **kind)
    assert agree(with_loras(model, f"{file}:0.8"), answers(theirs, changes, 0.8, alpha=False))


def test_the_very_first_are_lists_of_halves_a_file_for_each_net(theirs, model, tmp_path):
    order = in_their_order(theirs)
    changes = drawn(theirs, lambda part, name, module: name.removeprefix("text_model.") in order[part])
    files = [tmp_path / "x.pt", tmp_path / "x.text_encoder.pt"]
    for file, (part, names) in zip(files, order.items()):
        torch.save([half for name in names for half in changes[part, name][1::-1]], file)
    assert agree(with_loras(model, files), answers(theirs, changes, alpha=False))


def test_stable_diffusion_has_144_maps_that_have_the_sizes_of_such_a_file():
    with torch.device("meta"):
        net, text = UNet(), TextTransformer()
    maps = [net.get_submodule(name).weight for name in maps_by_number(net, 144)]
    wide = [320] * 18 + [640] * 18 + [1280] * 18 + [1280] * 27 + [640] * 27 + [320] * 27 + [1280] * 9
    ups = [w * 8 if i % 9 == 4 else w for i, w in enumerate(wide)]
    downs = [768 if i % 9 in (6, 7) else w for i, w in enumerate(wide)]
    assert [tuple(w.shape) for w in maps] == list(zip(ups, downs)) and len(maps_by_number(text, 48)) == 48
    assert maps_by_number(net, 143) == [] and maps_by_number(None, 0) == []


def test_words_that_were_taught_beside_are_known_to_the_tokenizer(theirs, model, loaded, tmp_path):
    vectors = {"<s1>": normal(64), "<s2>": normal(2, 64, seed=5)}
    file, changes = numbered(tmp_path / "x.safetensors", theirs, vectors)
    taught = with_loras(model, file)
    rows = taught.text.tokens.weight
    assert torch.equal(rows[-3:], torch.cat([vectors["<s1>"][None], vectors["<s2>"]])) and len(rows) == 49411
    row = taught.tokenizer(["a photo of <S1>,<s2>"])[0].tolist()
    assert row[4:8] == [49408, 267, 49409, 49410] and taught.tokenizer.decode(row) == "a photo of <s1> , <s2>"
    assert torch.equal(taught.tokenizer(["a <s3> cat"]), loaded.tokenizer(["a <s3> cat"]))
    assert agree(taught, answers(theirs, changes, alpha=False)) and taught.embed("<s1>").shape == (1, 77, 64)
    assert len(loaded.text.tokens.weight) == 49408 and not loaded.tokenizer.taught


def test_kohya_bundles_words_with_a_lora(theirs, model, tmp_path):
    file = write(tmp_path / "x.safetensors", drawn(theirs, attention))
    save_file(load_file(file) | {"bundle_emb.zwx cat.string_to_param.*": normal(2, 64)}, file)
    taught = with_loras(model, file)
    assert taught.tokenizer.positions("a zwx cat, red", "zwx cat") == [2, 3]


# ---- this library's own ----


def test_what_dreambooth_learned_is_a_lora_like_any_other(tmp_path):
    base = tiny_weights(tmp_path)
    tuned = load(base, "cpu")
    for part in (tuned.net, tuned.text):
        adapt(part, 2, 3.0, torch.Generator().manual_seed(0))
        for change in adapted(part).values():
            change.up.data = 0.3 * torch.randn(change.up.shape, generator=torch.Generator().manual_seed(1))
    file = save_lora(tuned, tmp_path / "mine.safetensors", str(base))
    z, tokens = normal(1, *tuned.latent_shape), tuned.tokenizer(["a red star"])
    with torch.no_grad():
        wanted = scaled(tuned, 0.5).net(z, 300, scaled(tuned, 0.5).text(tokens))
        half = load(base, "cpu", lora=f"{file}:0.5")
        again = load(file, "cpu", lora=f"{file}:-0.5")  # a whole one on the base, half of it taken back
        for model in half, again:
            assert not adapted(model.net)
            assert relative_error(model.net(z, 300, model.text(tokens)), wanted) < 1e-5


# ---- what is refused, whole ----


HALVES = {"lora_down.weight": torch.zeros(2, 32), "lora_up.weight": torch.zeros(32, 2)}
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
GOOD = {f"{Q}.{end}": half for end, half in HALVES.items()}
K = Q.replace("attn1_to_q", "attn2_to_k")
REFUSED = {
    "LoHa": ({f"{Q}.hada_w1_a": normal(32, 2)}, r"is LoHa \(LyCORIS\).*not supported; take a LoRA"),
    "LoKr": ({f"{Q}.lokr_w1": normal(2, 2), f"{Q}.alpha": torch.tensor(1.0)}, r"is LoKr"),
    "LyCORIS' own prefix": ({"lycoris_down_blocks_0.lokr_w2_a": normal(2, 2)}, "is LoKr"),
    "(IA)³": ({f"{Q}.weight": normal(32), f"{Q}.on_input": torch.tensor(False)}, r"is \(IA\)³"),
    "DoRA": ({**GOOD, f"{Q}.dora_scale": normal(32, 1)}, "is DoRA"),
    "peft's DoRA": ({**GOOD, f"base_model.model.{SITE}.to_q.lora_magnitude_vector": normal(32)}, "is DoRA"),
    "Tucker": ({**GOOD, f"{Q}.lora_mid.weight": normal(2, 2, 3, 3)}, "in Tucker's form"),
    "OFT": ({f"{Q}.oft_blocks": normal(2, 2, 2)}, "is OFT"),
    "whole differences": ({f"{Q}.diff": normal(32, 32)}, "whole differences"),
    "Custom Diffusion": (
        {f"{SITE}.processor.to_k_custom_diffusion.weight": normal(32, 64)},
        "is Custom Diffusion",
    ),
    "SDXL, second text encoder": (
        {**GOOD, "lora_te2_text_model_x.lora_down.weight": normal(2, 2)},
        "LoRA of Stable Diffusion XL",
    ),
    "SDXL of diffusers": (
        {**GOOD, "text_encoder_2.x.lora_A.weight": normal(2, 2)},
        "LoRA of Stable Diffusion XL",
    ),
    "SDXL, U-Net alone": (
        {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_up.weight": normal(2, 2)},
        "of Stable Diffusion XL",
    ),
    "Flux": (
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": normal(2, 2)},
        "LoRA of Flux",
    ),
    "kohya's Flux": (
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": normal(2, 2)},
        "LoRA of Flux",
    ),
    "SD3": (
        {"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": normal(2, 2)},
        "of Stable Diffusion 3",
    ),
    "SD3 of diffusers": (
        {"transformer.transformer_blocks.3.attn.to_q.lora_A.weight": normal(2, 2)},
        "of a transformer",
    ),
    "an unknown map": (
        {**GOOD, "lora_unet_down_blocks_7.lora_up.weight": normal(2, 2)},
        r"'lora_unet_down_blocks_7.lora_up.weight', which sd does not have",
    ),
    "an unknown key": (
        {**GOOD, "lora_unet_x.surprise": normal(2)},
        "changes 'lora_unet_x.surprise', which sd does not have",
    ),
    "one half": ({f"{Q}.lora_down.weight": normal(2, 32)}, "without its other half"),
    "SD2": (
        {f"{K}.lora_down.weight": normal(2, 1024), f"{K}.lora_up.weight": normal(32, 2)},
        "is a LoRA of Stable Diffusion 2, for texts of width 1024, and sd reads 64",
    ),
    "another width": (
        {f"{K}.lora_down.weight": normal(2, 48), f"{K}.lora_up.weight": normal(32, 2)},
        "by a map of 32×48, and sd has 32×64 there",
    ),
    "two spellings of one": (
        {**GOOD, f"unet.{SITE}.to_q.lora_A.weight": normal(2, 32)},
        "twice, in two spellings",
    ),
    "a number for a half": (
        {f"{Q}.lora_down.weight": torch.tensor(1.0), f"{Q}.lora_up.weight": normal(32, 2)},
        "holds no matrices",
    ),
    "no rank": (
        {f"{Q}.lora_down.weight": torch.zeros(0, 32), f"{Q}.lora_up.weight": torch.zeros(32, 0)},
        "holds no matrices",
    ),
    "several alphas": ({**GOOD, f"{Q}.alpha": normal(2)}, "holds no matrices"),
    "other ranks": (
        {f"{Q}.lora_down.weight": normal(2, 32), f"{Q}.lora_up.weight": normal(32, 3)},
        "do not fit each other",
    ),
    "another kernel": (
        {f"{Q}.lora_down.weight": normal(2, 32, 3, 3), f"{Q}.lora_up.weight": normal(32, 2, 1, 1)},
        "by a map of 32×32×3×3",
    ),
    "NaN": (
        {f"{Q}.lora_down.weight": normal(2, 32) * torch.nan, f"{Q}.lora_up.weight": normal(32, 2)},
        "not finite",
    ),
    "a model": ({"model.diffusion_model.out.2.weight": normal(4, 4)}, "holds no low-rank changes"),
    "numbers that no order has": (
        {"unet:0:up": normal(32, 1), "unet:0:down": normal(1, 32)},
        "'unet:0:down', which sd",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_applied(what, model, loaded, tmp_path):
    tensors, said = REFUSED[what]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ArgumentError, match=rf"^lora: .*x.safetensors .*{said}") as error:
        with_loras(model, tmp_path / "x.safetensors")
    assert "\n" not in str(error.value) and same_bits(model, loaded)


@pytest.mark.parametrize("what", [name for name in REFUSED if name not in ("a model", "an unknown key")])
def test_a_lora_in_place_of_a_model_is_told_where_it_goes(what, tmp_path):
    save_file(REFUSED[what][0], tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"^model: .*x.safetensors .*(LoRA|low-rank)"):
        load(tmp_path / "x.safetensors", "cpu")


def test_a_damaged_configuration_beside_a_lora_is_told(model, tmp_path):
    key = f"base_model.model.{SITE}.to_q.lora_"
    file, beside = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({f"{key}A.weight": normal(2, 32), f"{key}B.weight": normal(32, 2)}, file)
    for text in ("[", "3", '{"lora_alpha": "much"}', '{"alpha_pattern": {"(": 3}}', '{"alpha_pattern": 7}'):
        beside.write_text(text, encoding="utf-8")
        with pytest.raises(ArgumentError, match="^lora: .*(damaged|is not a JSON object)"):
            with_loras(model, file)
    for header in ("3", "[", '{"kind": 3}'):
        save_file(GOOD, tmp_path / "x.safetensors", {"palimpsest": header})
        with contextlib.suppress(ArgumentError):
            with_loras(model, tmp_path / "x.safetensors")


def test_no_code_of_a_lora_file_is_run(model, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({Q: Evil()}, tmp_path / "x.pt")
    with pytest.raises(ArgumentError, match="^lora: .*wants to run"):
        with_loras(model, tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_net_without_such_maps_and_files_that_are_not_there_are_refused(tmp_path):
    save_file(GOOD, tmp_path / "x.safetensors")
    glide = load(tiny_glide(tmp_path), "cpu")
    with pytest.raises(
        ArgumentError, match=f"changes '{Q}.lora_down.weight', which tiny-glide does not have"
    ):
        with_loras(glide, tmp_path / "x.safetensors")
    for name, said in (
        ("none.safetensors", "cannot be read"),
        (".", "holds none of pytorch_lora_weights.safetensors"),
    ):
        with pytest.raises(ArgumentError, match=f"^lora: .*{said}"):
            with_loras(glide, tmp_path / name)


def test_the_strength_stands_behind_the_last_colon(tmp_path):
    file = tmp_path / "a:2"
    assert split_scale(f"{file}:0.5") == (file, 0.5) and split_scale(file) == (tmp_path / "a", 2.0)
    file.touch()
    assert split_scale(file) == (file, 1.0) and split_scale(f"{file}:-1e-1") == (file, -0.1)
    assert split_scale("C:\\style.safetensors") == (Path("C:\\style.safetensors"), 1.0)
    for bad in "half", "nan", "inf", "":
        with pytest.raises(ArgumentError, match="no finite number; write FILE:SCALE"):
            split_scale(f"{file}:{bad}")


# ---- diffusers itself, where peft is installed ----


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys:RuntimeWarning")  # of equal alphas
@pytest.mark.parametrize(
    "how, parts",
    [
        ("kohya", ("net", "text")),
        ("diffusers of today", ("net", "text")),
        ("diffusers' attention processors", ("net", "text")),
        ("diffusers", ("net",)),
    ],
)
def test_diffusers_load_lora_weights_gives_the_same(how, parts, folder, model, tmp_path):
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    nets = {"net": pipe.unet, "text": pipe.text_encoder}
    changes = drawn({part: nets[part] for part in parts}, attention)
    file = write(tmp_path / "x.safetensors", {k: (a, b, 2.0) for k, (a, b, _) in changes.items()}, how)
    pipe.load_lora_weights(str(tmp_path), weight_name=file.name)
    with torch.no_grad():
        ctx = pipe.text_encoder(TOKENS).last_hidden_state
        wanted = pipe.unet(Z, 300, ctx).sample, ctx
    assert not agree(model, wanted) and agree(with_loras(model, file), wanted)
