//! A whole message, of which a reader sees what is bounded and does nothing, and whose attachments lie where it is said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::open_message;

fuzz_target!(|data: &[u8]| {
    open_message(data);
});
