"""Files that are shared: named by an address and a hash, downloaded once, kept, and unpacked with bounds.

The command line, :func:`pyxem_dl.load_model` and :func:`pyxem_dl.pack_model` are made of what is here.
"""

from pyxem_dl.sharing.archives import pack, unpack
from pyxem_dl.sharing.fetching import cache_folder, fetch_archive, fetch_hub_model
from pyxem_dl.sharing.references import ArchiveReference, HubReference, is_reference, read_reference

__all__ = [
    "ArchiveReference", "HubReference", "cache_folder", "fetch_archive", "fetch_hub_model", "is_reference", "pack",
    "read_reference", "unpack",
]  # fmt: skip
