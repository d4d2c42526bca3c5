"""Images that requests refer to: loaded from allowed hosts and folders, and from nowhere else."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.api import image_loader
from device_runtime.api.errors import ApiError
from device_runtime.api.image_loader import ImageLoader
from device_runtime.api.images import LinkedImage
from device_runtime.api.requests import ParsedRequest
from device_runtime.inference.engine import GenerationRequest, Image, Message, Part

DATA = b"the file of an image"
PLACE = "messages[0].content[0].image_url"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Camera:
    """A server of images: `/redirect?URL` leads elsewhere, `/slow` never ends."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stopped, self.left = threading.Event(), threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.seen.append((self.path, dict(self.headers)))
                path, _, target = self.path.partition("?")
                status = {"/redirect": 302, "/missing": 404}.get(path, 200)
                body = b"x" * 300 if path == "/large" else DATA
                self.send_response(status)
                if path == "/redirect":
                    self.send_header("Location", target)
                if path not in ("/slow", "/drip"):
                    self.send_header("Content-Length", str(len(body) + (path == "/cut")))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.end_headers() if path == "/slow" else self.flush_headers()
                # A few bytes at a time keep each single read in time.
                with suppress(OSError):
                    while not camera.stopped.wait(0.02):
                        self.wfile.write(b"x" if path == "/slow" else b"X-A: b\r\n")
                camera.left.set()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.close()


@pytest.fixture
def other() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.close()


def linked(*links: str) -> ParsedRequest:
    content: tuple[Part, ...] = ("What?", *(Image(b"") for _ in links))
    generation = GenerationRequest(prompt=(Message(role="user", content=content),), max_tokens=1)
    return ParsedRequest(
        generation=generation,
        model="tiny",
        stream=False,
        include_usage=False,
        links=tuple(
            LinkedImage(number=number, link=link, place=PLACE) for number, link in enumerate(links)
        ),
    )


async def loaded(loader: ImageLoader, *links: str) -> Any:
    parsed = await loader.load(linked(*links))
    assert not parsed.links
    assert isinstance(parsed.generation.prompt, tuple)
    content = parsed.generation.prompt[0].content
    assert not isinstance(content, str)
    words, *images = content
    assert words == "What?"
    return [image.data for image in images if isinstance(image, Image)]


async def refused(loader: ImageLoader, *links: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await loader.load(linked(*links))
    assert (caught.value.status, caught.value.param) == (400, PLACE)
    assert str(caught.value).startswith(PLACE)
    return caught.value


async def test_images_of_an_allowed_host_are_loaded(camera: Camera) -> None:
    loader = ImageLoader([camera.host])
    links = (f"http://{camera.host}/a.png?now=1", f"HTTP://{camera.host}/b.png")
    assert await loaded(loader, *links) == [DATA, DATA]
    assert [path for path, _ in camera.seen] == ["/a.png?now=1", "/b.png"]
    assert camera.seen[0][1]["Accept"] == "image/*"
    assert not {"Authorization", "Cookie"} & {*camera.seen[0][1]}


async def test_request_without_links_is_left_alone() -> None:
    parsed = msgspec.structs.replace(linked(), links=())
    assert await ImageLoader().load(parsed) is parsed


@pytest.mark.parametrize(
    "link",
    [
        "http://{host}/a.png",
        "http://localhost:{port}/a.png",
        "https://{host}/a.png",
        "http://allowed.example@{host}/a.png",
        "http://{host}#@allowed.example/",
        "http://allowed.example.{host}/",
    ],
)
async def test_other_hosts_are_not_asked(camera: Camera, link: str) -> None:
    url = link.format(host=camera.host, port=camera.server.server_port)
    error = await refused(ImageLoader(["allowed.example"]), url)
    if "@{host}" not in link:
        assert error.code == "image_url_not_allowed"
        assert "image_hosts" in str(error)
    assert not camera.seen


async def test_host_without_a_port_has_the_schemes_own(camera: Camera) -> None:
    error = await refused(ImageLoader(["127.0.0.1"]), f"http://{camera.host}/a.png")
    assert error.code == "image_url_not_allowed"
    for port, scheme in ((80, "http"), (443, "https")):
        transport = image_loader._AllowedHosts(frozenset(["a.example"]))
        origin = (scheme, "a.example", port)
        assert transport.origin(f"{scheme}://a.example/x") == origin
        assert transport.origin(f"{scheme}://A.example:{port}/x") == origin


async def test_redirects_lead_to_allowed_hosts_alone(camera: Camera, other: Camera) -> None:
    link = f"http://{camera.host}/redirect?http://{other.host}/a.png"
    error = await refused(ImageLoader([camera.host]), link)
    assert error.code == "image_url_not_allowed"
    assert other.host in str(error)
    assert not other.seen
    assert await loaded(ImageLoader([camera.host, other.host]), link) == [DATA]
    await refused(ImageLoader([camera.host]), f"http://{camera.host}/redirect?file:///etc/passwd")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing", "responds with status 404"),
        ("/cut", "was lost"),
        ("/large", "more than 200 bytes"),
        ("/redirect?/redirect?/redirect?/redirect?/redirect?/redirect?/a", "in a circle"),
    ],
)
async def test_what_cannot_be_loaded_is_said(
    camera: Camera, path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_loader, "MAX_IMAGE_BYTES", 200)
    error = await refused(ImageLoader([camera.host]), f"http://{camera.host}{path}")
    assert error.code == "invalid_image_url"
    assert reason in str(error)


async def test_host_that_does_not_answer_is_said(camera: Camera) -> None:
    camera.server.server_close()
    error = await refused(ImageLoader([camera.host]), f"http://{camera.host}/a")
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("path", ["/slow", "/drip"])
async def test_slow_host_is_given_up_and_left(
    camera: Camera, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_loader, "LOAD_S", 0.3)
    error = await refused(ImageLoader([camera.host]), f"http://{camera.host}{path}")
    assert "within 0.3 s" in str(error)
    assert await asyncio.to_thread(camera.left.wait, 30)


@pytest.mark.parametrize(
    "link",
    ["", "a.png", "ftp://a.example/x", "file://host/a.png", "file:a.png", "javascript:1", "http:",
     "http://", "http:///a", "http://a.example:99999/", "http://a b/", "http://é.example/",
     "http://[::1/", "http://a.example/" + "x" * 9000, "http://u:p@a.example/"],
)  # fmt: skip
async def test_what_is_not_a_url_is_refused(link: str) -> None:
    error = await refused(ImageLoader(["a.example", "u"]), link)
    assert error.code == "invalid_image_url"
    assert "registry" not in str(error)


async def test_files_of_an_allowed_folder_are_loaded(tmp_path: Path) -> None:
    file = tmp_path / "in" / "a b.png"
    file.parent.mkdir()
    file.write_bytes(DATA)
    (tmp_path / "link").symlink_to(file.parent)
    (file.parent / "latest").symlink_to(file.name)
    for folder in (file.parent, tmp_path, tmp_path / "link"):
        loader = ImageLoader(folders=[str(folder)])
        links = (str(file), file.as_uri(), str(file.parent / "latest"), f"{folder}/../in/a b.png")
        if folder != tmp_path:
            assert await loaded(loader, *links) == [DATA] * 4


async def test_files_elsewhere_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x").write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    loader = ImageLoader(folders=[str(folder)])
    for path in ("../secret", "link", "folder/secret", "../inside/x", "../nothing", "folder/no"):
        for link in (f"{folder}/{path}", f"file://{folder}/{path}"):
            error = await refused(loader, link)
            assert error.code == "image_url_not_allowed", path
            assert "image_folders" in str(error)
            assert "secret" not in str(error)
    assert (await refused(ImageLoader(), "/etc/passwd")).code == "image_url_not_allowed"


async def test_what_is_not_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * 21)
    (tmp_path / "round").symlink_to("round")
    monkeypatch.setattr(image_loader, "MAX_IMAGE_BYTES", 20)
    loader = ImageLoader(folders=[str(tmp_path)])
    reasons = {
        "pipe": "is not a file",
        "folder": "Is a directory",
        "nothing": "No such file",
        "a\0b": "not a path",
        "x" * 300: "File name too long",
        "round": "cannot be read",
        "large": "exceeds",
    }
    for name, reason in reasons.items():
        error = await refused(loader, f"{tmp_path}/{name}")
        assert reason in str(error), name


async def test_file_that_is_moved_after_the_check_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, secret = tmp_path / "in", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (secret / "a").write_bytes(b"secret")
    (folder / "sub").symlink_to(secret)
    # As if the link had been a folder when it was resolved.
    real = os.path.realpath
    monkeypatch.setattr(
        os.path,
        "realpath",
        lambda path: str(path) if str(path).endswith("/a") else real(path),
    )
    error = await refused(ImageLoader(folders=[str(folder)]), f"{folder}/sub/a")
    assert "cannot be read" in str(error)


async def test_all_images_together_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(DATA)
    loader = ImageLoader(folders=[str(tmp_path)], max_bytes=2 * len(DATA))
    assert await loaded(loader, str(file), str(file)) == [DATA] * 2
    assert (await refused(loader, *[str(file)] * 3)).code == "image_too_large"
