"""Properties of crystal maps that also answer to the names that they had."""

from __future__ import annotations

from orix.crystal_map.crystal_map_properties import CrystalMapProperties

from pyxem_dl.moved import warn_of_old_name

#: New names of properties by their old ones
RENAMED = {"spread": "uncertainty"}


class MapProperties(CrystalMapProperties):
    """Properties of a crystal map; old names work, and warn.  Copies and parts of the map keep them."""

    def __missing__(self, name: str):
        new = RENAMED.get(name)
        if new not in self:
            raise KeyError(name)
        warn_of_old_name(f"xmap.prop[{name!r}]", f"xmap.prop[{new!r}]")
        return dict.__getitem__(self, new)
