//! Waiting for several things at once.

use futures_util::future::join_all;
use tokio::sync::Semaphore;

/// Awaits all of these, `most` at a time, begun in their order, and returns what comes of them in it.
///
/// A `FuturesUnordered` would do, but polls one that is alone, as most are, twice whenever it goes on, and has the runtime ask the system
/// for news in between. Here each is polled whenever one of them goes on: this is for a few.
pub async fn join_at_most<F: Future>(most: usize, all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let room = Semaphore::new(most);
    join_all(all.into_iter().map(async |one| {
        // Nobody closes it.
        let _place = room.acquire().await;
        one.await
    }))
    .await
}
