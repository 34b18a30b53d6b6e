"""People in COCO's JSON, which pycocotools loads and evaluates.

For each split three files:

| file                    | content                                                                                  |
|-------------------------|------------------------------------------------------------------------------------------|
| {split}.json            | {"info", "licenses", "images", "annotations", "categories"}, as `COCO(file)` takes it    |
| {split}_results.json    | the people as a list, as `COCO.loadRes(file)` takes it: image_id, category_id,           |
|                         | keypoints, score                                                                         |
| {split}_statistics.json | `statistics.py`                                                                          |

| field of an annotation | meaning                                                                                |
|------------------------|----------------------------------------------------------------------------------------|
| id                     | from 1, over all splits                                                                |
| image_id               | see the option `image_ids`                                                             |
| keypoints              | x, y in px and v of COCO's 17 joints, all but the neck; v is 2, or 0 (x and y too) if  |
|                        | the joint is missing                                                                   |
| num_keypoints          | number of joints that are not missing                                                  |
| bbox, area             | x, y, width, height in px around these joints, at least 1 px; width times height       |
| score                  | of the person                                                                          |
| iscrowd                | 0                                                                                      |

An image without people is among the images, without an annotation. A split without people has an empty list of results,
`[]`, which `loadRes` refuses. Coordinates are in px of the original image by default, because COCO's annotations, with
which results are compared, are.
"""

from pathlib import Path

from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from preprocess.export.coco_people import CocoPeople, ImageIds
from preprocess.export.source import Source

SAMPLES = PoseSamples


def export(
    source: Source[PoseSample], dest: Path, coordinates: Coordinates = "original", image_ids: ImageIds = "order"
) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of poses.
        dest: folder to write to.
        coordinates: in px of the processed or of the original image.
        image_ids: count images from 1, over all splits; or take the number at the end of each image's name, as COCO's
            images have it.

    Raises:
        ConfigError: a file exists; or images have no numbers in their names, or equal ones.
        RunError: a shard is damaged.
    """
    return CocoPeople(source, coordinates, image_ids).write(dest)
