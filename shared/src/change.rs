//! What becomes of a user's things, and where a reader of that stands.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::account::AccountId;
use crate::error::{Error, Fault};
use crate::identity::Scope;
use crate::validation::Field;

/// A kind of things that lists show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ChangedType))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An account. With it goes all that it has, which is not told one by one.
    Account,
    /// A folder.
    Folder,
    /// A message.
    Message,
    /// An entry of the outbox.
    Outbox,
}

impl Kind {
    /// The kind of that name, as the database has it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "account" => Some(Self::Account),
            "folder" => Some(Self::Folder),
            "message" => Some(Self::Message),
            "outbox" => Some(Self::Outbox),
            _ => None,
        }
    }
}

/// What became of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ChangeKind))]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is new since the cursor at which all was told last; perhaps it was changed since.
    Created,
    /// It is another one than it was.
    Updated,
    /// It is no more. Perhaps nobody ever told that it was there.
    Destroyed,
}

impl What {
    /// The change of that name, as the database has it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "created" => Some(Self::Created),
            "updated" => Some(Self::Updated),
            "destroyed" => Some(Self::Destroyed),
            _ => None,
        }
    }
}

/// A change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What kind of thing it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The thing's id.
    pub id: Uuid,
    /// The account that it belongs to; of an account its own id.
    pub account_id: AccountId,
    /// What became of it.
    #[serde(rename = "change")]
    pub what: What,
}

/// A place in the row of a user's changes. Numbers are the database's: `email_change_numbers` in V7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// All changes up to this number were told.
    pub since: i64,
    /// The same when the reader last had everything: while it goes from page to page, what was created meanwhile is still
    /// new to it although its last change has another number.
    pub known: i64,
}

impl Place {
    /// As this user gets it.
    pub fn cursor(self, scope: &Scope) -> Cursor {
        Cursor { place: self, tag: self.tag(scope) }
    }

    /// What a cursor of this user's has beside the numbers. No secret: nobody gains by making one up, for numbers open
    /// nothing. A cursor that was mutilated, or is another user's, is told from one's own by it.
    fn tag(self, scope: &Scope) -> [u8; 8] {
        let mut name = [0; 32];
        name[..16].copy_from_slice(scope.user_id.0.as_bytes());
        name[16..24].copy_from_slice(&self.since.to_be_bytes());
        name[24..].copy_from_slice(&self.known.to_be_bytes());
        let mut tag = [0; 8];
        tag.copy_from_slice(&Uuid::new_v5(&scope.tenant_id.0, &name).as_bytes()[..8]);
        tag
    }
}

/// A [`Place`] as a client has it: a text that means nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    place: Place,
    tag: [u8; 8],
}

/// What a cursor's bytes begin with; those of lists of messages begin with another one.
const CURSOR_KIND: u8 = 2;

impl Cursor {
    /// The place, where it is this user's own.
    pub fn place(&self, scope: &Scope) -> Option<Place> {
        (self.tag == self.place.tag(scope)).then_some(self.place)
    }
}

/// What a client learns of a cursor that it never got.
pub fn bad_cursor() -> Error {
    Error::Invalid(vec![Fault::new("since", Cursor::RULE, Cursor::fault("since"))])
}

/// What a client learns of a cursor that is too old.
pub const TOO_OLD: &str = "This cursor is too old: what was destroyed since is forgotten. Ask without since for a new one, then list all anew.";

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = [CURSOR_KIND; 25];
        bytes[1..9].copy_from_slice(&self.place.since.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.place.known.to_be_bytes());
        bytes[17..].copy_from_slice(&self.tag);
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl Field for Cursor {
    const RULE: &'static str = "must be the cursor of an answer";

    fn read(value: Value) -> Option<Self> {
        let bytes: [u8; 25] = BASE64.decode(value.as_str()?).ok()?.try_into().ok()?;
        let (kind, rest) = bytes.split_first()?;
        let (since, rest) = rest.split_first_chunk()?;
        let (known, tag) = rest.split_first_chunk()?;
        let place = Place { since: i64::from_be_bytes(*since), known: i64::from_be_bytes(*known) };
        let is_possible = *kind == CURSOR_KIND && (0..=place.since).contains(&place.known);
        is_possible.then_some(Self { place, tag: tag.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{TenantId, UserId};

    fn scope(tenant: u128, user: u128) -> Scope {
        Scope { tenant_id: TenantId(Uuid::from_u128(tenant)), user_id: UserId(Uuid::from_u128(user)) }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_to_whom_it_was_given(since in 0..i64::MAX, known in 0..i64::MAX, tenant: u128, user: u128) {
            let place = Place { since: since.max(known), known: since.min(known) };
            let text = serde_json::to_value(place.cursor(&scope(tenant, user))).unwrap();
            let letters: Vec<_> = text.as_str().unwrap().bytes().collect();
            // As openapi.json promises.
            prop_assert!(letters.len() == 34 && letters[0] == b'A' && matches!(letters[1], b'g'..=b'n'));
            prop_assert!(letters.iter().all(|letter| letter.is_ascii_alphanumeric() || b"-_".contains(letter)));
            let cursor = Cursor::read(text).unwrap();
            prop_assert_eq!(cursor.place(&scope(tenant, user)), Some(place));
            for stranger in [scope(tenant, !user), scope(!tenant, user), scope(user, tenant)] {
                prop_assert!(cursor.place(&stranger).is_none() || stranger == scope(tenant, user));
            }
        }

        #[test]
        fn what_was_never_a_cursor_is_none(text in ".*") {
            if let Some(cursor) = Cursor::read(text.as_str().into()) {
                prop_assert_eq!(serde_json::to_value(cursor).unwrap(), text);
            }
        }

        #[test]
        fn a_mutilated_cursor_is_nobodys(bytes: [u8; 25], since in 0..i64::MAX) {
            let text = serde_json::to_value(Place { since, known: since }.cursor(&scope(1, 2))).unwrap();
            let mut given = BASE64.decode(text.as_str().unwrap()).unwrap();
            given.iter_mut().zip(bytes).take(17).for_each(|(given, byte)| *given ^= byte);
            if given != BASE64.decode(text.as_str().unwrap()).unwrap() {
                let cursor = Cursor::read(BASE64.encode(&given).into());
                prop_assert_eq!(cursor.and_then(|cursor| cursor.place(&scope(1, 2))), None);
            }
        }
    }
}
