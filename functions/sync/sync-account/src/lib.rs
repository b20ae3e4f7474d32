//! Works off the queue of synchronisation: each message is an account that may have something to do.

use mail::connect::Connector;
use shared::work::mail::MailJob;
use shared::work::{Done, WorkError};

/// Works on one account, until there is nothing left to do or it is time to make room for others.
///
/// # Errors
/// PostgreSQL or a key fails. What a mail host does wrong is the account's state.
pub async fn handler(job: MailJob<Connector>) -> Result<Done, WorkError> {
    mailbox::sync::run(&job).await
}
