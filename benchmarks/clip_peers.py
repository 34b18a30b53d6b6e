"""Contenders that `clips.py` compares with Framemill: they store 16 evenly spaced frames of a video with its text.

    python benchmarks/clip_peers.py script PAIRS.json OUT 2

| contender  | meaning                                                                                                 |
|------------|---------------------------------------------------------------------------------------------------------|
| script     | a process pool; decord with width and height at opening, `np.linspace`, `get_batch`; a pickle per video |
| opencv     | the same pool; `cv2.VideoCapture`, every frame grabbed, the requested ones retrieved and resized        |
| torchcodec | a DataLoader with as many workers, out of order; exact mode, its own Resize; a pickle per video         |
| ray        | Ray Data: `map` over the pairs; decord and pickles as in the script                                     |
| litdata    | litData's `optimize`: decord as in the script; its own chunks                                           |
| bare       | no framework: every other pair on a core of its own; PyAV, with a scan of the packets, a seek to the    |
|            | keyframe, non-reference frames skipped, torch's resize; a pickle per video                              |

A contender is a process of its own, which does not need Framemill, and appends the time of every finished video to
OUT.txt. It decodes with one thread per process, to uint8 [16, 160, 256, 3], RGB.
"""

import json
import os
import pickle
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import Pool, Process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_FRAMES, HEIGHT, WIDTH = 16, 160, 256

Frames = NDArray[np.uint8]  # [16, 160, 256, 3], RGB
Pair = list[str]  # path of a video, text
Read = Callable[[str], Frames]


def main() -> None:
    """Run the contender that the command line names."""
    name, pairs, out, workers = sys.argv[1:]
    Path(out).mkdir()
    CONTENDERS[name](json.loads(Path(pairs).read_text()), out, int(workers))


def evenly(total: int) -> NDArray[np.int64]:
    """Return the indices of the requested frames among `total`."""
    return np.linspace(0, total - 1, NUM_FRAMES).astype(np.int64)


def finished_times(out: str) -> list[float]:
    """Return when the videos were finished, in seconds since the epoch."""
    return [float(line) for line in Path(f"{out}.txt").read_text().split()]


def _sample(read: Read, pair: Pair) -> dict[str, Any]:
    """Return the content to store of a pair."""
    path, text = pair
    frames = read(path)
    if frames.shape != (NUM_FRAMES, HEIGHT, WIDTH, 3) or frames.dtype != np.uint8:
        raise ValueError(f"{path} gave {frames.dtype} {frames.shape}, not uint8 [{NUM_FRAMES}, {HEIGHT}, {WIDTH}, 3]")
    return {"frames": frames, "text": text}


def _pickle(read: Read, out: str, pair: Pair) -> dict[str, str]:
    sample = _sample(read, pair)
    with open(f"{out}/{Path(pair[0]).stem}.pkl", "wb") as file:
        pickle.dump(sample, file)
    _note(out)
    return {"path": pair[0]}


def _note(out: str) -> None:
    with open(f"{out}.txt", "a") as file:  # O_APPEND: lines of several processes do not mix
        file.write(f"{time.time()}\n")


# Decoders


def by_decord(path: str) -> Frames:
    """Read frames with decord, which resizes while decoding."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), width=WIDTH, height=HEIGHT, num_threads=1)
    frames: Frames = reader.get_batch(evenly(len(reader))).asnumpy()
    return frames


def by_opencv(path: str) -> Frames:
    """Read frames with OpenCV by grabbing all: seeking is slower for long GOPs, and no faster for short ones."""
    import cv2

    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    position = -1
    for index in evenly(int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
        while position < index and video.grab():
            position += 1
        is_decoded, frame = video.retrieve()
        if is_decoded:
            resized = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))
        else:  # OpenCV counts more frames in some files than they have
            frames.append(frames[-1])
    video.release()
    return np.stack(frames).astype(np.uint8, copy=False)


def by_torchcodec(path: str) -> Frames:
    """Read frames with torchcodec, which resizes while decoding."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(
        path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", transforms=[Resize((HEIGHT, WIDTH))]
    )
    assert decoder.metadata.num_frames is not None
    frames: Frames = decoder.get_frames_at(evenly(decoder.metadata.num_frames).tolist()).data.numpy()
    return frames


def by_pyav(path: str) -> Frames:
    """Read frames as Framemill does, without its checks. Every frame of the file must have a timestamp."""
    import av

    with av.open(path) as container:
        stream: Any = container.streams.best("video")
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
    times = sorted(pts for pts, _ in packets)
    positions = {pts: position for position, (pts, _) in enumerate(packets)}
    keys = [position for position, (_, is_key) in enumerate(packets) if is_key]
    frames: list[Frames] = []
    with av.open(path) as container:
        stream = container.streams.video[0] if len(container.streams.video) == 1 else container.streams.best("video")
        stream.codec_context.thread_type = "NONE"
        for key, requested in _stretches([times[i] for i in evenly(len(times))], positions, keys):
            if key:
                container.seek(packets[key][0], stream=stream)
            frames.extend(_stretch(container, stream, positions, key, requested))
    return np.stack(frames)


def _stretches(requested: Sequence[int], positions: dict[int, int], keys: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return (index of the keyframe in the stream, requested timestamps) of each stretch decoded without a seek."""
    stretches: list[tuple[int, list[int]]] = []
    sent = -1
    for pts in requested:
        key = keys[bisect_right(keys, positions[pts]) - 1]
        if not stretches or key > sent:
            stretches.append((key, []))
        stretches[-1][1].append(pts)
        sent = max(sent, positions[pts])
    return stretches


def _stretch(
    container: Any, stream: Any, positions: dict[int, int], key: int, requested: Sequence[int]
) -> Iterator[Frames]:
    last = max(positions[pts] for pts in requested)
    counts = {pts: requested.count(pts) for pts in requested}
    for packet in container.demux(stream):
        position = positions.get(packet.pts, -1)
        if position < key:
            continue
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in counts else "NONREF"
        decoded = packet.decode()
        for frame in [*decoded, *(stream.codec_context.decode(None) if position >= last else ())]:
            if frame.pts in counts:
                yield from [_resized(frame.to_ndarray(format="rgb24", threads=1))] * counts[frame.pts]
        if position >= last:
            return


def _resized(frame: Frames) -> Frames:
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    resized = interpolate(pixels, (HEIGHT, WIDTH), mode="bilinear", antialias=True, align_corners=False)
    small: Frames = resized[0].permute(1, 2, 0).numpy()
    return small


# The contenders


def _pool(read: Read, pairs: Sequence[Pair], out: str, workers: int) -> None:
    with Pool(workers) as pool:
        for _ in pool.imap_unordered(partial(_pickle, read, out), pairs):
            pass


def _dataloader(pairs: Sequence[Pair], out: str, workers: int) -> None:
    from torch.utils.data import DataLoader

    pickled: Any = _Pickled(pairs, out)
    loader: Any = DataLoader(pickled, batch_size=None, num_workers=workers, in_order=False)
    for _ in loader:
        pass


class _Pickled:
    """Map-style data set that stores frames in the worker, which is cheaper than sending them to the main process."""

    def __init__(self, pairs: Sequence[Pair], out: str) -> None:
        self._pairs, self._out = pairs, out

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, str]:
        return _pickle(by_torchcodec, self._out, self._pairs[index])


def _ray(pairs: Sequence[Pair], out: str, workers: int) -> None:
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    folder = os.path.abspath(out)  # Ray's workers may have another working directory
    rows = ray.data.from_items([{"pair": pair} for pair in pairs])
    rows.map(lambda row: _pickle(by_decord, folder, list(row["pair"]))).materialize()


def _litdata(pairs: Sequence[Pair], out: str, workers: int) -> None:
    import litdata

    read = partial(_noted_sample, by_decord, out)
    litdata.optimize(
        read, list(pairs), out, chunk_bytes="64MB", num_workers=workers, keep_data_ordered=False, verbose=False
    )


def _noted_sample(read: Read, out: str, pair: Pair) -> dict[str, Any]:
    sample = _sample(read, pair)
    _note(out)
    return sample


def _bare(pairs: Sequence[Pair], out: str, workers: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    processes = [
        Process(target=_bare_share, args=(pairs[number::workers], out, cores[number % len(cores)]))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _bare_share(pairs: Sequence[Pair], out: str, core: int) -> None:
    import torch

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    for pair in pairs:
        _pickle(by_pyav, out, pair)


CONTENDERS: dict[str, Callable[[Sequence[Pair], str, int], None]] = {
    "script": partial(_pool, by_decord),
    "opencv": partial(_pool, by_opencv),
    "torchcodec": _dataloader,
    "ray": _ray,
    "litdata": _litdata,
    "bare": _bare,
}
MODULES = {
    "script": ["decord"],
    "opencv": ["cv2"],
    "torchcodec": ["torchcodec"],
    "ray": ["ray.data", "decord"],
    "litdata": ["litdata", "decord"],
    "bare": ["av", "torch"],
}

if __name__ == "__main__":
    main()
