//! The OpenAPI document: schemas from the wire types, examples of refusals from the errors themselves, and the table
//! of operations below. A test compares its routes with `template.yaml`, another one `openapi.json` with it.

use std::time::Duration;

use anyhow::{Context, Result};
use find_settings::NOBODY_KNOWS;
use finish_sign_in::{GONE, NO_CONSENT, NOBODY as NO_ADDRESS, PROVIDER_AWAY, TOO_LITTLE, other_address};
use health_ready::UNAVAILABLE;
use mail::Code;
use mailbox::actions::ONE_FOLDER;
use mailbox::reading::TOO_LONG;
use serde_json::{Map, Value, json};
use shared::account::state::State;
use shared::account::{Account, AccountChange, EmailAddress, NewAccount};
use shared::auth::NOBODY;
use shared::authorization::State as Authorized;
use shared::call::{MAX_BODY_BYTES, NO_OBJECT};
use shared::change::{Cursor as ChangeCursor, Place, TOO_OLD, bad_cursor as bad_cursor_of_changes};
use shared::composition::{Composition, MAX_COMPOSITION_BYTES, unknown};
use shared::db::outbox::{NO_SERVER, NOT_PUT};
use shared::draft::{Draft, NO_SUCH_DRAFT, STALE, TOO_MANY_DRAFTS, Version};
use shared::error::{
    ADDRESS_TAKEN, Envelope, Error, Fault, NO_SUCH_ACCOUNT, NO_SUCH_ENTRY, NO_SUCH_MESSAGE, NOT_YOURS,
    too_many_accounts,
};
use shared::idempotency::{KEY, MAX_KEY, OTHER_BODY, RUNNING};
use shared::identity::{Scope, TenantId, UserId};
use shared::message::{Cursor, MessageChange, MessageId};
use shared::outbox::{OutboxCursor, Outgoing, OutgoingId, Status};
use shared::quota::Quota;
use shared::search::MAX_CHARACTERS;
use shared::sync::Synchronisation;
use shared::upload::{AttachmentIds, NewUpload, PutLink, Size, TOO_MANY_UPLOADS};
use shared::validation::{Field, flag, parameter, whole_number};
use shared::{VERSION, account::Port, account::Protocol};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

const ID: &str = "0198c0de-0000-7000-8000-000000000001";
const FOLDER_ID: &str = "0198c0de-0000-7000-8000-000000000003";
const DRAFT_ID: &str = "0198c0de-0000-7000-8000-000000000004";
const UPLOAD_ID: &str = "0198c0de-0000-7000-8000-000000000005";
const MESSAGE_ID: &str = "0198c0de-0000-7000-8000-000000000004";
const STATE: &str = "q0mUqYbVSmWkGtH2sI1oAk0UoXr3Vw1m1S0C8d0aXbU";
const REQUEST_ID: &str = "5f0c5c3e-8b6c-4b0a-9a39-0d8b3c1f7a42";

const ABOUT: &str = "\
The mailbox accounts (IMAP, POP3, SMTP) of a multi-tenant email client, and the mail in them.

Each request under `/api` proves who calls with `Authorization: Bearer <JWT>`, and sees that user's accounts and mail only. \
Times are milliseconds since the Unix epoch. Fields that are not listed are ignored. Each answer has an \
`X-Request-Id`; errors repeat it in `requestId`: name it when you report a problem. A path that is not listed answers \
404, a method that a path lacks 405 with `Allow`, both in the form of all errors.";

/// One route.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    tag: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(u16, Value)>,
    refusals: Vec<(&'static str, Error)>,
}

/// The document, as `openapi.json` has it.
///
/// # Errors
/// A schema has no JSON form, which none of ours lacks.
pub fn document() -> Result<String> {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method;
        path[method] = operation.value();
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "email_service",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Copyright 2026 MetaBuilder. All rights reserved."},
        },
        "servers": [
            {"url": "/", "description": "The host that serves this document."},
            {"url": "http://localhost:5000", "description": "cargo dev"},
        ],
        "security": [{"token": []}],
        "tags": [
            {"name": "accounts", "description": "The caller's mailbox accounts."},
            {"name": "synchronisation", "description": "When the caller's mail is fetched, and how far that is."},
            {"name": "messages", "description": "The caller's mail."},
            {"name": "outbox", "description": "What the caller sends, and what became of it."},
            {"name": "drafts", "description": "What the caller writes and has not sent, and files to go along."},
            {"name": "health", "description": "For monitors: no identity, no rate limit."},
            {"name": "reference", "description": "This document."},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas()?,
            "headers": headers(),
            "securitySchemes": {"token": {
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                "description": "Claims: `tenant_id` and `user_id` (UUIDs), `exp`, and perhaps `role` (`user` or `admin`); \
                    an installation may give them other names, and take other ids.",
            }},
        },
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn operations() -> Vec<Operation> {
    let too_many_requests = || Error::TooManyRequests(Quota::of_refused_login(Duration::from_secs(7)));
    let limited = || {
        vec![
            ("nobody", NOBODY),
            ("too many", too_many_requests()),
            ("our fault", Error::internal(anyhow::anyhow!("an example"))),
            ("busy", Error::Unavailable(anyhow::anyhow!("an example"))),
        ]
    };
    let with = |more: Vec<(&'static str, Error)>| more.into_iter().chain(limited()).collect::<Vec<_>>();
    let unreadable = || {
        let faults = vec![
            Fault::new("protocol", Protocol::RULE, Protocol::fault("protocol")),
            Fault::new("port", Port::RULE, Port::fault("port")),
        ];
        vec![
            ("no JSON", Error::Malformed(NO_OBJECT.into())),
            ("faults", Error::Invalid(faults)),
            ("too large", Error::PayloadTooLarge { limit: MAX_BODY_BYTES }),
        ]
    };
    let one =
        || vec![("not yours", Error::Forbidden(NOT_YOURS)), ("no such account", Error::NotFound(NO_SUCH_ACCOUNT))];
    let uuid = || json!({"type": "string", "format": "uuid"});
    let message_id = || {
        json!({"name": "id", "in": "path", "required": true, "description": "The id of a message of yours.",
            "schema": uuid(), "example": MESSAGE_ID})
    };
    let reading_refusals = || {
        let message = "The mail server does not answer. Try again later.".into();
        vec![
            ("no such message", Error::NotFound(NO_SUCH_MESSAGE)),
            ("mail server away", Error::MailServer { code: Code::Unreachable.as_str(), message }),
            ("too many tries", too_many_requests()),
        ]
    };
    let taken = || ("address taken", Error::Conflict(ADDRESS_TAKEN.into()));
    let too_many = || ("too many accounts", Error::Conflict(too_many_accounts(1000).into()));
    // What a key adds to an operation that makes something.
    let key = || {
        json!({
            "name": KEY, "in": "header", "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
            "description": "A random text, such as a UUID, by which this request is known when it is sent again within 24 hours: it \
                gets the same answer again, with `Idempotency-Replayed`, and does nothing more. Kept are successes and conflicts: \
                what was a 400 may be corrected under the same key.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
        })
    };
    let draft_id = || {
        json!({
            "name": "id", "in": "path", "required": true, "description": "The draft's id.",
            "schema": {"type": "string", "format": "uuid"}, "example": DRAFT_ID,
        })
    };
    let no_draft = || ("no such draft", Error::NotFound(NO_SUCH_DRAFT));
    let unwritable = || {
        let address = Fault::new("address", EmailAddress::RULE, EmailAddress::fault("address")).within("to", 0);
        vec![
            ("no JSON", Error::Malformed(NO_OBJECT.into())),
            ("faults", Error::Invalid(vec![address])),
            ("not the caller's", Error::Invalid(vec![unknown("replyToId".into())])),
            ("too large", Error::PayloadTooLarge { limit: MAX_COMPOSITION_BYTES }),
        ]
    };
    let keyed = || {
        vec![
            ("first request still at work", Error::Conflict(RUNNING.into())),
            ("key used with another body", Error::Unprocessable(OTHER_BODY)),
        ]
    };
    let id = || {
        json!({
            "name": "id", "in": "path", "required": true, "description": "The account's id.",
            "schema": {"type": "string", "format": "uuid"}, "example": ID,
        })
    };
    let number = |name: &str, description: &str, default: i64, minimum: i64, maximum: i64| {
        json!({
            "name": name, "in": "query", "description": description,
            "schema": {"type": "integer", "format": "int64", "default": default, "minimum": minimum, "maximum": maximum},
        })
    };
    let changing = |more: Vec<(&'static str, Error)>| {
        let refused = ("cannot be done", Error::Conflict(ONE_FOLDER.into()));
        with(more.into_iter().chain(reading_refusals()).chain([refused]).collect())
    };
    let bad_flag = flag(&[("permanent".into(), "x".into())], "permanent");
    let account = || example_account();
    let tried = |more: Vec<(&'static str, Error)>| {
        let mut refusals = with(more);
        refusals.push(("too many tries", too_many_requests()));
        refusals
    };
    let signed_in = || {
        json!({
            "success": true,
            "incoming": {"service": "imap", "success": true, "code": null, "message": "Signed in."},
            "smtp": {"service": "smtp", "success": true, "code": null, "message": "Signed in."},
        })
    };
    let bad_address = parameter::<EmailAddress>(&[("emailAddress".into(), "jane".into())], "emailAddress");
    let query = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let time = || json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX});
    let text = || {
        json!({
            "type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        })
    };
    // Twenty-five bytes, of which the first is known.
    let cursor = || json!({"type": "string", "pattern": "^A[Q-Za-f][A-Za-z0-9_-]{31}[AQgw]$"});
    let bad_cursor = parameter::<Cursor>(&[("cursor".into(), "x".into())], "cursor");
    let bad_outbox_cursor = parameter::<OutboxCursor>(&[("cursor".into(), "x".into())], "cursor");
    let outgoing_id = || {
        let mut id = id();
        id["description"] = "The entry's id.".into();
        id
    };
    let no_entry = || ("no such entry", Error::NotFound(NO_SUCH_ENTRY));
    let bad_limit = whole_number(&[("limit".into(), "0".into())], "limit", 0, 1..=list_accounts::MAX_LIMIT);
    let bad_draft_limit = whole_number(&[("limit".into(), "0".into())], "limit", 0, 1..=list_drafts::MAX_LIMIT);
    vec![
        Operation {
            method: "get",
            path: "/api/accounts",
            id: "listAccounts",
            summary: "List your accounts",
            description: "The caller's enabled accounts, newest first, in a stable order.",
            tag: "accounts",
            parameters: vec![
                number(
                    "limit",
                    "How many accounts at most.",
                    list_accounts::DEFAULT_LIMIT,
                    1,
                    list_accounts::MAX_LIMIT,
                ),
                number("offset", "How many accounts to skip.", 0, 0, i64::MAX),
                json!({
                    "name": "state", "in": "query", "schema": {"$ref": "#/components/schemas/State"},
                    "description": "Only accounts in this state. `total` counts them alone.",
                }),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "A page of accounts.",
                    "AccountList",
                    json!({"accounts": [account()], "pagination": {"total": 1, "limit": 100, "offset": 0}}),
                ),
            )],
            refusals: with(vec![("bad limit", Error::Invalid(bad_limit.err().into_iter().collect()))]),
        },
        Operation {
            method: "post",
            path: "/api/accounts",
            id: "createAccount",
            summary: "Register an account",
            description: "Safe to repeat: an account with the same address answers 409, and the same request with an `Idempotency-Key` \
                          as it did before.",
            tag: "accounts",
            parameters: vec![key()],
            body: Some(json_body("NewAccount", example_new_account())),
            answers: vec![(201, created())],
            refusals: with(unreadable().into_iter().chain([taken(), too_many()]).chain(keyed()).collect()),
        },
        Operation {
            method: "get",
            path: "/api/accounts/{id}",
            id: "getAccount",
            summary: "Read an account",
            description: "",
            tag: "accounts",
            parameters: vec![id()],
            body: None,
            answers: vec![(200, json_answer("The account.", "Account", account()))],
            refusals: with(one()),
        },
        Operation {
            method: "put",
            path: "/api/accounts/{id}",
            id: "updateAccount",
            summary: "Change an account",
            description: "Changes what the body names and nothing else: `{}` changes nothing. `\"isEnabled\": false` acts as a delete. Idempotent.",
            tag: "accounts",
            parameters: vec![id()],
            body: Some(json_body("AccountChange", json!({"syncInterval": 600}))),
            answers: vec![(200, json_answer("The account after the change.", "Account", account()))],
            refusals: with(one().into_iter().chain(unreadable()).chain([taken()]).collect()),
        },
        Operation {
            method: "delete",
            path: "/api/accounts/{id}",
            id: "deleteAccount",
            summary: "Delete an account",
            description: "The address is free again. A second delete answers 404: take that as done.",
            tag: "accounts",
            parameters: vec![id()],
            body: None,
            answers: vec![(
                200,
                json_answer("It is deleted.", "Deleted", json!({"message": "Account deleted successfully", "id": ID})),
            )],
            refusals: with(one()),
        },
        Operation {
            method: "post",
            path: "/api/accounts/test",
            id: "testSettings",
            summary: "Try settings",
            description: "Signs in to the servers that a create's body names, and out again. Stores nothing. A login that fails is a 200, \
                          too: `success` tells. Answers within 10 s.",
            tag: "accounts",
            parameters: vec![],
            body: Some(json_body("NewAccount", example_new_account())),
            answers: vec![(200, json_answer("What came of it.", "TestResult", signed_in()))],
            refusals: tried(unreadable()),
        },
        Operation {
            method: "post",
            path: "/api/accounts/{id}/test",
            id: "testAccount",
            summary: "Try an account",
            description: "Signs in with what is stored, and moves the account's `state`. A body may name fields that take the place of \
                          stored ones for this try, which then moves nothing. In the state `authenticationError` what is stored is \
                          tried once a minute.",
            tag: "accounts",
            parameters: vec![id()],
            body: Some(optional_body("AccountChange", json!({"password": "correct horse battery staple"}))),
            answers: vec![(200, json_answer("What came of it.", "TestResult", refused_login()))],
            refusals: tried(one().into_iter().chain(unreadable()).collect()),
        },
        Operation {
            method: "get",
            path: "/api/autoconfig",
            id: "findSettings",
            summary: "Find the settings of an address",
            description: "Asks a table of providers, the address's domain, its name servers and the public database of providers, best \
                          first. No password is sent anywhere.",
            tag: "accounts",
            parameters: vec![json!({
                "name": "emailAddress", "in": "query", "required": true, "description": EmailAddress::RULE,
                "schema": {"$ref": "#/components/schemas/EmailAddress"}, "example": "jane@gmail.com",
            })],
            body: None,
            answers: vec![(200, json_answer("What is known.", "FoundSettings", example_settings()))],
            refusals: tried(vec![
                ("bad address", Error::Invalid(bad_address.err().into_iter().collect())),
                ("nobody knows", Error::NotFound(NOBODY_KNOWS)),
            ]),
        },
        Operation {
            method: "post",
            path: "/api/accounts/{id}/sync",
            id: "requestSync",
            summary: "Synchronise an account",
            description: "At once, whatever `isSyncEnabled` and the account's plans say. While one is asked for or runs, that one is \
                          meant: `requestedAt` says since when. In the state `authenticationError` once a minute.",
            tag: "synchronisation",
            parameters: vec![id()],
            body: None,
            answers: vec![(
                202,
                json_answer(
                    "It will begin.",
                    "SyncRequest",
                    json!({"accountId": ID, "status": "queued", "requestedAt": 1_767_225_600_000_i64}),
                ),
            )],
            refusals: tried(one()),
        },
        Operation {
            method: "get",
            path: "/api/accounts/{id}/sync",
            id: "getSync",
            summary: "How a synchronisation stands",
            description: "`progress` is null when idle. It counts what the server has told so far, so totals may grow.",
            tag: "synchronisation",
            parameters: vec![id()],
            body: None,
            answers: vec![(200, json_answer("How it stands.", "Sync", example_sync()))],
            refusals: with(one()),
        },
        Operation {
            method: "delete",
            path: "/api/accounts/{id}/sync",
            id: "cancelSync",
            summary: "End a synchronisation",
            description: "One that runs ends after its batch: what has come stays, and the next one goes on from there. Idempotent.",
            tag: "synchronisation",
            parameters: vec![id()],
            body: None,
            answers: vec![(200, json_answer("There is none any more.", "SyncCanceled", json!({"status": "idle"})))],
            refusals: with(one()),
        },
        Operation {
            method: "get",
            path: "/api/accounts/{id}/folders",
            id: "listFolders",
            summary: "List the folders of a mailbox",
            description: "In the order of their paths. The inbox is `INBOX`.",
            tag: "messages",
            parameters: vec![id()],
            body: None,
            answers: vec![(200, json_answer("All folders.", "FolderList", json!({"folders": [example_folder()]})))],
            refusals: with(one()),
        },
        Operation {
            method: "get",
            path: "/api/messages",
            id: "listMessages",
            summary: "List your messages",
            description: "Of all accounts or those that are asked for, newest first by `receivedAt`. All filters must fit. Texts are a \
                          part, in any letter case, and each character stands for itself. An unknown id as a filter finds \
                          nothing. The next page is the same request with `cursor`.",
            tag: "messages",
            parameters: vec![
                number(
                    "limit",
                    "How many messages at most.",
                    list_messages::DEFAULT_LIMIT,
                    1,
                    list_messages::MAX_LIMIT,
                ),
                query("cursor", "The `nextCursor` of the page before.", cursor()),
                query("accountId", "Only messages of this account.", uuid()),
                query("folderId", "Only messages in this folder.", uuid()),
                query(
                    "role",
                    "Only messages in folders with this role.",
                    json!({"$ref": "#/components/schemas/FolderRole"}),
                ),
                query("isRead", "Only what is read, or what is unread.", json!({"type": "boolean"})),
                query("isFlagged", "Only what is flagged, or what is not.", json!({"type": "boolean"})),
                query("hasAttachments", "Only with files attached, or without.", json!({"type": "boolean"})),
                query("threadId", "Only messages of this conversation.", uuid()),
                query("from", "Only with this in the sender's name or address, in any letter case.", text()),
                query("to", "Only with this in the name or address of a recipient: `to`, `cc` or `bcc`.", text()),
                query("subject", "Only with this in the subject.", text()),
                query("q", "Only with this in any of these, or in the preview.", text()),
                query("after", "Only what was received then or later: `receivedAt` at least this.", time()),
                query("before", "Only what was received earlier: `receivedAt` less than this.", time()),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "A page of messages.",
                    "MessageList",
                    json!({"messages": [example_message()], "nextCursor": example_cursor()}),
                ),
            )],
            refusals: with(vec![("bad cursor", Error::Invalid(bad_cursor.err().into_iter().collect()))]),
        },
        Operation {
            method: "get",
            path: "/api/drafts",
            id: "listDrafts",
            summary: "List your drafts",
            description: "Newest first. A page of large ones ends early: go on while there is a `nextCursor`.",
            tag: "drafts",
            parameters: vec![
                number("limit", "How many drafts at most.", list_drafts::DEFAULT_LIMIT, 1, list_drafts::MAX_LIMIT),
                query("cursor", "The `nextCursor` of the page before.", uuid()),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "A page of drafts.",
                    "DraftList",
                    json!({"drafts": [example_draft()], "nextCursor": DRAFT_ID}),
                ),
            )],
            refusals: with(vec![("bad limit", Error::Invalid(bad_draft_limit.err().into_iter().collect()))]),
        },
        Operation {
            method: "post",
            path: "/api/drafts",
            id: "createDraft",
            summary: "Keep what is written",
            description: "Any field may be missing or null. Drafts are in no folder of the mail server.",
            tag: "drafts",
            parameters: vec![key()],
            body: Some(body_within(MAX_COMPOSITION_BYTES, "NewDraft", example_composition())),
            answers: vec![(201, created_draft())],
            refusals: with(
                unwritable()
                    .into_iter()
                    .chain([("too many drafts", Error::Conflict(TOO_MANY_DRAFTS.into()))])
                    .chain(keyed())
                    .collect(),
            ),
        },
        Operation {
            method: "get",
            path: "/api/drafts/{id}",
            id: "getDraft",
            summary: "Read a draft",
            description: "As it can be put back: an account or a message that it names and that is gone is null.",
            tag: "drafts",
            parameters: vec![draft_id()],
            body: None,
            answers: vec![(200, json_answer("The draft.", "Draft", example_draft()))],
            refusals: with(vec![no_draft()]),
        },
        Operation {
            method: "put",
            path: "/api/drafts/{id}",
            id: "updateDraft",
            summary: "Change a draft",
            description: "Puts the body in the place of all that the draft had. `version` is the one that the change is of: where the \
                          draft has another one by now, nothing is changed.",
            tag: "drafts",
            parameters: vec![draft_id()],
            body: Some(body_within(MAX_COMPOSITION_BYTES, "DraftChange", example_change())),
            answers: vec![(200, json_answer("The draft after the change.", "Draft", example_draft()))],
            refusals: with(
                unwritable().into_iter().chain([no_draft(), ("stale", Error::Conflict(STALE.into()))]).collect(),
            ),
        },
        Operation {
            method: "delete",
            path: "/api/drafts/{id}",
            id: "deleteDraft",
            summary: "Delete a draft",
            description: "Its files go within a day, unless something else uses them. A second delete answers 404: take that as done.",
            tag: "drafts",
            parameters: vec![draft_id()],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "It is deleted.",
                    "DraftDeleted",
                    json!({"message": "Draft deleted successfully", "id": DRAFT_ID}),
                ),
            )],
            refusals: with(vec![no_draft()]),
        },
        Operation {
            method: "post",
            path: "/api/uploads",
            id: "createUpload",
            summary: "Announce a file",
            description: "The answer says where to send the file itself: one `PUT` to `url`, with `headers` and nothing of this API, until \
                          `expiresAt`. The store takes exactly this type and size, once: a second `PUT` is a 412 there. An attachment \
                          names the file by `id`. One that no draft and no message uses is gone after a day.",
            tag: "drafts",
            parameters: vec![key()],
            body: Some(json_body(
                "NewUpload",
                json!({"filename": "report.pdf", "contentType": "application/pdf", "size": 48213}),
            )),
            answers: vec![(201, json_answer("Where to send it.", "Upload", example_upload()))],
            refusals: with(
                vec![
                    ("no JSON", Error::Malformed(NO_OBJECT.into())),
                    ("faults", Error::Invalid(vec![Fault::new("size", Size::RULE, Size::fault("size"))])),
                    ("too large", Error::PayloadTooLarge { limit: MAX_BODY_BYTES }),
                    ("too many uploads", Error::Conflict(TOO_MANY_UPLOADS.into())),
                ]
                .into_iter()
                .chain(keyed())
                .collect(),
            ),
        },
        Operation {
            method: "get",
            path: "/api/messages/{id}",
            id: "getMessage",
            summary: "Read a message",
            description: "The message with its text and its HTML, made harmless: no script, form, handler or remote load. Pictures from \
                          elsewhere are kept back, their address is in `data-remote-src`; those of the message itself name the path of \
                          their attachment. The first time it is fetched from the mail host. Reading does not mark as read.",
            tag: "messages",
            parameters: vec![message_id()],
            body: None,
            answers: vec![(200, json_answer("The message.", "OpenedMessage", example_opened()))],
            refusals: with(reading_refusals()),
        },
        Operation {
            method: "put",
            path: "/api/messages/{id}",
            id: "updateMessage",
            summary: "Change a message",
            description: "Flags and folder, on the mail server first: where that fails nothing is changed. Changes what the body names and \
                          nothing else. A message that moves keeps its id. At Gmail it gets the folder's label and loses the first that \
                          it has been filed under. In a mailbox of POP3 flags are kept here, and there is one folder. Idempotent.",
            tag: "messages",
            parameters: vec![message_id()],
            body: Some(json_body("MessageChange", json!({"isRead": true}))),
            answers: vec![(200, json_answer("The message after the change.", "Message", example_message()))],
            refusals: changing(unreadable()),
        },
        Operation {
            method: "delete",
            path: "/api/messages/{id}",
            id: "deleteMessage",
            summary: "Delete a message",
            description: "On the mail server first: to the trash; from there, or with `permanent`, for good. In a mailbox of POP3 it is \
                          hidden here, and the server keeps it. What was destroyed is a 404 the second time: take that as done.",
            tag: "messages",
            parameters: vec![
                message_id(),
                query("permanent", "For good, wherever it is.", json!({"type": "boolean", "default": false})),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer("The message, in the trash, or as it was before.", "Message", example_message()),
            )],
            refusals: changing(vec![("bad flag", Error::Invalid(bad_flag.err().into_iter().collect()))]),
        },
        Operation {
            method: "post",
            path: "/api/messages/batch",
            id: "batchMessages",
            summary: "Change or delete many messages",
            description: "The same change for all of them, or to the trash with all. Each has a result of its own, in the order of `ids`: \
                          an id that is not yours is `notFound`, and what a mail server refuses has its code.",
            tag: "messages",
            parameters: vec![],
            body: Some(json_body("Batch", json!({"ids": [MESSAGE_ID], "set": {"isRead": true}}))),
            answers: vec![(
                200,
                json_answer(
                    "What became of each.",
                    "BatchResult",
                    json!({"results": [{"id": MESSAGE_ID, "success": true, "code": null, "message": null}]}),
                ),
            )],
            refusals: with(unreadable()),
        },
        Operation {
            method: "get",
            path: "/api/messages/{id}/raw",
            id: "getRawMessage",
            summary: "Get a message as it was sent",
            description: "Byte by byte. What is too long for an answer is a link to the object store, of five minutes.",
            tag: "messages",
            parameters: vec![message_id()],
            body: None,
            answers: vec![(200, bytes_answer("The message.", "message/rfc822")), (303, link_answer())],
            refusals: with(
                reading_refusals().into_iter().chain([("too long", Error::Conflict(TOO_LONG.into()))]).collect(),
            ),
        },
        Operation {
            method: "get",
            path: "/api/messages/{id}/attachments/{attachmentId}",
            id: "getAttachment",
            summary: "Get an attachment",
            description: "To be saved: the type is one that no browser runs. What is too long for an answer is a link to the object store, \
                          of five minutes.",
            tag: "messages",
            parameters: vec![
                message_id(),
                json!({"name": "attachmentId", "in": "path", "required": true, "description": "As the message lists it.",
                    "schema": {"type": "string", "maxLength": 20}, "example": "2"}),
            ],
            body: None,
            answers: vec![(200, bytes_answer("The file.", "*/*")), (303, link_answer())],
            refusals: with(reading_refusals()),
        },
        Operation {
            method: "post",
            path: "/api/messages/{id}/uploads",
            id: "copyAttachments",
            summary: "Take attachments over",
            description: "Makes uploads of this message's attachments, for a draft or a message that forwards it, without a detour \
                          through the browser. The answer's `attachments` are what those name. Each call makes new ones; what no \
                          draft and no message uses is gone after a day.",
            tag: "drafts",
            parameters: vec![message_id()],
            body: Some(json_body("AttachmentChoice", json!({}))),
            answers: vec![(
                201,
                json_answer("What goes along.", "CopiedAttachments", json!({"attachments": [example_attachment()]})),
            )],
            refusals: with(
                vec![
                    ("no JSON", Error::Malformed(NO_OBJECT.into())),
                    (
                        "faults",
                        Error::Invalid(vec![Fault::new(
                            "attachmentIds",
                            AttachmentIds::RULE,
                            AttachmentIds::fault("attachmentIds"),
                        )]),
                    ),
                    ("too large", Error::PayloadTooLarge { limit: MAX_BODY_BYTES }),
                    ("too many uploads", Error::Conflict(TOO_MANY_UPLOADS.into())),
                ]
                .into_iter()
                .chain(reading_refusals())
                .collect(),
            ),
        },
        Operation {
            method: "get",
            path: "/api/changes",
            id: "listChanges",
            summary: "What has changed",
            description: "What has become of your accounts, folders, messages and outbox since a cursor, in the order of the changes: each \
                          thing once, with its last change. Without `since` it is a cursor to begin with: take it, list \
                          everything, then ask from it on. A change never appears before a cursor that was given out. What was \
                          destroyed is remembered for 30 days; an older cursor answers 410: begin anew. A destroyed \
                          account takes all that it had with it. Times that each synchronisation moves (`lastSyncAt`, \
                          `nextSyncAt`, `isSyncing`) are no changes.",
            tag: "messages",
            parameters: vec![
                number("limit", "How many changes at most.", list_changes::DEFAULT_LIMIT, 1, list_changes::MAX_LIMIT),
                query(
                    "since",
                    "The `cursor` of the answer before.",
                    json!({"type": "string", "pattern": "^A[g-n][A-Za-z0-9_-]{31}[AQgw]$"}),
                ),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "Some of them. With `hasMore`, ask again at once.",
                    "ChangeList",
                    json!({
                        "changes": [
                            {"type": "message", "id": example_message()["id"], "accountId": ID, "change": "created"},
                            {"type": "folder", "id": FOLDER_ID, "accountId": ID, "change": "updated"},
                        ],
                        "cursor": example_place(), "hasMore": false,
                    }),
                ),
            )],
            refusals: with(vec![("bad cursor", bad_cursor_of_changes()), ("too old", Error::Gone(TOO_OLD))]),
        },
        Operation {
            method: "get",
            path: "/api/outbox",
            id: "listOutbox",
            summary: "List your outbox",
            description: "What was to be sent, of all accounts, newest first. A page may be shorter than `limit` where messages are large. \
                          The next one is the same request with `cursor`.",
            tag: "outbox",
            parameters: vec![
                number("limit", "How many entries at most.", list_outbox::DEFAULT_LIMIT, 1, list_outbox::MAX_LIMIT),
                query(
                    "cursor",
                    "The `nextCursor` of the page before.",
                    json!({"type": "string", "pattern": "^A[g-v][A-Za-z0-9_-]{31}[AQgw]$"}),
                ),
            ],
            body: None,
            answers: vec![(
                200,
                json_answer(
                    "A page of the outbox.",
                    "OutboxList",
                    json!({"entries": [example_outgoing(Status::Sent)], "nextCursor": example_outbox_cursor()}),
                ),
            )],
            refusals: with(vec![("bad cursor", Error::Invalid(bad_outbox_cursor.err().into_iter().collect()))]),
        },
        Operation {
            method: "post",
            path: "/api/outbox",
            id: "sendMessage",
            summary: "Send a message",
            description: "Puts it into the outbox, from where it is sent at once or at `sendAt`; the sender is the account. Who is named in \
                          `bcc` is in no header of what is delivered. Where the mail server says no for now, it is tried again for a \
                          day. An account, and a user with all accounts, can put so many messages there in any hour: the 429 has \
                          the fields of the limit that was met.",
            tag: "outbox",
            parameters: vec![key()],
            body: Some(body_within(MAX_COMPOSITION_BYTES, "NewOutgoing", example_new_outgoing())),
            answers: vec![(202, put_into_outbox())],
            refusals: with(
                vec![
                    ("no JSON", Error::Malformed(NO_OBJECT.into())),
                    (
                        "no recipient",
                        Error::Invalid(vec![Fault::new(
                            "to",
                            "must name a recipient, where neither cc nor bcc does",
                            "Name at least one recipient in to, cc or bcc".into(),
                        )]),
                    ),
                    ("too large", Error::PayloadTooLarge { limit: MAX_COMPOSITION_BYTES }),
                    ("cannot send", Error::Conflict(NO_SERVER.into())),
                    ("file never put", Error::Conflict(NOT_PUT.into())),
                ]
                .into_iter()
                .chain(keyed())
                .collect(),
            ),
        },
        Operation {
            method: "get",
            path: "/api/outbox/{id}",
            id: "getOutgoing",
            summary: "What became of a message",
            description: "`status`: `scheduled`, `queued`, `sending`, then `sent` where a server has taken it for one recipient at least, \
                          `rejected` where none was accepted, `failed` after a day or with a refused login, `uncertain` where the \
                          connection was lost while the server took it: it is not sent again by itself.",
            tag: "outbox",
            parameters: vec![outgoing_id()],
            body: None,
            answers: vec![(200, json_answer("The entry.", "Outgoing", example_outgoing(Status::Sent)))],
            refusals: with(vec![no_entry()]),
        },
        Operation {
            method: "delete",
            path: "/api/outbox/{id}",
            id: "cancelOutgoing",
            summary: "Take a message back",
            description: "While it is `scheduled` or `queued`.",
            tag: "outbox",
            parameters: vec![outgoing_id()],
            body: None,
            answers: vec![(
                200,
                json_answer("It is not sent any more.", "Outgoing", example_outgoing(Status::Canceled)),
            )],
            refusals: with(vec![
                no_entry(),
                ("too late", Error::Conflict(cancel_outgoing::too_late(Status::Sent).into())),
            ]),
        },
        Operation {
            method: "post",
            path: "/api/outbox/{id}/retry",
            id: "retryOutgoing",
            summary: "Try a message again",
            description: "One that has `failed`, or is `uncertain`: that may arrive twice.",
            tag: "outbox",
            parameters: vec![outgoing_id()],
            body: None,
            answers: vec![(202, json_answer("It will be sent.", "Outgoing", example_outgoing(Status::Queued)))],
            refusals: with(vec![
                no_entry(),
                ("nothing to retry", Error::Conflict(retry_outgoing::too_late(Status::Sent).into())),
            ]),
        },
        Operation {
            method: "post",
            path: "/api/oauth2/authorizations",
            id: "startSignIn",
            summary: "Begin a sign-in with a provider",
            description: "Says where to send the user's browser. The provider sends it back to `redirectUri` with `state` and `code`, or \
                          with `error` where the user declines. With `accountId` an account that is there is connected: again, or \
                          with a provider instead of a password.",
            tag: "accounts",
            parameters: vec![],
            body: Some(json_body(
                "NewAuthorization",
                json!({"provider": "google", "redirectUri": "https://app.example.com/connected", "emailAddress": "jane@gmail.com"}),
            )),
            answers: vec![(201, json_answer("Where to go.", "Authorization", example_authorization()))],
            refusals: with(unreadable().into_iter().chain([("no such provider", no_such_provider())]).collect()),
        },
        Operation {
            method: "post",
            path: "/api/oauth2/accounts",
            id: "finishSignIn",
            summary: "End a sign-in with a provider",
            description: "Takes what the browser brought back. A `state` works once, within ten minutes, for the user who began with it; \
                          after a refusal start again. The address is the one that the provider names: it must be the account's, \
                          or the one that was asked for, else nothing is changed.",
            tag: "accounts",
            parameters: vec![],
            body: Some(json_body(
                "NewConnection",
                json!({"state": STATE, "code": "4/0AY0e-g7", "accountName": "Private"}),
            )),
            answers: vec![(201, created()), (200, json_answer("The account, connected.", "Account", connected()))],
            refusals: with(
                unreadable()
                    .into_iter()
                    .chain([
                        (
                            "state",
                            Error::Invalid(vec![Fault::new("state", Authorized::RULE, Authorized::fault("state"))]),
                        ),
                        taken(),
                        too_many(),
                        ("other address", Error::Conflict(other_address("jane@gmail.com", "joe@gmail.com").into())),
                        ("no lasting access", Error::Conflict(NO_CONSENT.into())),
                        ("no access to mail", Error::Conflict(TOO_LITTLE.into())),
                        ("no address", Error::Conflict(NO_ADDRESS.into())),
                        ("account deleted", Error::Conflict(GONE.into())),
                        (
                            "provider away",
                            Error::MailServer { code: Code::Unavailable.as_str(), message: PROVIDER_AWAY.into() },
                        ),
                    ])
                    .collect(),
            ),
        },
        public(
            "/health",
            "health",
            "Is the process alive?",
            "health",
            vec![(
                200,
                json_answer(
                    "It is.",
                    "Health",
                    json!({"status": "healthy", "service": "email_service", "version": VERSION}),
                ),
            )],
        ),
        head(
            "/health",
            "healthHead",
            "Is the process alive? Without a body",
            vec![(200, json!({"description": "It is."}))],
        ),
        public(
            "/health/ready",
            "healthReady",
            "Can the service do its work?",
            "health",
            vec![
                (200, json_answer("It can; `degraded` without Redis.", "Readiness", readiness("healthy", "healthy"))),
                (503, not_ready()),
            ],
        ),
        head(
            "/health/ready",
            "healthReadyHead",
            "Can the service do its work? Without a body",
            vec![(200, json!({"description": "It can."})), (503, json!({"description": "It cannot."}))],
        ),
        public(
            "/openapi.json",
            "openapi",
            "This document",
            "reference",
            vec![
                (
                    200,
                    json!({
                        "description": "OpenAPI 3.1, compressed for who accepts gzip.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                        "headers": cached_headers("public, no-cache"),
                    }),
                ),
                (
                    304,
                    json!({
                        "description": "The document that `If-None-Match` names is current.",
                        "headers": cached_headers("public, no-cache"),
                    }),
                ),
            ],
        ),
        public(
            "/docs",
            "docs",
            "This document, for people",
            "reference",
            vec![
                (
                    200,
                    json!({
                        "description": "A page that loads nothing from elsewhere, compressed for who accepts gzip.",
                        "content": {"text/html; charset=utf-8": {"schema": {"type": "string"}}},
                        "headers": page_headers(),
                    }),
                ),
                (
                    304,
                    json!({"description": "The page that `If-None-Match` names is current.", "headers": page_headers()}),
                ),
            ],
        ),
    ]
}

fn page_headers() -> Value {
    let mut headers = cached_headers("public, max-age=3600");
    headers["Content-Security-Policy"] = text_header("default-src 'none'");
    headers
}

/// Of the answers that may be cached, for they are the same for everybody.
fn cached_headers(caching: &str) -> Value {
    json!({
        "Cache-Control": text_header(caching),
        "ETag": text_header("\"jwX3gSvZ4Y\""),
        "Vary": text_header("Origin, Accept-Encoding"),
    })
}

fn text_header(example: &str) -> Value {
    json!({"schema": {"type": "string"}, "example": example})
}

fn public(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    answers: Vec<(u16, Value)>,
) -> Operation {
    let refusals = vec![("our fault", Error::internal(anyhow::anyhow!("an example")))];
    Operation {
        method: "get",
        path,
        id,
        summary,
        description: "",
        tag,
        parameters: vec![],
        body: None,
        answers,
        refusals,
    }
}

/// As a monitor asks for it. Even a failure has no body.
fn head(path: &'static str, id: &'static str, summary: &'static str, mut answers: Vec<(u16, Value)>) -> Operation {
    answers.push((500, json!({"description": "Internal server error"})));
    Operation { method: "head", refusals: Vec::new(), ..public(path, id, summary, "health", answers) }
}

impl Operation {
    fn value(self) -> Value {
        let is_public = ["health", "reference"].contains(&self.tag);
        let common = if is_public { &COMMON_HEADERS[..] } else { &COMMON_HEADERS_AND_LIMITS[..] };
        let mut responses = Map::new();
        let has_key = self.parameters.iter().any(|parameter| parameter["name"] == KEY);
        for (status, mut answer) in self.answers {
            if has_key {
                refer_to(&mut answer, &[REPLAYED]);
            }
            refer_to(&mut answer, common);
            responses.insert(status.to_string(), answer);
        }
        for (name, error) in self.refusals {
            let (status, kind) = error.status();
            let answer = responses.entry(status.as_str()).or_insert_with(|| {
                json!({
                    "description": kind,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "examples": {}}},
                })
            });
            answer["content"]["application/json"]["examples"][name] = json!({"value": error.envelope(REQUEST_ID)});
            refer_to(answer, common);
            if let Some((header, _)) = error.header() {
                // As HTTP writes it: the type keeps names in lower case.
                let name = if header == "retry-after" { "Retry-After" } else { "WWW-Authenticate" };
                refer_to(answer, &[name]);
            }
            if has_key && status == 409 {
                refer_to(answer, &[REPLAYED]);
            }
        }
        let mut value = json!({
            "operationId": self.id, "summary": self.summary, "tags": [self.tag], "responses": responses,
        });
        if !self.description.is_empty() {
            value["description"] = self.description.into();
        }
        if is_public {
            value["security"] = json!([]);
        }
        if !self.parameters.is_empty() {
            value["parameters"] = self.parameters.into();
        }
        if let Some(body) = self.body {
            value["requestBody"] = body;
        }
        value
    }
}

const REPLAYED: &str = "Idempotency-Replayed";
const COMMON_HEADERS: [&str; 5] =
    ["X-Request-Id", "Cache-Control", "X-Content-Type-Options", "Strict-Transport-Security", "Vary"];
const COMMON_HEADERS_AND_LIMITS: [&str; 10] = [
    "X-Request-Id",
    "Cache-Control",
    "X-Content-Type-Options",
    "Strict-Transport-Security",
    "Vary",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit",
    "RateLimit-Policy",
];

/// Adds these headers, but for those that the answer describes itself.
fn refer_to(answer: &mut Value, headers: &[&str]) {
    for name in headers {
        if answer["headers"][*name].is_null() {
            answer["headers"][*name] = json!({"$ref": format!("#/components/headers/{name}")});
        }
    }
}

fn headers() -> Value {
    let header = |kind: &str, description: &str, example: Value| json!({"description": description, "required": true, "schema": {"type": kind}, "example": example});
    // With RATE_LIMIT_PER_MINUTE=0 there are no rate limit headers.
    let limit = |kind: &str, description: &str, example: Value| json!({"description": description, "schema": {"type": kind}, "example": example});
    json!({
        "X-Request-Id": header("string", "Names this request in the service's log.", REQUEST_ID.into()),
        "Cache-Control": header("string", "Nothing is to be cached.", "no-store".into()),
        "X-Content-Type-Options": header("string", "The content type is meant.", "nosniff".into()),
        "Strict-Transport-Security": header("string", "HTTPS only.", "max-age=31536000; includeSubDomains".into()),
        "Vary": header("string", "The CORS headers depend on the origin.", "Origin".into()),
        "Location": header("string", "The path of what was made.", format!("/api/accounts/{ID}").into()),
        "WWW-Authenticate": header("string", "How to say who you are.", "Bearer".into()),
        "Retry-After": header("integer", "Seconds until a request will be let through.", 7.into()),
        "X-RateLimit-Limit": limit("integer", "Requests that a user may make in any 60 seconds; in a 429, what the limit that was met allows.", 50.into()),
        "X-RateLimit-Remaining": limit("integer", "Requests that are left now.", 49.into()),
        "X-RateLimit-Reset": limit("integer", "Epoch seconds at which the oldest request leaves the window.", 1_767_225_660.into()),
        "RateLimit": limit("string", "The state, after draft-ietf-httpapi-ratelimit-headers-10.", "\"default\";r=49;t=60".into()),
        REPLAYED: limit("string", "`true`: this was answered before to a request with the same key, and nothing was done now.", "true".into()),
        "RateLimit-Policy": limit("string", "The policy, after the same draft.", "\"default\";q=50;w=60".into()),
    })
}

fn json_answer(description: &str, schema: &str, example: Value) -> Value {
    json!({
        "description": description,
        "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}, "example": example}},
    })
}

fn json_body(schema: &str, example: Value) -> Value {
    body_within(MAX_BODY_BYTES, schema, example)
}

fn body_within(limit: usize, schema: &str, example: Value) -> Value {
    json!({
        "required": true, "description": format!("At most {limit} bytes."),
        "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}, "example": example}},
    })
}

/// A body that may be left out.
fn optional_body(schema: &str, example: Value) -> Value {
    let mut body = json_body(schema, example);
    body["required"] = false.into();
    body
}

/// What no tool can look into.
fn bytes_answer(description: &str, kind: &str) -> Value {
    let disposition = json!({
        "description": "To be saved, under this name.", "required": true, "schema": {"type": "string"},
        "example": "attachment; filename=\"report.pdf\"",
    });
    json!({"description": description, "headers": {"Content-Disposition": disposition}, "content": {kind: {"schema": {}}}})
}

/// Where something is that is too long for an answer.
fn link_answer() -> Value {
    let location = json!({
        "description": "A link to the object store, of five minutes; whoever has it can use it.", "required": true,
        "schema": {"type": "string", "format": "uri"}, "example": "https://mail-bucket.s3.eu-central-1.amazonaws.com/…",
    });
    json!({"description": "It is too long for an answer.", "headers": {"Location": location}})
}

/// With links, so that tools know what can be done with a new account.
fn created() -> Value {
    let mut answer = json_answer("The account, as stored.", "Account", example_account());
    refer_to(&mut answer, &["Location"]);
    for operation in
        ["getAccount", "updateAccount", "testAccount", "requestSync", "getSync", "listFolders", "deleteAccount"]
    {
        answer["links"][operation] = json!({"operationId": operation, "parameters": {"id": "$response.body#/id"}});
    }
    answer
}

fn created_draft() -> Value {
    let mut answer = json_answer("The draft, as stored.", "Draft", example_draft());
    refer_to(&mut answer, &["Location"]);
    for operation in ["getDraft", "updateDraft", "deleteDraft"] {
        answer["links"][operation] = json!({"operationId": operation, "parameters": {"id": "$response.body#/id"}});
    }
    answer
}

/// What every refusal has, and the state beside it.
fn not_ready() -> Value {
    let mut example = readiness("unavailable", "unavailable");
    example["error"] = UNAVAILABLE.into();
    example["message"] = health_ready::NOT_READY.into();
    example["requestId"] = REQUEST_ID.into();
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Error"}, {"$ref": "#/components/schemas/Readiness"}]});
    json!({
        "description": "PostgreSQL does not answer, or its schema is outdated.",
        "content": {"application/json": {"schema": schema, "example": example}},
    })
}

fn readiness(status: &str, postgresql: &str) -> Value {
    json!({
        "status": status, "service": "email_service", "version": VERSION,
        "dependencies": {"postgresql": postgresql, "redis": "healthy", "queues": "healthy", "objects": "healthy"},
    })
}

fn example_account() -> Value {
    json!({
        "id": ID, "tenantId": "11111111-1111-4111-8111-111111111111", "userId": "22222222-2222-4222-8222-222222222222",
        "accountName": "Work", "emailAddress": "jane@example.com", "protocol": "imap", "hostname": "imap.example.com",
        "port": 993, "encryption": "tls", "username": "jane", "credentialId": "0198c0de-0000-7000-8000-000000000002",
        "isSyncEnabled": true, "syncInterval": 300, "lastSyncAt": null, "isSyncing": false, "isEnabled": true,
        "smtpHostname": "smtp.example.com", "smtpPort": null, "smtpEncryption": null, "smtpUsername": null,
        "authType": "password", "provider": null, "state": "new", "stateChangedAt": 1_767_225_600_000_i64,
        "nextSyncAt": 1_767_225_600_000_i64, "lastError": null,
        "createdAt": 1_767_225_600_000_i64, "updatedAt": 1_767_225_600_000_i64,
    })
}

fn example_sync() -> Value {
    json!({
        "status": "syncing", "state": "connected", "lastError": null, "lastSyncAt": null,
        "nextSyncAt": 1_767_225_600_000_i64,
        "progress": {"foldersDone": 3, "foldersTotal": 10, "messagesDone": 4200, "messagesTotal": 20_000},
    })
}

fn example_folder() -> Value {
    json!({
        "id": FOLDER_ID, "accountId": ID, "parentId": null, "name": "INBOX", "path": "INBOX", "role": "inbox",
        "isSelectable": true, "total": 4200, "unread": 7,
    })
}

fn example_message() -> Value {
    json!({
        "id": MESSAGE_ID, "accountId": ID, "folderId": FOLDER_ID,
        "threadId": "0198c0de-0000-7000-8000-000000000005", "messageId": "20260101000000.7@example.com",
        "inReplyTo": null, "subject": "Lunch?", "from": [{"name": "Joe", "address": "joe@example.com"}],
        "to": [{"name": null, "address": "jane@example.com"}], "cc": [], "bcc": [], "replyTo": [],
        "sentAt": 1_767_225_599_000_i64, "receivedAt": 1_767_225_600_000_i64, "size": 5120, "isRead": false,
        "isFlagged": false, "isAnswered": false, "isDraft": false, "hasAttachments": false,
        "preview": "At one, at the usual place?",
    })
}

fn example_opened() -> Value {
    let mut message = example_message();
    message["text"] = "At one, at the usual place?".into();
    message["html"] = "<p>At one, at the usual place?</p>".into();
    message["hasRemoteContent"] = false.into();
    message["isTruncated"] = false.into();
    message["attachments"] = json!([{
        "id": "2", "filename": "map.png", "contentType": "image/png", "size": 20480, "contentId": null, "isInline": false,
    }]);
    message
}

fn example_new_outgoing() -> Value {
    json!({
        "accountId": ID, "to": [{"name": "Joe", "address": "joe@example.com"}], "subject": "Lunch?",
        "text": "At one, at the usual place?",
    })
}

fn example_outgoing(status: Status) -> Value {
    let is_sent = status == Status::Sent;
    let response = is_sent.then_some("250 2.0.0 OK");
    json!({
        "id": ID, "accountId": ID, "messageId": format!("{ID}@example.com"),
        "from": {"name": "Work", "address": "jane@example.com"}, "to": [{"name": "Joe", "address": "joe@example.com"}],
        "cc": [], "bcc": [], "replyTo": [], "subject": "Lunch?", "text": "At one, at the usual place?", "html": null,
        "attachments": [], "replyToId": null, "forwardOfId": null, "sendAt": null, "status": status,
        "attempts": i32::from(is_sent),
        "nextAttemptAt": (status == Status::Queued).then_some(1_767_225_600_000_i64), "response": response,
        "recipients": [{
            "address": "joe@example.com", "status": if is_sent { "accepted" } else { "pending" }, "response": response,
        }],
        "sentAt": is_sent.then_some(1_767_225_601_000_i64), "createdAt": 1_767_225_600_000_i64,
    })
}

fn put_into_outbox() -> Value {
    let mut answer = json_answer("The entry.", "Outgoing", example_outgoing(Status::Queued));
    refer_to(&mut answer, &["Location"]);
    for operation in ["getOutgoing", "cancelOutgoing", "retryOutgoing"] {
        answer["links"][operation] = json!({"operationId": operation, "parameters": {"id": "$response.body#/id"}});
    }
    answer
}

fn example_outbox_cursor() -> OutboxCursor {
    OutboxCursor {
        created_at: 1_767_225_600_000,
        id: OutgoingId(Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0001)),
    }
}

fn example_cursor() -> Cursor {
    Cursor { received_at: 1_767_225_600_000, id: MessageId(Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0004)) }
}

fn example_place() -> ChangeCursor {
    let scope = Scope { tenant_id: TenantId(Uuid::nil()), user_id: UserId(Uuid::nil()) };
    Place { since: 4711, known: 4711 }.cursor(&scope)
}

fn example_authorization() -> Value {
    json!({
        "authorizationUrl": format!("https://accounts.google.com/o/oauth2/v2/auth?response_type=code&state={STATE}"),
        "state": STATE, "expiresAt": 1_767_226_200_000_i64,
    })
}

/// An account that signs in with its provider.
fn connected() -> Value {
    let mut account = example_account();
    for (field, value) in [
        ("emailAddress", "jane@gmail.com"),
        ("username", "jane@gmail.com"),
        ("hostname", "imap.gmail.com"),
        ("smtpHostname", "smtp.gmail.com"),
        ("authType", "oauth2"),
        ("provider", "google"),
    ] {
        account[field] = value.into();
    }
    account
}

fn no_such_provider() -> Error {
    let rule = "must be google or microsoft";
    Error::Invalid(vec![Fault::new("provider", rule, format!("Provider {rule}"))])
}

fn example_attachment() -> Value {
    json!({
        "uploadId": UPLOAD_ID, "filename": "report.pdf", "contentType": "application/pdf", "contentId": null,
        "isInline": false,
    })
}

fn example_composition() -> Value {
    json!({
        "accountId": ID, "to": [{"name": "Jane Doe", "address": "jane@example.com"}], "cc": [], "bcc": [], "replyTo": [],
        "subject": "The report", "text": "Here it is.", "html": null,
        "attachments": [example_attachment()], "replyToId": null, "forwardOfId": null, "sendAt": null,
    })
}

fn example_change() -> Value {
    let mut change = example_composition();
    change["version"] = 1.into();
    change
}

fn example_draft() -> Value {
    let mut draft = example_change();
    draft["id"] = DRAFT_ID.into();
    draft["createdAt"] = 1_767_225_600_000_i64.into();
    draft["updatedAt"] = 1_767_225_600_000_i64.into();
    draft
}

fn example_upload() -> Value {
    let url = format!("https://mail.s3.eu-central-1.amazonaws.com/uploads/.../{UPLOAD_ID}?X-Amz-Signature=...");
    json!({
        "id": UPLOAD_ID, "url": url, "headers": {"content-type": "application/pdf", "if-none-match": "*"},
        "expiresAt": 1_767_226_500_000_i64,
    })
}

fn example_new_account() -> Value {
    json!({
        "accountName": "Work", "emailAddress": "jane@example.com", "protocol": "imap",
        "hostname": "imap.example.com", "port": 993, "username": "jane",
        "password": "correct horse battery staple", "smtpHostname": "smtp.example.com",
    })
}

fn refused_login() -> Value {
    json!({
        "success": false,
        "incoming": {
            "service": "imap", "success": false, "code": "authentication",
            "message": "Authentication failed.",
        },
        "smtp": {
            "service": "smtp", "success": false, "code": "unreachable",
            "message": mail::Error::new(Code::Unreachable, "").message,
        },
    })
}

/// As the built-in table has it; a test compares the two.
fn example_settings() -> Value {
    let server = |protocol: &str, hostname: &str, port: u16, encryption: &str| {
        json!({
            "protocol": protocol, "hostname": hostname, "port": port, "encryption": encryption,
            "username": "jane@gmail.com",
        })
    };
    json!({
        "emailAddress": "jane@gmail.com",
        "incoming": [server("imap", "imap.gmail.com", 993, "tls"), server("pop3", "pop.gmail.com", 995, "tls")],
        "smtp": [server("smtp", "smtp.gmail.com", 465, "tls"), server("smtp", "smtp.gmail.com", 587, "starttls")],
        "oauth2": "google",
        "appPassword": {"required": true, "url": "https://myaccount.google.com/apppasswords"},
        "source": "table",
        "evidence": [
            "table: gmail.com is Gmail and Google Workspace \
             (https://developers.google.com/workspace/gmail/imap/imap-smtp)",
        ],
    })
}

/// The schemas of all wire types and of what they are made of.
fn schemas() -> Result<Value> {
    fn add<T: PartialSchema + ToSchema>(all: &mut Vec<(String, RefOr<Schema>)>) {
        all.push((T::name().into_owned(), T::schema()));
        T::schemas(all);
    }
    let mut all = Vec::new();
    add::<Account>(&mut all);
    add::<NewAccount>(&mut all);
    add::<AccountChange>(&mut all);
    add::<list_accounts::Output>(&mut all);
    add::<delete_account::Output>(&mut all);
    add::<mailbox::Outcome>(&mut all);
    add::<find_settings::Output>(&mut all);
    add::<start_sign_in::Input>(&mut all);
    add::<start_sign_in::Output>(&mut all);
    add::<finish_sign_in::Input>(&mut all);
    add::<State>(&mut all);
    add::<request_sync::Output>(&mut all);
    add::<Synchronisation>(&mut all);
    add::<cancel_sync::Output>(&mut all);
    add::<list_folders::Output>(&mut all);
    add::<list_messages::Output>(&mut all);
    add::<Draft>(&mut all);
    add::<Composition>(&mut all);
    add::<list_drafts::Output>(&mut all);
    add::<delete_draft::Output>(&mut all);
    add::<NewUpload>(&mut all);
    add::<PutLink>(&mut all);
    add::<copy_attachments::Input>(&mut all);
    add::<copy_attachments::Output>(&mut all);
    add::<MessageChange>(&mut all);
    add::<batch_messages::Input>(&mut all);
    add::<batch_messages::Output>(&mut all);
    add::<get_message::Output>(&mut all);
    add::<list_changes::Output>(&mut all);
    add::<Outgoing>(&mut all);
    add::<list_outbox::Output>(&mut all);
    add::<health::Output>(&mut all);
    add::<health_ready::Output>(&mut all);
    add::<Envelope>(&mut all);
    let mut schemas = Map::new();
    for (name, schema) in all {
        schemas.insert(name, serde_json::to_value(schema)?);
    }
    let new = schemas.get_mut("NewAccount").context("no NewAccount")?;
    new["properties"]["isSyncEnabled"]["default"] = true.into();
    // What is sent may leave out what an answer always has.
    let mut draft = schemas.get("Composition").context("no Composition")?.clone();
    draft.as_object_mut().context("no object")?.remove("required");
    draft["description"] = "What is to be kept.".into();
    schemas.insert("NewDraft".into(), draft);
    let version = json!({"type": "integer", "format": "int32", "minimum": 1, "description": Version::RULE});
    let change = json!({
        "description": "What a draft is to have from now on.",
        "allOf": [
            {"$ref": "#/components/schemas/NewDraft"},
            {"type": "object", "required": ["version"], "properties": {"version": version}},
        ],
    });
    schemas.insert("DraftChange".into(), change);
    // All but the sender may be left out, or be null.
    let mut outgoing = schemas.get("Composition").context("no Composition")?.clone();
    outgoing["required"] = json!(["accountId"]);
    outgoing["description"] = "A message to be sent. One of to, cc and bcc names a recipient.".into();
    for (name, property) in outgoing["properties"].as_object_mut().context("no properties")? {
        let is_list = property["type"] == "array";
        if name == "accountId" {
            *property = json!({"type": "string", "format": "uuid"});
        } else if is_list {
            property["type"] = json!(["array", "null"]);
        }
    }
    outgoing["properties"]["draftId"] = json!({
        "type": ["string", "null"], "format": "uuid", "description": "The draft that it was, which is gone then.",
    });
    schemas.insert("NewOutgoing".into(), outgoing);
    // Texts in the types, since the database keeps them as such.
    let codes = Code::ALL.map(Code::as_str).map(Value::from);
    let sources =
        ["table", "autoconfig", "wellKnown", "srv", "ispDatabase", "mxTable", "mxIspDatabase"].map(Value::from);
    let services = ["imap", "pop3", "smtp"].map(Value::from);
    for (schema, property, values) in [
        ("LastError", "code", codes.to_vec()),
        ("LastError", "service", [&services[..], &["oauth2".into()]].concat()),
        ("TestedServer", "code", [&codes[..], &[Value::Null]].concat()),
        ("TestedServer", "service", [&services[..], &["oauth2".into()]].concat()),
        ("Error", "code", codes.to_vec()),
        ("FoundServer", "protocol", services.to_vec()),
        ("FoundSettings", "source", sources.to_vec()),
    ] {
        let schema = schemas.get_mut(schema).with_context(|| format!("no {schema}"))?;
        schema["properties"][property]["enum"] = values.into();
    }
    // Mail is never read over SMTP, so a server that was found may be tried as it is.
    let found = schemas.get_mut("FoundSettings").context("no FoundSettings")?;
    found["properties"]["incoming"]["items"] = json!({"allOf": [
        {"$ref": "#/components/schemas/FoundServer"},
        {"type": "object", "properties": {"protocol": {"$ref": "#/components/schemas/Protocol"}}, "required": ["protocol"]},
    ]});
    let error = schemas.get_mut("Error").context("no Error")?;
    let mut kinds: Vec<&str> = operations()
        .iter()
        .flat_map(|o| o.refusals.iter().map(|(_, error)| error.status().1).collect::<Vec<_>>())
        .collect();
    kinds.extend([Error::MethodNotAllowed { allow: String::new() }.status().1, UNAVAILABLE]);
    kinds.sort_unstable();
    kinds.dedup();
    error["properties"]["error"]["enum"] = json!(kinds);
    Ok(schemas.into())
}
