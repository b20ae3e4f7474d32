//! The schemas of the fields that clients send, from the limits that their reading enforces.

use std::borrow::Cow;

use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::account::{
    AccountName, ENCRYPTIONS, EmailAddress, Encryption, Hostname, MAX_ADDRESS, MAX_HOSTNAME, MAX_NAME, PORTS,
    PROTOCOLS, Port, Protocol, SYNC_INTERVALS, SyncInterval, Username,
};
use crate::composition::{
    Body, ContentId, ContentType, Filename, LATEST, MAX_CONTENT_ID, MAX_CONTENT_TYPE, MAX_FILENAME, MAX_SUBJECT,
    PersonName, SendAt, Subject,
};
use crate::credential::{MAX_PASSWORD_BYTES, Password};
use crate::upload::{MAX_SIZE, Size};
use crate::validation::Field;

/// No control characters (C0, DEL, C1).
const PLAIN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// The same, with something between the white space that is trimmed away.
const NAME: &str = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// One line: none of these, nor a line end of Unicode's own.
const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$";
/// The same of a file, with a letter among the white space.
const FILENAME: &str = r"^ *[^\s/\\\u0000-\u001f\u007f-\u009f][^/\\\u0000-\u001f\u007f-\u009f\u2028\u2029]*$";
/// A type without parameters that is not made of parts.
const MEDIA_TYPE: &str = r"^(?![Mm][Uu][Ll][Tt][Ii][Pp][Aa][Rr][Tt]/)[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$";
/// Names in ASCII, IPv4 and the usual forms of IPv6; names in other letters and a few rarer spellings of IPv6 are accepted
/// beside.
const HOST: &str = concat!(
    r"^(([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?",
    r"|((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    r"|([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|([0-9A-Fa-f]{1,4}:){1,6}(:[0-9A-Fa-f]{1,4})|::1)$",
);

fn text(max: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(max))
}

fn one_of(names: &'static [&'static str]) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names.iter().copied()))
}

fn number(range: std::ops::RangeInclusive<i64>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(*range.start())).maximum(Some(*range.end()))
}

macro_rules! schema {
    ($($field:ident: $object:expr, $example:expr;)*) => {$(
        impl PartialSchema for $field {
            fn schema() -> RefOr<Schema> {
                $object.description(Some(<$field as Field>::RULE)).examples([$example]).into()
            }
        }

        impl ToSchema for $field {
            fn name() -> Cow<'static, str> {
                stringify!($field).into()
            }
        }
    )*};
}

schema! {
    AccountName: text(MAX_NAME).pattern(Some(NAME)), "Work";
    EmailAddress: text(MAX_ADDRESS).format(Some(SchemaFormat::KnownFormat(KnownFormat::IdnEmail))), "jane@example.com";
    Protocol: one_of(&PROTOCOLS), "imap";
    Hostname: text(MAX_HOSTNAME).pattern(Some(HOST)), "imap.example.com";
    Port: number(PORTS), 993;
    Encryption: one_of(&ENCRYPTIONS).default(Some(Encryption::default().0.into())), "tls";
    Username: text(MAX_NAME).pattern(Some(PLAIN)), "jane";
    Password: text(MAX_PASSWORD_BYTES)
        .pattern(Some(r"^[^\u0000]*$"))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
        .write_only(true), "correct horse battery staple";
    SyncInterval: number(SYNC_INTERVALS).default(Some(SyncInterval::default().0.into())), 300;
    PersonName: ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_NAME)).pattern(Some(LINE)), "Jane Doe";
    Subject: ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_SUBJECT)).pattern(Some(LINE)), "The report";
    Body: ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^[^\u0000]*$")), "Here it is.";
    Filename: text(MAX_FILENAME).pattern(Some(FILENAME)), "report.pdf";
    ContentType: text(MAX_CONTENT_TYPE).pattern(Some(MEDIA_TYPE)), "application/pdf";
    ContentId: text(MAX_CONTENT_ID).pattern(Some(r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]*$")), "logo@example.com";
    Size: number(0..=MAX_SIZE), 48_213;
    SendAt: number(0..=LATEST), 1_767_225_600_000_i64;
}
