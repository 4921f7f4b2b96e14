import os, re, signal, socket, subprocess, sys, threading
from pathlib import Path
import httpx

ROOT = Path(__file__).parent.parent


class Server:
    """uvicorn in a process group of its own, started on `db`; `url` is where it listens."""

    def __init__(self, db: Path, *options: str, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.db = db
        self.lines: list[str] = []
        workers = int(options[options.index("--workers") + 1]) if "--workers" in options else 1
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-m",
                "uvicorn",
                "todo:app",
                "--port",
                "0",
                "--no-access-log",
                *options,
            ],
            cwd=ROOT,
            env={**os.environ, "TODO_DB": str(db), **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = ""
        assert self.process.stderr
        for line in self.process.stderr:  # until it serves, or ends
            self.lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
            if self.url and self.log.count("startup complete") >= workers:
                break
        self.reader = threading.Thread(
            target=self.lines.extend, args=(self.process.stderr,), daemon=True
        )
        self.reader.start()
        while workers > 1 and self.url and self.process.poll() is None and not self.listens():
            pass  # a worker listens a moment after it has started

    def listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(self.address) == 0

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, verify=False, **options)  # type: ignore[arg-type]

    def children(self) -> list[int]:
        """The processes of the workers."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in found
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send the signal to the server and return its exit code once it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait()

    def kill(self) -> int:
        """kill -9 the whole tree at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(30)
        self.reader.join(30)
        assert self.process.stderr
        self.process.stderr.close()
        return code
