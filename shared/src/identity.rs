//! Who a caller is, once that is proved: tenant, user and role.

use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Declares an id: a UUID that cannot be mistaken for another kind of id.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Reads the usual hyphenated form, in any letter case; `None` for all else.
            pub fn parse(text: &str) -> Option<Self> {
                $crate::identity::hyphenated(text).map(Self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::identity::deserialize_hyphenated(deserializer).map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A customer of the email client: the outer fence.
    TenantId
);
id!(
    /// A person of a tenant: the inner fence.
    UserId
);

pub(crate) use id;

/// A UUID in the one form that we accept, of which the letter case counts for nothing.
pub(crate) fn hyphenated(text: &str) -> Option<Uuid> {
    // The other forms that the crate knows (braces, urn:, no hyphens) differ in length.
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Reads a UUID in that form from JSON: the crate's own reading takes every form.
pub(crate) fn deserialize_hyphenated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    struct Reader;

    impl Visitor<'_> for Reader {
        type Value = Uuid;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a UUID with hyphens")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
            hyphenated(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_str(Reader)
}

/// Whose rows a statement may touch: every query takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The caller's tenant.
    pub tenant_id: TenantId,
    /// The caller.
    pub user_id: UserId,
}

/// What a caller may do. It gives no way across tenants, and none to another user's accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everybody.
    #[default]
    User,
    /// A tenant's administrator.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Admin => "admin",
        })
    }
}

/// A caller, as a token or the development headers prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Tenant and user.
    pub scope: Scope,
    /// The caller's role.
    pub role: Role,
}
