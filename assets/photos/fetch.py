#!/usr/bin/env python3
"""Download the pinned archives and unpack the chosen photographs.

    fetch.py DESTINATION [--list chosen.txt]

A line of the list is `package/path-inside-the-archive`; a path through a `.rcc`
file (a Qt resource bundle) names a member of that bundle.  Pictures end up as
DESTINATION/<package>/<parent>-<name>.jpg|png: copied as they are, except that
WebP becomes JPEG (quality 95) and a side over 1600 pixels is reduced to that.

The archives (archives.txt: package, version, sha256) are Debian 12 (bookworm)
packages fetched by `apt-get download`: run this there after `apt-get update`.  A
stable release's versions move: one that is gone is reported and the exit status 1.
"""
import argparse
import collections
import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib

from PIL import Image

MAX_SIDE = 1600
HERE = pathlib.Path(__file__).resolve().parent


def download(package, folder):
    """Fetch one archive pinned in archives.txt, check it, return its path."""
    lines = (HERE / "archives.txt").read_text(encoding="utf-8").splitlines()
    version, digest = {line.split()[0]: line.split()[1:] for line in lines}[package]
    subprocess.run(["apt-get", "download", "-q", f"{package}={version}"], cwd=folder, check=True)
    (path,) = pathlib.Path(folder).glob(f"{package}_*.deb")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{package}: sha256 is {found}, expected {digest}")
    return path


def rcc_members(blob):
    """Yield (path, bytes) for the files of a Qt binary resource bundle."""
    version, tree, data, names = struct.unpack(">4x4I", blob[:20])
    size = 22 if version >= 2 else 14
    def walk(node, prefix):
        at = tree + node * size
        name_at, flags, first, second = struct.unpack(">IHII", blob[at:at + 14])
        if node:
            start = names + name_at + 6
            (length,) = struct.unpack(">H", blob[start - 6:start - 4])
            prefix += "/" + blob[start:start + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder: `first` children starting at node `second`
            for child in range(second, second + first):
                yield from walk(child, prefix)
        else:  # a file: its length-prefixed bytes lie at `second`
            start = data + second + 4
            (length,) = struct.unpack(">I", blob[start - 4:start])
            body = blob[start:start + length]
            yield prefix[1:], zlib.decompress(body[4:]) if flags & 1 else body
    yield from walk(0, "")


def members(deb):
    """Yield (path, bytes) for the regular files of a .deb, bundles opened."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for info in filter(tarfile.TarInfo.isfile, tar):
                path, body = info.name.removeprefix("./"), tar.extractfile(info).read()
                yield path, body
                if path.endswith(".rcc"):
                    for inner, inner_body in rcc_members(body):
                        yield f"{path}/{inner}", inner_body


def store(body, path, folder):
    """Write one picture under a flat name."""
    parent, name = pathlib.PurePosixPath(path).parts[-2:]
    target = folder / f"{parent}-{name}".replace(" ", "_")
    with Image.open(io.BytesIO(body)) as image:
        if image.format in ("JPEG", "PNG") and max(image.size) <= MAX_SIDE:
            return target.write_bytes(body)
        if image.format != "PNG":
            target = target.with_suffix(".jpg")
            image = image.convert("RGB")
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        return image.save(target, quality=95, subsampling=0)  # PNG ignores both


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("destination", type=pathlib.Path)
    parser.add_argument("--list", type=pathlib.Path, default=HERE / "chosen.txt")
    options, wanted = parser.parse_args(), collections.defaultdict(set)
    for line in options.list.read_text(encoding="utf-8").splitlines():
        package, path = line.split("/", 1)
        wanted[package].add(path)
    missing = 0
    for package, paths in wanted.items():
        left, folder = set(paths), options.destination / package
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                for path, body in members(download(package, scratch)):
                    if path in left:
                        store(body, path, folder)
                        left.remove(path)
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"{package}: {error}", file=sys.stderr)
        print(f"{package}: {len(paths) - len(left)} of {len(paths)}")
        missing += len(left)
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main())
