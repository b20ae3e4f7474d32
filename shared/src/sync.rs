//! How the synchronisation of an account stands.

use serde::Serialize;

use crate::account::LastError;
use crate::account::state::State;

/// What an account's synchronisation does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = SyncStatus))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing.
    Idle,
    /// It is about to begin or to go on.
    Queued,
    /// It runs.
    Syncing,
}

/// An account's synchronisation, as clients see it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Sync))]
#[serde(rename_all = "camelCase")]
pub struct Synchronisation {
    /// What it does.
    pub status: Status,
    /// How the account stands with its server.
    pub state: State,
    /// What went wrong last; none once a try went well.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub last_error: Option<LastError>,
    /// When all was last as on the server, in milliseconds since the Unix epoch; none until then.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub last_sync_at: Option<i64>,
    /// When the next one is due, in milliseconds since the Unix epoch; none while none is.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_sync_at: Option<i64>,
    /// How far it is; none when idle.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub progress: Option<Progress>,
}

/// How far a synchronisation is. What is there is what the server has told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = SyncProgress))]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Folders that are as on the server.
    pub folders_done: i64,
    /// Folders that there are.
    pub folders_total: i64,
    /// Messages that have come.
    pub messages_done: i64,
    /// Messages that there are.
    pub messages_total: i64,
}
