"""Images per second of the captions pipeline on one device, compared with a plain loop over the images.

    python benchmarks/captions.py             # 10 minutes on 2 cores
    python benchmarks/captions.py --gpu       # a larger model on a GPU: images/s, tokens/s, utilization

Models have random weights and always generate `--tokens` tokens for an image. Contenders take turns over the same
JPEGs in the same batches. Each turn is a fresh process:

| contender  | meaning                                                                                                |
|------------|--------------------------------------------------------------------------------------------------------|
| loop       | one process: PIL, the processor over a batch, `generate`, a JSON for each image                        |
| preprocess | `preprocess run` in one process: a rank without workers                                                |
| worker     | the same with one worker that reads and processes images (only for the equal images)                   |
| budget     | preprocess, with batches of images of similar size up to `max_batch_tokens` (only for the mixed images)|

| images | meaning                                                                                                     |
|--------|-------------------------------------------------------------------------------------------------------------|
| equal  | 384x384 px; a SmolVLM cuts them into tiles                                                                  |
| mixed  | longest side 200 to 2000 px; a Qwen2.5-VL makes more tokens of larger images (at most `--max-pixels`)       |

The steady rate counts from the first finished batch, or shard, to the last; the whole rate from starting the process to
its end. Padded tokens are the share of padding among all tokens in batches.
"""

import argparse
import json
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.corpus import Item
from datamodules.loading.request import FrameRequest
from datamodules.loading.stream import FrameStream
from datamodules.loading.tickets import Ticket
from datamodules.media.image import read_image
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from measuring import Ratio, print_machine, print_table, print_verdict

_REPOSITORY = Path(__file__).parents[1]
_PROMPT = "Describe this image."
_WINDOW = 32  # images that a budget sorts at a time
_EQUAL_PX, _SHORTEST_PX, _LONGEST_PX = 384, 200, 2000
_LEAST_TO_LOOP, _LEAST_BUSY_PERCENT = 1.0, 90.0


class Turn(NamedTuple):
    """Result of one turn of one contender: images per second, steady and whole; tokens generated for an image."""

    steady: float
    whole: float
    num_tokens: float


class Job(NamedTuple):
    """The input of every contender of a group.

    Attributes:
        model: folder of the checkpoint.
        images: folder of the images.
        tokens: number of tokens to generate for an image.
        batch_size: number of images in a batch.
    """

    model: Path
    images: Path
    tokens: int
    batch_size: int


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "transformers", "lightning", "pillow")
    with tempfile.TemporaryDirectory(prefix="framemill-captions-") as name:
        scratch = Path(name)
        if options.gpu:
            _measure_gpu(scratch, options)
            return
        for group in options.groups:
            _GROUPS[group](scratch, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(_GROUPS), default=list(_GROUPS), help="(default: all)")
    parser.add_argument("--images", type=int, default=128, help="images in a turn (default: 128)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: 2)")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: 8)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate for an image (default: 16)")
    parser.add_argument("--max-pixels", type=int, default=400_000, help="limit for a mixed image (default: 400000)")
    parser.add_argument("--gpu", action="store_true", help="measure a larger model on a GPU instead of all that")
    options: argparse.Namespace = parser.parse_args()
    if options.images < 2 * _WINDOW:
        parser.error(f"--images {options.images}: the steady rate needs {2 * _WINDOW} or more")
    return options


def _compare_equal(scratch: Path, options: argparse.Namespace) -> None:
    from caption_models import save_smolvlm

    sizes = [(_EQUAL_PX, _EQUAL_PX)] * options.images
    model = save_smolvlm(scratch / "smolvlm", hidden=256, layers=6)
    job = Job(model, _make_images(scratch / "equal", sizes), options.tokens, options.batch_size)
    contenders: dict[str, dict[str, str] | None] = {
        "loop": None,
        "preprocess": {},
        "worker": {"data.num_workers": "1"},
    }
    turns = _take_turns(job, contenders, scratch, options.rounds)
    _print_group("equal sizes", turns)
    for ours in ("preprocess", "worker"):
        _verdict(turns, ours, "loop", "equal sizes")


def _compare_mixed(scratch: Path, options: argparse.Namespace) -> None:
    from caption_models import save_qwen

    model = save_qwen(scratch / "qwen", hidden=256, layers=6, max_pixels=options.max_pixels)
    job = Job(model, _make_images(scratch / "mixed", _mixed_sizes(options.images)), options.tokens, 8)
    limit = _limit(job)
    budget = {"model.max_batch_tokens": str(limit), "model.batch_size": "32", "model.batch_window": str(_WINDOW)}
    contenders: dict[str, dict[str, str] | None] = {"loop": None, "preprocess": {}, "budget": budget}
    turns = _take_turns(job, contenders, scratch, options.rounds)
    padded = {name: _padding(job, scratch / f"mixed-{name}") for name in ("preprocess", "budget")}
    _print_group(f"mixed sizes, budget of {limit:,} tokens a batch", turns, {**padded, "loop": padded["preprocess"]})
    _verdict(turns, "budget", "preprocess", "mixed sizes")
    print_verdict(
        "mixed sizes: fewer padded tokens by a budget than in fixed batches",
        f"{padded['budget']:.1%} to {padded['preprocess']:.1%} of all",
        padded["budget"] < padded["preprocess"],
    )


def _make_images(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Make JPEGs of soft colours of these (width, height) px; they compress as well as photographs."""
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        coarse = Image.fromarray(drawn.integers(0, 256, (12, 12, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def _mixed_sizes(count: int) -> list[tuple[int, int]]:
    drawn = random.Random(0)
    sizes = []
    for _ in range(count):
        longest = round(_SHORTEST_PX * (_LONGEST_PX / _SHORTEST_PX) ** drawn.random())
        other = round(longest * drawn.uniform(0.5, 1.0))
        sizes.append((longest, other) if drawn.random() < 0.5 else (other, longest))
    return sizes


def _take_turns(
    job: Job, contenders: dict[str, dict[str, str] | None], scratch: Path, rounds: int
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, ours in contenders.items():
            out = scratch / f"{job.images.name}-{name}"
            shutil.rmtree(out, ignore_errors=True)
            turn = _loop(job, out) if ours is None else _preprocess(job, out, ours)
            print(f"{job.images.name}, round {number}, {name}: {turn}", flush=True)
            turns[name].append(turn)
    return turns


def _loop(job: Job, out: Path) -> Turn:
    command = [sys.executable, str(Path(__file__).with_name("caption_loop.py")), str(job.model), str(job.images)]
    started = time.time()
    _call([*command, str(out), _PROMPT, str(job.batch_size), str(job.tokens)])
    whole = time.time() - started
    documents = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    tokens = sum(document["num_tokens"] for document in documents) / len(documents)
    return _turn([document["finished"] for document in documents], whole, tokens)


def _preprocess(job: Job, out: Path, ours: dict[str, str]) -> Turn:
    values = {
        "model.backend.model": str(job.model),
        "model.backend.max_new_tokens": str(job.tokens),
        "model.backend.dtype": "fp32",
        "model.prompt": _PROMPT,
        "model.batch_size": str(job.batch_size),
        "model.max_batch_pixels": "null",
        "data.root": str(job.images),
        "data.num_workers": "0",
        "output.dir": str(out),
        "output.shards.max_items": str(_WINDOW),
        "output.shards.min_shards": "1",
        **ours,
    }
    options = [f"--{name}={value}" for name, value in values.items()]
    started = time.time()
    _call([sys.executable, "-m", "preprocess", "run", "--config", str(_REPOSITORY / "configs/captions.yaml"), *options])
    whole = time.time() - started
    run = Run(out)
    records = list(run.records())
    assert sum(record.committed for record in records) == run.plan.num_items, "an image failed"
    finished = [run.committed_at(record.shard) for record in records for _ in range(record.committed)]
    samples = (json.loads(files["json"]) for _, files in CommittedSamples(run))
    return _turn(finished, whole, sum(sample["num_tokens"] for sample in samples) / len(finished))


def _turn(finished: Sequence[float], whole_seconds: float, num_tokens: float) -> Turn:
    """Return the rates of images that were finished at these times. The steady rate leaves out the first batch."""
    first, last = min(finished), max(finished)
    since = sum(time > first + 0.001 for time in finished)
    return Turn(since / (last - first), len(finished) / whole_seconds, num_tokens)


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stderr[-3000:]}")


def _request(job: Job, limits: dict[str, int]) -> FrameRequest:
    """Return the frame request of `Captions` with these limits of a batch."""
    from preprocess.captioning.local import LocalModel
    from preprocess.pipelines.captions import Captions

    return Captions(LocalModel(str(job.model)), _PROMPT, **limits).frames  # type: ignore[arg-type]


def _limit(job: Job) -> int:
    """Return the number of tokens in a batch of images of mean size, which the budget then allows."""
    transform: Any = _request(job, {}).transform
    captioning = transform()
    counts: list[int] = []
    for path in sorted(job.images.iterdir()):
        captioning.start(Item(path.stem, "train", "", (path.name,)))
        counts.append(captioning(read_image(path)).num_tokens)
    return round(job.batch_size * sum(counts) / len(counts))


def _padding(job: Job, out: Path) -> float:
    """Return the share of padding in the batches of a run, which the same code assembles again."""
    held = used = 0
    made_with = Run(out).plan.fingerprint["extractor"]["init_args"]
    names = ("batch_size", "max_batch_tokens", "batch_window")
    request = _request(job, {name: made_with[name] for name in names if made_with[name] is not None})
    tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
    plan = Run(out).plan
    for shard in plan.shards:
        for start in range(0, shard.num_items, request.images_in_ticket):
            rows = range(start, min(start + request.images_in_ticket, shard.num_items))
            tickets.put(Ticket(shard.number, tuple(rows)))
    tickets.put(None)
    for batch in FrameStream(plan, str(job.images), tickets, request, _NoMonitor()):
        lengths = [prepared.num_tokens for prepared in batch["results"]]
        held += max(lengths, default=0) * len(lengths)
        used += sum(lengths)
    return (held - used) / held


class _NoMonitor:
    """An `ActivityMonitor` that records nothing."""

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """Do nothing."""

    def mark_idle(self) -> None:
        """Do nothing."""


def _print_group(title: str, turns: dict[str, list[Turn]], padded: dict[str, float] | None = None) -> None:
    rows = []
    for name, taken in turns.items():
        steady, whole = (median(getattr(turn, field) for turn in taken) for field in ("steady", "whole"))
        share = [f"{padded[name]:.1%}"] if padded else []
        rows.append((name, f"{steady:.2f}", f"{steady * taken[0].num_tokens:.0f}", f"{whole:.2f}", *share))
    print(f"\n{title}")
    print_table(("", "images/s", "tokens/s", "whole images/s", *(["padded tokens"] if padded else [])), rows)


def _verdict(turns: dict[str, list[Turn]], ours: str, theirs: str, what: str) -> None:
    ratio = Ratio.of_pairs((turn.steady for turn in turns[ours]), (turn.steady for turn in turns[theirs]))
    target = f"{what}: {ours} ≥ {_LEAST_TO_LOOP} x {theirs}, steady"
    print_verdict(target, f"{ratio} x", ratio.median >= _LEAST_TO_LOOP)


def _measure_gpu(scratch: Path, options: argparse.Namespace) -> None:
    import torch

    from caption_models import save_smolvlm

    if not torch.cuda.is_available():
        print("this machine has no GPU: nothing is measured")
        return
    model = save_smolvlm(scratch / "smolvlm", hidden=1536, layers=24)
    images = _make_images(scratch / "equal", [(_EQUAL_PX, _EQUAL_PX)] * 16 * options.images)
    job = Job(model, images, 4 * options.tokens, 64)
    ours = {"data.num_workers": "12", "trainer.accelerator": "gpu", "model.backend.dtype": "bf16"}
    turn = _preprocess(job, scratch / "out", ours)
    records = list(Run(scratch / "out").records())
    busy = [record.machine.get("gpu", {}).get("utilization_percent", {}).get("mean") for record in records[1:]]
    percent = float(median(share for share in busy if share is not None))
    print(f"{torch.cuda.get_device_name()}: {turn.steady:.1f} images/s, {turn.steady * job.tokens:,.0f} tokens/s")
    print_verdict(f"GPU busy ≥ {_LEAST_BUSY_PERCENT} %", f"{percent:.1f} %", percent >= _LEAST_BUSY_PERCENT)


_GROUPS = {"equal": _compare_equal, "mixed": _compare_mixed}

if __name__ == "__main__":
    main()
