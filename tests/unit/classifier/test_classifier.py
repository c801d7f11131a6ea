"""The harmony classifier: the authors' file, round trips, refusals, crops; and what its probabilities are measured by."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models, transforms

from diffharmony.classifier.checkpoint import load_backbone, load_harmony_classifier, save_harmony_classifier
from diffharmony.classifier.inference import unharmonious_probability
from diffharmony.classifier.measures import (
    auc,
    calibration_curve,
    draw_measures,
    expected_calibration_error,
    measure_probabilities,
)  # fmt: skip
from diffharmony.classifier.model import LEAST_CROP, HarmonyClassifier, masked_box
from diffharmony.common.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def theirs():
    """torchvision's resnet50 with fc of 2 outputs, made-up weights and batch statistics, and the authors' preprocessing."""
    torch.manual_seed(0)
    model = models.resnet50()
    model.fc = nn.Linear(model.fc.in_features, 2)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(12345)
    return model.eval()


@pytest.fixture(scope="module")
def authors_file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "model_state_dict.pth"
    torch.save(theirs.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures():
    """Two 8-bit pictures of one size."""
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (300, 420, 3), dtype=np.uint8)) for _ in range(2)]


def as_tensor(pictures):
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]).float() / 127.5 - 1


def small(**changes):
    torch.manual_seed(0)
    return HarmonyClassifier("small", **{"input_size": 32, "widths": (8, 16), **changes})


class TestAuthorsFile:
    def test_logits_and_class_order_are_torchvisions(self, theirs, authors_file, pictures):
        prepare = transforms.Compose([
            transforms.Resize((256, 256), interpolation=transforms.InterpolationMode.BILINEAR, antialias=True),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip
        inputs = torch.stack([prepare(picture) for picture in pictures])
        classifier = load_harmony_classifier(authors_file)
        assert classifier.config == {"backbone": "resnet50", "input_size": 256, "crop": False, "mask_channel": False}
        assert not classifier.training and not classifier.needs_mask
        with torch.no_grad():
            expected, found = theirs(inputs), classifier(as_tensor(pictures))
            torch.testing.assert_close(classifier.probe(classifier.backbone(inputs)), expected)
        # PIL rounds to 8 bits after resizing, we do not
        torch.testing.assert_close(classifier.preprocess(as_tensor(pictures)), inputs, rtol=0, atol=1.01 / 255 / 0.224)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.std().item())
        torch.testing.assert_close(unharmonious_probability(classifier, as_tensor(pictures)), found.softmax(1)[:, 1])

    @pytest.mark.parametrize("wrap", [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    ])  # fmt: skip
    def test_common_wrappings(self, theirs, authors_file, tmp_path, wrap):
        path = tmp_path / "classifier.pth"
        torch.save(wrap(theirs.state_dict()), path)
        expected, found = (load_harmony_classifier(file).state_dict() for file in (authors_file, path))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected if not name.endswith("num_batches_tracked"))

    def test_a_pickle_of_other_objects_is_not_run(self, tmp_path):
        path = tmp_path / "classifier.pth"
        torch.save({"state_dict": Dangerous(tmp_path / "ran")}, path)
        with pytest.raises(ValueError, match="weights_only=True"):
            load_harmony_classifier(path)
        assert not (tmp_path / "ran").exists()

    def test_a_backbone_has_the_weights_but_not_the_last_layer(self, theirs, tmp_path):
        state = theirs.state_dict()
        path = tmp_path / "resnet50.safetensors"
        save_file({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
        classifier = HarmonyClassifier()
        probe = classifier.probe.weight.clone()
        load_backbone(classifier, path)
        assert torch.equal(classifier.probe.weight, probe)
        assert torch.equal(classifier.backbone.layer4[2].bn3.running_var, state["layer4.2.bn3.running_var"])
        assert [name for name, parameter in classifier.named_parameters() if parameter.requires_grad] == ["probe.weight", "probe.bias"]
        classifier.train()
        assert not any(isinstance(module, nn.BatchNorm2d) and module.training for module in classifier.modules())


class Dangerous:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestRefusals:
    def refusal(self, path, match):
        with pytest.raises(ValueError, match=match):
            load_harmony_classifier(path)

    def test_another_number_of_outputs(self, theirs, tmp_path):
        path = tmp_path / "imagenet.pth"
        torch.save({**theirs.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
        self.refusal(path, "fc of 2 outputs.*got a ResNet-50 with 1000 outputs. Pass a file of `diffharmony train-classifier`")

    @pytest.mark.parametrize("make", [models.resnet18, models.resnet101], ids=["resnet18", "resnet101"])
    def test_another_resnet(self, tmp_path, make):
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in make(num_classes=2).state_dict().items()}
        path = tmp_path / "other.safetensors"
        save_file({name: torch.zeros(shape, dtype=torch.uint8) for name, shape in shapes.items()}, path)
        self.refusal(path, "must be a harmony classifier .*, got another network's [0-9]+ tensors")

    def test_damaged_files_of_ours(self, tmp_path):
        path = tmp_path / "classifier.safetensors"
        save_harmony_classifier(small(), path)
        tensors = read_checkpoint(path).tensors
        write_checkpoint(path, {name: tensors[name] for name in list(tensors)[1:]}, kind="classifier", config=small().config)
        self.refusal(path, "must hold exactly the .* tensors of a HarmonyClassifier of its config, got 1 missing")
        write_checkpoint(path, tensors, kind="classifier", config={"backbone": "vit"})
        self.refusal(path, "backbone must be one of resnet50, small, got 'vit'")
        path.write_bytes(path.read_bytes()[:-40])
        self.refusal(path, "must be a whole safetensors file")
        with pytest.raises(FileNotFoundError, match="must exist, looked in"):
            load_harmony_classifier(tmp_path / "none.pth")

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"backbone": "resnet50", "mask_channel": True}, "mask_channel must be off for the backbone resnet50"),
            ({"backbone": "small", "widths": (8, 12)}, "widths must be multiples of 8"),
            ({"input_size": 8}, r"input_size must lie in \[32, 4096\], got 8"),
            ({"crop": True, "crop_margin": -1.0}, r"crop_margin must lie in \[0, 8\]"),
        ],
    )
    def test_fields_that_describe_none(self, fields, message):
        with pytest.raises(ValueError, match=message):
            HarmonyClassifier(**fields)

    def test_what_cannot_be_saved(self, tmp_path):
        with pytest.raises(ValueError, match="classifier must be a HarmonyClassifier, got Linear"):
            save_harmony_classifier(nn.Linear(2, 2), tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="dtype must be torch.float16 or torch.float32"):
            save_harmony_classifier(small(), tmp_path / "a.safetensors", dtype=torch.bfloat16)


class TestOurFile:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    @pytest.mark.parametrize(
        "fields", [{}, {"crop": True, "crop_margin": 0.2}, {"mask_channel": True}, {"crop": True, "mask_channel": True}]
    )
    def test_round_trip_of_the_small_one(self, tmp_path, pictures, dtype, fields):
        classifier, path = small(**fields), tmp_path / "classifier.safetensors"
        save_harmony_classifier(classifier, path, dtype=dtype, training={"step": 7})
        found = load_harmony_classifier(path)
        assert found.config == classifier.config and json.loads(json.dumps(found.config)) == found.config
        assert read_checkpoint(path).training == {"step": 7} and read_checkpoint(path).kind == "classifier"
        mask = torch.zeros(1, 1, 300, 420)
        mask[..., 50:200, 60:200] = 1
        expected, probabilities = (unharmonious_probability(one, as_tensor(pictures), mask) for one in (classifier, found))
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=0 if dtype == torch.float32 else 2e-3)

    def test_resnet50_keeps_its_batch_statistics(self, authors_file, tmp_path):
        classifier = load_harmony_classifier(authors_file)
        save_harmony_classifier(classifier, tmp_path / "whole.safetensors", dtype=torch.float32)
        found, expected = load_harmony_classifier(tmp_path / "whole.safetensors").state_dict(), classifier.state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        assert int(found["backbone.bn1.num_batches_tracked"]) == 12345
        save_harmony_classifier(classifier, tmp_path / "half.safetensors")
        half = load_harmony_classifier(tmp_path / "half.safetensors").state_dict()
        name = "backbone.layer4.2.bn3.running_var"
        torch.testing.assert_close(half[name], expected[name], rtol=1e-3, atol=1e-3)

    def test_the_small_one_is_small(self):
        classifier = HarmonyClassifier("small", 128, crop=True, mask_channel=True)
        parameters = sum(parameter.numel() for parameter in classifier.parameters())
        assert parameters < 1.2e6 and all(parameter.requires_grad for parameter in classifier.parameters())


class TestInputs:
    def test_probabilities_do_not_depend_on_the_batch(self, pictures):
        images, classifier = as_tensor([*pictures, *pictures, pictures[0]]), small()
        expected = unharmonious_probability(classifier, images)
        assert expected.shape == (5,) and expected.dtype == torch.float32 and not expected.requires_grad
        torch.testing.assert_close(unharmonious_probability(classifier, images, batch_size=2), expected)
        assert classifier.training  # as it was
        assert unharmonious_probability(classifier, images[:0]).shape == (0,)

    def test_one_mask_serves_all_images_and_soft_values_are_cut_at_a_half(self, pictures):
        images, classifier = as_tensor([*pictures, pictures[0]]), small(crop=True, mask_channel=True)
        mask = torch.zeros(1, 1, 300, 420)
        mask[..., 30:100, 40:90] = 1
        expected = unharmonious_probability(classifier, images, mask)
        torch.testing.assert_close(unharmonious_probability(classifier, images, mask.expand(3, -1, -1, -1), batch_size=2), expected)
        torch.testing.assert_close(unharmonious_probability(classifier, images, (mask * 0.3 + 0.3), batch_size=2), expected)

    def test_a_crop_shows_nothing_but_the_region_and_its_surroundings(self, pictures):
        images, classifier = as_tensor(pictures[:1]), small(crop=True)
        mask = torch.zeros(1, 1, 300, 420)
        mask[..., 100:160, 200:260] = 1
        elsewhere, inside = images.clone(), images.clone()
        elsewhere[..., :60, :] *= -1
        inside[..., 120:140, 220:240] = 1
        expected = unharmonious_probability(classifier, images, mask)
        assert torch.equal(unharmonious_probability(classifier, elsewhere, mask), expected)
        assert not torch.equal(unharmonious_probability(classifier, inside, mask), expected)
        cut = classifier.preprocess(images[..., 70:190, 170:290], torch.ones(1, 1, 120, 120))
        assert torch.equal(classifier.preprocess(images, mask), cut)

    @pytest.mark.parametrize(
        "images, mask, message",
        [
            (torch.zeros(1, 3, 40, 40), None, "mask must be given to a classifier of masked regions"),
            (torch.zeros(1, 3, 40, 40), torch.zeros(1, 1, 40, 40), "mask 0 of 1 must have foreground .* got none"),
            (torch.zeros(1, 3, 40, 40), torch.ones(1, 1, 20, 40), "mask must be as large as images"),
            (torch.full((1, 3, 40, 40), 200.0), torch.ones(1, 1, 40, 40), r"images must lie in \[-1, 1\]"),
            (torch.zeros(1, 4, 40, 40), torch.ones(1, 1, 40, 40), "images must have shape"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, images, mask, message):
        with pytest.raises(ValueError, match=message):
            unharmonious_probability(small(crop=True), images, mask)

    def test_no_images_at_once_are_refused(self):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            unharmonious_probability(small(), torch.zeros(1, 3, 40, 40), batch_size=0)


class TestBox:
    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_it_holds_the_region_is_in_the_image_and_square_where_it_can_be(self, data):
        height, width = (data.draw(st.integers(1, 90)) for _ in range(2))
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
        margin = data.draw(st.sampled_from((0.0, 0.25, 0.5, 2.0)))
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top, left:right] = mask[bottom - 1, left:right] = mask[top:bottom, left] = mask[top:bottom, right - 1] = True
        x0, y0, x1, y1 = masked_box(mask, margin)
        assert 0 <= x0 <= left and right <= x1 <= width and 0 <= y0 <= top and bottom <= y1 <= height
        wanted = max(round(max(bottom - top, right - left) * (1 + 2 * margin)), round(LEAST_CROP * min(height, width)), 1)
        assert (x1 - x0, y1 - y0) == (min(wanted, width), min(wanted, height))
        for first, last, low, high, limit in ((x0, x1, left, right, width), (y0, y1, top, bottom, height)):
            if 0 < first and last < limit:
                assert abs((low - first) - (last - high)) <= 1  # in the middle, where the image's edge does not move it

    def test_an_empty_mask_stands_for_the_whole_image(self):
        assert masked_box(torch.zeros(20, 30, dtype=torch.bool)) == (0, 0, 30, 20)


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), min_size=1, max_size=20).map(np.array)


class TestMeasures:
    @settings(max_examples=200, deadline=None)
    @given(PROBABILITIES, PROBABILITIES)
    def test_auc_is_the_share_of_pairs_in_order(self, composites, reals):
        above = (composites[:, None] > reals).mean() + (composites[:, None] == reals).mean() / 2
        assert auc(composites, reals) == pytest.approx(above)

    def test_calibration_of_known_cases(self):
        # 8 of 10 at 0.8 are composites, 2 of 10 at 0.2: as said
        composites, reals = np.r_[np.full(8, 0.8), np.full(2, 0.2)], np.r_[np.full(2, 0.8), np.full(8, 0.2)]
        curve = calibration_curve(composites, reals)
        assert [(row["count"], row["from"], row["composites"]) for row in curve] == [(10, 0.2, 0.2), (10, 0.8, 0.8)]
        assert expected_calibration_error(curve) == pytest.approx(0)
        # sure and always wrong; sure and right half the time
        assert expected_calibration_error(calibration_curve(np.zeros(5), np.ones(5))) == pytest.approx(1)
        assert expected_calibration_error(calibration_curve(np.ones(5), np.ones(5))) == pytest.approx(0.5)
        assert sum(row["count"] for row in calibration_curve(np.linspace(0, 1, 101), np.linspace(0, 1, 7))) == 108

    def test_accuracy_and_order(self, tmp_path):
        composites, reals = np.array([0.9, 0.6, 0.4, 0.3]), np.array([0.1, 0.7, 0.45, 0.2])
        measures = measure_probabilities(composites, reals)
        assert measures["accuracy"] == (2 / 4 + 3 / 4) / 2 and measures["ordered"] == 2 / 4
        draw_measures(composites, reals, tmp_path / "curves.png")
        assert Image.open(tmp_path / "curves.png").size[0] > 1000

    @pytest.mark.parametrize(
        "composites, reals, message",
        [([], [], "must both be measured"), ([0.5], [1.5], r"must lie in \[0, 1\]"), ([np.nan], [0.5], r"must lie in \[0, 1\]")],
    )
    def test_what_cannot_be_measured(self, composites, reals, message):
        with pytest.raises(ValueError, match=message):
            measure_probabilities(np.array(composites), np.array(reals))
        with pytest.raises(ValueError, match="reals must be one for each of 2 composites, got 1"):
            measure_probabilities(np.zeros(2), np.zeros(1))
