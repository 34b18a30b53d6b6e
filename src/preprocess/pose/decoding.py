"""People from the heatmaps and part affinity fields of OpenPose's network, for a whole batch at once.

The method is that of Cao et al. (CVPR 2017) as pytorch-openpose and ControlNet implement it, with their numbers:

| step     | what it does                                                                                        |
|----------|-----------------------------------------------------------------------------------------------------|
| upsample | maps to the image's size: bicubic, times 8, cut, bicubic; the mean of all scales                     |
| peaks    | of each joint's heatmap, blurred (sigma 3 px): above 0.1 and no less than their four neighbours      |
| limbs    | 10 points between two peaks: 9 or more along the field (above 0.05), and their mean, less a penalty  |
|          | for more than half the image's height, above 0; of limbs that share a peak, the best                 |
| assemble | limbs that share a peak are one person; limbs from shoulder to ear only add ears, or join two people |
| prune    | people with fewer than 4 joints, or with a score of joints and limbs below 0.4 per joint             |

Differences from those implementations:

- Several scales are averaged. There, `heatmap_avg += heatmap_avg + …` doubles the earlier ones.
- Of neighbours with equal values one is a peak, not both.
- A limb from shoulder to ear never replaces an ear that a person has, nor gives an ear to two people that it does not
  join.
- For images above 1024 px, maps are upsampled less (see `openpose`).
- At most 127 peaks of a joint are considered, as in OpenPose (`POSE_MAX_PEOPLE`).
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.skeleton import JOINTS
from preprocess.pose.backend import NOBODY, People, sorted_people
from preprocess.pose.limbs import PAFS, Limbs, find_limbs
from preprocess.pose.maps import Maps, Scale
from preprocess.pose.peaks import Peaks, find_peaks

_NUM_TREE = 17  # the first limbs of `PAFS` start people; those after them, from shoulder to ear, do not
_MIN_JOINTS, _MIN_SCORE = 4, 0.4


def decode(maps: Sequence[Maps]) -> list[People]:
    """Return the people in each image, their joints in px of the upsampled maps; see the module's table.

    The score of a joint is the heatmap's value. The score of a person is the sum of the scores of its joints and limbs
    divided by the number of joints: from 0.4 to about 2.

    Args:
        maps: of the same images, at each scale.
    """
    scales = [Scale.of(maps_of_scale) for maps_of_scale in maps]
    peaks = find_peaks(scales)
    limbs = find_limbs(peaks, scales)
    people = [NOBODY] * len(maps[0].heatmaps)
    for image, rows in groupby(_rows(limbs), key=itemgetter(0)):
        people[image] = _pruned(_assembled((row[1:] for row in rows), peaks.scores), peaks)
    return people


def _rows(limbs: Limbs) -> Iterable[tuple[int, int, int, int, float]]:
    """Return (image, index in `PAFS`, first peak, second peak, score) of each limb, by image and limb, best first."""
    order = np.lexsort((-limbs.scores, limbs.pafs, limbs.images))
    columns = limbs.images, limbs.pafs, *limbs.ends.T, limbs.scores
    return zip(*(column[order].tolist() for column in columns), strict=True)


class _Person:
    """A person that is being assembled.

    Attributes:
        joints: index of the peak of each joint; -1: none yet.
        score: the sum of the scores of joints and limbs.
    """

    __slots__ = ("joints", "score")

    def __init__(self) -> None:
        self.joints, self.score = [-1] * len(JOINTS), 0.0

    def can_join(self, other: "_Person") -> bool:
        return not any(a >= 0 and b >= 0 for a, b in zip(self.joints, other.joints, strict=True))

    def join(self, other: "_Person") -> None:
        self.joints = [max(a, b) for a, b in zip(self.joints, other.joints, strict=True)]
        self.score += other.score


def _assembled(limbs: Iterable[tuple[int, int, int, float]], scores: NDArray[np.float32]) -> list[_Person]:
    """Return the people in one image.

    Args:
        limbs: (index in `PAFS`, first peak, second peak, score), by index, the best first. A limb whose peak a better
            limb of the same index has is skipped.
        scores: of the peaks.
    """
    person_of: dict[int, _Person] = {}  # by peak
    used: set[tuple[int, int]] = set()  # (index in `PAFS`, peak)
    for paf, first, second, score in limbs:
        if (paf, first) in used or (paf, second) in used:
            continue
        used |= {(paf, first), (paf, second)}
        person, other = person_of.get(first), person_of.get(second)
        if person is None and other is None and paf < _NUM_TREE:
            person = person_of[first] = _Person()
            person.joints[PAFS[paf][0]], person.score = first, float(scores[first])
        if person is None or person is other:
            continue
        if other is None and person.joints[PAFS[paf][1]] < 0:
            person.joints[PAFS[paf][1]] = second
            person.score += float(scores[second]) + score
            person_of[second] = person
        elif other is not None and person.can_join(other):
            person.join(other)
            person.score += score
            person_of.update({peak: person for peak in other.joints if peak >= 0})
    return list({id(person): person for person in person_of.values()}.values())


def _pruned(people: Sequence[_Person], peaks: Peaks) -> People:
    """Return the people with enough joints and a high enough score."""
    kept = []
    for person in people:
        num_joints = sum(peak >= 0 for peak in person.joints)
        if num_joints >= _MIN_JOINTS and person.score / num_joints >= _MIN_SCORE:
            kept.append((person.joints, person.score / num_joints))
    if not kept:
        return NOBODY
    joints, scores = (np.array(values) for values in zip(*kept, strict=True))
    keypoints = np.concatenate([peaks.positions[joints][..., :1:-1], peaks.scores[joints][..., None]], -1)
    return sorted_people(np.where(joints[..., None] >= 0, keypoints, 0), scores)
