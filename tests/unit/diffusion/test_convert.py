"""`diffharmony convert`: made-up archives and folders, with a small text encoder, to our files."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffharmony.__main__ import main
from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.diffusion import load_unet
from diffharmony.diffusion.convert import Sources, convert_models, find_direction, find_sources, paper_sizes
from diffharmony.diffusion.empty_prompt import encode_empty_prompt
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.refinement import load_refinement
from diffharmony.tests.made.hub_server import HubServer, connect
from diffharmony.tests.made.pretrained import make_text_encoder, make_unet, make_vae
from diffharmony.tests.made.refinement import small_refinement
from diffharmony.tests.made.sd_checkpoint import original_text_encoder, original_unet, original_vae, take_for_stable_diffusion

BOS, EOS = 0, 1


def write_tokenizer(folder):
    folder.mkdir(parents=True)
    vocabulary = {"<|startoftext|>": BOS, "<|endoftext|>": EOS, "a</w>": 2}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


@pytest.fixture(scope="module")
def text_encoder():
    torch.manual_seed(3)
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, projection_dim=8,
        max_position_embeddings=77, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS,
    )).eval()  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(4)
    return UNet2DConditionModel(
        in_channels=9, out_channels=4, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def plain_vae():
    torch.manual_seed(5)
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=["DownEncoderBlock2D"] * 2,
                         up_block_types=["UpDecoderBlock2D"] * 2).eval()  # fmt: skip


@pytest.fixture(scope="module")
def harmony_vae(plain_vae):
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae)
    with torch.no_grad():
        vae.latent_skip_conv.weight.fill_(0.5)
    return vae.eval()


@pytest.fixture(scope="module")
def empty_prompt(text_encoder):
    with torch.no_grad():
        return text_encoder(torch.tensor([[BOS] + [EOS] * 76])).last_hidden_state


@pytest.fixture
def archive(tmp_path, unet, plain_vae, harmony_vae, text_encoder):
    """The authors' layout: pickles in base/, safetensors and their class name in condition_vae/."""
    root = tmp_path / "archive"
    unet.save_pretrained(root / "base" / "unet", safe_serialization=False)
    plain_vae.save_pretrained(root / "base" / "vae", safe_serialization=False)
    text_encoder.config.save_pretrained(root / "base" / "text_encoder")
    old_names = {"text_model." + name.removeprefix("text_model."): value for name, value in text_encoder.state_dict().items()}
    old_names["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(old_names, root / "base" / "text_encoder" / "pytorch_model.bin")
    write_tokenizer(root / "base" / "tokenizer")
    (root / "condition_vae").mkdir()
    save_file(dict(harmony_vae.state_dict()), root / "condition_vae" / "diffusion_pytorch_model.safetensors")
    config = {key: value for key, value in harmony_vae.config.items() if not key.startswith("_")}
    (root / "condition_vae" / "config.json").write_text(json.dumps({**config, "_class_name": "ConditionVAE"}))
    return root


def same_weights(a, b):
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()
    )


def test_the_authors_archive_becomes_our_two_files(archive, tmp_path, unet, harmony_vae, empty_prompt):
    written = convert_models(find_sources(archive), tmp_path / "out" / "models", dtype=torch.float32)
    assert sorted(p.name for p in (tmp_path / "out" / "models").iterdir()) == ["harmonization_unet.safetensors", "harmony_vae.safetensors"]
    again = load_unet(written["unet"])
    assert same_weights(unet, again)
    torch.testing.assert_close(again.empty_prompt_embeds, empty_prompt, rtol=0, atol=1e-6)
    assert (again.direction, again.prediction_type) == ("harmonize", "epsilon")
    assert same_weights(harmony_vae, load_harmony_vae(written["harmony_vae"]))


def test_the_archives_refinement_stage_comes_along(archive, tmp_path):
    model = small_refinement()
    model.save_pretrained(archive / "refinement")
    written = convert_models(find_sources(archive), tmp_path / "out", dtype=torch.float32)
    assert written["refinement"].name == "refinement.safetensors" and same_weights(model, load_refinement(written["refinement"]))


def test_float16_is_the_default(archive, tmp_path):
    written = convert_models(find_sources(archive), tmp_path / "out")
    for path in written.values():
        assert {tensor.dtype for tensor in read_checkpoint(path).tensors.values()} == {torch.float16}


@pytest.fixture
def inverse(archive, unet, harmony_vae):
    """The archive with inverse models in it, whose weights differ from all others."""
    models = copy.deepcopy(unet), copy.deepcopy(harmony_vae)
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.add_(1)
    models[0].save_pretrained(archive / "inverse" / "weights-000")
    models[1].save_pretrained(archive / "inverse" / "vae")
    return models


def test_the_loaders_take_the_archive_as_it_unpacks(archive, inverse, unet, harmony_vae, empty_prompt):
    """Whole, a model's folder, or the weights file in it, as a node's list names it."""
    for place in (archive, archive / "base", archive / "base" / "unet", archive / "base" / "unet" / "diffusion_pytorch_model.bin"):
        loaded = load_unet(place)
        assert same_weights(loaded, unet) and loaded.direction == "harmonize"
        assert torch.allclose(loaded.empty_prompt_embeds, empty_prompt, atol=1e-6)
    for place in (archive, archive / "condition_vae", archive / "condition_vae" / "diffusion_pytorch_model.safetensors"):
        loaded = load_harmony_vae(place)
        assert same_weights(loaded, harmony_vae) and loaded.direction == "harmonize"
    for place in (archive / "inverse" / "weights-000", next((archive / "inverse" / "weights-000").glob("*.safetensors"))):
        loaded = load_unet(place)
        assert same_weights(loaded, inverse[0]) and loaded.direction == "invert"
        assert torch.allclose(loaded.empty_prompt_embeds, empty_prompt, atol=1e-6)
    loaded = load_harmony_vae(archive / "inverse" / "vae")
    assert same_weights(loaded, inverse[1]) and loaded.direction == "invert"
    assert load_unet(archive, prompt=False).empty_prompt_embeds is None


@pytest.mark.parametrize("inside", [False, True])
def test_the_archives_inverse_models_are_taken_named_and_marked_so(archive, inverse, tmp_path, empty_prompt, inside):
    sources = find_sources(archive / "inverse") if inside else find_sources(archive, "invert")
    written = convert_models(sources, tmp_path / "out", direction=None if inside else "invert", dtype=torch.float32)
    assert [path.name for path in written.values()] == ["inverse_unet.safetensors", "inverse_harmony_vae.safetensors"]
    unet, vae = load_unet(written["unet"]), load_harmony_vae(written["harmony_vae"])
    assert (unet.direction, vae.direction) == ("invert", "invert")
    assert same_weights(inverse[0], unet) and same_weights(inverse[1], vae)
    torch.testing.assert_close(unet.empty_prompt_embeds, empty_prompt, rtol=0, atol=1e-6)


def test_inverse_models_that_are_not_there_or_not_one_pair_are_refused(archive, inverse, tmp_path):
    shutil.copytree(archive / "inverse" / "weights-000", archive / "inverse" / "weights-001")
    with pytest.raises(ValueError, match="inverse UNet must be one folder, got weights-000, weights-001"):
        find_sources(archive, "invert")
    shutil.rmtree(archive / "inverse")
    with pytest.raises(FileNotFoundError, match=r"inverse models, vae/ and weights-\*/, must exist, looked in .*inverse, which holds nothing"):
        find_sources(archive, "invert")


def test_the_sources_say_the_direction_and_are_not_contradicted(archive, inverse, tmp_path):
    with pytest.raises(ValueError, match="must be the same for all parts, got 'invert' by --direction, 'harmonize' by the archive"):
        convert_models(find_sources(archive), tmp_path / "out", direction="invert")
    with pytest.raises(ValueError, match="got 'harmonize' by --direction, 'invert' by the archive"):
        convert_models(find_sources(archive / "inverse", "harmonize"), tmp_path / "out", direction="harmonize")
    written = convert_models(find_sources(archive, "invert"), tmp_path / "out")
    again = convert_models(Sources(**written_as_sources(written)), tmp_path / "again")
    assert [path.name for path in again.values()] == [path.name for path in written.values()]
    for part, path in written_as_sources(written).items():
        with pytest.raises(ValueError, match="got 'harmonize' by --direction, 'invert' by .*inverse_"):
            convert_models(Sources(**{part: path}), tmp_path / "no", direction="harmonize")
    assert not (tmp_path / "no").exists()


def written_as_sources(written):
    return {"unet": written["unet"], "vae": written["harmony_vae"]}


def test_a_folder_that_says_nothing_takes_the_direction_asked_for(archive, plain_vae, tmp_path):
    save_autoencoder(plain_vae, tmp_path / "plain.safetensors")
    pipeline = dataclasses.replace(find_sources(archive / "base", None), vae=tmp_path / "plain.safetensors")
    assert find_direction(pipeline) == "harmonize"
    written = convert_models(pipeline, tmp_path / "out", direction="invert")
    assert {read_checkpoint(path).direction for path in written.values()} == {"invert"}


def test_a_file_is_no_folder_to_write_to(archive, tmp_path):
    (tmp_path / "text.png").write_text("")
    with pytest.raises(ValueError, match="out must be a folder, got the file"):
        convert_models(find_sources(archive), tmp_path / "text.png")


def test_a_pipeline_folder_with_a_plain_vae(tmp_path, archive, plain_vae, caplog):
    written = convert_models(find_sources(archive / "base"), tmp_path / "out", dtype=torch.float32)
    vae = load_harmony_vae(written["harmony_vae"])
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert torch.equal(vae.decode(z, vae.encode_condition(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8))).sample, vae.decode(z).sample)
    assert "plain VAE" in caplog.text


def test_a_unet_folder_needs_a_text_encoder_and_a_tokenizer(archive, tmp_path, empty_prompt):
    shutil.copytree(archive / "base" / "unet", tmp_path / "unet")
    alone = find_sources(tmp_path / "unet")
    with pytest.raises(FileNotFoundError, match="text_encoder and tokenizer must be given.*--text-encoder"):
        convert_models(alone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    full = dataclasses.replace(alone, text_encoder=archive / "base" / "text_encoder", tokenizer=archive / "base" / "tokenizer")
    written = convert_models(full, tmp_path / "out", dtype=torch.float32)
    beside = convert_models(find_sources(archive / "base" / "unet"), tmp_path / "beside", dtype=torch.float32)
    assert list(written) == list(beside) == ["unet"]
    for one in (written, beside):
        torch.testing.assert_close(load_unet(one["unet"]).empty_prompt_embeds, empty_prompt, rtol=0, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="^tokenizer must be given"):
        convert_models(dataclasses.replace(full, tokenizer=None), tmp_path / "no")
    # our own file carries its embedding and needs neither
    again = convert_models(find_sources(written["unet"]), tmp_path / "again")
    assert load_unet(again["unet"]).empty_prompt_embeds is not None


def test_a_text_encoder_of_another_width_is_refused(archive, tmp_path):
    wide = CLIPTextModel(CLIPTextConfig(vocab_size=3, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2))
    wide.save_pretrained(archive / "base" / "text_encoder")
    (archive / "base" / "text_encoder" / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"empty_prompt_embeds must have shape \[1, 77, 8\].*got \[1, 77, 12\]"):
        convert_models(find_sources(archive), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_parts_are_refused_and_nothing_is_written(archive, tmp_path, text_encoder):
    with pytest.raises(FileNotFoundError, match="folder 'nowhere' must exist"):
        find_sources(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="base/, condition_vae/.*holds nothing"):
        find_sources(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="tokenizer folder 'no' must exist"):
        encode_empty_prompt(archive / "base" / "text_encoder", tmp_path / "no")
    with pytest.raises(ValueError, match="direction must be one of"):
        convert_models(find_sources(archive), tmp_path / "out", direction="sideways")
    weights = archive / "base" / "text_encoder" / "pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    state.pop("text_model.final_layer_norm.weight")
    torch.save(state, weights)
    with pytest.raises(ValueError, match=r"must hold exactly the .* got 1 missing \(final_layer_norm.weight\)"):
        convert_models(find_sources(archive), tmp_path / "out")
    weights.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="pytorch_model.bin must"):
        convert_models(find_sources(archive), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_alone_is_converted_as_what_it_is(archive, tmp_path, plain_vae, harmony_vae):
    save_autoencoder(plain_vae, tmp_path / "named_like_a_unet.safetensors")
    refinement = small_refinement()
    refinement.save_pretrained(tmp_path / "refinement")
    written = convert_models(find_sources(archive), tmp_path / "both")
    for source, part in (
        (archive / "condition_vae", "harmony_vae"),
        (archive / "base" / "vae", "harmony_vae"),
        (archive / "base" / "vae" / "diffusion_pytorch_model.bin", "harmony_vae"),
        (tmp_path / "named_like_a_unet.safetensors", "harmony_vae"),
        (written["harmony_vae"], "harmony_vae"),
        (written["unet"], "unet"),
        (tmp_path / "refinement", "refinement"),
    ):
        assert list(convert_models(find_sources(source), tmp_path / "out", dtype=torch.float32)) == [part], source
    convert_models(find_sources(archive / "condition_vae"), tmp_path / "out", dtype=torch.float32)
    assert same_weights(harmony_vae, load_harmony_vae(tmp_path / "out" / "harmony_vae.safetensors"))


def test_a_checkpoint_in_the_original_layout_gives_both(tmp_path, monkeypatch):
    models = make_vae(), make_unet(), make_text_encoder()
    take_for_stable_diffusion(monkeypatch, *models)
    tensors = {**original_vae(models[0]), **original_unet(models[1]), **original_text_encoder(models[2])}
    save_file(tensors, tmp_path / "sd.safetensors")
    assert list(convert_models(find_sources(tmp_path / "sd.safetensors"), tmp_path / "out")) == ["unet", "harmony_vae"]


def test_another_kind_of_model_is_no_source(tmp_path):
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors must be a UNet, a VAE or a refinement model, got 1 tensors such as fc.weight"):
        find_sources(tmp_path / "other.safetensors")


@pytest.mark.parametrize("out", ["/proc/models", "file/models"])
def test_an_out_that_cannot_be_is_refused_before_anything_is_read(archive, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for weights in archive.rglob("*.bin"):
        weights.write_bytes(b"")
    with pytest.raises((ValueError, PermissionError), match=r"out must be (one that can be written to, got /proc|a folder, got file/models, in the file)"):
        convert_models(find_sources(archive), out)


@pytest.fixture
def hub(archive, inverse, tmp_path, monkeypatch):
    """The archive with its inverse models as a repository of a Hub of our own, its tag v1, and what nobody asked for in it."""
    small_refinement().save_pretrained(archive / "refinement")
    (archive / "base" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not needed")
    (archive / "examples").mkdir()
    (archive / "examples" / "one.png").write_bytes(b"not needed")
    with HubServer() as server:
        repository = server.add("acme/archive", archive)
        repository.tags["v1"] = repository.branches["main"]
        connect(monkeypatch, server, tmp_path / "cache")
        yield server


def converted(out, *options):
    assert main(["convert", *map(str, options), "--out", str(out), "--dtype", "float32"]) == 0
    return {path.name: read_checkpoint(path) for path in out.iterdir()}


def same_files(a, b):
    return a.keys() == b.keys() and all(
        one.tensors.keys() == b[name].tensors.keys() and all(torch.equal(value, b[name].tensors[key]) for key, value in one.tensors.items()) for name, one in a.items()
    )


@pytest.mark.parametrize(("inside", "options", "count"), [
    ("", [], 12), ("inverse", [], 10), ("", ["--direction", "invert"], 10), ("base", [], 10), ("base/unet", [], 8), ("condition_vae", [], 2),
    ("refinement", [], 2), ("inverse/weights-000", ["--text-encoder", "{}base/text_encoder", "--tokenizer", "{}base/tokenizer", "--vae", "{}inverse/vae"], 10),
])  # fmt: skip
def test_a_pinned_source_on_the_hub_gives_what_the_folder_gives(hub, archive, tmp_path, inside, options, count):
    ours = converted(tmp_path / "ours", archive / inside, *(option.format(f"{archive}/") for option in options))
    assert hub.requests == []
    id = f"acme/archive@v1:{inside}".rstrip(":")
    theirs = converted(tmp_path / "theirs", id, *(option.format("acme/archive@v1:") for option in options))
    assert same_files(ours, theirs)
    assert len(hub.downloads) == len(set(hub.downloads)) == count and not any("fp16" in name or "examples" in name for name in hub.downloads)
    assert all(name.startswith("inverse_") == ("inverse" in inside or "invert" in options) for name in theirs)
    told = next(iter(theirs.values())).training["source"]
    assert all(value.startswith(f"acme/archive@{hub.repositories['acme/archive'].tags['v1']}:") for value in told.values())
    hub.stop()
    assert same_files(converted(tmp_path / "again", id, *(option.format("acme/archive@v1:") for option in options)), theirs)


def test_what_the_hub_holds_not_or_twice_is_refused(hub, archive, tmp_path, capsys):
    for source, message in (
        ("acme/archive@main", "revision of acme/archive@main must be a commit or a tag"),
        ("acme/archive", "must be a file or folder that exists, or a model on the Hub"),
        ("acme/archive@v1:examples", "must hold examples/config.json or examples/unet/config.json"),
    ):
        assert main(["convert", source, "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    shutil.copytree(archive / "inverse" / "weights-000", archive / "inverse" / "weights-001")
    repository = hub.add("acme/archive", archive)
    repository.tags["v2"] = repository.branches["main"]
    assert main(["convert", "acme/archive@v2:inverse", "--out", str(tmp_path / "out")]) == 1
    assert "inverse UNet must be one folder, got weights-000, weights-001" in capsys.readouterr().err
    assert not any("weights-" in name and not name.endswith("config.json") for name in hub.downloads)
    assert not (tmp_path / "out").exists()


def test_a_full_size_unet_works_at_the_papers_sizes_and_a_small_one_says_nothing():
    assert paper_sizes([320, 640, 1280, 1280]) == (1024, 512) and paper_sizes((32, 64)) == ()
