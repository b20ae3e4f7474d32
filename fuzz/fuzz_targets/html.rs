//! HTML, of which what is left does nothing, however often it is written anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::clean_html;

fuzz_target!(|data: &[u8]| {
    clean_html(&String::from_utf8_lossy(data));
});
