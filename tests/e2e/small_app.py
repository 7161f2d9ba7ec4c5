"""The smallest application that a hub can start: it answers whoever has the token, with its process id, or with its
environment. Standard library, started in no time.
"""

import http.server
import json
import os
import sys
from pathlib import Path


def main() -> None:
    host, port, token_file = sys.argv[1:4]
    token = Path(token_file).read_text(encoding="utf-8").strip()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers.get("Authorization") == f"token {token}"
            body = str(os.getpid()).encode()
            if good and self.path.endswith("/environment"):
                body = json.dumps(dict(os.environ)).encode()
            self.send_response(200 if good or self.path.endswith("/api") else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Silence."""

    http.server.ThreadingHTTPServer((host, int(port)), Answer).serve_forever()


if __name__ == "__main__":
    main()
