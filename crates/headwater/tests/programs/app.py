"""A WSGI application for gunicorn: tells what it was sent, and sends as much as it is asked for."""

import hashlib


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/large":
        size = int(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
        return blocks(size)
    if path == "/stream":
        size = int(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return blocks(size)
    if path == "/moved":
        start_response("302 Found", [("Location", "/elsewhere"), ("Set-Cookie", "a=b; Path=/")])
        return [b""]
    digest, length = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(65536):
        digest.update(block)
        length += len(block)
    lines = [
        environ["REQUEST_METHOD"],
        path,
        environ["QUERY_STRING"],
        environ.get("HTTP_X_FORWARDED_FOR", "-"),
        environ.get("HTTP_HOST", "-"),
        str(length),
        digest.hexdigest(),
    ]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(lines).encode() + b"\n"]


def blocks(size):
    block = b"x" * 65536
    while size > 0:
        yield block[:size]
        size -= len(block)
