"""The committed harmony classifier of assets/tiny, held to a part of its targets on a few composites made on the spot.

All of them: `python -m diffharmony.applications.tiny.classifier_report --data .cache/tiny/test-256 --planted 100`.
"""

from pathlib import Path

from diffharmony.applications.tiny.classifier_report import score_pairs
from diffharmony.applications.tiny.planted import find_planted
from diffharmony.classifier.checkpoint import load_harmony_classifier
from diffharmony.classifier.measures import measure_probabilities
from diffharmony.dataset.pairs import read_list
from diffharmony.synthetic.dataset import write_test_set

FILE = Path(__file__).parents[3] / "assets" / "tiny" / "harmony_classifier.safetensors"


def test_it_tells_composites_from_photographs_it_never_saw(tmp_path):
    assert FILE.stat().st_size < 3e6
    classifier = load_harmony_classifier(FILE)
    write_test_set(tmp_path, size=256, composites_per_range=6, workers=1)
    pairs = read_list(tmp_path, "IHD_test.txt")
    composites, reals, _ = score_pairs(classifier, pairs)
    # the targets are 0.85 and 0.85, of 120 composites and 100 images; these are a seventh
    assert measure_probabilities(composites, reals)["auc"] >= 0.75
    assert find_planted(classifier, pairs, images=15)["share"] >= 0.75
