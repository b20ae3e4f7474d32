//! `GET /api/accounts?limit=100&offset=0&state=`: the caller's enabled accounts, newest first.

use serde::Serialize;
use shared::account::Account;
use shared::account::state::State;
use shared::error::Fault;
use shared::http::StatusCode;
use shared::validation::{parameter, whole_number};
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
    /// Only accounts in this state.
    pub state: Option<State>,
}

impl Input {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(query: &[(String, String)]) -> Result<Self, Error> {
        let limit = whole_number(query, "limit", DEFAULT_LIMIT, 1..=MAX_LIMIT);
        let offset = whole_number(query, "offset", 0, 0..=i64::MAX);
        let state = parameter(query, "state");
        match (limit, offset, state) {
            (Ok(limit), Ok(offset), Ok(state)) => Ok(Self { limit, offset, state }),
            (limit, offset, state) => {
                let faults = [limit.err(), offset.err(), state.err()];
                Err(Error::Invalid(faults.into_iter().flatten().collect::<Vec<Fault>>()))
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
/// [`Error::Invalid`] for a bad `limit`, `offset` or `state`.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, offset, state } = Input::read(&call.request.query)?;
    let page = call.db.list_accounts(&call.identity.scope, limit, offset, state).await?;
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
        assert_eq!(Input::read(&[]).unwrap(), Input { limit: 100, offset: 0, state: None });
        assert_eq!(
            Input::read(&query(&[("offset", "7"), ("limit", "1"), ("other", "x"), ("state", "NEW")])).unwrap(),
            Input { limit: 1, offset: 7, state: Some(State::New) }
        );
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let Err(Error::Invalid(faults)) = Input::read(&query(&[("limit", "0"), ("offset", "-1"), ("state", "paused")]))
        else {
            panic!()
        };
        assert_eq!(faults.iter().map(|f| &*f.field).collect::<Vec<_>>(), ["limit", "offset", "state"]);
    }
}
