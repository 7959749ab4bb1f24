"""The built-in sample set: drawings of cats and dogs, for a first run with nothing downloaded.

2 x 300 for training and 2 x 60 for testing, PNG of 192 x 192, 9 MB in all, drawn in about 7 seconds of one core. They
are called drawings wherever they appear: a network trained on them knows nothing of photographs.

Both classes take fur, markings, poses and scenes from the same tables; ears, head, face and tail differ. So colour
tells almost nothing and shape nearly everything. Points are complex numbers: to move, turn and scale a shape is one
multiplication and one addition.
"""

import cmath
import math
import random
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw

from classifier.cli import UserError
from classifier.data.images import has_image_extension

CLASSES = ("cat", "dog")
COUNTS = {"train": 300, "test": 60}  # drawings per class
SIZE = 192  # pixels of a drawing's side
FINE = 3  # drawn this many times larger and averaged down, because Pillow's polygons have hard edges

Colour = tuple[int, ...]
Shape = list[complex]  # a closed outline; x + yj, y pointing down as in an image


def draw_sample_set(root: Path) -> None:
    """Draw those of `root`/train/<class>/* (300 each) and `root`/test/<class>/* (60 each) that are not there yet.

    Raises:
        UserError: `root` holds other images, which a sample set must not be mixed with.
    """
    files = _sample_files()
    for split in COUNTS:
        for path in (root / split).rglob("*"):
            if has_image_extension(path.name) and path.relative_to(root) not in files:
                raise UserError(f"{path} is not one of the drawings: the sample set needs an empty folder, not {root}.")
    if not (missing := [file for file in files if not (root / file).is_file()]):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:  # all or nothing
        for number, file in enumerate(missing):
            draw(*files[file]).save(Path(staging, f"{number}.png"))
        for number, file in enumerate(missing):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Path(staging, f"{number}.png").replace(root / file)


def holds_sample_set(root: Path) -> bool:
    """Whether `root` holds drawings: most of the sample set."""
    files = _sample_files()
    return sum((root / file).is_file() for file in files) > len(files) / 2


def _sample_files() -> dict[Path, tuple[str, str, int]]:
    """Return the path of every drawing, relative to the root, with the arguments of `draw`."""
    numbered = [(split, kind, n) for split, count in COUNTS.items() for kind in CLASSES for n in range(count)]
    return {Path(split, kind, f"{kind}.{n}.png"): (split, kind, n) for split, kind, n in numbered}


def draw(split: str, kind: str, number: int) -> Image.Image:
    """Return the drawing with this number, always the same one. RGB, SIZE x SIZE."""
    rng = random.Random(f"{split}-{kind}-{number}")
    wall, other = (mix(rng.choice(PAINTS), rng.choice([WHITE, WHITE, INK]), rng.uniform(0.1, 0.7)) for _ in range(2))
    canvas = Image.new("RGB", (SIZE * FINE, SIZE * FINE), wall)
    pen = Pen(ImageDraw.Draw(canvas, "RGBA"), 0j, SIZE * FINE)
    pose = rng.choice(POSES)
    scale = rng.uniform(*pose.scale)
    place = complex(rng.gauss(0.5, 0.12), rng.gauss(0.5, 0.1)) - scale * pose.middle
    feet = place.imag + scale * GROUND
    horizon = min(rng.uniform(0.45, 0.8), feet - 0.04)  # nobody stands on the wall
    rng.choice([draw_room, draw_meadow])(pen, rng, wall, other, horizon)
    paint(pen, (20, 16, 30, 50), oval(complex(place.real + scale * pose.middle.real, feet), scale * 1.7, scale * 0.25))
    draw_animal(pen.at(place, scale * cmath.rect(1, rng.gauss(0, 0.05))), rng, kind, pose)
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


def block(left: float, top: float, right: float, bottom: float) -> Shape:
    """Return an upright rectangle."""
    return [complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)]


def stroke(corners: Shape, start: float, end: float) -> Shape:
    """Return a brush stroke along the points whose half width goes from `start` to `end`, with a round tip."""
    path = smooth(corners, closed=False)
    normals = [1j * (b - a) / abs(b - a) for a, b in pairwise(path)]
    normals = [n * (start + (end - start) * i / len(path)) for i, n in enumerate([*normals, normals[-1]])]
    tip = [path[-1] - normals[-1] * cmath.rect(1, math.pi * i / 8) for i in range(1, 8)]
    sides = list(zip(path, normals, strict=True))
    return [z - n for z, n in sides] + tip + [z + n for z, n in reversed(sides)]


def flip(shape: Shape, side: int = -1) -> Shape:
    """Return the shape mirrored to the left; with `side` 1, as it is."""
    return [complex(side * z.real, z.imag) for z in shape]


def both(*shapes: Shape) -> list[Shape]:
    """Return each shape and its mirror image."""
    return [flip(shape, side) for shape in shapes for side in (1, -1)]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return colour `a` with a `share` of `b` in it."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def colours(text: str) -> list[Colour]:
    """Return colours written as in CSS, without the #."""
    return [ImageColor.getrgb(f"#{colour}") for colour in text.split()]


# ---- what both classes share: colours, markings, poses. Colour must tell nothing about the class.


WHITE, PINK, INK = colours("ffffff f0969c 282024")
IRISES = colours("96c054 e2be3e d88e38 6eb8d6 825634")
PAINTS = colours("e25850 f0a046 f6ce5a 82ba60 48a08c 58a4d6 526cba 9674be e288aa b8805c ece4d4 78808c")
FURS = [  # fur, markings, and the pale parts (muzzle, chest, paws)
    colours("424048 28262c 7a767e"),  # black
    colours("464246 2c282e f4f0ea"),  # black and white
    colours("f0eae0 62524c fffcf6"),  # white with dark markings
    colours("9ea0aa 6a6c78 e4e4e8"),  # grey
    colours("7e8696 565c6c b6bcc8"),  # blue grey
    colours("ee9e4e c86c2a ffecd2"),  # orange
    colours("966648 623e2c d8b086"),  # brown
    colours("f0d6a8 c09462 fff6e2"),  # cream
    colours("ceb08a 7c5e4c f2e0c6"),  # fawn
]
MARKINGS = ("plain", "pale", "striped", "spotted", "masked")


GROUND = 2.3  # where the feet are


class Pose(NamedTuple):
    """A body for a head of radius 1 at 0, facing right."""

    body: list[Shape]
    legs: list[Shape]  # paths
    paws: list[complex]
    chest: Shape
    tail: complex
    middle: complex  # of head and body together
    scale: tuple[float, float]  # the head's radius as a share of the image's side


SITTING = Pose(
    body=[
        soft("-.5,.5 -.66,1.2 -.82,2.2 0,2.36 .82,2.2 .66,1.2 .5,.5"),
        *both(oval(0.68 + 1.95j, 0.42, 0.44), oval(0.92 + 2.3j, 0.28, 0.14)),
    ],
    legs=both(points(".27,1.35 .25,1.9 .27,2.3")),
    paws=[-0.28 + 2.3j, 0.28 + 2.3j],
    chest=soft("-.36,.8 -.3,1.3 0,1.75 .3,1.3 .36,.8"),
    tail=0.75 + 2.15j,
    middle=0.5 + 0.55j,
    scale=(0.17, 0.25),
)
STANDING = Pose(
    body=[
        soft("-.45,.4 -.5,1.2 .6,1.5 1.7,1.4 2.15,1.2 2.1,.55 1.2,.4"),
        *[stroke([x + 1.2j, x + 2.2j], 0.21, 0.19) for x in (-0.28, 1.9)],
    ],
    legs=[points(".22,.9 .2,1.8 .16,2.25"), points("1.5,.9 1.5,1.8 1.44,2.25")],
    paws=[0.14 + 2.27j, 1.42 + 2.27j],
    chest=soft("-.44,.8 -.36,1.22 .1,1.35 .3,.9"),
    tail=2.02 + 0.7j,
    middle=0.9 + 0.55j,
    scale=(0.15, 0.23),
)
CLOSE = SITTING._replace(middle=0.15j, scale=(0.28, 0.46))
POSES = (SITTING, CLOSE, STANDING)


# ---- what tells them apart: ears, head, tail, face


EARS = {  # the right one, of a head of radius 1 around 0; and whether it hangs in front of the head
    "cat": [
        (points(".1,-.66 .74,-1.46 .74,-1.46 .99,-.16 .5,-.2"), False),
        (points(".2,-.66 .98,-1.32 .98,-1.32 1.02,-.04 .5,-.2"), False),
    ],
    "dog": [
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
    "cat": (points("0,0 .7,.1 1.05,-.5 .85,-1.2 1.2,-1.75"), 0.16, 0.1),
    "dog": (points("0,0 .4,0 .75,-.2 .98,-.5"), 0.28, 0.13),
}


def draw_cat_face(pen: Pen, rng: random.Random, fur: Colour, pale: Colour, line: Colour, look: complex) -> None:
    """Draw almond eyes with slits, a small nose, a short muzzle and whiskers."""
    iris, slit = rng.choice(IRISES), rng.uniform(0.05, 0.1)
    for side in (-1, 1):
        eye = pen.at(complex(0.42 * side, -0.06) + look)
        lid = smooth(flip(points("-.24,.1 -.24,.1 -.06,-.17 .27,-.13 .27,-.13 .1,.17"), side))
        paint(eye, iris, lid, line=INK, width=0.05)
        paint(eye, INK, oval(0.2 * look, slit, 0.15))
        paint(eye, WHITE, oval(0.2 * look + 0.06 - 0.07j, 0.045, 0.045))
    muzzle = pen.at(0.34j + 1.25 * look)
    paint(muzzle, pale, *both(oval(0.17 + 0.08j, 0.24, 0.18)), oval(0.22j, 0.14, 0.12))
    paint(muzzle, line, *both(stroke(points("0,.02 .05,.14 .2,.13"), 0.025, 0.02)))
    hairs = [[0.26 + y, 0.66 + 1.9 * y - 0.06j, 1.05 + 3.2 * y - 0.08j] for y in (-0.04j, 0.05j, 0.13j)]
    paint(muzzle, WHITE if sum(fur) < 330 else line, *both(*[stroke(hair, 0.024, 0.012) for hair in hairs]))
    paint(muzzle, PINK, soft("-.12,-.1 .12,-.1 0,.04 0,.04"), line=line, width=0.03)


def draw_dog_face(pen: Pen, rng: random.Random, fur: Colour, pale: Colour, line: Colour, look: complex) -> None:
    """Draw round eyes, a long muzzle with a large nose, often a tongue."""
    iris, white = rng.choice(IRISES), rng.choice([WHITE, INK])
    for side in (-1, 1):
        eye = pen.at(complex(0.38 * side, -0.2) + look)
        paint(eye, white, oval(0, 0.17, 0.18), line=INK, width=0.04)
        paint(eye, iris, oval(0.25 * look, 0.14, 0.15))
        paint(eye, INK, oval(0.25 * look, 0.1, 0.11))
        paint(eye, WHITE, oval(0.25 * look + 0.06 - 0.07j, 0.045, 0.045))
    muzzle = pen.at(0.28j + 1.9 * look)
    if rng.random() < 0.55:
        paint(muzzle, (236, 112, 124), soft("-.15,.46 -.17,.74 0,.9 .17,.74 .15,.46"), line=line, width=0.05)
    paint(muzzle, pale, oval(0.08j, 0.34, 0.42), *both(oval(0.22 + 0.32j, 0.31, 0.26)))
    smile = stroke(points("0,.28 .14,.44 .38,.4 .46,.28"), 0.03, 0.02)
    paint(muzzle, line, stroke([0.02j, 0.28j], 0.028, 0.025), *both(smile))
    paint(muzzle, INK, soft("-.26,-.16 0,-.22 .26,-.16 .16,.08 0,.13 -.16,.08"))
    paint(muzzle, (150, 140, 146), oval(0.06 - 0.13j, 0.08, 0.035))


def draw_head(pen: Pen, rng: random.Random, kind: str, coat: list[Colour], marking: str) -> None:
    """Draw ears, head, markings, face."""
    fur, mark, pale, line = coat
    look = complex(rng.uniform(-0.2, 0.2), rng.uniform(-0.07, 0.07))
    ear, hangs = rng.choice(EARS[kind])
    turns = [(side, cmath.rect(rng.uniform(0.92, 1.08), rng.uniform(-0.1, 0.1))) for side in (-1, 1)]
    ears = [smooth(flip([0.5 - 0.5j + turn * (z - 0.5 + 0.5j) for z in ear], side)) for side, turn in turns]
    shade = mark if marking in ("masked", "spotted") else mix(fur, mark, rng.choice([0, 0.25, 0.5]))
    if not hangs:
        paint(pen, shade, *ears, line=line)
    paint(pen, fur, HEADS[kind], line=line)
    if not hangs:
        for shape in ears:
            center = sum(shape) / len(shape)
            paint(pen, shade, shape)
            paint(pen, mix(PINK, mark, 0.25), [center + 0.58 * (z - center) - 0.06j for z in shape])
        paint(pen, fur, HEADS[kind])
    stripes = [stroke([x - 0.78j, 0.8 * x - y], 0.075, 0.01) for x, y in ((-0.26, 0.45j), (0, 0.38j), (0.26, 0.45j))]
    marks = {"striped": stripes, "spotted": [oval(0.42 - 0.14j + look, 0.34, 0.4)], "masked": [oval(0.28j, 0.62, 0.46)]}
    paint(pen, mark, *marks.get(marking, ()))
    if marking == "pale":
        paint(pen.at(look), pale, soft("0,-.74 .1,-.4 .3,.3 -.3,.3 -.1,-.4"))
    if hangs:
        paint(pen, shade, *ears, line=line)
    {"cat": draw_cat_face, "dog": draw_dog_face}[kind](pen, rng, fur, pale, line, look)


def draw_animal(pen: Pen, rng: random.Random, kind: str, pose: Pose) -> None:
    """Draw one animal, from back to front."""
    (fur, mark, pale), marking = rng.choice(FURS), rng.choice(MARKINGS)
    line = mix(mark, INK, 0.72)
    paws = {"pale": pale, "masked": mark}.get(marking, fur)
    path, root, tip = TAILS[kind]
    bend = cmath.rect(rng.uniform(0.85, 1.15), rng.uniform(-0.3, 0.2))
    paint(pen.at(pose.tail, bend), fur, stroke(path, root, tip), line=line)
    paint(pen, fur, *pose.body, line=line)
    if marking in ("pale", "striped"):
        paint(pen, pale, pose.chest)
    for leg in pose.legs:
        paint(pen, fur, stroke(leg, 0.17, 0.2))
        paint(pen, line, *[stroke([z + x for z in leg], 0.005, 0.045) for x in (-0.2, 0.2)])
    if rng.random() < 0.4:
        collar = rng.choice(PAINTS)
        paint(pen, collar, stroke(points("-.56,.72 0,.96 .56,.72"), 0.13, 0.13), line=mix(collar, INK, 0.6))
    head = pen.at(0, cmath.rect(rng.uniform(0.92, 1.08), rng.uniform(-0.3, 0.3)))
    draw_head(head, rng, kind, [fur, mark, pale, line], marking)
    for paw in pose.paws:
        paint(pen.at(paw), paws, oval(0, 0.26, 0.17), line=line)
        paint(pen.at(paw), line, *both(stroke([0.09 + 0.04j, 0.09 + 0.16j], 0.02, 0.02)))


# ---- scenes


def draw_room(pen: Pen, rng: random.Random, wall: Colour, other: Colour, horizon: float) -> None:
    """Draw a floor, often with a rug, and at times wallpaper and a window."""
    if rng.random() < 0.4:
        paint(pen, mix(wall, WHITE, 0.25), *[block(x / 6, 0, x / 6 + 0.08, 1) for x in range(6)])
    floor = rng.choice(colours("ba8e68 d6be9e 8c7468 aab0ba"))
    paint(pen, mix(floor, other, 0.15), block(0, horizon, 1, 1))
    paint(pen, mix(wall, WHITE, 0.6), block(0, horizon - 0.025, 1, horizon + 0.01))
    if rng.random() < 0.7:
        frame = pen.at(complex(rng.uniform(0.02, 0.65), rng.uniform(0.03, 0.15)), rng.uniform(0.25, 0.35))
        paint(frame, mix((170, 214, 240), other, 0.3), block(0, 0, 1, 1), line=mix(wall, WHITE, 0.75), width=0.08)
        paint(frame, mix((130, 186, 120), other, 0.3), points("0,1 0,.7 .3,.5 .55,.75 .8,.6 1,.8 1,1"))
    if rng.random() < 0.5:
        paint(pen, mix(other, WHITE, 0.2), oval(complex(rng.uniform(0.2, 0.8), 0.92), 0.45, 0.09))


def draw_meadow(pen: Pen, rng: random.Random, sky: Colour, other: Colour, horizon: float) -> None:
    """Draw sun, clouds and hills over grass, sand or snow."""
    ground = rng.choice(colours("84be62 68a45c b0c46c d6c696 e8eef4"))
    if rng.random() < 0.5:
        paint(pen, (255, 232, 150), oval(complex(rng.random(), rng.uniform(0.05, 0.3)), 0.08, 0.08))
    for _ in range(rng.randrange(3)):
        cloud = pen.at(complex(rng.random(), rng.uniform(0.05, 0.35)))
        paint(cloud, (250, 250, 252), *[oval(z, 0.08, 0.05) for z in points("-.08,0 0,-.03 .08,0")])
    hill = pen.at(complex(rng.random(), horizon + 0.1))
    paint(hill, mix(ground, sky, 0.4), oval(0, 0.6, 0.22), oval(0.7, 0.5, 0.18), oval(-0.7, 0.5, 0.16))
    paint(pen, ground, block(0, horizon, 1, 1))
    blades = [stroke([0, x - 0.04j], 0.006, 0.002) for x in (-0.02, 0, 0.02)]
    for _ in range(14):
        paint(pen.at(complex(rng.random(), rng.uniform(horizon + 0.05, 1))), mix(ground, INK, 0.2), *blades)
