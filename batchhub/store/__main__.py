"""``python -m batchhub.store "what changes"``: draft a migration, for people who change :mod:`batchhub.store.models`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from batchhub.store.schema import draft, upgrade


def main() -> None:
    """Compare the models with a fresh database at the newest revision."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'draft.sqlite'}"
        upgrade(url)
        draft(url, sys.argv[1])


if __name__ == "__main__":
    main()
