"""A short film of a still picture, and of its mask alike: the view wanders over it."""

from __future__ import annotations

from pathlib import Path

FRAMES, RATE = 12, 6
SHARE = 0.75  # of the picture's sides that is seen at a time
CLIP, MATTE = "clip.mp4", "clip_mask.mp4"


def save_clip(picture: Path, out: Path) -> None:
    """Write an MP4 of FRAMES frames, without sound, in which the view wanders from the left of a picture to its right."""
    import av
    from PIL import Image

    whole = Image.open(picture).convert("RGB")
    width, height = (round(side * SHARE) // 2 * 2 for side in whole.size)
    with av.open(str(out), "w") as film:
        stream = film.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "12"}
        for number in range(FRAMES):
            left, top = ((whole_side - side) * number // (FRAMES - 1) for whole_side, side in zip(whole.size, (width, height), strict=True))
            film.mux(stream.encode(av.VideoFrame.from_image(whole.crop((left, top, left + width, top + height)))))
        film.mux(stream.encode())
