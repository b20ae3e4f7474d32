//! What a message of a queue says.

use serde::Serialize;
use serde_json::Value;

use crate::account::AccountId;
use crate::identity::{Scope, TenantId, UserId};

/// A message: that an account may have something to do. No secret is in it, and nothing that is not in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doorbell {
    /// Whose account it is.
    pub tenant_id: TenantId,
    /// Whose account it is.
    pub user_id: UserId,
    /// The account.
    pub account_id: AccountId,
}

impl Doorbell {
    /// Rings for an account.
    pub fn new(scope: Scope, account_id: AccountId) -> Self {
        Self { tenant_id: scope.tenant_id, user_id: scope.user_id, account_id }
    }

    /// Reads a message's body; `None` when it is something else, whoever sent it.
    pub fn parse(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let text = |name: &str| body.get(name)?.as_str();
        Some(Self {
            tenant_id: TenantId::parse(text("tenantId")?)?,
            user_id: UserId::parse(text("userId")?)?,
            account_id: AccountId::parse(text("accountId")?)?,
        })
    }

    /// Whose rows its work may touch.
    pub fn scope(&self) -> Scope {
        Scope { tenant_id: self.tenant_id, user_id: self.user_id }
    }

    /// The message's body.
    pub fn body(&self) -> String {
        // Three ids: they always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_message_is_three_ids_and_nothing_else() {
        let scope = Scope { tenant_id: TenantId(Uuid::now_v7()), user_id: UserId(Uuid::now_v7()) };
        let doorbell = Doorbell::new(scope, AccountId(Uuid::now_v7()));
        let body: Value = serde_json::from_str(&doorbell.body()).unwrap();
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["accountId", "tenantId", "userId"]);
        assert_eq!(Doorbell::parse(&doorbell.body()), Some(doorbell));
        for bad in ["", "null", "[]", "{}", r#"{"tenantId":"x","userId":"x","accountId":"x"}"#] {
            assert_eq!(Doorbell::parse(bad), None, "{bad}");
        }
    }
}
