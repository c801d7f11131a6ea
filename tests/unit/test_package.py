"""The wheel and the sdist that are released: all that users need is in them, and the wheel works alone."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from diffharmony.common.assets import ROOT

USED = ("assets/tiny", "workflows", "web", "locales", "applications/publish")  # beside the code, by the nodes and commands
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist'); build_meta.build_sdist('dist')"


@pytest.fixture(scope="module")
def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    if "pyproject.toml" not in names:
        pytest.skip("not a git checkout, which alone knows what belongs to it")
    return names


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    return source / "dist"


def test_the_wheel_works_alone(built, tracked, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    missing = [name for name in tracked if (name.startswith(USED) or is_code(name)) and not (tmp_path / "site/diffharmony" / name).is_file()]
    assert not missing
    command = [sys.executable, "-m", "diffharmony", "harmonize", ROOT / "assets/demo/composite.png", ROOT / "assets/demo/mask.png", "--out", "out.png"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "out.png").is_file(), done.stderr
    assert str(ROOT) not in done.stderr + done.stdout


def test_the_sdist_holds_what_is_tracked(built, tracked):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {Path(*Path(member.name).parts[1:]).as_posix() for member in archive.getmembers()}
    assert sorted(set(tracked) - held - {".gitignore"}) == []


def test_the_changelog_begins_with_the_version_that_is_built(built):
    (wheel,) = built.glob("*.whl")
    version, *_ = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert wheel.name.startswith(f"diffharmony-{version}-")


def is_code(name: str) -> bool:
    return name.endswith(".py") and not name.startswith(("tests/", "assets/", "workflows/"))
