"""Building a bundle of a tiny model that sees, with its gate, as a user sees it."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from device_runtime.bundle.reader import open_bundle
from packager.vision.exported import GRAPH
from tests.support import seeing, tiny_seeing
from tests.support.commands import edgepack, edgepack_quickly


@pytest.fixture(scope="module")
def mistral3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seeing.make_mistral3(tmp_path_factory.mktemp("mistral3") / "hf")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate(((90, 60), (40, 120), (150, 150))):
        seeing.picture(number, *size).save(folder / f"view-{number}.jpg")
    (folder / "view-1.txt").write_text("Is <the door> open?")
    return folder


@pytest.mark.slow
def test_model_that_sees_is_measured_on_pictures(
    cache: Path, mistral3: Path, pictures: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "m.epk"
    arguments: list[str | Path] = ["build", "--profile", "mobile", "--model", mistral3]
    arguments += ["--recipe", "fp32", "--eval-images", pictures, "-o", bundle]
    outcome = edgepack(*arguments, cache=cache)
    assert outcome.status == 0, outcome.err
    assert "Quality on pictures" in outcome.out
    with open_bundle(bundle) as opened:
        sight = opened.manifest.vision
        assert sight is not None
        (data,) = (r.size for r in opened.manifest.records if r.path.endswith(f"{GRAPH}.data"))
    assert sight.quality is not None
    assert sight.quality.kl < 0.02
    assert sight.quality.tokens <= 3 * 24
    tried = {part.weights: part for part in sight.tried}
    assert sight.weights in tried
    assert tried["fp32"].quality.kl < 1e-4
    assert tried["fp32"].quality.top1 == 1
    assert sight.weights != "fp32"
    assert tried[sight.weights].vision_bytes < tried["fp32"].vision_bytes
    assert data < tried[sight.weights].vision_bytes
    assert [answer.picture for answer in sight.answers] == [f"view-{n}.jpg" for n in range(3)]
    assert sight.answers[1].prompt == "Is <the door> open?"

    page = bundle.with_suffix(".report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 3
    assert "Is &lt;the door&gt; open?" in page
    assert f"--eval-images {pictures}" in page
    # Nothing is loaded from elsewhere.
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)

    shown = edgepack("inspect", bundle, cache=cache)
    assert f"mistral3, at most {sight.image_tokens} tokens each" in " ".join(shown.out.split())
    assert "Picture view-1.jpg" in shown.out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "view-1.jpg").write_bytes(b"\xff\xd8 no"),
            "view-1.jpg cannot be used",
        ),
        (lambda folder: [p.unlink() for p in folder.iterdir()], "has 0 pictures"),
        (lambda folder: Image.new("RGB", (4, 900)).save(folder / "a.png"), "50 times as long"),
    ],
)
def test_bad_pictures_are_reported_before_the_work(
    mistral3: Path, pictures: Path, tmp_path: Path, spoil: object, words: str
) -> None:
    assert callable(spoil)
    spoil(pictures)
    outcome = edgepack_quickly(
        "build", "--profile", "mobile", "--model", mistral3, "--eval-images", pictures,
        "-o", tmp_path / "m.epk", cache=tmp_path / "cache",
    )  # fmt: skip
    assert outcome.status == 12, outcome.err
    assert words in outcome.err
    assert "hint:" in outcome.err
    assert "Traceback" not in outcome.err
    assert "Running the reference model" not in outcome.err
    assert not list(tmp_path.glob("m.*"))


def test_pictures_are_for_models_that_see(
    cache: Path, tiny_hf: Path, pictures: Path, tmp_path: Path
) -> None:
    outcome = edgepack_quickly(
        "build", "--profile", "mobile", "--model", tiny_hf, "--eval-images", pictures,
        "-o", tmp_path / "m.epk", cache=cache,
    )  # fmt: skip
    assert outcome.status == 4, outcome.err
    assert "sees no images" in outcome.err


@pytest.mark.slow
def test_limits_hold_on_pictures_as_on_text(
    cache: Path, mistral3: Path, pictures: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "mobile"\nrecipe = "int4-rtn"\n[limits]\nmax_kl = 1e-9\n')
    arguments: list[str | Path] = ["build", "--profile", mine, "--model", mistral3, "--json"]
    arguments += ["--eval-images", pictures, "-o", tmp_path / "m.epk"]
    refused = edgepack_quickly(*arguments, cache=cache)
    assert refused.status == 11, refused.err
    allowed = edgepack_quickly(*arguments, "--allow-quality-loss", cache=cache)
    assert allowed.status == 0, allowed.err
    facts = json.loads(allowed.out)["manifest"]
    assert facts["quantization"]["quality_loss_allowed"]
    assert facts["vision"]["quality"]["kl"] > 1e-5
    assert all(part["exceeded"] for part in facts["vision"]["tried"])
