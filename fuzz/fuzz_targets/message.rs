//! A message, of which a list shows what can be stored and is not long. The first line that is a dot alone ends the
//! header, so that the body need not be what follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::testing::read_message;

fuzz_target!(|data: &[u8]| {
    let end = data.windows(3).position(|window| window == b"\n.\n");
    match end {
        Some(end) => read_message(&data[..end], Some(&data[end + 3..])),
        None => read_message(data, None),
    };
});
