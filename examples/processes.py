"""Several processes: an agent asks another one over HTTP. Both record into one run.

python examples/processes.py
"""

import http.server
import json
import subprocess
import sys
import threading
import urllib.request

from agentscope import create_tracker

tracker = create_tracker()


class Worker(http.server.BaseHTTPRequestHandler):
    """The other agent, which counts the words of what it is sent."""

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with tracker.extract(self.headers), tracker.track_run("counter", input_data={"text": text}) as run:
            with tracker.track_step_context("split", step_type="tool_call") as step:
                step.output = text.split()
            run.output = {"words": len(text.split())}
        tracker.flush()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(run.output).encode())

    def log_message(self, *_: object, **__: object) -> None:
        """Not to the terminal."""


def serve() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Worker)
    print(server.server_port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
    server.serve_forever()


def ask(port: str, text: str) -> int:
    with tracker.track_step_context("ask_counter", step_type="agent", input_data={"text": text}) as step:
        headers = tracker.inject({"Content-Type": "text/plain"})
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", text.encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            step.output = json.load(answer)
    words: int = step.output["words"]
    return words


if sys.argv[1:] == ["serve"]:
    serve()
else:
    worker = subprocess.Popen(
        [sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin
    assert worker.stdout
    with tracker.track_run("editor") as run:
        run.output = {"words": ask(worker.stdout.readline().strip(), "the quick brown fox")}
    worker.communicate()
    print(f"{run.output['words']} words, counted by process {worker.pid}")
