"""The scene of the sample: a robot arm between a feeder, a scanner and a bin, as a picture of each state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT = 160, 120
Point = tuple[float, float]


class Pose(NamedTuple):
    """The state of the scene. Lengths are in image heights; x points right and y down from the upper left corner.

    ``x`` and ``y`` are the hand's position, ``grip`` is half the gap of the gripper, ``held`` is 1 if it carries a
    block, else 0, and ``feed``, in [0, 1], is how far (in slots) the feeder's row of blocks is from its stop.
    """

    x: float
    y: float
    grip: float
    held: float
    feed: float


@dataclass(frozen=True)
class Look:
    """The properties that differ from video to video and are constant within one.

    Attributes
    ----------
    rest
        (2,) offset of the arm's rest position, in image heights.
    shift
        (2,) offset of the camera, in image heights.
    tint
        (6, 3) factors on the RGB colours of wall, table, arm, block, bin and feeder.
    gain
        Factor on the brightness of the whole picture.
    noise
        Standard deviation of the camera's noise, in units of full brightness.
    """

    rest: np.ndarray
    shift: np.ndarray
    tint: np.ndarray
    gain: float
    noise: float


# The hand's rest position, and its positions above and down at each station.
_REST = (0.667, 0.36)
_FEEDER, _FEEDER_DOWN = (0.20, 0.48), (0.20, 0.665)
_SCANNER, _SCANNER_DOWN = (0.667, 0.50), (0.667, 0.705)
_BIN, _BIN_DOWN = (1.12, 0.48), (1.12, 0.745)
_ABOVE, _DOWN = (_FEEDER, _SCANNER, _BIN), (_FEEDER_DOWN, _SCANNER_DOWN, _BIN_DOWN)
_OPEN, _SHUT = 0.066, 0.046
_SHOULDER, _LINKS = (0.667, 0.07), (0.37, 0.36)

# The loop, as the first and last pose of each leg. Where one leg ends and the next begins, the two poses look the same:
# a block gripped on the feeder looks like a block held over an empty slot, and a block deep in the bin is out of sight.
LOOP: tuple[tuple[Pose, Pose], ...] = (
    # pick: reach, lower, grip, lift, return while the feeder's next block moves up
    (Pose(*_REST, _OPEN, 0, 0), Pose(*_FEEDER, _OPEN, 0, 0)),
    (Pose(*_FEEDER, _OPEN, 0, 0), Pose(*_FEEDER_DOWN, _OPEN, 0, 0)),
    (Pose(*_FEEDER_DOWN, _OPEN, 0, 0), Pose(*_FEEDER_DOWN, _SHUT, 0, 0)),
    (Pose(*_FEEDER_DOWN, _SHUT, 1, 1), Pose(*_FEEDER, _SHUT, 1, 1)),
    (Pose(*_FEEDER, _SHUT, 1, 1), Pose(*_REST, _SHUT, 1, 0)),
    # scan: reach, lower, hold still, lift, return
    (Pose(*_REST, _SHUT, 1, 0), Pose(*_SCANNER, _SHUT, 1, 0)),
    (Pose(*_SCANNER, _SHUT, 1, 0), Pose(*_SCANNER_DOWN, _SHUT, 1, 0)),
    (Pose(*_SCANNER_DOWN, _SHUT, 1, 0), Pose(*_SCANNER_DOWN, _SHUT, 1, 0)),
    (Pose(*_SCANNER_DOWN, _SHUT, 1, 0), Pose(*_SCANNER, _SHUT, 1, 0)),
    (Pose(*_SCANNER, _SHUT, 1, 0), Pose(*_REST, _SHUT, 1, 0)),
    # place: reach, lower into the bin, let go, lift, return
    (Pose(*_REST, _SHUT, 1, 0), Pose(*_BIN, _SHUT, 1, 0)),
    (Pose(*_BIN, _SHUT, 1, 0), Pose(*_BIN_DOWN, _SHUT, 1, 0)),
    (Pose(*_BIN_DOWN, _SHUT, 0, 0), Pose(*_BIN_DOWN, _OPEN, 0, 0)),
    (Pose(*_BIN_DOWN, _OPEN, 0, 0), Pose(*_BIN, _OPEN, 0, 0)),
    (Pose(*_BIN, _OPEN, 0, 0), Pose(*_REST, _OPEN, 0, 0)),
)
_TINTS = np.array(
    [
        (0.71, 0.85, 0.89),  # wall
        (0.89, 0.73, 0.55),  # table
        (0.96, 0.58, 0.16),  # arm
        (0.80, 0.17, 0.24),  # block
        (0.20, 0.44, 0.72),  # bin
        (0.46, 0.50, 0.56),  # feeder
    ]
)
_JITTER = np.array([[0.005], [0.015], [0.05], [0.10], [0.04], [0.04]])
"""How far a colour channel of each part may vary. A part that fills more of the picture varies less."""
_DARK = np.array((0.19, 0.21, 0.26))
_GLOW = np.array([(1.00, 0.80, 0.25), (0.35, 1.00, 0.70), (0.80, 0.50, 1.00)])
"""Colours of the lights at feeder, scanner and bin."""
_SHADOW = np.array((0.10, 0.09, 0.12))
# Rounded to float32, but float64 in what follows, so that a seed's videos stay what they were.
_X = ((np.arange(WIDTH, dtype=np.float32)[None, :] + 0.5) / HEIGHT).astype(np.float64)
_Y = ((np.arange(HEIGHT, dtype=np.float32)[:, None] + 0.5) / HEIGHT).astype(np.float64)


def draw_look(rng: np.random.Generator) -> Look:
    """Choose a video's look at random, with small differences, as between takes of one camera in one room."""
    return Look(
        rest=rng.uniform(-0.05, 0.05, 2),
        shift=rng.uniform(-0.01, 0.01, 2),
        tint=rng.uniform(0.97, 1.03, (6, 1)) * (1 + _JITTER * rng.uniform(-1, 1, (6, 3))),
        gain=rng.uniform(0.97, 1.03),
        noise=rng.uniform(0.005, 0.02),
    )


def pose_at(position: float) -> Pose:
    """Return the scene's state at a position on the loop (in legs); each leg starts and ends gently."""
    leg, progress = divmod(float(position) % len(LOOP), 1)
    start, end = LOOP[int(leg)]
    eased = progress * progress * (3 - 2 * progress)
    return Pose(*(a + eased * (b - a) for a, b in zip(start, end, strict=True)))


def render_frames(positions: Iterable[float], look: Look) -> Iterator[np.ndarray]:
    """Yield a (HEIGHT, WIDTH, 3) float32 picture in [0, 1] of each position, without the camera's noise."""
    scenery = _Scene(look)
    for position in positions:
        yield scenery.picture(pose_at(position))


class _Scene:
    """Paints poses under one look; the background is painted once."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.wall, self.table, self.arm, self.block, self.bin, self.feeder = _TINTS * look.tint
        self.background = self._paint_background()

    def picture(self, pose: Pose) -> np.ndarray:
        """Paint one pose: (HEIGHT, WIDTH, 3) float32."""
        canvas = _Canvas(self.background.copy(order="K"), self.look.shift)
        at_rest = max(0.0, 1 - (pose.y - _REST[1]) / (_FEEDER[1] - _REST[1]))
        aside, below = self.look.rest.tolist()
        hand = pose.x + at_rest * aside, pose.y + at_rest * below
        self._paint_light(canvas, pose)
        away = 0.80 - hand[1]  # the higher the hand, the wider and fainter its shadow on the table
        left, right = (hand[0] - 0.04, 0.885), (hand[0] + 0.06, 0.885)
        canvas.capsule(left, right, 0.0, _SHADOW, soft=0.08 + 0.2 * away, opacity=max(0.0, 0.45 - 0.5 * away))
        for slot in range(3):
            self._paint_block(canvas, (_FEEDER[0] - 0.10 * (slot + pose.feed), _FEEDER_DOWN[1]))
        if pose.held:
            self._paint_block(canvas, hand)
        self._paint_hand(canvas, hand, pose.grip)
        self._paint_bin_front(canvas)
        self._paint_arm(canvas, hand)
        return canvas.pixels * np.float32(self.look.gain)

    def _paint_background(self) -> np.ndarray:
        # The channels lie one after the other: numpy is slow at loops over three numbers.
        canvas = _Canvas(np.empty((3, HEIGHT, WIDTH), np.float32).transpose(1, 2, 0), self.look.shift)
        height = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
        canvas.pixels[:] = self.wall * (1.06 - 0.16 * height)
        canvas.box((0.667, 1.03), (1.0, 0.34), 0.0, 0.86 * self.table)
        canvas.box((0.667, 1.03), (1.0, 0.332), 0.0, self.table)
        canvas.box((0.667, 1.17), (1.0, 0.22), 0.0, 0.72 * self.table)
        for x, half in ((0.16, 0.20), (0.667, 0.13), (1.12, 0.16)):
            canvas.capsule((x - half + 0.06, 0.875), (x + half, 0.875), 0.0, _SHADOW, soft=0.11, opacity=0.5)
        canvas.box((0.10, 0.785), (0.19, 0.08), 0.015, self.feeder)  # the feeder, on which the blocks lie
        canvas.box((0.10, 0.718), (0.19, 0.013), 0.006, 1.25 * self.feeder)
        canvas.box((0.667, 0.815), (0.125, 0.05), 0.015, _DARK)  # the scanner and its plate
        canvas.box((0.667, 0.758), (0.125, 0.012), 0.006, 1.9 * _DARK)
        canvas.box((1.12, 0.73), (0.135, 0.075), 0.01, 0.45 * self.bin)  # the bin's inside
        return canvas.pixels

    def _paint_block(self, canvas: _Canvas, centre: Point) -> None:
        x, y = centre
        canvas.box((x, y), (0.043, 0.043), 0.008, self.block)
        canvas.box((x, y - 0.032), (0.036, 0.008), 0.004, 1.2 * self.block + 0.1)

    def _paint_hand(self, canvas: _Canvas, hand: Point, grip: float) -> None:
        x, y = hand
        for side in (-1, 1):
            canvas.box((x + side * (grip + 0.008), y - 0.025), (0.010, 0.055), 0.005, 1.5 * _DARK)
        canvas.box((x, y - 0.085), (0.085, 0.016), 0.008, _DARK)
        canvas.box((x, y - 0.12), (0.022, 0.03), 0.004, 2.2 * _DARK)

    def _paint_bin_front(self, canvas: _Canvas) -> None:
        canvas.box((1.12, 0.785), (0.14, 0.085), 0.012, self.bin)
        canvas.box((1.12, 0.705), (0.145, 0.011), 0.006, 1.2 * self.bin)

    def _paint_arm(self, canvas: _Canvas, hand: Point) -> None:
        shoulder, wrist = _SHOULDER, (hand[0], hand[1] - 0.14)
        elbow = _elbow(shoulder, wrist)
        canvas.box((shoulder[0], 0.0), (0.14, 0.05), 0.01, 1.6 * _DARK)
        for start, end, radius in ((shoulder, elbow, 0.050), (elbow, wrist, 0.040)):
            canvas.capsule(start, end, radius + 0.004, 0.62 * self.arm)
            canvas.capsule(start, end, radius - 0.004, self.arm, sheen=0.28)
        for joint, radius in ((shoulder, 0.058), (elbow, 0.050), (wrist, 0.040)):
            canvas.capsule(joint, joint, radius, _DARK)
            canvas.capsule(joint, joint, 0.55 * radius, 2.6 * _DARK)

    def _paint_light(self, canvas: _Canvas, pose: Pose) -> None:
        for (x, y), (_, above), glow in zip(_DOWN, _ABOVE, _GLOW, strict=True):
            lit = (pose.y - above) / (y - above) if abs(pose.x - x) < 0.1 else 0.0
            if lit > 0:  # a station's light comes on as the hand reaches down to it
                canvas.capsule((x - 0.10, y), (x + 0.10, y), 0.25, glow, soft=0.9, opacity=0.85 * lit)
                canvas.capsule((x - 0.10, 0.758), (x + 0.10, 0.758), 0.008, 0.5 + 0.5 * glow, opacity=lit)


class _Canvas:
    """A picture on which shapes are blended by their signed distance, for antialiased edges and soft shadows."""

    def __init__(self, pixels: np.ndarray, shift: np.ndarray) -> None:
        self.pixels = pixels
        self._shift: Point = tuple(shift.tolist())

    def box(self, centre: Point, half: Point, corner: float, colour: np.ndarray) -> None:
        """Paint an upright box with rounded corners."""
        x, y = self._moved(centre)
        window, across, down = _window((x - half[0], y - half[1]), (x + half[0], y + half[1]), 1 / HEIGHT)
        dx = np.abs(across - x) - (half[0] - corner)
        dy = np.abs(down - y) - (half[1] - corner)
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        distance = outside + np.minimum(np.maximum(dx, dy), 0) - corner
        self._blend(window, distance, colour, 1 / HEIGHT, 1.0)

    def capsule(
        self,
        start: Point,
        end: Point,
        radius: float,
        colour: np.ndarray,
        *,
        soft: float = 1 / HEIGHT,
        opacity: float = 1.0,
        sheen: float = 0.0,
    ) -> None:
        """Paint a line with round ends (a disc where they coincide), its edge ``soft`` wide.

        ``sheen`` is how much lighter the upper left side is than the middle, as on a tube.
        """
        (x0, y0), (x1, y1), reach = self._moved(start), self._moved(end), radius + soft / 2
        low, high = (min(x0, x1) - reach, min(y0, y1) - reach), (max(x0, x1) + reach, max(y0, y1) + reach)
        window, x, y = _window(low, high, 0.0)
        x, y = x - x0, y - y0
        if start != end:
            along, down = x1 - x0, y1 - y0
            nearest = (x * along + y * down) / (along * along + down * down)
            nearest = np.minimum(np.maximum(nearest, 0), 1)
            x, y = x - nearest * along, y - nearest * down
        if sheen:
            colour = colour * (1 - sheen * (0.6 * x + 0.8 * y) / radius)[..., None]
        self._blend(window, np.hypot(x, y) - radius, colour, soft, opacity)

    def _moved(self, point: Point) -> Point:
        return point[0] + self._shift[0], point[1] + self._shift[1]

    def _blend(self, window: Any, distance: np.ndarray, colour: np.ndarray, soft: float, opacity: float) -> None:
        cover = np.minimum(np.maximum(0.5 - distance / soft, 0), 1)
        cover = opacity * cover * cover * (3 - 2 * cover)
        region = self.pixels[window]
        region += cover[..., None] * (colour - region)


def _window(low: Point, high: Point, margin: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the slices of the pixels between two corners, and the x (1, w) and y (h, 1) of the pixels' centres."""
    across, down = (
        slice(max(int((a - margin) * HEIGHT), 0), max(int((b + margin) * HEIGHT) + 1, 0))
        for a, b in zip(low, high, strict=True)
    )
    return (down, across), _X[:, across], _Y[down]


def _elbow(shoulder: Point, wrist: Point) -> Point:
    """Return the elbow's position, given that both links keep their length."""
    upper, fore = _LINKS
    x, y = wrist[0] - shoulder[0], wrist[1] - shoulder[1]
    distance = min(math.hypot(x, y), upper + fore)
    along = (upper**2 - fore**2 + distance**2) / (2 * distance)
    aside = math.sqrt(max(upper**2 - along**2, 0.0))
    x, y = x / distance, y / distance
    return shoulder[0] + along * x - aside * y, shoulder[1] + along * y + aside * x
