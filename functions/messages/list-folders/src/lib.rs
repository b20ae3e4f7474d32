//! `GET /api/accounts/{id}/folders`: the folders of a mailbox, in the order of their paths.

use serde::Serialize;
use shared::folder::{Folder, arrange};
use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// All of them.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = FolderList))]
pub struct Output {
    /// In the order of their paths.
    folders: Vec<Folder>,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let listed = call.db.list_folders(&scope, id).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &Output { folders: arrange(id, listed) })
}
