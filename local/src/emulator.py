"""moto's server with one lock around its SQS.

Its threads share lists without one (5.2.5, sqs/models.py). Two who receive at once then get the same message, seen twice
among 1,200 with four senders and two receivers; and Queue.delete_message loses what is sent while it copies the list."""

import functools
import inspect
import threading
import time

from moto.server import main
from moto.sqs.models import SQSBackend

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

main()
