//! The body of a create and of an update, of an account, a draft and an upload, of a message, of many and of one to be sent: it is refused with a
//! 4xx, or every field keeps its rule.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use shared::account::{AccountChange, EmailAddress, Hostname, NewAccount};
use shared::composition::Composition;
use shared::draft::DraftChange;
use shared::message::{BatchIds, MessageChange};
use shared::outbox::{MAX_MESSAGE_BYTES, NewOutgoing};
use shared::upload::NewUpload;
use shared::validation::Fields;
use shared::{Error, Request, call};

fuzz_target!(|data: &[u8]| {
    let request = Request { body: data.to_vec().into(), ..Request::default() };
    if let Some(new) = accepted(&request, NewAccount::read) {
        check_text(&new.account_name.0, &new.email_address, &new.hostname, &new.username.0);
        assert!((1..=65535).contains(&new.port.0) && (60..=3600).contains(&new.sync_interval.0));
        assert!(["imap", "pop3"].contains(&new.protocol.0));
        assert!(["tls", "starttls", "none"].contains(&new.encryption.0));
    }
    if let Some(change) = accepted(&request, AccountChange::read) {
        // A value that keeps all four rules stands for what is not named.
        let other = || "a@b.c".to_owned();
        check_text(
            &change.account_name.map_or_else(other, |name| name.0),
            &change.email_address.unwrap_or_else(|| EmailAddress(other())),
            &change.hostname.unwrap_or_else(|| Hostname("a.b.c".to_owned())),
            &change.username.map_or_else(other, |name| name.0),
        );
        assert!(change.port.is_none_or(|port| (1..=65535).contains(&port.0)));
        assert!(change.sync_interval.is_none_or(|interval| (60..=3600).contains(&interval.0)));
    }
    let written = |mut fields: Fields| {
        let composition = Composition::take(&mut fields, 0);
        fields.finish().map(|()| composition)
    };
    if let Some(composition) = accepted(&request, written) {
        check_composition(&composition);
    }
    if let Some(change) = accepted(&request, |fields| DraftChange::read(fields, 0)) {
        assert!(change.version.0 > 0);
        check_composition(&change.composition);
    }
    if let Some(new) = accepted(&request, |fields| NewOutgoing::read(fields, 0)) {
        check_outgoing(&new);
    }
    if let Some(upload) = accepted(&request, NewUpload::read) {
        check_line(&upload.filename.0, 255);
        check_line(&upload.content_type.0, 255);
        assert!((0..=26_214_400).contains(&upload.size.0));
    }
    let batch = |mut fields: Fields| {
        let ids = fields.required::<BatchIds>("ids");
        let set = fields.optional::<MessageChange>("set");
        fields.finish().map(|()| (ids, set))
    };
    if let Some((ids, set)) = accepted(&request, batch) {
        let mut ids = ids.expect("it was accepted").0;
        assert!((1..=200).contains(&ids.len()));
        ids.sort_by_key(|id| id.0);
        assert!(ids.windows(2).all(|two| two[0] != two[1]));
        check_change(set.unwrap_or_default());
    }
    if let Some(change) = accepted(&request, MessageChange::read) {
        check_change(change);
    }
});

/// The same again, from what it says of itself.
fn check_change(change: MessageChange) {
    let named = [("isRead", change.is_read), ("isFlagged", change.is_flagged), ("isAnswered", change.is_answered)];
    let flags = named.into_iter().filter_map(|(name, flag)| Some((name.to_owned(), flag?.into())));
    let folder = change.folder_id.map(|folder| ("folderId".to_owned(), folder.to_string().into()));
    let again = MessageChange::read(Fields::new(flags.chain(folder).collect()));
    assert_eq!(again.expect("it was accepted"), change);
}

/// What becomes a message's header has one line, and all is stored as it was read.
fn check_composition(composition: &Composition) {
    assert!(composition.recipients().count() <= 100 && composition.reply_to.len() <= 100);
    for person in composition.recipients().chain(&composition.reply_to) {
        check_line(&person.address.0, 254);
        check_line(person.name.as_ref().map_or("x", |name| &name.0), 255);
    }
    check_line(composition.subject.as_ref().map_or("x", |subject| &subject.0), 998);
    assert!(composition.attachments.len() <= 100);
    for attachment in &composition.attachments {
        check_line(attachment.filename.as_ref().map_or("x", |name| &name.0), 255);
        check_line(attachment.content_type.as_ref().map_or("x", |kind| &kind.0), 255);
        check_line(attachment.content_id.as_ref().map_or("x", |id| &id.0), 255);
    }
    for body in [&composition.text, &composition.html].into_iter().flatten() {
        assert!(!body.0.contains('\0'));
    }
    let stored = serde_json::to_string(composition).expect("it has a JSON form");
    assert_eq!(serde_json::from_str::<Composition>(&stored).expect("what was written can be read"), *composition);
}

/// Somebody gets it, each address once, and its JSON alone is never too much.
fn check_outgoing(new: &NewOutgoing) {
    check_composition(&new.composition);
    assert_eq!(new.composition.account_id, Some(new.account_id));
    let recipients = new.recipients();
    let keys: HashSet<_> = recipients.iter().map(|to| EmailAddress(to.address.clone()).key()).collect();
    assert!((1..=100).contains(&recipients.len()) && keys.len() == recipients.len(), "{recipients:?}");
    let bytes = serde_json::to_string(&new.composition).expect("it has a JSON form").len();
    let most = new.most_bytes(bytes);
    assert!((bytes as u64..=MAX_MESSAGE_BYTES).contains(&most), "{most}");
}

fn check_line(text: &str, max: usize) {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(text.chars().count() <= max && !text.contains(breaks), "{text:?}");
}

fn accepted<T>(request: &Request, read: impl Fn(Fields) -> Result<T, Error>) -> Option<T> {
    match call::body(request).and_then(read) {
        Ok(value) => Some(value),
        Err(refusal) => {
            assert!(refusal.status().0.is_client_error(), "{refusal:?}");
            assert!(serde_json::to_string(&refusal.envelope("request")).is_ok());
            None
        }
    }
}

/// What the columns hold and the log may show.
fn check_text(name: &str, address: &EmailAddress, host: &Hostname, username: &str) {
    for (text, max) in [(name, 255), (&address.0, 254), (&host.0, 253), (username, 255)] {
        assert!((1..=max).contains(&text.chars().count()), "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    assert_eq!(name, name.trim());
    let key = address.key();
    assert!(key.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && domain.is_ascii()), "{key:?}");
    assert_eq!(EmailAddress(key.clone()).key(), key);
    assert!(host.ascii().is_ascii(), "{host:?}");
}
