//! How the allocator treats what is freed.

use std::hint::black_box;

/// What the largest blocks have that one request or job uses again and again: the batches of a synchronisation.
const USUAL_BYTES: usize = 1 << 20;

/// Keeps what a request has freed for the next one. Otherwise the GNU C library gives it back to the system as soon as 128 KB
/// are free at the end of the heap, and asks for it again, page by page, with the next request. It raises that bar to
/// twice the size of the largest block that it has mapped on its own and freed (mallopt(3), M_MMAP_THRESHOLD): this is
/// one, of which no page is touched.
pub(crate) fn keep_freed() {
    drop(black_box(Vec::<u8>::with_capacity(USUAL_BYTES)));
}
