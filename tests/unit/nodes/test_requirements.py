"""What the extension says to a host that is too old, or without our packages: one line, before anything else fails."""

import subprocess
import sys

import pytest

from diffharmony.common.assets import ROOT

# As the host: by path, under a name that is no Python identifier. In front of it, what a host of that version is told by.
SCRIPT = """
import asyncio, importlib.metadata, importlib.util, sys
sys.path.insert(0, sys.argv[1])
whole, missing = importlib.metadata.version, sys.argv[3:]
def version(name):
    if name in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return "0.30.3" if f"{name}=old" in missing else whole(name)
importlib.metadata.version = version
spec = importlib.util.spec_from_file_location("a-b", sys.argv[2] + "/__init__.py", submodule_search_locations=[sys.argv[2]])
module = importlib.util.module_from_spec(spec)
sys.modules["a-b"] = module
spec.loader.exec_module(module)
try:
    asyncio.run(module.comfy_entrypoint())
except Exception as error:
    print(error)
"""


def said(folder, host=None, *missing):
    """What comfy_entrypoint raises; nothing may be logged besides. The host's comfy_api is that of 0.3.64, as far as our nodes ask."""
    (folder / "comfy_api").mkdir()
    (folder / "comfy_api" / "__init__.py").touch()
    (folder / "comfy_api" / "latest.py").write_text("class ComfyExtension: pass\nclass io:\n    class ComfyNode: pass\n")
    if host is not None:
        (folder / "comfyui_version.py").write_text(f'__version__ = "{host}"\n')
    found = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(ROOT), *missing], capture_output=True, text=True)
    assert not found.stderr, found.stderr
    return found.stdout.rstrip("\n")


@pytest.mark.parametrize("host", ["0.16.3", "0.3.64", "0.18.1", None])
def test_an_older_host_is_told(tmp_path, host):
    assert said(tmp_path, host) == f"ComfyUI must be 0.18.2 or later for DiffHarmony, got {host or 'an older one'}. Update ComfyUI."


@pytest.mark.parametrize(("missing", "found"), [("diffusers", "none"), ("diffusers=old", "0.30.3"), ("einops", "none")])
def test_a_package_that_is_missing_or_too_old_is_named(tmp_path, missing, found):
    line = said(tmp_path, "0.18.2", missing)
    name = missing.partition("=")[0]
    assert line.startswith(f"{name}>=") and f"must be installed for DiffHarmony, got {found}. Run: {sys.executable} -m pip install -r " in line
    assert line.endswith("requirements.txt") and "\n" not in line


def test_the_oldest_host_is_the_registry_s():
    text = (ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8")
    oldest = text.partition('OLDEST_HOST = "')[2].partition('"')[0]
    assert f'requires-comfyui = ">={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
