//! What a message is, as a list shows it, and which messages a list is of.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::account::AccountId;
use crate::error::Error;
use crate::folder::{FolderId, Role};
use crate::identity::id;
use crate::search::SearchText;
use crate::validation::{Field, Fields};

id!(
    /// A message. Not the Message-ID of its header, which several messages may have.
    MessageId
);
id!(
    /// A conversation.
    ThreadId
);

/// A message without its bodies.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The message's id.
    pub id: MessageId,
    /// The account whose mailbox it is in.
    pub account_id: AccountId,
    /// The folder that it is in.
    pub folder_id: FolderId,
    /// The conversation that it is part of.
    pub thread_id: ThreadId,
    /// The header's Message-ID, without angle brackets.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub message_id: Option<String>,
    /// The Message-ID of what it answers, without angle brackets.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub in_reply_to: Option<String>,
    /// Decoded; empty where there is none.
    pub subject: String,
    /// Who wrote it.
    pub from: Vec<Correspondent>,
    /// To whom.
    pub to: Vec<Correspondent>,
    /// To whom as well.
    pub cc: Vec<Correspondent>,
    /// To whom in secret: of messages of one's own.
    pub bcc: Vec<Correspondent>,
    /// Who wants the answers.
    pub reply_to: Vec<Correspondent>,
    /// The header's date, in milliseconds since the Unix epoch; none where it is of no use.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub sent_at: Option<i64>,
    /// When the server got it, in milliseconds since the Unix epoch.
    pub received_at: i64,
    /// Bytes, as the server counts them.
    pub size: i64,
    /// Whether it was read.
    pub is_read: bool,
    /// Whether it is marked.
    pub is_flagged: bool,
    /// Whether it was answered.
    pub is_answered: bool,
    /// Whether it is a draft.
    pub is_draft: bool,
    /// Whether files are attached.
    pub has_attachments: bool,
    /// How its text begins; none while nobody has looked.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub preview: Option<String>,
}

/// Who writes or is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Correspondent {
    /// The name beside the address, where there is one.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub name: Option<String>,
    /// The address, as the message has it.
    pub address: String,
}

impl Correspondent {
    /// Reads a list as it is stored: JSON, `[[name or null, address], …]`.
    ///
    /// # Errors
    /// It is something else.
    pub fn read_list(stored: Option<&str>) -> Result<Vec<Self>, serde_json::Error> {
        let Some(stored) = stored else { return Ok(Vec::new()) };
        let pairs: Vec<(Option<String>, String)> = serde_json::from_str(stored)?;
        Ok(pairs.into_iter().map(|(name, address)| Self { name, address }).collect())
    }
}

/// What is to become of messages; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(rename_all = "camelCase"))]
pub struct MessageChange {
    /// Read, or unread.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub is_read: Option<bool>,
    /// Marked, or not.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub is_flagged: Option<bool>,
    /// Answered, or not.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub is_answered: Option<bool>,
    /// The folder that it is to be in, of its own account.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub folder_id: Option<FolderId>,
}

impl MessageChange {
    /// Reads the body of an update.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields) -> Result<Self, Error> {
        let change = Self {
            is_read: fields.optional("isRead"),
            is_flagged: fields.optional("isFlagged"),
            is_answered: fields.optional("isAnswered"),
            folder_id: fields.optional("folderId"),
        };
        fields.finish()?;
        Ok(change)
    }
}

impl Field for MessageChange {
    const RULE: &'static str = "must be an object with isRead, isFlagged, isAnswered or folderId, as of one message";

    fn read(value: Value) -> Option<Self> {
        let Value::Object(object) = value else { return None };
        Self::read(Fields::new(object)).ok()
    }
}

/// The messages of a batch: different ones, and not more than its answer can tell of in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchIds(pub Vec<MessageId>);

/// The most messages of a batch.
pub const MAX_BATCH: usize = 200;

impl Field for BatchIds {
    const RULE: &'static str = "must be a list of 1 to 200 different ids of messages";

    fn read(value: Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        if !(1..=MAX_BATCH).contains(&values.len()) {
            return None;
        }
        let ids: Vec<MessageId> = values.iter().map(|id| MessageId::parse(id.as_str()?)).collect::<Option<_>>()?;
        let different: HashSet<_> = ids.iter().map(|id| id.0).collect();
        (different.len() == ids.len()).then_some(Self(ids))
    }
}

/// Which messages a list is of; what is `None` is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this account.
    pub account_id: Option<AccountId>,
    /// In this folder.
    pub folder_id: Option<FolderId>,
    /// In folders with this role.
    pub role: Option<Role>,
    /// Read, or unread.
    pub is_read: Option<bool>,
    /// Marked, or not.
    pub is_flagged: Option<bool>,
    /// Received then or later.
    pub after: Option<Milliseconds>,
    /// Received earlier.
    pub before: Option<Milliseconds>,
    /// Of this conversation.
    pub thread_id: Option<ThreadId>,
    /// With files attached, or without.
    pub has_attachments: Option<bool>,
    /// With this in the sender's name or address.
    pub from: Option<SearchText>,
    /// With this in a recipient's, open or in secret.
    pub to: Option<SearchText>,
    /// With this in the subject.
    pub subject: Option<SearchText>,
    /// With this in any of these, or in the preview.
    pub text: Option<SearchText>,
}

impl Field for ThreadId {
    const RULE: &'static str = AccountId::RULE;

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

/// A moment, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub i64);

impl Field for Milliseconds {
    const RULE: &'static str = "must be a whole number of milliseconds since the Unix epoch";

    fn read(value: Value) -> Option<Self> {
        let text = value.as_str()?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Self)).flatten()
    }
}

/// A place in a list of messages: right behind this one. Clients get it as a text that means nothing to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// When the message was received.
    pub received_at: i64,
    /// Of two that were received at once, which it is.
    pub id: MessageId,
}

/// What a cursor's bytes begin with, so that those of another kind or time are told apart.
const CURSOR_KIND: u8 = 1;

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_cursor(CURSOR_KIND, self.received_at, self.id.0))
    }
}

impl Field for Cursor {
    const RULE: &'static str = "must be the nextCursor of an answer";

    fn read(value: Value) -> Option<Self> {
        let (received_at, id) = read_cursor(CURSOR_KIND, value.as_str()?)?;
        Some(Self { received_at, id: MessageId(id) })
    }
}

/// A place in a list that is in the order of a time and an id. Each list has a `kind` of its own.
pub(crate) fn write_cursor(kind: u8, at: i64, id: Uuid) -> String {
    let mut bytes = [kind; 25];
    bytes[1..9].copy_from_slice(&at.to_be_bytes());
    bytes[9..].copy_from_slice(id.as_bytes());
    BASE64.encode(bytes)
}

/// What [`write_cursor`] has written; `None` for what it has not.
pub(crate) fn read_cursor(kind: u8, text: &str) -> Option<(i64, Uuid)> {
    let bytes: [u8; 25] = BASE64.decode(text).ok()?.try_into().ok()?;
    let (own, place) = bytes.split_first()?;
    let (at, id) = place.split_first_chunk()?;
    (*own == kind).then_some((i64::from_be_bytes(*at), Uuid::from_slice(id).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_addresses_are_read_as_they_are_stored() {
        let read = |stored| Correspondent::read_list(stored).ok();
        let one = |name: Option<&str>, address: &str| Correspondent {
            name: name.map(str::to_owned),
            address: address.to_owned(),
        };
        assert_eq!(read(None), Some(vec![]));
        assert_eq!(
            read(Some(r#"[["Jäne \"J\"","jane@example.com"],[null,"joe@example.com"]]"#)),
            Some(vec![one(Some("Jäne \"J\""), "jane@example.com"), one(None, "joe@example.com")])
        );
        for bad in ["", "{}", "[[1,2]]", r#"["jane@example.com"]"#] {
            assert_eq!(read(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn times_are_plain_numbers() {
        let read = |text: &str| Milliseconds::read(text.into()).map(|time| time.0);
        assert_eq!((read("0"), read("1767225600000")), (Some(0), Some(1_767_225_600_000)));
        for bad in ["", "-1", "+1", "1.0", "now", " 1", "99999999999999999999"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(received_at: i64, id: u128) {
            let cursor = Cursor { received_at, id: MessageId(Uuid::from_u128(id)) };
            let text = serde_json::to_value(cursor).unwrap();
            let letters: Vec<_> = text.as_str().unwrap().bytes().collect();
            // As openapi.json promises.
            prop_assert!(letters.len() == 34 && letters[0] == b'A' && matches!(letters[1], b'Q'..=b'Z' | b'a'..=b'f'));
            prop_assert!(letters.iter().all(|letter| letter.is_ascii_alphanumeric() || b"-_".contains(letter)));
            prop_assert_eq!(Cursor::read(text), Some(cursor));
        }

        #[test]
        fn what_was_never_a_cursor_is_none(text in ".*") {
            if let Some(cursor) = Cursor::read(text.as_str().into()) {
                prop_assert_eq!(serde_json::to_value(cursor).unwrap(), text);
            }
        }
    }
}
