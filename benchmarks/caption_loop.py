"""Baseline of `captions.py`: one process that captions a folder of images batch by batch.

    python benchmarks/caption_loop.py MODEL IMAGES OUT PROMPT BATCH_SIZE TOKENS

writes `OUT/{image}.json` with the caption, its number of tokens, and when it was finished.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(model_name: str, images: Path, out: Path, prompt: str, batch_size: int, num_tokens: int) -> None:
    """Caption all images in the folder `images`, in the order of their names."""
    out.mkdir(parents=True)
    processor: Any = AutoProcessor.from_pretrained(model_name)
    processor.tokenizer.padding_side = "left"
    model: Any = AutoModelForImageTextToText.from_pretrained(model_name)
    model.eval()
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(question, add_generation_prompt=True)
    paths = sorted(images.iterdir())
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        opened = [[Image.open(path).convert("RGB")] for path in batch]
        inputs = processor(images=opened, text=[text] * len(batch), padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False)
        generated = output[:, inputs["input_ids"].shape[1] :]
        for path, caption in zip(batch, processor.batch_decode(generated, skip_special_tokens=True), strict=True):
            document = {"caption": caption, "num_tokens": generated.shape[1], "finished": time.time()}
            (out / f"{path.name}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    name, folder, destination, question, size, count = sys.argv[1:]
    main(name, Path(folder), Path(destination), question, int(size), int(count))
