"""What Python's email reads in messages: a list of them in base64, then a list of what they say, both as JSON."""

import base64
import email
import email.policy
import json
import sys
from email.header import decode_header, make_header
from email.utils import getaddresses


def people(message, name):
    """By the older functions: in a name, the newer ones (3.11) take the fold between two encoded words for a space."""
    found = getaddresses(message.get_all(name, []))
    return [[str(make_header(decode_header(person))), address] for person, address in found]


def words(message, name):
    return str(message[name] or "").split()


def text(part):
    return (part.get_content().replace("\r\n", "\n").rstrip("\n") or None) if part else None


def file(part):
    content = base64.b64encode(part.get_payload(decode=True)).decode()
    return [part.get_filename(), part.get_content_type(), part.get_content_disposition(), part["content-id"], content]


def read(message):
    older = email.message_from_bytes(message)
    message = email.message_from_bytes(message, policy=email.policy.default)
    parts = list(message.walk())
    defects = [defect for part in parts for defect in part.defects]
    defects += [defect for part in parts for field in part.values() for defect in getattr(field, "defects", ())]
    assert not defects, (defects, message.as_string())
    bodies = [message.get_body(("plain",)), message.get_body(("html",))]
    return {
        "subject": message["subject"],
        "from": people(older, "from"),
        "replyTo": people(older, "reply-to"),
        "to": people(older, "to"),
        "cc": people(older, "cc"),
        "bcc": people(older, "bcc"),
        "messageId": words(message, "message-id"),
        "inReplyTo": words(message, "in-reply-to"),
        "references": words(message, "references"),
        "text": text(bodies[0]),
        "html": text(bodies[1]),
        "files": [file(part) for part in parts if not part.is_multipart() and all(part is not body for body in bodies)],
    }


json.dump([read(base64.b64decode(message)) for message in json.load(sys.stdin)], sys.stdout)
