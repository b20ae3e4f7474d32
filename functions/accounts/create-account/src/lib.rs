//! `POST /api/accounts`: registers a mailbox of the caller.

use shared::account::NewAccount;
use shared::http::StatusCode;
use shared::validation::Fields;
use shared::{Call, Error, Reply};

/// The path of this endpoint.
const COLLECTION: &str = "/api/accounts";

/// Reads the body's fields.
///
/// # Errors
/// [`Error::Invalid`] with every fault.
pub fn read(mut fields: Fields) -> Result<NewAccount, Error> {
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
        return Err(Error::internal(anyhow::anyhow!("a required field is missing, and no fault says so")));
    };
    Ok(NewAccount {
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
    })
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] when the caller has an account with that
/// address.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let new = read(call.body()?)?;
    let account = call.db.insert_account(&call.identity.scope, &new).await?;
    // Clients resolve it against the host alone, so a stage or a base path must stand in it, too.
    let base = call.request.base_of(COLLECTION);
    Reply::json(StatusCode::CREATED, &account)?.with_location(&format!("{base}{COLLECTION}/{}", account.id))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn what_may_be_left_out_has_defaults() {
        let new = read(fields(json!({
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
        let Err(Error::Invalid(faults)) =
            read(fields(json!({"port": "993", "encryption": "ssl", "isSyncEnabled": 1, "syncInterval": 1})))
        else {
            panic!("accepted")
        };
        let names: Vec<_> = faults.iter().map(|fault| fault.field).collect();
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
}
