"""Models that are shared: packed, downloaded from a server of this computer by the real code, and kept."""

import errno
import gzip
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from database import Database
from typer.testing import CliRunner

import pyxem_dl
from pyxem_dl import commands
from pyxem_dl.sharing import ArchiveReference, HubReference, archives, fetching, is_reference, read_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "model.safetensors", "reference.safetensors")


@pytest.fixture(scope="module")
def packed(tmp_path_factory, polar_folder):
    """A model in one file, and its hash."""
    return pyxem_dl.pack_model(polar_folder, tmp_path_factory.mktemp("packed") / "polar.zip")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of this computer in the place of all that are asked, and an empty cache."""
    server = Database()
    monkeypatch.setenv("PYXEM_DL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setenv("PYXEM_DL_ZENODO", server.base)
    yield server
    server.close()


@pytest.fixture
def cache(server, tmp_path):
    return tmp_path / "cache" / "models"


@pytest.fixture
def hub(server, polar_folder):
    """The server as the hub, with one model; files are changed in what it returns."""
    files = {name: (polar_folder / name).read_bytes() for name in FILES}
    for name in FILES:
        server.answers[f"/owner/name/resolve/{COMMIT}/{name}"] = lambda _, name=name: (200, {}, files[name])
    return files


def sent(packed, **headers):
    return 200, {"Content-Type": "application/zip", **headers}, packed.path.read_bytes()


def left(cache):
    """Files of a cache that are not whole."""
    return [path.name for path in cache.rglob("*") if path.is_file() and re.search(r"unfinished|tmp|\.lock", path.name)]


# ---------------------------------------------------------------- references
@pytest.mark.parametrize(
    "text, kind",
    [
        ("hf://owner/name@main", HubReference),
        ("hf://owner/name", HubReference),
        ("https://example.org/a/my%20model.zip#sha256=" + "A" * 64, ArchiveReference),
        ("doi:10.5281/zenodo.123/model.zip", ArchiveReference),
        ("DOI:10.5281/zenodo.123/model.zip#sha256=" + "0" * 64, ArchiveReference),
        ("http://127.0.0.1:8000/x.zip", ArchiveReference),
    ],
)
def test_addresses_are_read(text, kind):
    assert is_reference(text)
    assert isinstance(read_reference(text), kind)


def test_parts_of_addresses():
    found = read_reference("https://example.org/a/my%20model.zip?download=1#sha256=" + "A" * 64)
    assert found.file == "my model.zip" and found.sha256 == "a" * 64
    assert found.address == "https://example.org/a/my%20model.zip?download=1"
    assert read_reference("doi:10.5281/zenodo.12/m.zip").address == "https://zenodo.org/records/12/files/m.zip"
    # a file in a folder of the record, or a path that leaves it: the host sees one name
    found = read_reference("doi:10.5281/zenodo.12/..%2F..%2Fm.zip")
    assert found.address == "https://zenodo.org/records/12/files/..%2F..%2Fm.zip"
    found = read_reference(f"hf://owner/name@{COMMIT.upper()}")
    assert found.is_fixed and found.address_of("a") == f"https://huggingface.co/owner/name/resolve/{COMMIT}/a"
    assert not read_reference("hf://owner/name@v1").is_fixed


@pytest.mark.parametrize("text", ["mgo-300kv", "./my_model", "C:\\models\\mine", "C:/models/mine", "/a/b", "a:b"])
def test_names_and_folders_are_no_addresses(text):
    assert not is_reference(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("http://example.org/x.zip", "https:// only"),
        ("https://user@example.org/x.zip", "no web address"),
        ("https://example.org/x.zip#md5=1", "behind # must stand the hash"),
        ("https://example.org/x.zip#sha256=12", "64 digits"),
        ("hf://owner", "no model of the Hugging Face hub"),
        ("hf://../name@main", "no model of the Hugging Face hub"),
        ("hf://owner/..@main", "no model of the Hugging Face hub"),
        ("hf://owner/name/file@main", "no model of the Hugging Face hub"),
        ("doi:10.1000/1/x.zip", "no file of Zenodo"),
        ("doi:10.5281/zenodo.12", "no file of Zenodo"),
        ("doi:10.5281/zenodo.12/..", "no file of Zenodo"),
        ("doi:10.5281/zenodo.12/%2e%2e", "no file of Zenodo"),
        ("doi:10.5281/zenodo.12/a%1b[2J.zip", "no file of Zenodo"),
        ("zenodo://12/x.zip", "write 'doi:10.5281/zenodo.RECORD/model.zip"),
        ("https://huggingface.co/owner/name", "write 'hf://owner/name@commit'"),
        ("https://doi.org/10.5281/zenodo.12", "write 'doi:10.5281/zenodo.12/model.zip"),
        ("s3://bucket/x.zip", "is no address that models are loaded from"),
        ("file:///etc/passwd", "is no address that models are loaded from"),
        ("https://example.org/" + "x" * 5000, "longer than"),
    ],
)
def test_other_addresses_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        pyxem_dl.load_model(text)


def test_another_endpoint_must_be_an_address(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://example.org")
    with pytest.raises(ValueError, match="HF_ENDPOINT.*https:// only"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")


# ---------------------------------------------------------------- packing
def test_the_same_folder_gives_the_same_bytes(packed, polar_folder, tmp_path):
    import shutil

    copy = tmp_path / "another name"
    shutil.copytree(polar_folder, copy)
    for path in copy.iterdir():
        os.utime(path, (0, 0))
    again = pyxem_dl.pack_model(copy)
    assert again.path == tmp_path / "another name.zip"
    assert again.path.read_bytes() == packed.path.read_bytes() and again.sha256 == packed.sha256
    assert packed.sha256 == hashlib.sha256(packed.path.read_bytes()).hexdigest()
    assert f'load_model("https://.../polar.zip#sha256={packed.sha256}")' in str(packed)


def test_a_packed_model_is_the_model(packed, polar_folder):
    assert pyxem_dl.load_model(packed.path).fingerprint == pyxem_dl.load_model(polar_folder).fingerprint
    assert zipfile.ZipFile(packed.path).namelist()[:3] == list(FILES)


def test_only_a_whole_model_is_packed(polar_folder, tmp_path):
    import shutil

    with pytest.raises(FileNotFoundError, match="no model folder"):
        pyxem_dl.pack_model(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        pyxem_dl.pack_model(tmp_path)
    copy = tmp_path / "model"
    shutil.copytree(polar_folder, copy)
    with pytest.raises(ValueError, match="must end in .zip"):
        pyxem_dl.pack_model(copy, tmp_path / "model.tar")
    (copy / "secret.txt").write_text("mine")
    packed = pyxem_dl.pack_model(copy)
    assert packed.left_out == ("secret.txt",) and "Left out: secret.txt" in str(packed)
    assert "secret.txt" not in zipfile.ZipFile(packed.path).namelist()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        pyxem_dl.pack_model(copy)
    pyxem_dl.pack_model(copy, overwrite=True)
    (copy / "reference.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="reference.safetensors is missing"):
        pyxem_dl.pack_model(copy, overwrite=True)


def test_a_model_that_answers_otherwise_is_not_packed(polar_folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(polar_folder, copy)
    stored = load_file(copy / "reference.safetensors")
    save_file(stored | {"scores": stored["scores"] + 0.5}, copy / "reference.safetensors")
    with pytest.raises(ValueError, match="no longer reproduces"):
        pyxem_dl.pack_model(copy)
    assert not (tmp_path / "model.zip").exists()


def test_the_command_packs_and_says_how_it_is_loaded(polar_folder, tmp_path):
    output = tmp_path / "polar.zip"
    run = CliRunner().invoke(commands.app, ["pack", str(polar_folder), "--output", str(output)])
    assert run.exit_code == 0, run.output
    assert hashlib.sha256(output.read_bytes()).hexdigest() in run.output and "load_model(" in run.output
    run = CliRunner().invoke(commands.app, ["pack", str(polar_folder), "--output", str(output)])
    assert run.exit_code == 1 and "--overwrite" in run.output


# ---------------------------------------------------------------- downloads of archives
def test_an_archive_is_downloaded_once(server, cache, packed, polar_folder):
    server.answers["/polar.zip"] = sent(packed)
    address = f"{server.base}/polar.zip#sha256={packed.sha256}"
    model = pyxem_dl.load_model(address)
    assert model.fingerprint == pyxem_dl.load_model(polar_folder).fingerprint and model.source == address
    server.close()
    assert pyxem_dl.load_model(address).fingerprint == model.fingerprint  # without a network
    private = pyxem_dl.load_model(address.replace(".zip", ".zip?key=secret"))
    assert private.source == address and "secret" not in str(private.about())
    assert len(server.asked) == 1 and left(cache) == []


def test_a_record_of_zenodo(server, packed):
    server.answers["/records/123/files/polar.zip"] = sent(packed)
    assert pyxem_dl.load_model(f"doi:10.5281/zenodo.123/polar.zip#sha256={packed.sha256}").name == "polar"


def test_without_a_hash_the_one_that_is_there_is_told(server, cache, packed):
    server.answers["/polar.zip"] = sent(packed)
    address = f"{server.base}/polar.zip"
    with pytest.raises(ValueError, match=f"has no hash.*\n    {address}#sha256={packed.sha256}\n"):
        pyxem_dl.load_model(address)
    assert pyxem_dl.load_model(f"{address}#sha256={packed.sha256}").name == "polar"
    assert len(server.asked) == 1 and left(cache) == []
    server.close()
    with pytest.raises(ValueError, match="has no hash.*cannot be told.*refused"):
        pyxem_dl.load_model(address)


def test_a_file_with_another_hash_is_not_used(server, cache, packed):
    server.answers["/polar.zip"] = sent(packed)
    with pytest.raises(ValueError, match=f"polar.zip.* has the sha256 {packed.sha256}, not {'0' * 64}"):
        pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={'0' * 64}")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_offline_errors_say_what_to_do_by_hand(server, cache, packed):
    server.close()
    address = f"{server.base}/polar.zip#sha256={packed.sha256}"
    with pytest.raises(ConnectionError) as caught:
        pyxem_dl.load_model(address)
    text = str(caught.value)
    place = cache / f"{packed.sha256}.zip"
    assert text.startswith(f"polar.zip cannot be downloaded from {server.base}/polar.zip: ") and "refused" in text
    assert f"bring that file from another computer, as {place}. It must have the sha256 {packed.sha256}." in text
    place.write_bytes(packed.path.read_bytes()[:-1])
    with pytest.raises(ConnectionError, match="that is there has another sha256"):
        pyxem_dl.load_model(address)
    place.write_bytes(packed.path.read_bytes())
    assert pyxem_dl.load_model(address).name == "polar"


@pytest.mark.parametrize(
    "status, kind, message",
    [
        (404, FileNotFoundError, r"polar.zip is not at .*HTTP 404.*Check the address"),
        (401, PermissionError, r"HTTP 401.*private, or its name misspelt"),
        (403, PermissionError, r"HTTP 403"),
        (500, ConnectionError, r"cannot be downloaded.*HTTP 500.*bring that file"),
    ],
)
def test_answers_that_are_no_file(server, cache, packed, status, kind, message):
    server.answers["/polar.zip"] = (status, {}, b"<html>no</html>")
    with pytest.raises(kind, match=message):
        pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={packed.sha256}")
    assert left(cache) == []


def test_redirects_are_followed_to_where_they_may_lead(server, packed):
    server.answers["/a.zip"] = (302, {"Location": "/b.zip?x=1"}, b"")
    server.answers["/b.zip"] = sent(packed)
    assert pyxem_dl.load_model(f"{server.base}/a.zip#sha256={packed.sha256}").name == "polar"
    server.answers["/c.zip"] = (302, {"Location": "http://example.org/b.zip"}, b"")
    with pytest.raises(ValueError, match="redirected file is asked by https:// only"):
        pyxem_dl.load_model(f"{server.base}/c.zip#sha256={'1' * 64}")
    server.answers["/d.zip"] = (302, {"Location": "file:///etc/passwd"}, b"")
    with pytest.raises(ValueError, match="is no web address|https:// only"):
        pyxem_dl.load_model(f"{server.base}/d.zip#sha256={'1' * 64}")
    server.answers["/e.zip"] = (302, {"Location": "/e.zip"}, b"")
    with pytest.raises(ConnectionError, match="redirects"):
        pyxem_dl.load_model(f"{server.base}/e.zip#sha256={'1' * 64}")


def test_https_never_becomes_http():
    class Answer:
        url, is_redirect, headers = "https://example.org/a.zip", True, {"Location": "http://127.0.0.1/a.zip"}

        def close(self):
            pass

    with pytest.raises(ValueError, match="which is not https"):
        fetching._checked_answer(fetching._Bounded(None, 100, "a.zip", False))(Answer())


def test_a_size_that_is_no_number(server, packed):
    def strange(parameters):
        handler = parameters["handler"]
        handler.send_response(200)
        handler.send_header("Content-Length", "many")
        handler.end_headers()
        handler.wfile.write(packed.path.read_bytes())

    server.answers["/polar.zip"] = strange
    assert pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={packed.sha256}").name == "polar"


def test_no_room_to_unpack(packed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives, "_write", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match=f"no room to unpack .*polar.zip in {tmp_path}: make some.*TMPDIR"):
        pyxem_dl.load_model(packed.path)
    assert os.listdir(tmp_path) == []


def test_no_password_is_sent(server, packed, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.answers["/a.zip"] = (302, {"Location": "/b.zip", "Set-Cookie": "who=me"}, b"")
    server.answers["/b.zip"] = sent(packed)
    pyxem_dl.load_model(f"{server.base}/a.zip#sha256={packed.sha256}")
    assert [path for path, *_ in server.asked] == ["/a.zip", "/b.zip"]
    for _, _, headers in server.asked:
        assert not {"authorization", "cookie", "referer"} & {name.lower() for name in headers}


def test_nothing_is_unpacked_on_the_way(server, cache, packed):
    server.answers["/polar.zip"] = 200, {"Content-Encoding": "gzip"}, gzip.compress(packed.path.read_bytes())
    with pytest.raises(ValueError, match="sends a packed answer that was not asked for"):
        pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={packed.sha256}")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_the_body_of_a_redirect_is_not_read(server, packed):
    def endless(parameters):
        handler = parameters["handler"]
        handler.send_response(302)
        handler.send_header("Location", "/b.zip")
        handler.end_headers()
        with pytest.raises(OSError):
            while True:
                handler.wfile.write(b"0" * 10_000)

    server.answers["/a.zip"] = endless
    server.answers["/b.zip"] = sent(packed)
    assert pyxem_dl.load_model(f"{server.base}/a.zip#sha256={packed.sha256}").name == "polar"


def test_a_link_in_the_cache_is_not_written_through(server, cache, packed, hub, tmp_path):
    mine = tmp_path / "home" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("not to be lost")
    server.answers["/polar.zip"] = sent(packed)
    folder = cache / "hub" / "owner" / "name" / COMMIT
    folder.mkdir(parents=True)
    places = [cache / f"{packed.sha256}.zip", folder / "SHA256SUMS", folder / "model.safetensors"]
    for place, target in zip(places, (mine, mine.with_name("new"), mine)):
        place.symlink_to(target)
    pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={packed.sha256}")
    pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")
    assert not any(place.is_symlink() for place in places)
    assert os.listdir(mine.parent) == ["mine.txt"] and mine.read_text() == "not to be lost"
    # one that leads to the very file is as good as the file
    places[0].replace(tmp_path / "elsewhere.zip")
    places[0].symlink_to(tmp_path / "elsewhere.zip")
    pyxem_dl.load_model(f"{server.base}/polar.zip#sha256={packed.sha256}")
    assert places[0].is_symlink()


def test_a_folder_that_cannot_be_written_and_a_full_disk(server, cache, packed, tmp_path, monkeypatch):
    server.answers["/polar.zip"] = sent(packed)
    address = f"{server.base}/polar.zip#sha256={packed.sha256}"
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("PYXEM_DL_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(NotADirectoryError, match="cannot be written: Not a directory.*variable PYXEM_DL_CACHE"):
            pyxem_dl.load_model(address)

    def full(self, piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetching._Bounded, "write", full)
        with pytest.raises(OSError, match=f"{packed.sha256}.zip cannot be written: No space left.*Make room"):
            pyxem_dl.load_model(address)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert pyxem_dl.load_model(address).name == "polar"


def test_an_interrupted_download_leaves_nothing_that_looks_whole(server, cache, packed):
    content = packed.path.read_bytes()

    def broken(parameters):
        handler = parameters["handler"]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True

    server.answers["/polar.zip"] = broken
    address = f"{server.base}/polar.zip"
    for given, kind in ((f"{address}#sha256={packed.sha256}", ConnectionError), (address, ValueError)):
        with pytest.raises(kind, match="cannot be downloaded"):
            pyxem_dl.load_model(given)
        assert [path for path in cache.rglob("*") if path.is_file()] == []
    server.answers["/polar.zip"] = sent(packed)
    assert pyxem_dl.load_model(f"{address}#sha256={packed.sha256}").name == "polar"


def test_a_file_may_have_only_so_many_bytes(server, cache, packed, monkeypatch):
    monkeypatch.setattr(fetching, "LARGEST_ARCHIVE", 1000)
    server.answers["/polar.zip"] = sent(packed)

    def endless(parameters):
        handler = parameters["handler"]
        handler.send_response(200)
        handler.end_headers()
        with pytest.raises(OSError):
            while True:
                handler.wfile.write(b"0" * 10_000)

    server.answers["/endless.zip"] = endless
    for name in ("polar.zip", "endless.zip"):
        with pytest.raises(ValueError, match=f"{name} has more than .* not downloaded"):
            pyxem_dl.load_model(f"{server.base}/{name}#sha256={packed.sha256}")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


LOADING = "import sys, pyxem_dl; print(pyxem_dl.load_model(sys.argv[1]).name)"


def loading(address):
    return subprocess.Popen(
        [sys.executable, "-c", LOADING, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(pyxem_dl.__file__).parents[1])},
    )  # fmt: skip


def test_processes_download_at_once_and_one_may_be_killed(server, cache, packed):
    content, begun, go_on = packed.path.read_bytes(), threading.Semaphore(0), threading.Event()

    def slow(parameters):
        handler = parameters["handler"]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:1000])
        begun.release()
        go_on.wait(60)
        try:
            handler.wfile.write(content[1000:])
        except OSError:
            pass  # who asked was killed

    server.answers["/polar.zip"] = slow
    address = f"{server.base}/polar.zip#sha256={packed.sha256}"
    killed = loading(address)
    assert begun.acquire(timeout=60)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (cache / f"{packed.sha256}.zip").exists()
    several = [loading(address) for _ in range(2)]
    assert begun.acquire(timeout=60)
    time.sleep(1.0)  # the other one waits meanwhile
    go_on.set()
    for process in several:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.strip().endswith("polar"), err
    assert len(server.asked) == 2  # the one that was killed, and one of the two
    assert left(cache) == []


# ---------------------------------------------------------------- the hub
def test_a_model_of_the_hub(server, hub, cache, polar_folder):
    model = pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")
    assert model.fingerprint == pyxem_dl.load_model(polar_folder).fingerprint
    folder = cache / "hub" / "owner" / "name" / COMMIT
    model.verify(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, "SHA256SUMS"}
    assert not any("authorization" in map(str.lower, headers) for *_, headers in server.asked)
    server.close()
    sha256 = hashlib.sha256(hub["config.json"]).hexdigest()
    assert pyxem_dl.load_model(f"hf://owner/name@{COMMIT}#sha256={sha256}").name == "polar"
    with pytest.raises(ValueError, match=f"config.json has the sha256 {sha256}, not {'0' * 64}"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}#sha256={'0' * 64}")
    (folder / "reference.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="reference.safetensors in .* changed since it was downloaded. Delete"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")


@pytest.mark.parametrize(
    "text, branch",
    [
        ("hf://owner/name", "main"),
        ("hf://owner/name@v1", "v1"),
        ("hf://owner/name@refs/pr/1", "refs%2Fpr%2F1"),
    ],
)
def test_what_can_be_moved_is_refused_and_its_commit_told(server, hub, text, branch):
    with pytest.raises(ValueError, match="another one tomorrow. Write the commit behind @"):
        pyxem_dl.load_model(text)
    server.answers[f"/api/models/owner/name/revision/{branch}"] = {"sha": COMMIT}
    with pytest.raises(ValueError, match=f"Now it is\n    hf://owner/name@{COMMIT}$"):
        pyxem_dl.load_model(text)
    server.answers[f"/api/models/owner/name/revision/{branch}"] = {"sha": "rm -rf"}
    with pytest.raises(ValueError, match="under 'Files'.$"):
        pyxem_dl.load_model(text)


def test_weights_of_another_model_are_refused(server, hub, cache):
    hub["model.safetensors"] = b"0" * 100
    with pytest.raises(ValueError, match="model.safetensors from .* has the sha256 .* not used"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")
    assert not list(cache.rglob("model.safetensors")) and not list(cache.rglob("SHA256SUMS"))


def test_an_interrupted_model_goes_on_with_what_is_missing(server, hub, cache, polar_folder):
    weights = server.answers.pop(f"/owner/name/resolve/{COMMIT}/model.safetensors")
    with pytest.raises(FileNotFoundError, match="model.safetensors is not at"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")
    server.answers[f"/owner/name/resolve/{COMMIT}/model.safetensors"] = weights
    assert pyxem_dl.load_model(f"hf://owner/name@{COMMIT}").name == "polar"
    assert [path.rpartition("/")[2] for path, *_ in server.asked].count("config.json") == 1


def test_a_model_of_the_hub_by_hand(server, hub, cache):
    server.close()
    with pytest.raises(ConnectionError) as caught:
        pyxem_dl.load_model(f"hf://Owner/Name@{COMMIT}")
    folder = cache / "hub" / "owner" / "name" / COMMIT
    assert f"as {folder / 'config.json'}" in str(caught.value)
    for name, content in hub.items():
        (folder / name).write_bytes(content)
    assert pyxem_dl.load_model(f"hf://Owner/Name@{COMMIT}").name == "polar"


def test_a_large_configuration_is_not_downloaded(server, hub, cache):
    hub["config.json"] = b" " * (5 * 2**20)
    with pytest.raises(ValueError, match="config.json has more than 4 MB"):
        pyxem_dl.load_model(f"hf://owner/name@{COMMIT}")


def test_the_command_line_takes_addresses(server, hub, tmp_path):
    pyxem_dl.data.mgo_nanocubes(lazy=False).inav[:2, :2].save(tmp_path / "scan.zspy")
    arguments = ["predict", str(tmp_path / "scan.zspy"), "--output", str(tmp_path / "map.h5"), "--no-progress"]
    run = CliRunner().invoke(commands.app, [*arguments, "--model", f"hf://owner/name@{COMMIT}"])
    assert run.exit_code == 0, run.output
    server.close()
    run = CliRunner().invoke(commands.app, [*arguments, "--overwrite", "--model", "hf://owner/other@" + COMMIT])
    assert run.exit_code == 1 and "bring that file from another computer" in run.output


# ---------------------------------------------------------------- archives that others made
def test_an_archive_that_was_made_by_hand(polar_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "hand.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("my model")
        archive.writestr("__MACOSX/my model/._config.json", b"x")
        archive.writestr("my model/picture.png", b"y")
        for name in FILES:
            archive.write(polar_folder / name, f"my model/{name}")
    assert pyxem_dl.load_model(tmp_path / "hand.zip").name == "polar"
    folder = tmp_path / "out"
    folder.mkdir()
    archives.unpack(tmp_path / "hand.zip", FILES, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
