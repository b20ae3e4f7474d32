//! What came of a message, as it is stored.

use std::borrow::Cow;

use mail::imap::{Fetched, Flags};
use mail::message::{Address, Summary};
use mail::pop3::Begin;
use serde::Serializer;
use sha2::{Digest, Sha256};
use shared::account::AccountId;
use shared::db::mailboxes::{Bits, NewMessage};
use shared::search::composed;
use uuid::Uuid;

/// A message that was fetched; `now` stands in for what the server does not say.
pub(super) fn read(account: AccountId, fetched: &Fetched, now: i64) -> NewMessage {
    let summary = Summary::read(fetched.header.as_deref().unwrap_or_default(), fetched.text.as_deref());
    let size = fetched.size.unwrap_or_default();
    let identity = match (&fetched.gmail, &fetched.email_id) {
        (Some(gmail), _) => hash(&[b"gmail", &gmail.msgid.to_be_bytes()]),
        (None, Some(id)) => hash(&[b"objectid", id.as_bytes()]),
        (None, None) => identity(&summary, size),
    };
    let thread = match (&fetched.gmail, &fetched.thread_id) {
        (Some(gmail), _) => hash(&[b"gmail", account.0.as_bytes(), &gmail.thread.to_be_bytes()]),
        (None, Some(id)) => hash(&[b"objectid", account.0.as_bytes(), id.as_bytes()]),
        (None, None) => thread(account, &summary, identity),
    };
    let received_at = fetched.internal_date.or(summary.sent_at).unwrap_or(now);
    let flags = bits(fetched.flags.unwrap_or_default());
    let message = of_summary(summary);
    NewMessage {
        uid: fetched.uid,
        identity,
        thread_id: thread,
        received_at,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        bits: Bits(message.bits.0 | flags.0),
        ..message
    }
}

/// What the header tells; the rest is to be filled in.
fn of_summary(summary: Summary) -> NewMessage {
    let mut bits = Bits::default();
    for (is_set, bit) in [(summary.has_attachments, Bits::ATTACHMENTS), (!summary.is_readable, Bits::UNREADABLE)] {
        if is_set {
            bits.0 |= bit;
        }
    }
    NewMessage {
        id: Uuid::now_v7(),
        uid: 0,
        identity: Uuid::nil(),
        thread_id: Uuid::nil(),
        received_at: 0,
        sent_at: summary.sent_at,
        size: 0,
        bits,
        from: list(&summary.from),
        to: list(&summary.to),
        cc: list(&summary.cc),
        bcc: list(&summary.bcc),
        reply_to: list(&summary.reply_to),
        subject: in_one(summary.subject),
        message_id: summary.message_id,
        in_reply_to: summary.in_reply_to,
        preview: summary.preview.map(in_one),
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
    let summary = begin.map(|begin| Summary::read(&begin.header, Some(&begin.text))).unwrap_or_default();
    let is_readable = summary.is_readable;
    let received_at = summary.received_at;
    let message = NewMessage {
        id: Uuid::now_v7(),
        uid,
        identity,
        thread_id: thread(account, &summary, identity),
        received_at: received_at.unwrap_or(now),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..of_summary(summary)
    };
    if is_readable { message } else { NewMessage { bits: Bits(Bits::UNREADABLE), ..message } }
}

/// A message that is there, and of which nothing more can be read.
pub(super) fn unreadable(folder: Uuid, validity: u32, uid: u32, flags: Bits, now: i64) -> NewMessage {
    let identity = hash(&[b"uid", folder.as_bytes(), &validity.to_be_bytes(), &uid.to_be_bytes()]);
    NewMessage {
        uid,
        identity,
        thread_id: identity,
        received_at: now,
        bits: Bits(flags.0 | Bits::UNREADABLE),
        ..of_summary(Summary::default())
    }
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

/// What a message is known by at a server without ids of its own: never its Message-ID alone, which any sender chooses.
fn identity(summary: &Summary, size: u64) -> Uuid {
    let sender = summary.from.first().map(|from| from.address.as_str()).unwrap_or_default();
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
fn thread(account: AccountId, summary: &Summary, identity: Uuid) -> Uuid {
    let root = summary.references.first().or(summary.in_reply_to.as_ref()).or(summary.message_id.as_ref());
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
fn list(addresses: &[Address]) -> Option<String> {
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
fn in_one(text: String) -> String {
    let Cow::Owned(text) = composed(&text) else { return text };
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
        let message = of_summary(summary);
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
