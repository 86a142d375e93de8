"""The web viewer: TypeScript in ``src``, built into ``dist`` while the package is built."""

from pathlib import Path

#: The built files; absent until the build hook has run.
DIST = Path(__file__).parent / "dist"
