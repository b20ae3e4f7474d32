//! What a server says while it is handed a message: answers that can be shown, and nothing sent that it had not asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::submit_to_bytes;

fuzz_target!(|data: &[u8]| submit_to_bytes(data));
