"""Where options get their values, and what is said of values that are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from device_runtime.bundle.manifest import Settings
from device_runtime.cli import cli
from device_runtime.config.options import OPTIONS, RuntimeConfig
from device_runtime.config.sources import Resolved, resolve
from device_runtime.errors import ServiceError

SETTINGS = Settings(listen="127.0.0.1:9000", threads=3, max_tokens=99, status_interval_s=5.0)


class Sources:
    """A file, an environment and flags."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "runtime.toml"

    def resolve(
        self, text: str = "", environment: dict[str, str] | None = None, **flags: Any
    ) -> Resolved:
        self.file.write_text(text)
        return resolve(SETTINGS, file=self.file, flags=flags, environment=environment or {})

    def config(self, text: str = "", **environment: str) -> RuntimeConfig:
        return self.resolve(text, environment).config

    def refusal(self, text: str = "", **environment: str) -> str:
        with pytest.raises(ServiceError) as caught:
            self.resolve(text, environment)
        assert caught.value.exit_code == 13
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_each_source_overrides_those_before(sources: Sources) -> None:
    found = sources.resolve(
        "max_tokens = 1\nparallel = 3\nqueue_limit = 4",
        {"EDGEPACK_PARALLEL": "5", "EDGEPACK_QUEUE_LIMIT": "6"},
        queue_limit=7,
    )
    config = found.config
    assert (config.threads, config.max_tokens, config.parallel) == (3, 1, 5)
    assert (config.queue_limit, config.request_timeout) == (7, 600)
    assert found.origins["request_timeout"] == "default"
    assert found.origins["threads"] == "release"
    assert found.origins["max_tokens"] == f"{sources.file}: max_tokens"
    assert found.origins["parallel"] == "environment variable EDGEPACK_PARALLEL"
    assert found.origins["queue_limit"] == "flag --queue-limit"


def test_defaults_without_release_and_file(tmp_path: Path) -> None:
    assert resolve(None, environment={}).config.listen == "127.0.0.1:8080"


def test_every_kind_from_file_and_environment(sources: Sources) -> None:
    from_file = sources.config(
        'listen = "[::1]:80"\ninsecure_no_auth = true\nrequest_timeout = 5\n'
        'cors_origins = ["https://a.example", "http://b.example:8080"]\nlog_format = "json"'
    )
    from_environment = sources.config(
        EDGEPACK_LISTEN="[::1]:80",
        EDGEPACK_INSECURE_NO_AUTH="true",
        EDGEPACK_REQUEST_TIMEOUT="5",
        EDGEPACK_CORS_ORIGINS="https://a.example, http://b.example:8080",
        EDGEPACK_LOG_FORMAT="json",
    )
    assert from_file == from_environment
    assert from_file.cors_origins == ("https://a.example", "http://b.example:8080")
    assert type(from_file.request_timeout) is float


def test_paths_in_the_file_are_relative_to_it(sources: Sources) -> None:
    config = sources.config('tls_key = "tls/key.pem"\ntls_certificate = "/etc/cert.pem"')
    assert config.tls_key == sources.file.parent / "tls/key.pem"
    assert config.tls_certificate == Path("/etc/cert.pem")
    assert sources.config(EDGEPACK_TLS_KEY="key.pem").tls_key == Path("key.pem")


def test_empty_variable_counts_as_not_set(sources: Sources) -> None:
    assert sources.config("parallel = 4", EDGEPACK_PARALLEL="").parallel == 4


def test_variables_of_others_are_let_alone(sources: Sources) -> None:
    own = ("CONFIG", "RELEASE", "API_KEY_FILE")
    others = (*own, "CACHE", "KEYS", "PASSPHRASE_FILE", "TESTS_REQUIRE")
    environment = {f"EDGEPACK_{name}": "x" for name in others} | {"PATH": "x", "edgepack_x": "x"}
    assert sources.resolve("", environment).config == sources.config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paralel = 2", ("unknown key 'paralel'", "did you mean parallel?")),
        ("zzz = 2", ("unknown key 'zzz'", "valid names: api_keys_file, ")),
        ("[parallel]\nx = 1", ("parallel: must be a whole number between 1 and 16, not a table",)),
        ("parallel = 0", ("parallel: must be a whole number between 1 and 16, not 0",)),
        ("parallel = 17", ("17", "between 1 and 16")),
        ("parallel = 2.0", ("must be a whole number", "not 2.0")),
        ("parallel = true", ("must be a whole number", "not True")),
        ('parallel = "2"', ("must be a whole number", "not '2'")),
        ("client_timeout = nan", ("must be a number between 0.1 and 3600, not nan",)),
        ("client_timeout = 0", ("must be a number between 0.1 and 3600, not 0",)),
        ("insecure_no_auth = 1", ("must be true or false, not 1",)),
        ('log_format = "xml"', ("must be 'json' or 'text', not 'xml'",)),
        (
            'cors_origins = "https://a.example"',
            ("must be a list of strings, not 'https://a.example'",),
        ),
        ("cors_origins = [1]", ("must be a list of strings, not [1]",)),
        ('cors_origins = ["*"]', ("'*' is not an origin",)),
        ('cors_origins = ["https://a.example/x"]', ("is not an origin",)),
        ('cors_origins = ["https://A.example"]', ("use https://a.example",)),
        ("image_hosts = 'a.example'", ("must be a list of strings",)),
        ("image_hosts = ['https://a.example']", ("is not a host: use HOST or HOST:PORT",)),
        ("image_hosts = ['a.example/x']", ("is not a host",)),
        ("image_hosts = ['*.example']", ("is not a host",)),
        ("image_hosts = ['a@b.example']", ("is not a host",)),
        ("image_hosts = ['a.example:http']", ("is not a host",)),
        ("image_hosts = ['a.example:']", ("is not a host",)),
        ("image_hosts = ['::1']", ("is not a host",)),
        ("image_hosts = ['']", ("is not a host",)),
        ("image_hosts = ['A.example:80']", ("use a.example:80",)),
        ("image_folders = ['pictures']", ("'pictures' must be an absolute path",)),
        ("image_folders = ['file:///srv']", ("must be an absolute path",)),
        ("max_body_kib = 65537", ("between 0 and 65536",)),
        ("tls_key = 1", ("must be a file path, not 1",)),
        ('tls_key = ""', ("tls_key: must not be empty",)),
        ('device_id = ""', ("device_id: must not be empty",)),
        ('listen = "8080"', ("'8080' is not an address to listen on", "HOST:PORT")),
        ('listen = "::1:80"', ("is not an address",)),
        ('listen = ""', ("listen: must not be empty",)),
        ("mqtt = 1", ("mqtt: must be a string, not 1",)),
        (f"parallel = {'9' * 5000}", ("is not valid TOML",)),
        ("parallel = 1\nthreads = x", ("is not valid TOML", "line 2")),
    ],
)
def test_wrong_file(sources: Sources, text: str, words: tuple[str, ...]) -> None:
    message = sources.refusal(text)
    assert str(sources.file) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("EDGEPACK_PARALLEL", "two", "must be a whole number between 1 and 16, not 'two'"),
        ("EDGEPACK_PARALLEL", "99", "must be a whole number between 1 and 16, not '99'"),
        ("EDGEPACK_CLIENT_TIMEOUT", "nan", "must be a number between 0.1 and 3600, not 'nan'"),
        ("EDGEPACK_INSECURE_NO_AUTH", "perhaps", "must be true or false, not 'perhaps'"),
        ("EDGEPACK_LOG_FORMAT", "xml", "must be 'json' or 'text', not 'xml'"),
        ("EDGEPACK_PARALEL", "2", "did you mean EDGEPACK_PARALLEL?"),
        ("EDGEPACK_CONFIGG", "2", "did you mean EDGEPACK_CONFIG?"),
    ],
)
def test_wrong_environment(sources: Sources, name: str, value: str, word: str) -> None:
    message = sources.refusal(**{name: value})
    assert name in message
    assert word in message


def test_all_problems_at_once(sources: Sources) -> None:
    message = sources.refusal(
        'parallel = 99\ntreads = 1\nlog_format = "xml"', EDGEPACK_THREADS="x", EDGEPACK_FOO="1"
    )
    assert message.startswith("5 problems")
    for word in ("parallel", "treads", "log_format", "EDGEPACK_THREADS", "EDGEPACK_FOO"):
        assert word in message


def test_secret_in_mqtt_url_is_refused_and_not_repeated(sources: Sources) -> None:
    message = sources.refusal('mqtt = "mqtt://user:s3cret@host"')
    assert "mqtt_password_file" in message
    assert "s3cret" not in message


@pytest.mark.parametrize("content", [None, b"\xff", b"# " + b"x" * (1 << 20)])
def test_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServiceError, match=r"c\.toml"):
        resolve(None, file=file, environment={})


def test_usual_file_may_be_missing() -> None:
    assert resolve(None, environment={}).origins["parallel"] in (
        "default",
        "/etc/edgepack/runtime.toml: parallel",
    )


def test_images_need_hosts_folders_and_larger_bodies(sources: Sources) -> None:
    hosts = ("camera.local", "192.168.1.20:8081", "[::1]:80", "a-b.example")
    config = sources.resolve(image_hosts=hosts, image_folders=("/srv",)).config
    assert config.image_hosts == hosts
    assert config.image_folders == ("/srv",)
    assert config.max_body_bytes(sees=False) == 1 << 20
    assert config.max_body_bytes(sees=True) == 16 << 20
    assert config.max_form_bytes() > 25 << 20
    config = sources.config("max_body_kib = 2")
    assert config.max_body_bytes(sees=True) == config.max_body_bytes(sees=False) == 2048
    assert config.max_form_bytes() == 2048


def test_system_prompt_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompt"
    with pytest.raises(ServiceError, match="No such file"):
        RuntimeConfig(system_prompt_file=file).system_prompt()
    file.write_bytes(b"\xff")
    with pytest.raises(ServiceError, match="not UTF-8"):
        RuntimeConfig(system_prompt_file=file).system_prompt()
    file.write_text("Be brief — always.")
    assert RuntimeConfig(system_prompt_file=file).system_prompt() == "Be brief — always."
    file.write_bytes(b"Be brief.\0")
    with pytest.raises(ServiceError, match=r"U\+0000") as caught:
        RuntimeConfig(system_prompt_file=file).system_prompt()
    assert str(file) in str(caught.value)
    assert RuntimeConfig().system_prompt() == ""


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner(env=environment).invoke(cli, arguments, catch_exceptions=False)


def test_config_show(tmp_path: Path) -> None:
    file = tmp_path / "runtime.toml"
    file.write_text("parallel = 3\ncors_origins = ['https://a.example']")
    shown = run("config", "show", "--config", str(file), "--threads", "2", EDGEPACK_MAX_TOKENS="7")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.output.splitlines()}
    assert lines.keys() == OPTIONS.keys()
    assert lines["parallel"].split(maxsplit=1) == ["3", f"{file}: parallel"]
    assert lines["threads"].split(maxsplit=1) == ["2", "flag --threads"]
    assert lines["max_tokens"].split(maxsplit=1) == [
        "7",
        "environment variable EDGEPACK_MAX_TOKENS",
    ]
    assert lines["mqtt"].split() == ["-", "default"]
    found = json.loads(run("config", "show", "--config", str(file), "--json").output)
    assert found["cors_origins"] == {
        "value": ["https://a.example"],
        "origin": f"{file}: cors_origins",
    }


def test_config_file_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "runtime.toml"
    file.write_text("parallel = 3")
    found = json.loads(run("config", "show", "--json", EDGEPACK_CONFIG=str(file)).output)
    assert found["parallel"]["value"] == 3


def test_flag_out_of_range_is_a_usage_error() -> None:
    done = run("config", "show", "--parallel", "17")
    assert done.exit_code == 2
    assert "1<=x<=16" in done.output


def test_help_of_serve_has_every_option_below_a_heading() -> None:
    text = run("serve", "--help").output
    for option in OPTIONS.values():
        assert f"{option.flag} " in text
        assert f"\n{option.group}:\n" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    assert "_EDGEPACK_RUNTIME_COMPLETE" in run("completion", shell).output
