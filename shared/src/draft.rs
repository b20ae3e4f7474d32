//! What a user writes and has not sent. Drafts are ours alone: no folder of a mail server has them.

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::composition::Composition;
use crate::error::Error;
use crate::identity::id;
use crate::validation::{Field, Fields, whole};

id!(
    /// A draft. Version 7: they grow with time, which is the order of a list.
    DraftId
);

/// The most drafts that a user can have.
pub const MAX_DRAFTS: i64 = 1000;

/// What a client learns of a draft that is unknown, deleted, sent, somebody else's, or none at all.
pub const NO_SUCH_DRAFT: &str = "There is no draft with this id. List your drafts to see which there are.";

/// What a client learns who has as many drafts as a user can have.
pub const TOO_MANY_DRAFTS: &str =
    "You have 1000 drafts, and a user can have no more. Send or delete one that you do not need.";

/// What a client learns whose draft has another version by now.
pub const STALE: &str = "This draft was changed meanwhile. Get it again, and put your change into what it is now.";

/// A draft.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// The draft's id.
    pub id: DraftId,
    /// What is written. What it named and is gone, an account or a message, is null.
    #[serde(flatten)]
    pub composition: Composition,
    /// Grows with each change. Whoever changes the draft names the one that he has seen.
    pub version: i32,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Milliseconds since the Unix epoch; grows with each change.
    pub updated_at: i64,
}

/// What an update puts in the place of a draft's content.
#[derive(Debug)]
pub struct DraftChange {
    /// The version that it is a change of.
    pub version: Version,
    /// All that the draft is to have.
    pub composition: Composition,
}

impl DraftChange {
    /// Reads the body of an update; `now` as in [`Composition::take`].
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields, now: i64) -> Result<Self, Error> {
        let version = fields.required("version");
        let composition = Composition::take(&mut fields, now);
        fields.finish()?;
        let version = version.ok_or_else(|| Error::internal(anyhow::anyhow!("no version, and no fault says so")))?;
        Ok(Self { version, composition })
    }
}

/// The version of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(pub i32);

impl Field for Version {
    const RULE: &'static str = "must be the version of the draft that you have seen, a whole number of 1 or more";

    fn read(value: Value) -> Option<Self> {
        whole(&value, 1..=i64::from(i32::MAX)).and_then(|whole| i32::try_from(whole).ok()).map(Self)
    }
}

impl Field for DraftId {
    const RULE: &'static str = "must be an id, a UUID with hyphens";

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

/// A place in the list of drafts: behind this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DraftCursor(pub DraftId);

impl Field for DraftCursor {
    const RULE: &'static str = "must be the nextCursor of an answer";

    fn read(value: Value) -> Option<Self> {
        DraftId::read(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_names_its_version() {
        let read = |body: Value| DraftChange::read(Fields::new(body.as_object().unwrap().clone()), 0);
        assert_eq!(read(json!({"version": 7, "subject": "x"})).unwrap().version, Version(7));
        for bad in [
            json!({}),
            json!({"version": null}),
            json!({"version": "1"}),
            json!({"version": 0}),
            json!({"version": 1.5}),
        ] {
            let Err(Error::Invalid(faults)) = read(bad) else { panic!("accepted") };
            assert_eq!(faults[0].field, "version");
        }
    }

    #[test]
    fn a_draft_is_one_object() {
        let draft = Draft {
            id: DraftId(Uuid::nil()),
            composition: Composition::default(),
            version: 1,
            created_at: 2,
            updated_at: 3,
        };
        let json = serde_json::to_value(draft).unwrap();
        assert_eq!((&json["subject"], &json["to"], &json["version"]), (&Value::Null, &json!([]), &json!(1)));
        assert_eq!(json.as_object().unwrap().len(), 16);
    }
}
