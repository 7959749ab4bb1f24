"""One drawing of a cat or a dog, with Pillow: shapes, then animals, then scenes.

Everything is drawn FINE times larger than needed and averaged down. Points are complex numbers, so that to move, turn
and scale a shape is one multiplication and one addition.
"""

import cmath
import math
import random
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw

SIZE = 192  # pixels of a finished drawing's side
FINE = 3  # drawn this many times larger and averaged down, because Pillow's polygons have hard edges

Colour = tuple[int, ...]
Shape = list[complex]  # a closed outline; x + yj, y pointing down as in an image


# ---- lines and shapes


class Pen(NamedTuple):
    """Where and how large to draw: the point z of a thing lands at `origin + turn * z` on the canvas."""

    canvas: ImageDraw.ImageDraw
    origin: complex
    turn: complex

    def at(self, to: complex, turn: complex = 1) -> "Pen":
        """The pen for a part that sits at `to` and is itself turned and scaled by `turn`."""
        return Pen(self.canvas, self.origin + self.turn * to, self.turn * turn)


def paint(pen: Pen, fill: Colour, *shapes: Shape, line: Colour | None = None, width: float = 0.06) -> None:
    """Fill shapes; with `line`, one outline runs around all of them together."""
    for ink, grow in ((line, width), (fill, 0.0)):
        for shape in shapes if ink else ():
            placed = [pen.origin + pen.turn * z for z in (grown(shape, grow) if grow else shape)]
            pen.canvas.polygon([(z.real, z.imag) for z in placed], ink)


def grown(shape: Shape, width: float) -> Shape:
    """The shape with a margin of `width` around it."""
    sides = [(a, b) for a, b in pairwise([shape[-1], *shape]) if abs(b - a) > 1e-9]
    steps = [(b - a) / abs(b - a) for a, b in sides]
    out = -2j * width if sum((a.conjugate() * b).imag for a, b in sides) > 0 else 2j * width  # clockwise or not
    bends = [u + v for u, v in pairwise([*steps, steps[0]])]  # short where the outline turns sharply
    return [b + out * bend / max(abs(bend) ** 2, 0.4) for (_, b), bend in zip(sides, bends, strict=True)]


def points(text: str) -> Shape:
    """Corners written as in SVG: "x,y x,y ..."."""
    return [complex(*map(float, pair.split(","))) for pair in text.split()]


def smooth(corners: Shape, closed: bool = True) -> Shape:
    """A soft line through the points (Catmull-Rom spline); a point given twice stays a corner."""
    around = [corners[-1], *corners, *corners[:2]] if closed else [corners[0], *corners, corners[-1]]
    line = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        for t in (i / 8 for i in range(8 if b != c else 1)):
            line.append(b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return line if closed else [*line, corners[-1]]


def soft(text: str) -> Shape:
    """`smooth` of `points`."""
    return smooth(points(text))


def oval(center: complex, rx: float, ry: float, lean: float = 0.0) -> Shape:
    """An ellipse, turned by `lean` radians."""
    angles = (math.tau * i / 40 for i in range(40))
    return [center + cmath.rect(1, lean) * complex(rx * math.cos(a), ry * math.sin(a)) for a in angles]


def block(left: float, top: float, right: float, bottom: float) -> Shape:
    """An upright rectangle."""
    return [complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)]


def stroke(corners: Shape, start: float, end: float) -> Shape:
    """A brush stroke along the points whose half width goes from `start` to `end`, with a round tip."""
    path = smooth(corners, closed=False)
    aside = [1j * (b - a) / abs(b - a) for a, b in pairwise(path)]
    aside = [n * (start + (end - start) * i / len(path)) for i, n in enumerate([*aside, aside[-1]])]
    tip = [path[-1] - aside[-1] * cmath.rect(1, math.pi * i / 8) for i in range(1, 8)]
    sides = list(zip(path, aside, strict=True))
    return [z - n for z, n in sides] + tip + [z + n for z, n in reversed(sides)]


def flip(shape: Shape, side: int = -1) -> Shape:
    """The shape mirrored to the left; with `side` 1, as it is."""
    return [complex(side * z.real, z.imag) for z in shape]


def both(*shapes: Shape) -> list[Shape]:
    """Each shape and its mirror image."""
    return [flip(shape, side) for shape in shapes for side in (1, -1)]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour `a` with a `share` of `b` in it."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


# ---- what both classes share: colours, markings, poses. Colour must tell nothing about the class.

# Fur, markings, and the pale parts (muzzle, chest, paws).
FURS: list[tuple[Colour, Colour, Colour]] = [
    ((66, 64, 72), (40, 38, 44), (122, 118, 126)),  # black
    ((70, 66, 70), (44, 40, 46), (244, 240, 234)),  # black and white
    ((244, 240, 234), (200, 190, 180), (255, 253, 250)),  # white
    ((240, 234, 224), (98, 82, 76), (255, 252, 246)),  # white with dark markings
    ((158, 160, 170), (106, 108, 120), (228, 228, 232)),  # grey
    ((126, 134, 150), (86, 92, 108), (182, 188, 200)),  # blue grey
    ((238, 158, 78), (200, 108, 42), (255, 236, 210)),  # orange
    ((214, 132, 82), (152, 84, 50), (246, 220, 190)),  # ginger
    ((150, 102, 72), (98, 62, 44), (216, 176, 134)),  # brown
    ((118, 80, 62), (72, 48, 40), (232, 206, 176)),  # dark brown
    ((240, 214, 168), (192, 148, 98), (255, 246, 226)),  # cream
    ((206, 176, 138), (124, 94, 76), (242, 224, 198)),  # fawn
]
MARKINGS = ("plain", "pale", "striped", "spotted", "masked")
IRISES: list[Colour] = [(150, 192, 84), (226, 190, 62), (216, 142, 56), (110, 184, 214), (130, 86, 52)]
WHITE, PINK, INK = (255, 255, 255), (240, 150, 156), (40, 32, 36)
PAINTS: list[Colour] = [  # walls, things, collars
    *[(226, 88, 80), (240, 160, 70), (246, 206, 90), (130, 186, 96), (72, 160, 140), (88, 164, 214), (82, 108, 186)],
    *[(150, 116, 190), (226, 136, 170), (184, 128, 92), (236, 228, 212), (120, 128, 140)],
]


class Coat(NamedTuple):
    """The colours of one animal."""

    fur: Colour
    mark: Colour
    pale: Colour
    line: Colour
    marking: str


class Pose(NamedTuple):
    """A body for a head of radius 1 at 0, facing right."""

    body: list[Shape]
    legs: list[Shape]  # paths
    paws: list[complex]
    chest: Shape
    tail: complex
    spots: list[Shape]
    stripes: list[Shape]
    middle: complex  # of head and body together, and where their shadow falls
    shadow: float
    scale: tuple[float, float]  # the head's radius as a share of the image's side
    ledge: float | None = None  # the height of a table that hides what is below


SITTING = Pose(
    body=[
        soft("-.5,.5 -.66,1.2 -.82,2.2 0,2.36 .82,2.2 .66,1.2 .5,.5"),
        *both(oval(0.68 + 1.95j, 0.42, 0.44), oval(0.92 + 2.3j, 0.28, 0.14)),
    ],
    legs=both(points(".27,1.35 .25,1.9 .27,2.3")),
    paws=[-0.28 + 2.3j, 0.28 + 2.3j],
    chest=soft("-.36,.8 -.3,1.3 0,1.75 .3,1.3 .36,.8"),
    tail=0.75 + 2.15j,
    spots=[oval(0.5 + 1.25j, 0.16, 0.24, 0.3), oval(-0.72 + 1.9j, 0.25, 0.22), oval(0.74 + 1.98j, 0.2, 0.24)],
    stripes=both(
        *[stroke([x + y, x - 0.3 + y + 0.05j], 0.07, 0.01) for x, y in ((0.62, 1.2j), (1.0, 1.75j), (1.06, 2j))]
    ),
    middle=0.5 + 0.55j,
    shadow=2.3,
    scale=(0.17, 0.25),
)
CLOSE = SITTING._replace(middle=0.15j, scale=(0.28, 0.46))
STANDING = Pose(
    body=[
        soft("-.45,.4 -.5,1.2 .6,1.5 1.7,1.4 2.15,1.2 2.1,.55 1.2,.4"),
        *[stroke([x + 1.2j, x + 2.2j], 0.21, 0.19) for x in (-0.28, 1.9)],
    ],
    legs=[points(".22,.9 .2,1.8 .16,2.25"), points("1.5,.9 1.5,1.8 1.44,2.25")],
    paws=[0.14 + 2.27j, 1.42 + 2.27j],
    chest=soft("-.44,.8 -.36,1.22 .1,1.35 .3,.9"),
    tail=2.02 + 0.7j,
    spots=[oval(0.85 + 0.75j, 0.28, 0.2, 0.3), oval(1.75 + 0.8j, 0.2, 0.24), oval(1.1 + 1.2j, 0.15, 0.12)],
    stripes=[stroke([x + 0.46j, x + 0.06 + 0.8j, x + 1.05j], 0.09, 0.01) for x in (0.75, 1.1, 1.45, 1.85)],
    middle=0.9 + 0.55j,
    shadow=2.3,
    scale=(0.15, 0.23),
)
LYING = Pose(
    body=[soft("-.7,.5 -.85,1.3 .5,1.46 1.95,1.42 2.2,.95 1.7,.35 .6,.25"), oval(1.55 + 1.4j, 0.34, 0.15)],
    legs=[],
    paws=[-0.45 + 1.36j, 0.2 + 1.38j],
    chest=soft("-.6,.7 -.62,1.2 .1,1.3 .4,.8"),
    tail=2.02 + 1.2j,
    spots=[oval(1.2 + 0.7j, 0.26, 0.2, 0.3), oval(1.75 + 0.95j, 0.24, 0.26), oval(0.95 + 1.15j, 0.16, 0.13)],
    stripes=[
        stroke([x + y, x + 0.1 + 0.75j, x + 0.06 + 1.05j], 0.09, 0.01)
        for x, y in ((0.9, 0.36j), (1.3, 0.36j), (1.7, 0.42j))
    ],
    middle=0.9 + 0.2j,
    shadow=1.45,
    scale=(0.16, 0.25),
)
PEEKING = SITTING._replace(
    legs=[], paws=[-0.74 + 1.06j, 0.74 + 1.06j], tail=0.8 + 1.2j, middle=0.2 + 0.2j, scale=(0.17, 0.34), ledge=1.05
)
POSES = (SITTING, CLOSE, CLOSE, STANDING, LYING, PEEKING)


# ---- what tells them apart: ears, head, tail, face


EARS = {  # the right one, of a head of radius 1 around 0; and whether it hangs in front of the head
    "cat": [
        (points(".1,-.66 .74,-1.46 .74,-1.46 .99,-.16 .5,-.2"), False),
        (points(".2,-.66 .98,-1.32 .98,-1.32 1.02,-.04 .5,-.2"), False),
        (points(".12,-.7 .62,-1.58 .62,-1.58 .96,-.2 .5,-.2"), False),
    ],
    "dog": [
        (points(".38,-.86 .84,-.86 1.16,-.36 1.26,.34 1,.62 .78,.24 .66,-.36"), True),
        (points(".36,-.84 .88,-.8 1.12,-.1 1.32,.72 1.06,1.1 .78,.72 .66,-.24"), True),
        (points(".3,-.8 .64,-1.22 1.06,-1.12 1.42,-.5 1.34,-.24 1,-.5 .86,-.3"), True),  # half up
        (points(".28,-.7 .5,-1.22 .76,-1.36 .96,-1.1 .96,-.3 .5,-.2"), False),  # up, with a round tip
    ],
}
HEADS = {
    "cat": soft("-1.04,.16 -.9,-.44 -.42,-.8 .42,-.8 .9,-.44 1.04,.16 .62,.68 0,.8 -.62,.68"),
    "dog": soft("-.92,.1 -.86,-.5 -.42,-.9 .42,-.9 .86,-.5 .92,.1 .66,.72 0,.96 -.66,.72"),
}
TAILS = {  # from the root at 0, going right and up; half width at root and tip
    "cat": [
        (points("0,0 .7,.1 1.05,-.5 .85,-1.2 1.2,-1.75"), 0.16, 0.1),
        (points("0,0 .8,.2 1.25,-.2 1.2,-.9 .8,-1.1 .7,-.75"), 0.16, 0.1),
        (points("0,0 .5,-.3 .7,-1 .6,-1.7 .9,-2"), 0.16, 0.1),
    ],
    "dog": [
        (points("0,0 .35,-.1 .62,-.5 .66,-.9"), 0.27, 0.15),
        (points("0,0 .4,0 .75,-.2 .98,-.5"), 0.28, 0.13),
        (points("0,0 .35,-.2 .5,-.6 .22,-.78"), 0.26, 0.17),
    ],
}


def draw_cat_face(pen: Pen, rng: random.Random, coat: Coat, look: complex) -> None:
    """Almond eyes with slits, a small nose, a short muzzle and whiskers."""
    iris, slit, asleep = rng.choice(IRISES), rng.uniform(0.05, 0.1), rng.random() < 0.1
    for side in (-1, 1):
        eye = pen.at(complex(0.42 * side, -0.06) + look)
        if asleep:
            paint(eye, INK, stroke(points("-.22,0 0,.11 .22,0"), 0.035, 0.035))
            continue
        lid = smooth(flip(points("-.24,.1 -.24,.1 -.06,-.17 .27,-.13 .27,-.13 .1,.17"), side))
        paint(eye, iris, lid, line=INK, width=0.05)
        paint(eye, INK, oval(0.2 * look, slit, 0.15))
        paint(eye, WHITE, oval(0.2 * look + 0.06 - 0.07j, 0.045, 0.045))
    muzzle = pen.at(0.34j + 1.25 * look)
    paint(muzzle, coat.pale, *both(oval(0.17 + 0.08j, 0.24, 0.18)), oval(0.22j, 0.14, 0.12))
    paint(muzzle, coat.line, *both(stroke(points("0,.02 .05,.14 .2,.13"), 0.025, 0.02)))
    hairs = [[0.26 + y, 0.66 + 1.9 * y - 0.06j, 1.05 + 3.2 * y - 0.08j] for y in (-0.04j, 0.05j, 0.13j)]
    paint(muzzle, WHITE if sum(coat.fur) < 330 else coat.line, *both(*[stroke(hair, 0.024, 0.012) for hair in hairs]))
    nose = rng.choice([PINK, PINK, mix(PINK, INK, 0.6)])
    paint(muzzle, nose, soft("-.12,-.1 .12,-.1 0,.04 0,.04"), line=coat.line, width=0.03)


def draw_dog_face(pen: Pen, rng: random.Random, coat: Coat, look: complex) -> None:
    """Round eyes, a long muzzle with a large nose, often a tongue."""
    iris, white = rng.choice(IRISES), rng.choice([WHITE, INK])
    for side in (-1, 1):
        eye = pen.at(complex(0.38 * side, -0.2) + look)
        paint(eye, white, oval(0, 0.17, 0.18), line=INK, width=0.04)
        paint(eye, iris, oval(0.25 * look, 0.14, 0.15))
        paint(eye, INK, oval(0.25 * look, 0.1, 0.11))
        paint(eye, WHITE, oval(0.25 * look + 0.06 - 0.07j, 0.045, 0.045))
        paint(eye, coat.line, stroke([-0.1 - 0.32j, 0.02 * side - 0.36j, 0.1 - 0.32j], 0.03, 0.03))
    muzzle = pen.at(0.28j + 1.9 * look)
    if rng.random() < 0.55:
        paint(muzzle, (236, 112, 124), soft("-.15,.46 -.17,.74 0,.9 .17,.74 .15,.46"), line=coat.line, width=0.05)
        paint(muzzle, (200, 80, 96), stroke([0.49j, 0.74j], 0.02, 0.015))
    paint(muzzle, coat.pale, oval(0.08j, 0.34, 0.42), *both(oval(0.22 + 0.32j, 0.31, 0.26)))
    freckles = [oval(z, 0.022, 0.022) for z in points(".2,.24 .29,.3 .38,.24")]
    smile = stroke(points("0,.28 .14,.44 .38,.4 .46,.28"), 0.03, 0.02)
    paint(muzzle, coat.line, stroke([0.02j, 0.28j], 0.028, 0.025), *both(smile, *freckles))
    paint(muzzle, INK, soft("-.26,-.16 0,-.22 .26,-.16 .16,.08 0,.13 -.16,.08"))
    paint(muzzle, (150, 140, 146), oval(0.06 - 0.13j, 0.08, 0.035))


FACES = {"cat": draw_cat_face, "dog": draw_dog_face}


# ---- the animal


def draw_head(pen: Pen, rng: random.Random, kind: str, coat: Coat) -> None:
    """Ears, head, markings, face."""
    look = complex(rng.uniform(-0.2, 0.2), rng.uniform(-0.07, 0.07))
    (ear, hangs), wide = rng.choice(EARS[kind]), rng.uniform(0.93, 1.07)
    head = [complex(z.real * wide, z.imag) for z in HEADS[kind]]
    turns = [(side, cmath.rect(rng.uniform(0.92, 1.08), rng.uniform(-0.1, 0.1))) for side in (-1, 1)]
    ears = [smooth(flip([0.5 - 0.5j + turn * (z - 0.5 + 0.5j) for z in ear], side)) for side, turn in turns]
    shade = coat.mark if coat.marking in ("masked", "spotted") else mix(coat.fur, coat.mark, rng.choice([0, 0.25, 0.5]))
    if not hangs:
        paint(pen, shade, *ears, line=coat.line)
    paint(pen, coat.fur, head, line=coat.line)
    if not hangs:
        for shape in ears:
            center = sum(shape) / len(shape)
            paint(pen, shade, shape)
            paint(pen, mix(PINK, coat.mark, 0.25), [center + 0.58 * (z - center) - 0.06j for z in shape])
        paint(pen, coat.fur, head)
    cheeks = both(*[stroke([0.92 * wide + y, 0.66 + y], 0.05, 0.01) for y in (0.12j, 0.3j)])
    brow = [stroke([x - 0.78j, 0.8 * x - y], 0.075, 0.01) for x, y in ((-0.26, 0.45j), (0, 0.38j), (0.26, 0.45j))]
    marks = {
        "striped": [*cheeks, *brow],
        "spotted": [oval(0.42 - 0.14j + look, 0.34, 0.4, -0.4)],
        "masked": [oval(0.28j + 1.2 * look, 0.62, 0.46)],
    }
    paint(pen, coat.mark, *marks.get(coat.marking, ()))
    if coat.marking == "pale":
        paint(pen.at(look), coat.pale, soft("0,-.74 .1,-.4 .3,.3 -.3,.3 -.1,-.4"))
    if hangs:
        paint(pen, shade, *ears, line=coat.line)
    FACES[kind](pen, rng, coat, look)


def draw_animal(pen: Pen, rng: random.Random, kind: str, pose: Pose) -> None:
    """One animal in its coat, from back to front."""
    fur, mark, pale = rng.choice(FURS)
    coat = Coat(fur, mark, pale, mix(mark, INK, 0.72), rng.choice(MARKINGS))
    ends = {"pale": pale, "masked": mark}.get(coat.marking, fur)
    path, root, tip = rng.choice(TAILS[kind])
    paint(pen.at(pose.tail), fur, stroke(path, root, tip), line=coat.line)
    paint(pen.at(pose.tail), ends, oval(path[-1], tip, tip))
    paint(pen, fur, *pose.body, line=coat.line)
    if coat.marking in ("pale", "striped"):
        paint(pen, pale, pose.chest)
    paint(pen, mark, *{"striped": pose.stripes, "spotted": pose.spots}.get(coat.marking, ()))
    for leg in pose.legs:
        paint(pen, fur, stroke(leg, 0.17, 0.2))
        paint(pen, coat.line, *[stroke([z + x for z in leg], 0.005, 0.045) for x in (-0.2, 0.2)])
    if rng.random() < 0.4:
        collar = rng.choice(PAINTS)
        paint(pen, collar, stroke(points("-.56,.72 0,.96 .56,.72"), 0.13, 0.13), line=mix(collar, INK, 0.6))
    draw_head(pen.at(0, cmath.rect(rng.uniform(0.92, 1.08), rng.uniform(-0.3, 0.3))), rng, kind, coat)
    if pose.ledge:
        wood = rng.choice(PAINTS)
        paint(pen, mix(wood, INK, 0.2), block(-9, pose.ledge, 9, 9))
        paint(pen, wood, block(-9, pose.ledge, 9, pose.ledge + 0.22))
    for paw in pose.paws:
        paint(pen.at(paw), ends, oval(0, 0.26, 0.17), line=coat.line)
        paint(pen.at(paw), coat.line, *both(stroke([0.09 + 0.04j, 0.09 + 0.16j], 0.02, 0.02)))


# ---- things and scenes


# A thing stands on 0. Its layers, from back to front: its colour with a share of another; outlined or not; shapes.
GREEN, FOOD = (104, 166, 90), (170, 112, 76)
LEAVES = [oval(-0.8j + z, abs(z), 0.2, cmath.phase(z)) for z in points("-.5,-.4 .5,-.4 -.3,-.65 .3,-.65 0,-.85")]
THINGS: list[list[tuple[Colour, float, bool, list[Shape]]]] = [
    [  # ball
        (WHITE, 0, True, [oval(-0.7j, 0.7, 0.7)]),
        (WHITE, 0.7, False, [stroke(points("-.62,-.95 0,-.5 .62,-.95"), 0.1, 0.1)]),
        (WHITE, 0.5, False, [oval(0.25 - 1.1j, 0.14, 0.1, 0.5)]),
    ],
    [  # plant
        *[(GREEN, 1, True, [leaf]) for leaf in LEAVES],
        (WHITE, 0, True, [points("-.6,-.9 .6,-.9 .45,0 -.45,0"), block(-0.68, -1, 0.68, -0.75)]),
    ],
    [  # parcel
        (WHITE, 0, True, [block(-0.9, -1.2, 0.9, 0)]),
        (INK, 0.15, True, [points("-.9,-1.2 .9,-1.2 .75,-1.45 -.75,-1.45")]),
        (WHITE, 0.5, False, [block(-0.15, -1.17, 0.15, 0)]),
    ],
    [  # bowl
        (WHITE, 0, True, [soft("-.9,-.6 -.9,-.6 -.7,0 .7,0 .9,-.6 .9,-.6")]),
        (INK, 0.35, True, [oval(-0.6j, 0.9, 0.18)]),
        (FOOD, 1, False, [oval(-0.62j, 0.7, 0.12)]),
    ],
    [  # cushion
        (WHITE, 0, True, [soft("-1.2,-1.3 -.95,-.7 -1.2,-.05 0,.05 1.2,-.05 .95,-.7 1.2,-1.3 0,-1.2")]),
        (WHITE, 0.4, False, [oval(x - 0.65j, 0.12, 0.12) for x in (-0.5, 0.0, 0.5)]),
    ],
]


def draw_thing(pen: Pen, rng: random.Random) -> None:
    """Some thing, in some colour, standing on the pen's origin."""
    colour = rng.choice(PAINTS)
    for tint, share, outlined, shapes in rng.choice(THINGS):
        fill = mix(colour, tint, share)
        paint(pen, fill, *shapes, line=mix(fill, INK, 0.6) if outlined else None)


def draw_room(pen: Pen, rng: random.Random, wall: Colour, other: Colour, horizon: float) -> None:
    """Wall and floor, with wallpaper, a window or image, and a rug at times."""
    if rng.random() < 0.4:
        paint(pen, mix(wall, WHITE, 0.25), *[block(x / 6, 0, x / 6 + 0.08, 1) for x in range(6)])
    floor = rng.choice([(186, 142, 104), (214, 190, 158), (140, 116, 104), (170, 176, 186)])
    paint(pen, mix(floor, other, 0.15), block(0, horizon, 1, 1))
    paint(pen, mix(wall, WHITE, 0.6), block(0, horizon - 0.025, 1, horizon + 0.01))
    frame = pen.at(complex(rng.uniform(0.02, 0.65), rng.uniform(0.03, 0.15)), rng.uniform(0.25, 0.35))
    if rng.random() < 0.7:
        paint(frame, mix((170, 214, 240), other, 0.3), block(0, 0, 1, 1), line=mix(wall, WHITE, 0.75), width=0.08)
        paint(frame, mix((130, 186, 120), other, 0.3), points("0,1 0,.7 .3,.5 .55,.75 .8,.6 1,.8 1,1"))
        if rng.random() < 0.5:
            paint(frame, mix(wall, WHITE, 0.75), block(0.47, 0, 0.53, 1), block(0, 0.47, 1, 0.53))
    if rng.random() < 0.5:
        paint(pen, mix(other, WHITE, 0.2), oval(complex(rng.uniform(0.2, 0.8), 0.92), 0.45, 0.09))


def draw_meadow(pen: Pen, rng: random.Random, sky: Colour, other: Colour, horizon: float) -> None:
    """Sky, sun, clouds, hills and trees over grass, sand or snow."""
    ground = rng.choice([(132, 190, 98), (104, 164, 92), (176, 196, 108), (214, 198, 150), (232, 238, 244)])
    if rng.random() < 0.5:
        paint(pen, (255, 232, 150), oval(complex(rng.random(), rng.uniform(0.05, 0.3)), 0.08, 0.08))
    for _ in range(rng.randrange(3)):
        cloud = pen.at(complex(rng.random(), rng.uniform(0.05, 0.35)))
        paint(cloud, (250, 250, 252), *[oval(z, 0.08, 0.05) for z in points("-.08,0 0,-.03 .08,0")])
    hill = pen.at(complex(rng.random(), horizon + 0.1))
    paint(hill, mix(ground, sky, 0.4), oval(0, 0.6, 0.22), oval(0.7, 0.5, 0.18), oval(-0.7, 0.5, 0.16))
    for _ in range(rng.randrange(3)):
        tree = pen.at(complex(rng.random(), horizon + 0.02))
        paint(tree, (130, 96, 76), block(-0.015, -0.12, 0.015, 0))
        paint(tree, mix(ground, (40, 90, 60), 0.5), oval(-0.2j, 0.09, 0.12))
    paint(pen, ground, block(0, horizon, 1, 1))
    blades = [stroke([0, x - 0.04j], 0.006, 0.002) for x in (-0.02, 0, 0.02)]
    for _ in range(14):
        paint(pen.at(complex(rng.random(), rng.uniform(horizon + 0.05, 1))), mix(ground, INK, 0.2), *blades)


def draw_dots(pen: Pen, rng: random.Random, wall: Colour, other: Colour, horizon: float) -> None:
    """A flat ground with dots, larger or smaller, down to none."""
    radius = rng.choice([0, 0.015, 0.03])
    dots = [complex((i + 0.5 * (j % 2)) / 6, j / 6) for i in range(7) for j in range(7)]
    paint(pen, mix(wall, other, 0.35), *[oval(z, radius, radius) for z in dots if radius])


SCENES = (draw_room, draw_room, draw_meadow, draw_meadow, draw_dots)


def draw(split: str, kind: str, number: int) -> Image.Image:
    """The drawing with this number: always the same one. RGB, SIZE x SIZE."""
    rng = random.Random(f"{split}-{kind}-{number}")
    wall, other = (mix(rng.choice(PAINTS), rng.choice([WHITE, WHITE, INK]), rng.uniform(0.1, 0.7)) for _ in range(2))
    corners = [mix(wall, WHITE, rng.uniform(0, 0.3)) for _ in range(4)]
    fine = (SIZE * FINE, SIZE * FINE)
    canvas = Image.frombytes("RGB", (2, 2), bytes(sum(corners, ()))).resize(fine, Image.Resampling.BILINEAR)
    pen = Pen(ImageDraw.Draw(canvas, "RGBA"), 0j, SIZE * FINE)

    pose = rng.choice(POSES)
    scale = rng.uniform(*pose.scale)
    place = complex(rng.gauss(0.5, 0.12), rng.gauss(0.5, 0.1)) - scale * pose.middle
    feet = place.imag + scale * pose.shadow
    horizon = min(rng.uniform(0.45, 0.8), feet - 0.04)  # nobody stands on the wall
    rng.choice(SCENES)(pen, rng, wall, other, horizon)
    for _ in range(rng.randrange(3)):
        draw_thing(pen.at(complex(rng.random(), rng.uniform(horizon + 0.04, 1)), rng.uniform(0.07, 0.14)), rng)
    paint(pen, (20, 16, 30, 50), oval(complex(place.real + scale * pose.middle.real, feet), scale * 1.7, scale * 0.25))
    draw_animal(pen.at(place, scale * cmath.rect(1, rng.gauss(0, 0.05))), rng, kind, pose)
    if rng.random() < 0.4:
        draw_thing(pen.at(complex(rng.choice([0.08, 0.92]), rng.uniform(0.95, 1.1)), rng.uniform(0.1, 0.15)), rng)
    if rng.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return canvas.reduce(FINE)
