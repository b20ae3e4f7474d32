//! What an account is: its ids, its fields with their rules, and how it looks on the wire.

pub mod state;

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::address::{address_key, ascii_domain, is_address};
use crate::credential::Password;
use crate::error::Error;
use crate::identity::{TenantId, UserId, id};
use crate::validation::{Field, Fields, whole};

use state::State;

id!(
    /// An account. Version 7: they grow with time, so new rows land side by side in the index.
    AccountId
);
id!(
    /// The stored credential of an account.
    CredentialId
);

/// A mailbox of a user, as clients see it: never with its password, hash or salt.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The account's id.
    pub id: AccountId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Whose it is.
    pub user_id: UserId,
    /// What the user calls it.
    pub account_name: String,
    /// The mailbox's address.
    pub email_address: String,
    /// `imap` or `pop3`.
    #[cfg_attr(feature = "openapi", schema(value_type = Protocol))]
    pub protocol: String,
    /// The mail server.
    pub hostname: String,
    /// The mail server's port.
    #[cfg_attr(feature = "openapi", schema(value_type = Port))]
    pub port: i32,
    /// `tls`, `starttls` or `none`.
    #[cfg_attr(feature = "openapi", schema(value_type = Encryption))]
    pub encryption: String,
    /// The login at the mail server.
    pub username: String,
    /// The stored credential.
    pub credential_id: CredentialId,
    /// Whether mail is fetched regularly.
    pub is_sync_enabled: bool,
    /// Seconds between two synchronisations.
    #[cfg_attr(feature = "openapi", schema(value_type = SyncInterval))]
    pub sync_interval: i32,
    /// When all mail was last as on the server, in milliseconds since the Unix epoch; none until then.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub last_sync_at: Option<i64>,
    /// Whether a synchronisation is running.
    pub is_syncing: bool,
    /// False once it is deleted.
    pub is_enabled: bool,
    /// The server that sends; none where the account cannot send.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub smtp_hostname: Option<String>,
    /// Its port, where one was set.
    #[cfg_attr(feature = "openapi", schema(required, value_type = Option<Port>))]
    pub smtp_port: Option<i32>,
    /// `tls`, `starttls` or `none`, where it was set.
    #[cfg_attr(feature = "openapi", schema(required, value_type = Option<Encryption>))]
    pub smtp_encryption: Option<String>,
    /// The login at that server, where it is another one.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub smtp_username: Option<String>,
    /// How the account signs in.
    #[cfg_attr(feature = "openapi", schema(value_type = AuthType))]
    pub auth_type: String,
    /// The provider's name, where one signs in for the user.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub provider: Option<String>,
    /// How the account stands with its server.
    pub state: State,
    /// Milliseconds since the Unix epoch.
    pub state_changed_at: i64,
    /// When the next synchronisation is due, in milliseconds since the Unix epoch; none while none is, and where nobody
    /// wants one.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_sync_at: Option<i64>,
    /// What went wrong last; none once a try went well.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub last_error: Option<LastError>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Milliseconds since the Unix epoch; grows with each real change.
    pub updated_at: i64,
}

/// How an account signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AuthType {
    /// With a password.
    Password,
    /// With a token of its provider.
    Oauth2,
}

/// What went wrong when the service last tried to sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastError {
    /// `authentication`, `unreachable`, `tls`, `protocol`, `unavailable`, `mailboxMissing` or `consentRevoked`.
    pub code: String,
    /// For a person. Where the server refused the login: its own words.
    pub message: String,
    /// `imap`, `pop3`, `smtp` or `oauth2`.
    pub service: String,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
}

/// All that a new account needs from its owner.
#[derive(Debug)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(rename_all = "camelCase"))]
pub struct NewAccount {
    /// What the user calls it.
    pub account_name: AccountName,
    /// The mailbox's address.
    pub email_address: EmailAddress,
    /// How mail is fetched.
    pub protocol: Protocol,
    /// The mail server.
    pub hostname: Hostname,
    /// The mail server's port.
    pub port: Port,
    /// How the connection to the mail server is protected.
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub encryption: Encryption,
    /// The login at the mail server.
    pub username: Username,
    /// The mailbox's password, in the clear: it is stored as a salted hash and sealed.
    pub password: Password,
    /// Whether mail is fetched regularly.
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub is_sync_enabled: bool,
    /// Seconds between two synchronisations.
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub sync_interval: SyncInterval,
    /// The server that sends. Without it the account cannot send.
    pub smtp_hostname: Option<Hostname>,
    /// Its port: 465 for `tls`, 587 for `starttls` and 25 for `none` unless set.
    pub smtp_port: Option<Port>,
    /// How the connection to it is protected: `tls` unless set.
    pub smtp_encryption: Option<Encryption>,
    /// The login there: that of the mailbox unless set.
    pub smtp_username: Option<Username>,
    /// The password there, in the clear: that of the mailbox unless set. Stored sealed.
    pub smtp_password: Option<Password>,
}

impl NewAccount {
    /// Reads the body of a create.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields) -> Result<Self, Error> {
        let account_name = fields.required("accountName");
        let email_address = fields.required("emailAddress");
        let protocol = fields.required("protocol");
        let hostname = fields.required("hostname");
        let port = fields.required("port");
        let encryption = fields.optional("encryption");
        let username = fields.required("username");
        let password = fields.required("password");
        let is_sync_enabled = fields.optional("isSyncEnabled");
        let sync_interval = fields.optional("syncInterval");
        let smtp_hostname = fields.nullable("smtpHostname").flatten();
        let smtp_port = fields.nullable("smtpPort").flatten();
        let smtp_encryption = fields.nullable("smtpEncryption").flatten();
        let smtp_username = fields.nullable("smtpUsername").flatten();
        let smtp_password = fields.nullable("smtpPassword").flatten();
        fields.finish()?;
        let (
            Some(account_name),
            Some(email_address),
            Some(protocol),
            Some(hostname),
            Some(port),
            Some(username),
            Some(password),
        ) = (account_name, email_address, protocol, hostname, port, username, password)
        else {
            return Err(Error::internal(anyhow!("a required field is missing, and no fault says so")));
        };
        Ok(Self {
            account_name,
            email_address,
            protocol,
            hostname,
            port,
            encryption: encryption.unwrap_or_default(),
            username,
            password,
            is_sync_enabled: is_sync_enabled.unwrap_or(true),
            sync_interval: sync_interval.unwrap_or_default(),
            smtp_hostname,
            smtp_port,
            smtp_encryption,
            smtp_username,
            smtp_password,
        })
    }
}

/// What an update changes; a field that is missing stays as it is.
#[derive(Debug, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(rename_all = "camelCase"))]
pub struct AccountChange {
    /// What the user calls it.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub account_name: Option<AccountName>,
    /// The mailbox's address.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub email_address: Option<EmailAddress>,
    /// How mail is fetched.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub protocol: Option<Protocol>,
    /// The mail server.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub hostname: Option<Hostname>,
    /// The mail server's port.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub port: Option<Port>,
    /// How the connection to the mail server is protected.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub encryption: Option<Encryption>,
    /// The login at the mail server.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub username: Option<Username>,
    /// A new password; it gets a new salt.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub password: Option<Password>,
    /// Whether mail is fetched regularly.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub is_sync_enabled: Option<bool>,
    /// Seconds between two synchronisations.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub sync_interval: Option<SyncInterval>,
    /// False acts as a delete.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub is_enabled: Option<bool>,
    /// The server that sends; `null` takes it away.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Hostname>))]
    pub smtp_hostname: Option<Option<Hostname>>,
    /// Its port; `null` leaves it to the encryption.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Port>))]
    pub smtp_port: Option<Option<Port>>,
    /// How the connection to it is protected; `null` means `tls`.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Encryption>))]
    pub smtp_encryption: Option<Option<Encryption>>,
    /// The login there; `null` means that of the mailbox.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Username>))]
    pub smtp_username: Option<Option<Username>>,
    /// The password there; `null` means that of the mailbox.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Password>))]
    pub smtp_password: Option<Option<Password>>,
}

impl AccountChange {
    /// Reads the body of an update.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields) -> Result<Self, Error> {
        let change = Self {
            account_name: fields.optional("accountName"),
            email_address: fields.optional("emailAddress"),
            protocol: fields.optional("protocol"),
            hostname: fields.optional("hostname"),
            port: fields.optional("port"),
            encryption: fields.optional("encryption"),
            username: fields.optional("username"),
            password: fields.optional("password"),
            is_sync_enabled: fields.optional("isSyncEnabled"),
            sync_interval: fields.optional("syncInterval"),
            is_enabled: fields.optional("isEnabled"),
            smtp_hostname: fields.nullable("smtpHostname"),
            smtp_port: fields.nullable("smtpPort"),
            smtp_encryption: fields.nullable("smtpEncryption"),
            smtp_username: fields.nullable("smtpUsername"),
            smtp_password: fields.nullable("smtpPassword"),
        };
        fields.finish()?;
        Ok(change)
    }

    /// Whether a field is named that signing in depends on.
    pub fn concerns_signing_in(&self) -> bool {
        let Self {
            account_name: _,
            email_address: _,
            protocol: None,
            hostname: None,
            port: None,
            encryption: None,
            username: None,
            password: None,
            is_sync_enabled: _,
            sync_interval: _,
            is_enabled: _,
            smtp_hostname: None,
            smtp_port: None,
            smtp_encryption: None,
            smtp_username: None,
            smtp_password: None,
        } = self
        else {
            return true;
        };
        false
    }
}

/// The most characters of an account's name and of a login: the columns' width.
pub const MAX_NAME: usize = 255;
/// The most characters of a mailbox address.
pub const MAX_ADDRESS: usize = 254;
/// The most characters of a host name.
pub const MAX_HOSTNAME: usize = 253;
/// The protocols.
pub const PROTOCOLS: [&str; 2] = ["imap", "pop3"];
/// The ways to protect a connection.
pub const ENCRYPTIONS: [&str; 3] = ["tls", "starttls", "none"];
/// TCP ports.
pub const PORTS: RangeInclusive<i64> = 1..=65535;
/// Seconds between two synchronisations.
pub const SYNC_INTERVALS: RangeInclusive<i64> = 60..=3600;

/// Reads a JSON string without control characters (a NUL byte among them), of 1 to `max` characters.
fn text(value: Value, max: usize) -> Option<String> {
    let Value::String(text) = value else { return None };
    let fits = !text.is_empty() && text.chars().count() <= max && !text.chars().any(char::is_control);
    fits.then_some(text)
}

/// Reads a JSON string that is one of `known`, in any letter case, into the known (lower-case) form.
fn one_of(value: &Value, known: &'static [&'static str]) -> Option<&'static str> {
    let text = value.as_str()?;
    known.iter().find(|name| name.eq_ignore_ascii_case(text)).copied()
}

/// Reads a whole number within `range` for a column of small ones.
fn small(value: &Value, range: RangeInclusive<i64>) -> Option<i32> {
    whole(value, range).and_then(|whole| i32::try_from(whole).ok())
}

/// What the user calls the account: 1 to 255 characters, without white space around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountName(pub String);

impl Field for AccountId {
    const RULE: &'static str = "must be an id, a UUID with hyphens";

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

impl Field for AccountName {
    const RULE: &'static str = "must be a string of 1 to 255 characters after trimming, without control characters";

    fn read(value: Value) -> Option<Self> {
        let Value::String(untrimmed) = value else { return None };
        text(Value::String(untrimmed.trim().to_owned()), MAX_NAME).map(Self)
    }
}

/// A mailbox address of at most 254 characters (RFC 5321, 4.5.3.1.3, less the brackets), as its owner wrote it.
/// See [`is_address`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmailAddress(pub String);

impl EmailAddress {
    /// What it has in common with every other spelling of the same address.
    pub fn key(&self) -> String {
        address_key(&self.0)
    }
}

impl Field for EmailAddress {
    const RULE: &'static str = "must be a valid email address of at most 254 characters, such as jane@example.com";

    fn fault(_: &str) -> String {
        "Invalid email address".into()
    }

    fn read(value: Value) -> Option<Self> {
        text(value, MAX_ADDRESS).filter(|address| is_address(address)).map(Self)
    }
}

/// The protocol to fetch mail with, in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol(pub &'static str);

impl Field for Protocol {
    const RULE: &'static str = "must be imap or pop3";

    fn read(value: Value) -> Option<Self> {
        one_of(&value, &PROTOCOLS).map(Self)
    }
}

/// How the connection to the mail server is protected, in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encryption(pub &'static str);

impl Default for Encryption {
    fn default() -> Self {
        Self("tls")
    }
}

impl Field for Encryption {
    const RULE: &'static str = "must be tls, starttls or none";

    fn read(value: Value) -> Option<Self> {
        one_of(&value, &ENCRYPTIONS).map(Self)
    }
}

impl Field for State {
    const RULE: &'static str = "must be new, connected, authenticationError, connectError or credentialsMissing";

    fn read(value: Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(name))
    }
}

/// A DNS host name (RFC 1123, 2.1, of letters of any script by IDNA) or an IP address, as its owner wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(pub String);

impl Hostname {
    /// What to look up or to connect to: the name's A-label, or the IP address.
    pub fn ascii(&self) -> Cow<'_, str> {
        ascii_domain(&self.0).unwrap_or(Cow::Borrowed(&self.0))
    }
}

impl Field for Hostname {
    const RULE: &'static str =
        "must be a host name or an IP address of at most 253 characters, such as imap.example.com";

    fn read(value: Value) -> Option<Self> {
        let is_host = |host: &str| host.parse::<IpAddr>().is_ok() || ascii_domain(host).is_some();
        text(value, MAX_HOSTNAME).filter(|host| is_host(host)).map(Self)
    }
}

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub i32);

impl Field for Port {
    const RULE: &'static str = "must be a whole number from 1 to 65535";

    fn fault(_: &str) -> String {
        "Port must be between 1 and 65535".into()
    }

    fn read(value: Value) -> Option<Self> {
        small(&value, PORTS).map(Self)
    }
}

/// The login at the mail server: 1 to 255 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username(pub String);

impl Field for Username {
    const RULE: &'static str = "must be a string of 1 to 255 characters, without control characters";

    fn read(value: Value) -> Option<Self> {
        text(value, MAX_NAME).map(Self)
    }
}

/// Seconds between two synchronisations, 60 to 3600.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncInterval(pub i32);

impl Default for SyncInterval {
    fn default() -> Self {
        Self(300)
    }
}

impl Field for SyncInterval {
    const RULE: &'static str = "must be a whole number of seconds from 60 to 3600";

    fn fault(_: &str) -> String {
        "Sync interval must be between 60 and 3600 seconds".into()
    }

    fn read(value: Value) -> Option<Self> {
        small(&value, SYNC_INTERVALS).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn accepts<T: Field>(good: &[Value]) {
        for value in good {
            assert!(T::read(value.clone()).is_some(), "refused: {value}");
        }
    }

    fn refuses<T: Field>(bad: &[Value]) {
        let wrong_types = [json!(null), json!([]), json!({}), json!(1.5), json!("")];
        for value in bad.iter().chain(&wrong_types) {
            assert!(T::read(value.clone()).is_none(), "accepted: {value}");
        }
    }

    #[test]
    fn ids_are_hyphenated_uuids() {
        let id = "0198c0de-0000-7000-8000-00000000000A";
        assert_eq!(AccountId::parse(id).unwrap().to_string(), id.to_lowercase());
        for bad in [
            "",
            "1",
            "0198c0de000070008000000000000001",
            "{0198c0de-0000-7000-8000-000000000001}",
            &format!("urn:uuid:{id}"),
            &format!("{id} "),
        ] {
            assert_eq!(AccountId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn account_names() {
        accepts::<AccountName>(&[
            json!("a"),
            json!("Büro ☕"),
            json!("é".repeat(255)),
            json!(format!("  {}  ", "x".repeat(255))),
        ]);
        refuses::<AccountName>(&[
            json!(" "),
            json!("x".repeat(256)),
            json!("a\0b"),
            json!("a\nb"),
            json!("a\u{85}b"),
            json!(true),
        ]);
        assert_eq!(AccountName::read(json!("  Work  ")), Some(AccountName("Work".into())));
    }

    #[test]
    fn email_addresses() {
        let longest = format!("{}@{}.com", "a".repeat(64), ["b".repeat(61), "c".repeat(61), "d".repeat(61)].join("."));
        assert_eq!(longest.len(), 254);
        accepts::<EmailAddress>(&[
            json!("a@b.co"),
            json!("Jane.Doe+tag@Example.COM"),
            json!("jürgen@bücher.example"),
            json!("o'neil@sub.example.org"),
            json!(longest),
        ]);
        refuses::<EmailAddress>(&[
            json!("jane"),
            json!("jane@"),
            json!("@example.com"),
            json!("jane@example"),
            json!("a b@example.com"),
            json!(" a@b.co"),
            json!("a@b.co "),
            json!("a@@b.co"),
            json!("a@b..co"),
            json!(".a@b.co"),
            json!("Jane <jane@example.com>"),
            json!("a@[127.0.0.1]"),
            json!("a\0@b.co"),
            json!("a@b.co\r\nBcc: x@y.z"),
            json!(format!("{longest}m")),
            json!(1),
        ]);
    }

    #[test]
    fn what_counts_of_a_host_is_ascii() {
        for (host, ascii) in [
            ("imap.bücher.example", "imap.xn--bcher-kva.example"),
            ("IMAP.Example.COM.", "imap.example.com."),
            ("почта。рф", "xn--80a1acny.xn--p1ai"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "2001:DB8::1"),
        ] {
            assert_eq!(Hostname::read(json!(host)).unwrap().ascii(), ascii);
        }
    }

    #[test]
    fn enumerations_in_any_letter_case() {
        assert_eq!(Protocol::read(json!("IMAP")), Some(Protocol("imap")));
        assert_eq!(Protocol::read(json!("Pop3")), Some(Protocol("pop3")));
        assert_eq!(Encryption::read(json!("StartTLS")), Some(Encryption("starttls")));
        refuses::<Protocol>(&[json!("smtp"), json!("imap "), json!("ımap"), json!(1)]);
        refuses::<Encryption>(&[json!("ssl"), json!(false)]);
    }

    #[test]
    fn host_names_and_addresses() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        accepts::<Hostname>(&[
            json!("imap.example.com"),
            json!("localhost"),
            json!("mail-1.example.com."),
            json!("xn--bcher-kva.example"),
            json!("192.0.2.1"),
            json!("2001:db8::1"),
            json!("imap.bücher.example"),
            json!("बिंदु.डाटा.example"),
            json!("почта.рф."),
            json!(longest),
        ]);
        refuses::<Hostname>(&[
            json!(format!("{longest}x")),
            json!("-a.com"),
            json!("a-.com"),
            json!("a..com"),
            json!("."),
            json!("a b"),
            json!("a_b.com"),
            json!("http://a.com"),
            json!("a.com:993"),
            json!("[::1]"),
            json!("999.1.1.1"),
            json!("1.2.3"),
            json!("a".repeat(64)),
            json!("büro_1.example"),
            json!("exam!ple.com"),
            json!("１２７.0.0.1"),
            json!("a\u{3000}b.com"),
            json!("ü".repeat(63)),
            json!("a\0.com"),
        ]);
    }

    #[test]
    fn numbers() {
        accepts::<Port>(&[json!(1), json!(993), json!(993.0), json!(65535)]);
        refuses::<Port>(&[
            json!(0),
            json!(-1),
            json!(65536),
            json!("993"),
            json!(993.5),
            json!(1e300),
            json!(-1e300),
            json!(65535.5),
            json!(u64::MAX),
            json!(true),
        ]);
        accepts::<SyncInterval>(&[json!(60), json!(3600)]);
        refuses::<SyncInterval>(&[json!(59), json!(3601), json!("300"), json!(true)]);
    }

    #[test]
    fn user_names() {
        accepts::<Username>(&[json!("j"), json!(" jane "), json!("ü".repeat(255))]);
        refuses::<Username>(&[json!("u".repeat(256)), json!("a\tb"), json!("\0")]);
    }

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn what_may_be_left_out_has_defaults() {
        let new = NewAccount::read(fields(json!({
            "accountName": " Work ", "emailAddress": "Jane@Example.com", "protocol": "IMAP", "hostname": "imap.example.com",
            "port": 993, "username": "jane", "password": " secret ", "credentialId": "ignored"
        })))
        .unwrap();
        assert_eq!(new.account_name.0, "Work");
        assert_eq!(new.email_address.0, "Jane@Example.com");
        assert_eq!((new.protocol.0, new.encryption.0), ("imap", "tls"));
        assert_eq!((new.is_sync_enabled, new.sync_interval.0), (true, 300));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let Err(Error::Invalid(faults)) = NewAccount::read(fields(
            json!({"port": "993", "encryption": "ssl", "isSyncEnabled": 1, "syncInterval": 1}),
        )) else {
            panic!("accepted")
        };
        let names: Vec<_> = faults.iter().map(|fault| &*fault.field).collect();
        assert_eq!(
            names,
            [
                "accountName",
                "emailAddress",
                "protocol",
                "hostname",
                "port",
                "encryption",
                "username",
                "password",
                "isSyncEnabled",
                "syncInterval"
            ]
        );
    }

    #[test]
    fn what_is_not_named_does_not_change() {
        let change =
            AccountChange::read(fields(json!({"port": 995, "isEnabled": false, "userId": "ignored"}))).unwrap();
        assert_eq!(change.port.map(|port| port.0), Some(995));
        assert_eq!(change.is_enabled, Some(false));
        assert!(change.account_name.is_none() && change.password.is_none() && change.is_sync_enabled.is_none());
    }

    #[test]
    fn every_fault_of_a_change_is_reported_at_once_and_null_is_one_where_it_says_nothing() {
        let Err(Error::Invalid(faults)) =
            AccountChange::read(fields(json!({"accountName": null, "port": 0, "isEnabled": "no"})))
        else {
            panic!("accepted")
        };
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), ["accountName", "port", "isEnabled"]);
    }

    proptest! {
        #[test]
        fn accepted_text_fits_the_column_and_has_no_control_character(raw in any::<String>()) {
            for accepted in [
                AccountName::read(json!(raw)).map(|v| v.0), EmailAddress::read(json!(raw)).map(|v| v.0),
                Hostname::read(json!(raw)).map(|v| v.0), Username::read(json!(raw)).map(|v| v.0),
            ].into_iter().flatten() {
                prop_assert!((1..=255).contains(&accepted.chars().count()));
                prop_assert!(!accepted.chars().any(char::is_control));
                prop_assert!(raw.contains(&accepted));
            }
        }

        #[test]
        fn host_names_built_by_the_rule_are_accepted(labels in prop::collection::vec("[a-z]([a-z0-9-]{0,20}[a-z0-9])?", 1..5)) {
            prop_assert!(Hostname::read(json!(labels.join("."))).is_some());
        }
    }
}
