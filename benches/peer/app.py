"""A peer for `cargo bench -- --peer`: the account endpoints as a resident Flask service would have them.

It is there to be measured, not to be used: header authentication only, few rules. What costs time is done as usual and
as well as we know: one connection to each server per worker, the same database functions in one round trip, one
pipelined count in Redis, salted SHA-512, one JSON log line per request.
"""

import hashlib
import json
import os
import re
import secrets
import time
import uuid

import psycopg
import redis
from flask import Flask, g, jsonify, request
from psycopg.rows import dict_row

COLUMNS = ("account_name", "email_address", "protocol", "hostname", "port", "encryption", "username")
RULES = {"port": lambda port: 1 <= port <= 65535, "protocol": {"imap", "pop3"}.__contains__}

app = Flask(__name__)
database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)
counts = redis.Redis.from_url(os.environ["REDIS_URL"])


def camel(name):
    return re.sub("_(.)", lambda match: match[1].upper(), name)


def view(row):
    return {camel(name): str(value) if isinstance(value, uuid.UUID) else value for name, value in row.items()}


def call(function, *arguments):
    """Runs a function of the database for the caller."""
    places = ", ".join(["%s"] * (len(arguments) + 2))
    return database.execute(f"select * from {function}({places})", (g.tenant, g.user, *arguments)).fetchall()


def checked(body):
    for field, rule in RULES.items():
        if field in body and not rule(body[field]):
            return f"{field} is not allowed"
    return None


def hashed(password):
    if password is None:
        return None, None, None
    salt = secrets.token_bytes(32)
    return "sha512", hashlib.sha512(password.encode() + salt).hexdigest(), salt.hex()


@app.before_request
def identify_and_count():
    g.started = time.perf_counter()
    try:
        g.tenant, g.user = uuid.UUID(request.headers["X-Tenant-ID"]), uuid.UUID(request.headers["X-User-ID"])
    except (KeyError, ValueError):
        return jsonify(error="Unauthorized"), 401
    key = f"peer:{g.tenant}:{g.user}:{int(time.time() // 60)}"
    count, _ = counts.pipeline(transaction=False).incr(key).expire(key, 60).execute()
    if count > 1000:
        return jsonify(error="Rate limit exceeded"), 429
    return None


@app.after_request
def log(response):
    duration = round((time.perf_counter() - g.started) * 1000, 3)
    print(json.dumps({"path": request.path, "status": response.status_code, "durationMs": duration}), flush=True)
    return response


@app.get("/api/accounts")
def list_accounts():
    rows = database.execute(
        "select total, (account).* from list_accounts(%s, %s, 100, 0)", (g.tenant, g.user)
    ).fetchall()
    total = [row.pop("total") for row in rows][0]
    return jsonify(accounts=[view(row) for row in rows if row["id"]], total=total)


@app.post("/api/accounts")
def create_account():
    body = request.get_json()
    if fault := checked(body):
        return jsonify(error=fault), 400
    values = [body[camel(column)] for column in COLUMNS if column != "encryption"]
    values.insert(COLUMNS.index("encryption"), body.get("encryption", "tls"))
    algorithm, digest, salt = hashed(body["password"])
    values.insert(COLUMNS.index("email_address") + 1, body["emailAddress"].lower())
    rows = call("insert_account", uuid.uuid4(), *values, True, 300, uuid.uuid4(), algorithm, digest, salt, 1000)
    return jsonify(view(rows[0])), 201


@app.get("/api/accounts/<uuid:account_id>")
def get_account(account_id):
    rows = call("find_account", account_id)
    return jsonify(view(rows[0])) if rows else (jsonify(error="Not found"), 404)


@app.put("/api/accounts/<uuid:account_id>")
def update_account(account_id):
    body = request.get_json()
    if fault := checked(body):
        return jsonify(error=fault), 400
    values = [body.get(camel(column)) for column in (*COLUMNS, "is_sync_enabled", "sync_interval", "is_enabled")]
    address = body.get("emailAddress")
    values.insert(COLUMNS.index("email_address") + 1, address and address.lower())
    rows = call("update_account", account_id, *values, *hashed(body.get("password")))
    return jsonify(view(rows[0])) if rows else (jsonify(error="Not found"), 404)


@app.delete("/api/accounts/<uuid:account_id>")
def delete_account(account_id):
    return ("", 204) if call("disable_account", account_id) else (jsonify(error="Not found"), 404)
