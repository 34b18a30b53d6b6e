"""Tracked objects over a frame: masks, boxes, labels."""

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.drawing.tracks import DrawnObject, draw_objects

GRAY = np.full((240, 320, 3), 128, np.uint8)


def square(
    obj_id: int, left: int = 100, top: int = 100, side: int = 60, size: tuple[int, int] = (240, 320)
) -> DrawnObject:
    """Return an object whose box is a square, and whose mask is its upper half."""
    mask = np.zeros(size, bool)
    mask[top : top + side // 2, left : left + side] = True
    return DrawnObject(obj_id, "car", 0.87, (left, top, left + side, top + side), mask)


def differs(picture: NDArray[np.uint8], frame: NDArray[np.uint8] = GRAY) -> NDArray[np.bool_]:
    anywhere: NDArray[np.bool_] = (picture != frame).any(2)
    return anywhere


def test_masks_are_tinted_boxes_framed_and_named_and_all_else_is_left() -> None:
    each = square(1)
    picture = draw_objects(GRAY, [each])
    changed = differs(picture)
    assert changed[102:128, 102:158].all()  # the mask
    assert not changed[132:158, 102:158].any()  # the rest of the box
    for edge in (changed[100, 100:160], changed[159, 100:160], changed[100:160, 100], changed[100:160, 159]):
        assert edge.all()
    assert changed[85:99, 100:150].any()  # the name
    changed[80:165, 95:220] = False
    assert not changed.any()
    assert (GRAY == 128).all()  # the frame itself is as it was
    assert not differs(draw_objects(GRAY, [])).any()


def test_a_label_that_could_mislead_is_drawn_escaped_and_a_long_one_cut() -> None:
    def labelled(label: str) -> NDArray[np.uint8]:
        return draw_objects(GRAY, [square(1)._replace(label=label)])

    assert not differs(labelled("a\u202e\n\ud800"), labelled(r"a\u202e\n\ud800")).any()
    assert not differs(labelled("a" * 10_000), labelled("a" * 80)).any()


def test_an_object_has_the_colour_of_its_id_whatever_comes_with_it() -> None:
    def colour(picture: NDArray[np.uint8], left: int) -> list[int]:
        found: list[int] = picture[115, left + 30].tolist()
        return found

    alone = [draw_objects(GRAY, [square(obj_id)]) for obj_id in range(1, 9)]
    colours = [colour(picture, 100) for picture in alone]
    assert len({tuple(each) for each in colours}) == 8
    both = draw_objects(GRAY, [square(2, left=10), square(5, left=200)])
    assert [colour(both, 10), colour(both, 200)] == [colours[1], colours[4]]
    assert colour(draw_objects(GRAY, [square(22)]), 100) == colours[0]  # 21 colours, and around again


def test_colours_are_rgb_as_the_frames() -> None:
    from supervision import ColorPalette

    wanted = ColorPalette.DEFAULT.colors[5].as_rgb()
    np.testing.assert_allclose(
        draw_objects(GRAY, [square(1)])[115, 130], 0.55 * 128 + 0.45 * np.array(wanted), atol=1.5
    )


def test_names_at_the_edges_are_within_the_frame() -> None:
    for place in ((0, 0), (260, 0), (0, 180), (260, 180)):
        picture = draw_objects(GRAY, [square(1, *place)])
        inside = picture.copy()
        left, top = place
        inside[top : top + 60, left : left + 60] = 128
        assert differs(inside).sum() + differs(picture)[:20].sum() > 500
