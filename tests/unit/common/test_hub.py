"""Models from a Hub of our own: a real server, real downloads into a real cache, and the same without it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.classifier import load_harmony_classifier
from diffharmony.commands.generate import GenerateConfig
from diffharmony.commands.generation_options import recipe_of
from diffharmony.common.weights import hub as hub_module
from diffharmony.common.weights.hub import HubId, fetch, local_path, parse_hub_id
from diffharmony.common.weights.layout import CLASSIFIER, UNET, VAE, choose
from diffharmony.diffusion import load_unet
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, load_vae, save_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.tests.made.hub_server import TOKEN, HubServer, connect
from diffharmony.tests.made.inverse import write_inverse_pair
from diffharmony.tests.made.models import vae
from diffharmony.tests.made.pretrained import empty_prompt, make_text_encoder, make_unet, make_vae, same_weights, write_pipeline
from diffharmony.train.pretrained import load_pretrained_unet, load_pretrained_vae

FILES = "acme/files"
OURS = "harmony_vae.safetensors"


def small_harmony_vae(seed=3):
    return HarmonyVAE.from_autoencoder_kl(vae((8, 8), groups=4, seed=seed))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Repositories: a pipeline, a pipeline within one beside our files, nothing of use."""
    root = tmp_path_factory.mktemp("hub")
    text_encoder = make_text_encoder()
    sd = write_pipeline(root / "acme" / "sd", text_encoder)
    for folder, name in (("vae", "diffusion_pytorch_model"), ("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        for form in ("bin", "fp16.safetensors", "non_ema.safetensors"):
            (sd / folder / f"{name}.{form}").write_bytes(b"not needed")
    (sd / "safety_checker").mkdir()
    (sd / "safety_checker" / "model.safetensors").write_bytes(b"not needed")
    files = root / "acme" / "files"
    write_pipeline(files / "nested", text_encoder, in_channels=4)
    save_harmony_vae(small_harmony_vae(), files / OURS, dtype=torch.float32)
    save_autoencoder(make_vae(seed=8), files / "our [1].safetensors", dtype=torch.float32)
    alone = root / "acme" / "alone"
    alone.mkdir()
    save_harmony_vae(small_harmony_vae(seed=4), alone / "any.safetensors", dtype=torch.float32)
    (alone / "README.md").write_text("one file")
    (root / "acme" / "empty").mkdir()
    (root / "acme" / "empty" / "README.md").write_text("nothing here")
    return root


@pytest.fixture
def hub(root, tmp_path, monkeypatch):
    with HubServer(root) as server:
        connect(monkeypatch, server, tmp_path / "cache")
        yield server


def commit(hub, name=FILES):
    return hub.repositories[name].branches["main"]


def test_ids():
    assert parse_hub_id("acme/sd-1.5") == ("acme/sd-1.5", None, "")
    assert parse_hub_id("acme/sd@v1:nested/unet/") == ("acme/sd", "v1", "nested/unet")
    assert parse_hub_id("acme/sd:v1-5.safetensors") == ("acme/sd", None, "v1-5.safetensors")
    assert str(parse_hub_id("acme/sd@v1:nested/unet/")) == "acme/sd@v1:nested/unet"
    for text in ("vae", "a/b/c", "./a/b", "/a/b", "a/b.ckpt", "a/b.safetensors", "a/b@2x.safetensors", "a/b@:c", "a/b:c:d", "a\\b", "a/b:", "../b", "a/ b"):
        assert parse_hub_id(text) is None, text


def test_a_pinned_file_is_fetched_once_and_then_asks_for_nothing(hub):
    name = f"{FILES}@{commit(hub)}:{OURS}"
    told = []
    path = fetch(parse_hub_id(name), VAE, progress=lambda done, total: told.append((done, total)))
    assert hub.downloads == [f"{FILES}/{OURS}"]
    assert told[-1][0] == told[-1][1] == path.stat().st_size and told == sorted(told)
    hub.requests.clear()
    assert same_weights(load_harmony_vae(name), small_harmony_vae())
    assert hub.requests == []


def test_a_tag_is_pinned_and_a_branch_is_not(hub, monkeypatch, tmp_path, caplog):
    hub.repositories[FILES].tags["v1"] = commit(hub)
    assert same_weights(load_harmony_vae(f"{FILES}@v1:{OURS}"), small_harmony_vae())
    advice = f"must be a commit or a tag, which stay as they are, got branch 'main'. Write {FILES}@{commit(hub)}:{OURS}."
    with pytest.raises(ValueError, match=f"revision of {FILES}@main:{OURS} ") as raised:
        load_harmony_vae(f"{FILES}@main:{OURS}")
    assert str(raised.value).endswith(advice)
    with pytest.raises(FileNotFoundError, match="add @ and a commit or tag"):
        load_harmony_vae(f"{FILES}:{OURS}")
    with pytest.raises(FileNotFoundError, match="Invalid rev id|404"):
        load_harmony_vae(f"{FILES}@v2:{OURS}")
    hub.stop()
    assert same_weights(load_harmony_vae(f"{FILES}@v1:{OURS}"), small_harmony_vae())
    assert f"Taking {FILES} from the cache, without asking the Hub" in caplog.text
    connect(monkeypatch, hub, tmp_path / "cache", offline=True)
    assert fetch(parse_hub_id(f"{FILES}@v1:{OURS}"), VAE).name == OURS


def test_trainers_take_what_floats_and_say_what_it_was(hub, caplog):
    assert same_weights(load_pretrained_vae(f"{FILES}:{OURS}"), small_harmony_vae())
    assert f"{FILES}:{OURS} may be another model tomorrow (revision: none). Write {FILES}@{commit(hub)}:{OURS}" in caplog.text


def test_only_what_is_needed_is_fetched_and_found_again_without_a_network(hub, monkeypatch, tmp_path):
    sd = f"acme/sd@{commit(hub, 'acme/sd')}"
    prompt = empty_prompt(make_text_encoder())
    assert same_weights(load_vae(f"{sd}:vae"), make_vae())
    with pytest.raises(FileNotFoundError, match="must hold config.json or unet/config.json or base/unet/config.json with weights, got README.md. Name"):
        load_unet(f"acme/empty@{commit(hub, 'acme/empty')}")
    unet = load_unet(sd)
    assert same_weights(unet, make_unet()) and unet.prediction_type == "v_prediction"
    assert torch.allclose(unet.empty_prompt_embeds, prompt, atol=1e-5)
    assert sorted(hub.downloads) == [f"acme/sd/{name}" for name in (
        "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    )]  # fmt: skip
    nested = load_pretrained_unet("acme/files:nested", direction="harmonize", widen=True)
    assert nested.config.in_channels == 9
    hub.stop()
    assert torch.allclose(load_unet(sd).empty_prompt_embeds, prompt, atol=1e-5)
    connect(monkeypatch, hub, tmp_path / "cache", offline=True)
    assert same_weights(load_vae(sd), make_vae())
    with pytest.raises(FileNotFoundError, match="be reachable or cached.*HF_HUB_OFFLINE is set"):
        load_vae(f"acme/files@{commit(hub)}:vae")


def test_a_file_alone_needs_no_name(hub):
    assert same_weights(load_harmony_vae(f"acme/alone@{commit(hub, 'acme/alone')}"), small_harmony_vae(seed=4))
    with pytest.raises(FileNotFoundError, match=r"got harmony_vae.safetensors, nested/model_index.json"):
        load_harmony_vae(f"{FILES}@{commit(hub)}")
    assert same_weights(load_vae(f"{FILES}@{commit(hub)}:our [1].safetensors"), make_vae(seed=8))
    with pytest.raises(ValueError, match="must be a harmony classifier"):
        load_harmony_classifier(f"{FILES}@{commit(hub)}:{OURS}")


def test_a_download_that_breaks_off_is_gone_on_with(hub, root, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5000)  # the client keeps whole chunks, of 10 MB
    hub.cut = 10_000
    path = fetch(HubId(FILES, commit(hub), OURS), VAE)
    assert path.read_bytes() == (root / FILES / OURS).read_bytes()
    assert hub.ranges == [f"{OURS} bytes=10000-"]


def test_the_one_who_waits_may_stop_it(hub):
    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        fetch(HubId(FILES, commit(hub), OURS), VAE, progress=stop)
    assert fetch(HubId(FILES, commit(hub), OURS), VAE).is_file()


def test_the_token_is_the_environments_alone(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub.repositories[FILES].private = True
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    name = HubId(FILES, commit(hub), OURS)
    with pytest.raises(FileNotFoundError, match="with HF_TOKEN set"):
        fetch(name, VAE)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(name, VAE).is_file()


def test_a_path_that_exists_wins(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "files@v1").mkdir()
    assert local_path("acme/files@v1", VAE).as_posix() == "acme/files@v1"
    assert local_path("acme/files.safetensors", VAE).as_posix() == "acme/files.safetensors"
    assert hub.requests == []


def test_commands_take_what_the_hub_has(hub, tmp_path, capsys):
    """One that loads, one that writes down the digests of what it loads."""
    (tmp_path / "pair").mkdir()
    models = write_inverse_pair(tmp_path / "pair")
    repository = hub.add("acme/pair", tmp_path / "pair")
    repository.tags["v1"] = repository.branches["main"]
    Image.new("RGB", (24, 16), "white").save(tmp_path / "composite.png")
    Image.new("L", (24, 16), "white").save(tmp_path / "mask.png")
    files = [str(tmp_path / name) for name in ("composite.png", "mask.png")]
    for source in ("acme/pair@v1:", f"{tmp_path}/pair/"):
        options = ["--vae", f"{source}harmonize_vae.safetensors", "--unet", f"{source}harmonize_unet.safetensors", "--device", "cpu"]
        assert main(["harmonize", *files, "--out", str(tmp_path / f"{len(source)}.png"), "--steps", "1", *options]) == 0, capsys.readouterr().err
    one, other = sorted(path.read_bytes() for path in tmp_path.glob("[0-9]*.png"))
    assert one == other
    config = GenerateConfig(data=tmp_path, out=tmp_path, vae=Path("acme/pair@v1:vae.safetensors"), unet=Path("acme/pair@v1:unet.safetensors"))
    assert recipe_of(config).described() == recipe_of(replace(config, **{kind: models[kind] for kind in ("vae", "unet")})).described()


@pytest.mark.parametrize(("names", "inside", "layout", "place", "taken"), [
    # the authors' archive
    (("condition_vae/config.json", "condition_vae/diffusion_pytorch_model.safetensors", "vae/config.json"), "", VAE, "condition_vae", 2),
    (("base/unet/config.json", "base/unet/diffusion_pytorch_model.bin", "base/scheduler/scheduler_config.json", "base/text_encoder/config.json",
      "base/text_encoder/pytorch_model.bin", "base/tokenizer/vocab.json"), "", UNET, "base/unet", 6),
    (("inverse/weights-1/config.json", "inverse/weights-1/diffusion_pytorch_model.bin", "base/text_encoder/config.json",
      "base/text_encoder/pytorch_model.bin", "base/tokenizer/vocab.json"), "inverse/weights-1", UNET, "inverse/weights-1", 5),
    # shards, whole or not
    (("config.json", "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-00001-of-00002.safetensors",
      "diffusion_pytorch_model-00002-of-00002.safetensors"), "", UNET, "", 4),
    (("config.json", "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-00001-of-00002.safetensors"), "", UNET, None, 0),
    (("config.json", "diffusion_pytorch_model.fp16-00001-of-00001.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"), "",
     VAE, "", 3),
    # ours
    (("models/a.safetensors", "models/empty_prompt_embeds.json", "b.sft"), "models", CLASSIFIER, "models/a.safetensors", 1),
    (("a.safetensors", "b.pth"), "", CLASSIFIER, None, 0),
    (("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/empty_prompt_embeds.safetensors", "text_encoder/config.json"), "",
     UNET, "unet", 3),
], ids=str)  # fmt: skip
def test_what_makes_a_model(names, inside, layout, place, taken):
    files = choose(names, inside, layout)
    assert (None if files is None else files.place) == place
    assert files is None or len(files.names) == taken and set(files.names) <= set(names)


def test_an_older_client_counts_files():
    told = []
    bar = hub_module._bars_that_tell(lambda done, total: told.append((done, total)))(total=3, unit="it")
    bar.update(2)
    assert told == [(2, 3)]
    assert logging.getLogger("diffharmony")  # and shows nothing: its lines go nowhere
