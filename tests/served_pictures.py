"""A pipeline whose captions come from a server; of the test's own, so that it shows what the engine does in a run."""

import json
from dataclasses import dataclass

from datamodules.line.frames import FrameRequest
from preprocess.captioning.served import Generation, ServedEngine, Server, SizeLimit
from preprocess.extractor import Extractor


@dataclass
class Said:
    text: str


class SaidSamples:
    def encode(self, sample):
        return {"txt": sample.text.encode()}

    def decode(self, key, members):
        return Said(members["txt"].decode())

    def collate(self, samples):
        return {"text": [sample.text for sample in samples]}


def ask_for(item):
    """The prompt for an item."""
    return f"What is {item.key}?"


class ServedPictures(Extractor):
    """Captions by `server`, of which nothing but what it serves belongs to the run."""

    samples = SaidSamples()

    def __init__(self, model: str, server: Server, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["server"])
        self.engine = ServedEngine(model, server, ask_for, Generation(), SizeLimit())
        self.frames = FrameRequest(batch_size, self.engine.transform)

    def ingredients(self):
        return self.engine.ingredients()

    def extract(self, batch):
        return self.engine.captions(batch["results"])

    def assemble(self, item, results, end):
        return Said(json.dumps(results[0].text))
