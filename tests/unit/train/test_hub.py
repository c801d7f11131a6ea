"""Models from a Hub of our own: a real server, real downloads into a real cache, and the same without it."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from diffharmony.diffusion.unet import widen_input
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.tests.made.hub_server import HubServer
from diffharmony.tests.made.pretrained import empty_prompt, make_text_encoder, make_unet, make_vae, same_weights, write_data, write_pipeline
from diffharmony.train.hub import parse_hub_id

ASK = """
import hashlib, json, sys
from diffharmony.__main__ import main
from diffharmony.train.pretrained import load_pretrained_unet, load_pretrained_vae

def answer(kind, start):
    if kind == "run":
        return [main(start.split())]
    try:
        model = load_pretrained_vae(start) if kind == "vae" else load_pretrained_unet(start, direction="harmonize", widen=kind == "narrow")
    except (FileNotFoundError, ValueError) as error:
        return [type(error).__name__, str(error)]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).hexdigest()
    embeds = getattr(model, "empty_prompt_embeds", None)
    return [digest, None if embeds is None else embeds.sum().item()]

for line in sys.stdin:
    print(json.dumps(["answer", answer(*line.rstrip().split("=", 1))]), flush=True)
"""


class Asked:
    """Another process that loads what it is asked for: the Hub's client reads its environment once."""

    def __init__(self, cache, endpoint, offline):
        environment = {**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_CACHE", None)
        environment["HF_HUB_OFFLINE"] = "1" if offline else "0"
        self.process = subprocess.Popen(
            [sys.executable, "-c", ASK], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cache
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()

    def answers(self, *what):
        self.process.stdin.writelines(f"{line}\n" for line in what)
        self.process.stdin.flush()
        return {line: self._answer() for line in what}

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith('["answer"'):
                return json.loads(line)[1]
        raise AssertionError("the process ended without an answer")


def digest(model):
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).hexdigest()


def test_ids():
    assert parse_hub_id("acme/sd-1.5") == ("acme/sd-1.5", "")
    assert parse_hub_id("acme/sd:nested/unet/") == ("acme/sd", "nested/unet")
    assert parse_hub_id("acme/sd:v1-5.safetensors") == ("acme/sd", "v1-5.safetensors")
    for text in ("vae", "a/b/c", "./a/b", "/a/b", "a/b.ckpt", "a/b.safetensors", "a/b:c:d", "a\\b", "a/b:", "../b", "a/ b"):
        assert parse_hub_id(text) is None


def test_from_the_hub_and_then_from_the_cache_alone(tmp_path):
    root, cache, data = tmp_path / "hub", tmp_path / "cache", write_data(tmp_path / "data")
    text_encoder = make_text_encoder()
    cache.mkdir()
    sd = write_pipeline(root / "acme" / "sd", text_encoder)
    for folder, name in (("vae", "diffusion_pytorch_model"), ("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        for form in ("bin", "fp16.safetensors", "non_ema.safetensors"):
            (sd / folder / f"{name}.{form}").write_bytes(b"not needed")
    (sd / "safety_checker").mkdir()
    (sd / "safety_checker" / "model.safetensors").write_bytes(b"not needed")
    files = root / "acme" / "files"
    write_pipeline(files / "nested", text_encoder, in_channels=4)
    make_vae(seed=7).save_pretrained(files)
    save_autoencoder(make_vae(seed=8), files / "our [1].safetensors", dtype=torch.float32)
    write_pipeline(root / "acme" / "part", text_encoder)
    (root / "acme" / "empty").mkdir()
    (root / "acme" / "empty" / "README.md").write_text("nothing here")
    total, narrow = pytest.approx(empty_prompt(text_encoder).sum().item(), abs=1e-3), widen_input(make_unet(4))
    known = {
        "vae=acme/sd": [digest(make_vae()), None],
        "unet=acme/sd": [digest(make_unet()), total],
        "vae=acme/sd:vae": [digest(make_vae()), None],
        "vae=acme/files": [digest(make_vae(seed=7)), None],
        "vae=acme/files:our [1].safetensors": [digest(make_vae(seed=8)), None],
        "narrow=acme/files:nested": [digest(narrow), total],
    }
    wrong = ["vae=acme/none", "vae=acme/files:no.ckpt", "unet=acme/empty", "unet=acme/files"]
    never_fetched = ["vae=acme/other", "unet=acme/part"]  # of the latter only the VAE was
    with HubServer(root) as hub, Asked(cache, hub.endpoint, offline=False) as online:
        assert online.answers(*known) == known
        assert online.answers("vae=acme/part")["vae=acme/part"][0] == digest(make_vae())
        answers = online.answers(*wrong)
        assert [answers[what][0] for what in wrong] == ["FileNotFoundError"] * 3 + ["ValueError"]
        assert "looked in" in answers["vae=acme/none"][1] and "be reachable or cached" in answers["vae=acme/none"][1]
        assert "Hub repository acme/files must hold no.ckpt, and be" in answers["vae=acme/files:no.ckpt"][1]
        assert "must hold config.json with weights or unet/config.json with weights, and be" in answers["unet=acme/empty"][1]
        assert "a plain VAE" in answers["unet=acme/files"][1]
        sent = sorted(hub.downloads)
        assert len(set(sent)) == len(sent)  # acme/sd's VAE was asked for twice and fetched once
        assert [name.removeprefix("acme/sd/") for name in sent if name.startswith("acme/sd/")] == [
            "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        ]  # fmt: skip
        hub.stop()
        assert online.answers(*known) == known
        unreachable = online.answers(*never_fetched)
    run = ["train-vae", "tiny", "--init", "acme/sd", "--data.roots", str(data), "--data.size", "32", "--optim.steps", "1",
           "--optim.batch-size", "2", "--run.samples", "1", "--run.out", str(tmp_path / "run")]  # fmt: skip
    with Asked(cache, hub.endpoint, offline=True) as offline:
        assert offline.answers(*known) == known
        cut_off = offline.answers(*never_fetched)
        assert list(offline.answers("run=" + " ".join(run)).values()) == [[0]]
    for answers, reason in ((unreachable, "onnect"), (cut_off, "HF_HUB_OFFLINE is set")):
        for what in never_fetched:
            assert answers[what][0] == "FileNotFoundError" and "be reachable or cached" in answers[what][1]
            assert reason in answers[what][1] and "run the same command once with a network" in answers[what][1]
    assert same_weights(make_vae().encoder, load_harmony_vae(tmp_path / "run" / "harmony_vae.safetensors").encoder)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"] == "acme/sd"
