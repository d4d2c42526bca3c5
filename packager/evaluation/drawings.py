"""Pictures that are drawn at build time: shapes, colours, counts, text, a chart, and scenes like
photographs, in different sizes and ratios. The same pixels each time; nothing must be fetched.
"""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.Image import Image as Picture

_WHITE, _BLACK = (255, 255, 255), (20, 20, 20)
_RED, _GREEN, _BLUE, _YELLOW = (204, 36, 29), (38, 139, 60), (33, 90, 190), (240, 196, 25)


def _canvas(width: int, height: int, colour: tuple[int, int, int] = _WHITE) -> Picture:
    return Image.new("RGB", (width, height), colour)


def _write(
    picture: Picture,
    text: str,
    place: tuple[int, int],
    factor: int,
    colour: tuple[int, int, int] = _BLACK,
) -> None:
    """Write text with Pillow's own bitmap font, each of its pixels `factor` wide and high.

    That font needs no library, so the letters are the same everywhere.
    """
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, 255, font)
    large = mask.resize((mask.width * factor, mask.height * factor), Image.Resampling.NEAREST)
    picture.paste(colour, place, large)


def _circle() -> Picture:
    picture = _canvas(448, 448)
    ImageDraw.Draw(picture).ellipse((90, 90, 358, 358), _RED)
    return picture


def _shapes() -> Picture:
    picture = _canvas(720, 360, (236, 240, 244))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((50, 90, 230, 270), _BLUE)
    pen.polygon([(360, 80), (270, 280), (450, 280)], _GREEN)
    pen.ellipse((500, 90, 680, 270), _YELLOW, _BLACK, 4)
    return picture


def _dots() -> Picture:
    picture = _canvas(500, 400, (24, 28, 48))
    pen = ImageDraw.Draw(picture)
    for x, y in ((70, 80), (220, 60), (390, 110), (130, 230), (300, 210), (420, 300), (220, 330)):
        pen.ellipse((x - 28, y - 28, x + 28, y + 28), _YELLOW)
    return picture


def _sign() -> Picture:
    picture = _canvas(640, 320, _RED)
    ImageDraw.Draw(picture).rectangle((20, 20, 619, 299), None, _WHITE, 8)
    _write(picture, "DO NOT ENTER", (95, 115), 6, _WHITE)
    return picture


def _receipt() -> Picture:
    picture = _canvas(380, 760, (250, 248, 240))
    rows = ("CORNER SHOP", "", "Bread      2.40", "Milk       1.15", "Apples     3.20", "")
    for number, row in enumerate((*rows, "TOTAL      6.75", "", "17:42  Thank you!")):
        if row:
            _write(picture, row, (30, 50 + 72 * number), 3)
    return picture


def _chart() -> Picture:
    picture = _canvas(800, 560)
    pen = ImageDraw.Draw(picture)
    _write(picture, "Sales by quarter", (200, 20), 4)
    pen.line((90, 90, 90, 480, 760, 480), _BLACK, 3)
    for number, value in enumerate((120, 210, 340, 180)):
        left = 140 + 155 * number
        pen.rectangle((left, 480 - value, left + 90, 478), _BLUE)
        _write(picture, f"Q{number + 1}", (left + 26, 496), 3)
        _write(picture, str(value), (left + 20, 446 - value), 3)
    return picture


def _landscape() -> Picture:
    """Draw a sunset behind hills, with the noise of a camera."""
    generator = random.Random(7)  # noqa: S311  (noise)
    width, height = 320, 213
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            sky = y / height
            colour = [250 - 70 * sky, 120 + 90 * sky, 90 + 60 * (1 - sky)]
            if (x - 225) ** 2 + (y - 90) ** 2 < 26**2:
                colour = [255, 236, 170]
            for base, rise, shade in ((120, 22, 80), (160, 14, 45)):
                if y > base + rise * math.sin(x / (rise * 2.2) + base):
                    colour = [shade * 0.5, shade, shade * 0.7]
            noise = generator.gauss(0, 5)
            pixels += bytes(min(255, max(0, round(value + noise))) for value in colour)
    small = Image.frombytes("RGB", (width, height), bytes(pixels))
    return small.resize((960, 640), Image.Resampling.BICUBIC)


def _parts() -> Picture:
    """Draw a row of machine parts as an inspection camera sees them, one of them broken."""
    picture = _canvas(1200, 300, (120, 124, 128))
    pen = ImageDraw.Draw(picture)
    for number in range(6):
        x = 110 + 195 * number
        pen.ellipse((x - 75, 75, x + 75, 225), (190, 194, 198), (70, 72, 75), 5)
        pen.ellipse((x - 26, 124, x + 26, 176), (120, 124, 128), (70, 72, 75), 4)
        if number == 3:
            pen.polygon([(x + 20, 128), (x + 80, 60), (x + 85, 125)], (120, 124, 128))
    return picture.filter(ImageFilter.GaussianBlur(1.2))


def _clock() -> Picture:
    picture = _canvas(420, 420, (226, 232, 220))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 30, 390, 390), _WHITE, _BLACK, 8)
    for hour in range(12):
        angle = math.tau * hour / 12
        x, y = 210 + 150 * math.sin(angle), 210 - 150 * math.cos(angle)
        _write(picture, str(hour or 12), (round(x) - 9, round(y) - 12), 2)
    for share, length, width in ((3.5 / 12, 80, 10), (0.5, 120, 6)):
        angle = math.tau * share
        end = (210 + length * math.sin(angle), 210 - length * math.cos(angle))
        pen.line((210, 210, *end), _BLACK, width)
    return picture


def _board() -> Picture:
    picture = _canvas(512, 512, (238, 219, 181))
    pen = ImageDraw.Draw(picture)
    for row in range(8):
        for column in range(8):
            x, y = 64 * column, 64 * row
            if (row + column) % 2:
                pen.rectangle((x, y, x + 63, y + 63), (121, 80, 52))
            if row in (0, 7):
                pen.ellipse((x + 12, y + 12, x + 52, y + 52), _BLACK if row == 0 else _WHITE)
    return picture


def _gauge() -> Picture:
    picture = _canvas(200, 800, (210, 214, 220))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((80, 40, 120, 700), _WHITE, _BLACK, 4)
    pen.rectangle((84, 300, 116, 700), _RED)
    pen.ellipse((60, 680, 140, 760), _RED, _BLACK, 4)
    for number, degrees in enumerate(range(50, -11, -10)):
        y = 60 + 100 * number
        pen.line((120, y, 140, y), _BLACK, 3)
        _write(picture, str(degrees), (146, y - 10), 2)
    return picture


def _street() -> Picture:
    """Draw a house, a tree and a car in rough strokes."""
    picture = _canvas(900, 600, (160, 205, 240))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 430, 899, 599), (96, 98, 102))
    pen.rectangle((0, 400, 899, 440), _GREEN)
    pen.rectangle((90, 190, 360, 420), (222, 184, 135))
    pen.polygon([(70, 190), (225, 80), (380, 190)], (150, 60, 40))
    pen.rectangle((195, 300, 255, 420), (90, 60, 40))
    pen.rectangle((520, 260, 556, 420), (101, 67, 33))
    pen.ellipse((440, 110, 640, 300), (34, 110, 50))
    pen.polygon([(600, 470), (640, 420), (780, 420), (830, 470)], _RED)
    pen.rectangle((560, 470, 860, 530), _RED)
    for x in (625, 795):
        pen.ellipse((x - 35, 495, x + 35, 565), _BLACK, (180, 180, 180), 8)
    return picture


DRAWN: tuple[tuple[str, str, Callable[[], Picture]], ...] = (
    ("circle", "Which shape is in this picture, and which colour has it?", _circle),
    ("chart", "Which quarter has the highest sales in this chart, and how high are they?", _chart),
    ("landscape", "Describe this picture in two sentences.", _landscape),
    ("sign", "Read the text on this sign.", _sign),
    ("dots", "How many yellow dots are in this picture?", _dots),
    ("parts", "One of these parts is damaged. Which one, and how?", _parts),
    ("receipt", "What was bought, and what is the total?", _receipt),
    ("street", "List what can be seen in this picture.", _street),
    ("shapes", "Name the shapes from left to right with their colours.", _shapes),
    ("clock", "What time does this clock show?", _clock),
    ("gauge", "Which temperature does the thermometer show?", _gauge),
    ("board", "What kind of board is this? Explain how you can tell.", _board),
)
"""Name, question and function that draws, of each picture. Neighbours differ, so that any first few
are a mixture."""
