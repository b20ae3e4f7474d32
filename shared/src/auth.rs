//! Who is calling: the token, or in development the headers.

use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use uuid::Uuid;

use crate::config::AuthConfig;
use crate::error::Error;
use crate::event::Request;
use crate::identity::{Identity, Role, Scope, TenantId, UserId, deserialize_hyphenated};
use crate::log::clip;

/// Longer tokens are refused unread. Most have some 300 bytes, but identity providers put groups in; API Gateway lets
/// 10 KB of headers through.
const MAX_TOKEN_BYTES: usize = 8192;

/// What a caller without an identity learns.
pub const NOBODY: Error = Error::Unauthorized("Send a valid token as Authorization: Bearer <token>.");

/// Tells who is calling.
pub struct Authenticator {
    key: DecodingKey,
    validation: Validation,
    allow_headers: bool,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(deserialize_with = "deserialize_hyphenated")]
    tenant_id: Uuid,
    #[serde(deserialize_with = "deserialize_hyphenated")]
    user_id: Uuid,
    #[serde(default)]
    role: Role,
    exp: NumericDate,
    #[serde(default)]
    nbf: NumericDate,
}

/// Seconds since the Unix epoch, perhaps with a fraction (RFC 7519, 2).
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct NumericDate(f64);

impl Claims {
    /// From `nbf` on, and until `exp`: at that very moment no longer (RFC 7519, 4.1.4 and 4.1.5).
    fn are_good_at(&self, now: Duration) -> bool {
        let now = now.as_secs_f64();
        self.nbf.0 <= now && now < self.exp.0
    }
}

impl Authenticator {
    /// With the key that signs tokens.
    pub fn new(config: &AuthConfig, key: &str) -> Self {
        let mut validation = Validation::new(config.algorithm);
        // The library rounds times to whole seconds, and takes a token during its last one: see `are_good_at`.
        validation.validate_exp = false;
        validation.validate_aud = config.audience.is_some();
        validation.required_spec_claims.clear();
        // A claim that is configured must be there: the library alone would let a token without it pass.
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        Self { key: DecodingKey::from_secret(key.as_bytes()), validation, allow_headers: config.allow_headers }
    }

    /// The caller: by the token where there is one, else by the headers where they are allowed.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], with nothing said about what was wrong with the token: that would help only who
    /// forges one.
    pub fn identify(&self, request: &Request) -> Result<Identity, Error> {
        match request.header("authorization") {
            Some(authorization) => self.by_token(authorization),
            None if self.allow_headers => by_headers(request),
            None => Err(NOBODY),
        }
    }

    fn by_token(&self, authorization: &str) -> Result<Identity, Error> {
        let (scheme, token) = authorization.split_once(' ').ok_or(NOBODY)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.len() > MAX_TOKEN_BYTES {
            return Err(NOBODY);
        }
        let refused = |reason: &dyn Display| {
            tracing::debug!(%reason, "token refused");
            Error::Unauthorized("The token is not valid or has expired. Sign in again for a new one.")
        };
        let token = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(|e| refused(&e))?;
        // We understand no extension, so none that a token calls critical (RFC 7515, 4.1.11).
        if token.header.crit.is_some() {
            return Err(refused(&"its header has crit"));
        }
        let claims = token.claims;
        if !claims.are_good_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()) {
            return Err(refused(&"it is not good now"));
        }
        Ok(Identity {
            scope: Scope { tenant_id: TenantId(claims.tenant_id), user_id: UserId(claims.user_id) },
            role: claims.role,
        })
    }
}

fn by_headers(request: &Request) -> Result<Identity, Error> {
    let (Some(tenant), Some(user)) = (request.header("x-tenant-id"), request.header("x-user-id")) else {
        return Err(Error::Unauthorized("Send a token, or (development only) X-Tenant-ID and X-User-ID."));
    };
    let (Some(tenant_id), Some(user_id)) = (TenantId::parse(tenant), UserId::parse(user)) else {
        return Err(Error::Unauthorized(
            "X-Tenant-ID and X-User-ID must be UUIDs. Correct them, or send a token instead.",
        ));
    };
    let role = match request.header("x-user-role") {
        None => Role::User,
        Some(role) if role.eq_ignore_ascii_case("user") => Role::User,
        Some(role) if role.eq_ignore_ascii_case("admin") => Role::Admin,
        Some(_) => return Err(Error::Unauthorized("X-User-Role must be user or admin. Correct it, or leave it out.")),
    };
    Ok(Identity { scope: Scope { tenant_id, user_id }, role })
}

/// Refuses a caller who sends, beside what proves the identity, headers that name another tenant or user.
///
/// # Errors
/// [`Error::Forbidden`].
pub fn refuse_override(identity: &Identity, request: &Request) -> Result<(), Error> {
    let Scope { tenant_id, user_id } = identity.scope;
    let same_tenant = request.header("x-tenant-id").is_none_or(|id| TenantId::parse(id) == Some(tenant_id));
    let same_user = request.header("x-user-id").is_none_or(|id| UserId::parse(id) == Some(user_id));
    if same_tenant && same_user {
        return Ok(());
    }
    tracing::warn!(
        tenantId = %tenant_id,
        userId = %user_id,
        // Twice an id's length shows what a slip was; a client does not choose how long our log lines are.
        claimedTenantId = request.header("x-tenant-id").map(|id| clip(id, 72)),
        claimedUserId = request.header("x-user-id").map(|id| clip(id, 72)),
        "identity_override_blocked"
    );
    Err(Error::Forbidden("X-Tenant-ID or X-User-ID names somebody else than the token. Leave these headers out."))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;
    use crate::event::Pairs;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const USER: &str = "22222222-2222-4222-8222-222222222222";

    fn config() -> AuthConfig {
        AuthConfig { algorithm: Algorithm::HS256, issuer: None, audience: None, allow_headers: false }
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn claims(overrides: Value) -> Value {
        let mut claims = json!({"tenant_id": TENANT, "user_id": USER, "exp": now() + 60});
        for (name, value) in overrides.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn token(algorithm: Algorithm, key: &str, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key.as_bytes())).unwrap()
    }

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Request { headers: Pairs(headers), ..Request::default() }
    }

    fn identify(config: &AuthConfig, authorization: &str) -> Result<Identity, Error> {
        Authenticator::new(config, KEY).identify(&request(&[("authorization", authorization)]))
    }

    fn accepts(config: &AuthConfig, overrides: Value) -> bool {
        identify(config, &format!("Bearer {}", token(Algorithm::HS256, KEY, &claims(overrides)))).is_ok()
    }

    #[test]
    fn a_good_token_gives_tenant_user_and_role() {
        for (role, expected) in [(json!({}), Role::User), (json!({"role": "admin"}), Role::Admin)] {
            let token = token(Algorithm::HS256, KEY, &claims(role));
            for scheme in ["Bearer", "bearer", "BEARER"] {
                let identity = identify(&config(), &format!("{scheme} {token}")).unwrap();
                assert_eq!(identity.scope.tenant_id.to_string(), TENANT);
                assert_eq!(identity.scope.user_id.to_string(), USER);
                assert_eq!(identity.role, expected);
            }
        }
    }

    #[test]
    fn times_are_checked() {
        assert!(accepts(&config(), json!({"nbf": now() - 1, "iat": now()})));
        for bad in [
            json!({"exp": now() - 1}),
            json!({"exp": null}),
            json!({"exp": "9999999999"}),
            json!({"exp": "soon"}),
            json!({"exp": -1}),
            json!({"exp": true}),
            json!({"exp": now()}),
            json!({"nbf": null}),
            json!({"nbf": "0"}),
            json!({"nbf": now() + 30}),
            json!({"nbf": (now() + 30).to_string()}),
        ] {
            assert!(!accepts(&config(), bad.clone()), "{bad}");
        }
        let mut without = claims(json!({}));
        without.as_object_mut().unwrap().remove("exp");
        assert!(identify(&config(), &format!("Bearer {}", token(Algorithm::HS256, KEY, &without))).is_err());
    }

    #[test]
    fn a_token_is_good_until_its_exp_and_not_during_it_fractions_included() {
        let good = |times: Value, at: f64| {
            let claims: Claims = serde_json::from_value(claims(times)).unwrap();
            claims.are_good_at(Duration::from_secs_f64(at))
        };
        for (exp, last, first) in [(json!(1000), 999.999, 1000.0), (json!(1000.75), 1000.74, 1000.75)] {
            assert!(good(json!({"exp": exp}), last), "{exp} at {last}");
            assert!(!good(json!({"exp": exp}), first), "{exp} at {first}");
        }
        for (nbf, last, first) in [(json!(10), 9.999, 10.0), (json!(10.25), 10.24, 10.25), (json!(10.75), 10.74, 10.75)]
        {
            assert!(!good(json!({"nbf": nbf}), last), "{nbf} at {last}");
            assert!(good(json!({"nbf": nbf}), first), "{nbf} at {first}");
        }
    }

    #[test]
    fn a_token_with_critical_extensions_is_refused() {
        let mut header = Header::new(Algorithm::HS256);
        for crit in [vec!["exp"], vec!["b64"], vec!["https://example.com/unknown"], vec![]] {
            header.crit = Some(crit.into_iter().map(str::to_owned).collect());
            let token = encode(&header, &claims(json!({})), &EncodingKey::from_secret(KEY.as_bytes())).unwrap();
            assert!(identify(&config(), &format!("Bearer {token}")).is_err(), "{header:?}");
        }
    }

    #[test]
    fn claims_of_another_form_are_refused() {
        let bare = TENANT.replace('-', "");
        assert!(accepts(&config(), json!({"tenant_id": "AAAAAAAA-1111-4111-8111-11111111111f"})));
        for bad in [
            json!({"tenant_id": bare}),
            json!({"tenant_id": format!("{{{TENANT}}}")}),
            json!({"user_id": format!("urn:uuid:{USER}")}),
            json!({"tenant_id": "1"}),
            json!({"tenant_id": null}),
            json!({"user_id": 7}),
            json!({"user_id": ""}),
            json!({"role": "root"}),
            json!({"role": 1}),
            json!({"role": null}),
        ] {
            assert!(!accepts(&config(), bad.clone()), "{bad}");
        }
    }

    #[test]
    fn issuer_and_audience_are_checked_when_configured_and_then_required() {
        let strict = AuthConfig { issuer: Some("us".into()), audience: Some("mail".into()), ..config() };
        assert!(accepts(&strict, json!({"iss": "us", "aud": "mail"})));
        assert!(accepts(&strict, json!({"iss": "us", "aud": ["other", "mail"]})));
        for bad in [
            json!({}),
            json!({"iss": "us"}),
            json!({"aud": "mail"}),
            json!({"iss": "them", "aud": "mail"}),
            json!({"iss": "us", "aud": "web"}),
        ] {
            assert!(!accepts(&strict, bad.clone()), "{bad}");
        }
        assert!(accepts(&config(), json!({"iss": "anybody", "aud": "anything"})));
    }

    #[test]
    fn only_the_configured_algorithm_and_key_are_accepted() {
        let good = claims(json!({}));
        assert!(identify(&config(), &format!("Bearer {}", token(Algorithm::HS512, KEY, &good))).is_err());
        assert!(
            identify(
                &config(),
                &format!("Bearer {}", token(Algorithm::HS256, "another key, also of 32 bytes ...", &good))
            )
            .is_err()
        );
        let hs512 = AuthConfig { algorithm: Algorithm::HS512, ..config() };
        assert!(identify(&hs512, &format!("Bearer {}", token(Algorithm::HS512, KEY, &good))).is_ok());
    }

    #[test]
    fn what_is_no_bearer_token_is_refused() {
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        for bad in [
            "Bearer",
            "Bearer ",
            "Bearer a.b",
            "Bearer a.b.c",
            "Basic dXNlcjpwdw==",
            "Bearer eyJhbGciOiJub25lIn0.e30.",
            "\u{0}",
            &long,
        ] {
            assert!(identify(&config(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_count_only_where_they_are_allowed_and_never_beside_a_bad_token() {
        let headers = [("x-tenant-id", TENANT), ("x-user-id", USER)];
        let open = AuthConfig { allow_headers: true, ..config() };
        let ask =
            |config: &AuthConfig, headers: &[(&str, &str)]| Authenticator::new(config, KEY).identify(&request(headers));
        assert!(ask(&config(), &headers).is_err());
        assert_eq!(ask(&open, &headers).unwrap().role, Role::User);
        assert_eq!(ask(&open, &[headers[0], headers[1], ("x-user-role", "admin")]).unwrap().role, Role::Admin);
        assert!(ask(&open, &[headers[0], headers[1], ("authorization", "Bearer x.y.z")]).is_err());
        for bad in [
            vec![headers[0]],
            vec![headers[1]],
            vec![("x-tenant-id", "1"), headers[1]],
            vec![headers[0], ("x-user-id", "' or 1=1 --")],
            vec![headers[0], headers[1], ("x-user-role", "root")],
        ] {
            assert!(ask(&open, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_may_repeat_the_token_but_not_contradict_it() {
        let identity = Identity {
            scope: Scope { tenant_id: TenantId::parse(TENANT).unwrap(), user_id: UserId::parse(USER).unwrap() },
            role: Role::Admin,
        };
        assert!(refuse_override(&identity, &request(&[])).is_ok());
        assert!(refuse_override(&identity, &request(&[("x-tenant-id", TENANT), ("x-user-id", USER)])).is_ok());
        for bad in [("x-tenant-id", USER), ("x-user-id", TENANT), ("x-user-id", "nonsense")] {
            assert!(matches!(refuse_override(&identity, &request(&[bad])), Err(Error::Forbidden(_))), "{bad:?}");
        }
    }
}
