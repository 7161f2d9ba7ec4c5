"""``batchhub`` that kills itself: ``die-at`` beside its configuration holds ``EFFECT NUMBER after|during``.

Effects: ``submit``, ``cancel``, ``put``, ``publish``, ``withdraw``, ``add_server`` and ``update:KIND``. At the numbered one the process gets
SIGKILL from itself, once the effect is done, or while it is on its way. The hook lives here; the program knows nothing of it.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from batchhub.app.main import main
from batchhub.proxy.client import ProxyClient
from batchhub.store.store import Store
from batchhub.transport.ssh import SSHTransport

COMMANDS = {
    "sbatch": "submit",
    "qsub": "submit",
    "bsub": "submit",
    "scancel": "cancel",
    "qdel": "cancel",
    "bkill": "cancel",
}
ON_ITS_WAY = 0.15
"""Seconds that an effect has been on its way when the process dies."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wire(cls: type[Any], method: str, at: tuple[str, int, str], name: Callable[..., str]) -> None:
    """Let one method die at the given effect."""
    what, number, how = at
    whole: Callable[..., Awaitable[Any]] = getattr(cls, method)
    seen: Counter[str] = Counter()

    async def wired(*words: Any, **more: Any) -> Any:
        effect = name(*words[1:], **more)
        seen[effect] += 1
        last = effect == what and seen[effect] == number
        if last and how == "during":
            asyncio.get_running_loop().call_later(ON_ITS_WAY, die)
        answer = await whole(*words, **more)
        if last:
            die()
        return answer

    setattr(cls, method, wired)


def wire_updates(at: tuple[str, int, str]) -> None:
    """The same for changes of rows, whose kind may be known only when they are made: they die after it."""
    what, number, how = at
    whole, seen = Store.update, Counter[str]()

    async def wired(
        self: Store, *words: Any, kind: str = "", trace: Callable[[], Any] | None = None, **more: Any
    ) -> Any:
        made: list[str] = []

        def told() -> Any:
            assert trace is not None
            answer = trace()
            made.append(answer.kind)
            return answer

        answer = await whole(self, *words, kind=kind, trace=None if trace is None else told, **more)
        effect = f"update:{made[-1] if made else kind}"
        seen[effect] += 1
        if effect == what and seen[effect] == number:
            assert how == "after"
            die()
        return answer

    Store.update = wired  # type: ignore[method-assign]


def command(asked: Any, *_: Any, **__: Any) -> str:
    return COMMANDS.get(Path(asked.argv[0]).name, "question")


def run() -> None:
    config = next(word.partition("=")[2] for word in sys.argv if word.startswith("--config="))
    plan = Path(config).with_name("die-at")
    if plan.exists():
        what, number, how = plan.read_text(encoding="utf-8").split()
        plan.unlink()
        at = (what, int(number), how)
        wire(SSHTransport, "run", at, command)
        wire(SSHTransport, "put", at, lambda *_, **__: "put")
        wire(ProxyClient, "publish", at, lambda *_, **__: "publish")
        wire(ProxyClient, "withdraw", at, lambda *_, **__: "withdraw")
        wire(Store, "add_server", at, lambda *_, **__: "add_server")
        wire_updates(at)
    main()


if __name__ == "__main__":
    run()
