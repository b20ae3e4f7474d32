//! What every command gives to the functions that it starts.

use anyhow::{Context, Result};
use local::gateway;
use shared::{
    account::AccountId,
    identity::{Scope, TenantId, UserId},
    sealing::{Kind, Place, PublicKey, seal},
};
use uuid::Uuid;

use crate::settings::Settings;

/// A key pair to seal passwords with.
pub(crate) struct SealingKeys {
    /// For those who are sent passwords.
    pub(crate) public: String,
    /// For those who sign in with them.
    pub(crate) private: String,
}

impl SealingKeys {
    /// As thrown away as the servers.
    pub(crate) fn new() -> Result<Self> {
        let (public, private) = shared::sealing::generate("local")?;
        Ok(Self { public, private: private.to_string() })
    }

    /// A secret, sealed for nobody in particular.
    pub(crate) fn seal(&self, secret: &str) -> Result<Vec<u8>> {
        let place = Place {
            scope: Scope { tenant_id: TenantId(Uuid::nil()), user_id: UserId(Uuid::nil()) },
            account: AccountId(Uuid::nil()),
            kind: Kind::Password,
        };
        seal(&PublicKey::parse(&self.public).context("no sealing key")?, &place, secret.as_bytes())
    }

    /// The developer's own, for a database that outlives us; else new ones.
    pub(crate) fn load(settings: &Settings) -> Result<Self> {
        match (settings.get("SEALING_PUBLIC_KEY"), settings.get("SEALING_PRIVATE_KEYS")) {
            (Some(public), Some(private)) => Ok(Self { public, private }),
            _ => Self::new(),
        }
    }

    /// Hands the keys to the functions of a gateway, and those of `role_urls` ([`local::services::Postgres::role_urls`])
    /// to the functions whose they are; the endpoints' is in their environment already.
    pub(crate) fn hand_to(self, options: &mut gateway::Options, role_urls: [String; 4]) {
        let [_, mail, scheduler, reader] = role_urls;
        options.mail_env = self.mail_env(mail);
        options.scheduler_env = vec![("DATABASE_URL".into(), scheduler)];
        options.reader_env = vec![("DATABASE_URL".into(), reader)];
        options.env.push(("SEALING_PUBLIC_KEY".into(), self.public));
    }

    /// What functions that open secrets have in the place of others' variables.
    pub(crate) fn mail_env(&self, mail_url: String) -> Vec<(String, String)> {
        vec![("DATABASE_URL".into(), mail_url), ("SEALING_PRIVATE_KEYS".into(), self.private.clone())]
    }
}
