//! Works off the queue of the outbox: each message is an account that may have something to send.

use mailbox::outbox::Files;
use mailbox::tokens::Way;
use shared::work::mail::MailJob;
use shared::work::{Done, WorkError};

/// Sends what an account has to send, until nothing is due or it is time to make room for others.
///
/// # Errors
/// PostgreSQL or a key fails. What a mail host does wrong is the message's state.
pub async fn handler(job: MailJob<Way>, files: Files) -> Result<Done, WorkError> {
    mailbox::outbox::run(&job, &files).await
}
