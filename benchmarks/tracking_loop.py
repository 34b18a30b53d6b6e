"""Baseline of `tracking.py`: the same tracker over the same videos in a bare loop.

python benchmarks/tracking_loop.py DETECTOR SEGMENTER VIDEOS OUT SLICE PROMPT
"""

import sys
from pathlib import Path
from typing import IO, Any

import av
import torch
from torch import Tensor

from datamodules.samples.track_lines import LineObject, bbox_of, line_of, rle_of
from preprocess.tracking.grounded import GroundedSam2
from preprocess.tracking.options import Identity, Thresholds
from preprocess.tracking.prompt import classes_of


def main(detector: str, segmenter: str, videos: str, out: str, batch_size: str, prompt: str) -> None:
    """Track every video and write its lines."""
    device = torch.device("cpu")
    backend = GroundedSam2(detector, segmenter, Thresholds(0.9, 0.9), Identity(max_objects=2))
    backend.load(device)
    Path(out).mkdir()
    for path in sorted(Path(videos).iterdir()):
        tracker = backend.start(classes_of(prompt))
        with av.open(str(path)) as container, open(Path(out, f"{path.stem}.partial"), "wb") as lines:
            stream = container.streams.video[0]
            frames: list[Tensor] = []
            seconds: list[float] = []
            first = 0
            for frame in container.decode(stream):
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).to(device))
                seconds.append(float(frame.time))
                if len(frames) == int(batch_size):
                    first += _track(tracker, first, frames, seconds, lines)
                    frames, seconds = [], []
            if frames:
                _track(tracker, first, frames, seconds, lines)
        Path(out, f"{path.stem}.partial").rename(Path(out, f"{path.stem}.jsonl"))


def _track(tracker: Any, first: int, frames: list[Tensor], seconds: list[float], lines: IO[bytes]) -> int:
    for index, objects in enumerate(tracker.track(first, frames)):
        line_objects: list[LineObject] = []
        for obj_id, label, score, mask in objects:
            rle = rle_of(mask.cpu().numpy())
            line_objects.append({"obj_id": obj_id, "label": label, "score": score, "bbox": bbox_of(rle), "mask": rle})
        lines.write(line_of({"frame_idx": first + index, "timestamp": seconds[index], "objects": line_objects}))
    return len(frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
