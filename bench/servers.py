"""Builds and starts the servers that bench/run compares, and reads their process accounts."""

import os
import pathlib
import resource
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")

SIZES = {"1k": 1024, "64k": 65536, "1m": 1048576}

ORIGIN_CONF = """
worker_processes 1;
events { worker_connections 10000; }
http {
    access_log off;
    sendfile on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        root %(dir)s;
        location / { return 200 "hello world\\n"; }
        location /empty { return 204; }
        location /f/ { alias %(files)s/; }
    }
}
"""

CONF = """
worker_processes 1;
events { worker_connections 20000; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    types { text/html html; text/plain txt; }
    upstream origin {
        server 127.0.0.1:%(origin)d;
        keepalive 64;
        keepalive_requests 1000000000;
    }
    upstream fastcgi {
        server 127.0.0.1:%(fastcgi)d;
        keepalive 64;
        keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location /keepalive { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /close { proxy_pass http://127.0.0.1:%(origin)d; proxy_http_version 1.1; proxy_set_header Connection close; }
        location /headers {
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
        location /logged {
            access_log %(dir)s/access.log combined;
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
        location /return { return 200 "hello world\\n"; }
        location /static/ { alias %(files)s/; }
        location /f/ { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://origin/f/; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /post { client_body_buffer_size 32k; proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /fastcgi {
            fastcgi_pass fastcgi;
            fastcgi_keep_conn on;
            fastcgi_param SCRIPT_FILENAME /index.php;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param REMOTE_ADDR $remote_addr;
        }
        location /ssi/ { ssi on; alias %(files)s/; }
        location /part { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /check { proxy_pass http://origin/empty; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /auth { auth_request /check; proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /mirror { mirror /check; proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        %(regexes)s
    }
}
"""

HAPROXY_CONF = """
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 60s
    http-reuse always
frontend f
    bind 127.0.0.1:%(port)d backlog 4096
    http-request return status 200 content-type text/plain string "hello world" if { path /return }
    use_backend closing if { path_beg /close }
    use_backend headers if { path_beg /headers }
    default_backend origin
backend origin
    server o 127.0.0.1:%(origin)d
backend closing
    option httpclose
    server o 127.0.0.1:%(origin)d
backend headers
    option forwardfor
    http-request set-header X-Real-IP %%[src]
    http-request set-header X-Forwarded-Proto http
    server o 127.0.0.1:%(origin)d
"""


def target_dir():
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def oracle():
    """Path of the nginx to compare with, built when missing."""
    command = ["cargo", "run", "-q", "-p", "headwater-testkit", "--bin", "oracle"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def headwater():
    """Path of the release binary, built now."""
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "headwater"], cwd=ROOT, check=True)
    return str(target_dir() / "release" / "headwater")


def testkit(name):
    """Path of a program of the test kit, built now."""
    command = ["cargo", "build", "-q", "--release", "-p", "headwater-testkit", "--bin", name]
    subprocess.run(command, cwd=ROOT, check=True)
    return str(target_dir() / "release" / name)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Process:
    """One server under test (or the origin), pinned to a CPU."""

    def __init__(self, name, command, port, cpu):
        self.name, self.port = name, port
        self.child = subprocess.Popen(["taskset", "-c", str(cpu), *command], start_new_session=True)
        deadline = time.time() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.time() > deadline or self.child.poll() is not None:
                    self.stop()
                    raise SystemExit(f"{name} does not listen on {port}")
                time.sleep(0.02)

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                pass
        for pid in self.pids():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.child.wait()

    def pids(self):
        """The process and its children: all are members of the session that it leads."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except (OSError, IndexError):
                    continue
                if int(fields[3]) == self.child.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def cpu(self):
        """CPU seconds, user and system, of all threads of all processes."""
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory(self, field="Pss"):
        """Bytes of a field of smaps_rollup, summed over the processes."""
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total


class Bench:
    """The origin and the servers to compare, as a context manager."""

    def __init__(self, nginx, subject_name, subject):
        self.nginx, self.subject_name, self.subject = nginx, subject_name, subject
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="headwater-bench-"))
        self.processes = []

    def __enter__(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, hard), hard))
        self.dir.chmod(0o755)  # the workers run as another user
        self.files = self.dir / "files"
        self.files.mkdir()
        for name, size in SIZES.items():
            (self.files / f"{name}.txt").write_bytes(b"0123456789abcdef" * (size // 16))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.origin_port, self.fastcgi_port = free_port(), free_port()
        for name, number in {"four": 4, "fifty": 50}.items():
            page = "<p>text before</p>\n".join(f'<!--#include virtual="/part?{n}" -->' for n in range(number))
            (self.files / f"{name}.html").write_text(page)
        fastcgi = [testkit("fastcgi_origin"), str(self.fastcgi_port)]
        self.processes.append(Process("fastcgi", fastcgi, self.fastcgi_port, 1))
        self.spawn("origin", self.nginx, ORIGIN_CONF, self.origin_port, 1)
        self.servers = [
            self.spawn("nginx", self.nginx, CONF, free_port(), 0),
            self.spawn(self.subject_name, self.subject, CONF, free_port(), 0),
        ]
        port = free_port()
        bare = [testkit("bare_relay"), str(port), str(self.origin_port), str(self.fastcgi_port)]
        self.bare = Process("bare", bare, port, 0)
        self.processes.append(self.bare)
        haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        self.haproxy = self.spawn_haproxy(haproxy) if haproxy else None

    def spawn(self, name, binary, conf, port, cpu):
        home = self.dir / name.replace(" ", "-")
        (home / "logs").mkdir(parents=True)
        regexes = "\n".join(f"location ~ ^/re{n}/[a-z]+\\.x$ {{ return 200 \"{n}\"; }}" for n in range(1, 21))
        values = {
            "port": port, "dir": home, "files": self.files, "regexes": regexes,
            "origin": self.origin_port, "fastcgi": self.fastcgi_port,
        }
        (home / "nginx.conf").write_text(conf % values)
        command = [binary, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log"),
                   "-g", "daemon off;"]
        process = Process(name, command, port, cpu)
        self.processes.append(process)
        return process

    def spawn_haproxy(self, binary):
        port, conf = free_port(), self.dir / "haproxy.cfg"
        conf.write_text(HAPROXY_CONF % {"port": port, "origin": self.origin_port})
        process = Process("haproxy", [binary, "-f", str(conf), "-db"], port, 0)
        self.processes.append(process)
        return process

    def __exit__(self, *_):
        for process in self.processes:
            process.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
