"""The files of CLIP, DINO, LPIPS and FID's Inception: recognised from their keys, read strictly, never
run.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from towers import CLIP_SIZES, TOKENS, small_clip, small_dino

from palimpsest.metrics.trunks import FIDInception, lpips_alex, lpips_vgg
from palimpsest.nets.judges.clip import CLIP, VIT_B_32
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.text import quick_gelu
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public.layouts import diffusers_names
from palimpsest.weights.public.torchscript import archive_tensors, is_archive
from palimpsest.weights.public.tower_names import (
    clip_of_shapes,
    clip_openai_names,
    clip_transformers_names,
    dino_of_shapes,
    dino_official_names,
    dino_transformers_names,
    pack,
    unpack,
)
from palimpsest.weights.public.towers import load_clip, load_dino, load_inception, load_lpips, recognise

ROOT = Path(__file__).parent.parent
CLIP_LAYOUTS, DINO_LAYOUTS = (
    (clip_openai_names, clip_transformers_names),
    (dino_official_names, dino_transformers_names),
)


def same(ours, theirs):
    """Whether two nets have one architecture and the same bits."""
    a, b = ours.state_dict(), theirs.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def of(net, names):
    return pack(net, names(net))


def write(tensors, path):
    tensors = {name: t.detach().clone() for name, t in tensors.items()}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def zeros(net):
    """A net of the meta device with a value everywhere: as a file, one page of it."""
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in net.state_dict().items()}


# ----------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "make, names", [*[(small_clip, f) for f in CLIP_LAYOUTS], *[(small_dino, f) for f in DINO_LAYOUTS]]
)
def test_every_parameter_has_one_place_of_its_own_and_unpacking_undoes_packing(make, names):
    net = make()
    places = names(net)
    assert list(places) == list(net.state_dict()) and len(set(places.values())) == len(places)
    found = unpack(pack(net, places))
    assert found.keys() == set(places.values())
    assert all(torch.equal(found[places[key]], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("names", CLIP_LAYOUTS)
@pytest.mark.parametrize("end", ["safetensors", "pt"])
def test_clip_comes_back_from_either_layout_with_its_bits(names, end, tmp_path):
    clip = small_clip()
    found = load_clip(write(of(clip, names), tmp_path / f"clip.{end}"))
    assert same(found, clip) and not found.training and not any(p.requires_grad for p in found.parameters())
    torch.testing.assert_close(
        found(torch.ones(1, 3, 32, 32), TOKENS), clip(torch.ones(1, 3, 32, 32), TOKENS)
    )
    assert found.image.layers[0].activation is found.text.layers[0].activation is quick_gelu


@pytest.mark.parametrize("names", DINO_LAYOUTS)
@pytest.mark.parametrize("end", ["safetensors", "pth"])
def test_dino_comes_back_from_either_layout_with_its_bits(names, end, tmp_path):
    dino = small_dino()
    found = load_dino(write(of(dino, names), tmp_path / f"dino.{end}"))
    assert same(found, dino) and not found.training
    torch.testing.assert_close(found(torch.ones(1, 3, 48, 32)).cls, dino(torch.ones(1, 3, 48, 32)).cls)


@pytest.mark.parametrize(
    "make, names, load, prefix, extra",
    [
        (
            small_clip,
            clip_openai_names,
            load_clip,
            "",
            ["input_resolution", "context_length", "vocab_size", "attn_mask"],
        ),
        (small_clip, clip_openai_names, load_clip, "module.", ["module.attn_mask"]),
        (
            small_clip,
            clip_transformers_names,
            load_clip,
            "",
            ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"],
        ),
        (small_dino, dino_official_names, load_dino, "module.backbone.", []),
        (small_dino, dino_transformers_names, load_dino, "", ["pooler.dense.weight", "pooler.dense.bias"]),
        (small_dino, dino_transformers_names, load_dino, "vit.", ["vit.pooler.dense.weight"]),
    ],
)
def test_prefixes_and_what_is_no_weight_do_no_harm(make, names, load, prefix, extra, tmp_path):
    net = make()
    tensors = {prefix + name: t for name, t in of(net, names).items()} | {
        name: torch.zeros(2, 2) for name in extra
    }
    assert same(load(write(tensors, tmp_path / "net.pt")), net)
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "training.pt")
    assert same(load(tmp_path / "training.pt"), net)


@pytest.mark.parametrize("missing, found", [((), "teacher"), (("teacher",), "student")])
def test_of_a_whole_training_of_dino_the_teachers_backbone_is_taken(missing, found, tmp_path):
    nets = {"teacher": small_dino(), "student": small_dino()}
    for parameter in nets["student"].parameters():
        parameter.data += 1.0
    whole = {
        name: {"module.backbone." + key: t for key, t in of(net, dino_official_names).items()}
        | {"module.head.mlp.0.weight": torch.ones(2, 2), "module.head.last_layer.weight_g": torch.ones(2, 1)}
        for name, net in nets.items()
    }
    whole |= {"optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    whole |= {"args": argparse.Namespace(arch="vit_small")}
    torch.save(
        {name: value for name, value in whole.items() if name not in missing}, tmp_path / "checkpoint.pth"
    )
    assert same(load_dino(tmp_path / "checkpoint.pth"), nets[found])


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_open_clip_is_found_and_says_its_activation(file, tmp_path):
    clip = small_clip()
    write(of(clip, clip_openai_names), tmp_path / file)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}), encoding="utf-8")
    found = load_clip(tmp_path)
    assert same(found, clip) and found.image.layers[0].activation is F.gelu
    (tmp_path / file).rename(tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match="holds no weights .*open_clip_model"):
        load_clip(tmp_path)


@pytest.mark.parametrize(
    "make, names, load",
    [(small_clip, clip_openai_names, load_clip), (small_dino, dino_official_names, load_dino)],
)
def test_half_precision_is_read_into_the_dtype_that_is_asked_for(make, names, load, tmp_path):
    net = make().half()
    path = write(of(net, names), tmp_path / "half.pt")
    assert same(load(path), net.float())
    assert next(load(path, dtype=torch.float16).parameters()).dtype == torch.float16
    assert all(p.dtype == torch.bfloat16 for p in load(path, dtype=torch.bfloat16).parameters())


# ---------------------------------------------------------------------------------------------------- what shapes do not tell


def test_a_folder_that_transformers_wrote_says_its_heads_activation_and_end(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the folder is theirs")
    text = dict(
        vocab_size=50,
        max_position_embeddings=12,
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=3,
        bos_token_id=46,
        eos_token_id=47,
        pad_token_id=47,
        hidden_act="gelu",
    )
    image = dict(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
    )
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=16)
    ).eval()
    theirs.save_pretrained(tmp_path)
    x, tokens = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32), torch.tensor([[46, 3, 49, 47, 0]])
    with torch.no_grad():
        want = theirs(input_ids=tokens, pixel_values=x).logits_per_image
    for path in (tmp_path, tmp_path / "model.safetensors"):
        clip = load_clip(path)
        assert (clip.image.layers[0].attention.heads, clip.text.layers[0].attention.heads, clip.end) == (
            4,
            3,
            47,
        )
        torch.testing.assert_close(clip(x, tokens), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "said, activation", [(None, quick_gelu), ({"quick_gelu": True}, quick_gelu), ({}, F.gelu)]
)
def test_open_clip_says_beside_the_file_which_activation_it_trained_with(said, activation, tmp_path):
    path = write(of(small_clip(), clip_openai_names), tmp_path / "open_clip_model.safetensors")
    if said is not None:
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": said}), encoding="utf-8")
    assert load_clip(path).image.layers[0].activation is activation
    assert load_clip(path, activation=F.gelu).text.layers[0].activation is F.gelu


def test_two_towers_of_two_activations_are_refused(tmp_path):
    path = write(of(small_clip(), clip_transformers_names), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": {"hidden_act": "relu"}, "vision_config": {}}),
        encoding="utf-8",
    )
    with pytest.raises(WeightsError, match="asks for quick_gelu and relu"):
        load_clip(path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "hidden_act": "gelu"}), encoding="utf-8"
    )  # of something else
    assert load_clip(path).image.layers[0].activation is quick_gelu


def test_words_added_to_the_vocabulary_do_not_move_the_end(tmp_path):
    with torch.device("meta"):
        clip = CLIP(**CLIP_SIZES | dict(vocab=49410))
    path = write(
        {name: torch.zeros(t.shape) for name, t in of(clip, clip_openai_names).items()},
        tmp_path / "clip.safetensors",
    )
    assert load_clip(path).end == 49407


# ------------------------------------------------------------------------------------------------------------- TorchScript


class Traced(nn.Module):
    """A module with the parameters of OpenAI's, by their names, and what else its archives hold; the
    program does not matter.
    """

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            *way, last = name.split(".")
            at = self
            for part in way:
                if not hasattr(at, part):
                    at.add_module(part, nn.Module())
                at = getattr(at, part)
            at.register_parameter(last, nn.Parameter(value.detach(), requires_grad=value.is_floating_point()))

    def forward(self, x):
        return x + self.logit_scale


def archive(tensors, path):
    with warnings.catch_warnings():  # TorchScript announces its own end
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Traced(tensors), torch.zeros(1))
        torch.jit.save(traced, str(path))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_openais_archive_is_read_without_being_run(dtype, tmp_path, monkeypatch):
    clip = small_clip().to(dtype)
    extras = {
        name: torch.tensor(n)
        for name, n in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 50))
    }
    path = archive(of(clip, clip_openai_names) | extras, tmp_path / "clip.pt")
    monkeypatch.delattr(torch.jit, "load")
    assert is_archive(path)
    found = archive_tensors(path)
    assert found.keys() == of(clip, clip_openai_names).keys() | extras.keys()
    assert found["visual.proj"].dtype == dtype and found["context_length"] == 12
    assert same(load_clip(path, dtype=dtype), clip)
    assert same(load_clip(path), clip.float())


def test_tensors_of_an_archive_that_share_numbers_or_are_turned_come_as_they_are(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    net = {
        "logit_scale": torch.ones(()),
        "a.turned": whole.T,
        "a.part": whole[1:3, 2:5],
        "a.b.none": torch.zeros(0, 3),
        "n": torch.tensor([1, 2]),
        "sixteen": whole.half(),
    }
    path = archive(net, tmp_path / "net.pt")
    found = archive_tensors(path)
    assert found.keys() == net.keys()
    assert all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in net.items()
    )
    found["sixteen"].zero_()  # mapped privately: the file stays what it was
    assert torch.equal(archive_tensors(path)["sixteen"], whole.half())


def test_a_state_dict_is_no_archive(tmp_path):
    assert not is_archive(write({"a": torch.zeros(1)}, tmp_path / "a.pt"))
    assert not is_archive(write({"a": torch.zeros(1)}, tmp_path / "a.safetensors"))
    assert not is_archive(tmp_path) and not is_archive(tmp_path / "none")


def rewritten(path, there, change, compress=zipfile.ZIP_STORED):
    """A copy of an archive with one record changed."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compress) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith(there) else data)
    return out


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('the archive was run')",)


@pytest.mark.parametrize(
    "payload, said",
    [
        (pickle.dumps(Trap(), 2), "asks for __builtin__.exec"),
        (pickle.dumps(torch.load, 2), "asks for torch.serialization"),
        (b"", "not a whole"),
        (b"\x80\x02N", "not a whole"),
        (b"garbage", "that is not done here|not a whole"),
    ],
)
def test_an_archive_that_asks_for_code_or_is_damaged_is_refused(payload, said, tmp_path):
    path = archive(of(small_clip(), clip_openai_names), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=said):
        load_clip(rewritten(path, "data.pkl", lambda data: payload))


def test_numbers_that_are_not_all_there_are_refused(tmp_path):
    path = archive(of(small_clip(), clip_openai_names), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match="not a whole TorchScript archive .*; fetch it again"):
        load_clip(rewritten(path, "/data/5", lambda data: data[:-4]))
    with pytest.raises(WeightsError, match="not a whole TorchScript archive"):
        load_clip(rewritten(path, "nothing", bytes, zipfile.ZIP_DEFLATED))
    assert same(
        load_clip(rewritten(path, "nothing", bytes)), small_clip()
    )  # not aligned, as only torch itself writes it
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(WeightsError, match="cut.pt is not a whole"):
        load_clip(cut)


# ---------------------------------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    "make, names, load, gone",
    [
        (small_clip, clip_openai_names, load_clip, "visual.transformer.resblocks.1.attn.in_proj_bias"),
        (small_clip, clip_openai_names, load_clip, "logit_scale"),
        (small_clip, clip_transformers_names, load_clip, "vision_model.post_layernorm.bias"),
        (small_dino, dino_official_names, load_dino, "blocks.1.attn.qkv.bias"),
        (small_dino, dino_transformers_names, load_dino, "layernorm.weight"),
    ],
)
def test_what_is_missing_left_over_or_of_another_size_is_named(make, names, load, gone, tmp_path):
    whole = of(make(), names)
    lacking = {name: t for name, t in whole.items() if name != gone}
    net = type(make()).__name__
    with pytest.raises(
        WeightsError, match=rf"does not fit the {net} that its keys announce: tensors \d missing \({gone}"
    ):
        load(write(lacking, tmp_path / "lacking.pt"))
    with pytest.raises(WeightsError, match=r"1 left over \(head.weight\)"):
        load(write(whole | {"head.weight": torch.zeros(3)}, tmp_path / "more.pt"))
    wrong = whole | {gone: torch.zeros(7)}
    with pytest.raises(WeightsError, match=f"{gone}.* 7 for |{gone}.*left over"):
        load(write(wrong, tmp_path / "wrong.pt"))


@pytest.mark.parametrize("gone", ["positional_embedding", "visual.proj", "token_embedding.weight"])
def test_what_the_sizes_are_read_off_is_named_when_it_is_missing(gone, tmp_path):
    lacking = {name: t for name, t in of(small_clip(), clip_openai_names).items() if name != gone}
    with pytest.raises(WeightsError, match=rf"lacks '{gone}.*without which the rest cannot be placed"):
        load_clip(write(lacking, tmp_path / "lacking.pt"))


def test_a_file_of_another_network_is_named_with_who_reads_it(tmp_path):
    clip, dino = (
        write(t, tmp_path / f"{n}.pt")
        for n, t in (
            ("clip", of(small_clip(), clip_openai_names)),
            ("dino", of(small_dino(), dino_official_names)),
        )
    )
    with pytest.raises(WeightsError, match="dino.pt holds DINO, and CLIP is needed here; load_dino reads it"):
        load_clip(dino)
    with pytest.raises(WeightsError, match="clip.pt holds CLIP, and DINO is needed here; load_clip reads it"):
        load_dino(clip)
    with pytest.raises(WeightsError, match="clip.pt holds CLIP, and a trunk of LPIPS is needed here"):
        load_lpips(clip, dino)


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"visual.layer1.0.conv1.weight": 1}, "ResNet; take ViT-B/32"),
        ({"text.transformer.resblocks.0.ln_1.weight": 1}, "another kind"),
        ({"visual.trunk.cls_token": 1}, "another kind"),
        ({"a": 1, "b": 1}, r"no network that is known here \(its keys: a, b\), and CLIP"),
        ({name: 1 for name in diffusers_names(small_clip().text).values()}, "a text encoder alone"),
        ({"layers.0.attention.q_proj.weight": 1}, "save_pretrained"),
    ],
)
def test_what_is_no_clip_that_is_known_is_told_apart(tensors, said, tmp_path):
    with pytest.raises(WeightsError, match=said):
        load_clip(write({name: torch.zeros(n) for name, n in tensors.items()}, tmp_path / "other.pt"))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\x80\x02garbage", "clip.pt"),
        (b"", "not a whole safetensors file"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(content, said, tmp_path):
    if content is not None:
        (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_clip(tmp_path / "clip.pt")


@pytest.mark.parametrize(
    "make, names, layout",
    [
        (small_clip, clip_openai_names, "openai"),
        (small_clip, clip_transformers_names, "transformers"),
        (small_dino, dino_official_names, "official"),
        (small_dino, dino_transformers_names, "transformers"),
    ],
)
def test_a_layout_is_recognised_from_any_order_of_its_keys(make, names, layout):
    shapes = {name: tuple(t.shape) for name, t in of(make(), names).items()}
    for some in (shapes, dict(reversed(shapes.items())), {f"{name}[q]": s for name, s in shapes.items()}):
        kind = recognise(some)
        assert (kind.what, kind.layout, kind.prefix) == (type(make()).__name__, layout, "")
    assert recognise({}) is None


# -------------------------------------------------------------------------------------------------------------- LPIPS, FID


def lpips_files(make, folder, changes=None):
    with torch.device("meta"):
        net = make()
    state = zeros(net)
    state |= {key: torch.full_like(value, n + 1) for n, (key, value) in enumerate(state.items())}
    trunk = {key.replace("trunk.", "features."): t for key, t in state.items() if key.startswith("trunk.")}
    heads = {
        f"lin{key.split('.')[1]}.model.1.weight": t for key, t in state.items() if key.startswith("heads.")
    }
    trunk |= {"classifier.1.weight": torch.zeros(2, 2), "classifier.1.bias": torch.zeros(2)} | (changes or {})
    return state, write(trunk, folder / "trunk.pth"), write(heads, folder / "heads.pth")


@pytest.mark.parametrize("make, taps", [(lpips_alex, (1, 4, 7, 9, 11)), (lpips_vgg, (3, 8, 15, 22, 29))])
def test_lpips_finds_its_trunk_by_the_widths_of_its_heads(make, taps, tmp_path):
    state, trunk, heads = lpips_files(make, tmp_path)
    net = load_lpips(trunk, heads)
    assert net.taps == taps and not net.training and not any(p.requires_grad for p in net.parameters())
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


def test_a_trunk_and_heads_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "vgg").mkdir()
    _, trunk, heads = lpips_files(lpips_alex, tmp_path)
    _, _, other = lpips_files(lpips_vgg, tmp_path / "vgg")
    with pytest.raises(WeightsError, match="trunk.pth does not fit the LPIPS that its keys announce"):
        load_lpips(trunk, other)
    with pytest.raises(
        WeightsError, match="heads.pth holds the heads of LPIPS, and a trunk of LPIPS is needed here"
    ):
        load_lpips(heads, trunk)
    squeeze = {
        f"lin{n}.model.1.weight": torch.zeros(1, c, 1, 1)
        for n, c in enumerate((64, 128, 256, 384, 384, 512, 512))
    }
    with pytest.raises(
        WeightsError, match="64, 128, 256, 384, 384, 512, 512 channels, which is neither AlexNet nor VGG-16"
    ):
        load_lpips(trunk, write(squeeze, tmp_path / "squeeze.pth"))
    _, trunk, heads = lpips_files(lpips_alex, tmp_path, {"features.0.extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"1 left over \(features.0.extra\)"):
        load_lpips(trunk, heads)


@pytest.fixture(scope="module")
def inception():
    with torch.device("meta"):
        net = FIDInception()
    return zeros(net)


@pytest.mark.parametrize("counted", [True, False])
def test_the_inception_of_fid_is_read_with_or_without_the_counts_of_its_batch_norms(
    counted, inception, tmp_path
):
    tensors = {key: t for key, t in inception.items() if counted or not key.endswith("num_batches_tracked")}
    tensors["Mixed_7c.branch_pool.bn.running_var"] = torch.full((192,), 3.0)
    net = load_inception(write(tensors, tmp_path / "pt_inception.pth"))
    assert torch.equal(net.Mixed_7c.branch_pool.bn.running_var, torch.full((192,), 3.0)) and not net.training
    assert not any(t.is_meta for t in net.state_dict().values())


def test_torchvisions_own_inception_is_refused_by_name(inception, tmp_path):
    path = write(
        inception | {"AuxLogits.conv0.conv.weight": torch.zeros(1)}, tmp_path / "inception_v3_google.pth"
    )
    with pytest.raises(
        WeightsError,
        match="torchvision's own Inception, by which no published FID is measured; take pt_inception-2015",
    ):
        load_inception(path)
    path = write(inception | {"fc.bias": torch.zeros(1000)}, tmp_path / "inception_1000.pth")
    with pytest.raises(WeightsError, match="fc.bias 1000 for 1008"):
        load_inception(path)


# ------------------------------------------------------------------------------------------------------------------ memory

MEASURE = """
import sys, torch
torch.set_num_threads(1)
from palimpsest.weights.public.towers import load_clip
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
load_clip(sys.argv[2])                                                     # a small one: what the library itself takes, once
before = peak()
parameters = list(load_clip(sys.argv[1]).parameters())
total = sum(float(p.sum()) for p in parameters)                            # every page is touched
print((peak() - before) / sum(p.nbytes for p in parameters))
"""


@pytest.mark.xdist_group("memory")  # gigabytes: one at a time
@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of one process is read off /proc"
)
@pytest.mark.parametrize(
    "form, dtype",
    [
        ("clip.pt", torch.float16),
        ("clip.safetensors", torch.float16),
        ("state.pt", torch.float16),
        ("clip.safetensors", torch.float32),
    ],
)
def test_clip_is_in_memory_once_while_it_is_loaded(form, dtype, tmp_path):
    with torch.device("meta"):
        clip = CLIP(**VIT_B_32)
    tensors = {name: torch.zeros(t.shape, dtype=dtype) for name, t in of(clip, clip_openai_names).items()}
    small = write(of(small_clip(), clip_openai_names), tmp_path / "small.safetensors")
    path = tmp_path / form
    archive(tensors, path) if form == "clip.pt" else write(tensors, path)
    del tensors
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(small)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert 0.7 < float(done.stdout) < 1.3


@pytest.mark.parametrize(
    "cls, names, sizes",
    [
        (CLIP, clip_openai_names, {}),
        (CLIP, clip_transformers_names, VIT_B_32),
        (DINO, dino_official_names, {}),
        (DINO, dino_transformers_names, dict(patch=8)),
    ],
)
def test_the_sizes_of_the_published_nets_are_read_off_their_files(cls, names, sizes):
    with torch.device("meta"):
        net = cls(**sizes)
        shapes = {place: tuple(t.shape) for place, t in unpack(pack(net, names(net))).items()}
        again = cls(**(clip_of_shapes if cls is CLIP else dino_of_shapes)(shapes, names(net)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }
    layers = [
        (a.layers[0].attention.heads, b.layers[0].attention.heads)
        for a, b in ([(net.image, again.image), (net.text, again.text)] if cls is CLIP else [(net, again)])
    ]
    assert all(a == b for a, b in layers)
