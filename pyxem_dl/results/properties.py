"""Properties of crystal maps that also answer to the names that they had."""

from __future__ import annotations

from orix.crystal_map.crystal_map_properties import CrystalMapProperties

from pyxem_dl.moved import warn_of_old_name

#: New names of properties by their old ones
RENAMED = {"spread": "uncertainty"}


class MapProperties(CrystalMapProperties):
    """Properties of a crystal map; old names work, and warn.  Copies and parts of the map keep them."""

    def __getitem__(self, name: str):
        new = RENAMED.get(name)
        if name not in self and new in self:
            warn_of_old_name(f"xmap.prop[{name!r}]", f"xmap.prop[{new!r}]")
            name = new
        return super().__getitem__(name)
