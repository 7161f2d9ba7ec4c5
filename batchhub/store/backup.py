"""A whole copy of an SQLite database in use. PostgreSQL has tools of its own."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from batchhub.core.errors import BadInput, StoreUnavailable
from batchhub.store.engine import is_memory, is_shared, read_url


def backup(url: str, target: Path) -> None:
    """Copy the database at ``url`` into a new file that only its owner can read, as it is at one moment. Raises BadInput, StoreUnavailable, ConfigError."""
    address = read_url(url)
    if is_shared(address) or is_memory(address):
        raise BadInput("Only SQLite in a file is copied this way; for PostgreSQL there is pg_dump.")
    source = Path(str(address.database))
    if not source.is_file():
        raise BadInput(f"There is no database {source} to copy.")
    try:
        # SQLite fills an empty file. Made here, it is nobody else's to read at any moment.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError as error:
        raise BadInput(f"{target} is there already; a copy needs a new name.") from error
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror}.") from error
    try:
        with closing(sqlite3.connect(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise StoreUnavailable(f"{source} cannot be copied now: {error}.") from error
