//! What a token says of its bearer, under the names that its issuer gives to it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::identity::{Identity, Role, Scope, TenantId, UserId, deserialize_hyphenated, hyphenated};

/// The claim with the role, unless it is configured.
const ROLE: &str = "role";

/// Where a claim stands: a member of the claims, or of an object in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimName(Vec<String>);

impl ClaimName {
    /// Reads a name. A dot leads into an object, as in `app_metadata.tenant`, but in a name with a slash or a colon, which
    /// is one whole, as in `https://example.com/tenant`.
    pub fn parse(name: &str) -> Option<Self> {
        let path: Vec<_> = match name.contains(['/', ':']) {
            true => vec![name.to_owned()],
            false => name.split('.').map(str::to_owned).collect(),
        };
        path.iter().all(|part| !part.is_empty()).then_some(Self(path))
    }

    fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Goes down from the value of the first name.
    fn rest<'j>(&self, first: Option<&'j RawValue>) -> serde_json::Result<Option<&'j RawValue>> {
        self.0.iter().skip(1).try_fold(first, |value, name| match value {
            Some(value) => pick(value.get(), [name]).map(|[found]| found),
            None => Ok(None),
        })
    }
}

/// The names of the claims that say who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// `JWT_TENANT_CLAIM`.
    pub tenant: ClaimName,
    /// `JWT_USER_CLAIM`.
    pub user: ClaimName,
    /// `JWT_ROLE_CLAIM`.
    pub role: ClaimName,
}

impl Default for ClaimNames {
    fn default() -> Self {
        let name = |name: &str| ClaimName(vec![name.to_owned()]);
        Self { tenant: name("tenant_id"), user: name("user_id"), role: name(ROLE) }
    }
}

/// `JWT_IDS`: what ids of tenants and users may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// UUIDs alone.
    Uuids,
    /// Any text: what is no UUID becomes one of version 5 in the issuer's namespace.
    Any {
        /// See [`Ids::of_issuer`].
        namespace: Uuid,
    },
}

impl Ids {
    /// Any ids, told apart from those of other issuers.
    pub fn of_issuer(issuer: &str) -> Self {
        Self::Any { namespace: Uuid::new_v5(&Uuid::NAMESPACE_URL, issuer.as_bytes()) }
    }

    fn read(self, claim: Option<&RawValue>) -> serde_json::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Hyphenated(#[serde(deserialize_with = "deserialize_hyphenated")] Uuid);

        let claim = claim.ok_or_else(|| de::Error::custom("tenant or user is missing"))?.get();
        let Self::Any { namespace } = self else {
            return serde_json::from_str(claim).map(|Hyphenated(id)| id);
        };
        let text: String = serde_json::from_str(claim)?;
        match hyphenated(&text) {
            // It may be what another's id is mapped to: who can choose an id could choose to be that one.
            Some(id) if id.get_version_num() == 5 => Err(de::Error::custom("the id is a UUID of version 5")),
            Some(id) => Ok(id),
            None if text.trim().is_empty() => Err(de::Error::custom("the id is empty")),
            None => Ok(Uuid::new_v5(&namespace, text.as_bytes())),
        }
    }
}

/// What a token says.
#[derive(Debug)]
pub struct Claims {
    /// Whose it is.
    pub identity: Identity,
    /// `exp` and `nbf`: seconds since the Unix epoch, perhaps with a fraction (RFC 7519, 2).
    exp: f64,
    nbf: f64,
}

impl Claims {
    /// Reads them from the token's payload.
    ///
    /// # Errors
    /// One is missing, stands there twice, or is of another form.
    pub fn read(json: &str, names: &ClaimNames, ids: Ids) -> serde_json::Result<Self> {
        let [tenant, user, role, exp, nbf] =
            pick(json, [names.tenant.first(), names.user.first(), names.role.first(), "exp", "nbf"])?;
        let scope = Scope {
            tenant_id: TenantId(ids.read(names.tenant.rest(tenant)?)?),
            user_id: UserId(ids.read(names.user.rest(user)?)?),
        };
        let role = match names.role.rest(role)? {
            None => Role::User,
            Some(role) if names.role.first() != ROLE && role.get().starts_with('[') => among(role)?,
            Some(role) => serde_json::from_str(role.get())?,
        };
        let exp = exp.ok_or_else(|| de::Error::missing_field("exp"))?;
        Ok(Self {
            identity: Identity { scope, role },
            exp: serde_json::from_str(exp.get())?,
            nbf: nbf.map_or(Ok(0.0), |nbf| serde_json::from_str(nbf.get()))?,
        })
    }

    /// From `nbf` on, and until `exp`: at that very moment no longer (RFC 7519, 4.1.4 and 4.1.5).
    pub fn are_good_at(&self, now: Duration) -> bool {
        let now = now.as_secs_f64();
        self.nbf <= now && now < self.exp
    }
}

/// The role of somebody whose issuer lists roles or groups: most of them are about other things.
fn among(list: &RawValue) -> serde_json::Result<Role> {
    let roles: Vec<String> = serde_json::from_str(list.get())?;
    Ok(if roles.iter().any(|role| role == "admin") { Role::Admin } else { Role::User })
}

/// The members of a JSON object that have these names. One that stands there twice is an error: who reads the first and
/// who reads the last would not agree on who is calling.
fn pick<'j, const N: usize>(json: &'j str, names: [&str; N]) -> serde_json::Result<[Option<&'j RawValue>; N]> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer.deserialize_map(Members(names))?;
    deserializer.end()?;
    Ok(found)
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(wanted) = map.next_key_seed(Wanted(&self.0))? {
            if wanted == [false; N] {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: &RawValue = map.next_value()?;
            for (slot, _) in found.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
                if slot.replace(value).is_some() {
                    return Err(de::Error::custom("a claim stands there twice"));
                }
            }
        }
        Ok(found)
    }
}

/// Reads a name, as which of those that are wanted it is. Several claims may stand in one object.
struct Wanted<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Wanted<'_, N> {
    type Value = [bool; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for Wanted<'_, N> {
    type Value = [bool; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.map(|wanted| wanted == name))
    }
}
