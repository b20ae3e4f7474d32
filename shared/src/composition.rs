//! What a user writes, to be sent or to be kept as a draft: its fields and their rules.
//!
//! All of it ends in a message, whose header ends with a line break. So none is let in, nor another control character, but
//! in the two bodies.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::account::{AccountId, EmailAddress, MAX_NAME};
use crate::error::Fault;
use crate::identity::id;
use crate::message::MessageId;
use crate::validation::{Field, Fields, whole};

id!(
    /// A file that was announced, and perhaps put, to be attached.
    UploadId
);

/// The most bytes of the JSON of a composition.
pub const MAX_COMPOSITION_BYTES: usize = 1024 * 1024;
/// The most recipients of all kinds: what each mail server must take (RFC 5321, 4.5.3.1.8). Also of addresses to answer to.
pub const MAX_RECIPIENTS: usize = 100;
/// The most attachments; all of them are looked up in one statement.
pub const MAX_ATTACHMENTS: usize = 100;
/// The most characters of a subject: the octets of a line (RFC 5322, 2.1.1).
pub const MAX_SUBJECT: usize = 998;
/// The most characters of a file's name: what common file systems take.
pub const MAX_FILENAME: usize = 255;
/// The most characters of a media type: twice what its halves may have (RFC 6838, 4.2), and the slash.
pub const MAX_CONTENT_TYPE: usize = 255;
/// The most characters of a Content-ID.
pub const MAX_CONTENT_ID: usize = 255;
/// How far ahead something can be sent: a year, in milliseconds.
pub const MAX_AHEAD: i64 = 366 * 24 * 60 * 60 * 1000;
/// The latest moment that can be named at all: the end of the year 9999.
pub const LATEST: i64 = 253_402_300_799_999;

/// What a user writes. Nothing of it is required here: who sends it asks for more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Composition {
    /// The account that it is sent from.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub account_id: Option<AccountId>,
    /// To whom.
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub to: Vec<Recipient>,
    /// To whom as well.
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub cc: Vec<Recipient>,
    /// To whom in secret. With `to` and `cc` at most 100.
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub bcc: Vec<Recipient>,
    /// Who gets the answers, where it is not the sender.
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub reply_to: Vec<Recipient>,
    /// The subject.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub subject: Option<Subject>,
    /// The body as plain text.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub text: Option<Body>,
    /// The body as HTML.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub html: Option<Body>,
    /// The files that go along.
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub attachments: Vec<Attachment>,
    /// The message that it answers.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub reply_to_id: Option<MessageId>,
    /// The message that it forwards.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub forward_of_id: Option<MessageId>,
    /// When it is to be sent; at once where that is past or not said.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub send_at: Option<SendAt>,
}

impl Composition {
    /// Takes its fields, all of which may be missing or `null`. `now` is in milliseconds since the Unix epoch. Faults are
    /// noted: what is returned counts only after [`Fields::finish`].
    pub fn take(fields: &mut Fields, now: i64) -> Self {
        let composition = Self {
            account_id: fields.nullable("accountId").flatten(),
            to: fields.list("to", MAX_RECIPIENTS, Recipient::take),
            cc: fields.list("cc", MAX_RECIPIENTS, Recipient::take),
            bcc: fields.list("bcc", MAX_RECIPIENTS, Recipient::take),
            reply_to: fields.list("replyTo", MAX_RECIPIENTS, Recipient::take),
            subject: fields.nullable("subject").flatten(),
            text: fields.nullable("text").flatten(),
            html: fields.nullable("html").flatten(),
            attachments: fields.list("attachments", MAX_ATTACHMENTS, Attachment::take),
            reply_to_id: fields.nullable("replyToId").flatten(),
            forward_of_id: fields.nullable("forwardOfId").flatten(),
            send_at: fields.nullable("sendAt").flatten(),
        };
        if composition.recipients().count() > MAX_RECIPIENTS {
            let rule = format!("must be at most {MAX_RECIPIENTS} recipients, those of cc and bcc included");
            let sentence = format!("There may be at most {MAX_RECIPIENTS} recipients in all");
            fields.refuse(Fault::new("to", rule, sentence));
        }
        if composition.send_at.is_some_and(|at| at.0 > now.saturating_add(MAX_AHEAD)) {
            let rule = "must be at most a year ahead";
            fields.refuse(Fault::new("sendAt", rule, format!("Send at {rule}")));
        }
        composition
    }

    /// The files that go along, in the order of the attachments.
    pub fn uploads(&self) -> Vec<UploadId> {
        self.attachments.iter().map(|attachment| attachment.upload_id).collect()
    }

    /// All that it is delivered to, in the order of `to`, `cc` and `bcc`. One may be there twice.
    pub fn recipients(&self) -> impl Iterator<Item = &Recipient> {
        self.to.iter().chain(&self.cc).chain(&self.bcc)
    }
}

/// What is wrong with a field that names nothing of the user's.
pub fn unknown(field: String) -> Fault {
    let rule = match field.as_str() {
        "accountId" => "must be the id of one of your accounts",
        "replyToId" | "forwardOfId" => "must be the id of one of your messages",
        "draftId" => "must be the id of one of your drafts",
        _ => "must be the id of one of your uploads: one that nothing uses is gone after a day",
    };
    let sentence = format!("{field} {rule}");
    Fault::new(field, rule, sentence)
}

/// Who is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Recipient {
    /// The name beside the address.
    pub name: Option<PersonName>,
    /// The address.
    pub address: EmailAddress,
}

impl Recipient {
    fn take(fields: &mut Fields) -> Option<Self> {
        let name = fields.nullable::<PersonName>("name").flatten().filter(|name| !name.0.is_empty());
        let address = fields.required("address")?;
        Some(Self { name, address })
    }
}

/// A file that goes along: an upload, and how the message shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = OutgoingAttachment))]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The upload.
    pub upload_id: UploadId,
    /// Its name, where it is not the upload's.
    pub filename: Option<Filename>,
    /// Its type, where it is not the upload's.
    pub content_type: Option<ContentType>,
    /// What `cid:` in the HTML calls it.
    pub content_id: Option<ContentId>,
    /// Whether it is shown within the HTML.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub is_inline: bool,
}

impl Attachment {
    fn take(fields: &mut Fields) -> Option<Self> {
        let upload_id = fields.required("uploadId");
        let filename = fields.nullable("filename").flatten();
        let content_type = fields.nullable("contentType").flatten();
        let content_id = fields.nullable("contentId").flatten();
        let is_inline = fields.nullable("isInline").flatten().unwrap_or_default();
        Some(Self { upload_id: upload_id?, filename, content_type, content_id, is_inline })
    }
}

/// Whether a line would end here, or something unseen begin: the control characters, and Unicode's own two line ends.
fn is_break(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Reads a JSON string of one line, of at most `max` characters.
fn line(value: Value, max: usize) -> Option<String> {
    let Value::String(text) = value else { return None };
    (text.chars().count() <= max && !text.contains(is_break)).then_some(text)
}

impl Field for UploadId {
    const RULE: &'static str = "must be an id, a UUID with hyphens";

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

impl Field for MessageId {
    const RULE: &'static str = "must be an id, a UUID with hyphens";

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

/// A person's name, without white space around. An empty one is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PersonName(pub String);

impl Field for PersonName {
    const RULE: &'static str = "must be a string of at most 255 characters, without line breaks or control characters";

    fn read(value: Value) -> Option<Self> {
        let Value::String(untrimmed) = value else { return None };
        // A break at an end is one as well, although it would be trimmed.
        if untrimmed.contains(is_break) {
            return None;
        }
        line(Value::String(untrimmed.trim().to_owned()), MAX_NAME).map(Self)
    }
}

/// A subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(pub String);

impl Field for Subject {
    const RULE: &'static str = "must be a string of at most 998 characters, without line breaks or control characters";

    fn read(value: Value) -> Option<Self> {
        line(value, MAX_SUBJECT).map(Self)
    }
}

/// A body, of as many lines as one likes. What limits it is the request's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(pub String);

impl Field for Body {
    const RULE: &'static str = "must be a string without NUL";

    fn read(value: Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        (!text.contains('\0')).then_some(Self(text))
    }
}

/// A file's name: its last part alone, for a reader stores it under that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filename(pub String);

impl Field for Filename {
    const RULE: &'static str =
        "must be a string of 1 to 255 characters, without slashes, line breaks or control characters";

    fn read(value: Value) -> Option<Self> {
        let is_name = |name: &String| !name.trim().is_empty() && !name.contains(['/', '\\']);
        line(value, MAX_FILENAME).filter(is_name).map(Self)
    }
}

/// A media type without parameters, in lower case (RFC 6838, 4.2). None that is made of parts: those are encoded alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentType(pub String);

impl Field for ContentType {
    const RULE: &'static str = "must be a media type without parameters, such as application/pdf, and not multipart";

    fn read(value: Value) -> Option<Self> {
        let Value::String(mut text) = value else { return None };
        let (kind, subtype) = text.split_once('/')?;
        let fits =
            [kind, subtype].iter().all(|half| is_restricted_name(half)) && !kind.eq_ignore_ascii_case("multipart");
        text.make_ascii_lowercase();
        fits.then_some(Self(text))
    }
}

/// RFC 6838, 4.2.
fn is_restricted_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_CONTENT_TYPE / 2
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
}

/// What a part of a message is called in it, without angle brackets: atoms with dots, and an `@` or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentId(pub String);

impl Field for ContentId {
    const RULE: &'static str =
        "must be a string of 1 to 255 letters, digits and the characters !#$%&'*+-/=?^_`{|}~.@ of ASCII";

    fn read(value: Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.@".contains(&byte);
        ((1..=MAX_CONTENT_ID).contains(&text.len()) && text.bytes().all(is_letter)).then_some(Self(text))
    }
}

/// When something is to be sent, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendAt(pub i64);

impl Field for SendAt {
    const RULE: &'static str = "must be a whole number of milliseconds since the Unix epoch";

    fn read(value: Value) -> Option<Self> {
        whole(&value, 0..=LATEST).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::error::Error;

    const NOW: i64 = 1_800_000_000_000;

    fn read(value: Value) -> Result<Composition, Error> {
        let mut fields = Fields::new(value.as_object().unwrap().clone());
        let composition = Composition::take(&mut fields, NOW);
        fields.finish().map(|()| composition)
    }

    fn faults(value: Value) -> Vec<String> {
        match read(value) {
            Err(Error::Invalid(faults)) => faults.iter().map(|fault| fault.field.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn full() -> Value {
        json!({
            "accountId": "0198c0de-0000-7000-8000-000000000001",
            "to": [{"name": "Jane Doe", "address": "jane@example.com"}, {"name": null, "address": "jürgen@bücher.example"}],
            "cc": [{"name": null, "address": "joe@example.com"}],
            "bcc": [{"name": null, "address": "ann@example.com"}],
            "replyTo": [{"name": null, "address": "office@example.com"}],
            "subject": "Größe ☕",
            "text": "One\r\ntwo\n\u{c}three\t",
            "html": "<p>One</p>\n",
            "attachments": [{
                "uploadId": "0198c0de-0000-7000-8000-000000000002", "filename": "Bericht über alles.pdf",
                "contentType": "application/pdf", "contentId": "logo@example.com", "isInline": true
            }],
            "replyToId": "0198c0de-0000-7000-8000-000000000003",
            "forwardOfId": "0198c0de-0000-7000-8000-000000000004",
            "sendAt": NOW + 1,
        })
    }

    #[test]
    fn what_was_read_is_written_the_same_and_stored_the_same() {
        let composition = read(full()).unwrap();
        let json = serde_json::to_value(&composition).unwrap();
        assert_eq!(json, full());
        assert_eq!(serde_json::from_value::<Composition>(json).unwrap(), composition);
    }

    #[test]
    fn nothing_is_required_and_null_is_nothing() {
        let nothing = Composition::default();
        let nulls: serde_json::Map<_, _> =
            full().as_object().unwrap().keys().map(|name| (name.clone(), Value::Null)).collect();
        for body in [json!({}), Value::Object(nulls), json!({"to": [], "attachments": [], "other": 7})] {
            assert_eq!(read(body).unwrap(), nothing);
        }
        assert_eq!(serde_json::to_value(nothing).unwrap()["to"], json!([]));
    }

    #[test]
    fn names_may_be_left_out_and_are_trimmed() {
        let composition = read(json!({"to": [
            {"address": "a@example.com"}, {"name": " ", "address": "b@example.com"}, {"name": " Al ", "address": "c@example.com"}
        ]}));
        let names: Vec<_> = composition.unwrap().to.into_iter().map(|to| to.name.map(|name| name.0)).collect();
        assert_eq!(names, [None, None, Some("Al".to_owned())]);
    }

    /// Whatever reaches a header.
    #[test]
    fn a_line_break_is_a_fault_wherever_it_is() {
        for end in ["\r\n", "\n", "\r", "\u{85}", "\u{2028}", "\u{2029}", "\0", "\u{b}", "\u{7f}"] {
            let evil = format!("a{end}Bcc: x@example.com");
            let address = format!("a{end}@example.com");
            let upload = "0198c0de-0000-7000-8000-000000000002";
            let bad = faults(json!({
                "to": [{"name": evil, "address": address}], "cc": [{"name": evil, "address": address}],
                "bcc": [{"name": evil, "address": address}], "replyTo": [{"name": evil, "address": address}],
                "subject": evil,
                "attachments": [{
                    "uploadId": upload, "filename": evil, "contentType": format!("text/plain{end}"), "contentId": evil
                }],
                "replyToId": evil, "forwardOfId": evil, "accountId": evil, "sendAt": evil,
            }));
            assert_eq!(
                bad,
                [
                    "accountId",
                    "to[0].name",
                    "to[0].address",
                    "cc[0].name",
                    "cc[0].address",
                    "bcc[0].name",
                    "bcc[0].address",
                    "replyTo[0].name",
                    "replyTo[0].address",
                    "subject",
                    "attachments[0].filename",
                    "attachments[0].contentType",
                    "attachments[0].contentId",
                    "replyToId",
                    "forwardOfId",
                    "sendAt"
                ],
                "{end:?}"
            );
        }
    }

    #[test]
    fn limits() {
        let people = |count: usize| vec![json!({"address": "a@example.com"}); count];
        assert!(read(json!({"to": people(98), "cc": people(1), "bcc": people(1), "replyTo": people(100)})).is_ok());
        assert_eq!(faults(json!({"to": people(99), "cc": people(1), "bcc": people(1)})), ["to"]);
        assert_eq!(faults(json!({"replyTo": people(101)})), ["replyTo"]);
        let upload = json!({"uploadId": "0198c0de-0000-7000-8000-000000000002"});
        assert!(read(json!({"attachments": vec![upload.clone(); 100]})).is_ok());
        assert_eq!(faults(json!({"attachments": vec![upload; 101]})), ["attachments"]);
        assert!(read(json!({"subject": "ü".repeat(998), "text": ""})).is_ok());
        assert_eq!(faults(json!({"subject": "ü".repeat(999), "text": "a\0b", "html": 1})), ["subject", "text", "html"]);
        assert!(read(json!({"sendAt": 0})).is_ok() && read(json!({"sendAt": NOW + MAX_AHEAD})).is_ok());
        for bad in [json!(NOW + MAX_AHEAD + 1), json!(-1), json!(1.5), json!("1"), json!(true), json!(1e300)] {
            assert_eq!(faults(json!({"sendAt": bad})), ["sendAt"]);
        }
        assert_eq!(faults(json!({"attachments": [{}], "to": [{}]})), ["to[0].address", "attachments[0].uploadId"]);
    }

    #[test]
    fn types_of_files() {
        let read = |text: &str| ContentType::read(json!(text)).map(|read| read.0);
        assert_eq!(read("Image/SVG+xml").as_deref(), Some("image/svg+xml"));
        assert!(read("application/vnd.openxmlformats-officedocument.wordprocessingml.document").is_some());
        assert!(read(&format!("a/{}", "b".repeat(127))).is_some());
        for bad in [
            "",
            "text",
            "/",
            "text/",
            "/plain",
            "text/plain; charset=utf-8",
            "text/plain ",
            "text/pl ain",
            "a/b/c",
            "tëxt/plain",
            "multipart/mixed",
            "Multipart/x",
            "+a/b",
            &format!("a/{}", "b".repeat(128)),
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_of_files() {
        for good in ["a", "Bericht über alles.pdf", "..", "a b", "☕.txt", &"é".repeat(255)] {
            assert!(Filename::read(json!(good)).is_some(), "{good:?}");
        }
        for bad in ["", " ", "a/b", "..\\b", "a\nb", &"é".repeat(256)] {
            assert!(Filename::read(json!(bad)).is_none(), "{bad:?}");
        }
        for good in ["a", "logo@example.com", "ii_1.2-3"] {
            assert!(ContentId::read(json!(good)).is_some(), "{good:?}");
        }
        for bad in ["", "<a@b>", "a b", "a\"b", "é", &"a".repeat(256)] {
            assert!(ContentId::read(json!(bad)).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_break_at_an_end_of_a_name_is_one_as_well() {
        assert_eq!(PersonName::read(json!(" Jane ")), Some(PersonName("Jane".into())));
        for broken in ["Jane\r\n", "\nJane", "Jane\u{2028}", "\t", "\u{85}Jane"] {
            assert_eq!(PersonName::read(json!(broken)), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_of_a_header_has_two_lines(raw in any::<String>()) {
            let json = json!(raw);
            for line in [
                PersonName::read(json.clone()).map(|v| v.0), Subject::read(json.clone()).map(|v| v.0),
                Filename::read(json.clone()).map(|v| v.0), ContentType::read(json.clone()).map(|v| v.0),
                ContentId::read(json.clone()).map(|v| v.0), EmailAddress::read(json).map(|v| v.0),
            ].into_iter().flatten() {
                prop_assert!(line.lines().count() <= 1 && !line.chars().any(is_break), "{line:?}");
            }
        }
    }
}
