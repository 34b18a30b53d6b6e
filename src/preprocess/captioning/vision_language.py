"""Vision-language models of transformers: which of them can make captions."""

from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from datamodules.errors import ConfigError
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.checkpoints.parts import TOKENIZER

_BLIP = "blip"  # its `generate` overwrites each prompt's first token, padding or not, and drops its last


def find_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelFolder:
    """Return the model `name`, checked; see `ModelFolder.find`.

    Raises:
        ConfigError: there is no such model, it does not generate texts for images, only its own code can run it and
            that is not trusted, or it is BLIP.
    """
    folder = ModelFolder.find(
        name,
        "--model.backend.model",
        (TOKENIZER,),
        revision=revision,
        trust_option="--model.backend.trust_remote_code",
        trust_remote_code=trust_remote_code,
    )
    config = folder.config()
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trust_remote_code:
        raise ConfigError(
            f"--model.backend.model {name} is a {config.model_type} model, which does not generate texts for images. "
            "Use a model that transformers loads as AutoModelForImageTextToText"
        )
    if config.model_type == _BLIP:
        raise ConfigError(
            f"--model.backend.model {name} is a BLIP model, whose caption of an image depends on the other prompts of "
            "its batch. Use a later model, such as BLIP-2"
        )
    return folder


def processor_of(folder: ModelFolder) -> Any:
    """Return a new processor of the model; it pads nothing.

    Raises:
        ConfigError: transformers cannot make it, it has no tokenizer, or it takes no images.
    """
    processor = folder.processor()
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise ConfigError(
                f"{folder.option} {folder.name}: its processor, {type(processor).__name__}, has no {part}"
            )
    return processor
