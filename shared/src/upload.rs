//! Files that go along with what a user writes: announced here, put straight into the object store, and gone after a day
//! unless something uses them.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::composition::{ContentType, Filename, MAX_ATTACHMENTS, UploadId};
use crate::error::Error;
use crate::validation::{Field, Fields, whole};

/// The most bytes of a file.
pub const MAX_SIZE: i64 = 25 * 1024 * 1024;
/// How long a file can be put after it was announced. What is not there by then is to be announced again. The bucket takes
/// no older link, whatever that says.
pub const PUT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The most files that a user may have, in drafts, in messages to be sent and unused.
pub const MAX_UPLOADS: i64 = 1000;
/// The most bytes of all of them together.
pub const MAX_UPLOADED_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// What a client learns who has as many as a user can have.
pub const TOO_MANY_UPLOADS: &str = "You have as many uploads, or bytes in them, as a user can have. Delete drafts with attachments, or wait: what nothing uses is gone after a day.";

/// A file that is to come.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(rename_all = "camelCase"))]
pub struct NewUpload {
    /// Its name, for an attachment that gives it no other.
    pub filename: Filename,
    /// Its type. It is sent as a header with the file.
    pub content_type: ContentType,
    /// Its bytes, no more and no less.
    pub size: Size,
}

impl NewUpload {
    /// Reads the body of a create.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields) -> Result<Self, Error> {
        let (filename, content_type) = (fields.required("filename"), fields.required("contentType"));
        let size = fields.required("size");
        fields.finish()?;
        match (filename, content_type, size) {
            (Some(filename), Some(content_type), Some(size)) => Ok(Self { filename, content_type, size }),
            _ => Err(Error::internal(anyhow::anyhow!("a required field is missing, and no fault says so"))),
        }
    }
}

/// A file's bytes, at most 25 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub i64);

impl Field for Size {
    const RULE: &'static str = "must be a whole number of bytes from 0 to 26214400";

    fn fault(_: &str) -> String {
        "Size must be between 0 and 26214400 bytes".into()
    }

    fn read(value: Value) -> Option<Self> {
        whole(&value, 0..=MAX_SIZE).map(Self)
    }
}

/// Of a message that is there already, which attachments are to go along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentIds(pub Vec<String>);

impl Field for AttachmentIds {
    const RULE: &'static str = "must be a list of at most 100 attachments' ids";

    fn read(value: Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        if values.len() > MAX_ATTACHMENTS {
            return None;
        }
        let mut ids: Vec<String> = Vec::with_capacity(values.len());
        for value in values {
            let Value::String(id) = value else { return None };
            // One that is named twice goes along once.
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Some(Self(ids))
    }
}

/// An upload that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// When it was announced, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// Where and how a file is put.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Upload))]
#[serde(rename_all = "camelCase")]
pub struct PutLink {
    /// What an attachment names it by.
    pub id: UploadId,
    /// Where to send the file, by one `PUT`, without any other header that says who you are.
    pub url: String,
    /// The headers to send with it.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub headers: std::collections::BTreeMap<String, String>,
    /// Until when, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}
