"""LoRA: nothing at the start, the same merged as unmerged, few numbers, and files that change their own
base only.
"""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from palimpsest.arguments import ArgumentError
from palimpsest.methods.dreambooth import dreambooth
from palimpsest.methods.learner import Course
from palimpsest.methods.lora import changed_maps, lora_size, merged, save_lora, save_word, scaled
from palimpsest.methods.prior import Prior
from palimpsest.methods.textual_inversion import textual_inversion
from palimpsest.nets.lora import LoraLinear, adapt, merge
from palimpsest.nets.unet import UNet
from palimpsest.outputs import OutputError
from palimpsest.weights.cache import digest, digest_model
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load, save_like
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject
from tests.tiny import NET, shake, tiny_weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(file):
    return load(file, "cpu")


@pytest.fixture(scope="module")
def x():
    rng = random.Random(0)
    return render_subject(sample_subject(rng, "star"), [sample_context(rng) for _ in range(3)], 32)


@pytest.fixture(scope="module")
def tuned(model, x):
    return dreambooth(
        model,
        x,
        "star",
        rank=2,
        alpha=3.0,
        tune_text=True,
        course=Course(steps=2, batch=2, lr=1e-2),
        prior=Prior(weight=0),
    ).model


def answer(model, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    z = torch.randn((2, *model.latent_shape), generator=g, dtype=dtype)
    with torch.no_grad():
        return model.net(z, 300, model.embed(["a zwx star", "a star"]).to(dtype))


def test_a_fresh_change_changes_nothing_and_the_first_gradient_is_ups_alone():
    net = shake(UNet(**NET)).double()
    g = torch.Generator().manual_seed(1)
    z, ctx = torch.randn(1, 4, 8, 8, generator=g).double(), torch.randn(1, 5, 16, generator=g).double()
    before = net(z, 10, ctx)
    names = adapt(net, 2, 4.0, g)
    after = net(z, 10, ctx)
    assert torch.equal(before, after) and len(names) == 4 * 2 * len(net.transformers())
    after.square().mean().backward()
    modules = [m for m in net.modules() if isinstance(m, LoraLinear)]
    assert all(
        m.up.grad.abs().max() > 0 and m.down.grad.abs().max() == 0 and m.base.weight.grad is None
        for m in modules
    )


def test_merged_equals_unmerged():
    net = shake(UNet(**NET)).double()
    g = torch.Generator().manual_seed(1)
    z, ctx = torch.randn(1, 4, 8, 8, generator=g).double(), torch.randn(1, 5, 16, generator=g).double()
    before = net(z, 10, ctx)
    adapt(net, 3, 2.0, g)
    for m in net.modules():
        if isinstance(m, LoraLinear):
            m.up.data = 0.3 * torch.randn(m.up.shape, generator=g).double()
    changed = net(z, 10, ctx)
    assert (changed - before).abs().max() > 1e-3
    torch.testing.assert_close(merge(net)(z, 10, ctx), changed, rtol=0, atol=1e-10)
    assert not any(isinstance(m, LoraLinear) for m in net.modules())


def test_one_map_is_w_0_plus_alpha_over_r_b_a():
    g = torch.Generator().manual_seed(0)
    base = torch.nn.Linear(6, 5).double()
    layer = LoraLinear(base, 2, 3.0)
    layer.down.data, layer.up.data = (
        torch.randn(2, 6, generator=g).double(),
        torch.randn(5, 2, generator=g).double(),
    )
    x = torch.randn(4, 6, generator=g).double()
    want = x @ (base.weight + 1.5 * layer.up @ layer.down).T + base.bias
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(layer.merged()(x), want)


def test_stable_diffusion_at_rank_4_has_128_maps_and_797184_numbers():
    with torch.device("meta"):
        net = UNet()
    names = adapt(net, 4, 4.0)
    changed = [m for m in net.modules() if isinstance(m, LoraLinear)]
    assert len(names) == 128 and sum(m.down.numel() + m.up.numel() for m in changed) == 797_184
    assert all(
        m.down.numel() + m.up.numel() == 4 * (m.base.in_features + m.base.out_features) for m in changed
    )


def test_learning_moves_the_changes_and_no_weight_of_the_base(model, tuned):
    plain = scaled(tuned, 0.0)
    torch.testing.assert_close(answer(plain), answer(model))
    assert (answer(tuned) - answer(model)).abs().max() > 1e-4
    frozen = [m.base.weight for m in changed_maps(tuned).values()]
    assert digest(*frozen) == digest(*(b_map(model, name).weight for name in changed_maps(tuned)))
    assert any(name.startswith("text.") for name in changed_maps(tuned))  # tune_text


def b_map(model, name):
    part, _, rest = name.partition(".")
    return getattr(model, part).get_submodule(rest)


def test_merging_a_model_leaves_the_one_that_was_given(tuned):
    before = digest_model(tuned)
    plain = merged(tuned)
    torch.testing.assert_close(answer(plain), answer(tuned), rtol=0, atol=1e-5)
    assert not changed_maps(plain) and digest_model(tuned) == before


def test_a_saved_change_comes_back_to_the_bit_on_its_base_and_on_no_other(model, tuned, file, tmp_path):
    path = save_lora(tuned, tmp_path / "zwx.safetensors", str(file), dict(identifier="zwx"))
    assert torch.equal(answer(load(path, "cpu")), answer(tuned))
    with safe_open(path, "pt") as kept:
        assert sum(kept.get_tensor(key).numel() for key in kept.keys()) == lora_size(tuned)
        assert json.loads(kept.metadata()["palimpsest"])["identifier"] == "zwx"
    other = moved(file, tmp_path / "models", "tiny.safetensors")
    path = save_lora(tuned, tmp_path / "zwx.safetensors", str(other))
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)  # of the same name and size, and another model
    with pytest.raises(WeightsError, match="^model: .*changes another tiny.safetensors than .*models"):
        load(path, "cpu")


def moved(file, folder, name):
    """The model and its autoencoder, copied into a folder; the model under another name."""
    folder.mkdir(exist_ok=True)
    shutil.copy(file.with_name("tiny-vae.safetensors"), folder)
    return shutil.copy(file, folder / name)


def test_a_base_is_told_by_its_hash_whatever_it_is_called(tuned, file, tmp_path):
    base = moved(file, tmp_path / "models", "tiny.safetensors")
    path = save_lora(tuned, tmp_path / "tiny.safetensors", str(base))  # of the base's own name
    assert torch.equal(answer(load(path, "cpu")), answer(tuned))
    there = moved(file, tmp_path / "there", "renamed.safetensors")
    shutil.rmtree(tmp_path / "models")
    path = shutil.move(path, there.parent / "tiny.safetensors")
    assert torch.equal(answer(load(path, "cpu")), answer(tuned))


def test_a_base_lies_where_it_lay_from_the_change_and_not_from_the_command(
    tuned, file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    moved(file, tmp_path / "models", "tiny.safetensors")
    (tmp_path / "mine").mkdir()
    save_lora(tuned, "mine/zwx.safetensors", "models/tiny.safetensors")
    monkeypatch.chdir(tmp_path / "mine")
    assert torch.equal(answer(load("zwx.safetensors", "cpu")), answer(tuned))
    (tmp_path / "models" / "tiny.safetensors").unlink()
    with pytest.raises(
        WeightsError, match="zwx.safetensors changes tiny.safetensors, which is neither beside"
    ):
        load("zwx.safetensors", "cpu")


def test_a_change_is_never_written_over_a_file_of_its_base(tuned, file, tmp_path):
    base = moved(file, tmp_path / "models", "model.safetensors")
    first = save_lora(tuned, tmp_path / "models" / "first.safetensors", str(base))
    (tmp_path / "link.safetensors").symlink_to(base)
    for path in (base, tmp_path / "link.safetensors", base.with_name("tiny-vae.safetensors")):
        before = base.read_bytes()
        with pytest.raises(ArgumentError, match="^path: .* is the file of base too; name another"):
            save_lora(tuned, path, str(first))  # whose base it is
        with pytest.raises(ArgumentError, match="^path: .* is the file of source too; name another"):
            save_like(tuned, first, path)
        assert base.read_bytes() == before


def test_the_autoencoder_of_another_model_is_not_written_over(model, file, tmp_path):
    (tmp_path / "tiny-vae.safetensors").write_bytes(b"another")
    with pytest.raises(OutputError, match="beside it lies another tiny-vae.safetensors"):
        save_like(model, file, tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-vae.safetensors"]


def test_a_saved_word_comes_back_to_the_bit(model, x, file, tmp_path):
    found = textual_inversion(model, x, "star", course=Course(steps=1, batch=1, lr=0.1)).model
    path = save_word(found, tmp_path / "word.safetensors", str(file), "zwx")
    again = load(path, "cpu")
    assert torch.equal(again.text.tokens.weight, found.text.tokens.weight) and path.stat().st_size < 2000
    assert not torch.equal(again.text.tokens.weight, model.text.tokens.weight)


def test_what_cannot_be_saved_or_changed_is_refused(model, tuned, file, tmp_path):
    with pytest.raises(ValueError, match="^model: tiny has no low-rank changes"):
        save_lora(model, tmp_path / "x.safetensors", str(file))
    with pytest.raises(ValueError, match="must end in .safetensors"):
        save_lora(tuned, tmp_path / "x.ckpt", str(file))
    with pytest.raises(ValueError, match="^rank: this Sequential has no attention"):
        adapt(torch.nn.Sequential(torch.nn.Linear(3, 3)), 1, 1.0)
    with pytest.raises(ValueError, match="^rank: must lie in 1 … 3"):
        LoraLinear(torch.nn.Linear(3, 5), 4, 1.0)
    assert lora_size(replace(model, text=None)) == 0
