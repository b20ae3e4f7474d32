//! What API Gateway delivers: an event that is JSON becomes a request, whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::event::Event;
use shared::{Request, call};

fuzz_target!(|data: &[u8]| {
    let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
    let request = Request::from(event);
    assert!(request.headers.0.iter().all(|(name, _)| !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    // A body that claims to be base64 is decoded or kept as it came: neither makes it longer.
    assert!(request.body.len() <= data.len());
    let _ = call::account_id(&request);
    for refusal in [call::body(&request).err(), list_accounts::Input::read(&request.query).err()].into_iter().flatten()
    {
        assert!(refusal.status().0.is_client_error(), "{refusal:?}");
    }
});
