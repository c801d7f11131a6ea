"""What makes checkpoints public: the workflows' links, the card, the folder that would be uploaded, and the upload to a Hub of our own."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from diffharmony.__main__ import main
from diffharmony.applications.publish.workflows import BUNDLED_URL, LOADERS, with_bundled_models
from diffharmony.common.assets import BUNDLED_MARK, BY_HUB_ID, ROOT, TINY
from diffharmony.common.weights.layout import MODEL_FOLDERS
from diffharmony.diffusion import save_unet
from diffharmony.evaluation import evaluate
from diffharmony.harmony_vae import load_harmony_vae, save_harmony_vae
from diffharmony.refinement import save_refinement
from diffharmony.tests.made.hub_server import TOKEN, HubServer, connect
from diffharmony.tests.made.inverse import inverse_pair, write_photographs
from diffharmony.tests.made.pretrained import same_weights
from diffharmony.tests.made.refinement import small_refinement

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_loader_of_every_workflow_says_what_it_loads_and_where_that_belongs(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        assert node["type"] in LOADERS or not node["type"].startswith("DiffHarmonyLoad")
        if node["type"] in LOADERS:
            (entry,) = node["properties"]["models"]
            assert entry["name"] + BUNDLED_MARK == node["widgets_values"][0]
            assert entry["url"] == f"{BUNDLED_URL}/{entry['name']}" and (TINY / entry["name"]).is_file()
            assert entry["directory"] == MODEL_FOLDERS[LOADERS[node["type"]][0]]
    assert with_bundled_models(workflow) == workflow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as of a finished run: the pair, the curve's log, an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    vae, unet = inverse_pair("harmonize")
    unet.steps, unet.sizes = 3, (256,)
    recipe = {"command": "train-unet", "config": {"data": {"roots": ["/home/somebody/iHarmony4"]}, "optim": {"steps": 13}}, "step": 13}
    save_harmony_vae(vae, folder / "harmony_vae.safetensors")
    save_unet(unet, folder / "harmonization_unet.safetensors", training=recipe)
    (folder / "log.jsonl").write_text('{"step": 12, "loss": 1.0, "validation_loss": 0.123456, "validation_psnr": 31.25}\n{"step": 13, "loss": 0.9}\n')
    lines = write_photographs(folder / "data")
    for name in lines:
        (folder / "data" / "predictions" / name.rpartition("/")[2]).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "data" / name, folder / "data" / "predictions" / name.rpartition("/")[2])
    evaluate(folder / "data", "IHD_train.txt", [folder / "data" / "predictions"], resamples=0, size=32, out=folder / "report", cases=1, workers=1)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        connect(monkeypatch, server, tmp_path / "cache")
        yield server


def push(run, *options, capsys=None):
    done = main(["push", *map(str, options if run is None else (run, "--to", "acme/pair", *options))])
    return done, capsys.readouterr().err if capsys else ""


def test_a_dry_run_writes_the_folder_and_asks_nobody(run, hub, tmp_path, capsys):
    out = tmp_path / "preview"
    assert push(run, "--dry-run", out, "--license", "apache-2.0") == (0, "")
    assert hub.requests == []
    assert {path.name for path in out.iterdir()} == {"README.md", "workflow.json", "harmony_vae.safetensors", "harmonization_unet.safetensors"}
    assert (out / "harmony_vae.safetensors").read_bytes() == (run / "harmony_vae.safetensors").read_bytes()
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "diffharmony")
    parameters = sum(tensor.numel() for tensor in load_harmony_vae(out / "harmony_vae.safetensors").state_dict().values())
    assert f"| `harmony_vae.safetensors` | Harmony-VAE (harmonize) | {parameters:,} | float16 | - | - |" in card.content
    assert "| UNet (harmonize) v_prediction |" in card.content and "| float16 | 256 | 3 |" in card.content
    assert "`harmonization_unet.safetensors`: `diffharmony train-unet`. Data: iHarmony4." in card.content and "somebody" not in card.content
    assert "`harmony_vae.safetensors` does not say how it was trained." in card.content
    result = json.loads((run / "report" / "results.json").read_text())
    overall = result["predictions"][0]["overall"]
    assert f"| {overall['count']} | {overall['PSNR']:.2f} |" in card.content and str(run) not in card.content
    assert "at step 12: loss 0.12346, PSNR 31.25 dB" in card.content
    workflow = json.loads((out / "workflow.json").read_text())
    nodes = {node["type"]: node for node in workflow["nodes"]}
    loader = nodes["DiffHarmonyLoadHarmonizationUNet"]
    assert loader["widgets_values"][1] == "acme/pair@v1:harmonization_unet.safetensors"
    assert loader["properties"]["models"] == [{
        "name": "harmonization_unet.safetensors", "directory": "diffusion_models",
        "url": "https://huggingface.co/acme/pair/resolve/v1/harmonization_unet.safetensors",
    }]  # fmt: skip
    assert nodes["KSampler"]["widgets_values"][2] == 3
    assert "must name a new or an empty folder" in push(run, "--dry-run", out, capsys=capsys)[1]


def test_what_is_pushed_is_what_the_tag_names(run, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(run, capsys=capsys)[0] == 0
    files = hub.repositories["acme/pair"].commits[hub.repositories["acme/pair"].tags["v1"]]
    assert set(files) == {"README.md", "workflow.json", "harmony_vae.safetensors", "harmonization_unet.safetensors"}
    assert same_weights(load_harmony_vae("acme/pair@v1:harmony_vae.safetensors"), load_harmony_vae(run / "harmony_vae.safetensors"))
    done, message = push(run, capsys=capsys)
    assert done == 1 and "tag must be a new one in acme/pair, got 'v1'" in message
    assert push(run, "--tag", "v2", capsys=capsys)[0] == 0
    assert b"acme/pair@v2:harmony_vae" in hub.repositories["acme/pair"].commits[hub.repositories["acme/pair"].tags["v2"]]["README.md"]


def test_a_card_of_somebody_else_stays_and_so_does_every_file(run, hub, monkeypatch, tmp_path, caplog):
    (tmp_path / "theirs").mkdir()
    for name in ("README.md", "notes.txt"):
        (tmp_path / "theirs" / name).write_text("mine")
    repository = hub.add("acme/pair", tmp_path / "theirs")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(run)[0] == 0
    files = repository.commits[repository.tags["v1"]]
    assert files["README.md"] == files["notes.txt"] == b"mine" and len(files) == 5
    assert "README.md of acme/pair was written by somebody, and stays" in caplog.text


@pytest.mark.parametrize(("options", "message"), [
    (["{run}", "--to", "acme/pair"], "HF_TOKEN must be set in the environment to push, got none."),
    (["--to", "acme/pair", "--dry-run", "{out}"], "checkpoints must be named, got none."),
    (["{run}", "--to", "pair"], "to must be owner/name on the Hub, got 'pair'."),
    (["{run}", "--to", "acme/pair", "--tag", "main"], "tag must be letters, digits, . and -, and no branch, got 'main'."),
    (["{run}/data", "--to", "acme/pair", "--dry-run", "{out}"], "must hold .safetensors files, got none."),
    (["{run}/none.safetensors", "--to", "acme/pair", "--dry-run", "{out}"], "weights file 'none.safetensors' must exist"),
    (["{run}/plain.safetensors", "--to", "acme/pair", "--dry-run", "{out}"], "must be a checkpoint of ours"),
    (["{run}/harmony_vae.safetensors", "{run}", "--to", "acme/pair", "--dry-run", "{out}"], "got harmony_vae.safetensors twice."),
    (["{run}", "--to", "acme/pair", "--results", "{run}/data", "--dry-run", "{out}"], "results.json must exist"),
])  # fmt: skip
def test_what_is_refused(run, hub, tmp_path, capsys, options, message):
    plain = run / "plain.safetensors"
    if "plain" in options[0]:
        save_file({"a": torch.zeros(1)}, plain)
    error = push(None, *(option.format(run=run, out=tmp_path / "out") for option in options), capsys=capsys)
    plain.unlink(missing_ok=True)
    assert error[0] == 1 and message in error[1] and "Traceback" not in error[1]
    assert hub.requests == []


def test_what_the_hub_refuses_is_said_in_a_line(run, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_anothers")
    done, error = push(run, capsys=capsys)
    assert done == 1 and "the Hub must take acme/pair, got an error (" in error and hub.repositories == {}


def test_a_refinement_stage_alone_comes_with_the_workflow_that_it_mends(run, tmp_path):
    save_refinement(small_refinement(), tmp_path / "refinement.safetensors")
    nodes = {}
    for name, sources in (("alone", [tmp_path / "refinement.safetensors"]), ("all", [tmp_path / "refinement.safetensors", run])):
        assert push(None, *sources, "--to", "acme/one", "--dry-run", tmp_path / name) == (0, "")
        nodes[name] = {node["type"]: node for node in json.loads((tmp_path / name / "workflow.json").read_text())["nodes"]}
        loader = nodes[name]["DiffHarmonyLoadRefinement"]
        assert loader["widgets_values"] == [BY_HUB_ID, "acme/one@v1:refinement.safetensors"]
        assert loader["properties"]["models"][0]["directory"] == "harmony_refinement"
    assert nodes["alone"]["DiffHarmonyLoadHarmonyVAE"]["widgets_values"] == ["harmony_vae.safetensors" + BUNDLED_MARK, ""]
    assert nodes["all"]["DiffHarmonyLoadHarmonyVAE"]["widgets_values"][1] == "acme/one@v1:harmony_vae.safetensors"


def test_each_kind_has_its_card_and_the_example_that_shows_it(tmp_path):
    for kind, (name, example) in {
        "classifier": ("harmony_classifier", "DiffHarmonyLoadHarmonyClassifier"), "unet": ("inverse_unet", "DiffHarmonyLoadInverseUNet"),
        "autoencoder": ("vae", None),
    }.items():  # fmt: skip
        out = tmp_path / kind
        assert push(None, TINY / f"{name}.safetensors", "--to", "acme/one", "--dry-run", out) == (0, "")
        card = (out / "README.md").read_text()
        assert f"acme/one@v1:{name}.safetensors" in card and "No evaluation came with these files" in card
        assert (out / "workflow.json").is_file() == (example is not None)
        assert example is None or f"acme/one@v1:{name}.safetensors" in (out / "workflow.json").read_text()
