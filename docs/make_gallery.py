"""Run the scripts of `examples/`, and keep their pictures, small, in `docs/gallery/`, where the site takes them from.

    python docs/make_gallery.py                    all of them, in some minutes of two cores; needs the extra `live`
    python docs/make_gallery.py 02_orientation_map

The site is built without running an example: what their code shows must be seen without PyTorch and without waiting.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 900  # px


def keep(source, target):
    """Keep a picture, no wider than a page, on white."""
    picture = Image.open(source).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=65, method=6)


def run(script, folder):
    """Run a script as a user does, without a display; the pictures that it made."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": path}
    subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, check=True)
    return sorted((Path(folder) / script.stem).glob("*.png"))


def main():
    """Run, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="scripts, by their names; by default all")
    names = parser.parse_args().names
    scripts = [path for path in sorted((ROOT / "examples").glob("*.py")) if not names or path.stem in names]
    for script in scripts:
        gallery = ROOT / "docs" / "gallery" / script.stem
        with tempfile.TemporaryDirectory() as folder:
            pictures = run(script, folder)
            for old in gallery.glob("*.webp"):
                old.unlink()
            for picture in pictures:
                keep(picture, gallery / f"{picture.stem}.webp")
        print(f"{script.stem}: {', '.join(picture.stem for picture in pictures)}")


if __name__ == "__main__":
    main()
