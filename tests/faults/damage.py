"""What can be wrong with a file, by a seeded generator: its bytes, its safetensors header, its tensors, JSON, pickles, archives, names."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

DEEP = "[" * 100_000 + "]" * 100_000
CANARY = "diffharmony_canary"  # the folder that code in a file would make
NAMES = (
    "../outside", "../../outside", "/outside", "a/../../outside", "..", ".", "", " ", "C:/outside", "C:\\outside", "..\\outside", "\\\\host\\share",
    "CON", "con", "NUL", "nul.png", "COM1", "LPT9.jpg", "aux", "prn.txt", "name.", "name ", "a\nb", "a\x00b", "a:b", "a" * 300, "\udcff", "é\u0301",
    "-rf", "~", "~/outside", "$HOME", "%TEMP%", "a_b_c_d", "_", "__", ".hidden", "a|b", "a*b", "a?b", '"a"', "<a>", "\u202egnp", "\u2028",
)  # fmt: skip
HOSTILE = (
    None, True, False, 0, -1, 1, 7, 10**9, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", "x" * 100_000, "null", [], {}, [0],
    [-8, 8], [10**6] * 4, [8] * 1000, [[8]], {"a": 1}, [None], "DownBlock2D", ["DownBlock2D"], ["x"], [8, 8, 8], {"in_channels": 10**9},
)  # fmt: skip


def bytes_of(content: bytes, rng: Random) -> bytes:
    """Cut off, flipped, zeroed, repeated, grown, or nothing of it left."""
    data, kind = bytearray(content), rng.randrange(9)
    near = min(len(data), 4096) if rng.random() < 0.5 else len(data)  # headers lie at the beginning
    at = rng.randrange(max(near, 1))
    if kind == 0:
        return bytes(data[:at])
    if kind <= 3:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[rng.randrange(max(near, 1))] ^= 1 << rng.randrange(8)
    elif kind == 4:
        data[at : at + rng.choice((1, 16, 512))] = b"\0" * 16
    elif kind == 5:
        data[at:at] = data[: rng.choice((1, 64, 4096))]
    elif kind == 6:
        data += rng.randbytes(rng.choice((1, 100, 10_000)))
    elif kind == 7:
        del data[at : at + rng.choice((1, 2, 64))]
    else:
        return rng.choice((b"", b"\0" * 64, rng.randbytes(200), b"PK\x03\x04", b"{", b"\x80\x02}", b"<html>404</html>", b"version https://git-lfs"))
    return bytes(data)


def json_of(value: Any, rng: Random) -> str:
    """The text of a JSON value of which something is otherwise, or that is none."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((DEEP, "[" * 200_000, '{"a":' * 50_000, "1" * 10_000, "", "nul", '"x"', "[]", "3", "{}", "\ufeff{}", '{"a": NaN}', "\x00"))
    if kind == 1:
        text = json.dumps(value)
        return bytes_of(text.encode(), rng).decode("utf-8", "replace")
    found = json.loads(json.dumps(value))
    holder = found
    while isinstance(holder, dict) and holder and rng.random() < 0.4:  # some way down
        inner = rng.choice(list(holder.values()))
        if not isinstance(inner, dict) or not inner:
            break
        holder = inner
    if isinstance(holder, dict) and holder:
        key = rng.choice(sorted(holder))
        if kind == 2:
            del holder[key]
        elif kind == 3:
            holder[key] = "@deep@"
        else:
            for name in rng.sample(sorted(holder), min(len(holder), rng.choice((1, 1, 1, 2)))):
                holder[name] = rng.choice(HOSTILE)
    return json.dumps(found).replace('"@deep@"', DEEP)


def tensors_of(tensors: dict[str, torch.Tensor], rng: Random) -> dict[str, torch.Tensor]:
    """One or two of them lost, renamed, added, of another shape or dtype, or not finite."""
    found = dict(tensors)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(found))
        tensor, kind = found[name], rng.randrange(9)
        if kind == 0 and len(found) > 1:
            del found[name]
        elif kind == 1:
            found[rng.choice(("x", name + ".", "", "module." + name, "../" + name, "é" * 50, name.upper()))] = found.pop(name)
        elif kind == 2:
            found[rng.choice(("x", "encoder.x", "layer1.x", "first_stage_model.x", "empty_prompt_embeds", "diffharmony.metadata"))] = tensor.clone()
        elif kind == 3:
            found[name] = tensor.reshape(-1).contiguous()
        elif kind == 4:
            found[name] = tensor[None].clone()
        elif kind == 5:
            found[name] = torch.zeros(rng.choice(((0,), (1,), (), (0, 3), (10**6, 0), (2, 3, 4, 5, 6))))
        elif kind == 6:
            other = (torch.int8, torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.complex64)
            found[name] = tensor.float().to(rng.choice(other))
        elif kind == 7:
            found[name] = torch.full_like(tensor.float(), rng.choice((float("nan"), float("inf"))))
        else:
            found[name] = torch.cat([tensor.reshape(-1)] * 2).contiguous()
    return found


def header_of(content: bytes, rng: Random) -> bytes:
    """A safetensors file whose header says something else than its bytes: sizes, shapes, dtypes, places, texts."""
    length = struct.unpack("<Q", content[:8])[0]
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    kind, entry = rng.randrange(8), header[name]
    if kind == 0:
        return struct.pack("<Q", rng.choice((2**63, 2**64 - 1, 10**8, 10**9, length + 1, length - 1, 0, 1))) + content[8:]
    if kind == 1:
        entry["shape"] = rng.choice(([2**62], [10**9, 10**9], [-1], [], [0], "x", [1.5], [1] * 1000, [2**64], None, [10**12, 0]))
    elif kind == 2:
        entry["dtype"] = rng.choice(("F64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "I64", "X", "", 3, None, "U16", "U64", "F6_E2M3"))
    elif kind == 3:
        entry["data_offsets"] = rng.choice(([0, 2**63], [10, 0], [0, 0], [-1, 4], [0], [0, 4, 8], "x", [2**64, 2**65], [len(rest), len(rest) + 4]))
    elif kind == 4:
        header[rng.choice(NAMES)] = entry
    elif kind == 5:
        header["__metadata__"] = rng.choice(({"a": 1}, {"a": None}, [], "x", {"diffharmony.kind": ["unet"]}, {"x" * 1000: "y" * 1000}, None))
    elif kind == 6:
        del header[name]
    else:
        text = rng.choice((DEEP, '{"a":' * 100_000, "", "{}", "[]", "\xff", json.dumps(header)[:-1], json.dumps(header)[:-1] + "," + json.dumps(header)[1:]))
        encoded = text.encode("latin-1", "replace")
        return struct.pack("<Q", len(encoded)) + encoded + rest
    encoded = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + rest


class _Runs:
    """Unpickled, it makes a folder, or would."""

    def __init__(self, function: Callable, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def pickle_of(tensors: dict[str, torch.Tensor], rng: Random, canary: Path) -> bytes:
    """A PyTorch pickle, old or new, that runs code, grows, or holds other objects than a state dict of tensors."""
    import importlib
    import os
    import subprocess

    name = rng.choice(sorted(tensors))
    first, place, wide = tensors[name], str(canary), 10**6
    kind = rng.randrange(13)
    harmful = rng.choice((
        _Runs(os.mkdir, place), _Runs(exec, f"import os; os.mkdir({place!r})"), _Runs(eval, f"__import__('os').mkdir({place!r})"),
        _Runs(os.system, f"mkdir {place}"), _Runs(subprocess.Popen, ["mkdir", place]), _Runs(importlib.import_module, "antigravity"), _Runs(open, place, "w"),
        _Runs(torch.hub.download_url_to_file, "http://127.0.0.1:9/x", place), _Runs(torch.save, {}, place), _Runs(io.open_code, place),
    ))  # fmt: skip
    held: Any
    if kind <= 2:
        held = rng.choice(({**tensors, name: harmful}, harmful, {"state_dict": harmful}, {"state_dict": tensors, "callbacks": harmful}))
    elif kind == 3:
        held = {**tensors, name: rng.choice((torch.zeros(1).expand(wide, wide), first.reshape(-1)[:1].expand(10**5, 10**4)))}
    elif kind == 4:  # all of one storage: many times the file's size
        held = {key: torch.zeros(1, dtype=value.dtype).expand(value.shape) if value.ndim else value for key, value in tensors.items()}
    elif kind == 5:
        sparse = torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (wide, wide), check_invariants=True)
        held = {**tensors, name: rng.choice((sparse, torch.empty(wide, wide, device="meta"), torch.zeros(3, dtype=torch.complex64),
                                             torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8), torch.nn.Parameter(first.float())))}  # fmt: skip
    elif kind == 6:
        held = rng.choice(([], 3, "x", None, first, {}, {1: first}, {None: first}, {(1, 2): first}, [tensors], {"state_dict": []}, {"model": {}},
                           {"state_dict": {"a": 1}}, OrderedDict(), {name: None}, {"state_dict": {"state_dict": tensors}}))  # fmt: skip
    elif kind == 7:
        loop: dict[str, Any] = dict(tensors)
        loop[rng.choice(("state_dict", "model", "x"))] = loop
        held = loop
    elif kind == 8:
        return rng.choice((
            b"\x80\x04\x8e" + struct.pack("<Q", 10**13) + b"abc", b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"a", b"\x80\x02" + b"(" * 10**6 + b"l.",
            b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1), b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", b"\x80\x02cbuiltins\nbytearray\nJ"
            + struct.pack("<i", 2**31 - 1) + b"\x85R.", b"\x80\x02c" + b"x" * 10**6, b"\x80\x05.", b"\x80\x02N.", b"\x80\x02}q\x00.", b"cos\nsystem\n",
        ))  # fmt: skip
    elif kind == 9:
        return pickle.dumps(rng.choice((harmful, {"a": harmful}, [1, 2])))
    else:
        held = tensors_of(tensors, rng)
    saved = io.BytesIO()
    torch.save(held, saved, _use_new_zipfile_serialization=rng.random() < 0.6)
    return saved.getvalue() if kind != 12 else bytes_of(saved.getvalue(), rng)


def zip_of(content: bytes, rng: Random) -> bytes:
    """A PyTorch archive packed again: compressed, grown a thousand times, with other names, or entries that say something else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(item.filename, archive.read(item)) for item in archive.infolist()]
    kind, saved = rng.randrange(6), io.BytesIO()
    grown = rng.randrange(len(entries))
    method = zipfile.ZIP_DEFLATED if kind in (0, 1) else zipfile.ZIP_STORED
    with zipfile.ZipFile(saved, "w", method, compresslevel=1) as archive:
        for index, (name, data) in enumerate(entries):
            if kind == 1 and index == grown:
                data += b"\0" * 150_000_000
            if kind == 2 and index == grown:
                name = rng.choice(("../../outside", "/outside", name.upper(), name + "/", "x", name.replace("/", "\\")))
            item = zipfile.ZipInfo(name)
            item.compress_type = method
            if kind == 3 and index == grown:
                item.external_attr = rng.choice((0o120777 << 16, 0x10, 0o777 << 16))  # a link, a folder
            archive.writestr(item, data)
            if kind == 4 and index == grown:
                archive.writestr(name, b"twice")
    data = bytearray(saved.getvalue())
    if kind == 5:  # a central directory that declares sizes, places and numbers that are not there
        at = data.rfind(b"PK\x01\x02") if rng.random() < 0.7 else data.rfind(b"PK\x05\x06")
        field = at + rng.choice((10, 16, 20, 24, 28, 42))
        data[field : field + 4] = struct.pack("<I", rng.choice((2**32 - 1, 2**31, 10**9, 0, 8)))
    return bytes(data)


def save_damaged(good: Path, place: Path, rng: Random, canary: Path) -> str:
    """A damaged copy of one weights file of ours; place: without suffix. Returns: its name."""
    from safetensors import safe_open

    with safe_open(good, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    kind = rng.randrange(12)
    if kind <= 3:  # a pickle says nothing of itself: what tells it apart is how far it gets
        path = place.with_suffix(rng.choice((".bin", ".pth", ".pt", ".ckpt", ".PTH")))
        content = pickle_of(tensors, rng, canary)
        if kind == 3:
            saved = io.BytesIO()
            torch.save(tensors, saved)
            content = zip_of(saved.getvalue(), rng)
        path.write_bytes(content)
        return path.name
    path = place.with_suffix(rng.choice((".safetensors", ".safetensors", ".sft", ".SAFETENSORS")))
    if kind == 4:
        save_file(tensors_of(tensors, rng), path, metadata)
    elif kind <= 7:
        changed = dict(metadata)
        if kind == 5:
            changed["diffharmony.config"] = json_of(json.loads(metadata.get("diffharmony.config", "{}")), rng)
        else:
            key = rng.choice(sorted(metadata) or ["diffharmony.kind"])
            changed[key] = rng.choice((*map(str, HOSTILE), DEEP, "unet", "invert", "v_prediction", "harmony_vae", "[8]", json.dumps(list(NAMES)[:5])))
        if kind == 7:
            carried = rng.choice((json_of(changed, rng).encode("utf-8", "replace"), json.dumps(changed).encode()))
            tensors = {**tensors, "diffharmony.metadata": torch.frombuffer(bytearray(carried or b" "), dtype=torch.uint8)}
            if rng.random() < 0.3:
                tensors["diffharmony.metadata"] = tensors["diffharmony.metadata"].float() * rng.choice((1.0, 1e9, -1.0))
            changed = {}
        save_file(tensors, path, {name: text.encode("utf-8", "replace").decode() for name, text in changed.items()})
    else:
        content = good.read_bytes()
        path.write_bytes(header_of(content, rng) if kind <= 9 else bytes_of(content, rng))
    return path.name
