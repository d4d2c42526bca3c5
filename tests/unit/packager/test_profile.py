"""Profiles: every shipped one is valid, a user's own may extend one, mistakes are all named."""

import json
import os
import re
from pathlib import Path

import pytest

from packager import profile
from packager.errors import ProfileError
from tests.support.commands import edgepack


def refused(name_or_path: str | Path) -> tuple[str, str]:
    with pytest.raises(ProfileError) as caught:
        profile.load(str(name_or_path))
    return str(caught.value), caught.value.hint


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_there_is_one_for_each_promised_device() -> None:
    assert profile.names() == [
        *("aarch64-gpu", "cpu-aarch64", "cpu-x86_64", "jetson-orin", "jetson-orin-cuda", "mobile"),
        *("raspberry-pi", "windows-dml", "x86_64-gpu"),
    ]


@pytest.mark.parametrize("name", profile.names())
def test_shipped_ones_are_valid_and_render(name: str) -> None:
    loaded = profile.load(name)
    assert loaded.name == name
    assert json.loads(json.dumps(loaded.to_dict()))["name"] == name
    assert None not in loaded.to_dict()["limits"].values()


def test_what_the_devices_are() -> None:
    pi, mobile, jetson = (profile.load(n) for n in ("raspberry-pi", "mobile", "jetson-orin"))
    cuda = profile.load("jetson-orin-cuda")
    assert (pi.kit, pi.compatible[0], pi.threads) == (
        *("linux-aarch64-cpu", "raspberrypi,5-model-b"),
        4,
    )
    assert (mobile.kit, mobile.recipe, mobile.limits.min_agreement) == (None, "auto", 0.7)
    assert mobile.quantization["accuracy_level"] == 4
    assert (jetson.kit, jetson.execution_provider) == ("linux-aarch64-webgpu", "webgpu")
    assert (cuda.kit, cuda.execution_provider) == ("linux-aarch64-cuda", "cuda")
    assert cuda.compatible == jetson.compatible == ("nvidia,tegra234",)
    assert 0 < pi.min_tokens_per_s < jetson.min_tokens_per_s
    assert profile.for_host() == f"cpu-{os.uname().machine}"


def test_own_file_extends_a_shipped_one(tmp_path: Path) -> None:
    mine = written(
        tmp_path / "mine.toml",
        'extends = "raspberry-pi"\nthreads = 2\n[quantization]\nblock_size = 64\n'
        "[limits]\nmin_top1 = 0.8\n",
    )
    loaded = profile.load(str(mine))
    assert (loaded.name, loaded.threads, loaded.kit) == ("mine", 2, "linux-aarch64-cpu")
    assert loaded.quantization == {"block_size": 64, "accuracy_level": 4}
    assert (loaded.limits.min_top1, loaded.limits.min_agreement) == (0.8, 0.7)


@pytest.mark.parametrize(
    ("limit", "kl"),
    [
        ("max_kl = 0.2", (0.2, 0.2)),
        # The steps are one value: none of the base is left.
        ("max_kl = { 0 = 0.3, 2B = 0.05 }", (0.3, 0.05)),
        ("max_kl.0 = 0.5", (0.5, 0.5)),
        ("max_model_mb = 90", (0.1, 0.03)),
    ],
)
def test_limit_by_size_is_replaced_as_a_whole(
    tmp_path: Path, limit: str, kl: tuple[float, float]
) -> None:
    text = f'extends = "mobile"\n[limits]\n{limit}\n'
    limits = profile.load(str(written(tmp_path / "mine.toml", text))).limits
    assert (limits.kl(10**8), limits.kl(5 * 10**9)) == kl


def test_extends_a_path_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "base/ours.toml", 'extends = "mobile"\nname = "ours"\nmax_tokens = 7\n')
    written(tmp_path / "a/mine.toml", 'extends = "../base/ours.toml"\nthreads = 1\n')
    monkeypatch.chdir(tmp_path)
    loaded = profile.load("a/mine.toml")
    assert (loaded.name, loaded.max_tokens, loaded.threads) == ("mine", 7, 1)


def test_a_loop_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "a.toml", 'extends = "./b.toml"\n')
    written(tmp_path / "b.toml", 'extends = "./a.toml"\n')
    message, _ = refused(tmp_path / "a.toml")
    assert "extend each other" in message
    assert "b.toml" in message


def test_unknown_name_suggests_the_nearest() -> None:
    message, hint = refused("rasberry-pi")
    assert "rasberry-pi" in message
    assert "Did you mean raspberry-pi?" in hint
    assert "jetson-orin" in hint


def test_all_mistakes_at_once_each_with_its_file(tmp_path: Path) -> None:
    base = written(tmp_path / "base.toml", 'extends = "mobile"\nthreads = "two"\n')
    mine = written(
        tmp_path / "mine.toml",
        'extends = "./base.toml"\ncontext_lenght = 1\nmemory_budget_mb = -1\nlisten = "8080"\n'
        "status_interval_s = 0\ncompatible = []\n"
        "[quantization]\nblocksize = 32\naccuracy_level = [4]\n",
    )
    message, _ = refused(mine)
    assert f"{mine}: context_lenght: unknown key; did you mean context_length?" in message
    assert f"{base}: threads: must be a whole number from 0 to 1024, not 'two'" in message
    assert f"{mine}: quantization.blocksize: unknown option; did you mean block_size?" in message
    for key in ("memory_budget_mb", "listen", "status_interval_s"):
        assert f"{mine}: {key}: must be" in message
    assert f"{mine}: compatible: must not be empty" in message
    assert f"{mine}: quantization.accuracy_level: must be one of 0, 1, 2, 3, 4, not [4]" in message


@pytest.mark.parametrize(
    ("provider", "recipe"),
    [("dml", "int8"), ("cpu", "fp16"), ("NvTensorRtRtx", "int4-rtn"), ("webgpu", "fp16")],
)
def test_impossible_combinations(tmp_path: Path, provider: str, recipe: str) -> None:
    mine = written(
        tmp_path / "mine.toml",
        f'extends = "mobile"\nexecution_provider = "{provider}"\nrecipe = "{recipe}"\n',
    )
    message, _ = refused(mine)
    assert f"recipe: {provider} takes" in message
    assert repr(recipe) in message


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("max_kl = -1", "must be a number from 0 to 100, or such numbers by parameters: { 0 ="),
        ('max_kl = "low"', "3B = 0.03 }, not 'low'"),
        ("max_kl = [0.1]", "3B = 0.03 }, not [0.1]"),
        ("max_kl = {}", 'must begin with "0"'),
        ("max_kl = { 1B = 0.1 }", 'must begin with "0", the value for the smallest models'),
        ("max_kl_tail = -1", "must be a number from 0 to 100, not -1"),
        ("min_agreement = 70", "must be a number from 0 to 1, not 70"),
        ("min_top1 = 80", "must be a number from 0 to 1, not 80"),
        ("max_model_mb = 0", "must be a number from 1"),
        ("max_kll = 0.1", "unknown option; did you mean max_kl?"),
    ],
)
def test_nonsense_limits(tmp_path: Path, limit: str, says: str) -> None:
    mine = written(tmp_path / "mine.toml", f'extends = "mobile"\n[limits]\n{limit}\n')
    message, _ = refused(mine)
    assert f"limits.{limit.split()[0]}: " in message
    assert says in message


def test_all_mistakes_of_a_limit_by_size_at_once(tmp_path: Path) -> None:
    base = written(
        tmp_path / "base.toml",
        'extends = "mobile"\n[limits]\nmax_kl = { 0.5B = 0.1, 1b = 0.1, 2B = "low", '
        "1000M = 0.1, 3B = { x = 1 } }\n",
    )
    mine = written(tmp_path / "mine.toml", 'extends = "./base.toml"\nthreads = -1\n')
    message, _ = refused(mine)
    assert f"{mine}: threads: " in message
    key = "must be a number of parameters (0, 500M, 3B), not"
    for problem in (
        "0: must be a number from 0 to 100, not a table",
        f"1b: {key} '1b'",
        f"1000M: {key} '1000M'",
        "2B: must be a number from 0 to 100, not 'low'",
        "3B: must be a number from 0 to 100, not a table",
    ):
        assert f"{base}: limits.max_kl.{problem}" in message


def test_limit_by_size_is_listed_and_shown() -> None:
    listed = json.loads(edgepack("profiles", "--json").out)
    limits = {values["name"]: values["limits"] for values in listed}
    assert limits["mobile"]["max_kl"] == {"0": 0.1, "400M": 0.06, "900M": 0.04, "3B": 0.03}
    shown = edgepack("profiles", "show", "mobile", "--json")
    assert json.loads(shown.out)["limits"] == limits["mobile"]
    words = " ".join(edgepack("profiles", "show", "mobile").out.split())
    assert "max_kl={0=0.1, 400M=0.06, 900M=0.04, 3B=0.03}" in words


def test_unknown_recipe(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.toml", 'extends = "mobile"\nrecipe = "int4-gptk"\n')
    assert "int4-gptq" in refused(mine)[0]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("threads =", "not valid TOML"),
        (f"threads = {'9' * 5000}", "not valid TOML"),
        (f"compatible = {'[' * 5000}", "not valid TOML"),
        ("extends = 3", "extends"),
        ('extends = "mobil"', "mobil"),
        ("", "is missing"),
        ('extends = "mobile"\nmax_tokens = 4096', "context_length"),
        ('extends = "mobile"\nquantization = 4', "must be a table"),
        ('extends = "mobile"\n[threads]\nx = 1', "threads: must be a whole number from 0 to 1024"),
        ('extends = "mobile"\nthreads = true', "not True"),
        ('extends = "mobile"\nthreads = 2.0', "not 2.0"),
        (
            'extends = "mobile"\nstatus_interval_s = nan',
            "must be a number from 1 to 86400, not nan",
        ),
        ('extends = "mobile"\nmin_tokens_per_s = -1', "must be a number from 0 to 10000, not -1"),
        ('extends = "mobile"\nkit = ""', "kit: must not be empty"),
        ('extends = "mobile"\ncompatible = ["pi", "Pi"]', "must be a list of names such as"),
        ('extends = "mobile"\nlisten = "localhost:65536"', 'must be "host:port" with a port up to'),
        ('extends = "mobile"\nname = "line\\n"', "name: must be up to 64 letters"),
        ('extends = "mobile"\n[quantization]\nblock_size = 32.0', "must be one of 16, 32, 64, 128"),
        ('extends = "mobile"\n[quantization]\nuse_cuda_bf16 = 1', "must be true or false, not 1"),
    ],
)
def test_other_mistakes(tmp_path: Path, text: str, word: str) -> None:
    message, hint = refused(written(tmp_path / "mine.toml", text))
    assert word in message
    assert hint


def test_show_says_what_each_key_is() -> None:
    shown = edgepack("profiles", "show", "raspberry-pi")
    assert shown.status == 0, shown.err
    assert re.search(r"threads +4 +Threads of inference; 0 for one a core", shown.out)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such profile file" in refused(tmp_path / "none.toml")[0]
