//! `PUT /api/accounts/{id}`: changes what the body names, and nothing else.

use shared::account::AccountChange;
use shared::http::StatusCode;
use shared::validation::Fields;
use shared::{Call, Error, Reply};

/// Reads the body's fields.
///
/// # Errors
/// [`Error::Invalid`] with every fault.
pub fn read(mut fields: Fields) -> Result<AccountChange, Error> {
    let change = AccountChange {
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
    };
    fields.finish()?;
    Ok(change)
}

/// Answers one request with the account after the change.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Forbidden`] for somebody else's account,
/// [`Error::NotFound`] for none, [`Error::Conflict`] when another account of the caller has the new address.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let change = read(call.body()?)?;
    let account = call.db.update_account(&scope, id, &change).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &account)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn what_is_not_named_does_not_change() {
        let change = read(fields(json!({"port": 995, "isEnabled": false, "userId": "ignored"}))).unwrap();
        assert_eq!(change.port.map(|port| port.0), Some(995));
        assert_eq!(change.is_enabled, Some(false));
        assert!(change.account_name.is_none() && change.password.is_none() && change.is_sync_enabled.is_none());
    }

    #[test]
    fn every_fault_is_reported_at_once_and_null_is_one() {
        let Err(Error::Invalid(faults)) = read(fields(json!({"accountName": null, "port": 0, "isEnabled": "no"})))
        else {
            panic!("accepted")
        };
        assert_eq!(faults.iter().map(|fault| fault.field).collect::<Vec<_>>(), ["accountName", "port", "isEnabled"]);
    }
}
