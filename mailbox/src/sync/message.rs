//! What came of a message, as it is stored.

use std::borrow::Cow;

use mail::imap::{Fetched, Flags};
use mail::message::{Address, Summary};
use mail::pop3::Begin;
use serde::Serializer;
use sha2::{Digest, Sha256};
use shared::account::AccountId;
use shared::db::mailboxes::{Bits, Mark, NewMessage};
use shared::search::composed;
use uuid::Uuid;

/// What is stored of a message and is not in its summary.
struct Known {
    uid: u32,
    identity: Uuid,
    thread_id: Uuid,
    received_at: i64,
    size: u64,
    flags: Bits,
}

/// A message that was fetched; `now` stands in for what the server does not say.
pub(super) fn read(account: AccountId, fetched: &Fetched, now: i64) -> NewMessage {
    let summary = Summary::read(fetched.header.as_deref().unwrap_or_default(), fetched.text.as_deref());
    let size = fetched.size.unwrap_or_default();
    let identity = own_id(fetched).unwrap_or_else(|| identity(&summary, size));
    let thread_id = match (&fetched.gmail, &fetched.thread_id) {
        (Some(gmail), _) => hash(&[b"gmail", account.0.as_bytes(), &gmail.thread.to_be_bytes()]),
        (None, Some(id)) => hash(&[b"objectid", account.0.as_bytes(), id.as_bytes()]),
        (None, None) => thread(account, &summary, identity),
    };
    let received_at = fetched.internal_date.or(summary.sent_at).unwrap_or(now);
    let flags = bits(fetched.flags.unwrap_or_default());
    of_summary(summary, Known { uid: fetched.uid, identity, thread_id, received_at, size, flags })
}

fn of_summary(summary: Summary<'_>, known: Known) -> NewMessage {
    let mut bits = known.flags;
    for (is_set, bit) in [(summary.has_attachments, Bits::ATTACHMENTS), (!summary.is_readable, Bits::UNREADABLE)] {
        if is_set {
            bits.0 |= bit;
        }
    }
    NewMessage {
        id: Uuid::now_v7(),
        uid: known.uid,
        identity: known.identity,
        thread_id: known.thread_id,
        received_at: known.received_at,
        sent_at: summary.sent_at,
        size: i64::try_from(known.size).unwrap_or(i64::MAX),
        bits,
        from: list(&summary.from),
        to: list(&summary.to),
        cc: list(&summary.cc),
        bcc: list(&summary.bcc),
        reply_to: list(&summary.reply_to),
        subject: in_one(summary.subject),
        message_id: summary.message_id.map(Cow::into_owned),
        in_reply_to: summary.in_reply_to.map(Cow::into_owned),
        preview: summary.preview.map(|preview| in_one(preview.into())),
    }
}

/// A message of a POP3 mailbox, from the beginning of it; `None` where the server did not give it out.
pub(super) fn of_pop3(
    account: AccountId,
    identity: Uuid,
    uid: u32,
    size: u64,
    begin: Option<Begin>,
    now: i64,
) -> NewMessage {
    let summary = begin.as_ref().map(|begin| Summary::read(&begin.header, Some(&begin.text))).unwrap_or_default();
    let (thread_id, received_at) = (thread(account, &summary, identity), summary.received_at.unwrap_or(now));
    of_summary(summary, Known { uid, identity, thread_id, received_at, size, flags: Bits::default() })
}

/// A message that is there, and of which nothing more can be read.
pub(super) fn unreadable(folder: Uuid, validity: u32, uid: u32, flags: Bits, now: i64) -> NewMessage {
    let identity = hash(&[b"uid", folder.as_bytes(), &validity.to_be_bytes(), &uid.to_be_bytes()]);
    let known = Known { uid, identity, thread_id: identity, received_at: now, size: 0, flags };
    of_summary(Summary::default(), known)
}

/// What it is known by all the same; `None` where the server tells nothing of it.
pub(super) fn mark(fetched: &Fetched) -> Option<Mark> {
    let size = i64::try_from(fetched.size?).unwrap_or(i64::MAX);
    Some(Mark { identity: own_id(fetched), received_at: fetched.internal_date, size })
}

/// The flags that are kept.
pub(super) fn bits(flags: Flags) -> Bits {
    let mut bits = Bits::default();
    for (is_set, bit) in [
        (flags.seen, Bits::READ),
        (flags.flagged, Bits::FLAGGED),
        (flags.answered, Bits::ANSWERED),
        (flags.draft, Bits::DRAFT),
    ] {
        if is_set {
            bits.0 |= bit;
        }
    }
    bits
}

/// What a message is known by at a server with ids of its own.
fn own_id(fetched: &Fetched) -> Option<Uuid> {
    match (&fetched.gmail, &fetched.email_id) {
        (Some(gmail), _) => Some(hash(&[b"gmail", &gmail.msgid.to_be_bytes()])),
        (None, Some(id)) => Some(hash(&[b"objectid", id.as_bytes()])),
        (None, None) => None,
    }
}

/// What a message is known by at a server without ids of its own: never its Message-ID alone, which any sender chooses.
fn identity(summary: &Summary<'_>, size: u64) -> Uuid {
    let sender = summary.from.first().map(|from| &*from.address).unwrap_or_default();
    hash(&[
        b"message",
        summary.message_id.as_deref().unwrap_or_default().as_bytes(),
        &summary.sent_at.unwrap_or_default().to_be_bytes(),
        sender.as_bytes(),
        &size.to_be_bytes(),
        // Two without a Message-ID often have the rest in common.
        summary.subject.as_bytes(),
    ])
}

/// The thread that a message's own headers name: all that answer one message name the same first reference.
fn thread(account: AccountId, summary: &Summary<'_>, identity: Uuid) -> Uuid {
    let root = summary.first_reference.as_ref().or(summary.in_reply_to.as_ref()).or(summary.message_id.as_ref());
    match root {
        Some(root) => hash(&[b"thread", account.0.as_bytes(), root.as_bytes()]),
        None => hash(&[b"alone", account.0.as_bytes(), identity.as_bytes()]),
    }
}

/// The first half of a SHA-256 over the parts, each after its length, so that no two lists of parts are one.
pub(super) fn hash(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(half)
}

/// How much of a message is held until it is stored.
pub(super) fn bytes(message: &NewMessage) -> usize {
    let NewMessage { from, to, cc, bcc, reply_to, message_id, in_reply_to, preview, .. } = message;
    let texts = [from, to, cc, bcc, reply_to, message_id, in_reply_to, preview];
    message.subject.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
}

/// As the database has them: `[[name or null, address], …]`.
fn list(addresses: &[Address<'_>]) -> Option<String> {
    if addresses.is_empty() {
        return None;
    }
    // An address is what somebody else may compare byte by byte.
    let pairs = addresses.iter().map(|Address { name, address }| (name.as_deref().map(composed), address));
    let mut json = Vec::with_capacity(64 * addresses.len());
    serde_json::Serializer::new(&mut json).collect_seq(pairs).ok()?;
    String::from_utf8(json).ok()
}

/// Letters and their marks in one. Most texts are so already.
fn in_one(text: Cow<'_, str>) -> String {
    let Cow::Owned(text) = composed(&text) else { return text.into_owned() };
    text
}

#[cfg(test)]
mod tests {
    use mail::imap::Gmail;

    use super::*;

    const ACCOUNT: AccountId = AccountId(Uuid::from_u128(7));

    #[test]
    fn letters_and_their_marks_are_stored_in_one() {
        let header = "From: Ju\u{308}rgen <juergen@example.com>\r\nSubject: Cafe\u{301}\r\n\r\n";
        let summary = Summary::read(header.as_bytes(), Some("U\u{308}ber uns".as_bytes()));
        let (identity, flags) = (Uuid::nil(), Bits::default());
        let known = Known { uid: 1, identity, thread_id: identity, received_at: 0, size: 0, flags };
        let message = of_summary(summary, known);
        assert_eq!(message.subject, "Caf\u{e9}");
        assert_eq!(message.from.as_deref(), Some("[[\"J\u{fc}rgen\",\"juergen@example.com\"]]"));
        assert_eq!(message.preview.as_deref(), Some("\u{dc}ber uns"));
    }

    fn of(account: AccountId, fields: &str) -> Uuid {
        let header = format!("From: jane@example.com\r\n{fields}\r\n").into_bytes();
        read(account, &Fetched { header: Some(header), ..Fetched::default() }, 0).thread_id
    }

    #[test]
    fn those_that_answer_one_message_are_its_thread_whatever_came_first() {
        let first = of(ACCOUNT, "Message-ID: <1@x>\r\n");
        for answer in [
            "Message-ID: <2@x>\r\nIn-Reply-To: <1@x>\r\n",
            "Message-ID: <3@x>\r\nIn-Reply-To: <2@x>\r\nReferences: <1@x> <2@x>\r\n",
            // The middle was left out, as programs do.
            "Message-ID: <9@x>\r\nIn-Reply-To: <8@x>\r\nReferences: <1@x>\r\n <8@x>\r\n",
            "References: <1@x>\r\n",
        ] {
            assert_eq!(of(ACCOUNT, answer), first, "{answer}");
        }
        assert_ne!(of(ACCOUNT, "Message-ID: <4@x>\r\nSubject: Re: the same\r\n"), first);
        assert_ne!(of(AccountId(Uuid::from_u128(8)), "Message-ID: <1@x>\r\n"), first, "another account");
        // Without anything to be known by, each is a thread of its own.
        assert_ne!(of(ACCOUNT, "Subject: a\r\n"), of(ACCOUNT, "Subject: b\r\n"));
    }

    #[test]
    fn a_server_that_has_threads_knows_best() {
        let header = |id: &str| Some(format!("Message-ID: <{id}@x>\r\n\r\n").into_bytes());
        let thread = |account, fetched: &Fetched| read(account, fetched, 0).thread_id;
        let gmail = |id, msgid, thread| Fetched {
            header: header(id),
            gmail: Some(Gmail { msgid, thread, ..Gmail::default() }),
            ..Fetched::default()
        };
        assert_eq!(thread(ACCOUNT, &gmail("1", 1, 5)), thread(ACCOUNT, &gmail("2", 2, 5)));
        assert_ne!(thread(ACCOUNT, &gmail("1", 1, 5)), thread(ACCOUNT, &gmail("1", 1, 6)));
        let object = |id, thread: Option<&str>| Fetched {
            header: header(id),
            email_id: Some(format!("M{id}")),
            thread_id: thread.map(str::to_owned),
            ..Fetched::default()
        };
        assert_eq!(thread(ACCOUNT, &object("1", Some("T5"))), thread(ACCOUNT, &object("2", Some("T5"))));
        let other = AccountId(Uuid::from_u128(8));
        for fetched in [gmail("1", 1, 5), object("1", Some("T5"))] {
            assert_ne!(thread(ACCOUNT, &fetched), thread(other, &fetched), "another account");
        }
        // One that has none for this message: then its header tells.
        assert_eq!(thread(ACCOUNT, &object("1", None)), of(ACCOUNT, "Message-ID: <1@x>\r\n"));
    }
}
