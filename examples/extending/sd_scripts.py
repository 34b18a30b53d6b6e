"""Images, each with its caption in a text file beside it, as kohya's sd-scripts train on.

    python -m preprocess export O --format examples.extending.sd_scripts --dest D --trigger 'gouache style'

`dest` becomes a folder of

| file                         | content                                                             |
|------------------------------|---------------------------------------------------------------------|
| {split}/{repeats}_{class}/…  | the images as stored: `sub%2Fa.jpg` for `sub/a.jpg`                 |
| {split}/{repeats}_{class}/…  | the caption of each, in a file of the same name that ends in `.txt` |

A split is a `--train_data_dir`, which shows each image `repeats` times per epoch. The run must store its images
(`--model.store_images jpg`).
"""

from pathlib import Path, PurePosixPath

from datamodules.errors import ConfigError
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.export.destination import whole_folder
from preprocess.export.image_tree import beside, create, flat
from preprocess.export.source import Source

SAMPLES = CaptionSamples


def export(source: Source[CaptionSample], dest: Path, trigger: str = "", repeats: int = 1) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of the captions pipeline.
        dest: a new or empty folder.
        trigger: words that the model learns for these images; they begin every caption, and name the class.
        repeats: how often an image is shown per epoch, 1 or more.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, `repeats` is below 1, or the run does not store its images.
        RunError: a shard is damaged, or two images have the same path.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats} must be 1 or more")
    images = f"{repeats}_{flat(PurePosixPath(trigger or 'images'))}"
    with whole_folder(dest) as folder:
        for split in source.splits:
            for sample in source.samples(split):
                if sample.image is None:
                    raise ConfigError(f"{sample.key} has no image. Run the pipeline with --model.store_images jpg")
                image = PurePosixPath(split, images) / flat(beside(sample.key, sample.meta, f".{sample.image_ending}"))
                create(folder, image, sample.image, sample.key)
                caption = ", ".join(filter(None, [trigger, sample.caption]))
                create(folder, image.with_suffix(".txt"), caption.encode(errors="replace"), sample.key)
    return [dest]
