"""Captions by tiny random models of four families, loaded as real ones are."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AddedToken, BlipConfig, Pix2StructConfig, Pix2StructImageProcessor, Pix2StructProcessor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from preprocess.captioning import inputs as inputs_module
from preprocess.captioning.caption import Caption
from preprocess.captioning.inputs import collate, unpack
from preprocess.captioning.local import LocalModel
from preprocess.captioning.prepared import Prepared
from preprocess.captioning.vision_language import find_model, processor_of
from preprocess.prompts import PromptTemplate
from support.caption_checkpoints import FAMILIES, save_checkpoint
from support.gpu import tf32_of_modules

CPU = torch.device("cpu")
SIZES = ((40, 60), (60, 40), (33, 99), (64, 64), (30, 31), (90, 30), (50, 50), (20, 80))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {family: save_checkpoint(family, folder / family) for family in FAMILIES}


def noisy_images(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    """Return images of these (height, width) with gradients and noise, the same each time."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in sizes:
        slopes = rng.uniform(-200, 200, (2, 3, 1, 1))
        y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
        values = rng.integers(0, 256, (3, 1, 1)) + slopes[0] * x + slopes[1] * y
        values = values + rng.integers(-40, 40, (3, height, width))
        made.append(torch.from_numpy(values.clip(0, 255).astype(np.uint8)))
    return made


def make_backend(folder: Path, **options: Any) -> LocalModel:
    return LocalModel(str(folder), **{"max_new_tokens": 12, **options})


def prepare(backend: LocalModel, frames: Sequence[Tensor], words: Sequence[str]) -> list[Prepared]:
    transform, prepared = backend.transform(PromptTemplate("Describe {what}."))(), []
    for frame, word in zip(frames, words, strict=True):
        transform.start(Item("a", "train", ".", ("a.png",), meta={"what": word}))
        prepared.append(transform(frame))
    return prepared


@pytest.fixture(scope="module")
def backends(folders: dict[str, Path]) -> dict[str, LocalModel]:
    made = {family: make_backend(folder) for family, folder in folders.items()}
    for backend in made.values():
        backend.load(CPU)
    return made


def shown(captions: Sequence[Caption | ExtractError]) -> list[Caption | str]:
    return [caption if isinstance(caption, Caption) else str(caption) for caption in captions]


def mixed(backend: LocalModel) -> list[Prepared]:
    """Images of many sizes, prompts of many lengths."""
    return prepare(backend, noisy_images(), ["it" + " so" * number for number in range(len(SIZES))])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_changes_with_the_image(backends: dict[str, LocalModel], family: str) -> None:
    backend = backends[family]
    answers = backend.generate(prepare(backend, noisy_images([(48, 48)] * 8), ["it"] * 8))
    assert len({tuple(answer) for answer in answers}) >= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_n_gives_the_tokens_of_n_batches_of_1(backends: dict[str, LocalModel], family: str) -> None:
    backend = backends[family]
    prepared = mixed(backend)
    assert len({each.num_tokens for each in prepared}) > 4
    alone = [backend.generate([each])[0] for each in prepared]
    together = backend.generate(prepared)
    said = [answer[: len(single)] for answer, single in zip(together, alone, strict=True)]
    assert said == alone
    assert shown(backend.captions(prepared)) == shown([backend.captions([each])[0] for each in prepared])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_would_change_answers(
    backends: dict[str, LocalModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pad_end(value: Tensor, num_places: int, fill: int) -> Tensor:
        return torch.nn.functional.pad(value, [0, num_places], value=fill)

    backend = backends[family]
    prepared = mixed(backend)
    expected = backend.captions(prepared)
    monkeypatch.setattr(inputs_module, "pad_start", pad_end)
    assert backend.captions(prepared) != expected


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_batched_as_the_processor_itself_does(
    backends: dict[str, LocalModel], folders: dict[str, Path], family: str
) -> None:
    prepared = mixed(backends[family])
    processor = find_model(str(folders[family])).processor()
    processor.tokenizer.padding_side = "left"
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in noisy_images()]
    prompts = [each.prompt for each in prepared]
    if processor.chat_template:
        content = [[{"type": "image"}, {"type": "text", "text": prompt}] for prompt in prompts]
        chats = [[{"role": "user", "content": each}] for each in content]
        prompts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    nested: Any = images if family in ("kosmos2", "qwen2_5_vl") else [[image] for image in images]
    expected = dict(processor(images=nested, text=prompts, padding=True, return_tensors="pt"))
    found = collate([{n: unpack(v, CPU) for n, v in each.inputs.items()} for each in prepared], 0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_captions_are_ok_truncated_or_empty_and_have_no_prompt(backends: dict[str, LocalModel]) -> None:
    found = [caption for backend in backends.values() for caption in backend.captions(mixed(backend))]
    captions = [caption for caption in found if isinstance(caption, Caption)]
    assert {caption.status for caption in captions} == {"ok", "truncated", "empty"}
    for caption in captions:
        assert "Describe" not in caption.text
        assert caption.num_tokens == 12 if caption.status == "truncated" else caption.num_tokens < 12
        assert (caption.status == "empty") <= (caption.text == "")


def test_each_answer_ends_at_its_own_mark(backends: dict[str, LocalModel]) -> None:
    backend = backends["smolvlm"]
    letters = {letter: token for token, letter in enumerate(sorted_letters(), 4)}
    x, y, end, other_end = letters["x"], letters["y"], 2, 124 + 39
    assert backend.caption([x, y, end, x, x]) == Caption("xy", "ok", 2)
    assert backend.caption([x, other_end, y, end, 0]) == Caption("x", "ok", 1)
    assert backend.caption([letters["Ġ"], end, x]) == Caption("", "empty", 1)
    assert backend.caption([x, letters["Ġ"], y]) == Caption("x y", "truncated", 3)


def sorted_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@pytest.fixture(scope="module")
def thinking(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolVLM with marks of thoughts as special tokens, and a chat template that opens thoughts by default."""
    folder = copied(folders["smolvlm"], tmp_path_factory.mktemp("thinking") / "model")
    processor = processor_of(find_model(str(folder)))
    marks = [AddedToken(mark, special=True) for mark in ("<think>", "</think>", "<|channel|>", "<|message|>", "<box>")]
    processor.tokenizer.add_tokens(marks)
    processor.chat_template += "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
    processor.save_pretrained(folder)
    return folder


def test_thoughts_are_removed_though_their_marks_are_special_tokens(thinking: Path) -> None:
    backend = make_backend(thinking, chat_template_kwargs={"enable_thinking": False})
    backend.load(CPU)
    tokens = find_model(str(thinking)).processor().tokenizer
    for generated, expected in (
        ("<think>Ears.</think><box>A cat.<box></s>", "A cat."),
        ("Ears.</think>A cat.</s>", "A cat."),
        ("<|channel|>analysis<|message|>Ears.assistant<|channel|>final<|message|>A cat.</s>", "A cat."),
        ("A cat.</s>", "A cat."),
        ("A <think> cat.</s>", "A <think> cat."),
    ):
        ids = tokens(generated, add_special_tokens=False)["input_ids"]
        assert backend.caption(ids) == Caption(expected, "ok", len(ids) - 1)
    with pytest.raises(
        ExtractError, match=r"the model only thought, and gave no caption in 6 tokens\. Raise --model\.backend\.max"
    ):
        backend.caption(tokens("<think>Ears.", add_special_tokens=False)["input_ids"])


def test_thoughts_that_the_chat_template_opens_and_the_model_does_not_close_are_no_caption(thinking: Path) -> None:
    backend = make_backend(thinking)
    backend.load(CPU)
    tokens = find_model(str(thinking)).processor().tokenizer
    closed, open_ = (
        tokens(text, add_special_tokens=False)["input_ids"] for text in ("Ears.</think>A cat.</s>", "Ears.")
    )
    assert backend.caption(closed) == Caption("A cat.", "ok", len(closed) - 1)
    for cut_off_or_not in (open_, [*open_, 2]):
        with pytest.raises(ExtractError, match="the model only thought, and gave no caption in 5 tokens"):
            backend.caption(cut_off_or_not)


def test_chat_template_kwargs_reach_the_chat_template_or_are_refused(thinking: Path, folders: dict[str, Path]) -> None:
    [off], [on] = (
        prepare(make_backend(thinking, chat_template_kwargs=kwargs), noisy_images([(40, 40)]), ["it"])
        for kwargs in ({"enable_thinking": False}, {"enable_thinking": True})
    )
    assert on.num_tokens == off.num_tokens + len("<think>\n") - len("<think>") + 1
    for folder, name in ((thinking, "thinking"), (thinking, "messages"), (thinking, "tokenize")):
        with pytest.raises(
            ConfigError, match=rf"--model\.backend\.chat_template_kwargs: the chat .* has no variable '{name}'"
        ):
            make_backend(folder, chat_template_kwargs={name: True})
    with pytest.raises(ConfigError, match=r"kosmos2 has no variable 'enable_thinking'"):
        make_backend(folders["kosmos2"], chat_template_kwargs={"enable_thinking": False})


def test_a_chat_template_that_refuses_a_system_prompt_or_a_value_is_one_line(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    processor = processor_of(find_model(str(folder)))
    processor.chat_template += (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ effort + 1 }}"
    )
    processor.save_pretrained(folder)
    for system_prompt, effort, reason in (
        ("Be brief.", 1, "no system role"),
        (None, "low", "can only concatenate str"),
    ):
        with pytest.raises(ConfigError, match=rf"^the chat template of .*/model cannot be filled in \({reason}"):
            make_backend(folder, system_prompt=system_prompt, chat_template_kwargs={"effort": effort})


def test_the_end_mark_of_the_tokenizer_ends_a_caption_though_the_checkpoint_does_not_name_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": [130]}))
    backend = make_backend(folder)
    backend.load(CPU)
    x = sorted_letters().index("x") + 4
    assert backend.caption([x, 2, x]) == backend.caption([x, 130, x]) == Caption("x", "ok", 1)


def test_kosmos2_keeps_located_phrases_as_entities(backends: dict[str, LocalModel], folders: dict[str, Path]) -> None:
    tokenizer = find_model(str(folders["kosmos2"])).processor().tokenizer
    said = "a<phrase> cat</phrase><object><patch_index_0044><patch_index_0863></object> sits"
    caption = backends["kosmos2"].caption([*tokenizer(said, add_special_tokens=False)["input_ids"], 2])
    assert (caption.text, caption.status) == ("a cat sits", "ok")
    boxes = [[0.390625, 0.046875, 0.984375, 0.828125]]
    assert caption.entities == [{"text": "cat", "begin": 2, "end": 5, "boxes": boxes}]


def test_a_checkpoint_that_samples_by_default_does_not_sample(backends: dict[str, LocalModel]) -> None:
    prepared = mixed(backends["smolvlm"])
    assert backends["smolvlm"].generate(prepared) == backends["smolvlm"].generate(prepared)


def test_a_forced_end_token_of_a_checkpoint_leaves_captions_truncated(
    folders: dict[str, Path], backends: dict[str, LocalModel], tmp_path: Path
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "forced_eos_token_id": 2}))
    backend = make_backend(folder)
    backend.load(CPU)
    found = backend.captions(mixed(backend))
    assert found == backends["smolvlm"].captions(mixed(backend))
    assert "truncated" in {caption.status for caption in found if isinstance(caption, Caption)}


def test_a_checkpoint_that_returns_several_sequences_gives_one_caption_per_image(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_return_sequences": 2}))
    backend = make_backend(folder, temperature=1.0)
    backend.load(CPU)
    prepared = mixed(backend)
    assert len(backend.captions(prepared)) == len(prepared)


def test_sampling_depends_on_the_batch_alone(folders: dict[str, Path], backends: dict[str, LocalModel]) -> None:
    backend = make_backend(folders["smolvlm"], temperature=5.0)
    backend.load(CPU)
    prepared = mixed(backend)
    torch.manual_seed(1)
    first = backend.generate(prepared)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    assert backend.generate(prepared) == first != backends["smolvlm"].generate(prepared)


def test_beam_search_changes_captions(folders: dict[str, Path], backends: dict[str, LocalModel]) -> None:
    backend = make_backend(folders["smolvlm"], num_beams=3)
    backend.load(CPU)
    prepared = mixed(backend)
    found = backend.captions(prepared)
    assert found == [backend.captions([each])[0] for each in prepared] != backends["smolvlm"].captions(prepared)


def test_a_system_prompt_goes_where_the_chat_template_says(folders: dict[str, Path]) -> None:
    [with_one], [without] = (
        prepare(make_backend(folders["smolvlm"], system_prompt=system), noisy_images([(40, 40)]), ["it"])
        for system in ("Be brief", None)
    )
    assert with_one.num_tokens == without.num_tokens + len("system: Be brief\n") + 1  # a token a letter, and a mark
    with pytest.raises(
        ConfigError, match=r"--model\.backend\.system_prompt cannot be used: .*kosmos2 has no chat template"
    ):
        make_backend(folders["kosmos2"], system_prompt="Be brief")


@pytest.mark.parametrize(
    ("family", "limit", "num_pixels"),
    [
        ("smolvlm", {"longest_edge": 32}, 32 * 32),
        ("smolvlm", {}, 5 * 32 * 32),
        ("idefics2", {"longest_edge": 24}, 24 * 18),
        ("idefics2", {"longest_edge": 12}, 12 * 12),
        ("qwen2_5_vl", {}, 56 * 72),
        ("qwen2_5_vl", {"max_pixels": 600}, 16 * 24),
    ],
)
def test_sizes_of_images_are_limited_by_each_processors_option(
    folders: dict[str, Path], family: str, limit: dict[str, int], num_pixels: int
) -> None:
    [prepared] = prepare(make_backend(folders[family], **limit), noisy_images([(200, 260)]), ["it"])
    assert prepared.num_pixels == num_pixels


@pytest.mark.parametrize(
    ("family", "limit", "message"),
    [
        (
            "smolvlm",
            {"max_pixels": 600},
            r"--model\.backend\.max_pixels 600: SmolVLM\w+ has no .* Use --model\.backend\.longest_edge",
        ),
        (
            "qwen2_5_vl",
            {"longest_edge": 9},
            r"--model\.backend\.longest_edge 9: Qwen2VL\w+ has no .* Use --model\.backend\.max_pixels",
        ),
        (
            "kosmos2",
            {"longest_edge": 9},
            r"--model\.backend\.longest_edge 9: CLIP\w+ has no .* It makes all images the same size",
        ),
        (
            "kosmos2",
            {"max_pixels": 9},
            r"--model\.backend\.max_pixels 9: CLIP\w+ has no .* It makes all images the same size",
        ),
    ],
)
def test_a_limit_that_a_processor_does_not_have_fails(
    folders: dict[str, Path], family: str, limit: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_backend(folders[family], **limit)


@pytest.mark.parametrize(
    ("family", "size", "word", "message"),
    [
        ("qwen2_5_vl", (1, 300), "it", "its processor: absolute aspect ratio must be smaller than 200"),
        ("smolvlm", (30, 30), "<image>", "its processor: The total number of <image> tokens"),
        ("kosmos2", (30, 30), "x" * 500, "its prompt and image are 578 tokens, where 500 are possible"),
        ("smolvlm", (30, 30), "", "its field 'what' is empty"),
    ],
)
def test_an_image_or_a_prompt_that_cannot_be_handled_fails_alone(
    folders: dict[str, Path], family: str, size: tuple[int, int], word: str, message: str
) -> None:
    with pytest.raises(ExtractError, match=message):
        prepare(make_backend(folders[family]), noisy_images([size]), [word])


def test_images_of_a_few_pixels_get_captions(backends: dict[str, LocalModel]) -> None:
    for backend in backends.values():
        assert len(backend.captions(prepare(backend, noisy_images([(1, 3), (3, 1), (4, 4)]), ["it"] * 3))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens = 0, .* must be 1 or more"),
        ({"max_pixels": 0}, "max_pixels = 0 and longest_edge = None must be 1 or more"),
        ({"num_beams": 0}, "num_beams = 0 must be 1 or more"),
        ({"temperature": -1.0}, r"temperature = -1\.0 must be 0 or more"),
        ({"quantization": "4bit"}, r"backend\.quantization 4bit needs bitsandbytes .*framemill\[quantization\]"),
        ({"quantization": "2bit"}, r"--model\.backend\.quantization 2bit is not one of 8bit, 4bit, null"),
        ({"dtype": "int8"}, r"--model\.backend\.dtype int8: use auto, bf16, fp16, fp32"),
        (
            {"attn_implementation": "someone/attention"},
            r"someone/attention is code from the Hugging Face hub\. If you trust it, set --model\.backend\.trust_re",
        ),
    ],
)
def test_options_out_of_range_fail(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalModel("nowhere", **options)


def test_captions_longer_than_the_context_of_the_model_fail_before_a_run(folders: dict[str, Path]) -> None:
    make_backend(folders["kosmos2"], max_new_tokens=511)
    with pytest.raises(
        ConfigError, match=r"--model\.backend\.max_new_tokens 512: .*kosmos2 takes 512 tokens in all, prompt and"
    ):
        make_backend(folders["kosmos2"], max_new_tokens=512)


def test_an_attention_that_cannot_be_used_here_fails(folders: dict[str, Path]) -> None:
    backend = make_backend(folders["smolvlm"], attn_implementation="flash_attention_2")
    with pytest.raises(ConfigError, match=r"smolvlm cannot be loaded on cpu: .*[Ff]lash"):
        backend.load(CPU)


def test_models_run_without_tf32(backends: dict[str, LocalModel]) -> None:
    for backend in backends.values():
        with tf32_of_modules() as states:
            backend.captions(prepare(backend, noisy_images([(40, 40)]), ["it"]))
        assert states == {False}


def test_a_model_in_bf16_gets_pixels_in_bf16(folders: dict[str, Path]) -> None:
    backend = make_backend(folders["qwen2_5_vl"], dtype="bf16", max_new_tokens=5)
    backend.load(CPU)
    prepared = mixed(backend)
    assert prepared[0].inputs["pixel_values"].dtype == torch.bfloat16
    assert len(backend.captions(prepared)) == len(prepared)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["config.json"], r"has no config: no config\.json"),
        (["processor_config.json"], r"has no processor: neither processor_config\.json nor preprocessor_config\.json"),
        (["tokenizer.json"], r"has no tokenizer: neither tokenizer\.json nor vocab\.json"),
        (["model.safetensors"], r"has no weights: neither \*\.safetensors nor \*\.bin"),
    ],
)
def test_a_folder_that_lacks_a_part_fails_and_says_which(
    folders: dict[str, Path], tmp_path: Path, removed: list[str], message: str
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=message):
        find_model(str(folder))


def test_a_part_of_the_weights_that_is_missing_fails(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(ConfigError, match=r"has no model-2\.safetensors, which model\.safetensors\.index\.json names"):
        find_model(str(folder))
    index.write_text("[]")
    with pytest.raises(ConfigError, match=r"has no readable weights: .*index\.json is damaged"):
        find_model(str(folder))


def test_missing_weights_are_not_initialized_at_random(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(folders["smolvlm"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"its weights lack .*{name.rpartition('layers')[2]}, so they are not"):
        make_backend(folder).load(CPU)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "mine"}, r"cannot load its config: .*mine"),
        (
            "config.json",
            {"model_type": "bert"},
            r"is a bert model, which does not generate texts for images\. Use a",
        ),
        ("config.json", BlipConfig().to_dict(), r"model is a BLIP model, .* depends on .* its batch\. .* as BLIP-2"),
        (
            "config.json",
            {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}},
            r"runs by code of its own\. Read it in .*, and if you trust it, set --model\.backend\.trust_remote_code",
        ),
        ("processor_config.json", {"processor_class": "CLIPProcessorX"}, r"cannot load its|has no"),
    ],
)
def test_a_folder_of_another_kind_fails(
    folders: dict[str, Path], tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))
    with pytest.raises(ConfigError, match=message):
        processor_of(find_model(str(folder)))


def test_a_processor_that_makes_no_tokens_and_pixels_fails_before_a_run(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "pix2struct")
    tokenizer = processor_of(find_model(str(folder))).tokenizer
    Pix2StructConfig().save_pretrained(folder)
    images = Pix2StructImageProcessor(is_vqa=False)  # type: ignore[call-arg]
    Pix2StructProcessor(images, tokenizer).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"pix2struct: its processor does not make input_ids .*KeyError: 'input_ids'"):
        make_backend(folder)


def test_a_folder_is_identified_by_its_files_wherever_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    here = find_model(str(folders["smolvlm"]))
    folder = copied(folders["smolvlm"], tmp_path / "snapshots" / "0f1e")  # as if in the hub's cache
    (folder / "README.md").write_text("of no consequence")
    there = find_model(str(folder))
    assert (here.commit, there.commit) == (None, None)
    assert there.identity() == here.identity()
    (folder / "generation_config.json").write_text("{}")
    assert there.identity() != here.identity()


def test_a_name_on_the_hub_is_identified_by_its_commit(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "models--maker--tiny" / "snapshots" / "0f1e")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(folder))
    found = find_model("maker/tiny")
    assert (found.path, found.commit, found.identity()) == (folder, "0f1e", "0f1e")


def test_a_revision_of_a_folder_fails(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"--model\.backend\.model .* is a folder, which has no revision v1\. Leave"):
        find_model(str(folders["smolvlm"]), "v1")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.safetensors", b"", "cannot be loaded on cpu: .*header too small"),
        ("model.safetensors", (10**15).to_bytes(8, "little") + b"{}", "cannot be loaded on cpu: .*header too large"),
        ("generation_config.json", b"[]", "cannot be loaded on cpu: 'list' object"),
        ("tokenizer.json", b"[" * 100_000, "cannot load its processor: "),
        ("chat_template.jinja", b"{{ 1 / 0 }}", "cannot be filled in .ZeroDivisionError: "),
        (
            "chat_template.jinja",
            b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "cannot be filled in .maximum recur",
        ),
        (
            "chat_template.jinja",
            b"{{ raise_exception('\x1b[2J' * 9999) }}",
            r"cannot be filled in .\\x1b\[2J.{0,300}\. Cha",
        ),
    ],
)
def test_a_damaged_or_hostile_file_is_one_line(
    folders: dict[str, Path], tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    (folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as failure:
        make_backend(folder).load(CPU)
    assert str(failure.value).isprintable()


def test_weights_that_are_a_pickle_with_code_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["smolvlm"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.nn.Linear(1, 1)}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"it needs torch\.nn\.modules\.linear\.Linear, and no code .* safetensors"):
        make_backend(folder).load(CPU)
