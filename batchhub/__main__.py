"""The ``batchhub`` program, and ``python -m batchhub``."""

import sys
from importlib import import_module


def main() -> None:
    """Run it. The proxy's processes load nothing of the hub."""
    if sys.argv[1:2] == ["proxy"]:
        import_module("batchhub.app.proxy_command").main(sys.argv[2:])
    else:
        import_module("batchhub.app.main").main()


if __name__ == "__main__":
    main()
