//! Who is calling: the token, or in development the headers.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use jsonwebtoken::errors::{Error as TokenError, ErrorKind};
use jsonwebtoken::{AlgorithmFamily, TokenData, Validation};
use serde_json::value::RawValue;

use crate::claims::{ClaimNames, Claims, Ids};
use crate::config::AuthConfig;
use crate::error::Error;
use crate::event::Request;
use crate::identity::{Identity, Role, Scope, TenantId, UserId};
use crate::issuer::Keys;
use crate::key_set::KeySet;
use crate::log::clip;

/// Longer tokens are refused unread. Most have some 300 bytes, but identity providers put groups in; API Gateway lets
/// 10 KB of headers through.
const MAX_TOKEN_BYTES: usize = 8192;

/// What a caller without an identity learns.
pub const NOBODY: Error = Error::Unauthorized("Send a valid token as Authorization: Bearer <token>.");

/// Tells who is calling.
pub struct Authenticator {
    keys: Keys,
    validation: Validation,
    /// Whether a token's header may say which key it is.
    keys_have_names: bool,
    claims: ClaimNames,
    ids: Ids,
    allow_headers: bool,
}

/// Why a token is refused.
enum Refusal {
    /// No key signed it, but one that we do not know may have.
    UnknownKey,
    /// Whatever the keys are.
    Bad(TokenError),
}

impl Authenticator {
    /// With the keys that check tokens.
    pub fn new(config: &AuthConfig, keys: Keys) -> Self {
        let mut validation = Validation::new(config.algorithm);
        // The library rounds times to whole seconds, and takes a token during its last one: see `Claims::are_good_at`.
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
        Self {
            keys,
            validation,
            keys_have_names: config.algorithm.family() != AlgorithmFamily::Hmac,
            claims: config.claims.clone(),
            ids: config.ids,
            allow_headers: config.allow_headers,
        }
    }

    /// The caller: by the token where there is one, else by the headers where they are allowed.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], with nothing said about what was wrong with the token: that would help only who
    /// forges one. [`Error::Unavailable`] where it cannot be checked, because there never were any keys.
    pub async fn identify(&self, request: &Request) -> Result<Identity, Error> {
        match request.header("authorization") {
            Some(authorization) => self.by_token(authorization).await,
            None if self.allow_headers => by_headers(request),
            None => Err(NOBODY),
        }
    }

    async fn by_token(&self, authorization: &str) -> Result<Identity, Error> {
        let (scheme, token) = authorization.split_once(' ').ok_or(NOBODY)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.len() > MAX_TOKEN_BYTES {
            return Err(NOBODY);
        }
        let refused = |reason: &dyn Display| {
            tracing::debug!(%reason, "token refused");
            Error::Unauthorized("The token is not valid or has expired. Sign in again for a new one.")
        };
        let kid = if self.keys_have_names { self.key_name(token).map_err(|e| refused(&e))? } else { None };
        let no_keys = || Error::Unavailable(anyhow!("there are no keys yet to check tokens with"));
        let keys = self.keys.current().await.ok_or_else(no_keys)?;
        let mut checked = self.check(&keys, kid.as_deref(), token);
        if let Err(Refusal::UnknownKey) = checked
            && let Some(others) = self.keys.other_than(&keys).await
        {
            checked = self.check(&others, kid.as_deref(), token);
        }
        let token = checked.map_err(|refusal| match refusal {
            Refusal::UnknownKey => refused(&"no key signed it"),
            Refusal::Bad(error) => refused(&error),
        })?;
        // We understand no extension, so none that a token calls critical (RFC 7515, 4.1.11).
        if token.header.crit.is_some() {
            return Err(refused(&"its header has crit"));
        }
        let claims = Claims::read(token.claims.get(), &self.claims, self.ids).map_err(|e| refused(&e))?;
        if !claims.are_good_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()) {
            return Err(refused(&"it is not good now"));
        }
        Ok(claims.identity)
    }

    /// The name of the key that a token's header gives: nothing else there says what to check it with, and nobody is asked
    /// for a key on account of a token that cannot be one of ours.
    fn key_name(&self, token: &str) -> Result<Option<String>, TokenError> {
        let header = jsonwebtoken::decode_header(token)?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Ok(header.kid)
    }

    fn check(&self, keys: &KeySet, kid: Option<&str>, token: &str) -> Result<TokenData<Box<RawValue>>, Refusal> {
        for key in keys.candidates(kid) {
            match jsonwebtoken::decode(token, key, &self.validation) {
                Ok(data) => return Ok(data),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(Refusal::Bad(error)),
            }
        }
        match kid {
            Some(kid) if keys.knows(kid) => Err(Refusal::Bad(ErrorKind::InvalidSignature.into())),
            _ => Err(Refusal::UnknownKey),
        }
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
    use std::time::Duration;

    use futures_util::FutureExt;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::claims::ClaimName;
    use crate::config::KeySource;
    use crate::event::Pairs;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const USER: &str = "22222222-2222-4222-8222-222222222222";

    fn config() -> AuthConfig {
        AuthConfig {
            algorithm: Algorithm::HS256,
            keys: KeySource::Secret,
            issuer: None,
            audience: None,
            claims: ClaimNames::default(),
            ids: Ids::Uuids,
            allow_headers: false,
        }
    }

    fn ask(config: &AuthConfig, headers: &[(&str, &str)]) -> Result<Identity, Error> {
        let authenticator = Authenticator::new(config, Keys::fixed(KeySet::of_secrets([KEY])));
        // Keys that stay are not waited for.
        authenticator.identify(&request(headers)).now_or_never().unwrap()
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
        ask(config, &[("authorization", authorization)])
    }

    fn accepts(config: &AuthConfig, overrides: Value) -> bool {
        identity(config, overrides).is_ok()
    }

    fn identity(config: &AuthConfig, overrides: Value) -> Result<Identity, Error> {
        identify(config, &format!("Bearer {}", token(Algorithm::HS256, KEY, &claims(overrides))))
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
            let claims = Claims::read(&claims(times).to_string(), &ClaimNames::default(), Ids::Uuids).unwrap();
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
    fn a_claim_that_stands_there_twice_is_refused() {
        let signed = |claims: &str| {
            let claims: Box<RawValue> = serde_json::from_str(claims).unwrap();
            let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(KEY.as_bytes())).unwrap();
            identify(&config(), &format!("Bearer {token}"))
        };
        let good = claims(json!({"other": 1})).to_string();
        assert!(signed(&good.replace(r#""other":1"#, r#""other":1,"other":2"#)).is_ok());
        for again in [format!(r#""user_id":"{TENANT}""#), r#""\u0075ser_id":"x""#.to_owned(), r#""exp":9e9"#.to_owned()]
        {
            assert!(signed(&good.replace(r#""other":1"#, &again)).is_err(), "{again}");
        }
    }

    fn names(tenant: &str, user: &str, role: &str) -> AuthConfig {
        let [tenant, user, role] = [tenant, user, role].map(|name| ClaimName::parse(name).unwrap());
        AuthConfig { claims: ClaimNames { tenant, user, role }, ..config() }
    }

    #[test]
    fn claims_are_where_the_configuration_says() {
        let other = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"other").to_string();
        let [url, urn, custom] = ["https://example.com/tenant", "urn:example:tenant", "custom:tenant"];
        for (config, claims) in [
            (names(url, "sub", "role"), json!({url: other, "sub": USER})),
            (names(urn, "sub", "role"), json!({urn: other, "sub": USER})),
            (names(custom, "sub", "role"), json!({custom: other, "sub": USER})),
            (names("tid", "oid", "roles"), json!({"tid": other, "oid": USER, "roles": ["reader"]})),
            (names("app.tenant", "sub", "app.role"), json!({"app": {"tenant": other, "role": "user"}, "sub": USER})),
            (names("a.b.c", "a.b.d", "x.y"), json!({"a": {"b": {"c": other, "d": USER}}})),
        ] {
            let identity = identity(&config, claims.clone()).unwrap();
            let found = (identity.scope.tenant_id.to_string(), identity.scope.user_id.to_string(), identity.role);
            assert_eq!(found, (other.clone(), USER.to_owned(), Role::User), "{claims}");
        }
        // The usual names mean nothing then.
        for (config, claims) in [
            (names("tid", "user_id", "role"), json!({})),
            (names("app.tenant", "user_id", "role"), json!({"app.tenant": TENANT})),
            (names("app.tenant", "user_id", "role"), json!({"app": TENANT})),
            (names("app.tenant", "user_id", "role"), json!({"app": [TENANT]})),
            (names("app.tenant", "user_id", "role"), json!({"app": null})),
            (names("app.tenant", "user_id", "role"), json!({"app": {"tenant": {"tenant": TENANT}}})),
        ] {
            assert!(!accepts(&config, claims.clone()), "{claims}");
        }
        for bad in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(ClaimName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_of_roles_under_another_name_has_admin_in_it_or_not() {
        let listed = names("tenant_id", "user_id", "realm_access.roles");
        let role = |roles: Value| identity(&listed, json!({"realm_access": {"roles": roles}})).map(|i| i.role);
        assert_eq!(role(json!(["offline_access", "admin"])).unwrap(), Role::Admin);
        assert_eq!(role(json!(["Admin", "administrator", "tenant-admin"])).unwrap(), Role::User);
        assert_eq!(role(json!([])).unwrap(), Role::User);
        assert_eq!(role(json!("admin")).unwrap(), Role::Admin);
        for bad in
            [json!("root"), json!(null), json!(1), json!({"admin": true}), json!(["admin", 1]), json!([["admin"]])]
        {
            assert!(role(bad.clone()).is_err(), "{bad}");
        }
        assert!(!accepts(&config(), json!({"role": ["admin"]})));
    }

    #[test]
    fn ids_that_are_no_uuids_become_some_under_the_issuer() {
        let of = |issuer: &str| AuthConfig { issuer: Some(issuer.into()), ids: Ids::of_issuer(issuer), ..config() };
        let scope = |issuer: &str, tenant: &str, user: &str| {
            identity(&of(issuer), json!({"iss": issuer, "tenant_id": tenant, "user_id": user})).map(|i| i.scope)
        };
        let id = |issuer: &str, id: &str| {
            Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_URL, issuer.as_bytes()), id.as_bytes())
        };
        let found = scope("https://a.example/", "org_1", "auth0|5f7c8ec7").unwrap();
        assert_eq!(found.tenant_id.0, id("https://a.example/", "org_1"));
        assert_eq!(found.user_id.0, id("https://a.example/", "auth0|5f7c8ec7"));
        assert_ne!(found, scope("https://b.example/", "org_1", "auth0|5f7c8ec7").unwrap());
        assert_ne!(found, scope("https://a.example/", "org_1", "Auth0|5f7c8ec7").unwrap());
        // UUIDs stay what they are, but for those that another id may have become.
        assert_eq!(scope("https://a.example/", TENANT, USER).unwrap().user_id.to_string(), USER);
        assert!(scope("https://a.example/", TENANT, &found.user_id.to_string()).is_err());
        for bad in ["", "  "] {
            assert!(scope("https://a.example/", TENANT, bad).is_err(), "{bad:?}");
        }
        let numbered = json!({"iss": "https://a.example/", "user_id": 7});
        assert!(!accepts(&of("https://a.example/"), numbered));
        // The issuer is part of every id, so a token must have it.
        assert!(!accepts(&of("https://a.example/"), json!({"tenant_id": "org_1"})));
    }

    #[test]
    fn the_key_of_before_is_accepted_beside_the_current_one() {
        let previous = "the key of before, of 32 bytes ...";
        let authenticator = Authenticator::new(&config(), Keys::fixed(KeySet::of_secrets([KEY, previous])));
        let identify = |key: &str| {
            let authorization = format!("Bearer {}", token(Algorithm::HS256, key, &claims(json!({}))));
            authenticator.identify(&request(&[("authorization", &authorization)])).now_or_never().unwrap()
        };
        assert!(identify(KEY).is_ok() && identify(previous).is_ok());
        assert!(identify("a key that is neither of the two ...").is_err());
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
