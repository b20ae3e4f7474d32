//! What API Gateway and SQS deliver: an event that is JSON becomes a request, or messages of which each is a doorbell or
//! fails alone, whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::doorbell::Doorbell;
use shared::event::Event;
use shared::work::Batch;
use shared::{Request, call};

fuzz_target!(|data: &[u8]| {
    // A message's body is JSON in JSON, which few inputs have by chance: each input is such a body as well.
    check(Doorbell::parse(&String::from_utf8_lossy(data)));
    if let Ok(batch) = serde_json::from_slice::<Batch>(data) {
        batch.read().for_each(|(doorbell, ..)| check(doorbell));
    }
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

/// Whoever is rung for again is the same.
fn check(doorbell: Option<Doorbell>) {
    if let Some(doorbell) = doorbell {
        assert_eq!(Doorbell::parse(&doorbell.body()), Some(doorbell));
    }
}
