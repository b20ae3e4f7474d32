//! `GET /api/accounts?limit=100&offset=0`: the caller's enabled accounts, newest first.

use serde::Serialize;
use shared::account::Account;
use shared::error::Fault;
use shared::http::StatusCode;
use shared::validation::whole_number;
use shared::{Call, Error, Reply};

/// The accounts of a page that asks for no number.
pub const DEFAULT_LIMIT: i64 = 100;
/// The most accounts of a page.
pub const MAX_LIMIT: i64 = 1000;

/// Which page of the list is asked for.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// The most accounts on a page, 1 to 1000.
    pub limit: i64,
    /// How many accounts come before the page.
    pub offset: i64,
}

impl Input {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both faults.
    pub fn read(query: &[(String, String)]) -> Result<Self, Error> {
        let limit = whole_number(query, "limit", DEFAULT_LIMIT, 1..=MAX_LIMIT);
        let offset = whole_number(query, "offset", 0, 0..=i64::MAX);
        match (limit, offset) {
            (Ok(limit), Ok(offset)) => Ok(Self { limit, offset }),
            (limit, offset) => {
                Err(Error::Invalid([limit.err(), offset.err()].into_iter().flatten().collect::<Vec<Fault>>()))
            }
        }
    }
}

/// One page.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = AccountList))]
pub struct Output {
    /// Newest first.
    accounts: Vec<Account>,
    /// Where this page stands.
    pagination: Pagination,
}

/// Where a page stands among all accounts.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// All enabled accounts of the caller.
    total: i64,
    /// As asked.
    limit: i64,
    /// As asked.
    offset: i64,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] for a bad `limit` or `offset`.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, offset } = Input::read(&call.request.query)?;
    let page = call.db.list_accounts(&call.identity.scope, limit, offset).await?;
    let pagination = Pagination { total: page.total, limit, offset };
    Reply::json(StatusCode::OK, &Output { accounts: page.accounts, pagination })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn limit_and_offset_have_defaults() {
        assert_eq!(Input::read(&[]).unwrap(), Input { limit: 100, offset: 0 });
        assert_eq!(
            Input::read(&query(&[("offset", "7"), ("limit", "1"), ("other", "x")])).unwrap(),
            Input { limit: 1, offset: 7 }
        );
    }

    #[test]
    fn both_faults_are_reported_at_once() {
        let Err(Error::Invalid(faults)) = Input::read(&query(&[("limit", "0"), ("offset", "-1")])) else { panic!() };
        assert_eq!(faults.iter().map(|f| f.field).collect::<Vec<_>>(), ["limit", "offset"]);
    }
}
