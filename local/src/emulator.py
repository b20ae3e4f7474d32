"""moto's server with one lock around its SQS, and a door that web pages do not pass.

Its threads share lists without one (5.2.5, sqs/models.py). Two who receive at once then get the same message, seen twice
among 1,200 with four senders and two receivers; and Queue.delete_message loses what is sent while it copies the list.

It lets the pages of every origin read its answers, and asks nobody who he is. So a page in the developer's browser that
finds its port could read mail and ring queues, by its own name or by one that it points at 127.0.0.1 (DNS rebinding)."""

import functools
import inspect
import pathlib
import re
import sys
import threading
import time

import moto.server
from moto.sqs.models import SQSBackend

# Containers go by the address that it listens at, if that is another.
OURS = {"127.0.0.1", "localhost", "[::1]", sys.argv[sys.argv.index("-H") + 1]}
# The origins of the pages that may use it, each in a line.
ADMITTED = pathlib.Path(__file__).with_name("origins")
# Of an object in a bucket of ours, whose random name is in no page but that which got it in this link.
LINK = re.compile("/mail-[0-9a-z]{16}/.")


def is_refused(environ):
    if re.sub(r":\d+$", "", environ.get("HTTP_HOST", "")).lower() not in OURS:
        return True
    origin = environ.get("HTTP_ORIGIN")
    # Browsers say so also where they send no origin, as for a picture. Programs say neither.
    if origin is None and environ.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin"):
        return False
    if origin is not None and ADMITTED.exists() and origin in ADMITTED.read_text().split():
        return False
    # The API leads a page to a link, and the browser goes there in nobody's name: it has been at two origins by then.
    is_link = LINK.match(environ["PATH_INFO"]) and "X-Amz-Signature=" in environ["QUERY_STRING"]
    return not (is_link and environ["REQUEST_METHOD"] == "GET" and origin in (None, "null"))


class Door(moto.server.DomainDispatcherApplication):
    def __call__(self, environ, start_response):
        if is_refused(environ):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return super().__call__(environ, start_response)


moto.server.DomainDispatcherApplication = Door

LOCK = threading.RLock()


def alone(method):
    @functools.wraps(method)
    def locked(*arguments, **named):
        with LOCK:
            return method(*arguments, **named)

    return locked


RECEIVE = SQSBackend.receive_message


def receive_message(self, queue_name, count, wait_seconds_timeout, *others, **named):
    """Waits without the lock."""
    end = time.monotonic() + int(wait_seconds_timeout or 0)
    while True:
        with LOCK:
            messages = RECEIVE(self, queue_name, count, 0, *others, **named)
        if messages or time.monotonic() >= end:
            return messages
        time.sleep(0.02)


for name, method in list(vars(SQSBackend).items()):
    if inspect.isfunction(method) and not name.startswith("_"):
        setattr(SQSBackend, name, alone(method))
SQSBackend.receive_message = receive_message

moto.server.main()
