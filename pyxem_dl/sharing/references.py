"""How a shared model is named: by an address whose content cannot change, because its hash stands behind it.

Three kinds of address are read::

    hf://OWNER/NAME@COMMIT                        a model folder on the Hugging Face hub
    doi:10.5281/zenodo.RECORD/FILE.zip#sha256=…   a packed model in a record of Zenodo
    https://…/FILE.zip#sha256=…                   a packed model anywhere

A commit of the hub is a hash itself, so that the sha256 of its ``config.json`` may stand behind it, and need not.
Zenodo is named as papers, Zenodo's own pages and pooch name it, by the DOI of the record.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from pyxem_dl.crystals.downloads import check_address
from pyxem_dl.crystals.writing import printable

#: Environment variables with other addresses of the two services: a mirror, or a server of one's own
HUB_ENDPOINT, ZENODO_ENDPOINT = "HF_ENDPOINT", "PYXEM_DL_ZENODO"
_HUB, _ZENODO = "https://huggingface.co", "https://zenodo.org"

_FORMS = (
    "'hf://owner/name@commit', 'doi:10.5281/zenodo.RECORD/model.zip#sha256=…' or 'https://…/model.zip#sha256=…'"
)
# Two letters at least: one is a drive of Windows
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+)://|doi:", re.IGNORECASE)
_HUB_MODEL = re.compile(r"hf://(\w[\w.-]{0,95})/(\w[\w.-]{0,95})(?:@([^@#?\s]{1,200}))?", re.ASCII)
_ZENODO_FILE = re.compile(r"doi:10\.5281/zenodo\.(\d{1,12})/([^/#?\s]{1,200})", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 4000


@dataclass(frozen=True)
class ArchiveReference:
    """A packed model.

    Parameters
    ----------
    text : str
        As it was given, without the hash.
    address : str
        Of the file, https.
    file : str
        Its name.
    sha256 : str or None
        Of the archive, as it was given.
    """

    text: str
    address: str
    file: str
    sha256: str | None


@dataclass(frozen=True)
class HubReference:
    """A model folder on the Hugging Face hub.

    Parameters
    ----------
    text : str
        As it was given, without the hash.
    owner, name : str
        Of the repository.
    revision : str or None
        Commit, or what can be moved: a branch or a tag.
    sha256 : str or None
        Of ``config.json``, which holds that of the weights.
    """

    text: str
    owner: str
    name: str
    revision: str | None
    sha256: str | None

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, whose files cannot be others tomorrow."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def address_of(self, file: str) -> str:
        """Address of a file of the repository."""
        revision = quote(self.revision or "main", safe="")
        return f"{hub_endpoint()}/{self.owner}/{self.name}/resolve/{revision}/{file}"


def is_reference(text: str) -> bool:
    """Whether a text is an address, and no name or folder."""
    return _SCHEME.match(text) is not None


def read_reference(text: str) -> ArchiveReference | HubReference:
    """Take an address apart.

    Raises
    ------
    ValueError
        For an address of another kind, or a hash that is none.
    """
    address, sign, fragment = text.strip().partition("#")
    sha256 = _sha256(fragment, text) if sign else None
    if len(text) > _LONGEST:
        raise ValueError(f"The address of the model is longer than {_LONGEST} letters.")
    lower = address.lower()
    if lower.startswith("hf://"):
        return _hub_model("hf" + address[2:], sha256)
    if lower.startswith(("doi:", "zenodo:")):
        return _zenodo_file(address, sha256)
    if lower.startswith(("https://", "http://")):
        return _plain(address, sha256)
    raise ValueError(
        f"{printable(text)!r} is no address that models are loaded from. Write {_FORMS}, or the path of a model folder."
    )


def hub_endpoint() -> str:
    """Address of the Hugging Face hub, or of the server that the environment names in its place."""
    return _endpoint(HUB_ENDPOINT, _HUB, "the Hugging Face hub")


def _endpoint(variable: str, default: str, name: str) -> str:
    address = (os.environ.get(variable) or default).rstrip("/")
    check_address(address, f"{name} ({variable})", default)
    return address


def _sha256(fragment: str, text: str) -> str:
    key, _, value = fragment.partition("=")
    if key.lower() != "sha256" or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError(
            f"{printable(text, 160)!r}: behind # must stand the hash of the file, sha256= and 64 digits from 0 to f. "
            "`pyxem-dl pack` prints it."
        )
    return value.lower()


def _hub_model(address: str, sha256: str | None) -> HubReference:
    match = _HUB_MODEL.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(f"{printable(address)!r} is no model of the Hugging Face hub: write 'hf://owner/name@commit'.")
    owner, name, revision = match.groups()
    if revision and re.fullmatch(r"[0-9A-Fa-f]{40}", revision):
        revision = revision.lower()
    return HubReference(address, owner, name, revision, sha256)


def _zenodo_file(address: str, sha256: str | None) -> ArchiveReference:
    match = _ZENODO_FILE.fullmatch(address)
    if match is None or not unquote(match[2]).isprintable() or unquote(match[2]).strip(".") == "":
        raise ValueError(
            f"{printable(address)!r} is no file of Zenodo: write 'doi:10.5281/zenodo.RECORD/model.zip#sha256=…', the "
            "DOI of the record and behind it the name of the file."
        )
    record, file = match[1], unquote(match[2])
    endpoint = _endpoint(ZENODO_ENDPOINT, _ZENODO, "Zenodo")
    return ArchiveReference(address, f"{endpoint}/records/{record}/files/{quote(file, safe='')}", file, sha256)


def _plain(address: str, sha256: str | None) -> ArchiveReference:
    check_address(address, "a shared model", "https://example.org/my_model.zip")
    parts = urlsplit(address)
    if parts.hostname == "huggingface.co" and "/resolve/" not in parts.path:
        owner, name = [*parts.path.strip("/").split("/"), "owner", "name"][:2]
        raise ValueError(f"{printable(address)!r} is a page, no file: write 'hf://{owner}/{name}@commit'.")
    if parts.hostname in ("doi.org", "dx.doi.org"):
        raise ValueError(
            f"{printable(address)!r} is a page, no file: write 'doi:{parts.path.strip('/')}/model.zip#sha256=…', with "
            "the name of the file."
        )
    return ArchiveReference(address, address, unquote(parts.path.rpartition("/")[2]) or "model.zip", sha256)
