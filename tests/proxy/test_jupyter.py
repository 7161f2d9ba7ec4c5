"""A real JupyterLab behind the proxy: page, files, a kernel over its WebSocket."""

import asyncio
import base64
import importlib.util
import json
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

import requests
import websockets
from websockets.asyncio.client import connect

from tests.needs import missing
from tests.proxy.harness import World, ticket_cookie, world

COOKIE = {"Cookie": ticket_cookie().partition(": ")[2]}
EXECUTE = {
    "channel": "shell",
    "header": {
        "msg_id": "1",
        "msg_type": "execute_request",
        "session": "a",
        "username": "x",
        "version": "5.3",
        "date": "",
    },
    "parent_header": {},
    "metadata": {},
    "content": {"code": "6*7", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False},
    "buffers": [],
}


async def test_jupyterlab(tmp_path: Path) -> None:
    if importlib.util.find_spec("jupyterlab") is None:
        missing("JupyterLab is not installed: pip install jupyterlab")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lab = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *(
            "--ServerApp.base_url=/user/alice/",
            "--ServerApp.allow_remote_access=True",
            f"--ServerApp.root_dir={tmp_path}",
        ),
        env={
            **os.environ,
            "JUPYTER_TOKEN": "of-the-server",
            "HOME": str(tmp_path),
            "JUPYTER_CONFIG_DIR": str(tmp_path),
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with world(tmp_path) as w:
            where = {"host": "127.0.0.1", "port": port, "socket": ""}
            tunnel = {"cluster": "c1", "kind": "login", "account": "alice"}
            w.route(
                "/user/alice", port, endpoint=where, tunnel=tunnel, owner="alice", authorization="token of-the-server"
            )
            await use(w)
    finally:
        lab.terminate()
        await lab.wait()


async def use(w: World) -> None:
    base = f"http://127.0.0.1:{w.proxy.public_port}/user/alice"
    with requests.Session() as session:
        session.headers.update(COOKIE)

        async def call(method: str, path: str, **more: Any) -> requests.Response:
            return await asyncio.to_thread(
                session.request, method, base + path, allow_redirects=False, timeout=30, **more
            )

        for _ in range(200):
            if (await call("GET", "/api")).status_code == 200:
                break
            await asyncio.sleep(0.2)
        page = await call("GET", "/lab")
        assert "jupyter-config-data" in page.text
        content = random.Random(1).randbytes(3_000_000)
        file = {"type": "file", "format": "base64", "content": base64.b64encode(content).decode()}
        assert (await call("PUT", "/api/contents/x.bin", json=file)).status_code == 201
        assert (await call("GET", "/files/x.bin")).content == content
        kernel = (await call("POST", "/api/kernels", json={})).json()["id"]
        assert await answer(w, f"{base.replace('http', 'ws')}/api/kernels/{kernel}/channels") == "42"
        assert (await call("DELETE", f"/api/kernels/{kernel}")).status_code == 204
    assert (await asyncio.to_thread(requests.get, f"{base}/api/contents", timeout=30)).status_code == 403


async def answer(w: World, url: str) -> str:
    origin = websockets.Origin(f"http://127.0.0.1:{w.proxy.public_port}")
    async with connect(url, additional_headers=COOKIE, origin=origin) as channels, asyncio.timeout(60):
        await channels.send(json.dumps(EXECUTE))
        async for text in channels:
            message = json.loads(text)
            if message["msg_type"] == "execute_result":
                return str(message["content"]["data"]["text/plain"])
    raise AssertionError("the kernel said nothing")
