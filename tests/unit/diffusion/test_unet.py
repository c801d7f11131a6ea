"""The UNet's files: round trips, diffusers folders, refusals."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from diffharmony.common.checkpoint import read_checkpoint, write_checkpoint
from diffharmony.diffusion import load_unet, save_unet

CONFIG = {
    "in_channels": 9,
    "out_channels": 4,
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
GOLDEN = Path(__file__).parents[2] / "data" / "unet_tiny.weights.safetensors"


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG).eval()


@pytest.fixture(scope="module")
def embeds():
    return torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))


def same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize(("direction", "prediction_type"), [("harmonize", "epsilon"), ("invert", "v_prediction")])
def test_single_file_round_trip_is_exact_in_float32(unet, embeds, tmp_path, direction, prediction_type):
    path = tmp_path / "unet.safetensors"
    save_unet(unet, path, empty_prompt_embeds=embeds, direction=direction, prediction_type=prediction_type, dtype=torch.float32,
              training={"steps": 3})
    again = load_unet(path)
    assert same_weights(unet, again)
    assert torch.equal(again.empty_prompt_embeds, embeds)
    assert (again.direction, again.prediction_type) == (direction, prediction_type)
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert read_checkpoint(path).training == {"steps": 3}
    assert read_checkpoint(path).kind == "unet"


def test_float16_file_is_half_as_large_and_loads_in_the_dtype_asked(unet, embeds, tmp_path):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_unet(unet, full, empty_prompt_embeds=embeds, dtype=torch.float32)
    save_unet(unet, half, empty_prompt_embeds=embeds)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    assert load_unet(half).dtype == torch.float32
    again = load_unet(half, dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert again.empty_prompt_embeds.dtype == torch.float32


def test_saving_again_keeps_embedding_direction_and_prediction_type(unet, embeds, tmp_path):
    options = dict(direction="invert", prediction_type="v_prediction", dtype=torch.float32)
    save_unet(unet, tmp_path / "a.safetensors", empty_prompt_embeds=embeds[0], **options)
    save_unet(load_unet(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", dtype=torch.float32)
    again = load_unet(tmp_path / "b.safetensors")
    assert torch.equal(again.empty_prompt_embeds, embeds)
    assert (again.direction, again.prediction_type) == ("invert", "v_prediction")


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False, "max_shard_size": "300KB"}], ids=str)
def test_diffusers_folders_load(unet, tmp_path, options):
    unet.save_pretrained(tmp_path / "unet", **options)
    for path in (tmp_path / "unet", tmp_path):
        again = load_unet(path)
        assert same_weights(unet, again)
        assert again.empty_prompt_embeds is None
        assert (again.direction, again.prediction_type) == ("harmonize", "epsilon")


def test_a_pipeline_folder_gives_its_prediction_type(unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    assert load_unet(tmp_path).prediction_type == "v_prediction"
    assert load_unet(tmp_path / "unet").prediction_type == "v_prediction"


def test_text_to_image_unet_is_refused(embeds, tmp_path):
    plain = UNet2DConditionModel(**{**CONFIG, "in_channels": 4})
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="9 input channels.*got 4 and 4.*text-to-image"):
        load_unet(tmp_path)
    with pytest.raises(ValueError, match="9 input channels"):
        save_unet(plain, tmp_path / "x.safetensors", empty_prompt_embeds=embeds)
    write_checkpoint(tmp_path / "y.safetensors", {**plain.state_dict(), "empty_prompt_embeds": embeds}, kind="unet",
                     config={**CONFIG, "in_channels": 4})
    with pytest.raises(ValueError, match="9 input channels"):
        load_unet(tmp_path / "y.safetensors")


def test_weights_alone_are_refused(tmp_path):
    save_file(load_file(GOLDEN), tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="must carry its config in its metadata, got none. Pass its diffusers folder .*diffharmony convert"):
        load_unet(tmp_path / "unet.safetensors")


def test_incomplete_files_are_refused(unet, embeds, tmp_path):
    path = tmp_path / "unet.safetensors"
    save_unet(unet, path, empty_prompt_embeds=embeds)
    tensors = load_file(path)
    config = read_checkpoint(path).config

    def rewritten(change):
        changed = dict(tensors)
        change(changed)
        write_checkpoint(path, changed, kind="unet", config=config)

    rewritten(lambda t: t.pop("conv_in.bias"))
    with pytest.raises(ValueError, match="1 missing .conv_in.bias"):
        load_unet(path)
    rewritten(lambda t: t.update(surprise=torch.zeros(1)))
    with pytest.raises(ValueError, match="1 unexpected .surprise"):
        load_unet(path)
    rewritten(lambda t: t.update({"conv_in.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match="1 of another shape"):
        load_unet(path)
    rewritten(lambda t: t.pop("empty_prompt_embeds"))
    with pytest.raises(ValueError, match="empty_prompt_embeds.*diffharmony convert"):
        load_unet(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_unet(path)


def test_missing_and_incomplete_folders_are_refused(unet, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_unet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="UNet folder must hold config.json and diffusion_pytorch_model"):
        load_unet(tmp_path)
    unet.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model"):
        load_unet(tmp_path / "a")
    unet.save_pretrained(tmp_path / "b")
    tensors = load_file(tmp_path / "b" / "diffusion_pytorch_model.safetensors")
    tensors.pop("conv_out.weight")
    save_file(tensors, tmp_path / "b" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 missing"):
        load_unet(tmp_path / "b")


def test_pickles_that_run_code_are_not_run(unet, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError):
        load_unet(tmp_path / "unet")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"empty_prompt_embeds": torch.zeros(1, 77, 99)}, "empty_prompt_embeds must have shape"),
    ({"empty_prompt_embeds": None}, "empty_prompt_embeds must be given"),
    ({"prediction_type": "sample"}, "prediction_type must be one of"),
    ({"direction": "sideways"}, "direction must be one of"),
    ({"dtype": torch.int8}, "dtype must be torch.float16 or torch.float32"),
])
def test_wrong_saves_are_refused_and_write_nothing(unet, embeds, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        save_unet(unet, tmp_path / "unet.safetensors", **{"empty_prompt_embeds": embeds, **options})
    assert not list(tmp_path.iterdir())
