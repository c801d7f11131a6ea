"""What is fuzzed: for each loader, what writes one hostile input into a folder, and what then reads it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from diffharmony.tests.faults.damage import HOSTILE, NAMES, bytes_of, json_of, save_damaged

Call = Callable[[], object]
PICTURES = (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("GIF", ".png"))


class Target(NamedTuple):
    """prepare: (good inputs' folder, a folder of one's own, generator) -> what is to be called. share: of all inputs. compressed: whether
    a file's size bounds nothing, as a picture's does not."""

    name: str
    prepare: Callable[[Path, Path, Random], Call]
    share: float = 1.0
    compressed: bool = False


def make_good(folder: Path) -> None:
    """Good inputs of every kind, as small as they can be."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffharmony.classifier import HarmonyClassifier, save_harmony_classifier
    from diffharmony.diffusion import load_unet
    from diffharmony.diffusion.unet import write_prompt_file
    from diffharmony.harmony_vae import load_harmony_vae
    from diffharmony.harmony_vae.checkpoint import save_autoencoder
    from diffharmony.refinement import load_refinement
    from diffharmony.tests.made.models import vae
    from diffharmony.tests.made.pairs import make_pairs
    from diffharmony.tests.made.pretrained import VOCABULARY, write_tokenizer
    from diffharmony.tests.made.refinement import make_models

    make_models(folder)
    save_autoencoder(vae((8, 8), groups=4), folder / "autoencoder.safetensors", dtype=torch.float32)
    torch.manual_seed(0)
    save_harmony_classifier(HarmonyClassifier("small", widths=(8, 8), input_size=32), folder / "classifier.safetensors")
    archive = folder / "archive"
    load_harmony_vae(folder / "vae.safetensors").save_pretrained(archive / "condition_vae")
    unet = load_unet(folder / "unet.safetensors")
    unet.save_pretrained(archive / "base" / "unet", max_shard_size="60KB")
    write_prompt_file(archive / "base" / "unet", unet)
    vae((8, 8), groups=4).save_pretrained(archive / "base" / "vae", safe_serialization=False)
    marks = dict(bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1)
    text = CLIPTextConfig(vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, **marks)
    CLIPTextModel(text).save_pretrained(archive / "base" / "text_encoder")
    write_tokenizer(archive / "base" / "tokenizer")
    (archive / "base" / "scheduler").mkdir()
    (archive / "base" / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    load_refinement(folder / "refinement.safetensors").save_pretrained(archive / "refinement")
    make_pairs(folder / "data")


def weights(name: str, load: Callable[[], Callable]) -> Callable[[Path, Path, Random], Call]:
    def prepare(good: Path, own: Path, rng: Random) -> Call:
        others = ("vae", "unet", "inverse_unet", "refinement", "classifier", "autoencoder")
        wanted = name if rng.random() < 0.9 else rng.choice(others)
        path = own / save_damaged(good / f"{wanted}.safetensors", own / "model", rng, own.parent / "canary")
        reader = load()
        return lambda: reader(path)

    return prepare


def _loader(module: str, function: str) -> Callable[[], Callable]:
    from importlib import import_module

    return lambda: getattr(import_module(f"diffharmony.{module}"), function)


def listing(good: Path, own: Path, rng: Random) -> Call:
    """The nodes' drop-down list looks into every file of a folder and must never fail."""
    from diffharmony.diffusion.model_files import ModelFile, files_of_kind

    name = save_damaged(good / f"{rng.choice(('vae', 'unet', 'classifier'))}.safetensors", own / "model", rng, own.parent / "canary")
    files = [ModelFile(name, own / name), ModelFile("gone", own / "gone.safetensors")]
    (own / "folder.safetensors").mkdir()
    (own / "loop.safetensors").symlink_to("loop.safetensors")
    files += [ModelFile("f", own / "folder.safetensors"), ModelFile("l", own / "loop.safetensors")]

    def call() -> None:
        for kind in ("harmony_vae", "unet", "classifier"):
            try:
                files_of_kind(files, kind)
            except (ValueError, OSError) as error:
                raise AssertionError(f"a list of models must never fail, got {error!r}") from error

    return call


def archive(good: Path, own: Path, rng: Random) -> Call:
    """One file of the authors' archive, or of one of its models' folders, is damaged; a name in it leads elsewhere."""
    from diffharmony.diffusion.convert import convert_models, find_sources

    part = rng.choice(("", "", "condition_vae", "base", "base/unet", "base/vae", "refinement", "base/text_encoder"))
    source = own / "archive"
    shutil.copytree(good / "archive", source)
    files = sorted(path for path in (source / part).rglob("*") if path.is_file())
    jsons = [path for path in files if path.suffix == ".json"]
    damaged = rng.choice(jsons if jsons and rng.random() < 0.6 else files)
    if damaged.name.endswith("index.json") and rng.random() < 0.7:
        index = json.loads(damaged.read_text())
        shards = rng.choice(("weight_map", "weight_map", "metadata"))
        names = {name: rng.choice((*NAMES, *HOSTILE, "config.json", "../vae/config.json", str(good / "vae.safetensors"))) for name in list(index[shards])[:2]}
        index[shards] = rng.choice(({**index[shards], **names}, names, [], None, "x", 3))
        damaged.write_text(json.dumps(index))
    elif damaged.suffix == ".json" and rng.random() < 0.8:
        damaged.write_text(json_of(json.loads(damaged.read_text()), rng), encoding="utf-8", errors="surrogatepass")
    elif damaged.suffix in (".safetensors", ".bin") and rng.random() < 0.6:
        damaged.unlink()
        kind = {"condition_vae": "vae", "unet": "unet", "refinement": "refinement"}.get(damaged.parent.name, "autoencoder")
        written = damaged.parent / save_damaged(good / f"{kind}.safetensors", damaged.parent / "hostile", rng, own.parent / "canary")
        written.rename(damaged.with_suffix(written.suffix.lower()))
    elif rng.random() < 0.2:
        damaged.unlink()
        damaged.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", "../..", damaged.name, "/nonexistent")))
    else:
        damaged.write_bytes(bytes_of(damaged.read_bytes(), rng))

    def call() -> None:
        from diffharmony.diffusion import load_unet
        from diffharmony.harmony_vae import load_vae
        from diffharmony.refinement import load_refinement

        if part == "base/unet":
            load_unet(source / part)
        elif part in ("condition_vae", "base/vae"):
            load_vae(source / part)
        elif part == "refinement":
            load_refinement(source)
        else:
            convert_models(find_sources(source), own / "out")

    return call


def original(good: Path, own: Path, rng: Random) -> Call:
    """A file that names itself Stable Diffusion's original layout, of which nothing fits."""
    from safetensors.torch import load_file

    from diffharmony.diffusion import load_unet
    from diffharmony.harmony_vae import load_vae
    from diffharmony.tests.faults.damage import pickle_of, tensors_of

    name, prefix = rng.choice((("unet", "model.diffusion_model."), ("autoencoder", "first_stage_model."), ("autoencoder", "")))
    tensors = {prefix + key: value for key, value in load_file(good / f"{name}.safetensors").items()}
    for extra in rng.sample(("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.down.0.block.0.conv1.weight",
                             "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "conditioner.x", "encoder.down.0.x",
                             "model.diffusion_model.input_blocks.1.1.x", "first_stage_model.decoder.up.x.block"), 3):  # fmt: skip
        tensors[extra] = torch.zeros(rng.choice(((), (1,), (8, 9, 3, 3), (0,))))
    path = own / "sd.ckpt"
    path.write_bytes(pickle_of(tensors, rng, own.parent / "canary"))
    if rng.random() < 0.5:
        torch.save({"state_dict": tensors_of(tensors, rng)}, path)
    load = rng.choice((load_unet, load_vae))
    return lambda: load(path)


def picture(rng: Random, own: Path) -> Path:
    """A picture file of any mode and size, mostly damaged."""
    mode = rng.choice(("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "F", "I"))
    width, height = rng.choice(((1, 1), (8, 8), (40, 30), (1, 200), (300, 2)))
    image = Image.fromarray(np.frombuffer(rng.randbytes(width * height * 3), np.uint8).reshape(height, width, 3))
    image = image.convert("L").convert("I").convert(mode) if mode in ("I;16", "F", "I") else image.convert(mode)
    (kind, suffix), content = rng.choice(PICTURES), io.BytesIO()
    try:
        image.save(content, kind, exif=b"Exif\0\0" + rng.randbytes(40)) if rng.random() < 0.3 else image.save(content, kind)
    except (OSError, ValueError, KeyError, SyntaxError):
        content = io.BytesIO()
        image.convert("L").save(content, "PNG")
    data = content.getvalue() if rng.random() < 0.15 else bytes_of(content.getvalue(), rng)
    if data.startswith(b"\x89PNG") and len(data) > 24 and rng.random() < 0.15:  # a size that the pixels do not fill
        data = data[:16] + rng.choice((2**31 - 1, 60_000, 20_000, 0)).to_bytes(4, "big") * 2 + data[24:]
    path = own / f"picture{suffix}"
    path.write_bytes(data)
    return path


def images(good: Path, own: Path, rng: Random) -> Call:
    from diffharmony.common import images as library

    path = picture(rng, own)
    load = rng.choice((library.load_image, library.load_mask, library.read_picture, library.read_mask, library.image_info, library.load_alpha))
    return lambda: load(path)


def lines_of(lines: list[str], rng: Random) -> bytes:
    """A list file of which some lines lead elsewhere or are none."""
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice(("{}", "HCOCO/composite_images/{}_1_1.png", "{}/composite_images/a1_1_1.png", "HCOCO/{}/a1_1_1.png", "HCOCO/composite_images/a1_{}_1.png"))
        lines[rng.randrange(len(lines))] = place.replace("{}", rng.choice(NAMES))
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return text if rng.random() < 0.6 else bytes_of(text, rng)


def damaged_data(good: Path, own: Path, rng: Random) -> Path:
    """A data set in iHarmony4's layout with a damaged list, picture or link."""
    data = own / "data"
    shutil.copytree(good / "data", data)
    kind = rng.randrange(4)
    files = sorted(path for path in data.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix == ".png"]
    if kind <= 1:
        for name in ("IHD_train.txt", "train.jsonl"):
            (data / name).write_bytes(lines_of((data / name).read_text(encoding="utf-8").splitlines(), rng))
    elif kind == 2:
        for path in rng.sample(pictures, 6):
            path.write_bytes(picture(rng, own).read_bytes() if rng.random() < 0.5 else bytes_of(path.read_bytes(), rng))
    else:
        path = rng.choice(pictures + files)
        path.unlink()
        path.symlink_to(rng.choice(("/dev/zero", "/dev/full", path.name, "..", "/nonexistent", str(own))))
    return data


def data_folder(good: Path, own: Path, rng: Random) -> Call:
    from diffharmony.dataset.pairs import DirectoryIndex, read_list
    from diffharmony.inverse.sources import folder_sources, listed_sources
    from diffharmony.train.config import DataConfig
    from diffharmony.train.data.dataset import HarmonizationDataset

    data, name = damaged_data(good, own, rng), rng.choice(("IHD_train.txt", "train.jsonl"))

    def train() -> None:
        dataset = HarmonizationDataset(DataConfig(roots=(data,), list_file=name, size=32, workers=0), 0)
        dataset.pack(range(min(len(dataset), 12)))

    return rng.choice((
        train, lambda: read_list(data, name), lambda: listed_sources(data, name, DirectoryIndex()), lambda: folder_sources(data, DirectoryIndex()),
        lambda: read_list(data, rng.choice(NAMES).replace("\x00", "") or "x"),
    ))  # fmt: skip


def evaluation(good: Path, own: Path, rng: Random) -> Call:
    from diffharmony.evaluation import evaluate

    data = damaged_data(good, own, rng)
    predictions = own / "predictions"
    shutil.copytree(good / "data", predictions)
    for path in rng.sample(sorted(predictions.rglob("*_1_1.png")), 2):
        path.write_bytes(bytes_of(path.read_bytes(), rng))
    return lambda: evaluate(data, "IHD_train.txt", [predictions], "diffharmony", workers=0)


def table(good: Path, own: Path, rng: Random) -> Call:
    """Human Harmony's CSV, and the folder of its photographs."""
    from diffharmony.inverse.human_harmony.dry_run import InputSpec
    from diffharmony.inverse.human_harmony.filters import read_keep_list
    from diffharmony.inverse.human_harmony.masks import place_subjects
    from diffharmony.tests.made.human_harmony import HEADER, box, row

    photos = own / "photos"
    photos.mkdir()
    rows = []
    for name in ("a", "b"):
        rng_np = np.random.default_rng(rng.randrange(2**32))
        Image.fromarray(rng_np.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(photos / f"{name}.jpg")
        rows += [row(f"{name}.jpg", box(12, 10, 2, 8, 1, 6)), row(name, box(12, 10, 5, 9, 2, 8))]
    odd = {
        "ImageId": NAMES, "Height": (0, -1, 10**9, 2**31 - 1, 10**30, "1e3", "12.0", "", "x", "١٢"), "Width": (0, 10**9, 2**31 - 1, "9" * 5000, "10.00"),
        "EncodedPixels": ("", "1", "1 0", "0 1", "1 121", f"{2**63} 1", f"1 {2**64}", "1 1 " * 5000, "1e2 3", "-1 3", "1 2 3", "١ ٢", "1\t2", "1 1" + "0" * 50),
        "ClassId": (-1, "x", 10**20),
    }  # fmt: skip
    for _ in range(rng.choice((1, 2, 4))):
        column = rng.choice(sorted(odd))
        rng.choice(rows)[column] = rng.choice(odd[column])
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode("utf-8", "surrogatepass")
    (own / "train.csv").write_bytes(bytes_of(content, rng) if rng.random() < 0.5 else content)
    if rng.random() < 0.3:
        (photos / "a.jpg").write_bytes(bytes_of((photos / "a.jpg").read_bytes(), rng))
    (own / "keep.txt").write_bytes(bytes_of(b"a\nb.jpg\n# c\n", rng))
    (own / "out").mkdir()

    def call() -> None:
        subjects, problems, _ = InputSpec(photos, own / "train.csv", None, on_bad_row=rng.choice(("stop", "skip"))).scan()
        list(place_subjects(subjects, own / "out", "HumanHarmony", workers=1))
        problems.write(own / "out" / "damage.jsonl")

    return call if rng.random() < 0.9 else lambda: read_keep_list(own / "keep.txt")


def manifest(good: Path, own: Path, rng: Random) -> Call:
    """candidates.jsonl, and what it was made with: what select and augment place files by."""
    from diffharmony.inverse.manifest import MANIFEST, read_made_with, read_pairs, settings_file
    from diffharmony.inverse.pairs import write_pairs

    data = own / "candidates"
    records = []
    for place, mask in (("HCOCO", "a1_1"), ("HCOCO", "a2_1")):
        for k in (1, 2):
            records.append({"file_name": f"{place}/cand_composite_images/{mask}_{k}.png", "real": f"{place}/real_images/{mask[:2]}.png",
                            "mask": f"{place}/masks/{mask}.png", "k": k, "seed": 1})  # fmt: skip
    for record in records:
        for name in ("file_name", "real", "mask"):
            (data / record[name]).parent.mkdir(parents=True, exist_ok=True)
            (data / record[name]).write_bytes(b"picture")
    changed = rng.choice(records)
    key = rng.choice(sorted(changed))
    place = rng.choice(("{}", "HCOCO/{}", "{}/masks/a1_1.png", "HCOCO/cand_composite_images/{}", "{}/{}"))
    changed[key] = rng.choice(HOSTILE) if rng.random() < 0.3 else place.replace("{}", rng.choice(NAMES))
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    (data / MANIFEST).write_bytes(text if rng.random() < 0.6 else bytes_of(text, rng))
    settings_file(data / MANIFEST).write_text(json_of({"seed": 1, "steps": 5}, rng), encoding="utf-8", errors="surrogatepass")
    (own / "out").mkdir()

    def call() -> None:
        write_pairs(data, [one for pair in read_pairs(data) for one in pair], own / "out", "IHD_train.txt")
        read_made_with(data, "--data")

    return call


def settings(good: Path, own: Path, rng: Random) -> Call:
    """The JSON that our own runs leave, and states of trainings."""
    from diffharmony.common.files import read_json
    from diffharmony.common.run_folder import claim
    from diffharmony.diffusion.calibration import Calibration
    from diffharmony.train.config import RunConfig, TrainingConfig, as_dict
    from diffharmony.train.data.bad_images import BAD_IMAGES
    from diffharmony.train.run.resume import check_goes_on
    from diffharmony.train.run.state import clear_log_after, newest_state

    out = own / "out"
    (out / "state").mkdir(parents=True)
    config = TrainingConfig(run=RunConfig(out=out))
    good_state = io.BytesIO()
    torch.save({"step": 2, "parameters": [torch.ones(3)], "images": 4}, good_state)
    (out / "state" / "step-00000002.pt").write_bytes(bytes_of(good_state.getvalue(), rng))
    for name, value in (("config.json", as_dict(config)), ("settings.json", {"a": 1}), (BAD_IMAGES, {"a": ["b", "c"]})):
        (out / name).write_text(json_of(value, rng), encoding="utf-8", errors="surrogatepass")
    (out / "log.jsonl").write_bytes(bytes_of(b'{"step": 1, "loss": 2}\n{"step": 3, "loss": 2}\n', rng))
    calibration = {"change": [1.0, 2.0], "factor": [0.0, 1.0], "floor": [1.0, 1.0], "count": 12}
    return rng.choice((
        lambda: check_goes_on(config), lambda: claim(out, {"a": 1}), lambda: read_json(out / "config.json"), lambda: newest_state(out),
        lambda: Calibration.from_json(json_of(calibration, rng)), lambda: clear_log_after(out / "log.jsonl", 1),
    ))  # fmt: skip


def names(good: Path, own: Path, rng: Random) -> Call:
    """What a workflow or a command line says by name: models, ids on the Hub, data sets, subsets, pairs, numbers."""
    from diffharmony.common.weights.hub import local_path, parse_hub_id
    from diffharmony.common.weights.layout import VAE
    from diffharmony.dataset.layout import composite_name
    from diffharmony.inverse.pairs import save_pair
    from diffharmony.inverse.sources import only_named

    def name() -> str:
        return rng.choice(NAMES) if rng.random() < 0.7 else rng.choice(("", "a", "b/", "../")) + rng.choice(NAMES)

    image, mask = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    out = own / "out"
    out.mkdir()
    kind = rng.randrange(5)
    given = [name() if rng.random() < 0.5 else "plain" for _ in range(3)]
    if kind <= 1:
        return lambda: save_pair(out, *given, image, mask, image)
    if kind == 2:
        return lambda: composite_name(given[0], given[1], rng.choice((1, -1, "x", given[2])), rng.choice((".png", ".exe", "")))
    if kind == 3:
        hub_id = rng.choice((f"owner/{name()}", f"{name()}/name", f"owner/name:{name()}", f"owner/{name()}:x", "a/b/c", "@", "a/b@:", name()))
        return lambda: (parse_hub_id(hub_id), local_path(hub_id, VAE))
    return lambda: only_named([f"{given[0]}_1_1.png", given[1], f"{given[2]}/x/a_1_1"], [])


def hub(good: Path, own: Path, rng: Random) -> Call:
    """A repository's answers: names that lead out, files that are damaged, folders of other kinds."""
    from diffharmony.common.weights import hub as client
    from diffharmony.common.weights import layout
    from diffharmony.tests.faults.hub import hostile_hub

    repository = {path.relative_to(good / "archive").as_posix(): path.read_bytes() for path in (good / "archive").rglob("*") if path.is_file()}
    for _ in range(rng.choice((1, 2))):
        found = rng.choice(sorted(repository))
        outside = rng.choice(("base/tokenizer/../../../../../outside", "../outside", "/outside", "base/tokenizer/..\\..\\x", "base/tokenizer/" + "a" * 300,
                              "condition_vae/../x.safetensors", "base/tokenizer/.git/config", "base/tokenizer//x", "base/tokenizer/CON"))  # fmt: skip
        if rng.random() < 0.6:
            repository[outside] = b"outside"
        else:
            repository[found] = bytes_of(repository[found], rng)
    wanted = rng.choice((layout.UNET, layout.VAE, layout.REFINEMENT))
    inside = rng.choice(("", "", "base/unet", "condition_vae", "../outside", "base/../condition_vae", "x.safetensors", "base/tokenizer"))
    (own / "out").mkdir()
    return lambda: hostile_hub(repository, own / "out", rng, lambda: client.fetch(client.HubId("owner/name", "v1", inside), wanted))


TARGETS = (
    Target("Harmony-VAE", weights("vae", _loader("harmony_vae", "load_harmony_vae")), 3),
    Target("plain VAE", weights("autoencoder", _loader("harmony_vae", "load_vae")), 2),
    Target("UNet", weights("unet", _loader("diffusion", "load_unet")), 3),
    Target("classifier", weights("classifier", _loader("classifier", "load_harmony_classifier")), 3),
    Target("refinement", weights("refinement", _loader("refinement", "load_refinement")), 3),
    Target("original layout", original, 1),
    Target("list of models", listing, 1),
    Target("archive and folders", archive, 3),
    Target("images", images, 3, compressed=True),
    Target("data folders, lists", data_folder, 3, compressed=True),
    Target("predictions", evaluation, 0.5, compressed=True),
    Target("Human Harmony's CSV", table, 1.5, compressed=True),
    Target("candidates.jsonl", manifest, 1.5),
    Target("configs, states", settings, 1.5),
    Target("names", names, 1.5),
    Target("Hub answers", hub, 0.5),
)
