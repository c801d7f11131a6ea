"""Files that were made to harm, or are damaged in ways that a download is not: what the fuzzer of tests/faults found first."""

import io
import json
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffharmony.common import sd_checkpoint
from diffharmony.common.checkpoint import METADATA_TENSOR, open_model, read_checkpoint
from diffharmony.common.files import read_json
from diffharmony.common.pictures import open_image
from diffharmony.common.weights.layout import UNET
from diffharmony.dataset.layout import check_name
from diffharmony.dataset.pairs import read_list
from diffharmony.diffusion import load_unet
from diffharmony.diffusion.calibration import Calibration
from diffharmony.diffusion.empty_prompt import encode_empty_prompt
from diffharmony.harmony_vae import load_vae
from diffharmony.refinement import load_refinement
from diffharmony.tests.made.pretrained import make_text_encoder, write_tokenizer
from diffharmony.tests.made.refinement import make_models
from diffharmony.train.run.state import clear_log_after

DEEP = "[" * 100_000 + "]" * 100_000


def refusal(call, *arguments) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        call(*arguments)
    assert " must " in str(error.value) and "\n" not in str(error.value), error.value
    return str(error.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def with_config(source, path, **changes):
    """A copy of one of our files whose config says something else."""
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    config = {**json.loads(metadata["diffharmony.config"]), **changes}
    save_file(load_file(source), path, {**metadata, "diffharmony.config": json.dumps(config)})
    return path


class TestPickles:
    """What torch.load takes with weights_only=True, and is no state dict of whole tensors."""

    def test_one_that_grows_on_being_read(self, tmp_path):
        for name, content in (
            ("old.bin", b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**30) + b"\x85R."),
            ("new.bin", self.packed(b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\nJ" + struct.pack("<i", 2**30) + b"\x85Rs.")),
        ):
            (tmp_path / name).write_bytes(content)
            assert "holds tensors only" in refusal(read_checkpoint, tmp_path / name)

    @staticmethod
    def packed(pickled: bytes) -> bytes:
        saved = io.BytesIO()
        with zipfile.ZipFile(saved, "w") as archive:
            for name, data in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
                archive.writestr(f"archive/{name}", data)
        return saved.getvalue()

    def test_a_compressed_archive(self, tmp_path):
        saved = io.BytesIO()
        torch.save({"a": torch.zeros(1000, 1000)}, saved)
        with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
            for entry in archive.namelist():
                bomb.writestr(entry, archive.read(entry))
        assert "compressed" in refusal(read_checkpoint, tmp_path / "bomb.pth")

    @pytest.mark.parametrize("new", [True, False])
    def test_tensors_of_more_bytes_than_the_file(self, tmp_path, new):
        torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "wide.bin", _use_new_zipfile_serialization=new)
        assert "every value of its tensors" in refusal(read_checkpoint, tmp_path / "wide.bin")

    @pytest.mark.parametrize(
        "held", [{1: torch.zeros(1)}, {"a": torch.empty(9, device="meta")}, {"a": torch.sparse_coo_tensor([[0]], [1.0], (9,), check_invariants=True)}], ids=["number", "meta", "sparse"]
    )
    def test_what_is_no_whole_tensor_under_a_name(self, tmp_path, held):
        torch.save(held, tmp_path / "odd.pt")
        assert "must hold a state dict of tensors" in refusal(read_checkpoint, tmp_path / "odd.pt")

    def test_a_length_that_no_memory_has(self, tmp_path):
        (tmp_path / "long.ckpt").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 10**13) + b"abc")
        refusal(read_checkpoint, tmp_path / "long.ckpt")


class TestMetadata:
    def test_json_that_nests_deep(self, tmp_path, models):
        save_file({"a": torch.zeros(1)}, tmp_path / "deep.safetensors", {"diffharmony.config": DEEP})
        assert "too deep" in refusal(lambda: read_checkpoint(tmp_path / "deep.safetensors").config)
        (tmp_path / "deep.json").write_text(DEEP)
        assert "too deep" in refusal(read_json, tmp_path / "deep.json")
        (tmp_path / "long.json").write_text("1" * 10_000)
        refusal(read_json, tmp_path / "long.json")
        assert "Fit it again" in refusal(Calibration.from_json, DEEP)
        assert "Fit it again" in refusal(Calibration.from_json, '{"change": ["a"], "factor": [1], "floor": [1], "count": 1}')

    @pytest.mark.parametrize("carried", [torch.zeros(4), torch.tensor(3, dtype=torch.uint8), torch.tensor(list(b"[]"), dtype=torch.uint8),
                                         torch.tensor(list(b'{"a": 1}'), dtype=torch.uint8)], ids=["floats", "scalar", "list", "numbers"])  # fmt: skip
    def test_a_host_s_metadata_that_is_none(self, tmp_path, carried):
        save_file({"a": torch.zeros(1), METADATA_TENSOR: carried}, tmp_path / "host.safetensors")
        assert METADATA_TENSOR in refusal(read_checkpoint, tmp_path / "host.safetensors")

    def test_a_damaged_log(self, tmp_path):
        (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe{"step": 2}\n' + DEEP.encode() + b"\n")
        clear_log_after(tmp_path / "log.jsonl", 1)
        assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n'


class TestConfigs:
    """Of another model than the file's tensors: nothing of that model's size is made."""

    @pytest.mark.parametrize("changes", [{"block_out_channels": [2**20]}, {"layers_per_block": 10**7}, {"cross_attention_dim": 10**9}, {"block_out_channels": [8.5]}])
    def test_a_larger_model(self, tmp_path, models, changes):
        path, began = with_config(models / "unet.safetensors", tmp_path / "unet.safetensors", **changes), time.process_time()
        refusal(load_unet, path)
        assert time.process_time() - began < 5

    @pytest.mark.parametrize("changes", [{"layers_per_block": 10**9}, {"transformer_layers_per_block": [[2**40]]}, {"x": {"y": -(10**30)}}])
    def test_numbers_that_no_model_has(self, tmp_path, models, changes):
        assert "whole numbers up to" in refusal(load_unet, with_config(models / "unet.safetensors", tmp_path / "unet.safetensors", **changes))
        load_unet(models / "unet.safetensors").save_pretrained(tmp_path / "unet")
        config = tmp_path / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        assert "whole numbers up to" in refusal(load_unet, tmp_path / "unet")

    def test_weights_that_are_whole_numbers(self, tmp_path, models):
        from safetensors import safe_open

        with safe_open(models / "vae.safetensors", "pt") as file:
            metadata = file.metadata()
        tensors = {name: tensor.to(torch.int8) for name, tensor in load_file(models / "vae.safetensors").items()}
        save_file(tensors, tmp_path / "int.safetensors", metadata)
        assert "of another dtype" in refusal(load_vae, tmp_path / "int.safetensors")

    def test_a_tensor_without_dimensions_where_the_config_is_told_by_it(self, tmp_path):
        for name, load in (("down_blocks.0.resnets.0.conv1.weight", load_refinement), ("encoder.down_blocks.0.resnets.0.conv1.weight", load_vae)):
            save_file({name: torch.zeros(()), "conv_norm_out.x": torch.zeros(1)}, tmp_path / "flat.safetensors")
            assert "dimensions" in refusal(load, tmp_path / "flat.safetensors")
        name = "model.diffusion_model.input_blocks.0.0.weight"
        torch.save({name: torch.zeros(())}, tmp_path / "sd.ckpt")
        assert "dimensions" in refusal(load_unet, tmp_path / "sd.ckpt")
        torch.save({name: torch.zeros(8, 9, 3, 3), "model.diffusion_model.input_blocks.1.1.x": torch.zeros(1)}, tmp_path / "sd.ckpt")
        refusal(load_unet, tmp_path / "sd.ckpt")


class TestTextEncoders:
    """Memory is taken for one that fits its weights only, and it is run with whatever numbers its tokenizer has."""

    @pytest.fixture
    def pipeline(self, tmp_path):
        make_text_encoder().save_pretrained(tmp_path / "text_encoder")
        write_tokenizer(tmp_path / "tokenizer")
        return tmp_path

    @staticmethod
    def changed(file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def encode(self, pipeline):
        return encode_empty_prompt(pipeline / "text_encoder", pipeline / "tokenizer")

    @pytest.fixture
    def small_only(self, monkeypatch):
        """Fails where CLIP's own size is made of values."""
        made = torch.nn.Embedding.__init__

        def init(module, count, *arguments, **options):
            made(module, count, *arguments, **options)
            assert module.weight.is_meta or module.weight.numel() < 10**6, "memory was taken before the weights were looked at"

        monkeypatch.setattr(torch.nn.Embedding, "__init__", init)

    def test_a_config_of_another_size(self, pipeline, small_only):
        (pipeline / "text_encoder" / "config.json").write_text('{"a": NaN}')
        assert "must describe a model" in refusal(self.encode, pipeline)

    def test_a_checkpoint_with_next_to_nothing_of_it(self, tmp_path, small_only):
        torch.save({"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(1)}, tmp_path / "sd.ckpt")
        assert "must describe a model" in refusal(sd_checkpoint.encode_empty_prompt, read_checkpoint(tmp_path / "sd.ckpt").tensors, tmp_path / "sd.ckpt")

    def test_token_numbers_that_it_has_not(self, pipeline):
        self.changed(pipeline / "tokenizer" / "vocab.json", **{"<|startoftext|>": 10**9})
        assert "tokens of its own tokenizer" in refusal(self.encode, pipeline)

    @pytest.mark.parametrize("end", [[-8, 8], "x"])
    def test_an_end_that_is_no_number(self, pipeline, end):
        self.changed(pipeline / "text_encoder" / "config.json", eos_token_id=end)
        refusal(self.encode, pipeline)

    def test_others_parameters_beside_it_are_passed_over(self, pipeline):
        wanted, file = self.encode(pipeline), pipeline / "text_encoder" / "model.safetensors"
        tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
        save_file({**tensors, "text_projection.weight": torch.zeros(3, 64), "vision_model.x": torch.zeros(1)}, file, {"format": "pt"})
        assert torch.equal(self.encode(pipeline), wanted)

    def test_shards_and_half_precision(self, pipeline):
        wanted, folder = self.encode(pipeline), pipeline / "text_encoder"
        (folder / "model.safetensors").unlink()
        make_text_encoder().half().save_pretrained(folder, max_shard_size="50KB")
        assert len(list(folder.glob("model-*"))) > 1
        torch.testing.assert_close(self.encode(pipeline), wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("held", [["../x.safetensors"], ["/etc/x.bin"], ["a\\..\\x.bin"], [3], [[]], ["config.json"], [], None])
def test_an_index_of_files_elsewhere(tmp_path, held):
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file({"time_embedding.x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (folder / "config.json").write_text("{}")
    names = None if held is None else {str(number): name for number, name in enumerate(held)}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "weight_map" in refusal(open_model, folder, UNET)


class TestNames:
    @pytest.mark.parametrize("name", ["con", "NUL.png", "Com1", "lpt9.tar.gz", "a" * 300, "../a", "C:a", "a\0b", "a\udcff", "\ud800"])
    def test_what_is_no_file_s_name_on_every_system(self, name):
        refusal(check_name, name, "name")

    def test_what_only_looks_like_a_device(self):
        for name in ("console", "null", "auxiliary.png", "com", "größe 3"):
            check_name(name, "name")

    def test_too_long_for_a_file(self, tmp_path):
        for load in (open_image, read_checkpoint, lambda path: read_list(tmp_path, path.name)):
            assert "must exist" in refusal(load, tmp_path / ("a" * 300 + ".png"))
