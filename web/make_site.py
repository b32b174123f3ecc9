"""Put the page and the engine where `sterna serve` finds them: ``python web/make_site.py [FOLDER]``.

FOLDER, by default ``src/sterna/web``, is then a whole site: any server of static files can show it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
SITE = WEB.parent / "src" / "sterna" / "web"
# Of the page, its modules, the engine: folders, where they go, and what is taken.
PARTS = [
    (WEB / "page", ".", ("*.html", "*.css", "*.svg")),
    (WEB / "dist-page", "page", ("*.js",)),
    (WEB / "dist", "dist", ("*.js", "*.wasm")),
]


def main(site: Path) -> None:
    """Make the site anew; the old one is there until the new one is whole."""
    made = site.with_name(site.name + ".partial")
    shutil.rmtree(made, ignore_errors=True)
    for folder, name, patterns in PARTS:
        for pattern in patterns:
            paths = sorted(folder.glob(pattern))
            if not paths:
                sys.exit(f"{folder} has no {pattern}: build it with  make web")
            for path in paths:
                target = made / name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    shutil.rmtree(site, ignore_errors=True)
    made.rename(site)
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"{site}: {size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SITE)
