"""Decode two latents under one condition, then let it run out of memory: `out_of_memory.py VAE_FILE`. Prints one JSON object.

Memory cannot be made to run out on demand, so the library's decode raises torch's own error, for sizes above a limit.
"""

import json
import logging
import sys

import extension
import torch

path = sys.argv[1]
loaded = extension.load()
load_harmony_vae = extension.part(loaded, "harmony_vae").load_harmony_vae
HostHarmonyVAE = extension.part(loaded, "nodes.host_vae").HostHarmonyVAE
decode_harmonized = extension.part(loaded, "nodes.decode").decode_harmonized
model_management = extension.part(loaded, "nodes.host_vae").model_management
get_free_memory = model_management.get_free_memory

messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("diffharmony").addHandler(handler)

torch.manual_seed(0)
vae = HostHarmonyVAE(load_harmony_vae(path))
samples = {"samples": torch.randn(2, 4, 16, 16)}
image = torch.rand(1, 128, 128, 3)
mask = torch.zeros(1, 128, 128)
mask[:, 40:90, 30:100] = 1
with torch.inference_mode():
    tiled = decode_harmonized(samples, vae, image, mask, False, "exact", 64)
    whole = decode_harmonized(samples, vae, image, mask, False)
    plain = vae.decode(samples["samples"])
    library = vae.first_stage_model.harmony_vae
    encode_condition, encoded = library.encode_condition, []
    library.encode_condition = lambda *args: encoded.append(args) or encode_condition(*args)
    decode_harmonized(samples, vae, image, mask, False)
    library.encode_condition = encode_condition
    decode, attempts = library.decode, []

    def limited(z, condition=None, *args, **kwargs):
        attempts.append(z.shape[-1])
        if z.shape[-1] > 8:
            raise torch.OutOfMemoryError("as if the device had no memory left")
        return decode(z, condition, *args, **kwargs)

    library.decode = limited
    recovered = decode_harmonized(samples, vae, image, mask, False)
    whole_attempts = sum(size > 8 for size in attempts)
    decode_tiled, modes = library.decode_tiled, []

    def only_bounded(*args, mode, **kwargs):
        modes.append(mode)
        if mode == "exact":
            raise torch.OutOfMemoryError("as if the device had no memory left")
        return decode_tiled(*args, mode=mode, **kwargs)

    library.decode_tiled = only_bounded
    decode_harmonized(samples, vae, image, mask, False)
    decode_harmonized(samples, vae, image, mask, False, "bounded", 64)
    library.decode_tiled = decode_tiled
    modes_at_once = modes[3:]

    encoded_whole, encode = vae.encode(image), library.encode

    def limited_encode(pixels, *args, **kwargs):
        raise torch.OutOfMemoryError("as if the device had no memory left")

    library.encode = limited_encode
    encode_difference = (vae.encode(image) - encoded_whole).abs().max().item()
    library.encode = encode

    library.decode = decode
    model_management.get_free_memory = lambda device=None, **options: 2**20
    seen = []
    library.decode_tiled = lambda *args, mode, **kwargs: seen.append(mode) or decode_tiled(*args, mode=mode, **kwargs)
    decode_harmonized(samples, vae, image, mask, False)
    library.decode_tiled = decode_tiled

    def broken(*args, **kwargs):
        raise RuntimeError("something else")

    model_management.get_free_memory = get_free_memory
    library.decode = broken
    try:
        decode_harmonized(samples, vae, image, mask, False)
        other_error = None
    except RuntimeError as error:
        other_error = str(error)
print(
    json.dumps(
        {
            "difference_from_tiled": (recovered - tiled).abs().max().item(),
            "difference_from_whole": (recovered - whole).abs().max().item(),
            "modes": modes[:3],
            "modes_at_once": modes_at_once,
            "modes_in_little_memory": seen,
            "encode_difference": encode_difference,
            "difference_from_plain": (recovered - plain).abs().max().item(),
            "whole_attempts": whole_attempts,
            "conditions_encoded": len(encoded),
            "messages": messages,
            "other_error": other_error,
        }
    )
)
