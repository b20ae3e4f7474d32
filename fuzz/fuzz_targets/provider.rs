//! What a provider answers who is asked for tokens: a token that can be sent on, or words that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::read_token_answer;

fuzz_target!(|data: &[u8]| read_token_answer(data));
