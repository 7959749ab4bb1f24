"""Draw the built-in sample set of cats and dogs: `python -m docs.drawings` writes classifier/data/sample.zip.

2 x 300 for training and 2 x 60 for testing, lossless WebP of 192 x 192, in 12 seconds of one core. They are called
drawings wherever they appear: a network trained on them knows nothing of photographs.

Both classes take fur, markings and scenes from the same tables; ears, head, face and tail differ. So colour tells
almost nothing and shape nearly everything. Points are complex numbers, x + yj with y pointing down: to move, turn and
scale a shape is one multiplication and one addition.
"""

import cmath
import io
import math
import random
import zipfile
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw

from classifier.data.sample_set import ARCHIVE

CLASSES = ("cat", "dog")
COUNTS = {"train": 300, "test": 60}  # drawings per class
SIZE = 192  # pixels of a drawing's side
FINE = 3  # drawn this many times larger and averaged down, because Pillow's polygons have hard edges

Colour = tuple[int, ...]
Shape = list[complex]  # corners of an outline


def main() -> None:
    """Write all drawings, the same bytes each time."""
    with zipfile.ZipFile(ARCHIVE, "w") as archive:
        for split, count in COUNTS.items():
            for kind in CLASSES:
                for number in range(count):
                    stream = io.BytesIO()
                    draw(split, kind, number).save(stream, "WEBP", lossless=True, method=6)
                    archive.writestr(zipfile.ZipInfo(f"{split}/{kind}/{kind}.{number}.webp"), stream.getvalue())


def draw(split: str, kind: str, number: int) -> Image.Image:
    """Return the drawing with this number, always the same one. RGB, SIZE x SIZE."""
    rng = random.Random(f"{split}-{kind}-{number}")
    canvas = Image.new("RGB", (SIZE * FINE, SIZE * FINE))
    pen = Pen(ImageDraw.Draw(canvas, "RGBA"), 0j, SIZE * FINE)
    close = rng.random() < 0.4
    scale = rng.uniform(0.28, 0.4) if close else rng.uniform(0.16, 0.26)  # the head's radius
    head = complex(rng.gauss(0.5, 0.1), rng.gauss(0.5, 0.07)) - scale * (0.15j if close else 0.8j)
    feet = head + 2.3j * scale
    horizon = min(rng.uniform(0.45, 0.8), feet.imag - 0.04)

    sky, hill, ground = (mix(rng.choice(PAINTS), rng.choice([WHITE, WHITE, INK]), rng.uniform(0.1, 0.7)) for _ in "123")
    paint(pen, sky, SQUARE)
    paint(pen, mix(sky, WHITE, 0.6), oval(complex(rng.random(), rng.uniform(0.05, 0.3)), 0.09, 0.09))  # the sun
    paint(pen, mix(hill, sky, 0.5), oval(complex(rng.random(), horizon), 0.5, 0.12))
    paint(pen.at(1j * horizon), ground, SQUARE)
    paint(pen, (20, 16, 30, 50), oval(feet, scale * 1.7, scale * 0.25))  # a shadow
    draw_animal(pen.at(head, scale * cmath.rect(1, rng.gauss(0, 0.05))), rng, kind)
    if rng.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return canvas.reduce(FINE)


# ---- lines and shapes


class Pen(NamedTuple):
    """Where and how large to draw: the point z of a thing lands at `origin + turn * z` on the canvas."""

    canvas: ImageDraw.ImageDraw
    origin: complex
    turn: complex

    def at(self, to: complex, turn: complex = 1) -> "Pen":
        """Return the pen for a part that sits at `to` and is itself turned and scaled by `turn`."""
        return Pen(self.canvas, self.origin + self.turn * to, self.turn * turn)


def paint(pen: Pen, fill: Colour, *shapes: Shape, line: Colour | None = None, width: float = 0.06) -> None:
    """Fill shapes; with `line`, one outline runs around all of them together."""
    placed = [[pen.origin + pen.turn * z for z in shape] for shape in shapes]
    outlines = [[(z.real, z.imag) for z in shape] for shape in placed]
    for outline in outlines if line else ():
        pen.canvas.line([*outline, *outline[:2]], line, round(2 * width * abs(pen.turn)), joint="curve")
    for outline in outlines:
        pen.canvas.polygon(outline, fill)


def points(text: str) -> Shape:
    """Return corners written as in SVG: "x,y x,y ..."."""
    return [complex(*map(float, pair.split(","))) for pair in text.split()]


def smooth(corners: Shape, closed: bool = True) -> Shape:
    """Return a soft line through the points (Catmull-Rom spline); a point given twice stays a corner."""
    around = [corners[-1], *corners, *corners[:2]] if closed else [corners[0], *corners, corners[-1]]
    line = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        for t in (i / 8 for i in range(8 if b != c else 1)):
            line.append(b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return line if closed else [*line, corners[-1]]


def soft(text: str) -> Shape:
    """Return `smooth` of `points`."""
    return smooth(points(text))


def oval(center: complex, rx: float, ry: float) -> Shape:
    """Return an ellipse."""
    angles = (math.tau * i / 40 for i in range(40))
    return [center + complex(rx * math.cos(a), ry * math.sin(a)) for a in angles]


def stroke(corners: Shape, start: float, end: float) -> Shape:
    """Return a brush stroke along the points whose half width goes from `start` to `end`, with a round tip."""
    path = smooth(corners, closed=False)
    normals = [1j * (b - a) / abs(b - a) for a, b in pairwise(path)]
    normals = [n * (start + (end - start) * i / len(path)) for i, n in enumerate([*normals, normals[-1]])]
    tip = [path[-1] - normals[-1] * cmath.rect(1, math.pi * i / 8) for i in range(1, 8)]
    sides = list(zip(path, normals, strict=True))
    return [z - n for z, n in sides] + tip + [z + n for z, n in reversed(sides)]


def both(*shapes: Shape) -> list[Shape]:
    """Return each shape and its mirror image."""
    return [image for shape in shapes for image in (shape, [-z.conjugate() for z in shape])]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return colour `a` with a `share` of `b` in it."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def colours(text: str) -> list[Colour]:
    """Return colours written as in CSS, without the #."""
    return [ImageColor.getrgb(f"#{colour}") for colour in text.split()]


# ---- what both classes share, and so tells nothing


WHITE, PINK, INK = colours("ffffff f0969c 282024")
IRISES = colours("96c054 e2be3e d88e38 6eb8d6 825634")
PAINTS = colours("e25850 f0a046 f6ce5a 82ba60 84be62 48a08c 58a4d6 526cba 9674be e288aa b8805c ece4d4 78808c")
FURS = [  # fur, markings, and the pale parts (muzzle, chest, paws)
    colours("464246 2c282e f4f0ea"),  # black and white
    colours("f0eae0 62524c fffcf6"),  # white with dark markings
    colours("9ea0aa 6a6c78 e4e4e8"),  # grey
    colours("ee9e4e c86c2a ffecd2"),  # orange
    colours("966648 623e2c d8b086"),  # brown
    colours("f0d6a8 c09462 fff6e2"),  # cream
]

# Shapes of an animal that sits, whose head has radius 1 and its centre at 0
SQUARE = points("0,0 1,0 1,1 0,1")
BODY = [soft("-.5,.5 -.66,1.2 -.82,2.2 0,2.36 .82,2.2 .66,1.2 .5,.5")]
BODY += both(oval(0.68 + 1.95j, 0.42, 0.44), oval(0.92 + 2.3j, 0.28, 0.14))
LEG = points(".27,1.35 .25,1.9 .27,2.3")
MARKINGS = {
    "plain": [],
    "striped": [stroke([x - 0.78j, 0.8 * x - 0.42j], 0.075, 0.01) for x in (-0.26, 0, 0.26)],
    "spotted": [oval(0.42 - 0.14j, 0.34, 0.4)],
    "masked": [oval(0.28j, 0.62, 0.46)],
    "pale": [soft("0,-.74 .1,-.4 .3,.3 -.3,.3 -.1,-.4")],
}


def draw_animal(pen: Pen, rng: random.Random, kind: str) -> None:
    """Draw one animal, from back to front."""
    (fur, mark, pale), marking = rng.choice(FURS), rng.choice(list(MARKINGS))
    line = mix(mark, INK, 0.72)
    bend = cmath.rect(rng.uniform(0.85, 1.15), rng.uniform(-0.3, 0.2))
    paint(pen.at(0.75 + 2.15j, bend), fur, stroke(*TAILS[kind]), line=line)
    paint(pen, fur, *BODY, line=line)
    if marking in ("pale", "striped"):
        paint(pen, pale, soft("-.36,.8 -.3,1.3 0,1.75 .3,1.3 .36,.8"))
    paint(pen, fur, *both(stroke(LEG, 0.17, 0.2)))
    paint(pen, line, *both(*[stroke([z + x for z in LEG], 0.005, 0.045) for x in (-0.2, 0.2)]))
    paws = {"pale": pale, "masked": mark}.get(marking, fur)
    paint(pen.at(2.3j), paws, *both(oval(0.28, 0.26, 0.17)), line=line)
    if rng.random() < 0.4:
        collar = rng.choice(PAINTS)
        paint(pen, collar, stroke(points("-.56,.72 0,.96 .56,.72"), 0.13, 0.13), line=mix(collar, INK, 0.6))

    pen = pen.at(0, cmath.rect(rng.uniform(0.92, 1.08), rng.uniform(-0.3, 0.3)))  # the head
    look = complex(rng.uniform(-0.2, 0.2), rng.uniform(-0.07, 0.07))
    shade = mark if marking in ("masked", "spotted") else mix(fur, mark, rng.choice([0, 0.25, 0.5]))
    ears = both(smooth(rng.choice(EARS[kind])))
    if kind == "cat":  # behind the head; a dog's hang in front of it
        paint(pen, shade, *ears, line=line)
        paint(pen, mix(PINK, mark, 0.25), *both([0.24 - 0.27j + 0.58 * z for z in ears[0]]))
    paint(pen, fur, HEADS[kind], line=line)
    paint(pen.at(0.5 * look), pale if marking == "pale" else mark, *MARKINGS[marking])
    if kind == "dog":
        paint(pen, shade, *ears, line=line)
    face = draw_cat_face if kind == "cat" else draw_dog_face
    face(pen.at(look), rng.choice(IRISES), pale, line, look)


def draw_eyes(pen: Pen, distance: float, lid: Shape, colour: Colour, pupil: Shape, look: complex) -> None:
    """Draw two eyes that look to one side."""
    for x, shape in zip((distance, -distance), both(lid), strict=True):
        paint(pen.at(x), colour, shape, line=INK, width=0.05)
        paint(pen.at(x + 0.2 * look), INK, pupil)
        paint(pen.at(x + 0.2 * look + 0.06 - 0.07j), WHITE, oval(0, 0.045, 0.045))


# ---- what tells them apart: ears, head, tail, face


EARS = {  # the right one
    "cat": [points(".1,-.66 .74,-1.46 .74,-1.46 .99,-.16 .5,-.2"), points(".2,-.66 .98,-1.32 .98,-1.32 1.02,0 .5,-.2")],
    "dog": [  # hanging, and half up
        points(".36,-.84 .88,-.8 1.12,-.1 1.32,.72 1.06,1.1 .78,.72 .66,-.24"),
        points(".3,-.8 .64,-1.22 1.06,-1.12 1.42,-.5 1.34,-.24 1,-.5 .86,-.3"),
    ],
}
HEADS = {
    "cat": soft("-1.04,.16 -.9,-.44 -.42,-.8 .42,-.8 .9,-.44 1.04,.16 .62,.68 0,.8 -.62,.68"),
    "dog": soft("-.92,.1 -.86,-.5 -.42,-.9 .42,-.9 .86,-.5 .92,.1 .66,.72 0,.96 -.66,.72"),
}
TAILS = {  # from the root at 0, going right and up; half width at root and tip
    "cat": (points("0,0 .7,.1 1.05,-.5 .85,-1.2 1.2,-1.75"), 0.16, 0.1),
    "dog": (points("0,0 .4,0 .75,-.2 .98,-.5"), 0.28, 0.13),
}


def draw_cat_face(pen: Pen, iris: Colour, pale: Colour, line: Colour, look: complex) -> None:
    """Draw almond eyes with slits, a small nose, a short muzzle and whiskers."""
    lid = soft("-.24,.1 -.24,.1 -.06,-.17 .27,-.13 .27,-.13 .1,.17")
    draw_eyes(pen.at(-0.06j), 0.42, lid, iris, oval(0, 0.07, 0.15), look)
    muzzle = pen.at(0.34j + 0.25 * look)
    paint(muzzle, pale, *both(oval(0.17 + 0.08j, 0.24, 0.18)), oval(0.22j, 0.14, 0.12))
    paint(muzzle, line, *both(stroke(points("0,.02 .05,.14 .2,.13"), 0.025, 0.02)))
    hairs = [[0.26 + y, 0.66 + 1.9 * y - 0.06j, 1.05 + 3.2 * y - 0.08j] for y in (-0.04j, 0.05j, 0.13j)]
    paint(muzzle, pale, *both(*[stroke(hair, 0.024, 0.012) for hair in hairs]))
    paint(muzzle, PINK, soft("-.12,-.1 .12,-.1 0,.04 0,.04"), line=line, width=0.03)


def draw_dog_face(pen: Pen, iris: Colour, pale: Colour, line: Colour, look: complex) -> None:
    """Draw round eyes, a long muzzle with a large nose, and a tongue."""
    draw_eyes(pen.at(-0.2j), 0.38, oval(0, 0.16, 0.17), iris, oval(0, 0.11, 0.12), look)
    muzzle = pen.at(0.28j + 0.9 * look)
    paint(muzzle, PINK, soft("-.15,.46 -.17,.74 0,.9 .17,.74 .15,.46"), line=line, width=0.05)
    paint(muzzle, pale, oval(0.08j, 0.34, 0.42), *both(oval(0.22 + 0.32j, 0.31, 0.26)))
    smile = stroke(points("0,.28 .14,.44 .38,.4 .46,.28"), 0.03, 0.02)
    paint(muzzle, line, stroke([0.02j, 0.28j], 0.028, 0.025), *both(smile))
    paint(muzzle, INK, soft("-.26,-.16 0,-.22 .26,-.16 .16,.08 0,.13 -.16,.08"))
    paint(muzzle, mix(INK, WHITE, 0.5), oval(0.06 - 0.13j, 0.08, 0.035))


if __name__ == "__main__":
    main()
