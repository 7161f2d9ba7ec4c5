"""``python -m batchhub``."""

from batchhub.app.main import main

if __name__ == "__main__":
    main()
