//! What a server says of folders and messages: what can be stored and shown, within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::read_imap_bytes;

fuzz_target!(|data: &[u8]| read_imap_bytes(data));
