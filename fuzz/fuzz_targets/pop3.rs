//! All that a server says from its greeting on: an outcome within bounds, and nothing secret in its words. And what it
//! says of messages, once somebody has signed in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::login::Protocol;
use mail::testing::{read_pop3_bytes, sign_in_to_bytes};

fuzz_target!(|data: &[u8]| {
    sign_in_to_bytes(Protocol::Pop3, data);
    read_pop3_bytes(data);
});
