"""The scenarios of bench/run: what is asked of each server and how it is measured."""

import re
import socket
import statistics
import subprocess
import tempfile
import time

POST = 'wrk.method = "POST"\nwrk.body = string.rep("x", 16384)\n'

# name: (path, connections of wrk, does haproxy take part[, script of wrk])
LOAD = {
    "small-keepalive": ("/keepalive", 32, True),
    "upstream-close": ("/close", 32, True),
    "usual-proxy-headers": ("/headers", 32, True),
    "access-log-on": ("/logged", 32, False),
    "return": ("/return", 32, True),
    "static-1k": ("/static/1k.txt", 32, False),
    "static-64k": ("/static/64k.txt", 16, False),
    "static-1m": ("/static/1m.txt", 8, False),
    "proxied-1k": ("/f/1k.txt", 32, True),
    "proxied-64k": ("/f/64k.txt", 16, True),
    "proxied-1m": ("/f/1m.txt", 8, True),
    "unbuffered-1m": ("/unbuffered/1m.txt", 8, False),
    "post-16k": ("/post", 32, True, POST),
    "fastcgi": ("/fastcgi", 32, False),
    "regex20": ("/re20/abcdef.x", 32, False),
    "ssi-4": ("/ssi/four.html", 16, False),
    "ssi-50": ("/ssi/fifty.html", 4, False),
    "auth-request": ("/auth", 32, False),
    "mirror": ("/mirror", 32, False),
}
# What the bare relay of the test kit can do: the floor under every proxy on this machine.
BARE = {
    "small-keepalive", "upstream-close", "usual-proxy-headers", "access-log-on", "return", "post-16k", "fastcgi", "regex20", "ssi-4",
    "auth-request", "mirror",
}
IDLE = "idle-5000"
IDLE_COUNT = 5000
# Idle connections first: what a load leaves in the allocator would hide what they take.
NAMES = [IDLE, *LOAD]

# Ratio to nginx that the project wants to stay at or below; 1.0 where nothing else is said.
TARGETS = {
    "small-keepalive": 0.75,
    "usual-proxy-headers": 0.8,
    "access-log-on": 0.8,
    "upstream-close": 0.95,
    "proxied-64k": 0.65,
    "proxied-1m": 0.55,
    "unbuffered-1m": 0.4,
    "post-16k": 0.85,
    "fastcgi": 0.85,
    "regex20": 0.8,
    "ssi-4": 0.75,
    "auth-request": 0.75,
    "mirror": 0.85,
    IDLE: 1.2,
}


def target(name):
    """The ratio wanted of a scenario."""
    return TARGETS.get(name, 1.0)


def run(bench, name, rounds, seconds):
    """Measures one scenario; the servers take turns in every round."""
    if name == IDLE:
        return idle(bench, rounds)
    path, connections, with_haproxy, *script = LOAD[name]
    servers = list(bench.servers)
    if with_haproxy and bench.haproxy:
        servers.append(bench.haproxy)
    if name in BARE:
        servers.append(bench.bare)
    samples = {server.name: [] for server in servers}
    for server in servers:
        load(server, path, connections, 1, *script)
    for number in range(rounds):
        order = servers if number % 2 == 0 else servers[::-1]
        for server in order:
            samples[server.name].append(load(server, path, connections, seconds, *script))
    medians = {
        server: {key: statistics.median(sample[key] for sample in taken) for key in taken[0]}
        for server, taken in samples.items()
    }
    return {"name": name, "unit": "µs CPU/request", "key": "cpu", "servers": medians}


def load(server, path, connections, seconds, script=None):
    """One run of wrk against a server."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script or "")
        file.flush()
        return measure(server, path, connections, seconds, ["-s", file.name] if script else [])


def measure(server, path, connections, seconds, options):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", *options,
               f"http://127.0.0.1:{server.port}{path}"]
    before = server.cpu()
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    used = server.cpu() - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{server.name} {path}: failed requests\n{text}")
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    latency = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    scale = {"us": 1e-3, "ms": 1, "s": 1e3}[latency.group(2)]
    return {
        "cpu": used / requests * 1e6,
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        "p99": float(latency.group(1)) * scale,
        "memory": server.memory(),
    }


def idle(bench, rounds):
    """User memory per idle keepalive connection, each of which made one request."""
    servers = [*bench.servers, *([bench.haproxy] if bench.haproxy else [])]
    medians = {}
    for server in servers:
        # The first round pays for what stays allocated for good; nginx is measured the same way.
        taken = [idle_once(server) for _ in range(max(1, min(rounds, 2)))]
        medians[server.name] = {"bytes": taken[0], "memory": server.memory()}
    return {"name": IDLE, "unit": "bytes/idle connection", "key": "bytes", "servers": medians}


def idle_once(server):
    before = server.memory("Pss_Anon")
    sockets = []
    try:
        for number in range(IDLE_COUNT):
            sock = socket.socket()
            # Several source addresses, so that no port runs out.
            sock.bind((f"127.0.0.{2 + number % 20}", 0))
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"GET /return HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sockets.append(sock)
            if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{server.name}: an idle connection was not served")
        time.sleep(3)
        return max(0, server.memory("Pss_Anon") - before) / IDLE_COUNT
    finally:
        for sock in sockets:
            sock.close()
        time.sleep(0.5)
